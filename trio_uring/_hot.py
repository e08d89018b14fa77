# SPDX-License-Identifier: MIT OR Apache-2.0
"""The engine for a Trio whose loop is known: the same as `_engine`, in fewer steps.

What an awaited operation costs is Python, not the kernel: calls, allocations, and what Trio does to
sleep and to wake. So here a transfer is begun in one call, the record itself is the outcome that
Trio sends into the task, and a task is woken by what ``Runner.reschedule`` does, written out. With
instruments that watch it, and in guest mode, `Runner.reschedule` does it itself.

An operation that mostly completes as it is submitted is submitted at once if its task is the only
one that can run: a pass of Trio's loop costs more than reading a page that is in memory. It stays a
point of cancellation. As nobody else can run, yielding would change nothing; but timers, readiness
and other threads are only looked at in a pass, so that there is one after `PROMPT_MAX` of them.

Private names of Trio in use, beside those of `_adopted`: of a task ``_runner``, ``_next_send_fn``,
``_next_send``, ``_abort_func``, ``_cancel_status``, ``_cancel_points``, ``_schedule_points``; of
the run ``runq``, ``instruments``, ``main_task``, ``ki_pending``, ``waiting_for_idle``. `recognises`
checks them.
"""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, Any

from trio._core import _run, _traps

from ._engine import Engine
from ._engine_begin import _IO_LINK, _RECV, _SEND, _WHOLE, SCRATCH
from ._errors import SubmissionQueueFull
from ._lib import lib
from ._operation import (
    BUFFER_SELECT,
    F_MORE,
    GENERATION,
    IGNORED_ID,
    INDEX_MASK,
    OWN_IDS,
    SEND_BIT,
    USER_DATA_MASK,
)
from ._prep import prep_nop
from ._prep_entry import U32, pack_any

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from ._driver import Driver
    from ._engine_ring import EngineRing
    from ._operation import Operation
    from ._options import RingOptions
    from ._sqe import Sqe

# Operations that a task may finish before the loop makes a pass.
PROMPT_MAX = 16
# Passes in a row in which it was the only one that could run.
ALONE_MIN = 8

_try_one = lib.tu_try_one
_RES_MIN = lib.TU_RES_MIN
_context: Any = _run.GLOBAL_RUN_CONTEXT
_Message: Any = _traps.WaitTaskRescheduled
_TASK_NAMES = frozenset(
    {
        "_abort_func",
        "_cancel_points",
        "_cancel_status",
        "_next_send",
        "_next_send_fn",
        "_runner",
        "_schedule_points",
        "coro",
        "custom_sleep_data",
    }
)
_RUNNER_NAMES = frozenset(
    {
        "entry_queue",
        "instruments",
        "is_guest",
        "ki_pending",
        "main_task",
        "runq",
        "waiting_for_idle",
    }
)
# What Runner.reschedule uses, in all releases from 0.22 to 0.35.
_RESCHEDULE_NAMES = frozenset(
    {
        "_NO_SEND",
        "Value",
        "_abort_func",
        "_next_send",
        "_next_send_fn",
        "_runner",
        "append",
        "call",
        "coro",
        "custom_sleep_data",
        "force_guest_tick_asap",
        "instruments",
        "is_guest",
        "runq",
        "send",
    }
)


@functools.cache
def recognises(runner: Any) -> bool:
    """Whether tasks, and runs of this class, are built as this module expects."""
    return (
        _fields(runner) >= _RUNNER_NAMES
        and _fields(_run.Task) >= _TASK_NAMES
        and frozenset(runner.reschedule.__code__.co_names) == _RESCHEDULE_NAMES
        and _fields(_Message) == {"abort_func"}
    )


def _fields(attrs_class: Any) -> set[str]:
    return {field.name for field in attrs_class.__attrs_attrs__}


