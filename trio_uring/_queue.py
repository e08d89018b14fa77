# SPDX-License-Identifier: MIT OR Apache-2.0
"""The queues of one ring: entries out, completions in, and the end of the ring.

A ring that closes with operations in flight cancels and drains them; what will not end keeps what
it borrowed for ever.

Threads. The C core lets one thread in at a time, but its results are read here after it has let the
next one in: `RingBase._inside` is held for as long.
"""

from __future__ import annotations

import atexit
import errno
import os
import time
import warnings
import weakref
from contextlib import suppress
from functools import partial
from itertools import repeat
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar

from ._abi import EnterFlag, Feature, RegisterOp, SetupFlag, SqFlag
from ._errors import WrongThreadError
from ._lib import NULL, CData, ffi, lib
from ._queue_base import BIG_CQE as BIG_CQE
from ._queue_base import CQE as CQE
from ._queue_base import ENTRIES_MAX as ENTRIES_MAX
from ._queue_base import U32 as U32
from ._queue_base import BigCqe as BigCqe
from ._queue_base import Cqe as Cqe
from ._queue_base import RingBase, someone_is_inside
from ._queue_base import _checked_params as _checked_params
from ._queue_close import end_operations, request_cancel
from ._queue_views import CompletionQueue, SubmissionQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from typing_extensions import Buffer

_RingT = TypeVar("_RingT", bound="RingQueues")

# Buffered disk reads that have begun cannot be cancelled; some take most of a second.
CLOSE_TIMEOUT_S = 5.0
# The longest wait of one system call; the clock decides whether another follows.
WAIT_MAX_S = 1e9

_CHARS = ffi.typeof("char[]")
# Attributes of lib and ffi are looked up by name each time.
_from_buffer = ffi.from_buffer
_submit_and_copy = lib.tu_submit_and_copy

_open_rings: weakref.WeakSet[RingQueues] = weakref.WeakSet()
# KERNEL OWNS these until the process ends: pins of rings that closed before their operations ended.
_kept_for_ever: list[object] = []


