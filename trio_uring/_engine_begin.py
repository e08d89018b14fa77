# SPDX-License-Identifier: MIT OR Apache-2.0
"""The half of the engine that tasks call: it begins operations, and waits for them.

What they do for every operation is in C, in ``_csrc/python/engine.c``, and ``transfers.c`` for
those that are done most. It uses the public names of Trio that it is given here, or those that
`_hot` knows.
"""

from __future__ import annotations

from struct import error as StructError
from threading import get_ident
from typing import TYPE_CHECKING, Any

from trio import lowlevel
from trio.lowlevel import enable_ki_protection

from ._engine_files import EngineFiles
from ._errors import SubmissionQueueFull
from ._operation import (
    EPOLL_ID,
    IGNORED_ID,
    OWN_IDS,
    Ignored,
    Notification,
    Operation,
)
from ._prep import prep_nop
from ._prep_entry import U32

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._driver import Driver
    from ._engine_ring import EngineRing
    from ._options import RingOptions
    from ._sqe import Sqe
    from ._waiter import Waiter


class EngineBegin(EngineFiles):
    """The records of the operations in flight, and how they begin."""

    __slots__ = (
        "_inside",
        "_not_found",
        "_thread",
        "cancels_sent",
        "driver",
        "late_completions",
        "notifications",
        "queue_full_count",
    )

    def __init__(self, options: RingOptions, driver: Driver, ring: EngineRing) -> None:
        super().__init__(options, ring)
        self.driver = driver
        self.clock_jumps = driver.clock_jumps
        self.token = lowlevel.current_trio_token()
        # What C calls; `_hot` has it do without.
        self._current_task = lowlevel.current_task
        self._current_token = lowlevel.current_trio_token
        self._sleep = lowlevel.wait_task_rescheduled
        self._reschedule = lowlevel.reschedule
        # What broke the driver; every later use raises it.
        self.failure = None

        self.records = [Ignored(), Ignored(EPOLL_ID)]
        assert len(self.records) == OWN_IDS
        # KERNEL OWNS what these records pin; if the ring cannot be drained they are kept for ever.
        self.ring.hold("engine", self.records)
        self.ring.on_fork = self._close_companions
        self._free_indices = []
        self._generation = 0
        self._thread = get_ident()
        # A step goes on that a cancel must not come into: see `_engine`.
        self._inside = 0
        self._cancels = []
        # Of those that a request to cancel did not find, and of them, those whose time to wait
        # before the next request has not begun.
        self._not_found: set[int] = set()
        self._cancels_again = []
        # CQEs that had to be taken out in mid-pass, for the next dispatch.
        self._stash = []

        # Of the exchange that failed last, in the task that it failed in: `Operation.sent`.
        self.sent = 0
        # Batches of chains that shall end: a link that has begun since must be cancelled, too.
        self.cancelled_chains = []
        # Zero-copy sends that are done but for the word that their data are free.
        self.notifications = 0
        self.queue_full_count = 0
        self.cancels_sent = self.late_completions = 0

    @property
    def in_flight(self) -> int:
        """Operations prepared or submitted whose final CQE was not seen."""
        return sum(record.in_flight for record in self.records)

    @property
    def bounded_in_flight(self) -> int:
        """Of them, those that a `MockClock` must not jump over; 0 with other clocks."""
        return sum(record.in_flight and record.bounded for record in self.records)

    # -- preparing -----------------------------------------------------------------------------

    def current_task(self) -> Any:
        """The running task, if it is one of this run.

        Raises:
            RuntimeError: it is not, or there is none.
        """
        task = lowlevel.current_task()
        if lowlevel.current_trio_token() is not self.token:
            raise RuntimeError("this handle belongs to another Trio run")
        if self.failure is not None:
            raise self.failure
        return task

    def check_run(self) -> None:
        """Raises outside of the run of this engine, before anything is changed.

        Raises:
            RuntimeError: in another run, or none.
            ForkedRingError: in a child of its process.
        """
        self.current_task()
        if self.ring.fd < 0:
            self.ring.cq_ready()  # raises what is wrong

    def begin_transfer(
        self,
        file: Any,
        opcode: int,
        sqe_flags: int,
        address: int,
        nbytes: int,
        offset: int,
        op_flags: int = 0,
        pins: Any = None,
    ) -> Operation:
        """Begins a read, write, send or receive on a handle, for `wait`.

        KERNEL OWNS ``pins`` until the final CQE.

        Raises:
            trio.ClosedResourceError: the handle is closed.
            RuntimeError: not in the run of this engine.
        """
        number, flags = file._checked_number(), sqe_flags | file._fixed
        operation: Operation = self.begin_entry(
            file, opcode, flags, number, offset, address, nbytes, op_flags, 0, pins
        )
        return operation

    def hold_clock(self, operation: Operation) -> None:
        """The operation ends by itself in a bounded time: a `MockClock` waits for it."""
        if self.clock_jumps:
            operation.bounded = True
            self.driver.operation_began()

    def keep_until_notified(self, operation: Operation) -> None:
        """The operation has its result, but one more CQE will come for its user_data."""
        tail = Notification(self, operation.user_data, operation.pins)
        self.records[operation.index] = tail
        self.notifications += 1
        operation.index = len(self.records)
        operation.user_data = operation.index
        self.records.append(operation)

    def _new_record(self) -> Operation:
        operation = Operation(self, len(self.records))
        self.records.append(operation)
        return operation

    def message_for(self, waiting: Operation | Waiter) -> Any:
        """What `wait` needs to say how the operation is cancelled."""
        return waiting.abort

    def _make_room(self) -> None:
        """The queue seems to be full, or the ring is closed or a parent's, which raises."""
        try:
            self.ring._make_room()
        except SubmissionQueueFull:
            self._submit_full_queue()
            self.ring._make_room()

    def make_room(self, count: int) -> None:
        """There are ``count`` free entries, which the next submit takes together."""
        try:
            self.ring._need_room(count)
        except SubmissionQueueFull:
            self._submit_full_queue()
            self.ring._need_room(count)

    def own_sqe(self) -> Sqe:
        """An SQE for the engine, its driver, or a multishot; not tied to a task."""
        try:
            return self.ring.get_sqe()
        except SubmissionQueueFull:
            self._submit_full_queue()
            return self.ring.get_sqe()

    # -- waiting -------------------------------------------------------------------------------

    def wait_for(self, waiter: Waiter) -> Awaitable[int]:
        """``wait`` for what is no operation."""
        return lowlevel.wait_task_rescheduled(waiter.message)  # noqa: ASYNC105

    @enable_ki_protection
    async def perform(
        self,
        prep: Callable[..., None],
        *args: Any,
        pins: Any = None,
        bounded: bool = True,
        flags: int = 0,
    ) -> int:
        """Awaits one operation that names no slot: ``prep(sqe, *args, user_data, flags)``.

        Returns its result >= 0; raises what `Operation.unwrap` says. KERNEL OWNS ``pins`` until
        then.
        """
        operation: Operation = self.begin_record(None)
        operation.pins = pins
        if bounded and self.clock_jumps:
            self.hold_clock(operation)
        try:
            prep(operation.sqe, *args, operation.user_data, flags)
        except BaseException as exc:
            raise self.discarded(operation, exc) from None
        return await self.wait(operation, bounded)

    @enable_ki_protection
    async def perform_on(
        self,
        file: Any,
        prep: Callable[..., None],
        *args: Any,
        pins: Any = None,
        bounded: bool = True,
        flags: int = 0,
    ) -> int:
        """Awaits one operation on a handle: ``prep(sqe, number, *args, user_data, flags)``."""
        number = file._checked_number()
        operation: Operation = self.begin_record(file)
        operation.pins = pins
        if bounded and self.clock_jumps:
            self.hold_clock(operation)
        try:
            prep(operation.sqe, number, *args, operation.user_data, flags | file._fixed)
        except BaseException as exc:
            raise self.discarded(operation, exc) from None
        return await self.wait(operation, bounded)

    def discarded(self, operation: Operation, error: BaseException) -> BaseException:
        """Takes back a record whose SQE could not be written; the exception to raise."""
        file = operation.file
        prep_nop(operation.sqe, IGNORED_ID)
        operation.recycle()
        if file is not None:
            file._operation_ended()
        if isinstance(error, StructError):
            return ValueError(f"an argument does not fit its field of the entry: {error}")
        return error

    def take_back(self, operation: Operation) -> bool:
        """Makes the operation's SQE a NOP, if it was not submitted yet."""
        tail = self.ring.tail
        if (
            (operation.position - self._flushed) & U32 >= (tail - self._flushed) & U32
            or self.closed
            or get_ident() != self._thread
        ):
            return False
        for position, user_data in operation.entries():
            sqe = self.ring.entry(position)
            if sqe.user_data != user_data:
                return False  # the position of an operation that is 2**32 SQEs old
            prep_nop(sqe, IGNORED_ID)
        operation.taken_back()
        return True

    # -- the other half ------------------------------------------------------------------------

    def cancel(self, record: Any) -> None:
        """As `Engine.cancel`."""
        raise NotImplementedError

    def _submit_full_queue(self) -> None:
        raise NotImplementedError
