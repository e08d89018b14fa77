# SPDX-License-Identifier: MIT OR Apache-2.0
"""The driver that puts the ring around a run's own epoll manager.

Some facts about Trio's loop and about io_uring decide its shape.

* Trio asks its I/O manager once per pass: ``get_events(timeout)`` may sleep,
  ``process_events(events)`` wakes tasks. The result of ``get_events`` must be falsy if and only if
  the timeout expired: the clock of `trio.testing.MockClock` jumps by that. ``runner.io_manager`` is
  looked up on every pass, so that it can be exchanged in the middle of a run.
* Readiness stays Trio's: `trio.lowlevel.wait_readable` and its like go to the epoll manager as
  before. POLL_ADD would not do for them: it always reports a peer's half-close, holds the file, and
  takes regular files that epoll refuses.
* The ring polls the epoll descriptor, one shot, armed again after epoll was asked. A multishot poll
  is edge-triggered: it loses events when epoll has more than one call takes.
* With DEFER_TASKRUN the ring's own descriptor never becomes readable for deferred work. Whoever
  sleeps outside of io_uring_enter needs a registered eventfd: in guest mode that is Trio's worker
  thread. The ring itself belongs to the host thread, which enters it before (``get_events(0)``) and
  after.
* ``force_wakeup`` is only called in guest mode; it makes the epoll descriptor readable.
* An abandoned guest run closes its manager from the garbage collector, and later still cancels its
  tasks.

Private names of Trio in use, the same in every release from 0.22 to 0.35: ``GLOBAL_RUN_CONTEXT``
with ``runner``; ``Runner.io_manager``, ``is_guest``, ``clock``; ``EpollIOManager._epoll`` and the
eight public methods of a manager; and those of `_hot`. `recognises` checks them.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import select
from collections import UserDict
from threading import get_ident, local
from typing import TYPE_CHECKING, Any

from trio._core import _run

from . import _hot, _native
from ._clock_holder import ClockHolder
from ._errors import WrongThreadError
from ._operation import EPOLL_ID, Record
from ._prep import prep_poll_add

if TYPE_CHECKING:
    from ._engine_ring import EngineRing
    from ._options import RingOptions

_MANAGER_METHODS = frozenset(
    {
        "close",
        "force_wakeup",
        "get_events",
        "notify_closing",
        "process_events",
        "statistics",
        "wait_readable",
        "wait_writable",
    }
)
# epoll's timeouts are rounded up to a millisecond.
_EARLY_S = 0.002
# Passes without an operation after which a run leaves its ring alone.
IDLE_MAX = _native.TN_IDLE_MAX
_context: Any = _run.GLOBAL_RUN_CONTEXT


def recognises(runner: Any) -> bool:
    """Whether this Trio is built as this driver expects."""
    try:
        manager: Any = runner.io_manager
        manager_type: Any = type(manager)
        runner_type: Any = type(runner)
        return (
            _recognises_class(manager_type)
            and callable(manager._epoll.fileno)
            and isinstance(runner.is_guest, bool)
            and isinstance(runner.instruments, (dict, UserDict))
            and isinstance(_context, local)
            and _hot.recognises(runner_type)
        )
    except (AttributeError, TypeError, ValueError):
        return False


@functools.cache  # signatures take longer than the ring
def _recognises_class(manager: Any) -> bool:
    return (
        frozenset(name for name in vars(manager) if name[0] != "_") == _MANAGER_METHODS
        and manager.__module__ == "trio._core._io_epoll"
        and list(inspect.signature(manager.get_events).parameters) == ["self", "timeout"]
        and list(inspect.signature(manager.process_events).parameters) == ["self", "events"]
    )


def current_runner() -> Any:
    """Trio's object for the run of this thread.

    Raises:
        RuntimeError: there is none.
    """
    try:
        return _context.runner
    except AttributeError:
        raise RuntimeError("must be called from async context") from None


class _EpollPoll(Record):
    """The record of the poll of the epoll descriptor: it has fired, or was cancelled."""

    __slots__ = ("_driver",)
    in_flight = False

    def __init__(self, driver: AdoptedDriver) -> None:
        super().__init__(EPOLL_ID)
        self._driver = driver

    def complete(self, res: int, flags: int) -> None:
        self._driver._armed = False
        self._driver._epoll_has_events = True


class AdoptedDriver(_native.Driver):
    """Takes the place of ``runner.io_manager``, with the epoll manager inside.

    Trio calls ``get_events`` and ``process_events``, which are in C where nothing is unusual.
    """

    name = "adopted"

    def __init__(self, runner: Any, options: RingOptions, ring: EngineRing) -> None:
        self._runner = runner
        self._inner = runner.io_manager
        self._thread = get_ident()
        self.submits_cancels_at_once = False
        holder = ClockHolder(runner.clock)
        self.clock_jumps = holder.jumps
        self.operation_began = holder.hold
        self.engine = holder.engine = _hot.HotEngine(options, self, ring, runner)
        self._epoll_fd: int = self._inner._epoll.fileno()
        self._armed = False
        self._epoll_has_events = False
        self.engine.records[EPOLL_ID] = _EpollPoll(self)
        self._eventfd = -1
        # Not known before the first pass.
        self._is_guest = None
        # Passes in a row with nothing in flight.
        self._idle_passes = 0
        runner.io_manager = self

    # -- what Trio calls -----------------------------------------------------------------------

    def _get_events_anyhow(self, timeout: float) -> Any:
        """The completions of this pass; in guest mode's worker thread only word that there are
        some.
        """
        engine = self.engine
        if self._asleep:
            return self._sleeping_get_events(timeout)
        if self._is_guest:
            if get_ident() != self._thread:
                return self._wait_for_eventfd(timeout)
        elif self._is_guest is None:
            self._is_guest = self._runner.is_guest
            if self._is_guest:
                self._become_guest()
        elif self._idle_passes > IDLE_MAX and not self._is_exact(timeout):
            self._fall_asleep()
            return self.get_events(timeout)
        if not self._armed:
            self._arm()
        return engine.turn(int(timeout * 1e9) if timeout else 0)

    def _process_events_anyhow(self, events: Any) -> None:
        """Wakes the tasks of these completions, then those that epoll has ready."""
        engine = self.engine
        if events is _RING_IS_READY:
            self._drain_eventfd()
            events = engine.turn(0)
        engine.dispatch(events)
        if self._epoll_has_events:
            self._ask_epoll()

    def _ask_epoll(self) -> None:
        self._epoll_has_events = False
        inner = self._inner
        inner.process_events(inner.get_events(0))

    # -- while there is nothing to wait for in the ring ----------------------------------------

    def _fall_asleep(self) -> None:
        """The passes are epoll's, as before the ring: a program that does not use it pays nothing.

        The ring has no room then, so that the first operation calls `_wake_up`.
        """
        ring = self.engine.ring
        ring._limit = ring._tail
        ring.on_use = self._wake_up
        self._asleep = True
        own: Any = self
        own.process_events = self._inner.process_events

    def _wake_up(self) -> None:
        if get_ident() != self._thread:
            return  # the ring refuses whoever that is
        self._idle_passes = 0
        self.engine.ring.on_use = None
        self._asleep = False
        own: Any = self
        del own.process_events

    def _sleeping_get_events(self, timeout: float) -> Any:
        if self._is_exact(timeout):
            self._wake_up()
            return self.get_events(timeout)
        return self._inner.get_events(timeout - _EARLY_S)

    def _is_exact(self, timeout: float) -> bool:
        """epoll is no good for it.

        Its timeouts are whole milliseconds: it is made to wake early, and the ring waits for the
        rest. Trio takes an early return for a pass in which nothing happened, unless that very
        thing is waited for.
        """
        return (0 < timeout < 5 * _EARLY_S) or self.clock_jumps or self._runner.waiting_for_idle

    def close(self) -> None:
        """The run ends, or a guest run was abandoned and is collected, in whatever thread."""
        try:
            self.engine.close()
        except WrongThreadError:
            # The end of the interpreter closes rings, too, and its thread is at it now.
            if get_ident() == self._thread:
                raise
        finally:
            if self._eventfd >= 0:
                os.close(self._eventfd)
                self._eventfd = -1
            self._inner.close()

    # -- readiness is the epoll manager's ------------------------------------------------------

    def statistics(self) -> Any:
        """As the epoll manager's."""
        return self._inner.statistics()

    def wait_readable(self, fd: Any) -> Any:
        """As the epoll manager's."""
        return self._inner.wait_readable(fd)

    def wait_writable(self, fd: Any) -> Any:
        """As the epoll manager's."""
        return self._inner.wait_writable(fd)

    def notify_closing(self, fd: Any) -> None:
        """As the epoll manager's."""
        self._inner.notify_closing(fd)

    def force_wakeup(self) -> None:
        """As the epoll manager's."""
        self._inner.force_wakeup()

    # -- the epoll descriptor ------------------------------------------------------------------

    def _arm(self) -> None:
        sqe = self.engine.own_sqe()
        prep_poll_add(sqe, self._epoll_fd, select.POLLIN, EPOLL_ID)
        self._armed = True

    # -- guest mode ----------------------------------------------------------------------------

    def _become_guest(self) -> None:
        """At the first pass: Trio says so only after the run was set up."""
        self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.engine.ring.register_eventfd(self._eventfd)
        # A cancel that the host makes between two passes has nobody else to submit it.
        self.submits_cancels_at_once = True

    def _wait_for_eventfd(self, timeout: float) -> list[tuple[int, int, int]]:
        poll = select.poll()
        poll.register(self._eventfd, select.POLLIN)
        # poll(2) takes milliseconds: round up, or the last one is spent spinning.
        if poll.poll(min(int(timeout * 1000) + 1, 2**31 - 1)):
            return _RING_IS_READY
        return []

    def _drain_eventfd(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._eventfd)

    def wake(self) -> None:
        """Completions were taken out in mid-pass: a sleeping guest run must come and get them."""
        if self._eventfd >= 0:
            os.eventfd_write(self._eventfd, 1)


# Identity matters: what the worker thread of a guest run returns for "enter the ring".
_RING_IS_READY: list[tuple[int, int, int]] = [(0, 0, 0)]
