# SPDX-License-Identifier: MIT OR Apache-2.0
"""The heart of a run: submits operations, hands completions to tasks, cancels. Knows no driver.

One engine per Trio run. A driver calls `turn` once per pass of Trio's loop and gives the
completions to `dispatch`, or has C do both where nothing is unusual: ``_csrc/python/turn.c``.
"""

from __future__ import annotations

import errno
import functools
import os
from threading import get_ident
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from ._engine_begin import EngineBegin
from ._errors import SubmissionQueueFull
from ._lib import address_of, ffi
from ._operation import (
    CANCEL_BIT,
    INDEX_MASK,
    SEND_BIT,
    Notification,
    Operation,
)
from ._prep import prep_cancel, prep_timeout

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Concatenate, TypeVar

    from typing_extensions import ParamSpec

    ParamsT = ParamSpec("ParamsT")
    ResultT = TypeVar("ResultT")


# EBUSY, EAGAIN: the kernel wants completions to be taken, or has no memory now; the SQEs stay
# queued.
_TRY_AGAIN = frozenset({-errno.EINTR, -errno.ETIME, -errno.EBUSY, -errno.EAGAIN})

# struct __kernel_timespec; the kernel reads it as it takes the entry.
_AGAIN_AFTER = ffi.new("int64_t[2]", [0, 5_000_000])
_AGAIN_AFTER_AT = address_of(_AGAIN_AFTER)

# How long the end of a run waits for operations that cannot be cancelled: a disk read that began.
DRAIN_TIMEOUT_S = 10.0


def _in_one_step(
    method: Callable[Concatenate[Engine, ParamsT], ResultT],
) -> Callable[Concatenate[Engine, ParamsT], ResultT]:
    """Cancels that come in its middle, from finalizers and signal handlers, wait for its end.

    The completions that it looks at would be overwritten by those that submitting them brings.
    """

    @functools.wraps(method)
    def step(self: Engine, /, *args: ParamsT.args, **kwargs: ParamsT.kwargs) -> ResultT:
        self._inside += 1
        try:
            return method(self, *args, **kwargs)
        finally:
            self._inside -= 1

    return step


class Engine(EngineBegin):
    """One ring, its file table, and the operations in flight."""

    # -- cancelling ----------------------------------------------------------------------------

    def cancel(self, record: Any) -> None:
        """Asks the kernel to cancel; only the operation's own final CQE says whether it did."""
        if self.closed:
            return
        self._cancels.append(record.user_data)
        if not self.driver.submits_cancels_at_once:
            return
        if self._inside or get_ident() != self._thread:
            # Called by what a step of the engine made Python run: a finalizer, a signal handler.
            self.driver.wake()
        else:
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
            # Taken first: others may come in the middle.
            user_data = self._cancels.pop()
            try:
                self._write_cancel(user_data)
            except BaseException:
                self._cancels.append(user_data)
                raise
        while self._cancels_again:
            user_data = self._cancels_again[-1]
            prep_timeout(self.own_sqe(), _AGAIN_AFTER_AT, 0, 0, CANCEL_BIT | user_data)
            self._cancels_again.remove(user_data)

    def _write_cancel(self, user_data: int) -> None:
        record = self.records[user_data & INDEX_MASK]
        if record.user_data != user_data:
            return  # it has ended meanwhile
        if record.is_linked:
            # What is linked behind an operation that has ended begins as deferred work of the
            # kernel; before that no cancel finds it.
            self._take_out()
        for target in record.targets():
            prep_cancel(self.own_sqe(), target, 0, CANCEL_BIT | user_data)
            self.cancels_sent += 1

    def _cancel_answered(self, record: Any, user_data: int, res: int) -> None:
        """A request to cancel was carried out, or it is time for the next one.

        The kernel does not find an operation that is on its way to a worker thread, nor one that
        cannot be cancelled.
        """
        if res == -errno.ETIME:
            self._not_found.discard(user_data)
        # A notification cannot be cancelled, and comes when the peer likes.
        if record.user_data != user_data or isinstance(record, Notification):
            return
        if res == -errno.ETIME:
            self._cancels.append(user_data)
        elif res == -errno.ENOENT and user_data not in self._not_found:
            self._not_found.add(user_data)
            self._cancels_again.append(user_data)

    # -- one pass ------------------------------------------------------------------------------

    @_in_one_step
    def turn(self, timeout_ns: int) -> list[tuple[int, int, int]]:
        """Submits what is prepared and returns completions, waiting ``timeout_ns`` for the first.

        One system call at the most. An empty list: the time is over.
        """
        self._hand_over()
        ring = self.ring
        deadline = 0
        if timeout_ns:
            if self._stash:
                timeout_ns = 0
            else:
                deadline = monotonic_ns() + timeout_ns
        while True:
            count = ring.turn(1 if timeout_ns else 0, timeout_ns)
            self._flushed = ring._tail
            if count > 0:
                self.overflow_count += count == ring._copy_max
                break
            if count < 0 and count not in _TRY_AGAIN:
                ring.check(count, "io_uring_enter")
            if self.cancelled_chains:
                self._hand_over()
                if self._stash:
                    break  # it took out completions, and no other may come
            # io_uring_enter hides ETIME and EINTR once it has submitted something: ask the clock.
            if not timeout_ns or (timeout_ns := deadline - monotonic_ns()) <= 0:
                break
        cqes = ring.turned(count)
        self.completed += len(cqes)
        if self._stash:
            cqes, self._stash = self._stash + cqes, []
        return cqes

    @_in_one_step
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
        for chains in self.cancelled_chains:
            if chains.has_moved():
                self._cancels.append(chains.user_data)
        if self._cancels or self._cancels_again:
            self._write_cancels()
        buffers = self.buffers
        if buffers is not None and buffers.returned:
            buffers.give_back()

    def fail(self, failure: BaseException) -> None:
        """The driver broke: every task that waits for an operation gets the error."""
        self.failure = failure
        for record in self.records:
            record.driver_broke(failure)

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
        elif user_data & CANCEL_BIT:
            self._cancel_answered(record, user_data ^ CANCEL_BIT, res)
        elif record.user_data | SEND_BIT == user_data and record.in_flight:
            record.send_ended(res)
        else:
            self.late_completions += 1

    @_in_one_step
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

    @_in_one_step
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
            timeout = 0.1 if only_notifications and self.in_flight else DRAIN_TIMEOUT_S
            self._close_brought([*self._stash, *self.ring.close(timeout)])

    def _close_brought(self, cqes: Sequence[tuple[int, int, int]]) -> None:
        """Closes the descriptors that operations of a crashed run have brought for nobody."""
        brought = [
            res
            for user_data, res, _ in cqes
            if (record := self.records[user_data & INDEX_MASK]).user_data == user_data
            and getattr(record, "brings_fd", False)
        ]
        if self.failure is None:  # else tasks were woken without a result
            # Completed, and the task did not run since.
            records = (record for record in self.records if isinstance(record, Operation))
            brought += [r.res for r in records if r.brings_fd and not r.in_flight]
        for fd in brought:
            if fd >= 0 and self.pid == os.getpid():
                os.close(fd)
