# SPDX-License-Identifier: MIT OR Apache-2.0
"""Nothing, awaited: what a scheduler costs by itself, and with a trip to the kernel."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from worker import Window


async def in_trio_tasks(
    window: Window, tasks: int, repeat: Callable[[int], Awaitable[None]]
) -> None:
    """``repeat(count)`` in so many tasks at once."""
    each = window.share(tasks)
    with window:
        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(repeat, each)


async def in_asyncio_tasks(
    window: Window, tasks: int, repeat: Callable[[int], Awaitable[None]]
) -> None:
    """``repeat(count)`` in so many tasks at once."""
    each = window.share(tasks)
    with window:
        await asyncio.gather(*(repeat(each) for _ in range(tasks)))


def run_asyncio(main: Callable[..., Any], *arguments: Any) -> None:
    asyncio.run(main(*arguments))


def run_uvloop(main: Callable[..., Any], *arguments: Any) -> None:
    import uvloop

    uvloop.run(main(*arguments))


# -- awaited NOPs ----------------------------------------------------------------------------------


def trio_uring_nop(window: Window, tasks: int, bounded: int = 0) -> None:
    """Begun as reads, receives and sends are.

    ``bounded``: as an operation on a file, which may be finished without a pass of the loop.
    """
    import trio_uring
    from trio_uring._current import current_engine
    from trio_uring.lowlevel import Op

    opcode, is_bounded = int(Op.NOP), bool(bounded)

    async def nop(engine: Any) -> int:
        operation = engine.begin_entry(None, opcode, 0, 0, 0, 0, 0, 0, 0, None)
        result: int = await engine.wait(operation, is_bounded)
        return result

    async def repeat(count: int) -> None:
        engine = current_engine()
        for _ in range(count):
            await nop(engine)

    trio_uring.run(in_trio_tasks, window, tasks, repeat)


def trio_uring_prep_nop(window: Window, tasks: int) -> None:
    """Begun as what is done less often: by a function that fills an entry."""
    import trio_uring
    from trio_uring._current import current_engine
    from trio_uring.lowlevel import prep_nop

    async def repeat(count: int) -> None:
        perform = current_engine().perform
        for _ in range(count):
            await perform(prep_nop, bounded=False)

    trio_uring.run(in_trio_tasks, window, tasks, repeat)


def liburing_nop(window: Window, depth: int) -> None:
    import liburing

    lib: Any = liburing
    flags = lib.IORING_SETUP_SINGLE_ISSUER | lib.IORING_SETUP_DEFER_TASKRUN
    ring, cqe = lib.Ring(), lib.Cqe()
    lib.io_uring_queue_init(128, ring, flags)
    prepared = lib.Sqe(depth)
    for number in range(depth):
        lib.io_uring_prep_nop(prepared[number])
        prepared[number].user_data = number
    each = window.share(depth)
    with window:
        for _ in range(each):
            lib.put_sqe(ring, prepared)
            lib.io_uring_submit_and_wait(ring, depth)
            lib.io_uring_peek_cqe(ring, cqe)
            for number in range(depth):
                assert cqe[number].res == 0
            lib.io_uring_cq_advance(ring, depth)
    lib.io_uring_queue_exit(ring)


# -- passes of the scheduler -----------------------------------------------------------------------


async def _trio_checkpoints(count: int) -> None:
    for _ in range(count):
        await trio.lowlevel.checkpoint()


def trio_checkpoint(window: Window, tasks: int) -> None:
    trio.run(in_trio_tasks, window, tasks, _trio_checkpoints)


async def _asyncio_sleeps(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def asyncio_sleep(window: Window, tasks: int) -> None:
    run_asyncio(in_asyncio_tasks, window, tasks, _asyncio_sleeps)


def uvloop_sleep(window: Window, tasks: int) -> None:
    run_uvloop(in_asyncio_tasks, window, tasks, _asyncio_sleeps)
