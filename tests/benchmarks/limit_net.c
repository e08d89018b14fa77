/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The limit's servers. Each connection is a slot of the file table and has one operation in flight.
 */
#include <netinet/in.h>
#include <sys/socket.h>

#include "limit.h"

#define SLOTS 4096
#define MESSAGE_MAX 4096
#define ANY_SLOT 0xFFFFFFFFU
#define ACCEPT_MULTISHOT 1

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
