# SPDX-License-Identifier: MIT OR Apache-2.0
"""The life of a handle: from the slot that it was given to the moment that the slot is free.

Closing. The slot number leaves the handle when closing starts, so that no later call can name it.
The operations in flight on it are cancelled and waited for: closing a slot stops nothing, an
operation keeps the file and would go on taking data; and the kernel looks up the slot of some
operations late, so that a slot must not be used again while any SQE names it. Then the slot is
emptied by a close operation. A close that is itself cancelled empties the slot at once, without an
SQE (`Engine.empty_slot`), and the slot stays in quarantine until the last operation that names it
has ended.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import trio
from trio.lowlevel import enable_ki_protection

from . import _native
from ._engine_slots import begin_close
from ._errors import SubmissionQueueFull
from ._operation import BringsFd
from ._prep import prep_fixed_fd_install

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, CoroutineType
    from typing import TypeAlias

    from typing_extensions import Self

    from ._engine import Engine
    from ._scope import FileScope

    Place: TypeAlias = tuple[CodeType, int]


_PACKAGE = os.path.join(os.path.dirname(__file__), "")


class Owner(Protocol):
    """What closes a handle: a scope, or a task."""

    def _forget(self, file: Any) -> None:
        """The handle is closed or has another owner."""


class Handle(_native.Handle, trio.abc.AsyncResource):
    """What all handles have in common; `FixedFile` adds the operations."""

    # Members, beside those in _native.pyi. They begin as said here, or as None or False.
    _engine: Engine
    # An ordinary descriptor, where slots cannot be used (`Capabilities.install`); else -1.
    _companion: int
    # Nobody else has the file, so that a shutdown of it hits nobody.
    _sole_owner: bool
    # A close has begun and is not over.
    _closing: bool
    # Somebody waits for all operations to end, or for the close to be over.
    _drained: trio.Event | None
    _closed: trio.Event | None
    # The slot, if operations are in flight on what was closed; else -1.
    _quarantined: int
    _owner: Owner | None
    # What tasks that wait for a slot, to accept into, want to be told when this closes.
    _waiting_for_slot: set[Callable[[], None]] | None
    _opened_at: Place

    def __init__(
        self, engine: Engine, slot: int, companion: int = -1, opened_at: Place | None = None
    ) -> None:
        # Private: the openers are the only way to get one.
        self._open(engine, slot, companion, opened_at or _caller())

    # -- state ---------------------------------------------------------------------------------

    @property
    def slot(self) -> int:
        """Index in the ring's file table; -1 from the moment that closing starts."""
        return self._slot

    @property
    def closed(self) -> bool:
        """Closing has started, or is over."""
        return self._slot < 0

    def _checked_slot(self) -> int:
        """The slot, for an SQE.

        Raises:
            trio.ClosedResourceError: closing has started.
        """
        slot = self._slot
        if slot < 0:
            raise trio.ClosedResourceError(f"this {type(self).__name__} is closed")
        return slot

    def _checked_number(self) -> int:
        """What an SQE calls the file: its slot, with ``_fixed``, or its ordinary descriptor."""
        if self._slot < 0:
            raise trio.ClosedResourceError(f"this {type(self).__name__} is closed")
        return self._number

    def _operation_ended(self) -> None:
        """The engine's word that the final CQE of an operation on this slot was seen."""
        self._in_flight -= 1
        if self._in_flight:
            return
        if self._drained is not None:
            self._drained.set()
        if self._quarantined >= 0:
            slot, self._quarantined = self._quarantined, -1
            self._engine.table.release(slot)

    def __repr__(self) -> str:
        state = f"slot={self._slot}" if self._slot >= 0 else "closed"
        return f"<{type(self).__name__} {state}>"

    def __reduce__(self) -> NoReturn:
        # A copy would be a second owner of the slot, and outlive its close.
        raise TypeError(f"a {type(self).__name__} cannot be copied or pickled")

    # -- close ---------------------------------------------------------------------------------

    @enable_ki_protection
    async def aclose(self) -> None:
        """Closes the file: ``close_direct``.

        Operations in flight on it are cancelled and raise `trio.ClosedResourceError` in their
        tasks. Closing twice does nothing. If this is cancelled the file is closed all the same.
        """
        slot = self._slot
        try:
            closing = self._begin_close()
        except BaseException as exc:
            if self._closing:  # it has begun, and there was no memory to wait for it
                self._closing = False
                self._empty_at_once(slot)
            elif self._slot >= 0 and isinstance(exc, (SubmissionQueueFull, OSError)):
                self._close_now()
            raise
        if closing is None:
            slot = self._slot  # what ran to make room may have closed it
            if slot < 0:
                await self._is_closed()
                return
            self._engine.check_run()
            closing = self._close_in_steps(self._start_closing())
        try:
            await closing
        except BaseException:
            self._empty_at_once(slot)
            raise
        finally:
            self._closing = False
            if self._closed is not None:
                self._closed.set()
        self._engine.table.release(slot)

    async def _is_closed(self) -> None:
        """Waits for the task that is closing this, if one is."""
        if self._closing:
            if self._closed is None:
                self._closed = trio.Event()
            await self._closed.wait()
        await trio.lowlevel.checkpoint()

    async def _close_in_steps(self, slot: int) -> None:
        """Where something is unusual."""
        engine = self._engine
        self._closing = True
        if self._waiting_for_slot:
            self._end_waits()
        if self._in_flight:
            self._drained = trio.Event()
            engine.cancel_operations_of(self)
            await self._drained.wait()
        if self._closes_plainly():
            operation = begin_close(engine, slot)
            engine.hold_clock(operation)
            await engine.wait(operation, True)
        else:
            await self._empty(slot)

    # As `trio.abc.AsyncResource` has it, without a coroutine of its own.
    def __aexit__(self, *exc_info: object) -> CoroutineType[Any, Any, None]:
        return self.aclose()  # type: ignore[return-value]

    def _closes_plainly(self) -> bool:
        """Nothing but the close operation is needed."""
        return self._companion < 0

    async def _empty(self, slot: int) -> None:
        """Where more is needed."""
        if self._companion >= 0:
            await trio.lowlevel.checkpoint()
            self._close_companion()
        else:
            await self._engine.wait(begin_close(self._engine, slot), True)

    def _close_companion(self) -> None:
        companion, self._companion = self._companion, -1
        os.close(companion)

    def _start_closing(self) -> int:
        slot, self._slot = self._slot, -1
        self._engine.files.pop(slot, None)
        if self._owner is not None:
            self._owner._forget(self)
        return slot

    def _slot_waits(self) -> set[Callable[[], None]]:
        if self._waiting_for_slot is None:
            self._waiting_for_slot = set()
        return self._waiting_for_slot

    def _end_waits(self) -> None:
        for end in list(self._slot_waits()):
            end()

    def _empty_at_once(self, slot: int) -> None:
        engine = self._engine
        if engine.closed:
            return
        if self._in_flight:
            # The cancelled operations let go of the file now: its port can be bound again at once.
            # If the kernel takes nothing now, the next pass tries again, and tells.
            with contextlib.suppress(SubmissionQueueFull, OSError):
                engine.flush_now()
        if self._companion >= 0:
            self._close_companion()
        else:
            engine.empty_slot(slot)
        if self._in_flight:
            self._quarantined = slot
            engine.table.quarantine(slot)
        else:
            engine.table.release(slot)

    def _close_now(self) -> None:
        """Closes without waiting, as a cancelled `aclose` does."""
        slot = self._start_closing()
        if self._waiting_for_slot:
            self._end_waits()
        if self._in_flight:
            self._engine.cancel_operations_of(self)
        self._empty_at_once(slot)

    def _abandoned_by_run(self) -> None:
        """The run is over and its ring closes, and the table with it."""
        text = f"{self!r} opened at {place_of(self)} was still open when its run ended"
        self._start_closing()
        if self._companion >= 0:
            self._close_companion()
        try:
            warnings.warn(text, ResourceWarning, stacklevel=2, source=self)
        except ResourceWarning as exc:
            # Warnings are errors here: an exception would break Trio in the middle of its end.
            _native.write_unraisable(exc, self)

    def __del__(self, _warn: Any = warnings.warn) -> None:
        # May run anywhere, in any thread, at interpreter exit: never touches the ring.
        slot = self._slot
        if slot < 0 or self._engine.closed:
            return
        engine = self._engine
        if engine.pid != os.getpid():
            return  # the table is the parent's, and so is the socket that wakes its loop
        engine.reclaim.append((slot, self._companion))
        self._slot = -1
        try:
            _warn(
                f"unclosed {type(self).__name__} (slot {slot}) opened at {place_of(self)}",
                ResourceWarning,
                stacklevel=2,
            )
        finally:
            try:
                # The loop may sleep, and somebody wait for the slot. Trio's finalizers do so too.
                engine.token.run_sync_soon(engine.reclaim_dropped)
            except RuntimeError:  # the run is over
                pass

    @enable_ki_protection
    def move_to(self, scope: FileScope) -> Self:
        """Gives the file to another scope; the one that owned it forgets it at once."""
        return scope.adopt(self)

    # -- ordinary descriptors ------------------------------------------------------------------

    # Ctrl-C waits for the next checkpoint: between the completion and the return, the descriptor
    # would be lost.
    @enable_ki_protection
    async def install_fd(self) -> int:
        """A new ordinary, close-on-exec descriptor of the same file, which the caller closes.

        ``FIXED_FD_INSTALL`` (6.8).
        """
        fd = await self._install()
        self._sole_owner = False
        return fd

    @enable_ki_protection
    async def _install(self) -> int:
        if self._companion < 0:
            return await self._engine.perform_on(self, _prep_install, pins=BringsFd())
        self._engine.check_run()
        self._checked_slot()
        await trio.lowlevel.checkpoint()
        self._checked_slot()
        return os.dup(self._companion)

    def _ordinary_fd(self) -> _OrdinaryFd:
        """``async with``: an ordinary descriptor of the file, for the length of the block."""
        return _OrdinaryFd(self)


