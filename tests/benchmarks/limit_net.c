/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The limit's servers. Each connection is a slot of the file table and has one operation in flight.
 * What streams is received by a multishot, into buffers that the kernel takes out of a ring.
 */
#include <netinet/in.h>
#include <sys/socket.h>

#include "limit.h"

#define SLOTS 4096
#define MESSAGE_MAX 4096
#define ANY_SLOT 0xFFFFFFFFU
#define ACCEPT_MULTISHOT 1
#define RECV_MULTISHOT (1 << 1)
#define RECV_BUNDLE (1 << 4)
#define BUFFER_SELECT (1 << 5)
#define BUFFERS 64
#define BUFFER_BYTES 65536

enum { ACCEPTED, RECEIVED, SENT, CLOSED };

static char (*data)[MESSAGE_MAX];

static struct tu_sqe *prepare(struct ring *ring, int opcode, uint32_t slot, int next) {
    if (ring_pending(ring) == ring->sq_mask + 1)
        ring_enter(ring, 0);
    struct tu_sqe *sqe = ring_sqe(ring, opcode, (int)slot, (uint64_t)slot << 8 | (unsigned)next);
    sqe->flags = FIXED_FILE;
    return sqe;
}

static void prepare_accept(struct ring *ring, int listener) {
    struct tu_sqe *sqe = prepare(ring, OP_ACCEPT, (uint32_t)listener, ACCEPTED);
    sqe->flags = 0;
    sqe->ioprio = ACCEPT_MULTISHOT;
    sqe->file_index = ANY_SLOT;
}

static void prepare_recv(struct ring *ring, uint32_t slot) {
    struct tu_sqe *sqe = prepare(ring, OP_RECV, slot, RECEIVED);
    sqe->addr = (uintptr_t)data[slot];
    sqe->len = MESSAGE_MAX;
}

static struct tu_sqe *prepare_send(struct ring *ring, uint32_t slot, uint32_t count) {
    struct tu_sqe *sqe = prepare(ring, OP_SEND, slot, SENT);
    sqe->addr = (uintptr_t)data[slot];
    sqe->len = count;
    sqe->op_flags = MSG_NOSIGNAL | MSG_WAITALL;
    return sqe;
}

static void prepare_close(struct ring *ring, uint32_t slot) {
    struct tu_sqe *sqe = prepare(ring, OP_CLOSE, 0, CLOSED);
    sqe->flags = 0;
    sqe->file_index = slot + 1;
}

static int listening_socket(void) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) < 0 || listen(fd, 1024) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &size) < 0)
        fail("listening");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

static void handle(struct ring *ring, const struct tu_cqe *cqe, int listener, int closes) {
    uint32_t slot = (uint32_t)(cqe->user_data >> 8);
    switch (cqe->user_data & 0xFF) {
    case ACCEPTED:
        if (!(cqe->flags & TU_CQE_F_MORE))
            prepare_accept(ring, listener);
        if (cqe->res >= 0)
            prepare_recv(ring, (uint32_t)cqe->res);
        return;
    case RECEIVED:
        if (cqe->res <= 0) {
            prepare_close(ring, slot);
        } else if (closes) {
            if (ring_pending(ring) + 2 > ring->sq_mask + 1)
                ring_enter(ring, 0); /* a chain must not be torn apart */
            struct tu_sqe *sqe = prepare_send(ring, slot, (uint32_t)cqe->res);
            sqe->flags |= TU_SQE_IO_HARDLINK | TU_SQE_CQE_SKIP_SUCCESS;
            prepare_close(ring, slot);
        } else {
            prepare_send(ring, slot, (uint32_t)cqe->res);
        }
        return;
    case SENT:
        if (cqe->res > 0)
            prepare_recv(ring, slot);
        else if (!closes)
            prepare_close(ring, slot);
        return;
    }
}

void serve(struct ring *ring, int closes_after_reply) {
    data = calloc(SLOTS, MESSAGE_MAX);
    if (!data)
        fail("calloc");
    ring_sparse_files(ring, SLOTS);
    int listener = listening_socket();
    prepare_accept(ring, listener);
    for (;;) {
        uint32_t ready = ring_enter(ring, 1);
        for (uint32_t i = 0; i < ready; i++)
            handle(ring, ring_cqe(ring, i), listener, closes_after_reply);
        ring_advance(ring, ready);
    }
}

