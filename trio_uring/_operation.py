# SPDX-License-Identifier: MIT OR Apache-2.0
"""One awaited operation, from its SQE to its final CQE. The hot path; ownership is written here.

The life of an `Operation` record:

* **free**: in its engine's pool. Its user_data is (generation << 32 | index); the generation goes
  up each time the record is reused, so that a CQE of an earlier use is recognised and ignored.
* **prepared**: its SQE is written but not submitted. The kernel knows nothing; a cancel takes the
  SQE back (it becomes a NOP) and Trio may raise `Cancelled` at once: it did not happen.
* **in flight**: submitted. KERNEL OWNS ``pins`` until the final CQE (the one without F_MORE). A
  cancel is only a request: `_abort` asks and returns ``Abort.FAILED``. The operation's own final
  CQE decides:

  - a result >= 0: it happened, and the caller gets it. Trio delivers the cancellation at the next
    checkpoint.
  - ECANCELED, or EINTR (a worker thread of the kernel that was interrupted: what kernels before 6.1
    answer): it did not happen; `Cancelled` is raised.
  - any other error is delivered as it is.

  The cancel request's own CQE (0, ENOENT, EALREADY) says nothing and is ignored.
* **done**: the final CQE was seen; the task is scheduled and gets the record itself as the outcome:
  Trio calls `unwrap`, which gives the record back to the pool.

A handle's close cancels without ``raise_cancel``; then ECANCELED means `trio.ClosedResourceError`.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import Abort

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from ._engine import Engine

INDEX_MASK = 0xFFFF_FFFF
GENERATION = 1 << 32
USER_DATA_MASK = 0xFFFF_FFFF_FFFF_FFFF

# A worker thread of the kernel that was interrupted may answer what user space never sees else:
# ERESTARTSYS and its like (include/linux/errno.h).
INTERRUPTED = frozenset({-errno.EINTR, -512, -513, -514, -516})
CANCELLED = INTERRUPTED | {-errno.ECANCELED}
F_MORE = 2  # CqeFlag.MORE
F_BUFFER = 1  # CqeFlag.BUFFER
BUFFER_SELECT = 1 << 5  # SqeFlag

# user_data of what no task waits for: records below this index are the engine's own.
IGNORED_ID = 0
EPOLL_ID = 1
OWN_IDS = 2


class Ignored:
    """The record of completions that say nothing: cancel requests, SQEs that were taken back."""

    __slots__ = ("user_data",)

    def __init__(self, user_data: int = IGNORED_ID) -> None:
        self.user_data = user_data

    def complete(self, res: int, flags: int) -> None:
        pass


class Notification:
    """What a zero-copy send leaves behind. KERNEL OWNS ``pins`` until the notification."""

    __slots__ = ("engine", "pins", "user_data")

    def __init__(self, engine: Engine, user_data: int, pins: Any) -> None:
        self.engine = engine
        self.user_data = user_data
        self.pins = pins

    def complete(self, res: int, flags: int) -> None:
        self.engine.in_flight -= 1
        self.engine.notifications -= 1
        self.engine.remove_record(self)


class Operation:
    """A reusable record of one operation; made by `Engine.begin`."""

    __slots__ = (
        "_abort_method",
        "bounded",
        "closing",
        "engine",
        "file",
        "flags",
        "index",
        "message",
        "pins",
        "position",
        "raise_cancel",
        "res",
        "task",
        "user_data",
    )

    def __init__(self, engine: Engine, index: int) -> None:
        self.engine = engine
        self.index = index
        self.user_data = GENERATION | index
        self.task: Any = None
        self.file: Any = None
        self.pins: Any = None
        self.raise_cancel: Callable[[], NoReturn] | None = None
        self.closing = False
        self.bounded = False
        self.res = 0
        self.flags = 0
        self.position = 0
        # Trio is told how to cancel with a message; this one serves for every use of the record.
        self._abort_method = self._abort
        self.message = engine.make_message(self._abort_method)

    def complete(self, res: int, flags: int) -> None:
        """A CQE. Called by the engine's dispatch, outside of any task."""
        engine = self.engine
        self.res = res
        self.flags = flags
        if flags & F_MORE:
            # A zero-copy send has its result; a notification will say when the data are free.
            engine.keep_until_notified(self)
        if flags & F_BUFFER and res < 0:
            engine.return_buffer(flags)
        engine.in_flight -= 1
        if self.bounded:
            engine.bounded_in_flight -= 1
        file = self.file
        if file is not None:
            file._operation_ended()
        engine.reschedule(self.task, self)

    def _abort(self, raise_cancel: Callable[[], NoReturn]) -> Abort:
        # An exception here would crash the whole run.
        if self.engine.take_back(self):
            file = self.file
            self._recycle()
            if file is not None:
                file._operation_ended()
            return Abort.SUCCEEDED
        self.raise_cancel = raise_cancel
        self.engine.cancel(self)
        return Abort.FAILED

    def unwrap(self) -> int:
        """The result, in the task that awaited it; its flags are in ``engine.flags`` until then."""
        res = self.res
        self.engine.flags = self.flags
        raise_cancel = self.raise_cancel
        closing = self.closing
        self._recycle()
        if res >= 0:
            return res
        if res in CANCELLED:
            if raise_cancel is not None:
                raise_cancel()
            if closing:
                raise trio.ClosedResourceError("another task closed this handle")
            if res in INTERRUPTED:
                raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
        raise OSError(-res, os.strerror(-res))

    def _recycle(self) -> None:
        self.task = self.file = self.pins = self.raise_cancel = None
        self.closing = self.bounded = False
        self.user_data = (self.user_data + GENERATION) & USER_DATA_MASK
        self.engine.pool.append(self)
