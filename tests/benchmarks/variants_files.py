# SPDX-License-Identifier: MIT OR Apache-2.0
"""Reading: 4 KiB at random offsets of an open file, and whole files of 16 KiB.

Every program does it as its users would: with a file object of its own in each task where a file
object has a position, and with offsets where the interface takes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import mmap
import os
import random
from array import array
from typing import TYPE_CHECKING, Any

import trio
from variants_nop import in_asyncio_tasks, in_trio_tasks, run_asyncio, run_uvloop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from worker import Window

BLOCK = 4096
SMALL_FILE = 16384


class WrongResult(Exception):
    """A read did not return what is in the file."""


def check(data: Any, offset: int) -> None:
    if len(data) != BLOCK or int.from_bytes(data[:8], "little") * BLOCK != offset:
        raise WrongResult


def offsets(path: str) -> list[int]:
    """Of all blocks, in an order that is the same every time. Also fills the page cache."""
    with open(path, "rb") as file:
        count = len(file.read()) // BLOCK
    numbers = [BLOCK * number for number in range(count)]
    random.Random(1).shuffle(numbers)
    return numbers


def taken(values: list[Any], count: int) -> Iterator[Any]:
    """So many of them, from somewhere in the middle on, again and again.

    No more of them are touched than are taken: this runs while the time is measured, once in each
    task.
    """
    start = random.randrange(len(values))
    first = values[start : start + count]
    return itertools.chain(first, itertools.islice(itertools.cycle(values), count - len(first)))


# -- 4 KiB reads: trio_uring -----------------------------------------------------------------------


def trio_uring_read(window: Window, path: str, tasks: int) -> None:
    import trio_uring

    order = offsets(path)

    async def main() -> None:
        async with await trio_uring.open_direct(path) as file:

            async def repeat(count: int) -> None:
                for offset in taken(order, count):
                    data = await file.read_at(BLOCK, offset)
                check(data, offset)

            await in_trio_tasks(window, tasks, repeat)

    trio_uring.run(main)


def trio_uring_read_many(window: Window, path: str, depth: int, flags: int = 0) -> None:
    import trio_uring

    order = array("Q", offsets(path))
    starts = range(0, len(order) - depth + 1, depth)

    async def main() -> None:
        async with await trio_uring.open_direct(path, flags) as file:
            # As the C program does it.
            with trio_uring.register_buffer(BLOCK * depth) as buffer:
                each = window.share(depth)
                with window:
                    for start in taken(list(starts), each):
                        await file.read_many(buffer, order[start : start + depth])
                check(buffer.memory[-BLOCK:], order[start + depth - 1])

    trio_uring.run(main)


def trio_uring_direct(window: Window, path: str, tasks: int) -> None:
    import trio_uring

    order = offsets(path)

    async def main() -> None:
        async with await trio_uring.open_direct(path, os.O_DIRECT) as file:

            async def repeat(count: int) -> None:
                # Anonymous mappings are aligned, as O_DIRECT wants it.
                with mmap.mmap(-1, BLOCK) as buffer:
                    for offset in taken(order, count):
                        await file.readinto_at(buffer, offset)
                    check(buffer, offset)

            await in_trio_tasks(window, tasks, repeat)

    trio_uring.run(main)


# -- 4 KiB reads: the others -----------------------------------------------------------------------


def trio_thread_read(window: Window, path: str, tasks: int) -> None:
    order, fd = offsets(path), os.open(path, os.O_RDONLY)

    async def repeat(count: int) -> None:
        for offset in taken(order, count):
            data = await trio.to_thread.run_sync(os.pread, fd, BLOCK, offset)
        check(data, offset)

    trio.run(in_trio_tasks, window, tasks, repeat)
    os.close(fd)


def trio_thread_direct(window: Window, path: str, tasks: int) -> None:
    order, fd = offsets(path), os.open(path, os.O_RDONLY | os.O_DIRECT)

    async def repeat(count: int) -> None:
        with mmap.mmap(-1, BLOCK) as buffer:
            for offset in taken(order, count):
                await trio.to_thread.run_sync(os.preadv, fd, [buffer], offset)
            check(buffer, offset)

    trio.run(in_trio_tasks, window, tasks, repeat)
    os.close(fd)


def trio_open_file(window: Window, path: str, tasks: int) -> None:
    order = offsets(path)

    async def repeat(count: int) -> None:
        async with await trio.open_file(path, "rb", buffering=0) as file:
            for offset in taken(order, count):
                await file.seek(offset)
                data = await file.read(BLOCK)
        check(data, offset)

    trio.run(in_trio_tasks, window, tasks, repeat)


def _executor_read(run: Callable[..., None], window: Window, path: str, tasks: int) -> None:
    order, fd = offsets(path), os.open(path, os.O_RDONLY)

    async def repeat(count: int) -> None:
        loop = asyncio.get_running_loop()
        for offset in taken(order, count):
            data = await loop.run_in_executor(None, os.pread, fd, BLOCK, offset)
        check(data, offset)

    run(in_asyncio_tasks, window, tasks, repeat)
    os.close(fd)


def asyncio_read(window: Window, path: str, tasks: int) -> None:
    _executor_read(run_asyncio, window, path, tasks)


def uvloop_read(window: Window, path: str, tasks: int) -> None:
    _executor_read(run_uvloop, window, path, tasks)


def _seek_and_read(open_file: Callable[..., Any], window: Window, path: str, tasks: int) -> None:
    order = offsets(path)

    async def repeat(count: int) -> None:
        async with open_file(path, "rb", buffering=0) as file:
            for offset in taken(order, count):
                await file.seek(offset)
                data = await file.read(BLOCK)
        check(data, offset)

    run_asyncio(in_asyncio_tasks, window, tasks, repeat)


def aiofiles_read(window: Window, path: str, tasks: int) -> None:
    import aiofiles

    _seek_and_read(aiofiles.open, window, path, tasks)


def anyio_read(window: Window, path: str, tasks: int) -> None:
    import anyio

    @contextlib.asynccontextmanager
    async def open_file(*arguments: Any, **more: Any) -> AsyncIterator[Any]:
        async with await anyio.open_file(*arguments, **more) as file:
            yield file

    _seek_and_read(open_file, window, path, tasks)


def liburing_read(window: Window, path: str, depth: int) -> None:
    import liburing

    lib: Any = liburing
    order, fd = offsets(path), os.open(path, os.O_RDONLY)
    flags = lib.IORING_SETUP_SINGLE_ISSUER | lib.IORING_SETUP_DEFER_TASKRUN
    ring, cqe = lib.Ring(), lib.Cqe()
    lib.io_uring_queue_init(depth, ring, flags)
    lib.io_uring_register_files(ring, lib.FileIndex([fd]))
    blocks = [bytearray(BLOCK) for _ in range(depth)]
    lib.io_uring_register_buffers(ring, lib.Iovec(blocks))
    each = window.share(depth)
    places = taken(order, each * depth)
    with window:
        for _ in range(each):
            for number, offset in enumerate(itertools.islice(places, depth)):
                sqe = lib.io_uring_get_sqe(ring)
                lib.io_uring_prep_read_fixed(sqe, 0, blocks[number], number, offset)
                sqe.flags = lib.IOSQE_FIXED_FILE
                sqe.user_data = number
            lib.io_uring_submit_and_wait(ring, depth)
            lib.io_uring_peek_cqe(ring, cqe)
            for number in range(depth):
                if cqe[number].res != BLOCK:
                    raise WrongResult
            lib.io_uring_cq_advance(ring, depth)
    check(blocks[depth - 1], offset)
    lib.io_uring_queue_exit(ring)
    os.close(fd)


# -- open, read, close -----------------------------------------------------------------------------


def paths(directory: str) -> list[str]:
    names = [name for name in os.listdir(directory) if name.isdigit()]
    random.Random(1).shuffle(names)
    return [os.path.join(directory, name) for name in names]


def _whole_files(
    run: Callable[..., Any],
    in_tasks: Callable[..., Any],
    read: Callable[[str], Awaitable[bytes]],
    window: Window,
    directory: str,
    tasks: int,
) -> None:
    order = paths(directory)

    async def repeat(count: int) -> None:
        for path in taken(order, count):
            data = await read(path)
        if len(data) != SMALL_FILE or int.from_bytes(data[:8], "little") != int(path[-4:]):
            raise WrongResult

    run(in_tasks, window, tasks, repeat)


def _read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def trio_uring_open(window: Window, directory: str, tasks: int) -> None:
    import trio_uring

    async def read(path: str) -> bytes:
        async with await trio_uring.open_direct(path) as file:
            return await file.read_at(SMALL_FILE, 0)

    _whole_files(trio_uring.run, in_trio_tasks, read, window, directory, tasks)


def trio_uring_read_files(window: Window, directory: str, depth: int) -> None:
    import trio_uring

    order = paths(directory)

    async def main() -> None:
        each = window.share(depth)
        names = taken(order, each * depth)
        with window:
            for _ in range(each):
                contents = await trio_uring.read_files(list(itertools.islice(names, depth)))
        for content in contents:
            if isinstance(content, OSError) or len(content) != SMALL_FILE:
                raise WrongResult

    trio_uring.run(main)


def trio_path_open(window: Window, directory: str, tasks: int) -> None:
    async def read(path: str) -> bytes:
        return await trio.Path(path).read_bytes()

    _whole_files(trio.run, in_trio_tasks, read, window, directory, tasks)


def trio_open_file_open(window: Window, directory: str, tasks: int) -> None:
    async def read(path: str) -> bytes:
        async with await trio.open_file(path, "rb") as file:
            return await file.read()

    _whole_files(trio.run, in_trio_tasks, read, window, directory, tasks)


async def _in_executor(path: str) -> bytes:
    return await asyncio.get_running_loop().run_in_executor(None, _read_file, path)


def asyncio_open(window: Window, directory: str, tasks: int) -> None:
    _whole_files(run_asyncio, in_asyncio_tasks, _in_executor, window, directory, tasks)


def uvloop_open(window: Window, directory: str, tasks: int) -> None:
    _whole_files(run_uvloop, in_asyncio_tasks, _in_executor, window, directory, tasks)


def aiofiles_open(window: Window, directory: str, tasks: int) -> None:
    import aiofiles

    async def read(path: str) -> bytes:
        async with aiofiles.open(path, "rb") as file:
            return bytes(await file.read())

    _whole_files(run_asyncio, in_asyncio_tasks, read, window, directory, tasks)


def anyio_open(window: Window, directory: str, tasks: int) -> None:
    import anyio

    async def read(path: str) -> bytes:
        return bytes(await anyio.Path(path).read_bytes())

    _whole_files(run_asyncio, in_asyncio_tasks, read, window, directory, tasks)
