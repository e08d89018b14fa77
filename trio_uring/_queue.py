# SPDX-License-Identifier: MIT OR Apache-2.0
"""One ring without its operations: its queues, and its end.

A ring that closes with operations in flight cancels and drains them; what will not end keeps what
it borrowed for ever.
"""

from __future__ import annotations

import atexit
import os
import warnings
import weakref
from contextlib import suppress
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar

from ._abi import RegisterOp, SetupFlag
from ._errors import WrongThreadError
from ._lib import NULL, ffi, lib
from ._queue_base import BIG_CQE as BIG_CQE
from ._queue_base import CQE as CQE
from ._queue_base import ENTRIES_MAX as ENTRIES_MAX
from ._queue_base import U32 as U32
from ._queue_base import BigCqe as BigCqe
from ._queue_base import Cqe as Cqe
from ._queue_base import _checked_params as _checked_params
from ._queue_base import someone_is_inside
from ._queue_close import end_operations, request_cancel
from ._queue_flow import QueueFlow
from ._queue_views import CompletionQueue, SubmissionQueue

if TYPE_CHECKING:
    from types import TracebackType

_RingT = TypeVar("_RingT", bound="RingQueues")

# Buffered disk reads that have begun cannot be cancelled; some take most of a second.
CLOSE_TIMEOUT_S = 5.0

_open_rings: weakref.WeakSet[RingQueues] = weakref.WeakSet()
# KERNEL OWNS these until the process ends: pins of rings that closed before their operations ended.
_kept_for_ever: list[object] = []


class RingQueues(QueueFlow):
    """Set-up, queues and close of one ring; `Ring` adds operations.

    A ring serves one thread at a time. Two that use it without a lock get `WrongThreadError` at
    best: an entry that is half prepared may be submitted.
    """

    def __init__(self, entries: int, flags: int = 0, **params: int) -> None:
        super().__init__(entries, flags, **params)
        _open_rings.add(self)

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
            self._forget_unsubmitted()
        try:
            return self._drain(timeout) if mine else []
        finally:
            self._end(mine)

    def _end(self, mine: bool) -> None:
        # Ring teardown closes files later, in a kernel worker: a port would stay busy. Kernels
        # up to 6.12 wait here for what is in flight on slots, without limit.
        waits_not = self._ring.ledger.in_flight <= self._ring.ledger.silent
        if mine and self._has_files and waits_not:
            lib.tu_register(self._ring, RegisterOp.UNREGISTER_FILES, NULL, 0)
        self._check(lib.tu_begin_exclusive(self._ring), "close")
        self._invalidate()
        if self._ring.ledger.in_flight or self._foreign:
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
        """Entries that were never flushed are nobody's: closing does not submit them."""
        self._tail = int(self._ring.flushed)
        for sqe in self._lenders:
            sqe.pins = None
        self._lenders.clear()

    def _abandon_in_child(self) -> None:
        self._forked = True
        if self._mapping is not None:
            ffi.gc(self._mapping, None)  # it is not mapped here (MADV_DONTFORK)
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


def _keep_for_ever(memory: object) -> None:
    _kept_for_ever.append(memory)
    if len(_kept_for_ever) == 1:
        # A reference that nobody drops: the end of the interpreter empties modules while the kernel
        # still writes. ctypes is slow to import and this is rare.
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(_kept_for_ever))


def open_rings() -> list[RingQueues]:
    """The rings of this process that are open now."""
    while True:
        try:
            return list(_open_rings)
        except RuntimeError:  # another thread opened or closed one meanwhile
            continue


def expect_message(fd: int, data: int) -> None:
    """The ring ``fd`` will get a completion for ``data`` that ends no operation of its own.

    It must not count as one, so that what its operations with that user_data hold is never let go.
    """
    rings = open_rings()
    # The ring may have been named by a duplicate of its descriptor.
    for ring in [ring for ring in rings if ring.fd == fd] or rings:
        ring._foreign.add(data)


def _abandon_open_rings() -> None:
    for ring in open_rings():
        ring._abandon_in_child()


def _close_open_rings() -> None:
    """Before modules are torn down; the warnings are those of the garbage collector."""
    for ring in open_rings():
        with suppress(Exception):
            ring.__del__()


os.register_at_fork(after_in_child=_abandon_open_rings)
atexit.register(_close_open_rings)
