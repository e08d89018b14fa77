# SPDX-License-Identifier: MIT OR Apache-2.0
"""Copies a file on direct descriptors.

    python docs/examples/copy_file.py [--progress] SOURCE TARGET

Several tasks copy one chunk each at the same time, so that reads and writes overlap. The copy has
the permissions of the source, and holes where the source has them.
"""

from __future__ import annotations

import argparse
import errno
import math
import os
import stat
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

import trio_uring

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

CHUNK_BYTES = 256 * 1024
CHUNKS_AT_ONCE = 8


async def copy(source_path: str, target_path: str, progress: Progress) -> None:
    """Copies the data of a file, then its permissions; an existing target is replaced."""
    async with trio_uring.open_file_scope() as files:
        source = await files.open_direct(source_path)
        status = await source.stat()
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", source_path)
        # No O_TRUNC: the target may be the source. Nobody else reads it before it is complete.
        target = await files.open_direct(target_path, os.O_WRONLY | os.O_CREAT, 0o600)
        if os.path.samestat(status, await target.stat()):
            raise OSError(errno.EINVAL, "is the source itself", target_path)
        await target.truncate(0)
        await target.truncate(status.st_size)  # One large hole, which the chunks fill.

        progress.bytes_total = status.st_size
        async with ordinary_fd(source) as fd, trio.open_nursery() as nursery:
            nursery.start_soon(progress.show)
            chunks = data_chunks(fd, status.st_size)
            async with trio.open_nursery() as copiers:
                for _ in range(CHUNKS_AT_ONCE):
                    copiers.start_soon(copy_chunks, source, target, chunks, progress)
            progress.bytes_done = status.st_size
            nursery.cancel_scope.cancel()

        # What was added meanwhile; files of /proc have all their data beyond their size.
        end = status.st_size
        while (copied := await copy_range(source, target, end, end + CHUNK_BYTES)) > end:
            end = copied
        async with ordinary_fd(target) as fd:
            os.fchmod(fd, status.st_mode & 0o777)


@asynccontextmanager
async def ordinary_fd(file: trio_uring.FixedFile) -> AsyncIterator[int]:
    """A descriptor of the process, for calls that io_uring does not have."""
    fd = await file.install_fd()
    try:
        yield fd
    finally:
        os.close(fd)


def data_chunks(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Where the chunks start and end, without the holes."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # The rest is a hole.
                return
            raise
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        for chunk in range(start, end, CHUNK_BYTES):
            yield chunk, min(chunk + CHUNK_BYTES, end)


async def copy_chunks(
    source: trio_uring.FixedFile,
    target: trio_uring.FixedFile,
    chunks: Iterator[tuple[int, int]],
    progress: Progress,
) -> None:
    """Copies one chunk after the other, until there are no more; other tasks take chunks too."""
    for start, end in chunks:
        if await copy_range(source, target, start, end) < end:
            raise OSError(errno.EIO, "the source is shorter than its size says")
        progress.bytes_done = end


async def copy_range(
    source: trio_uring.FixedFile, target: trio_uring.FixedFile, start: int, end: int
) -> int:
    """Copies from ``start`` to ``end``, or to the end of the source; returns how far it came."""
    while start < end and (data := await source.read_at(end - start, start)):
        while data:
            written = await target.write_at(data, start)
            data = data[written:]
            start += written
    return start


class Progress:
    """How far a copy has come, as a bar on stderr."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self.bytes_done = self.bytes_total = 0

    async def show(self) -> None:
        """Draws the bar until it is cancelled; a quick copy is over before the first time."""
        await trio.sleep(self.delay_s)
        try:
            while True:
                self.draw()
                await trio.sleep(0.1)
        finally:
            self.draw("\n")

    def draw(self, end: str = "") -> None:
        """Draws the bar over the one before."""
        part = self.bytes_done / self.bytes_total if self.bytes_total else 1
        bar = "#" * int(part * 40)
        print(f"\r[{bar:40}] {part:4.0%}", end=end, file=sys.stderr, flush=True)


def main() -> None:
    """Reads the command line and copies."""
    parser = argparse.ArgumentParser(description="Copies a file on direct descriptors.")
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--progress", action="store_true", help="also where there is no terminal")
    arguments = parser.parse_args()
    delay_s = 0 if arguments.progress else 0.5 if sys.stderr.isatty() else math.inf
    try:
        trio_uring.run(copy, arguments.source, arguments.target, Progress(delay_s))
    except (OSError, KeyboardInterrupt, BaseExceptionGroup) as exc:
        while isinstance(exc, BaseExceptionGroup):  # What stopped one of the tasks says enough.
            exc = exc.exceptions[0]
        if isinstance(exc, KeyboardInterrupt):
            sys.exit(130)
        if not isinstance(exc, OSError):
            raise
        sys.exit(f"copy_file: {exc}")


if __name__ == "__main__":
    main()