/* -- streams: whoever sends is told at its end how many bytes came ------------------------------ */

struct buffer_ring {
    struct {
        uint64_t addr;
        uint32_t len;
        uint16_t bid, tail; /* of the first entry: the tail of the ring */
    } entries[BUFFERS];
};

static struct buffer_ring *buffers;
static uint64_t totals[SLOTS];
static uint16_t buffers_tail;

/* They are used in the order of the ring, which is always that of their numbers. */
static void give_buffers(uint32_t count) {
    for (buffers_tail += (uint16_t)count; count; count--)
        buffers->entries[(uint16_t)(buffers_tail - count) % BUFFERS].len = BUFFER_BYTES;
    __atomic_store_n(&buffers->entries[0].tail, buffers_tail, __ATOMIC_RELEASE);
}

static void register_buffer_ring(struct ring *ring) {
    const int protection = PROT_READ | PROT_WRITE, kind = MAP_PRIVATE | MAP_ANONYMOUS;
    char *memory = mmap(NULL, (size_t)BUFFERS * BUFFER_BYTES, protection, kind, -1, 0);
    buffers = mmap(NULL, sizeof *buffers, protection, kind, -1, 0);
    struct {
        uint64_t address;
        uint32_t entries;
        uint16_t group, flags;
        uint64_t resv[3];
    } arg = {(uintptr_t)buffers, BUFFERS, 0, 0, {0}};
    if (memory == MAP_FAILED || buffers == MAP_FAILED ||
        ring_register(ring, REGISTER_PBUF_RING, &arg, 1) < 0)
        fail("IORING_REGISTER_PBUF_RING");
    for (uint16_t i = 0; i < BUFFERS; i++) {
        buffers->entries[i].addr = (uintptr_t)(memory + (size_t)i * BUFFER_BYTES);
        buffers->entries[i].bid = i;
    }
    give_buffers(BUFFERS);
}

static void prepare_stream(struct ring *ring, uint32_t slot) {
    struct tu_sqe *sqe = prepare(ring, OP_RECV, slot, RECEIVED);
    sqe->flags |= BUFFER_SELECT;
    sqe->ioprio = RECV_MULTISHOT;
    if (ring->features & FEATURE_RECVSEND_BUNDLE)
        sqe->ioprio |= RECV_BUNDLE;
}

static void handle_stream(struct ring *ring, const struct tu_cqe *cqe, int listener) {
    uint32_t slot = (uint32_t)(cqe->user_data >> 8);
    switch (cqe->user_data & 0xFF) {
    case ACCEPTED:
        if (!(cqe->flags & TU_CQE_F_MORE))
            prepare_accept(ring, listener);
        if (cqe->res >= 0) {
            totals[cqe->res] = 0;
            prepare_stream(ring, (uint32_t)cqe->res);
        }
        return;
    case RECEIVED:
        if (cqe->res > 0) {
            totals[slot] += (uint32_t)cqe->res;
            give_buffers(((uint32_t)cqe->res + BUFFER_BYTES - 1) / BUFFER_BYTES);
        }
        if (cqe->flags & TU_CQE_F_MORE)
            return;
        if (cqe->res > 0 || cqe->res == -ENOBUFS) {
            prepare_stream(ring, slot);
        } else {
            struct tu_sqe *sqe = prepare(ring, OP_SEND, slot, SENT);
            sqe->addr = (uintptr_t)&totals[slot];
            sqe->len = sizeof totals[slot];
            sqe->op_flags = MSG_NOSIGNAL | MSG_WAITALL;
        }
        return;
    case SENT:
        prepare_close(ring, slot);
        return;
    }
}

void serve_streams(struct ring *ring) {
    ring_sparse_files(ring, SLOTS);
    register_buffer_ring(ring);
    int listener = listening_socket();
    prepare_accept(ring, listener);
    for (;;) {
        uint32_t ready = ring_enter(ring, 1);
        for (uint32_t i = 0; i < ready; i++)
            handle_stream(ring, ring_cqe(ring, i), listener);
        ring_advance(ring, ready);
    }
}
