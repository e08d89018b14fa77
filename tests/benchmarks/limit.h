/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The limit: io_uring from C on raw system calls, with the flags that cost least. What the
 * benchmark divides everything else by. This header is the ring; limit.c and limit_net.c use it.
 */
#ifndef LIMIT_H
#define LIMIT_H

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "abi.h" /* trio_uring/_csrc */

enum {
    OP_NOP = 0,
    OP_READ_FIXED = 4,
    OP_ACCEPT = 13,
    OP_OPENAT = 18,
    OP_SEND = 26,
    OP_RECV = 27,
    OP_CLOSE = 19,
    FIXED_FILE = 1,
    SETUP_CQSIZE = 1 << 3,
    SETUP_SUBMIT_ALL = 1 << 7,
    SETUP_COOP_TASKRUN = 1 << 8,
    SETUP_SINGLE_ISSUER = 1 << 12,
    REGISTER_BUFFERS = 0,
    REGISTER_FILES = 2,
    REGISTER_FILES2 = 13,
    REGISTER_RING_FDS = 20,
    REGISTER_PBUF_RING = 22,
    FEATURE_RECVSEND_BUNDLE = 1 << 14,
};

struct sq_offsets {
    uint32_t head, tail, mask, entries, flags, dropped, array, resv;
    uint64_t address;
};

struct cq_offsets {
    uint32_t head, tail, mask, entries, overflow, cqes, flags, resv;
    uint64_t address;
};

struct setup {
    uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd, resv[3];
    struct sq_offsets sq;
    struct cq_offsets cq;
};

struct ring {
    struct tu_sqe *sqes;
    struct tu_cqe *cqes;
    _Atomic uint32_t *sq_tail, *cq_head, *cq_tail;
    uint32_t sq_mask, cq_mask, tail, submitted, head;
    int fd, enter_fd;
    unsigned enter_flags, features;
};

static inline void fail(const char *what) {
    perror(what);
    exit(1);
}

static inline int ring_register(struct ring *ring, unsigned code, void *argument, unsigned count) {
    return (int)syscall(TU_NR_REGISTER, ring->fd, code, argument, count);
}

/* Old kernels refuse flags with EINVAL: then with fewer. */
static inline void ring_open(struct ring *ring, unsigned sq_entries, unsigned cq_entries) {
    const unsigned best = SETUP_SUBMIT_ALL | SETUP_COOP_TASKRUN | SETUP_SINGLE_ISSUER |
                          TU_SETUP_DEFER_TASKRUN | TU_SETUP_NO_SQARRAY;
    const unsigned ladder[] = {best, best & ~TU_SETUP_NO_SQARRAY, SETUP_COOP_TASKRUN, 0};
    struct setup p;
    memset(ring, 0, sizeof *ring);
    ring->fd = -1;
    for (unsigned i = 0; i < 4 && ring->fd < 0; i++) {
        memset(&p, 0, sizeof p);
        p.flags = ladder[i] | SETUP_CQSIZE;
        p.cq_entries = cq_entries;
        ring->fd = (int)syscall(TU_NR_SETUP, sq_entries, &p);
        if (ring->fd < 0 && errno != EINVAL)
            break;
    }
    if (ring->fd < 0)
        fail("io_uring_setup");
    size_t bytes = p.cq.cqes + p.cq_entries * sizeof(struct tu_cqe);
    size_t sq_bytes = p.sq.array + p.sq_entries * sizeof(uint32_t);
    if (bytes < sq_bytes)
        bytes = sq_bytes;
    const int protection = PROT_READ | PROT_WRITE, kind = MAP_SHARED | MAP_POPULATE;
    char *queues = mmap(NULL, bytes, protection, kind, ring->fd, TU_OFF_SQ_RING);
    ring->sqes =
        mmap(NULL, p.sq_entries * sizeof(struct tu_sqe), protection, kind, ring->fd, TU_OFF_SQES);
    if (queues == MAP_FAILED || ring->sqes == MAP_FAILED)
        fail("mmap");
    if (!(p.flags & TU_SETUP_NO_SQARRAY))
        for (uint32_t i = 0; i < p.sq_entries; i++)
            ((uint32_t *)(queues + p.sq.array))[i] = i;
    ring->cqes = (struct tu_cqe *)(queues + p.cq.cqes);
    ring->sq_tail = (_Atomic uint32_t *)(queues + p.sq.tail);
    ring->cq_head = (_Atomic uint32_t *)(queues + p.cq.head);
    ring->cq_tail = (_Atomic uint32_t *)(queues + p.cq.tail);
    ring->features = p.features;
    ring->sq_mask = p.sq_entries - 1;
    ring->cq_mask = p.cq_entries - 1;
    struct {
        uint32_t offset, resv;
        uint64_t fd;
    } own = {0xFFFFFFFF, 0, (uint64_t)ring->fd};
    ring->enter_fd = ring->fd;
    ring->enter_flags = TU_ENTER_GETEVENTS;
    if (ring_register(ring, REGISTER_RING_FDS, &own, 1) == 1) {
        ring->enter_fd = (int)own.offset;
        ring->enter_flags |= TU_ENTER_REGISTERED_RING;
    }
}

static inline void ring_sparse_files(struct ring *ring, uint32_t count) {
    struct {
        uint32_t nr, flags;
        uint64_t resv, data, tags;
    } table = {count, 1, 0, 0, 0};
    if (ring_register(ring, REGISTER_FILES2, &table, sizeof table) < 0)
        fail("IORING_REGISTER_FILES2");
}

/* The caller never has more than sq_entries pending. */
static inline struct tu_sqe *ring_sqe(struct ring *ring, int opcode, int fd, uint64_t user_data) {
    struct tu_sqe *sqe = &ring->sqes[ring->tail++ & ring->sq_mask];
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = (uint8_t)opcode;
    sqe->fd = fd;
    sqe->user_data = user_data;
    return sqe;
}

static inline uint32_t ring_pending(struct ring *ring) { return ring->tail - ring->submitted; }

/* Submits what is prepared and waits until `count` completions are there; returns how many are. */
static inline uint32_t ring_enter(struct ring *ring, uint32_t count) {
    for (;;) {
        atomic_store_explicit(ring->sq_tail, ring->tail, memory_order_release);
        long done = syscall(TU_NR_ENTER, ring->enter_fd, ring_pending(ring), count,
                            ring->enter_flags, NULL, 0);
        if (done < 0 && errno != EINTR)
            fail("io_uring_enter");
        if (done > 0)
            ring->submitted += (uint32_t)done;
        uint32_t ready = atomic_load_explicit(ring->cq_tail, memory_order_acquire) - ring->head;
        if (ready >= count)
            return ready;
    }
}

static inline struct tu_cqe *ring_cqe(struct ring *ring, uint32_t number) {
    return &ring->cqes[(ring->head + number) & ring->cq_mask];
}

static inline void ring_advance(struct ring *ring, uint32_t count) {
    ring->head += count;
    atomic_store_explicit(ring->cq_head, ring->head, memory_order_release);
}

static inline uint64_t now_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

/* What the main thread of a process has waited for a CPU, see the kernel's sched-stats.rst. */
static inline uint64_t delay_ns(int pid) {
    char path[64];
    unsigned long long ran, waited = 0;
    snprintf(path, sizeof path, "/proc/%d/schedstat", pid);
    FILE *file = fopen(path, "r");
    if (file) {
        if (fscanf(file, "%llu %llu", &ran, &waited) != 2)
            waited = 0;
        fclose(file);
    }
    return waited;
}

void serve(struct ring *ring, int closes_after_reply);
void serve_streams(struct ring *ring);

#endif
