# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the engine needs of the loop that it is part of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Driver(Protocol):
    """One of `_adopted` and `_hosted`."""

    name: str
    submits_cancels_at_once: bool

    def make_message(self, abort: Callable[..., Any]) -> Any: ...
    def sleep(self, message: Any, /) -> Awaitable[Any]: ...
    def current_task(self) -> Any: ...
    def reschedule(self, task: Any, result: Any, /) -> None: ...
    def operation_began(self) -> None: ...
    def wake(self) -> None: ...
