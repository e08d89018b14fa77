# SPDX-License-Identifier: MIT OR Apache-2.0
"""The heart of a run: submits operations, hands completions to tasks, cancels. Knows no driver.

One engine per Trio run. A driver calls `turn` once per pass of Trio's loop and gives the
completions to `dispatch`. This is the plain form, with Trio's public names only; `_hot` has the
same for a Trio whose loop it knows, in fewer steps.
"""

from __future__ import annotations

import errno
import os
import time
from struct import error as StructError
from typing import TYPE_CHECKING, Any

from outcome import Error
from trio import lowlevel
from trio.lowlevel import enable_ki_protection

from ._engine_files import EngineFiles
from ._errors import SubmissionQueueFull
from ._operation import (
    EPOLL_ID,
    IGNORED_ID,
    INDEX_MASK,
    OWN_IDS,
    Ignored,
    Notification,
    Operation,
)
from ._prep import prep_cancel, prep_nop
from ._prep_entry import pack_any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ._driver import Driver
    from ._engine_ring import EngineRing
    from ._options import RingOptions
    from ._sqe import Sqe

U32 = 0xFFFFFFFF

# EBUSY, EAGAIN: the kernel wants completions to be taken, or has no memory now; the SQEs stay
# queued.
_TRY_AGAIN = frozenset({-errno.EINTR, -errno.ETIME, -errno.EBUSY, -errno.EAGAIN})

# How long the end of a run waits for operations that cannot be cancelled: a disk read that began.
DRAIN_TIMEOUT_S = 10.0

# For `Engine.begin_transfer`: the record's own memory.
SCRATCH = -1