class RingQueues(RingBase):
    """Submission, completion and close of one ring; `Ring` adds operations.

    A ring serves one thread at a time. Two that use it without a lock get `WrongThreadError` at
    best: an entry that is half prepared may be submitted.
    """

    def __init__(self, entries: int, flags: int = 0, **params: int) -> None:
        super().__init__(entries, flags, **params)
        _open_rings.add(self)

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

    def submit_in_turn(self) -> Iterator[int]:
        """Submits the prepared entries one by one, each when the one before has completed.

        Yields their results, in the order of preparation: the fastest way to have one operation in
        flight. Each entry must have exactly one completion; links between them have no effect. What
        they borrow is let go when the last one has ended. Entries not reached stay prepared.

        Raises:
            ValueError: operations are in flight.
            OSError: EBUSY, other completions are in the queue; EINVAL, an entry has more than one.
        """
        if self.in_flight:
            raise ValueError("operations are in flight")
        self._move_pins()
        first = int(self._ring.flushed)
        return self._run_in_turn(range(first, first + ((self._tail - first) & U32)))

    def _run_in_turn(self, positions: range) -> Iterator[int]:
        res_min = lib.TU_RES_MIN
        for res in map(lib.tu_run_one, repeat(self._ring), positions):
            yield res if res > res_min else self._run_on(res)
        if self._pins:
            self._settle(self._tail)
            self._release_retired()

    def _run_on(self, res: int) -> int:
        """Goes on with an entry that `submit_in_turn` has submitted, after a signal."""
        while res <= lib.TU_RES_MIN:
            if res - lib.TU_RES_MIN != -errno.EINTR:
                self._check(res - lib.TU_RES_MIN, "submit_in_turn")
            res = lib.tu_run_one(self._ring, (int(self._ring.flushed) - 1) & U32)
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

    # -- views ---------------------------------------------------------------------------------

    @property
    def sq(self) -> SubmissionQueue:
        """The counters of the submission queue."""
        return SubmissionQueue(self)

    @property
    def cq(self) -> CompletionQueue:
        """The counters and entries of the completion queue."""
        return CompletionQueue(self)

    # -- close ---------------------------------------------------------------------------------

    def close(self, timeout: float = CLOSE_TIMEOUT_S) -> list[Cqe]:
        """Cancels what is in flight, waits for its end, and closes the ring. Idempotent.

        Returns the completions that nobody had copied. Operations that do not end within
        ``timeout`` seconds keep what they borrowed until the process ends.

        A thread that may not enter the ring (``SINGLE_ISSUER``) can close it, but not wait.

        Raises:
            WrongThreadError: another thread is inside a call on this ring; or the ring has no
                descriptor (``REGISTERED_FD_ONLY``) and belongs to another thread.
        """
        if self.fd < 0 or self._forked:
            return []
        mine = self._owner is None or get_ident() == self._owner
        if self._inside:
            raise someone_is_inside()
        if not mine and self.flags & SetupFlag.REGISTERED_FD_ONLY:
            raise WrongThreadError("the index of this ring is known to another thread only")
        if mine:
            self._counter(lib.TU_SQ_TAIL)  # raises if another thread is inside
            # Entries that were never flushed are nobody's: they are not submitted now.
            self._forget_unsubmitted()
        try:
            return self._drain(timeout) if mine else []
        finally:
            self._end(mine)

    def _end(self, mine: bool) -> None:
        # Ring teardown closes files later, in a kernel worker: a port would stay busy. Kernels
        # before 5.13 wait here for everything in flight, without limit.
        waits_not = self.features & Feature.RSRC_TAGS or not self._ring.ledger.in_flight
        if mine and self._has_files and waits_not:
            lib.tu_register(self._ring, RegisterOp.UNREGISTER_FILES, NULL, 0)
        self._check(lib.tu_begin_exclusive(self._ring), "close")
        self._invalidate()
        if self._ring.ledger.in_flight or self._foreign & self._pins.keys():
            _keep_for_ever((self._pins, self._held))
        self._pins, self._held = {}, {}
        lib.tu_close(self._ring)

    def _drain(self, timeout: float) -> list[Cqe]:
        return end_operations(self, timeout)

    def _cancel_all(self) -> None:
        request_cancel(self)

    def _invalidate(self) -> None:
        """No Python object reaches the mapped queues after this."""
        self._kill_entries()
        _open_rings.discard(self)
        self.fd = -1
        self._lenders.clear()
        self._limit = self._tail

    def _forget_unsubmitted(self) -> None:
        self._tail = int(self._ring.flushed)
        for sqe in self._lenders:
            sqe.pins = None
        self._lenders.clear()

    def _abandon_in_child(self) -> None:
        self._forked = True
        self._inside = False
        self._invalidate()
        self._pins, self._held = {}, {}
        lib.tu_abandon(self._ring)

    def __enter__(self: _RingT) -> _RingT:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if self.fd < 0 or self._forked:
            return
        try:
            _warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
        finally:
            self._close_unasked()

    def _close_unasked(self) -> None:
        try:
            self.close(timeout=0)
        except WrongThreadError:
            _keep_for_ever((self._ring, self._pins, self._held))

    def __repr__(self) -> str:
        state = f"fd={self.fd}" if self.fd >= 0 else "forked" if self._forked else "closed"
        return f"<{type(self).__name__} {state}>"


def _ns(timeout: float) -> int:
    return int(min(max(timeout, 0.0), WAIT_MAX_S) * 1e9)


def _keep_for_ever(memory: object) -> None:
    _kept_for_ever.append(memory)
    if len(_kept_for_ever) == 1:
        # A reference that nobody drops: the end of the interpreter empties modules while the kernel
        # still writes. ctypes is slow to import and this is rare.
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(_kept_for_ever))


def _abandon_open_rings() -> None:
    for ring in list(_open_rings):
        ring._abandon_in_child()


def _close_open_rings() -> None:
    """Before modules are torn down; the warnings are those of the garbage collector."""
    for ring in list(_open_rings):
        with suppress(Exception):
            ring.__del__()


os.register_at_fork(after_in_child=_abandon_open_rings)
atexit.register(_close_open_rings)
