# SPDX-License-Identifier: MIT OR Apache-2.0
"""Single operations, and skips for what a kernel lacks, found by trying."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from ring_help import run_one, wait_cqes

from trio_uring.lowlevel import OP_KERNEL, Op

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_uring.lowlevel import Cqe, Ring, Sqe


# How a kernel says that it does not know an operation, or a flag or command of one.
UNKNOWN = (-errno.EINVAL, -errno.EOPNOTSUPP)


@contextmanager
def needs(what: str, *lacking: int) -> Iterator[None]:
    """Skips if a call in it fails with EINVAL, or ``lacking``: this kernel has no ``what``."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (lacking or (errno.EINVAL,)):
            pytest.skip(f"this kernel lacks {what}: {exc}")
        raise


def skip_if_lacking(cqe: Cqe, what: str) -> Cqe:
    """Skips if an operation failed with EINVAL: no ``what`` in this kernel."""
    if cqe.res == -errno.EINVAL:
        pytest.skip(f"this kernel lacks {what}: EINVAL")
    return cqe


@contextmanager
def raises_errno(code: int) -> Iterator[None]:
    """The block must fail with an OSError of this errno."""
    with pytest.raises(OSError, match=os.strerror(code)) as failure:
        yield
    assert failure.value.errno == code, failure.value


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