class _OrdinaryFd:
    def __init__(self, file: Handle) -> None:
        self._file = file
        self._installed = -1

    @enable_ki_protection
    async def __aenter__(self) -> int:
        # Of its own, also where there is a companion: that is closed with the handle, at any time.
        self._installed = await self._file._install()
        return self._installed

    @enable_ki_protection
    async def __aexit__(self, *exc_info: object) -> None:
        os.close(self._installed)


def _prep_install(sqe: Any, slot: int, user_data: int, sqe_flags: int) -> None:
    prep_fixed_fd_install(sqe, slot, 0, user_data, sqe_flags)


def _caller() -> Place:
    """Where the code outside of this package is that is opening a handle.

    For a warning that is rarely given: `place_of` finds the line then.
    """
    # Not before this one: it is that of a function which made the handle.
    frame = sys._getframe(3)
    while (code := frame.f_code).co_filename.startswith(_PACKAGE) and frame.f_back is not None:
        frame = frame.f_back
    return code, frame.f_lasti


def place_of(file: Handle) -> str:
    """File and line of where it was opened."""
    code, instruction = file._opened_at
    lines = (line for start, end, line in code.co_lines() if start <= instruction < end)
    return f"{code.co_filename}:{next(lines, None) or code.co_firstlineno}"
