/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef TRIO_URING_BATCH_H
#define TRIO_URING_BATCH_H
#include "core.h"

struct tu_cqe;

/* The user_data of a batch's operations: this bit, the batch's number, the place in the batch. */
#define TU_BATCH_BIT (1ULL << 63)

/* The batch that a CQE belongs to; NULL: none. */
struct tu_batch *tu_batch_of(const struct tu_ring *ring, const struct tu_cqe *cqe);

/* Writes down one result of `batch`. 1 if it was the last: the number is free again. */
int tu_batch_end_one(struct tu_ring *ring, struct tu_batch *batch, const struct tu_cqe *cqe);

#endif
