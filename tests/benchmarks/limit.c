/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * limit nop DEPTH | read FILE DEPTH | direct FILE DEPTH | open DIRECTORY DEPTH | echo | short
 *
 * The first four do as many operations as each line of the standard input says, and answer each
 * line with a line of JSON. The last two are servers and print their port.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "limit.h"

#define BLOCK 4096
#define SMALL_FILE 16384
#define DEPTH_MAX 128

static struct ring ring;
static char *buffers;
static uint32_t file_blocks, files, random_state = 1;

static uint32_t next_random(uint32_t below) {
    random_state = random_state * 1664525 + 1013904223;
    return (uint32_t)(((uint64_t)random_state * below) >> 32);
}

static void wrong(const char *what, const struct tu_cqe *cqe) {
    fprintf(stderr, "%s %llu: %d\n", what, (unsigned long long)cqe->user_data, cqe->res);
    exit(1);
}

static void take(uint32_t count, int32_t expected, const char *what) {
    ring_enter(&ring, count);
    for (uint32_t i = 0; i < count; i++) {
        const struct tu_cqe *cqe = ring_cqe(&ring, i);
        if (cqe->res != expected)
            wrong(what, cqe);
    }
    ring_advance(&ring, count);
}

static void nops(uint32_t depth) {
    for (uint32_t i = 0; i < depth; i++)
        ring_sqe(&ring, OP_NOP, -1, i);
    take(depth, 0, "nop");
}

static void reads(uint32_t depth) {
    for (uint32_t i = 0; i < depth; i++) {
        struct tu_sqe *sqe = ring_sqe(&ring, OP_READ_FIXED, 0, i);
        sqe->flags = FIXED_FILE;
        sqe->addr = (uintptr_t)(buffers + i * SMALL_FILE);
        sqe->len = BLOCK;
        sqe->off = (uint64_t)next_random(file_blocks) * BLOCK;
    }
    take(depth, BLOCK, "read");
}

/* open, read and close as one chain for each file; LINK ends it at a failed open, and HARDLINK lets
 * the close come also after a short read. */
static void opens(uint32_t depth) {
    static char paths[DEPTH_MAX][16];
    for (uint32_t i = 0; i < depth; i++) {
        snprintf(paths[i], sizeof paths[i], "%04u", next_random(files));
        struct tu_sqe *sqe = ring_sqe(&ring, OP_OPENAT, AT_FDCWD, 3 * i);
        sqe->flags = TU_SQE_IO_LINK;
        sqe->addr = (uintptr_t)paths[i];
        sqe->op_flags = O_RDONLY;
        sqe->file_index = i + 1;
        sqe = ring_sqe(&ring, OP_READ_FIXED, (int)i, 3 * i + 1);
        sqe->flags = FIXED_FILE | TU_SQE_IO_HARDLINK;
        sqe->addr = (uintptr_t)(buffers + i * SMALL_FILE);
        sqe->len = SMALL_FILE;
        sqe = ring_sqe(&ring, OP_CLOSE, 0, 3 * i + 2);
        sqe->file_index = i + 1;
    }
    ring_enter(&ring, 3 * depth);
    for (uint32_t i = 0; i < 3 * depth; i++) {
        const struct tu_cqe *cqe = ring_cqe(&ring, i);
        if (cqe->res != (cqe->user_data % 3 == 1 ? SMALL_FILE : 0))
            wrong("open, read, close", cqe);
    }
    ring_advance(&ring, 3 * depth);
}

static void register_buffers(void) {
    buffers = mmap(NULL, DEPTH_MAX * SMALL_FILE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    struct iovec all = {buffers, DEPTH_MAX * SMALL_FILE};
    if (buffers == MAP_FAILED || ring_register(&ring, REGISTER_BUFFERS, &all, 1) < 0)
        fail("registering buffers");
}

static void register_file(const char *path, int flags) {
    int fd = open(path, O_RDONLY | flags);
    struct stat status;
    if (fd < 0 || fstat(fd, &status) < 0)
        fail(path);
    file_blocks = (uint32_t)(status.st_size / BLOCK);
    if (ring_register(&ring, REGISTER_FILES, &fd, 1) < 0)
        fail("IORING_REGISTER_FILES");
}

static void count_files(const char *directory) {
    char path[16];
    if (chdir(directory) < 0)
        fail(directory);
    do
        snprintf(path, sizeof path, "%04u", files++);
    while (access(path, R_OK) == 0);
    files--;
    ring_sparse_files(&ring, DEPTH_MAX);
}

static void answer_windows(void (*batch)(uint32_t), uint32_t depth) {
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        uint64_t batches = (strtoull(line, NULL, 10) + depth - 1) / depth;
        uint64_t wall = now_ns(CLOCK_MONOTONIC), delay = delay_ns(getpid());
        uint64_t cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID);
        for (uint64_t i = 0; i < batches; i++)
            batch(depth);
        cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
        delay = delay_ns(getpid()) - delay;
        wall = now_ns(CLOCK_MONOTONIC) - wall;
        printf("{\"operations\": %llu, \"cpu_ns\": %llu, \"wall_ns\": %llu, \"delay_ns\": %llu}\n",
               (unsigned long long)(batches * depth), (unsigned long long)cpu,
               (unsigned long long)wall, (unsigned long long)delay);
        fflush(stdout);
    }
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    ring_open(&ring, 512, 4096);
    if (!strcmp(what, "echo") || !strcmp(what, "short")) {
        serve(&ring, what[0] == 's');
        return 0;
    }
    if (!strcmp(what, "stream")) {
        serve_streams(&ring);
        return 0;
    }
    uint32_t depth = argc > 2 ? (uint32_t)atoi(argv[argc - 1]) : 0;
    if (depth < 1 || depth > DEPTH_MAX) {
        fprintf(stderr, "a depth from 1 to %d\n", DEPTH_MAX);
        return 2;
    }
    register_buffers();
    if (!strcmp(what, "nop")) {
        answer_windows(nops, depth);
    } else if (!strcmp(what, "read") || !strcmp(what, "direct")) {
        register_file(argv[2], what[0] == 'd' ? O_DIRECT : 0);
        answer_windows(reads, depth);
    } else if (!strcmp(what, "open")) {
        count_files(argv[2]);
        answer_windows(opens, depth);
    }
    return 0;
}
