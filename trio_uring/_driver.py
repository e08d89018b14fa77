# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the engine needs of the loop that it is part of."""

from __future__ import annotations

from typing import Protocol


class Driver(Protocol):
    """One of `_adopted` and `_hosted`."""

    name: str
    submits_cancels_at_once: bool
    clock_jumps: bool

    def operation_began(self) -> None: ...
    def wake(self) -> None: ...