class HotEngine(Engine):
    """The engine of the adopted driver."""

    __slots__ = (
        "_passes_alone",
        "_runner",
    )

    def __init__(self, options: RingOptions, driver: Driver, ring: EngineRing, runner: Any) -> None:
        self._runner = runner
        self._passes_alone = 0
        super().__init__(options, driver, ring)

    def current_task(self) -> Any:
        """As `Engine.current_task`."""
        try:
            task = _context.task
        except AttributeError:
            raise RuntimeError("must be called from async context") from None
        if task._runner is not self._runner:
            raise RuntimeError("this handle belongs to another Trio run")
        return task

    def message_for(self, operation: Operation) -> Any:
        """As `Engine.message_for`."""
        return _Message(operation.abort)

    def is_idle(self) -> bool:
        """Nothing is in flight: all records are free."""
        free = len(self.pool) + len(self.scratch_pool) + len(self._free_indices)
        return len(self.records) == OWN_IDS + free

    def has_work(self) -> bool:
        """The next pass has something to submit, or to do without the kernel."""
        ring = self.ring
        # The head: what the kernel did not take (EAGAIN) is submitted again.
        unsubmitted = ring._sq_head[0] != ring._tail
        return bool(
            unsubmitted
            or self._cancels
            or self._cancels_again
            or self._stash
            or self.reclaim
            or self.cancelled_chains
        )

    def begin(self, file: Any, bounded: bool, scratch: bool = False) -> tuple[Operation, Sqe]:
        """As `Engine.begin`."""
        try:
            task = _context.task
        except AttributeError:
            raise RuntimeError("must be called from async context") from None
        if task._runner is not self._runner:
            raise RuntimeError("this handle belongs to another Trio run")
        ring = self.ring
        if ring._tail == ring._limit:
            self._make_room()
        tail = ring._tail
        ring._tail = (tail + 1) & U32
        pool = self.scratch_pool if scratch else self.pool
        operation = pool.pop() if pool else self._new_record()
        operation.task = task
        operation.position = tail
        if file is not None:
            operation.file = file
            file._in_flight += 1
        if bounded and self.clock_jumps:
            self.hold_clock(operation)
        return operation, ring._entries[tail & ring._mask]

    def nothing_happened(self) -> None:
        """A pass without completions: as `dispatch` of none."""
        if self.reclaim:
            self.reclaim_dropped()
        self._pass_begins(len(self._runner.runq))

    def _pass_begins(self, runnable: int) -> None:
        """So many tasks can run. Servers of many must not be taken for one that is alone.

        Finishing in place is best for one task, and keeps many from being served together.
        """
        if runnable > 1:
            self._passes_alone = self._prompt_left = 0
        else:
            self._passes_alone += 1
            self._prompt_left = PROMPT_MAX if self._passes_alone > ALONE_MIN else 0

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
        """As `Engine.begin_transfer`."""
        if file._slot < 0:
            file._checked_slot()
        try:
            task = _context.task
        except AttributeError:
            raise RuntimeError("must be called from async context") from None
        if task._runner is not self._runner:
            raise RuntimeError("this handle belongs to another Trio run")
        ring = self.ring
        if ring._tail == ring._limit:
            self._make_room()
        tail = ring._tail
        ring._tail = (tail + 1) & U32
        pool = self.scratch_pool if address == SCRATCH else self.pool
        operation = pool.pop() if pool else self._new_record()
        operation.task = task
        operation.position = tail
        operation.file = file
        operation.pins = pins
        file._in_flight += 1
        if address == SCRATCH:
            address = operation.scratch_at or operation.make_scratch()
        try:
            pack_any(
                ring._rows,
                (tail & ring._mask) << 6,
                opcode,
                sqe_flags | file._fixed,
                file._number,
                offset,
                address,
                nbytes,
                op_flags,
                operation.user_data,
            )
        except BaseException as exc:
            raise self.discarded(operation, exc) from None
        return operation

    def begin_exchange(
        self, file: Any, address: int, nbytes: int, bufsize: int, pins: Any = None
    ) -> Operation:
        """As `Engine.begin_exchange`."""
        ring = self.ring
        position = ring._tail
        if (ring._limit - position) & U32 < 2:
            self.make_room(2)
            position = ring._tail
        # The entry of the send is written when the record is there.
        ring._tail = (position + 1) & U32
        try:
            # A receive that selects a buffer has no use for an address: here it says which record.
            where = SCRATCH if address == SCRATCH else 0
            operation = self.begin_transfer(file, _RECV, BUFFER_SELECT, where, bufsize, 0, 0, pins)
        except BaseException:
            prep_nop(ring.entry(position), IGNORED_ID)
            raise
        if address == SCRATCH:
            address = operation.scratch_at
        operation.sent = -1
        pack_any(
            ring._rows,
            (position & ring._mask) << 6,
            _SEND,
            _IO_LINK | file._fixed,
            file._number,
            0,
            address,
            nbytes,
            _WHOLE,
            operation.user_data | SEND_BIT,
        )
        return operation

    def _make_room(self) -> None:
        """The queue seems to be full, or the ring is closed or a parent's, which raises."""
        try:
            self.ring._make_room()
        except SubmissionQueueFull:
            self._submit_full_queue()
            self.ring._make_room()

    @types.coroutine
    def wait(self, operation: Operation, prompt: bool = False) -> Generator[Any, Any, int]:
        """As `Engine.wait`."""
        outcome: Any = operation
        if not (prompt and self._prompt_left and self._finished_now(operation)):
            outcome = yield operation.message
        res = operation.res
        if outcome is not operation or res < 0:
            try:
                result: int = outcome.unwrap()
                return result
            finally:
                del outcome  # holds the exception, and that this frame
        # As Operation.recycle.
        operation.file = operation.pins = operation.raise_cancel = None
        operation.closing = operation.bounded = False
        operation.user_data = (operation.user_data + GENERATION) & USER_DATA_MASK
        (self.scratch_pool if operation.scratch_at else self.pool).append(operation)
        return res

    def _finished_now(self, operation: Operation) -> bool:
        """Submits it out of turn, if nobody else can run; whether it has completed."""
        runner, task = self._runner, operation.task
        if (
            runner.runq
            or task._cancel_status.effectively_cancelled
            or (runner.ki_pending and task is runner.main_task)
        ):
            return False
        self._prompt_left -= 1
        buffers = self.buffers
        if self._cancels or (buffers is not None and buffers.returned):
            try:
                self._hand_over()
            except (SubmissionQueueFull, OSError):
                self._prompt_left = 0
                return False  # the next pass tries again, and tells
        ring = self.ring
        res = _try_one(ring._ring, ring._tail, operation.user_data)
        if res == _RES_MIN:
            # It takes its time, or somebody else can run too, or nothing was submitted.
            self._flushed = int(ring._ring.flushed)
            self._prompt_left = 0
            return False
        self._flushed = ring._tail
        self.completed += 1
        operation.res = res
        operation.flags = 0
        operation.task = None
        file = operation.file
        if file is not None:
            if file._slot >= 0:
                file._in_flight -= 1
            else:
                file._operation_ended()
        task._cancel_points += 1
        task._schedule_points += 1
        return True

    def dispatch(self, cqes: Sequence[tuple[int, int, int]]) -> None:
        """As `Engine.dispatch`."""
        runner = self._runner
        runq = runner.runq
        if runner.is_guest or "task_scheduled" in runner.instruments:
            super().dispatch(cqes)
        else:
            records, wake = self.records, runq.append
            for user_data, res, flags in cqes:
                record = records[user_data & INDEX_MASK]
                task = record.task
                if record.user_data != user_data:
                    if task is not None and record.user_data | SEND_BIT == user_data:
                        record.send_ended(res)
                    else:
                        self.complete(record, user_data, res, flags)
                    continue
                if task is None or res < 0 or flags & F_MORE:
                    record.complete(res, flags)
                    continue
                record.res = res
                record.flags = flags
                record.task = None
                file = record.file
                if file is not None:
                    if file._slot >= 0:
                        file._in_flight -= 1
                    else:
                        file._operation_ended()
                task._next_send_fn = task.coro.send
                task._next_send = record
                task._abort_func = None
                task.custom_sleep_data = None
                wake(task)
            if self.reclaim:
                self.reclaim_dropped()
        self._pass_begins(len(runq))
