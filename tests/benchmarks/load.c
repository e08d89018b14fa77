/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * load echo|short|stream|idle PORT CONNECTIONS SECONDS SERVER_PID
 *
 * The clients of a server on 127.0.0.1. echo: each connection sends 64 bytes and waits for them.
 * short: connect, send 64 bytes, receive them, wait until the server closes. stream: one connection
 * that sends as much as it can, and at its end is told how much came. idle: as many connections as
 * it says, each of which was used once. Prints a line of JSON about the server: what it did in a
 * window of that many seconds (after a tenth of it to warm up), or how much it grew.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "limit.h"

#define MESSAGE 64
#define CONNECTIONS_MAX 65536
#define PATIENCE_MS 10000
#define BLOCK (1 << 18)

struct snapshot {
    uint64_t wall, cpu, delay, own_cpu, own_delay, requests;
};

static int received[CONNECTIONS_MAX]; /* of the current message, by descriptor */
static char message[MESSAGE];
static struct sockaddr_in server;
static int epoll_fd, server_pid;

static struct snapshot snapshot(uint64_t requests) {
    /* clock_getcpuclockid(3): the CPU-time clock of a process. */
    clockid_t server_clock = (clockid_t)(~(unsigned)server_pid << 3 | 2);
    return (struct snapshot){now_ns(CLOCK_MONOTONIC), now_ns(server_clock), delay_ns(server_pid),
                             now_ns(CLOCK_PROCESS_CPUTIME_ID), delay_ns(getpid()), requests};
}

static void report(const struct snapshot *start, const struct snapshot *end) {
    printf("{\"operations\": %llu, \"wall_ns\": %llu, \"cpu_ns\": %llu, \"delay_ns\": %llu, "
           "\"load_cpu_ns\": %llu, \"load_delay_ns\": %llu}\n",
           (unsigned long long)(end->requests - start->requests),
           (unsigned long long)(end->wall - start->wall),
           (unsigned long long)(end->cpu - start->cpu), (unsigned long long)(end->delay - start->delay),
           (unsigned long long)(end->own_cpu - start->own_cpu),
           (unsigned long long)(end->own_delay - start->own_delay));
}

static void send_message(int fd) {
    if (send(fd, message, MESSAGE, MSG_NOSIGNAL) != MESSAGE)
        fail("send");
}

static int open_connection(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (fd < 0 || fd >= CONNECTIONS_MAX)
        fail("socket");
    if (connect(fd, (struct sockaddr *)&server, sizeof server) < 0)
        fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    received[fd] = 0;
    return fd;
}

static void start_connection(void) {
    int fd = open_connection();
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
        fail("epoll_ctl");
    send_message(fd);
}

/* Whether a message, or a short connection, is complete. */
static int take(int fd, int is_short) {
    char buffer[2 * MESSAGE];
    ssize_t count = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (count < 0 && errno == EAGAIN)
        return 0;
    if (count < 0)
        fail("recv");
    received[fd] += (int)count;
    if (is_short ? count > 0 : received[fd] < MESSAGE) {
        if (count == 0) {
            fprintf(stderr, "the server closed a connection\n");
            exit(1);
        }
        return 0;
    }
    if (received[fd] != MESSAGE) {
        fprintf(stderr, "%d bytes came back\n", received[fd]);
        exit(1);
    }
    return 1;
}

static void drive(int connections, double seconds, int is_short) {
    enum { WARMING_UP, MEASURING, STOPPING } phase = WARMING_UP;
    struct epoll_event events[256];
    uint64_t requests = 0, end_ns;
    struct snapshot start = {0}, end = {0};
    for (int i = 0; i < connections; i++)
        start_connection();
    end_ns = now_ns(CLOCK_MONOTONIC) + (uint64_t)(seconds * 1e8);
    while (connections) {
        int count = epoll_wait(epoll_fd, events, 256, PATIENCE_MS);
        if (count <= 0)
            fail("epoll_wait: the server does not answer");
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (!take(fd, is_short))
                continue;
            requests++;
            received[fd] = 0;
            if (phase == STOPPING || is_short)
                close(fd);
            if (phase == STOPPING)
                connections--; /* with nothing unread, so that the server sees an orderly end */
            else if (is_short)
                start_connection();
            else
                send_message(fd);
        }
        if (phase == STOPPING || now_ns(CLOCK_MONOTONIC) < end_ns)
            continue;
        if (phase == WARMING_UP) {
            phase = MEASURING;
            start = snapshot(requests);
            end_ns = start.wall + (uint64_t)(seconds * 1e9);
        } else {
            phase = STOPPING;
            end = snapshot(requests);
        }
    }
    report(&start, &end);
}

/* What comes back is how many bytes the server has seen, in 8 bytes. */
static void check_total(int fd, uint64_t sent) {
    uint64_t total = 0;
    if (shutdown(fd, SHUT_WR) < 0 || recv(fd, &total, sizeof total, MSG_WAITALL) != sizeof total)
        fail("the total");
    if (le64toh(total) != sent) {
        fprintf(stderr, "of %llu bytes %llu came\n", (unsigned long long)sent,
                (unsigned long long)le64toh(total));
        exit(1);
    }
}

/* An operation is a MiB. */
static void stream(double seconds) {
    static char block[BLOCK];
    int fd = open_connection(), measuring = 0;
    uint64_t sent = 0, end_ns = now_ns(CLOCK_MONOTONIC) + (uint64_t)(seconds * 1e8);
    struct snapshot start = {0}, end;
    for (;;) {
        ssize_t count = send(fd, block, sizeof block, MSG_NOSIGNAL);
        if (count < 0)
            fail("send");
        sent += (uint64_t)count;
        if (now_ns(CLOCK_MONOTONIC) < end_ns)
            continue;
        end = snapshot(sent >> 20);
        if (measuring)
            break;
        measuring = 1;
        start = end;
        end_ns = start.wall + (uint64_t)(seconds * 1e9);
    }
    check_total(fd, sent);
    close(fd);
    report(&start, &end);
}

static uint64_t resident_bytes(void) {
    char path[64];
    unsigned long long total, resident = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", server_pid);
    FILE *file = fopen(path, "r");
    if (!file || fscanf(file, "%llu %llu", &total, &resident) != 2)
        fail(path);
    fclose(file);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void use_once(void) {
    int fd = open_connection();
    char buffer[MESSAGE];
    send_message(fd);
    if (recv(fd, buffer, MESSAGE, MSG_WAITALL) != MESSAGE)
        fail("recv");
}

static void hold(int connections) {
    use_once();
    uint64_t before = resident_bytes();
    for (int i = 0; i < connections; i++)
        use_once();
    printf("{\"operations\": %d, \"bytes\": %lld}\n", connections,
           (long long)(resident_bytes() - before));
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "load echo|short|stream|idle PORT CONNECTIONS SECONDS SERVER_PID\n");
        return 2;
    }
    server.sin_family = AF_INET;
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    server.sin_port = htons((uint16_t)atoi(argv[2]));
    server_pid = atoi(argv[5]);
    epoll_fd = epoll_create1(0);
    if (!strcmp(argv[1], "idle"))
        hold(atoi(argv[3]));
    else if (!strcmp(argv[1], "stream"))
        stream(atof(argv[4]));
    else
        drive(atoi(argv[3]), atof(argv[4]), argv[1][0] == 's');
    return 0;
}