class Engine(EngineFiles):
    """One ring, its file table, and the operations in flight."""

    def __init__(self, options: RingOptions, driver: Driver, ring: EngineRing) -> None:
        super().__init__(options, ring)
        self.driver = driver
        self.clock_jumps = driver.clock_jumps
        self.token = lowlevel.current_trio_token()
        # What broke the driver; every later use raises it.
        self.failure: BaseException | None = None

        self.records: list[Any] = [Ignored(), Ignored(EPOLL_ID)]
        assert len(self.records) == OWN_IDS
        self.pool: list[Operation] = []
        # KERNEL OWNS what these records pin; if the ring cannot be drained they are kept for ever.
        self.ring.hold("engine", self.records)
        self.ring.on_fork = self._close_companions
        self._free_indices: list[int] = []
        self._generation = 0
        self._cancels: list[int] = []
        # CQEs that had to be taken out in mid-pass, for the next dispatch.
        self._stash: list[tuple[int, int, int]] = []
        self._flushed = 0

        # Zero-copy sends that are done but for the word that their data are free.
        self.notifications = 0
        self.completed = 0
        self.queue_full_count = self.overflow_count = 0
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

    def begin(self, file: Any, bounded: bool) -> tuple[Operation, Sqe]:
        """A record and an SQE for one operation of the current task.

        ``file``: the handle whose slot the SQE names. ``bounded``: it ends by itself in a bounded
        time, as on a file; a `MockClock` does not jump meanwhile.
        """
        task = self.current_task()
        sqe = self.own_sqe()
        operation = self.pool.pop() if self.pool else self._new_record()
        operation.task = task
        operation.position = (self.ring.tail - 1) & U32
        if file is not None:
            operation.file = file
            file._in_flight += 1
        if bounded:
            self.hold_clock(operation)
        return operation, sqe

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
        """Begins a read, write, send or receive on a handle, for `wait` or `wait_prompt`.

        ``address`` may be `SCRATCH`: up to `SCRATCH_BYTES` of memory that the record has. KERNEL
        OWNS ``pins`` until the final CQE.

        Raises:
            trio.ClosedResourceError: the handle is closed.
            RuntimeError: not in the run of this engine.
        """
        number = file._checked_number()
        operation, sqe = self.begin(file, False)
        operation.pins = pins
        if address == SCRATCH:
            address = operation.scratch_at or operation.make_scratch()
        try:
            pack_any(
                sqe.memory,
                sqe.at,
                opcode,
                sqe_flags | file._fixed,
                number,
                offset,
                address,
                nbytes,
                op_flags,
                operation.user_data,
            )
        except BaseException as exc:
            raise self.discarded(operation, exc) from None
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

    def own_sqe(self) -> Sqe:
        """An SQE for the engine, its driver, or a multishot; not tied to a task."""
        try:
            return self.ring.get_sqe()
        except SubmissionQueueFull:
            self._submit_full_queue()
            return self.ring.get_sqe()

    # -- waiting -------------------------------------------------------------------------------

    def wait(self, operation: Operation) -> Awaitable[int]:
        """Sleeps until the operation has ended; its result, or what `Operation.unwrap` raises."""
        return lowlevel.wait_task_rescheduled(operation.abort)  # noqa: ASYNC105

    def wait_prompt(self, operation: Operation) -> Awaitable[int]:
        """`wait` for one that mostly completes as it is submitted: a read of what is cached."""
        return self.wait(operation)

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
        operation, sqe = self.begin(None, bounded)
        operation.pins = pins
        try:
            prep(sqe, *args, operation.user_data, flags)
        except BaseException as exc:
            raise self.discarded(operation, exc) from None
        return await (self.wait_prompt(operation) if bounded else self.wait(operation))

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
        operation, sqe = self.begin(file, bounded)
        operation.pins = pins
        try:
            prep(sqe, number, *args, operation.user_data, flags | file._fixed)
        except BaseException as exc:
            raise self.discarded(operation, exc) from None
        return await (self.wait_prompt(operation) if bounded else self.wait(operation))

    def discarded(self, operation: Operation, error: BaseException) -> BaseException:
        """Takes back a record whose SQE could not be written; the exception to raise."""
        file = operation.file
        prep_nop(self.ring.entry(operation.position), IGNORED_ID)
        operation.recycle()
        if file is not None:
            file._operation_ended()
        if isinstance(error, StructError):
            return ValueError(f"an argument does not fit its field of the entry: {error}")
        return error

    def take_back(self, operation: Operation) -> bool:
        """Makes the operation's SQE a NOP, if it was not submitted yet."""
        tail = self.ring.tail
        if (operation.position - self._flushed) & U32 >= (
            tail - self._flushed
        ) & U32 or self.closed:
            return False
        sqe = self.ring.entry(operation.position)
        if sqe.user_data != operation.user_data:
            return False  # the position of an operation that is 2**32 SQEs old
        prep_nop(sqe, IGNORED_ID)
        return True

    # -- cancelling ----------------------------------------------------------------------------

    def cancel(self, record: Any) -> None:
        """Asks the kernel to cancel; only the operation's own final CQE says whether it did."""
        if self.closed:
            return
        self._cancels.append(record.user_data)
        if self.driver.submits_cancels_at_once:
            try:
                self.flush_now()
            except (SubmissionQueueFull, OSError):
                # Trio does not survive an exception here; the next pass tries again, and tells.
                self.driver.wake()

    def cancel_operations_of(self, file: Any) -> None:
        """For a handle that is being closed: its waiters get `trio.ClosedResourceError`."""
        for record in self.records:
            held = getattr(record, "file", None)
            if held is not file and file not in getattr(held, "members", ()):
                continue
            if not record.in_flight:
                continue  # its task has not run since
            record.closing = True
            if isinstance(record, Operation) and self.take_back(record):
                record.complete(-errno.ECANCELED, 0)
            else:
                self.cancel(record)

    def _write_cancels(self) -> None:
        while self._cancels:
            user_data = self._cancels[-1]
            # Else it has ended meanwhile.
            if self.records[user_data & INDEX_MASK].user_data == user_data:
                prep_cancel(self.own_sqe(), user_data, 0, IGNORED_ID)
                self.cancels_sent += 1
            self._cancels.pop()

    # -- one pass ------------------------------------------------------------------------------

    def turn(self, timeout_ns: int) -> list[tuple[int, int, int]]:
        """Submits what is prepared and returns completions, waiting ``timeout_ns`` for the first.

        One system call at the most. An empty list: the time is over.
        """
        self._hand_over()
        deadline = 0
        if timeout_ns:
            if self._stash:
                timeout_ns = 0
            else:
                deadline = time.monotonic_ns() + timeout_ns
        while True:
            count = self.ring.turn(1 if timeout_ns else 0, timeout_ns)
            self._flushed = self.ring.tail
            if count > 0:
                self.overflow_count += count == self.ring.cq_entries
                break
            if count < 0 and count not in _TRY_AGAIN:
                self.ring.check(count, "io_uring_enter")
            # io_uring_enter hides ETIME and EINTR once it has submitted something: ask the clock.
            if not timeout_ns or (timeout_ns := deadline - time.monotonic_ns()) <= 0:
                break
        cqes = self.ring.turned(count)
        self.completed += len(cqes)
        if self._stash:
            cqes, self._stash = self._stash + cqes, []
        return cqes

    def submit(self) -> None:
        """Submits what is prepared, for a driver whose loop sleeps elsewhere."""
        self._hand_over()
        code = self.ring.submit_now()
        self._flushed = self.ring.tail
        if code < 0 and code not in _TRY_AGAIN:
            self.ring.check(code, "io_uring_enter")

    def awaits(self) -> bool:
        """A task waits for an operation of its own; multishots are not counted."""
        return any(isinstance(record, Operation) and record.in_flight for record in self.records)

    def has_news(self) -> bool:
        """The next `dispatch` has something to do: a loop that sleeps elsewhere must not."""
        return bool(self._stash) or self.ring.has_completions()

    def _hand_over(self) -> None:
        """What must reach the kernel before it is entered: cancels, buffers."""
        if self._cancels:
            self._write_cancels()
        buffers = self.buffers
        if buffers is not None and buffers.returned:
            buffers.give_back()

    def fail(self, failure: BaseException) -> None:
        """The driver broke: every task that waits for an operation gets the error."""
        self.failure = failure
        for record in self.records:
            if isinstance(record, Operation) and record.in_flight:
                task, record.task = record.task, None
                lowlevel.reschedule(task, Error(failure))

    def dispatch(self, cqes: Sequence[tuple[int, int, int]]) -> None:
        """Hands each completion to its record."""
        for user_data, res, flags in cqes:
            self.complete(self.records[user_data & INDEX_MASK], user_data, res, flags)
        # Here and not before the wait: who gets a slot now must not sleep through it.
        if self.reclaim:
            self.reclaim_dropped()

    def complete(self, record: Any, user_data: int, res: int, flags: int) -> None:
        """Hands one completion to the record, unless it has had its final one."""
        if record.user_data == user_data:
            record.complete(res, flags)
        else:
            self.late_completions += 1

    def flush_now(self) -> None:
        """Submits what is prepared, cancels included, and lets the kernel work it off.

        A cancelled operation lets go of its file only when its completion is worked off.
        """
        self._write_cancels()
        self._take_out()

    def _submit_full_queue(self) -> None:
        self.queue_full_count += 1
        fruitless = 0
        while fruitless < 3:
            stashed = len(self._stash)
            self._take_out()
            if not self.ring.is_full():
                return
            # EBUSY: kernels before 6.0 submit nothing while completions overflow.
            fruitless = 0 if len(self._stash) > stashed else fruitless + 1
        raise SubmissionQueueFull("the kernel takes no submissions")

    def _take_out(self) -> None:
        count = self.ring.work_off()
        self._flushed = self.ring.tail
        if count < 0 and count not in _TRY_AGAIN:
            self.ring.check(count, "io_uring_enter")
        taken = self.ring.turned(count)
        self.completed += len(taken)
        self._stash += taken
        if self._stash:
            self.driver.wake()

    # -- records that are no single operation --------------------------------------------------

    def add_record(self, record: Any) -> None:
        """Gives a multishot or its like an index and a ``user_data``."""
        if self._free_indices:
            index = self._free_indices.pop()
            self.records[index] = record
        else:
            index = len(self.records)
            self.records.append(record)
        self._generation = (self._generation + 1) & 0x7FFF_FFFF
        record.user_data = (self._generation << 32) | index

    def remove_record(self, record: Any) -> None:
        """Its final CQE was seen, and there will be no further one."""
        index = record.user_data & INDEX_MASK
        self.records[index] = self.records[IGNORED_ID]
        self._free_indices.append(index)
        record.user_data = IGNORED_ID

    # -- end -----------------------------------------------------------------------------------

    def close(self) -> None:
        """The run ends: closes what is open, cancels what is in flight, closes the ring."""
        if self.closed:
            return
        self.closed = True
        self.ring.on_fork = None
        try:
            if self.pid == os.getpid():
                self._close_files()
        finally:
            # A peer that does not read can hold back a notification for as long as it likes.
            only_notifications = self.in_flight == self.notifications
            self.ring.close(0.1 if only_notifications and self.in_flight else DRAIN_TIMEOUT_S)
