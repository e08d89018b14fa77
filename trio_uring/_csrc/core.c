/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * One ring on raw system calls. No Python objects, no callbacks.
 *
 * Memory order, as in the io_uring manual pages: the SQ tail is published with release (the kernel
 * must see complete SQEs) and the SQ head read with acquire (the kernel must have finished reading a
 * slot before it is rewritten); the CQ tail is read with acquire and the CQ head published with
 * release. All counters are free-running u32: differences are taken modulo 2**32, never compared
 * with < or >.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "abi.h"
#include "batch.h"
#include "core.h"
#include "ledger.h"

static_assert(sizeof(struct tu_params) == 120, "io_uring_params is 120 bytes");

#define load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)

static int last_errno(long rc)
{
    return rc < 0 ? -errno : (int)rc;
}

/* -- one thread at a time, and never after close ----------------------------------------------- */

/* Its address names the calling thread, for less than a system call. A later thread may get the
 * address of one that has ended; the kernel refuses that one with EEXIST. */
static __thread char this_thread;

void tu_claim(struct tu_ring *ring)
{
    ring->owner = (uintptr_t)&this_thread;
}

int tu_begin_exclusive(struct tu_ring *ring)
{
    if (__atomic_exchange_n(&ring->busy, 1, __ATOMIC_ACQUIRE))
        return -EDEADLK;
    if (ring->fd < 0) {
        store_release(&ring->busy, 0);
        return -ESHUTDOWN;
    }
    return 0;
}

void tu_end_exclusive(struct tu_ring *ring)
{
    store_release(&ring->busy, 0);
}

static int begin(struct tu_ring *ring)
{
    int rc = tu_begin_exclusive(ring);
    if (!rc && ring->owner && ring->owner != (uintptr_t)&this_thread) {
        tu_end_exclusive(ring);
        return -EREMOTE;
    }
    return rc;
}

#define EXCLUSIVE(ring, type, expression)              \
    do {                                               \
        int refused_ = begin(ring);                    \
        if (refused_)                                  \
            return refused_;                           \
        type result_ = (expression);                   \
        tu_end_exclusive(ring);                        \
        return result_;                                \
    } while (0)

/* -- memory ------------------------------------------------------------------------------------ */

