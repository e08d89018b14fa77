/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef TRIO_URING_BATCH_H
#define TRIO_URING_BATCH_H
#include "core.h"

struct tu_cqe;

/* The user_data of a batch's operations: this bit, the batch's number, the place in the batch. */
#define TU_BATCH_BIT (1ULL << 63)

/* Writes down one result; the batch, if it was the last, and its number is free again. */
struct tu_batch *tu_batch_end_one(struct tu_ring *ring, const struct tu_cqe *cqe);

#endif
