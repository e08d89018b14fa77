# SPDX-License-Identifier: MIT OR Apache-2.0
"""Holds a `trio.testing.MockClock` back while operations on files are in flight.

An autojump clock jumps when nothing happens for a while, and a task that waits for the kernel looks
like nothing. Operations on files end by themselves, so that waiting for them is right; receives and
accepts may wait for ever, and are not waited for.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from ._engine import Engine


class ClockHolder:
    """For one engine; ``engine`` is set once it is made."""

    engine: Engine

    def __init__(self, clock: trio.abc.Clock) -> None:
        # Nobody has a MockClock who did not import it.
        testing = sys.modules.get("trio.testing")
        self.jumps = testing is not None and isinstance(clock, testing.MockClock)
        self._holding = False

    def hold(self) -> None:
        """An operation on a file has begun, and was the first in flight."""
        if self.jumps and not self._holding:
            try:
                trio.lowlevel.spawn_system_task(self._hold)
            except RuntimeError:
                return  # the run is over but for its async generators, and nothing jumps any more
            self._holding = True

    async def _hold(self) -> None:
        # The clock never jumps while a task is in wait_all_tasks_blocked.
        wait_all_tasks_blocked = sys.modules["trio.testing"].wait_all_tasks_blocked
        try:
            while self.engine.bounded_in_flight:
                await wait_all_tasks_blocked(0.001)
        finally:
            self._holding = False
