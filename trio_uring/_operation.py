# SPDX-License-Identifier: MIT OR Apache-2.0
"""One awaited operation, from its SQE to its final CQE. Ownership is written here.

Its members, and what happens to it when all goes well, are in C: ``_csrc/python/operation.c``.

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
  `unwrap` gives the record back to the pool.

A handle's close cancels without ``raise_cancel``; then ECANCELED means `trio.ClosedResourceError`.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import trio
from outcome import Error
from trio.lowlevel import Abort

from . import _native
from ._prep_entry import U32

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import NoReturn

    from ._engine_begin import EngineBegin

INDEX_MASK = 0xFFFF_FFFF
# Above an index and a generation of 29 bits: of a request to cancel; of the send that an operation
# is linked behind; of an operation in a batch.
CANCEL_BIT = 1 << 61
SEND_BIT = 1 << 62
BATCH_BIT = 1 << 63

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


class Record:
    """What the engine finds under an index: whoever gets completions."""

    __slots__ = ("user_data",)
    # The task to wake, if there is but one and it waits for nothing else.
    task: Any = None
    in_flight = True
    # It ends by itself in a bounded time.
    bounded = False
    # Its result, if it is no error, is a descriptor.
    brings_fd = False
    # Part of it begins when another part has ended.
    is_linked = False

    def __init__(self, user_data: int = IGNORED_ID) -> None:
        self.user_data = user_data

    def complete(self, res: int, flags: int) -> None:
        """A CQE. Called by the engine's dispatch, outside of any task."""

    def targets(self) -> Iterable[int]:
        """user_data of the operations to cancel."""
        return (self.user_data,)

    def driver_broke(self, failure: BaseException) -> None:
        """No completion will come: who waits for one shall look, and be told."""


class Ignored(Record):
    """The record of completions that say nothing: SQEs that were taken back."""

    __slots__ = ()
    in_flight = False


class Notification(Record):
    """What a zero-copy send leaves behind. KERNEL OWNS ``pins`` until the notification."""

    __slots__ = ("engine", "pins")

    def __init__(self, engine: EngineBegin, user_data: int, pins: Any) -> None:
        self.engine = engine
        self.user_data = user_data
        self.pins = pins

    def complete(self, res: int, flags: int) -> None:
        self.engine.notifications -= 1
        self.engine.remove_record(self)


class BringsFd:
    """Pins of an operation whose result is a new descriptor: if nobody gets it, it is closed."""

    __slots__ = ("pins",)

    def __init__(self, pins: Any = None) -> None:
        self.pins = pins


class Operation(_native.Operation):
    """A reusable record of one operation; made by `Engine.begin`.

    Its members:

    * ``engine``, ``index``, ``user_data``.
    * ``task``: who waits for it, from its SQE to its final CQE.
    * ``file``: the handle that its SQE names. ``position``: where its SQE is in the queue.
    * ``pins``. ``bounded``: it ends by itself in a bounded time.
    * ``raise_cancel``: set by a cancellation. ``closing``: the handle is being closed.
    * ``res`` and ``flags``, of its final CQE.
    * ``linked``: behind a send, for an exchange. ``sent``: what that answers, all if nothing comes.
    * ``abort`` and ``message`` serve for every use of the record: how Trio cancels it, and
      `Engine.message_for`.
    """

    __slots__ = ()

    def __init__(self, engine: EngineBegin, index: int) -> None:
        super().__init__(engine, index)
        self.abort = self._abort
        self.message = engine.message_for(self)

    def driver_broke(self, failure: BaseException) -> None:
        """As `Record.driver_broke`: the task that waits gets the error."""
        task, self.task = self.task, None
        if task is not None:
            trio.lowlevel.reschedule(task, Error(failure))

    @property
    def in_flight(self) -> bool:
        """Its SQE is written and its final CQE was not seen."""
        return self.task is not None

    def targets(self) -> Iterable[int]:
        """As `Record.targets`. The send first: once it is over, the other has begun."""
        if self.linked:
            return (self.user_data | SEND_BIT, self.user_data)
        return (self.user_data,)

    def send_ended(self, res: int) -> None:
        """Not all was sent: of the receive behind it nothing comes."""
        self.sent = res
        self.complete(-errno.ECANCELED, 0)

    @property
    def is_linked(self) -> bool:
        """As `Record.is_linked`."""
        return self.linked

    def entries(self) -> Iterable[tuple[int, int]]:
        """Where its SQEs are, and the user_data of each."""
        yield self.position, self.user_data
        if self.linked:
            yield (self.position - 1) & U32, self.user_data | SEND_BIT

    def taken_back(self) -> None:
        """None of its SQEs was submitted, nor will be."""
        self.linked = False

    @property
    def brings_fd(self) -> bool:
        """Its result, if it is no error, is a descriptor."""
        return isinstance(self.pins, BringsFd)

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
        file, task = self.file, self.task
        self.task = None
        if file is not None:
            file._operation_ended()
        if task is not None:
            trio.lowlevel.reschedule(task, self)  # type: ignore[arg-type]
        elif engine.failure is None:
            self.recycle()  # its task had no memory to wait for it; else `Engine.fail` has woken it

    def _abort(self, raise_cancel: Callable[[], NoReturn]) -> Abort:
        # An exception here would crash the whole run.
        self.raise_cancel = raise_cancel
        if self.engine.take_back(self):
            # Not SUCCEEDED: Trio's loop would keep the exception, and with it the frames and the
            # buffers of this call, until the next checkpoint of the task.
            self.complete(-errno.ECANCELED, 0)
        else:
            self.engine.cancel(self)
        return Abort.FAILED

    def _raise(self) -> Any:
        """The result is an error: what the task that awaited it gets."""
        res = self.res
        raise_cancel = self.raise_cancel
        closing = self.closing
        self.recycle()
        if res in CANCELLED:
            if raise_cancel is not None:
                raise_cancel()
            if closing:
                raise trio.ClosedResourceError("another task closed this handle")
            if res in INTERRUPTED:
                raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
        raise OSError(-res, os.strerror(-res))
