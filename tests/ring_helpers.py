# SPDX-License-Identifier: MIT OR Apache-2.0
"""For the tests of single operations: one completes, or the kernel has not got it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from ring_help import run_one, wait_cqes

from trio_uring.lowlevel import OP_KERNEL, Op

if TYPE_CHECKING:
    from trio_uring.lowlevel import Cqe, Ring, Sqe

# How a kernel says that it does not know an operation, or a flag or command of one.
UNKNOWN = (-errno.EINVAL, -errno.EOPNOTSUPP)


def completes(ring: Ring, sqe: Sqe, since: str = "") -> Cqe:
    """The completion of ``sqe``, the one entry that was prepared.

    The test is skipped if the kernel refuses it as unknown; ``since`` is the kernel that should
    have it, if that is not the one which brought the operation.
    """
    op = Op(sqe.opcode)
    cqe = run_one(ring)
    skip_unknown(op, cqe.res, since)
    return cqe


def both_complete(ring: Ring, op: Op, since: str = "") -> dict[int, int]:
    """The results of the two entries that were prepared, by user_data; ``op`` may be unknown."""
    assert ring.submit() == 2
    results = {cqe.user_data: cqe.res for cqe in wait_cqes(ring, 2)}
    for res in results.values():
        skip_unknown(op, res, since)
    return results


def skip_unknown(op: Op, res: int, since: str = "") -> None:
    """Skips the test if ``res`` says that the kernel does not know the operation."""
    if res in UNKNOWN:
        name = errno.errorcode[-res]
        pytest.skip(f"this kernel answers {name} to {op.name}, of Linux {since or OP_KERNEL[op]}")
