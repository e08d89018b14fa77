/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef TRIO_URING_LEDGER_H
#define TRIO_URING_LEDGER_H

#include "abi.h"
#include "core.h"

int tu_ledger_open(struct tu_ledger *ledger, uint32_t retired_max);
void tu_ledger_close(struct tu_ledger *ledger);
int tu_ledger_reserve(struct tu_ledger *ledger, uint32_t more);
void tu_ledger_add(struct tu_ledger *ledger, uint64_t user_data, int silent);
void tu_ledger_end(struct tu_ledger *ledger, uint64_t user_data);

#endif
