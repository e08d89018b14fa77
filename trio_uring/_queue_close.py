# SPDX-License-Identifier: MIT OR Apache-2.0
"""Ending what a ring has in flight, before it closes."""

from __future__ import annotations

import errno
import time
from struct import Struct
from typing import TYPE_CHECKING

from ._abi import CancelFlag, Feature, RegisterOp
from ._errors import SubmissionQueueFull
from ._lib import ffi, lib
from ._prep import prep_cancel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._queue import Cqe, RingQueues

# Without news for so long, ask again: what is linked behind a cancelled operation, or held back by
# a drain, starts only then, and the first request did not find it.
PAUSE_S = 0.05
U64_MAX = 0xFFFF_FFFF_FFFF_FFFF
# struct io_uring_sync_cancel_reg: addr, fd, flags, timeout seconds and nanoseconds, opcode
SYNC_CANCEL = Struct("=QiIqqB31x")


def end_operations(ring: RingQueues, timeout: float) -> list[Cqe]:
    """Cancels what is in flight until all of it has ended, or ``timeout`` seconds are over.

    Returns the completions that nobody had copied.
    """
    deadline = time.monotonic() + timeout
    cqes: list[Cqe] = []
    try:
        _reap(ring, cqes, deadline, ring.copy_cqes(ring._copy_max))
        ring._cancel_id = _unused_user_data(ring, cqes)
        while _is_waited_for(ring):
            ring._cancel_all()
            seen = len(cqes)
            wait = _patience(deadline)
            _reap(ring, cqes, deadline, ring.submit_and_copy_cqes(ring._copy_max, 1, wait))
            # Kernels before 5.19 do not know the flags ALL and ANY.
            refused = (ring._cancel_id, -errno.EINVAL) in [cqe[:2] for cqe in cqes[seen:]]
            if refused and not ring._cancel_singly:
                ring._cancel_singly = True
            elif time.monotonic() >= deadline:
                break
    except OSError:  # the kernel refuses to be entered: nothing more can be learnt
        pass
    return [cqe for cqe in cqes if cqe.user_data != ring._cancel_id]


def _is_waited_for(ring: RingQueues) -> bool:
    """Something in flight is sure to post a CQE when it ends."""
    ledger = ring._ring.ledger
    return bool(ledger.in_flight > ledger.silent)


def _patience(deadline: float) -> float:
    return min(PAUSE_S, max(0.0, deadline - time.monotonic()))


def _reap(ring: RingQueues, cqes: list[Cqe], deadline: float, batch: list[Cqe]) -> None:
    """Adds ``batch``, and what follows it without a long pause, to ``cqes``."""
    while batch:
        cqes += batch
        wait_nr = 1 if _is_waited_for(ring) else 0
        batch = ring.copy_cqes(ring._copy_max, wait_nr, _patience(deadline))


def _in_flight(ring: RingQueues) -> dict[int, int]:
    """How many operations are in flight for each user_data."""
    ledger = ring._ring.ledger
    entries = (ledger.entries[i] for i in range(ledger.mask + 1))
    return {int(entry.user_data): int(entry.count) for entry in entries if entry.count}


def _unused_user_data(ring: RingQueues, cqes: Iterable[Cqe]) -> int:
    used = {cqe.user_data for cqe in cqes}
    if _is_waited_for(ring):
        used.update(_in_flight(ring))
    return next(number for number in range(U64_MAX, 0, -1) if number not in used)


def request_cancel(ring: RingQueues) -> None:
    """Asks for the end of all that is in flight."""
    flags = CancelFlag.ALL | CancelFlag.ANY
    if ring.features & Feature.LINKED_FILE and _cancel_by_register(ring, flags):
        return
    targets: Iterable[tuple[int, int]] = [(0, flags)]
    if ring._cancel_singly:
        counts = _in_flight(ring).items()
        targets = [(number, 0) for number, count in counts for _ in range(count)]
    _prepare_requests(ring, targets)


def _cancel_by_register(ring: RingQueues, flags: int) -> bool:
    """Without an entry, which might wait behind a drain (6.0); whether the kernel can.

    Kernels 5.10 to 5.12 would wait for everything in flight before they refuse an unknown command:
    this is tried where 5.17 or later has shown itself by a feature.
    """
    arg = ffi.new("char[]", SYNC_CANCEL.pack(0, -1, flags, 0, 0, 0))
    rc = lib.tu_register(ring._ring, RegisterOp.SYNC_CANCEL, arg, 1)
    # EINVAL: an older kernel; EACCES: a restriction of the ring; EPERM, ENOSYS: a seccomp filter.
    return rc >= 0 or rc in (-errno.ENOENT, -errno.EALREADY, -errno.ETIME, -errno.EINTR)


def _prepare_requests(ring: RingQueues, targets: Iterable[tuple[int, int]]) -> None:
    """Requests for these user_data and flags, as many as there is room for."""
    for user_data, flags in targets:
        if user_data == ring._cancel_id:
            continue
        try:
            sqe = ring.get_sqe()
        except SubmissionQueueFull:
            if not ring.submit():
                return
            sqe = ring.get_sqe()
        prep_cancel(sqe, user_data, flags, ring._cancel_id)
