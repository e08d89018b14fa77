# SPDX-License-Identifier: MIT OR Apache-2.0
"""Entries out, completions in: what a ring does all the time.

Threads. The C core lets one thread in at a time, but its results are read here after it has let the
next one in: `RingBase._inside` is held for as long.
"""

from __future__ import annotations

import errno
import time
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any

from ._abi import EnterFlag, SetupFlag, SqFlag
from ._lib import CData, ffi, lib
from ._queue_base import U32, RingBase, someone_is_inside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Buffer

    from ._queue_base import Cqe

# The longest wait of one system call; the clock decides whether another follows.
WAIT_MAX_S = 1e9

_CHARS = ffi.typeof("char[]")
# Attributes of lib and ffi are looked up by name each time.
_from_buffer = ffi.from_buffer
_submit_and_copy = lib.tu_submit_and_copy
_run_one = lib.tu_run_one
_RES_MIN = lib.TU_RES_MIN


class QueueFlow(RingBase):
    """Submission and completion."""

    # -- submission queue ----------------------------------------------------------------------

    def flush_sq(self) -> int:
        """Shows the prepared entries to the kernel, without a system call.

        Returns how many it has not consumed, those of earlier flushes included.
        """
        if self._inside:
            raise someone_is_inside()
        self._inside = True
        try:
            if self._lenders:
                self._move_pins()
            tail = self._tail
            rc = lib.tu_flush(self._ring, tail)
            if self._lending:
                self._settle(tail)
            return self._check(rc, "flush_sq")
        finally:
            self._inside = False

    def submit(self) -> int:
        """Submits the prepared entries; returns how many the kernel took."""
        return self.submit_and_wait(0)

    def submit_and_wait(self, wait_nr: int) -> int:
        """Submits, then waits until ``wait_nr`` completions are there.

        Returns how many entries were submitted. A signal ends the wait if any were.
        """
        if self._inside:
            raise someone_is_inside()
        self._inside = True
        try:
            if self._lenders:
                self._move_pins()
            tail = self._tail
            while True:
                rc = lib.tu_submit(self._ring, tail, wait_nr)
                if self._lending:
                    self._settle(tail)
                if rc >= 0:
                    return rc
                if rc != -errno.EINTR:
                    self._check(rc, "io_uring_enter")
        finally:
            self._inside = False

    def run_one(self) -> int:
        """Submits the one prepared entry, waits for its completion, and returns its result.

        The quickest way to make an operation a call. It must have exactly one completion.

        Raises:
            OSError: EINVAL, not exactly one entry is prepared, or it may have more completions than
                one; EBUSY, there are completions of other operations.
        """
        if self._inside:
            raise someone_is_inside()
        self._inside = True
        try:
            if self._lenders:
                self._move_pins()
            tail = self._tail
            res = _run_one(self._ring, (tail - 1) & U32)
            if res <= _RES_MIN:
                res = self._run_on(res)
            if self._lending:
                self._settle(tail)
            if self._pins:
                self._release_retired()
            return res
        finally:
            self._inside = False

    def submit_in_turn(self) -> Iterator[int]:
        """`run_one` for each of the prepared entries: yields their results, in order.

        What they borrow is let go when the last one has ended; what is not reached stays prepared.
        """
        self._counter(lib.TU_SQ_TAIL)  # raises if this ring cannot be used here
        self._move_pins()
        first = int(self._ring.flushed)
        return self._run_in_turn(range(first, first + ((self._tail - first) & U32)))

    def _run_in_turn(self, positions: range) -> Iterator[int]:
        for res in map(_run_one, repeat(self._ring), positions):
            yield res if res > _RES_MIN else self._run_on(res)
        if self._pins:
            self._settle(self._tail)
            self._release_idle()

    def _run_on(self, res: int) -> int:
        """Goes on with an entry that was submitted alone, after a signal; or raises."""
        while res <= _RES_MIN:
            if res - _RES_MIN != -errno.EINTR:
                self._check(res - _RES_MIN, "run_one")
            res = lib.tu_run_on(self._ring)
        return res

    def enter(self, to_submit: int, min_complete: int, flags: int) -> int:
        """``io_uring_enter(2)`` as it is; flush before it. Returns the number submitted."""
        rc = lib.tu_enter(self._ring, to_submit, min_complete, flags, -1)
        return self._check(rc, "io_uring_enter")

    def sq_ready(self) -> int:
        """Entries prepared that the kernel has not consumed, flushed or not."""
        return (self._tail - self._counter(lib.TU_SQ_HEAD)) & U32

    def sq_ring_needs_enter(self, flags: int = 0) -> tuple[bool, EnterFlag]:
        """Whether a system call is needed after `flush_sq`, and ``flags`` with what it then needs.

        Without ``SQPOLL`` always; with it only while its thread sleeps.
        """
        sq_flags = self._counter(lib.TU_SQ_FLAGS)
        if not self.flags & SetupFlag.SQPOLL:
            return True, EnterFlag(flags)
        if sq_flags & SqFlag.NEED_WAKEUP:
            return True, EnterFlag(flags) | EnterFlag.SQ_WAKEUP
        return False, EnterFlag(flags)

    # -- completion queue ----------------------------------------------------------------------

    def cq_ready(self) -> int:
        """Completions in the queue that were not copied yet."""
        return (self._counter(lib.TU_CQ_TAIL) - self._counter(lib.TU_CQ_HEAD)) & U32

    def cq_ring_needs_flush(self) -> bool:
        """Completions did not fit in the queue; entering the kernel brings them (5.5)."""
        return bool(self._counter(lib.TU_SQ_FLAGS) & SqFlag.CQ_OVERFLOW)

    def copy_cqes(
        self, max_count: int, wait_nr: int = 0, timeout: float | None = None
    ) -> list[Cqe]:
        """Copies up to ``max_count`` completions out of the queue.

        Returns at once if any are ready; else waits for ``wait_nr`` of them, at most ``timeout``
        seconds, and returns what is there then: an empty list if the time is over. A `timeout`
        operation that completes ends a wait, too (io_uring_enter(2)).
        """
        if self._inside:
            raise someone_is_inside()
        self._inside = True
        try:
            count = min(max_count, self._copy_max)
            return self._copied_cqes(self._copy(self._copied, count, wait_nr, timeout))
        finally:
            self._inside = False

    def copy_cqe(self) -> Cqe:
        """One completion, waiting for it if necessary."""
        return self.copy_cqes(1, 1)[0]

    def copy_cqes_into(self, out: Buffer, wait_nr: int = 0, timeout: float | None = None) -> int:
        """`copy_cqes` as bytes, for speed: fills ``out`` with whole CQEs and returns how many.

        A CQE is 16 bytes, ``struct`` format ``=QiI`` (`trio_uring.lowlevel.CQE`), or 32 bytes,
        ``=QiIQQ``, on a ring with big ones; a NumPy record array works as well.
        """
        if self._inside:
            raise someone_is_inside()
        self._inside = True
        try:
            memory: Any = _from_buffer(_CHARS, out, True)
            return self._copy(memory, len(memory) // self._cqe_bytes, wait_nr, timeout)
        finally:
            self._inside = False

    def submit_and_copy_cqes(
        self, max_count: int, wait_nr: int = 0, timeout: float | None = None
    ) -> list[Cqe]:
        """`submit` and `copy_cqes` with one system call at the most.

        Waits until ``wait_nr`` completions are there, those that are ready already included.
        """
        if self._inside:
            raise someone_is_inside()
        self._inside = True
        try:
            if max_count > self._copy_max:
                max_count = self._copy_max
            return self._copied_cqes(
                self._submit_and_copy(self._copied, max_count, wait_nr, timeout)
            )
        finally:
            self._inside = False

    def submit_and_copy_into(
        self, out: Buffer, wait_nr: int = 0, timeout: float | None = None
    ) -> int:
        """`submit_and_copy_cqes` with the result of `copy_cqes_into`."""
        if self._inside:
            raise someone_is_inside()
        self._inside = True
        try:
            memory: Any = _from_buffer(_CHARS, out, True)
            return self._submit_and_copy(memory, len(memory) // self._cqe_bytes, wait_nr, timeout)
        finally:
            self._inside = False

    def _submit_and_copy(
        self, out: CData, max_count: int, wait_nr: int, timeout: float | None
    ) -> int:
        if self._lenders:
            self._move_pins()
        tail, timeout_ns, deadline = self._tail, -1, None
        if timeout is not None:
            deadline, timeout_ns = time.monotonic() + timeout, _ns(timeout)
        rc = _submit_and_copy(self._ring, tail, wait_nr, timeout_ns, out, max_count)
        if self._lending:
            self._settle(tail)
        if rc < 0 or (not rc and wait_nr and max_count):
            again = partial(self._submit_and_copy_again, tail, out, max_count, wait_nr)
            rc = self._wait_on(rc, wait_nr, deadline, again)
        if self._pins:
            self._release_retired()
        return rc

    def _submit_and_copy_again(
        self, tail: int, out: CData, max_count: int, wait_nr: int, timeout_ns: int
    ) -> int:
        return lib.tu_submit_and_copy(self._ring, tail, wait_nr, timeout_ns, out, max_count)

    def _copy(self, out: CData, max_count: int, wait_nr: int, timeout: float | None) -> int:
        if timeout is None:
            deadline, timeout_ns = None, -1
        else:
            deadline, timeout_ns = time.monotonic() + timeout, _ns(timeout)
        rc = lib.tu_copy_cqes(self._ring, out, max_count, wait_nr, timeout_ns)
        if rc < 0 or (not rc and wait_nr and max_count):
            again = partial(self._copy_again, out, max_count, wait_nr)
            rc = self._wait_on(rc, wait_nr, deadline, again)
        if self._pins:
            self._release_retired()
        return rc

    def _copy_again(self, out: CData, max_count: int, wait_nr: int, timeout_ns: int) -> int:
        return lib.tu_copy_cqes(self._ring, out, max_count, wait_nr, timeout_ns)

    def _wait_on(
        self, rc: int, wait_nr: int, deadline: float | None, again: Callable[[int], int]
    ) -> int:
        """Goes on with a wait that brought no completion, until one comes or the time is over.

        A signal ends a wait early; its handler runs here. The clock says which it was: once it has
        submitted something, io_uring_enter returns how much, never ETIME or EINTR.
        """
        while rc <= 0:
            if rc not in (0, -errno.EINTR, -errno.ETIME):
                self._check(rc, "io_uring_enter")
            left = None if deadline is None else deadline - time.monotonic()
            if not wait_nr or (left is not None and left <= 0):
                return 0
            rc = again(-1 if left is None else _ns(left))
        return rc

    def _copied_cqes(self, count: int) -> list[Cqe]:
        if count == 1:
            return [self._new_cqe(self._unpack_cqe(self._copied_view))]
        view = self._copied_view[: count * self._cqe_bytes]
        return list(map(self._new_cqe, self._cqe_struct.iter_unpack(view)))

    def cqe_seen(self, cqe: Cqe) -> None:
        """Consumes one completion that was read from ``ring.cq.cqes``.

        Once per completion, and never together with the ``copy_`` methods.
        """
        self.cq_advance(1)

    def cq_advance(self, count: int) -> None:
        """Consumes ``count`` completions that were read from ``ring.cq.cqes``."""
        if self._inside:
            raise someone_is_inside()
        self._inside = True
        try:
            while count > 0:
                done = self._check(lib.tu_advance(self._ring, count), "cq_advance")
                if self._pins:
                    self._release_retired()
                if not done:
                    raise ValueError("more completions consumed than there are")
                count -= done
        finally:
            self._inside = False


def _ns(timeout: float) -> int:
    return int(min(max(timeout, 0.0), WAIT_MAX_S) * 1e9)
