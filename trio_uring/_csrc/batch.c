/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Batches: many operations with one awaited end.
 *
 * Their SQEs are written here and their CQEs end here: Python sees one completion, that of the last.
 * A batch has a number in its ring while any of its operations is in flight; the memory of the batch
 * is Python's, which keeps it until the end or, if the ring closes before that, for ever.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "abi.h"
#include "batch.h"

#define FIRST_PLACES 8
#define OP_READ 22
#define OP_OPENAT 18
#define OP_CLOSE 19
#define F_FIXED_FILE 1
#define F_LINK 4
#define F_HARDLINK 8

static struct tu_sqe *entry(struct tu_ring *ring, uint32_t position)
{
    size_t index = position & (ring->sq_entries - 1);
    return (struct tu_sqe *)(ring->sqes + index * ring->sqe_bytes);
}

static uint64_t name(uint32_t number, uint32_t place)
{
    return TU_BATCH_BIT | (uint64_t)number << 32 | place;
}

static int grow(struct tu_ring *ring)
{
    uint32_t size = ring->batches_size ? 2 * ring->batches_size : FIRST_PLACES;
    struct tu_batch **bigger = realloc(ring->batches, size * sizeof(*bigger));
    if (!bigger)
        return -ENOMEM;
    memset(bigger + ring->batches_size, 0, (size - ring->batches_size) * sizeof(*bigger));
    ring->batches = bigger;
    ring->batches_size = size;
    return 0;
}

int tu_batch_begin(struct tu_ring *ring, struct tu_batch *batch)
{
    uint32_t number = 0;
    while (number < ring->batches_size && ring->batches[number])
        number++;
    if (number == ring->batches_size && grow(ring))
        return -ENOMEM;
    batch->number = number;
    batch->left = batch->count;
    batch->failed = 0;
    for (uint32_t place = 0; place < batch->count; place++)
        batch->results[place] = TU_PENDING;
    ring->batches[number] = batch;
    ring->batched += batch->count;
    return 0;
}

void tu_batch_abandon(struct tu_ring *ring, struct tu_batch *batch)
{
    ring->batches[batch->number] = NULL;
    ring->batched -= batch->left;
    batch->left = 0;
}

struct tu_batch *tu_batch_of(const struct tu_ring *ring, const struct tu_cqe *cqe)
{
    uint32_t number = (uint32_t)(cqe->user_data >> 32) & 0x7FFFFFFF;
    if (!(cqe->user_data & TU_BATCH_BIT) || number >= ring->batches_size)
        return NULL;
    struct tu_batch *batch = ring->batches[number];
    return batch && (uint32_t)cqe->user_data < batch->count ? batch : NULL;
}

int tu_batch_end_one(struct tu_ring *ring, struct tu_batch *batch, const struct tu_cqe *cqe)
{
    batch->results[(uint32_t)cqe->user_data] = cqe->res;
    batch->failed += cqe->res < 0;
    ring->batched--;
    if (--batch->left)
        return 0;
    tu_batch_abandon(ring, batch);
    return 1;
}

int tu_batch_transfers(struct tu_ring *ring, uint32_t tail, struct tu_batch *batch, uint8_t opcode,
                       uint8_t flags, int fd, uint64_t memory, uint32_t nbytes, uint16_t place,
                       const uint64_t *offsets)
{
    for (uint32_t i = 0; i < batch->count; i++)
        if (offsets[i] > INT64_MAX) /* -1 would be the file position */
            return -EINVAL;
    int rc = tu_batch_begin(ring, batch);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < batch->count; i++)
        *entry(ring, tail + i) = (struct tu_sqe){
            .opcode = opcode, .flags = flags, .fd = fd, .off = offsets[i],
            .addr = memory + (uint64_t)i * nbytes, .len = nbytes, .buf_index = place,
            .user_data = name(batch->number, i)};
    return 0;
}

/* A read that ends early breaks a chain, which must not keep the file open: reads are hard-linked. If
 * the open fails, the rest is cancelled: there is nothing to close. A read that ends early is no sign
 * of the end of a file in /proc: the second one, at the file position, says whether there is more. */
int tu_batch_files(struct tu_ring *ring, uint32_t tail, struct tu_batch *batch, int dir_fd,
                   const char *paths, const uint32_t *slots, uint32_t flags, uint64_t memory,
                   uint32_t nbytes, uint64_t rest, uint32_t rest_nbytes)
{
    int rc = tu_batch_begin(ring, batch);
    if (rc)
        return rc;
    for (uint32_t file = 0; 4 * file < batch->count; file++) {
        uint32_t slot = slots[file], first = 4 * file;
        *entry(ring, tail + first) = (struct tu_sqe){
            .opcode = OP_OPENAT, .flags = F_LINK, .fd = dir_fd, .addr = (uintptr_t)paths,
            .op_flags = flags, .file_index = slot + 1, .user_data = name(batch->number, first)};
        paths += strlen(paths) + 1;
        *entry(ring, tail + first + 1) = (struct tu_sqe){
            .opcode = OP_READ, .flags = F_FIXED_FILE | F_HARDLINK, .fd = (int32_t)slot,
            .off = UINT64_MAX, .addr = memory + (uint64_t)file * nbytes, .len = nbytes,
            .user_data = name(batch->number, first + 1)};
        *entry(ring, tail + first + 2) = (struct tu_sqe){
            .opcode = OP_READ, .flags = F_FIXED_FILE | F_HARDLINK, .fd = (int32_t)slot,
            .off = UINT64_MAX, .addr = rest, .len = rest_nbytes,
            .user_data = name(batch->number, first + 2)};
        *entry(ring, tail + first + 3) = (struct tu_sqe){
            .opcode = OP_CLOSE, .file_index = slot + 1, .user_data = name(batch->number, first + 3)};
    }
    return 0;
}
