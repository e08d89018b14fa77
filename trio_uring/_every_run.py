# SPDX-License-Identifier: MIT OR Apache-2.0
"""Puts a ring into every Trio run of the process, whoever starts it: for other projects' tests.

Trio makes its I/O manager by calling ``TheIOManager``. Here that is a subclass of the epoll
manager, which gives each pass to the adopted driver. It stays in its place, so that tests that look
at it, or patch its methods, find what they expect.
"""

from __future__ import annotations

from typing import Any

from trio._core import _run
from trio._core._io_epoll import EpollIOManager

from . import _adopted
from ._current import set_engine
from ._engine_ring import EngineRing
from ._options import RingOptions

OPTIONS = RingOptions(sq_entries=64, cq_entries=128)
_EpollIOManager: Any = EpollIOManager


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
    """The epoll manager with a ring around it, from the first pass of the run."""

    _driver: _adopted.AdoptedDriver | None = None

    def get_events(self, timeout: float) -> Any:
        if self._driver is None:
            runner = _adopted.current_runner()
            runner.io_manager = _Plain(self)
            ring = EngineRing.make(OPTIONS.sq_entries, OPTIONS.cq_entries)
            self._driver = _adopted.AdoptedDriver(runner, OPTIONS, ring)
            runner.io_manager = self
            set_engine(self._driver.engine)
        return self._driver.get_events(timeout)

    def process_events(self, events: Any) -> None:
        if self._driver is None:
            super().process_events(events)
        else:
            self._driver.process_events(events)

    def close(self) -> None:
        if self._driver is None:
            super().close()
        else:
            self._driver.close()


def put_every_run_on_the_ring() -> None:
    """From now on every Trio run of this process has a ring in its loop."""
    module: Any = _run
    module.TheIOManager = EveryRunManager
