/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The interface of the C core. cffi reads this file too, without its # lines: declarations only.
 *
 * Every function returns a negative errno on failure. Three of them mean something of our own, because
 * io_uring never returns them: -ESHUTDOWN, the ring is closed; -EDEADLK, another thread is inside it;
 * -EREMOTE, it belongs to another thread.
 */

#ifndef TRIO_URING_CORE_H
#define TRIO_URING_CORE_H
#include <stddef.h>
#include <stdint.h>

struct tu_sq_offsets {
    uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array, resv1;
    uint64_t user_addr;
};

struct tu_cq_offsets {
    uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags, resv1;
    uint64_t user_addr;
};

struct tu_params {
    uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd;
    uint32_t resv[3];
    struct tu_sq_offsets sq_off;
    struct tu_cq_offsets cq_off;
};

/* The ledger counts the SQEs in flight for each user_data: see ledger.c. */
struct tu_ledger_entry {
    uint64_t user_data;
    uint32_t count;     /* 0: a free place */
    uint32_t silent;    /* of them, those that post no CQE when they succeed */
};

struct tu_ledger {
    struct tu_ledger_entry *entries;    /* NULL: this ring keeps no ledger */
    uint32_t mask, live;
    uint64_t *retired;    /* user_data whose last SQE ended in the CQEs copied last */
    uint32_t retired_count, retired_max;
    uint64_t in_flight;
    uint64_t silent;    /* how many of these may end without a CQE */
};

/* Many operations with one awaited end: see batch.c. A result that is TU_PENDING is still to come. */
enum { TU_PENDING = -2147483647 };
struct tu_batch {
    uint32_t count, left;   /* operations, and those whose CQE is to come */
    uint32_t failed;        /* results below 0 */
    uint32_t number;        /* in its ring */
    uint64_t user_data;     /* of the CQE that stands for all; its res is -1 if one failed */
    int32_t *results;
};

struct tu_ring {
    int32_t fd;          /* -1: closed */
    int32_t enter_fd;    /* the index it was registered under */
    uint32_t register_flags;
    uint32_t busy;
    uintptr_t owner;        /* the only thread that may use it; 0: any, one at a time */
    uintptr_t enter_owner;  /* the thread whose index enter_fd is */
    uint32_t setup_flags, features;
    uint32_t sq_entries, cq_entries, sqe_bytes, cqe_bytes;
    uint64_t awaited;      /* user_data of the SQE of tu_run_one */
    uint32_t cleared;      /* SQEs up to here were consumed and are NOPs again */
    uint32_t flushed;      /* SQEs up to this tail were handed to the kernel */
    uint32_t submitted;    /* how many SQEs the last enter took */
    uint32_t entered;      /* io_uring_enter calls, wrapping */
    uint32_t *sq_head, *sq_tail, *sq_flags, *sq_dropped, *sq_array;
    uint32_t *cq_head, *cq_tail, *cq_overflow, *cq_flags;
    uint8_t *cqes, *sqes;
    void *ring_map;
    void *sqes_map;        /* unmapped by whoever has references to it: tu_setup's caller */
    size_t ring_map_bytes, sqes_map_bytes;
    struct tu_ledger ledger;
    struct tu_batch **batches;    /* by number; NULL: a free one */
    uint32_t batches_size;
    uint32_t batched;             /* operations of batches that have not ended */
    uint32_t stepwise;            /* batches of which Python wants to know when one of them ends */
    /* A silent SQE with this bit in its user_data is one operation with the one linked behind it, whose
     * user_data is the same without: of the two one CQE comes. 0: there are none. */
    uint64_t half_bit;
};

enum tu_counter {
    TU_SQ_HEAD, TU_SQ_TAIL, TU_SQ_FLAGS, TU_SQ_DROPPED,
    TU_CQ_HEAD, TU_CQ_TAIL, TU_CQ_FLAGS, TU_CQ_OVERFLOWED
};

/* Sets up a ring and maps it. `with_ledger` 0: the caller accounts for operations itself. The caller
 * unmaps sqes_map, when nothing refers to it any more; the same after tu_remap. */
int tu_setup(struct tu_ring *ring, uint32_t entries, struct tu_params *params, int with_ledger);

/* From now on the ring serves the calling thread only (IORING_SETUP_SINGLE_ISSUER). */
void tu_claim(struct tu_ring *ring);

/* The calling thread enters by the index that it registered the fd under; -1: by the fd again. */
void tu_enter_by_index(struct tu_ring *ring, int32_t index);

/* The thread that gets 0 has the ring for itself until tu_close or tu_end_exclusive. */
int tu_begin_exclusive(struct tu_ring *ring);
void tu_end_exclusive(struct tu_ring *ring);

/* Unmaps and closes; needs tu_begin_exclusive, but not the owner. Never waits for operations. */
void tu_close(struct tu_ring *ring);

/* In a forked child: closes the inherited fd. The mappings are not there (MADV_DONTFORK). */
void tu_abandon(struct tu_ring *ring);

/* Acquire load of one of the shared counters; 0 to 2**32-1, or a negative errno. */
int64_t tu_counter(struct tu_ring *ring, int which);

