# SPDX-License-Identifier: MIT OR Apache-2.0
"""Slots for tasks: waiting for one, and putting an ordinary descriptor into one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import outcome
import trio
from trio.lowlevel import Abort, enable_ki_protection

from ._capabilities import capabilities
from ._file_table import SlotsExhausted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import NoReturn

    from ._engine import Engine


@enable_ki_protection
async def reserve(
    engine: Engine,
    count: int = 1,
    *,
    slot: int | None = None,
    wait: bool = True,
    until_closed: Iterable[set[Callable[[], None]]] = (),
) -> list[int]:
    """``count`` free slots, or the named one; waits in a fair queue until there are some.

    ``until_closed``: sets to enter a function that ends the wait with `trio.ClosedResourceError`.
    """
    engine.check_run()
    table = engine.table
    if engine.reclaim:
        engine.reclaim_dropped()
    if slot is not None:
        table.take_manual(slot)
        return [slot]
    slots = table.take(count)
    if slots is not None:
        return slots
    if not wait:
        raise SlotsExhausted(table.slots_max)
    task = trio.lowlevel.current_task()
    granted: list[int] = []

    def grant(slots: list[int]) -> None:
        granted.extend(slots)
        trio.lowlevel.reschedule(task)

    waiter = table.wait(count, grant)

    ended: list[bool] = []

    def abort(_: Callable[[], NoReturn]) -> Abort:
        ended.append(True)
        table.withdraw(waiter)
        return Abort.SUCCEEDED

    def closed() -> None:
        if granted or ended:
            return  # the task is on its way, and will find out
        ended.append(True)
        table.withdraw(waiter)
        error = trio.ClosedResourceError("another task closed what this one waits for")
        trio.lowlevel.reschedule(task, outcome.Error(error))

    for waits in until_closed:
        waits.add(closed)
    try:
        await trio.lowlevel.wait_task_rescheduled(abort)
    finally:
        for waits in until_closed:
            waits.discard(closed)
    return granted


def fill_slot(engine: Engine, slot: int, fd: int) -> int:
    """Moves the file of ``fd`` into the slot and returns -1; or ``fd``, where that is no use."""
    if not capabilities().install:
        return fd
    try:
        engine.ring.register_files_update(slot, [fd])
    finally:
        os.close(fd)
    return -1
