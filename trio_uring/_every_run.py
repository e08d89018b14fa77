# SPDX-License-Identifier: MIT OR Apache-2.0
"""Puts a ring into every Trio run of the process, whoever starts it: for other projects' tests.

Trio makes its I/O manager by calling ``TheIOManager``. Here that is a subclass of the epoll
manager, which gives each pass to a driver. It stays in its place, so that tests that look at it, or
patch its methods, find what they expect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from trio._core import _run
from trio._core._io_epoll import EpollIOManager

from . import _adopted, _hosted
from ._current import current_statistics, set_engine
from ._engine_ring import EngineRing
from ._options import RingOptions

if TYPE_CHECKING:
    import pytest

OPTIONS = RingOptions(sq_entries=64, cq_entries=128)
_EpollIOManager: Any = EpollIOManager
_trio_run: Any = _run


class Counts:
    """How many runs there were, and what became of them."""

    def __init__(self) -> None:
        self.runs = 0
        self.rings = 0
        self.enters = 0

    def __str__(self) -> str:
        return (
            f"{self.rings} of {self.runs} Trio runs had a ring, "
            f"which they entered {self.enters} times"
        )


class _Plain:
    """The epoll manager that an `EveryRunManager` is, without what it overrides."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._epoll = manager._epoll

    def get_events(self, timeout: float) -> Any:
        return _EpollIOManager.get_events(self._manager, timeout)

    def process_events(self, events: Any) -> None:
        _EpollIOManager.process_events(self._manager, events)

    def close(self) -> None:
        _EpollIOManager.close(self._manager)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)


class EveryRunManager(_EpollIOManager):  # type: ignore[misc]
    """The epoll manager with a ring around it, or beside it, from the first pass of the run."""

    driver_name = _adopted.AdoptedDriver.name
    counts = Counts()
    _driver: Any = None
    _ring: EngineRing | None = None

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.counts.runs += 1

    def get_events(self, timeout: float) -> Any:
        if self._ring is None:
            self._driver = self._join()
        return self._driver.get_events(timeout)

    def process_events(self, events: Any) -> None:
        if self._driver is None:
            super().process_events(events)
        else:
            self._driver.process_events(events)

    def close(self) -> None:
        if self._ring is not None:
            self.counts.enters += self._ring.enters
        if self._driver is None:
            super().close()
        else:
            self._driver.close()

    def _join(self) -> Any:
        """Makes the ring; what the passes of this run go to from now on."""
        self._ring = EngineRing.make(OPTIONS.sq_entries, OPTIONS.cq_entries)
        self.counts.rings += 1
        plain = _Plain(self)
        if self.driver_name == _hosted.HostedDriver.name:
            set_engine(_hosted.HostedDriver(OPTIONS, self._ring).engine)
            # Its system task may have been made runnable after the timeout of this pass was fixed.
            self.force_wakeup()
            return plain
        runner = _adopted.current_runner()
        runner.io_manager = plain
        driver = _adopted.AdoptedDriver(runner, OPTIONS, self._ring)
        runner.io_manager = self
        set_engine(driver.engine)
        return driver


async def _driver_of_a_run() -> str:
    return current_statistics().driver


class EveryRunOnTheRing:
    """A pytest plugin: every Trio run of the session has a ring, and the session fails if none had.

    Runs in other processes are not seen.

    Raises:
        RingUnavailableError: io_uring cannot be used here.
    """

    def __init__(self) -> None:
        EveryRunManager.driver_name = trio.run(_driver_of_a_run)
        EveryRunManager.counts = self.counts = Counts()
        self._stock = _trio_run.TheIOManager
        _trio_run.TheIOManager = EveryRunManager

    def pytest_unconfigure(self) -> None:
        """The session is over."""
        _trio_run.TheIOManager = self._stock

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Tests that all passed without a ring are no success."""
        if exitstatus == 0 and not self.counts.rings and not session.config.option.collectonly:
            session.exitstatus = 1

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """One line that says what was tested."""
        line = f"trio_uring: {EveryRunManager.driver_name}: {self.counts}"
        terminalreporter.write_line(line, red=not self.counts.rings)
