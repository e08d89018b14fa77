# SPDX-License-Identifier: MIT OR Apache-2.0
"""Trio programs that know nothing of a ring, on plain Trio and on the ring; and open handles."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING, Any

import trio
from variants_nop import _trio_checkpoints, in_trio_tasks
from worker import resident_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker import Window


def _run(on_ring: int, main: Callable[..., Any], *arguments: Any) -> None:
    if on_ring:
        import trio_uring

        trio_uring.run(main, *arguments)
    else:
        trio.run(main, *arguments)


def checkpoints(window: Window, tasks: int, on_ring: int) -> None:
    _run(on_ring, in_trio_tasks, window, tasks, _trio_checkpoints)


def timers(window: Window, tasks: int, on_ring: int) -> None:
    """As many tasks, each of which sleeps a millisecond again and again."""

    async def repeat(count: int) -> None:
        for _ in range(count):
            await trio.sleep(0.001)

    _run(on_ring, in_trio_tasks, window, tasks, repeat)


def channels(window: Window, on_ring: int) -> None:
    """Ten memory channels without a buffer, a sender and a receiver at each."""

    async def repeat(count: int) -> None:
        sender, receiver = trio.open_memory_channel[int](0)

        async def send() -> None:
            async with sender:
                for number in range(count):
                    await sender.send(number)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            async for _ in receiver:
                pass

    _run(on_ring, in_trio_tasks, window, 10, repeat)


def threads(window: Window, on_ring: int) -> None:
    async def repeat(count: int) -> None:
        for _ in range(count):
            await trio.to_thread.run_sync(_nothing)

    _run(on_ring, in_trio_tasks, window, 1, repeat)


def _nothing() -> None:
    pass


# -- memory of open handles ------------------------------------------------------------------------


def _raise_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def trio_uring_handles(window: Window, path: str) -> None:
    import trio_uring

    async def main() -> None:
        async with trio_uring.open_file_scope() as scope:
            await scope.open_direct(path)
            before = resident_bytes()
            for _ in range(window.count):
                await scope.open_direct(path)
            window.result["bytes"] = resident_bytes() - before

    _raise_limit()
    slots = window.count + 1
    trio_uring.run(main, ring=trio_uring.RingOptions(slots_max=slots))


def trio_handles(window: Window, path: str) -> None:
    async def main() -> None:
        files = [await trio.open_file(path, "rb", buffering=0)]
        before = resident_bytes()
        for _ in range(window.count):
            files.append(await trio.open_file(path, "rb", buffering=0))
        window.result["bytes"] = resident_bytes() - before
        for file in files:
            await file.aclose()

    _raise_limit()
    trio.run(main)


def descriptors(window: Window, path: str) -> None:
    _raise_limit()
    before = resident_bytes()
    fds = [os.open(path, os.O_RDONLY) for _ in range(window.count)]
    window.result["bytes"] = resident_bytes() - before
    for fd in fds:
        os.close(fd)
