/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What the C core needs of the io_uring ABI, written down here so that a machine with old kernel
 * headers builds a core for the newest kernel. Opcodes and flags that only Python names are in
 * trio_uring/_abi.py. Layouts and values: io_uring_setup(2), io_uring_enter(2).
 */
#ifndef TRIO_URING_ABI_H
#define TRIO_URING_ABI_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

/* The same numbers on every architecture since they entered the kernel in 5.1. */
#define TU_NR_SETUP 425
#define TU_NR_ENTER 426
#define TU_NR_REGISTER 427

#define TU_OFF_SQ_RING 0ULL
#define TU_OFF_CQ_RING 0x8000000ULL
#define TU_OFF_SQES 0x10000000ULL
#define TU_OFF_PBUF_RING 0x80000000ULL
#define TU_OFF_PBUF_SHIFT 16

#define TU_SETUP_SQPOLL (1U << 1)
#define TU_SETUP_CQE32 (1U << 11)
#define TU_SETUP_SQE128 (1U << 10)
#define TU_SETUP_DEFER_TASKRUN (1U << 13)
#define TU_SETUP_NO_MMAP (1U << 14)
#define TU_SETUP_REGISTERED_FD_ONLY (1U << 15)
#define TU_SETUP_NO_SQARRAY (1U << 16)
#define TU_SETUP_CQE_MIXED (1U << 18)
#define TU_SETUP_SQE_MIXED (1U << 19)

#define TU_FEAT_SINGLE_MMAP (1U << 0)
#define TU_FEAT_EXT_ARG (1U << 8)
#define TU_FEAT_MIN_TIMEOUT (1U << 15)

#define TU_ENTER_GETEVENTS (1U << 0)
#define TU_ENTER_SQ_WAKEUP (1U << 1)
#define TU_ENTER_EXT_ARG (1U << 3)
#define TU_ENTER_REGISTERED_RING (1U << 4)

#define TU_SQ_NEED_WAKEUP (1U << 0)
#define TU_SQ_CQ_OVERFLOW (1U << 1)
#define TU_SQ_TASKRUN (1U << 2)

#define TU_OP_NOP128 63
#define TU_OP_URING_CMD128 64

#define TU_SQE_IO_LINK (1U << 2)
#define TU_SQE_IO_HARDLINK (1U << 3)
#define TU_SQE_CQE_SKIP_SUCCESS (1U << 6)

#define TU_CQE_F_MORE (1U << 1)
#define TU_CQE_F_SKIP (1U << 5)
#define TU_CQE_F_32 (1U << 15)

#define TU_UNREGISTER_RING_FDS 21
#define TU_REGISTER_USE_REGISTERED_RING (1U << 31)

struct tu_sqe {
    uint8_t opcode;
    uint8_t flags;
    uint16_t ioprio;
    int32_t fd;
    uint64_t off;
    uint64_t addr;
    uint32_t len;
    uint32_t op_flags;
    uint64_t user_data;
    uint16_t buf_index;
    uint16_t personality;
    uint32_t file_index;
    uint64_t addr3;
    uint64_t pad;
};

struct tu_cqe {
    uint64_t user_data;
    int32_t res;
    uint32_t flags;
};

struct tu_timespec {
    int64_t sec;
    int64_t nsec;
};

struct tu_getevents_arg {
    uint64_t sigmask;
    uint32_t sigmask_size;
    uint32_t min_wait_usec;
    uint64_t timespec;
};

static_assert(sizeof(struct tu_sqe) == 64, "an SQE is 64 bytes");
static_assert(offsetof(struct tu_sqe, user_data) == 32, "user_data is at byte 32 of an SQE");
static_assert(offsetof(struct tu_sqe, addr3) == 48, "addr3 is at byte 48 of an SQE");
static_assert(sizeof(struct tu_cqe) == 16, "a CQE is 16 bytes");
static_assert(sizeof(struct tu_getevents_arg) == 24, "io_uring_getevents_arg is 24 bytes");
static_assert(TU_OFF_SQ_RING == 0 && TU_OFF_CQ_RING == 0x8000000 && TU_OFF_SQES == 0x10000000,
              "the offsets of io_uring_setup(2)");

#endif