void *tu_map_anonymous(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

void tu_unmap(void *memory, size_t bytes)
{
    if (memory)
        munmap(memory, bytes);
}

static uint32_t sqe_bytes(uint32_t flags)
{
    return flags & TU_SETUP_SQE128 ? 128 : 64;
}

static uint32_t cqe_bytes(uint32_t flags)
{
    return flags & TU_SETUP_CQE32 ? 32 : 16;
}

static size_t ring_bytes(const struct tu_params *p)
{
    size_t cq = p->cq_off.cqes + (size_t)p->cq_entries * cqe_bytes(p->flags);
    if (p->flags & TU_SETUP_NO_SQARRAY)
        return cq;
    size_t sq = p->sq_off.array + (size_t)p->sq_entries * sizeof(uint32_t);
    return sq > cq ? sq : cq;
}

/* A child must not see the rings: it could take the parent's CQEs, and its copy of the mapping would
 * keep every file in the table open after the parent has closed the ring. */
static int map_kernel_rings(struct tu_ring *ring, const struct tu_params *p)
{
    int prot = PROT_READ | PROT_WRITE, how = MAP_SHARED | MAP_POPULATE;
    ring->ring_map_bytes = ring_bytes(p);
    ring->sqes_map_bytes = (size_t)p->sq_entries * sqe_bytes(p->flags);
    void *rings = mmap(NULL, ring->ring_map_bytes, prot, how, ring->fd, TU_OFF_SQ_RING);
    if (rings == MAP_FAILED)
        return -errno;
    ring->ring_map = rings;
    void *sqes = mmap(NULL, ring->sqes_map_bytes, prot, how, ring->fd, TU_OFF_SQES);
    if (sqes == MAP_FAILED)
        return -errno;
    ring->sqes_map = sqes;
    if (madvise(rings, ring->ring_map_bytes, MADV_DONTFORK) ||
        madvise(sqes, ring->sqes_map_bytes, MADV_DONTFORK))
        return -errno;
    return 0;
}

/* IORING_SETUP_NO_MMAP: the kernel is told of our memory before it says how much it wants; its
 * header is below one page. */
static int map_own_rings(struct tu_ring *ring, uint32_t entries, struct tu_params *p)
{
    size_t cq_entries = 2 * (size_t)entries;
    while (cq_entries < p->cq_entries) /* the kernel rounds up */
        cq_entries *= 2;
    ring->ring_map_bytes = 4096 + cq_entries * cqe_bytes(p->flags) + entries * sizeof(uint32_t);
    ring->sqes_map_bytes = (size_t)entries * sqe_bytes(p->flags);
    ring->ring_map = tu_map_anonymous(ring->ring_map_bytes);
    ring->sqes_map = tu_map_anonymous(ring->sqes_map_bytes);
    if (!ring->ring_map || !ring->sqes_map)
        return -ENOMEM;
    if (madvise(ring->ring_map, ring->ring_map_bytes, MADV_DONTFORK) ||
        madvise(ring->sqes_map, ring->sqes_map_bytes, MADV_DONTFORK))
        return -errno;
    p->cq_off.user_addr = (uint64_t)(uintptr_t)ring->ring_map;
    p->sq_off.user_addr = (uint64_t)(uintptr_t)ring->sqes_map;
    return 0;
}

static int attach(struct tu_ring *ring, const struct tu_params *p)
{
    uint8_t *base = ring->ring_map;
    ring->sq_head = (uint32_t *)(base + p->sq_off.head);
    ring->sq_tail = (uint32_t *)(base + p->sq_off.tail);
    ring->sq_flags = (uint32_t *)(base + p->sq_off.flags);
    ring->sq_dropped = (uint32_t *)(base + p->sq_off.dropped);
    ring->cq_head = (uint32_t *)(base + p->cq_off.head);
    ring->cq_tail = (uint32_t *)(base + p->cq_off.tail);
    ring->cq_overflow = (uint32_t *)(base + p->cq_off.overflow);
    ring->cq_flags = (uint32_t *)(base + p->cq_off.flags);
    ring->cqes = base + p->cq_off.cqes;
    ring->sqes = ring->sqes_map;
    ring->sq_entries = p->sq_entries;
    ring->cq_entries = p->cq_entries;
    ring->sqe_bytes = sqe_bytes(p->flags);
    ring->cqe_bytes = cqe_bytes(p->flags);
    uint32_t sq_size = *(uint32_t *)(base + p->sq_off.ring_entries);
    uint32_t cq_size = *(uint32_t *)(base + p->cq_off.ring_entries);
    if (!p->sq_entries || p->cq_entries < p->sq_entries || sq_size != p->sq_entries ||
        cq_size != p->cq_entries)
        return -EPROTO;
    ring->sq_array = NULL;
    if (!(p->flags & TU_SETUP_NO_SQARRAY)) {
        if (!p->sq_off.array) /* a resize does not say where it is */
            return -EPROTO;
        /* SQEs are used in order: the indirection stays the identity for ever. */
        ring->sq_array = (uint32_t *)(base + p->sq_off.array);
        for (uint32_t i = 0; i < p->sq_entries; i++)
            ring->sq_array[i] = i;
    }
    return 0;
}

static void release(struct tu_ring *ring)
{
    tu_unmap(ring->ring_map, ring->ring_map_bytes);
    if (ring->register_flags) {
        struct { uint32_t offset, resv; uint64_t data; } update = {(uint32_t)ring->fd, 0, 0};
        syscall(TU_NR_REGISTER, ring->fd, TU_UNREGISTER_RING_FDS | ring->register_flags, &update, 1);
    } else if (ring->fd >= 0) {
        close(ring->fd);
    }
    tu_ledger_close(&ring->ledger);
    free(ring->batches);
    ring->batches = NULL;
    ring->batches_size = 0;
    ring->ring_map = ring->sqes_map = NULL;
    ring->register_flags = 0;
    ring->fd = -1;
}

/* -- set-up and close -------------------------------------------------------------------------- */

static int set_up(struct tu_ring *ring, uint32_t entries, struct tu_params *p, int with_ledger)
{
    if (p->flags & TU_SETUP_NO_MMAP) {
        int rc = map_own_rings(ring, entries, p);
        if (rc)
            return rc;
    }
    int fd = last_errno(syscall(TU_NR_SETUP, entries, p));
    if (fd < 0)
        return fd;
    ring->fd = fd;
    ring->setup_flags = p->flags;
    ring->features = p->features;
    if (p->flags & TU_SETUP_REGISTERED_FD_ONLY) {
        ring->register_flags = TU_REGISTER_USE_REGISTERED_RING;
        tu_claim(ring); /* the same index is another ring, or none, in another thread */
        tu_enter_by_index(ring, fd);
    }
    if (!(p->features & TU_FEAT_SINGLE_MMAP))
        return -EPROTONOSUPPORT;
    int rc = p->flags & TU_SETUP_NO_MMAP ? 0 : map_kernel_rings(ring, p);
    if (!rc)
        rc = attach(ring, p);
    if (!rc && with_ledger)
        rc = tu_ledger_open(&ring->ledger, p->cq_entries);
    return rc;
}

int tu_setup(struct tu_ring *ring, uint32_t entries, struct tu_params *params, int with_ledger)
{
    *ring = (struct tu_ring){.fd = -1};
    int rc = set_up(ring, entries, params, with_ledger);
    if (rc < 0) {
        tu_unmap(ring->sqes_map, ring->sqes_map_bytes);
        release(ring);
    }
    return rc;
}

void tu_close(struct tu_ring *ring)
{
    release(ring);
    tu_end_exclusive(ring);
}

void tu_abandon(struct tu_ring *ring)
{
    ring->sqes_map = ring->ring_map = NULL;
    if (ring->register_flags) /* the index is the parent's */
        ring->fd = -1;
    ring->register_flags = 0;
    release(ring);
    tu_end_exclusive(ring);
}

int tu_remap(struct tu_ring *ring, struct tu_params *params)
{
    int rc = begin(ring);
    if (rc)
        return rc;
    struct tu_ring old = *ring;
    ring->ring_map = ring->sqes_map = NULL;
    rc = map_kernel_rings(ring, params);
    if (!rc)
        rc = attach(ring, params);
    tu_unmap(old.ring_map, old.ring_map_bytes);
    if (rc) { /* the kernel has dropped the old rings already: this one is dead */
        tu_unmap(ring->sqes_map, ring->sqes_map_bytes);
        release(ring);
    }
    tu_end_exclusive(ring);
    return rc;
}

/* -- counters ---------------------------------------------------------------------------------- */

static int64_t counter(struct tu_ring *ring, int which)
{
    switch (which) {
    case TU_SQ_HEAD: return load_acquire(ring->sq_head);
    case TU_SQ_TAIL: return load_acquire(ring->sq_tail);
    case TU_SQ_FLAGS: return load_acquire(ring->sq_flags);
    case TU_SQ_DROPPED: return load_acquire(ring->sq_dropped);
    case TU_CQ_HEAD: return load_acquire(ring->cq_head);
    case TU_CQ_TAIL: return load_acquire(ring->cq_tail);
    case TU_CQ_FLAGS: return load_acquire(ring->cq_flags);
    case TU_CQ_OVERFLOWED: return load_acquire(ring->cq_overflow);
    default: return -EINVAL;
    }
}

int64_t tu_counter(struct tu_ring *ring, int which)
{
    EXCLUSIVE(ring, int64_t, counter(ring, which));
}

static int set_eventfd_muted(struct tu_ring *ring, int muted)
{
    uint32_t flags = load_acquire(ring->cq_flags);
    store_release(ring->cq_flags, muted ? flags | 1 : flags & ~1U);
    return 0;
}

int tu_set_eventfd_muted(struct tu_ring *ring, int muted)
{
    EXCLUSIVE(ring, int, set_eventfd_muted(ring, muted));
}

static int expect(struct tu_ring *ring, uint64_t user_data)
{
    if (!ring->ledger.entries)
        return 0;
    int rc = tu_ledger_reserve(&ring->ledger, 1);
    if (!rc)
        tu_ledger_add(&ring->ledger, user_data, 0);
    return rc;
}

int tu_expect(struct tu_ring *ring, uint64_t user_data)
{
    EXCLUSIVE(ring, int, expect(ring, user_data));
}

/* -- submission -------------------------------------------------------------------------------- */

static struct tu_sqe *sqe_at(const struct tu_ring *ring, uint32_t at)
{
    size_t index = at & (ring->sq_entries - 1);
    return (struct tu_sqe *)(ring->sqes + index * ring->sqe_bytes);
}

/* An SQE of 128 bytes in a queue of both sizes: it has the next place too, if the kernel takes it. */
static int takes_two(const struct tu_ring *ring, const struct tu_sqe *sqe, uint32_t at, uint32_t tail)
{
    return ring->setup_flags & TU_SETUP_SQE_MIXED &&
           (sqe->opcode == TU_OP_NOP128 || sqe->opcode == TU_OP_URING_CMD128) && at + 1 != tail &&
           (at + 1) & (ring->sq_entries - 1);
}

static int enter_in_ledger(struct tu_ring *ring, uint32_t tail)
{
    int rc = tu_ledger_reserve(&ring->ledger, tail - ring->flushed);
    if (rc)
        return rc;
    int chained = 0; /* to an SQE that may end silently: if that fails, so may this one */
    for (uint32_t at = ring->flushed; at != tail; at++) {
        const struct tu_sqe *sqe = sqe_at(ring, at);
        if (sqe->user_data & ring->half_bit)
            continue;
        int silent = chained || (sqe->flags & TU_SQE_CQE_SKIP_SUCCESS);
        tu_ledger_add(&ring->ledger, sqe->user_data, silent);
        chained = silent && (sqe->flags & (TU_SQE_IO_LINK | TU_SQE_IO_HARDLINK));
        at += (uint32_t)takes_two(ring, sqe, at, tail);
    }
    return 0;
}

static int64_t flush(struct tu_ring *ring, uint32_t tail)
{
    uint32_t more = tail - ring->flushed;
    if (more > ring->sq_entries)
        return -EINVAL;
    if (more) {
        int rc = ring->ledger.entries ? enter_in_ledger(ring, tail) : 0;
        if (rc)
            return rc;
        ring->flushed = tail;
        store_release(ring->sq_tail, tail);
    }
    return (uint32_t)(tail - load_acquire(ring->sq_head));
}

int64_t tu_flush(struct tu_ring *ring, uint32_t tail)
{
    EXCLUSIVE(ring, int64_t, flush(ring, tail));
}

static uint32_t cq_ready(struct tu_ring *ring)
{
    return load_acquire(ring->cq_tail) - *ring->cq_head;
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void tu_enter_by_index(struct tu_ring *ring, int32_t index)
{
    ring->enter_fd = index;
    ring->enter_owner = index < 0 ? 0 : (uintptr_t)&this_thread;
}

static int enter_syscall(struct tu_ring *ring, uint32_t to_submit, uint32_t min_complete,
                         uint32_t flags, void *arg, size_t arg_bytes)
{
    int fd = ring->fd;
    if (ring->enter_owner == (uintptr_t)&this_thread) {
        fd = ring->enter_fd;
        flags |= TU_ENTER_REGISTERED_RING;
    }
    ring->entered++;
    return last_errno(syscall(TU_NR_ENTER, fd, to_submit, min_complete, flags, arg, arg_bytes));
}

/* Kernels before 5.11 have no timeout in io_uring_enter: submit, then poll the ring fd. */
static int enter_by_poll(struct tu_ring *ring, uint32_t to_submit, uint32_t min_complete,
                         uint32_t flags, int64_t timeout_ns)
{
    int rc = enter_syscall(ring, to_submit, 0, flags, NULL, 0);
    if (rc < 0)
        return rc;
    int64_t deadline = now_ns() + timeout_ns;
    while (cq_ready(ring) < min_complete) {
        int64_t left = deadline - now_ns();
        if (left <= 0)
            return rc ? rc : -ETIME;
        struct timespec ts = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
        struct pollfd pollfd = {.fd = ring->fd, .events = POLLIN};
        if (ppoll(&pollfd, 1, &ts, NULL) < 0)
            return rc ? rc : -errno;
        if (cq_ready(ring) && min_complete > 1) /* readable, yet fewer than asked: do not spin */
            return rc;
    }
    return rc;
}

/* What the kernel has read becomes a NOP: an entry that is handed out again and not filled must not
 * repeat an old operation, on memory that may be gone. With SQPOLL the kernel reads at any time, and
 * Python may have written here again. */
static void clear_consumed(struct tu_ring *ring)
{
    if (ring->setup_flags & TU_SETUP_SQPOLL)
        return;
    uint32_t head = load_acquire(ring->sq_head);
    for (; ring->cleared != head; ring->cleared++)
        memset(sqe_at(ring, ring->cleared), 0, ring->sqe_bytes);
}

static int enter_and_wait(struct tu_ring *ring, uint32_t to_submit, uint32_t min_complete,
                          uint32_t flags, int64_t timeout_ns, int64_t gather_ns)
{
    if (timeout_ns < 0)
        return enter_syscall(ring, to_submit, min_complete, flags, NULL, 0);
    if (!(ring->features & TU_FEAT_EXT_ARG))
        return enter_by_poll(ring, to_submit, min_complete, flags, timeout_ns);
    struct tu_timespec ts = {.sec = timeout_ns / 1000000000, .nsec = timeout_ns % 1000000000};
    struct tu_getevents_arg arg = {.timespec = (uint64_t)(uintptr_t)&ts,
                                   .min_wait_usec = (uint32_t)(gather_ns / 1000)};
    return enter_syscall(ring, to_submit, min_complete, flags | TU_ENTER_EXT_ARG, &arg, sizeof(arg));
}

static int enter(struct tu_ring *ring, uint32_t to_submit, uint32_t min_complete, uint32_t flags,
                 int64_t timeout_ns)
{
    int rc = enter_and_wait(ring, to_submit, min_complete, flags, timeout_ns, 0);
    clear_consumed(ring);
    return rc;
}

int tu_enter(struct tu_ring *ring, uint32_t to_submit, uint32_t min_complete, uint32_t flags,
             int64_t timeout_ns)
{
    EXCLUSIVE(ring, int, enter(ring, to_submit, min_complete, flags, timeout_ns));
}

/* With SQPOLL the kernel thread takes SQEs by itself, unless it says that it sleeps. The full fence
 * orders our store of the tail before our load of its flag, as it orders the reverse. */
static uint32_t sq_wakeup(struct tu_ring *ring)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return load_acquire(ring->sq_flags) & TU_SQ_NEED_WAKEUP ? TU_ENTER_SQ_WAKEUP : 0;
}

static int64_t submit(struct tu_ring *ring, uint32_t tail, uint32_t wait_nr, int64_t timeout_ns,
                      uint32_t flags)
{
    int64_t pending = flush(ring, tail);
    if (pending < 0)
        return pending;
    ring->submitted = 0;
    int sqpoll = (ring->setup_flags & TU_SETUP_SQPOLL) != 0;
    if (sqpoll && pending)
        flags |= sq_wakeup(ring);
    /* IOPOLL (bit 0): completions are found only by asking for them */
    if (wait_nr || ((ring->setup_flags & 1) && pending))
        flags |= TU_ENTER_GETEVENTS;
    if (sqpoll ? !flags : !pending && !flags) {
        ring->submitted = (uint32_t)pending;
        return pending;
    }
    int rc = enter(ring, (uint32_t)pending, wait_nr, flags, flags & TU_ENTER_GETEVENTS ? timeout_ns : -1);
    if (rc >= 0)
        ring->submitted = sqpoll ? (uint32_t)pending : (uint32_t)rc;
    return rc < 0 ? rc : (int64_t)ring->submitted;
}

int64_t tu_submit(struct tu_ring *ring, uint32_t tail, uint32_t wait_nr)
{
    EXCLUSIVE(ring, int64_t, submit(ring, tail, wait_nr, -1, 0));
}

/* How long a batch may keep other completions waiting. */
#define GATHER_NS 100000

/* -- completion -------------------------------------------------------------------------------- */

/* CQEs are copied out first and the head is moved once: a slot may be rewritten from then on. With
 * big CQEs every record of `out` is 32 bytes; those of 16 are padded with zeroes. */
static int consume(struct tu_ring *ring, uint8_t *out, uint32_t max, int keep)
{
    uint32_t head = *ring->cq_head, tail = load_acquire(ring->cq_tail), mask = ring->cq_entries - 1;
    int mixed = (ring->setup_flags & TU_SETUP_CQE_MIXED) != 0;
    size_t record = mixed ? 32 : ring->cqe_bytes;
    struct tu_ledger *ledger = keep || !ring->ledger.entries ? NULL : &ring->ledger;
    uint32_t count = 0;
    if (ledger) {
        ledger->retired_count = 0;
        if (max > ledger->retired_max)
            max = ledger->retired_max;
    }
    for (; head != tail && count < max; head++) {
        const uint8_t *at = ring->cqes + (size_t)(head & mask) * ring->cqe_bytes;
        const struct tu_cqe *cqe = (const struct tu_cqe *)at;
        if (mixed && cqe->flags & TU_CQE_F_SKIP)
            continue;
        int wide = mixed && cqe->flags & TU_CQE_F_32;
        struct tu_cqe of_batch;
        struct tu_batch *batch = ring->batches && !keep ? tu_batch_of(ring, cqe) : NULL;
        if (batch) {
            if (ledger)
                tu_ledger_end(ledger, cqe->user_data);
            if (!tu_batch_end_one(ring, batch, cqe))
                continue;
            of_batch = (struct tu_cqe){.user_data = batch->user_data, .res = batch->failed ? -1 : 0};
            at = (const uint8_t *)&of_batch;
            cqe = NULL;
        }
        if (out) {
            memcpy(out, at, wide ? 32 : ring->cqe_bytes);
            if (mixed && !wide)
                memset(out + 16, 0, 16);
            out += record;
        }
        if (cqe && ledger && !(cqe->flags & TU_CQE_F_MORE))
            tu_ledger_end(ledger, cqe->user_data & ~ring->half_bit);
        /* Linux 6.18 may publish an old CQE after big ones have overflowed: never pass the tail. */
        head += wide && head + 1 != tail;
        count++;
    }
    if (!keep)
        store_release(ring->cq_head, head);
    return (int)count;
}

/* Work that waits for us to enter: CQEs that did not fit, and with DEFER_TASKRUN everything that did
 * not complete while it was submitted. Without TASKRUN_FLAG (bit 9) the kernel does not say so. */
static int needs_enter(struct tu_ring *ring)
{
    uint32_t flags = load_acquire(ring->sq_flags);
    if (flags & (TU_SQ_CQ_OVERFLOW | TU_SQ_TASKRUN))
        return 1;
    return (ring->setup_flags & (TU_SETUP_DEFER_TASKRUN | 1U << 9)) == TU_SETUP_DEFER_TASKRUN;
}

static int copy_cqes(struct tu_ring *ring, void *out, uint32_t max, uint32_t wait_nr, int64_t timeout_ns)
{
    int count = consume(ring, out, max, 0);
    if (count || !max || (!wait_nr && !needs_enter(ring) && !(ring->setup_flags & 1)))
        return count;
    int rc = enter(ring, 0, wait_nr, TU_ENTER_GETEVENTS, timeout_ns);
    count = consume(ring, out, max, 0);
    return count || rc >= 0 ? count : rc;
}

int tu_copy_cqes(struct tu_ring *ring, void *out, uint32_t max, uint32_t wait_nr, int64_t timeout_ns)
{
    EXCLUSIVE(ring, int, copy_cqes(ring, out, max, wait_nr, timeout_ns));
}

/* Nothing is in flight but batches, and the poll that every engine has. */
static int only_batches(const struct tu_ring *ring)
{
    return ring->batched > 1 && !ring->stepwise && ring->features & TU_FEAT_MIN_TIMEOUT &&
           ring->ledger.entries && ring->ledger.in_flight <= (uint64_t)ring->batched + 1;
}

/* Waits for as many of them as there are: each wake-up costs as much as a read. Whatever else comes is
 * seen GATHER_NS later at the most. */
static int gather(struct tu_ring *ring, int64_t timeout_ns, void *out, uint32_t max)
{
    int64_t deadline = now_ns() + timeout_ns, left = timeout_ns;
    for (;;) {
        int count = consume(ring, out, max, 0);
        if (count || left <= 0 || !only_batches(ring))
            return count;
        int64_t at_least = left < GATHER_NS ? left : GATHER_NS;
        int rc = enter_and_wait(ring, 0, ring->batched, TU_ENTER_GETEVENTS, left, at_least);
        if (rc < 0) {
            count = consume(ring, out, max, 0);
            return count ? count : rc;
        }
        left = deadline - now_ns();
    }
}

static int submit_and_copy(struct tu_ring *ring, uint32_t tail, uint32_t wait_nr, int64_t timeout_ns,
                           void *out, uint32_t max)
{
    /* CQEs that are there already count: waiting for more would delay them. */
    uint32_t ready = cq_ready(ring);
    wait_nr = ready >= wait_nr ? 0 : wait_nr;
    if (wait_nr == 1 && timeout_ns >= 0 && load_acquire(ring->sq_head) == tail && only_batches(ring))
        return gather(ring, timeout_ns, out, max);
    int64_t rc = submit(ring, tail, wait_nr, timeout_ns, needs_enter(ring) ? TU_ENTER_GETEVENTS : 0);
    int count = consume(ring, out, max, 0);
    return count || rc >= 0 ? count : (int)rc;
}

int tu_submit_and_copy(struct tu_ring *ring, uint32_t tail, uint32_t wait_nr, int64_t timeout_ns,
                       void *out, uint32_t max)
{
    EXCLUSIVE(ring, int, submit_and_copy(ring, tail, wait_nr, timeout_ns, out, max));
}

static int64_t run_on(struct tu_ring *ring)
{
    int64_t rc = submit(ring, ring->flushed, 1, -1, 0);
    if (rc < 0 || !cq_ready(ring))
        return TU_RES_MIN + (rc < 0 ? rc : -EINTR);
    size_t index = *ring->cq_head & (ring->cq_entries - 1);
    const struct tu_cqe *cqe = (const struct tu_cqe *)(ring->cqes + index * ring->cqe_bytes);
    if (cqe->user_data != ring->awaited || cqe->flags & TU_CQE_F_SKIP)
        return TU_RES_MIN - EBUSY;
    if (cqe->flags & TU_CQE_F_MORE)
        return TU_RES_MIN - EINVAL;
    int64_t res = cqe->res;
    consume(ring, NULL, 1, 0);
    return res;
}

static int64_t run_one(struct tu_ring *ring, uint32_t position)
{
    if (position != ring->flushed || sqe_at(ring, position)->flags & TU_SQE_CQE_SKIP_SUCCESS)
        return TU_RES_MIN - EINVAL;
    if (cq_ready(ring))
        return TU_RES_MIN - EBUSY;
    ring->awaited = sqe_at(ring, position)->user_data;
    int64_t rc = flush(ring, position + 1);
    return rc < 0 ? TU_RES_MIN + rc : run_on(ring);
}

int64_t tu_run_one(struct tu_ring *ring, uint64_t position)
{
    int refused = begin(ring);
    if (refused)
        return TU_RES_MIN + refused;
    int64_t res = run_one(ring, (uint32_t)position);
    tu_end_exclusive(ring);
    return res;
}

int64_t tu_run_on(struct tu_ring *ring)
{
    int refused = begin(ring);
    if (refused)
        return TU_RES_MIN + refused;
    int64_t res = run_on(ring);
    tu_end_exclusive(ring);
    return res;
}

static const struct tu_cqe *cqe_at(struct tu_ring *ring, uint32_t offset)
{
    size_t index = (*ring->cq_head + offset) & (ring->cq_entries - 1);
    return (const struct tu_cqe *)(ring->cqes + index * ring->cqe_bytes);
}

/* The one CQE that stands for a batch, if all of its operations have ended and there is no other. */
static int64_t try_batch(struct tu_ring *ring, const struct tu_batch *batch, uint64_t user_data)
{
    uint32_t ready = cq_ready(ring);
    if (batch->user_data != user_data || batch->left != ready)
        return TU_RES_MIN;
    for (uint32_t i = 1; i < ready; i++)
        if (tu_batch_of(ring, cqe_at(ring, i)) != batch)
            return TU_RES_MIN;
    struct tu_cqe cqe;
    return consume(ring, (uint8_t *)&cqe, 1, 0) == 1 ? cqe.res : TU_RES_MIN;
}

static int64_t try_one(struct tu_ring *ring, uint32_t tail, uint64_t user_data)
{
    if (cq_ready(ring))
        return TU_RES_MIN;
    int64_t rc = submit(ring, tail, 0, -1, needs_enter(ring) ? TU_ENTER_GETEVENTS : 0);
    /* What is linked goes on as deferred work: 20 pieces for each enter, or as many as are waited for. */
    if (rc >= 0 && needs_enter(ring))
        rc = enter(ring, 0, ring->batched, TU_ENTER_GETEVENTS, ring->batched ? 0 : -1);
    if (rc == -ETIME)
        rc = 0;
    if (rc < 0 || !cq_ready(ring))
        return TU_RES_MIN;
    const struct tu_cqe *cqe = cqe_at(ring, 0);
    const struct tu_batch *batch = ring->batches ? tu_batch_of(ring, cqe) : NULL;
    if (batch)
        return try_batch(ring, batch, user_data);
    if (cq_ready(ring) != 1 || cqe->user_data != user_data || cqe->flags)
        return TU_RES_MIN;
    int64_t res = cqe->res;
    consume(ring, NULL, 1, 0);
    return res;
}

int64_t tu_try_one(struct tu_ring *ring, uint32_t tail, uint64_t user_data)
{
    int refused = begin(ring);
    if (refused)
        return TU_RES_MIN;
    int64_t res = try_one(ring, tail, user_data);
    tu_end_exclusive(ring);
    return res;
}

int tu_peek_cqes(struct tu_ring *ring, void *out, uint32_t max)
{
    EXCLUSIVE(ring, int, consume(ring, out, max, 1));
}

int tu_advance(struct tu_ring *ring, uint32_t count)
{
    EXCLUSIVE(ring, int, consume(ring, NULL, count, 0));
}

/* -- registration ------------------------------------------------------------------------------ */

int tu_register_fd(int fd, uint32_t opcode, void *arg, uint32_t nr_args)
{
    return last_errno(syscall(TU_NR_REGISTER, fd, opcode, arg, nr_args));
}

int tu_register(struct tu_ring *ring, uint32_t opcode, void *arg, uint32_t nr_args)
{
    EXCLUSIVE(ring, int, tu_register_fd(ring->fd, opcode | ring->register_flags, arg, nr_args));
}

/* -- provided buffer rings: struct io_uring_buf_ring ------------------------------------------- */

struct buf {
    uint64_t addr;
    uint32_t len;
    uint16_t bid;
    uint16_t tail;    /* of entry 0 only: the ring's tail */
};

static_assert(sizeof(struct buf) == 16, "io_uring_buf is 16 bytes");

void tu_buf_ring_advance(void *buf_ring, uint16_t count)
{
    struct buf *bufs = buf_ring;
    store_release(&bufs[0].tail, (uint16_t)(bufs[0].tail + count));
}

uint32_t tu_buf_ring_give_in_order(void *buf_ring, uint32_t mask, uint8_t *returned, uint64_t base,
                                   uint32_t nbytes)
{
    struct buf *bufs = buf_ring;
    uint16_t tail = bufs[0].tail;
    uint32_t count = 0;
    for (; count <= mask; count++) {
        uint32_t id = (uint16_t)(tail + count) & mask;
        if (!returned[id])
            break;
        returned[id] = 0;
        bufs[id].addr = base + (uint64_t)id * nbytes;
        bufs[id].len = nbytes;
        bufs[id].bid = (uint16_t)id;
    }
    store_release(&bufs[0].tail, (uint16_t)(tail + count));
    return count;
}

static void *map_buf_ring(struct tu_ring *ring, size_t bytes, uint64_t group_id)
{
    if (ring->register_flags) /* mmap(2) needs a descriptor; this ring has an index only */
        return NULL;
    uint64_t offset = TU_OFF_PBUF_RING | group_id << TU_OFF_PBUF_SHIFT;
    int prot = PROT_READ | PROT_WRITE, how = MAP_SHARED | MAP_POPULATE;
    void *memory = mmap(NULL, bytes, prot, how, ring->fd, (off_t)offset);
    if (memory == MAP_FAILED)
        return NULL;
    if (madvise(memory, bytes, MADV_DONTFORK)) { /* as in map_kernel_rings */
        munmap(memory, bytes);
        return NULL;
    }
    return memory;
}

void *tu_map_buf_ring(struct tu_ring *ring, size_t bytes, uint16_t group_id)
{
    if (begin(ring))
        return NULL;
    void *memory = map_buf_ring(ring, bytes, group_id);
    tu_end_exclusive(ring);
    return memory;
}
