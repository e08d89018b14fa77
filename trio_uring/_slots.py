# SPDX-License-Identifier: MIT OR Apache-2.0
"""Slots for tasks: waiting for one, and putting an ordinary descriptor into one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import outcome
import trio
from trio.lowlevel import Abort, enable_ki_protection

from ._file_table import SlotsExhausted

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from ._engine import Engine
    from ._fixed_socket import FixedSocket


@enable_ki_protection
async def reserve(
    engine: Engine,
    count: int = 1,
    *,
    slot: int | None = None,
    wait: bool = True,
    listener: FixedSocket | None = None,
) -> list[int]:
    """``count`` free slots, or the named one; waits in a fair queue until there are some.

    The wait ends with `trio.ClosedResourceError` when ``listener`` is closed.
    """
    table = engine.table
    if slot is not None:
        table.take_manual(slot)
        return [slot]
    if engine.reclaim:
        engine.reclaim_dropped()
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

    def abort(_: Callable[[], NoReturn]) -> Abort:
        table.withdraw(waiter)
        return Abort.SUCCEEDED

    def listener_closed() -> None:
        if granted:
            return  # the task is on its way, and will find the listener closed
        table.withdraw(waiter)
        error = trio.ClosedResourceError("another task closed the listener")
        trio.lowlevel.reschedule(task, outcome.Error(error))

    waits = set() if listener is None else listener._waiting_for_slot
    waits.add(listener_closed)
    try:
        await trio.lowlevel.wait_task_rescheduled(abort)
    finally:
        waits.discard(listener_closed)
    return granted


def fill_slot(engine: Engine, slot: int, fd: int, *, keep: bool = True) -> int:
    """Puts ``fd`` into the slot; returns it as the companion, or closes it and returns -1."""
    try:
        engine.ring.register_files_update(slot, [fd])
    except BaseException:
        os.close(fd)
        raise
    if keep:
        return fd
    os.close(fd)
    return -1
