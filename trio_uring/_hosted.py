# SPDX-License-Identifier: MIT OR Apache-2.0
"""The driver for a Trio whose loop `_adopted` does not recognise: public names only.

An instrument submits before the loop sleeps and takes completions after it; a system task waits on
an eventfd that the kernel signals, so that the loop wakes. Facts that decide its shape:

* The timeout of a pass is fixed before ``before_io_wait`` is called: a task that is rescheduled
  there sleeps through it. Only ``after_io_wait`` reschedules, and what it wakes still runs in the
  same pass.
* An instrument that raises is disabled with a log line, and every waiter would hang. So an error is
  kept, and all waiters wake with it.
* Under DEFER_TASKRUN the ring's descriptor never wakes epoll; a registered eventfd does, also for
  what completed while it was submitted.
* A guest run of the main thread that is abandoned while its worker thread sleeps ends in that
  thread. Trio cannot restore the wakeup descriptor of signals there, raises, and calls no
  ``after_run``: the ring stays open, and the main thread can have no other run.
* The system nursery is cancelled before the last async generators end: the system task goes on
  while anything is in flight.
"""

from __future__ import annotations

import contextlib
import os
import select
from threading import Thread
from typing import TYPE_CHECKING

import trio

from ._clock_holder import ClockHolder
from ._engine import Engine

if TYPE_CHECKING:
    from ._engine_ring import EngineRing
    from ._options import RingOptions


class HostedDriver(trio.abc.Instrument):
    """A ring beside Trio's loop, driven by instrument hooks."""

    name = "hosted"
    # An abort that a guest run's host makes between two passes has nobody else to submit it.
    submits_cancels_at_once = True

    def __init__(self, options: RingOptions, ring: EngineRing) -> None:
        holder = ClockHolder(trio.lowlevel.current_clock())
        self.clock_jumps = holder.jumps
        self.operation_began = holder.hold
        self.engine = holder.engine = Engine(options, self, ring)
        self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        ring.register_eventfd(self._eventfd)
        self._system_tasks_end = False
        self._waker: _Waker | None = None
        self._waits = False
        trio.lowlevel.add_instrument(self)
        self._begin_to_wait()

    # -- hooks ---------------------------------------------------------------------------------

    def before_io_wait(self, timeout: float) -> None:
        """Submits; completions wait for `after_io_wait`."""
        try:
            if not self._waits:
                self._begin_to_wait()
            if self._system_tasks_end and self._waker is None and self.engine.in_flight:
                self._waker = _Waker(self.engine.token, self._eventfd)
            self.engine.submit()
            # The kernel signals a completion once; the system task may have read that already.
            if self.engine.has_news():
                self.wake()
        except BaseException as exc:
            self.engine.fail(exc)
            self.wake()  # Trio has decided how long to wait

    def after_io_wait(self, timeout: float) -> None:
        """Takes completions and wakes their tasks."""
        try:
            if self.engine.take_completions() is None:
                self.engine.dispatch(self.engine.turn(0))
        except BaseException as exc:
            self.engine.fail(exc)

    def after_run(self) -> None:
        """The run is over."""
        try:
            if self._waker is not None:
                self._waker.end()
        finally:
            try:
                self.engine.close()
            finally:
                eventfd, self._eventfd = self._eventfd, -1
                os.close(eventfd)

    def _begin_to_wait(self) -> None:
        """Starts the system task, as soon as the run has its main task.

        A run that only begins has no nursery for it. One whose main function could not be called
        has, but never cancels its system tasks: there are no tasks in its nurseries.
        """
        root = trio.lowlevel.current_root_task()
        if root is not None and any(nursery.child_tasks for nursery in root.child_nurseries):
            trio.lowlevel.spawn_system_task(self._wait_for_completions)
            self._waits = True

    async def _wait_for_completions(self) -> None:
        try:
            while True:
                await self._wait_once()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                while self.engine.awaits():
                    await self._wait_once()
            self._system_tasks_end = True
            raise

    async def _wait_once(self) -> None:
        await trio.lowlevel.wait_readable(self._eventfd)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._eventfd)

    # -- what the engine calls -----------------------------------------------------------------

    def wake(self) -> None:
        """Completions were taken out in mid-pass."""
        if self._eventfd >= 0:
            os.eventfd_write(self._eventfd, 1)


class _Waker:
    """A thread in place of the system task, for what the last async generators of a run do."""

    def __init__(self, token: trio.lowlevel.TrioToken, eventfd: int) -> None:
        self._end = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = Thread(target=self._run, args=(token, eventfd), daemon=True)
        self._thread.start()

    def _run(self, token: trio.lowlevel.TrioToken, eventfd: int) -> None:
        poll = select.poll()
        poll.register(eventfd, select.POLLIN)
        poll.register(self._end, select.POLLIN)
        while all(fd != self._end for fd, _ in poll.poll()):
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(eventfd)
            try:
                token.run_sync_soon(int)  # a pass of the loop is all that is wanted
            except trio.RunFinishedError:
                return

    def end(self) -> None:
        """The run is over."""
        os.eventfd_write(self._end, 1)
        self._thread.join()
        os.close(self._end)