/* Makes the SQEs before `tail` visible to the kernel. Returns all that it has not consumed. */
int64_t tu_flush(struct tu_ring *ring, uint32_t tail);

/* Raw io_uring_enter(2). timeout_ns < 0: none. */
int tu_enter(struct tu_ring *ring, uint32_t to_submit, uint32_t min_complete, uint32_t flags,
             int64_t timeout_ns);

/* Flush, then enter if that is needed to submit or to wait. Returns the number submitted. */
int64_t tu_submit(struct tu_ring *ring, uint32_t tail, uint32_t wait_nr);

/* Copies CQEs that are there, enters for more only if there are none. Returns the number copied. */
int tu_copy_cqes(struct tu_ring *ring, void *out, uint32_t max, uint32_t wait_nr, int64_t timeout_ns);

/* Submit, wait and copy with at most one system call. Returns the number copied; ring.submitted. */
int tu_submit_and_copy(struct tu_ring *ring, uint32_t tail, uint32_t wait_nr, int64_t timeout_ns,
                       void *out, uint32_t max);

/* Submits the SQE at `position` alone, waits for its CQE and consumes it. Nothing else may be in
 * flight. Returns the CQE's res; else TU_RES_MIN plus a negative errno: -EINTR, tu_run_on waits on;
 * -EINVAL, it is not the next SQE, or has not exactly one CQE; -EBUSY, there are other CQEs. */
int64_t tu_run_one(struct tu_ring *ring, uint64_t position);
int64_t tu_run_on(struct tu_ring *ring);
enum { TU_RES_MIN = -4096 };

/* Gives the batch a number, for the functions below; 0 or -ENOMEM. It must stay where it is until its
 * CQE was copied. The caller has made sure of room for the SQEs, and moves the tail. */
int tu_batch_begin(struct tu_ring *ring, struct tu_batch *batch);
/* tu_batch_begin, and SQEs with the next offset and the next `nbytes` of memory each; `place`: of that
 * memory among the registered buffers. -EINVAL: an offset is negative; nothing was done. */
int tu_batch_transfers(struct tu_ring *ring, uint32_t tail, struct tu_batch *batch, uint8_t opcode,
                       uint8_t flags, int fd, uint64_t memory, uint32_t nbytes, uint16_t place,
                       const uint64_t *offsets);
/* tu_batch_begin, and four SQEs for each of `paths`, which follow each other in memory: open into its
 * slot, read `nbytes` to the next part of memory, read on to `rest`, close. */
int tu_batch_files(struct tu_ring *ring, uint32_t tail, struct tu_batch *batch, int dir_fd,
                   const char *paths, const uint32_t *slots, uint32_t flags, uint64_t memory,
                   uint32_t nbytes, uint64_t rest, uint32_t rest_nbytes);
/* Its SQEs will not be submitted: the number is free again. */
void tu_batch_abandon(struct tu_ring *ring, struct tu_batch *batch);

/* Submits without waiting, and consumes the CQE for user_data if it is the only one there and has no
 * flags: its res. Else TU_RES_MIN: it has not ended, or there are CQEs to copy, or nothing was done. */
int64_t tu_try_one(struct tu_ring *ring, uint32_t tail, uint64_t user_data);

/* Copies CQEs without consuming them, and consumes them without copying. */
int tu_peek_cqes(struct tu_ring *ring, void *out, uint32_t max);
int tu_advance(struct tu_ring *ring, uint32_t count);

int tu_register(struct tu_ring *ring, uint32_t opcode, void *arg, uint32_t nr_args);
/* io_uring_register(2) calls that need no ring have fd -1. */
int tu_register_fd(int fd, uint32_t opcode, void *arg, uint32_t nr_args);

/* After IORING_REGISTER_RESIZE_RINGS: maps the new rings in place of the old ones. */
int tu_remap(struct tu_ring *ring, struct tu_params *params);

/* Muting of a registered eventfd (IORING_CQ_EVENTFD_DISABLED). */
int tu_set_eventfd_muted(struct tu_ring *ring, int muted);

/* One more completion to come for user_data: the tag of a registered resource. */
int tu_expect(struct tu_ring *ring, uint64_t user_data);

/* Provided buffer ring: shows `count` more entries to the kernel, with a release store. */
void tu_buf_ring_advance(void *buf_ring, uint16_t count);
/* For a ring in which each buffer has the entry of its id, of `nbytes` each, following each other from
 * `base`: writes and shows the entries from the tail on as far as `returned`, a flag by id, is set,
 * and takes these flags away. How many. */
uint32_t tu_buf_ring_give_in_order(void *buf_ring, uint32_t mask, uint8_t *returned, uint64_t base,
                                   uint32_t nbytes);
/* Maps the memory that the kernel brought for one (IOU_PBUF_RING_MMAP); NULL if that fails. */
void *tu_map_buf_ring(struct tu_ring *ring, size_t bytes, uint16_t group_id);

void *tu_map_anonymous(size_t bytes);
void tu_unmap(void *memory, size_t bytes);

#endif
