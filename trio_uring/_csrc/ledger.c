/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The ledger: how many SQEs are in flight for each user_data.
 *
 * Python keeps the buffers of an operation alive until its final CQE. A CQE names its operation by
 * user_data only, and a caller may give several operations the same one, in any order of completion.
 * So a buffer is released when no operation with its user_data is left: later than strictly needed,
 * never too early. An SQE with CQE_SKIP_SUCCESS counts too; it may never be seen to end, and then
 * what shares its user_data is kept until the ring closes; `silent` tells closing not to wait for it.
 *
 * Open addressing, linear probing, backward-shift deletion; at most half full.
 */
#include <errno.h>
#include <stdlib.h>

#include "ledger.h"

static uint32_t home(const struct tu_ledger *ledger, uint64_t user_data)
{
    return (uint32_t)((user_data * 0x9E3779B97F4A7C15ULL) >> 32) & ledger->mask;
}

static struct tu_ledger_entry *place(struct tu_ledger *ledger, uint64_t user_data)
{
    uint32_t at = home(ledger, user_data);
    while (ledger->entries[at].count && ledger->entries[at].user_data != user_data)
        at = (at + 1) & ledger->mask;
    return &ledger->entries[at];
}

int tu_ledger_open(struct tu_ledger *ledger, uint32_t retired_max)
{
    ledger->entries = calloc(16, sizeof(*ledger->entries));
    ledger->retired = calloc(retired_max, sizeof(*ledger->retired));
    if (!ledger->entries || !ledger->retired) {
        tu_ledger_close(ledger);
        return -ENOMEM;
    }
    ledger->mask = 15;
    ledger->retired_max = retired_max;
    return 0;
}

void tu_ledger_close(struct tu_ledger *ledger)
{
    free(ledger->entries);
    free(ledger->retired);
    *ledger = (struct tu_ledger){0};
}

int tu_ledger_reserve(struct tu_ledger *ledger, uint32_t more)
{
    uint64_t size = (uint64_t)ledger->mask + 1;
    if (2 * ((uint64_t)ledger->live + more) <= size)
        return 0;
    while (2 * ((uint64_t)ledger->live + more) > size)
        size *= 2;
    if (size > UINT32_MAX)
        return -ENOMEM;
    struct tu_ledger bigger = *ledger;
    bigger.entries = calloc(size, sizeof(*bigger.entries));
    if (!bigger.entries)
        return -ENOMEM;
    bigger.mask = (uint32_t)(size - 1);
    for (uint64_t i = 0; i <= ledger->mask; i++)
        if (ledger->entries[i].count)
            *place(&bigger, ledger->entries[i].user_data) = ledger->entries[i];
    free(ledger->entries);
    *ledger = bigger;
    return 0;
}

void tu_ledger_add(struct tu_ledger *ledger, uint64_t user_data, int silent)
{
    struct tu_ledger_entry *entry = place(ledger, user_data);
    if (!entry->count++) {
        entry->user_data = user_data;
        entry->silent = 0;
        ledger->live++;
    }
    ledger->in_flight++;
    entry->silent += silent != 0;
    ledger->silent += silent != 0;
}

/* A final CQE. Unknown ones exist: messages from other rings (IORING_OP_MSG_RING). */
void tu_ledger_end(struct tu_ledger *ledger, uint64_t user_data)
{
    struct tu_ledger_entry *entry = place(ledger, user_data);
    if (!entry->count)
        return;
    if (entry->silent == entry->count) { /* one that was to be silent has failed */
        entry->silent--;
        ledger->silent--;
    }
    if (!--ledger->in_flight)
        ledger->silent = 0;
    if (--entry->count)
        return;
    ledger->live--;
    ledger->retired[ledger->retired_count++] = user_data;

    uint32_t hole = (uint32_t)(entry - ledger->entries), at = hole;
    for (;;) {
        at = (at + 1) & ledger->mask;
        if (!ledger->entries[at].count)
            return;
        uint32_t from_home = (at - home(ledger, ledger->entries[at].user_data)) & ledger->mask;
        uint32_t from_hole = (at - hole) & ledger->mask;
        if (from_home < from_hole)
            continue;
        ledger->entries[hole] = ledger->entries[at];
        ledger->entries[at].count = 0;
        hole = at;
    }
}
