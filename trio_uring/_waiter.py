# SPDX-License-Identifier: MIT OR Apache-2.0
"""One task that waits for what is no single operation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import Abort

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import NoReturn

    from ._engine import Engine


class Waiter:
    """Waits as an `Operation` is waited for: made once, it serves for every wait."""

    __slots__ = ("_engine", "abort", "message", "task")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # Who waits, if anybody does.
        self.task: Any = None
        self.abort = self._abort
        self.message: Any = engine.message_for(self)

    def wait(self) -> Awaitable[int]:
        """Sleeps until `wake`. Cancelled, nothing has happened: whoever wakes finds nobody."""
        if self.task is not None:
            raise trio.BusyResourceError("another task waits for this")
        self.task = self._engine.current_task()
        return self._engine.wait_for(self)

    def wake(self) -> None:
        """Wakes the task that waits, if one does. Once: a second call before it runs is nothing."""
        task = self.task
        if task is not None:
            self.task = None
            trio.lowlevel.reschedule(task, self)  # type: ignore[arg-type]

    def unwrap(self) -> int:
        """In the task that waited: it is the outcome that Trio sends."""
        return 0

    def _abort(self, _: Callable[[], NoReturn]) -> Abort:
        self.task = None
        return Abort.SUCCEEDED
