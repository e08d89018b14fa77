# SPDX-License-Identifier: MIT OR Apache-2.0
"""Many files at once: `read_files`, `stat_many`.

A file is read by a chain of operations: open into a slot, read, read on to see that this is the
end, close. The kernel goes on from one to the next by itself, and the close runs whatever the reads
did: no slot outlives its chain. What does not fit, or cannot be done so, is read as with
`open_direct`.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import enable_ki_protection

from ._abi import AT_FDCWD
from ._batch import Batch
from ._buffers import struct_memory
from ._capabilities import capabilities
from ._current import current_engine
from ._direct import open_direct
from ._engine_slots import path_bytes
from ._fixed_file import new_buffer
from ._lib import address_of, ffi, lib
from ._prep import prep_statx
from ._slots import reserve
from ._stat import STATX_BASIC_STATS, STATX_BYTES, stat_result

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ._buffers import Path
    from ._engine import Engine

# What one chain reads; of a longer file the rest is read after it.
PART_BYTES = 65536
# Memory for chains that a run keeps for the next time.
_KEPT_BYTES = 4 << 20
# Of what a chain reads to see whether there is more; nobody looks at it.
_REST_BYTES = 64
_CHAIN = 4
# What is read at once of a file that is longer.
_WHOLE_BYTES = 1 << 20
_AT_SYMLINK_NOFOLLOW = 0x100


@enable_ki_protection
async def read_files(paths: Iterable[Path], *, dir_fd: int | None = None) -> list[bytes | OSError]:
    """The contents of all these files, in order; in place of one that cannot be read, the error.

    Many are opened, read and closed at once, for the Python of one, as many as there are free
    slots; they are free again when all of them have been read. ``dir_fd``: what relative paths are
    relative to, an ordinary descriptor. A pipe or a terminal is waited for, and only what comes in
    one piece can be read; else its place has ``ESPIPE``. All contents are in memory at the end.

    Raises:
        RingUnavailableError: io_uring cannot be used here.
    """
    engine = current_engine()
    wanted, names = _encoded(paths)
    at_once = _at_once(engine)
    await trio.lowlevel.checkpoint_if_cancelled()
    if not wanted:
        await trio.lowlevel.cancel_shielded_checkpoint()
    found: list[bytes | OSError] = []
    while len(found) < len(wanted):
        first = len(found)
        if found:
            await trio.lowlevel.checkpoint_if_cancelled()
        if not at_once:
            found.append(await _read_whole(wanted[first], dir_fd))
            continue
        slots = await _some_slots(engine, min(at_once, len(wanted) - first))
        found += await _read_chained(engine, wanted, names, first, dir_fd, slots)
    return found


def _at_once(engine: Engine) -> int:
    """How many chains fit; 0: slots cannot be used here, or the queue is too short for a chain."""
    if not capabilities().install:
        return 0
    table = engine.table
    return min((engine.ring._mask + 1) // _CHAIN, table.slots_max - table.slots_manual)


async def _some_slots(engine: Engine, count: int) -> list[int]:
    """As many as are free, but one at least: whoever waits for many keeps others waiting."""
    return await reserve(engine, max(1, min(count, engine.table.free_count)))


async def _read_chained(
    engine: Engine,
    paths: Sequence[Path],
    names: Sequence[bytes],
    first: int,
    dir_fd: int | None,
    slots: list[int],
) -> list[bytes | OSError]:
    """As many as there are slots, which it frees, from the ``first`` on."""
    try:
        some = slice(first, first + len(slots))
        memory, answers = await _run_chains(engine, names[some], dir_fd, slots)
    finally:
        if not engine.closed:
            engine.table.release_all(slots)
    found: list[bytes | OSError] = []
    rest: list[int] = []
    contents = ffi.buffer(memory)
    chains = zip(answers[::_CHAIN], answers[1::_CHAIN], answers[2::_CHAIN], strict=True)
    for number, (opened, nbytes, more) in enumerate(chains):
        failed = opened if opened < 0 else nbytes
        if failed < 0:
            found.append(OSError(-failed, os.strerror(-failed), os.fspath(paths[first + number])))
        else:
            start = number * PART_BYTES
            found.append(contents[start : start + nbytes])
            if more:
                rest.append(number)
    _keep(engine, memory)
    for number in rest:
        found[number] = await _read_whole(paths[first + number], dir_fd, again=True)
    return found


async def _run_chains(
    engine: Engine, names: Sequence[bytes], dir_fd: int | None, slots: list[int]
) -> tuple[Any, list[int]]:
    count = len(names)
    joined = _joined(names)
    memory = _memory(engine, count * PART_BYTES + _REST_BYTES)
    address = address_of(memory)
    numbers: Any = ffi.new("uint32_t[]", slots)
    batch = Batch.take(engine, _CHAIN * count, _CHAIN)
    ring: Any = engine.ring
    at = AT_FDCWD if dir_fd is None else dir_fd
    code = lib.tu_batch_files(
        ring._ring, ring._tail, batch.batch, at, joined, numbers, os.O_RDONLY, address,
        PART_BYTES, address + count * PART_BYTES, _REST_BYTES,
    )  # fmt: skip
    ring.check(code, "a batch")
    batch.begin(None, (memory, joined))
    return memory, await batch.wait()


def _encoded(paths: Iterable[Path]) -> tuple[list[Path], list[bytes]]:
    """The paths, and how the kernel knows them."""
    if isinstance(paths, (str, bytes, os.PathLike)):
        raise TypeError(f"paths are needed, not one path: {paths!r}")
    wanted = list(paths)
    names = [path_bytes(path) for path in wanted]
    return wanted, names


def _joined(names: Sequence[bytes]) -> Any:
    """The names as C strings, one after the other."""
    return ffi.from_buffer(b"\0".join(names) + b"\0")


def _memory(engine: Engine, nbytes: int) -> Any:
    memory, engine.spare_memory = engine.spare_memory, None
    if memory is None or len(memory) < nbytes:
        memory = new_buffer("char[]", nbytes)
    return memory


def _keep(engine: Engine, memory: Any) -> None:
    if len(memory) <= _KEPT_BYTES:
        engine.spare_memory = memory


async def _read_whole(path: Path, dir_fd: int | None, again: bool = False) -> bytes | OSError:
    """One file by itself; ``again``: a chain has read a part of it."""
    parts: list[bytes] = []
    position = 0
    try:
        if again:
            (status,) = await stat_many([path], dir_fd=dir_fd)
            if isinstance(status, OSError):
                raise status
            # What a chain has read of a pipe is gone; and to open one waits for a writer.
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.ESPIPE, os.strerror(errno.ESPIPE))
        async with await open_direct(path, dir_fd=dir_fd) as file:
            seekable = stat.S_ISREG((await file.stat()).st_mode)
            while part := await (
                file.read_at(_WHOLE_BYTES, position) if seekable else file.read(_WHOLE_BYTES)
            ):
                parts.append(part)
                position += len(part)
    except OSError as exc:
        if exc.filename is None:
            exc.filename = os.fspath(path)
        return exc
    return b"".join(parts)


@enable_ki_protection
async def stat_many(
    paths: Iterable[Path], *, dir_fd: int | None = None, follow_symlinks: bool = True
) -> list[os.stat_result | OSError]:
    """`os.stat` of all these paths, in order; in place of one that fails, the error.

    The kernel asks the file system in a thread of its own, so that the loop is not blocked. Where
    all inodes are in memory a loop of `os.stat` takes less time.

    Raises:
        RingUnavailableError: io_uring cannot be used here.
    """
    engine = current_engine()
    wanted, names = _encoded(paths)
    await trio.lowlevel.checkpoint_if_cancelled()
    if not wanted:
        await trio.lowlevel.cancel_shielded_checkpoint()
    found: list[os.stat_result | OSError] = []
    at_once = engine.ring._mask + 1
    flags = 0 if follow_symlinks else _AT_SYMLINK_NOFOLLOW
    at = AT_FDCWD if dir_fd is None else dir_fd
    for first in range(0, len(wanted), at_once):
        if found:
            await trio.lowlevel.checkpoint_if_cancelled()
        some = slice(first, first + at_once)
        found += await _stat_some(engine, wanted[some], names[some], at, flags)
    return found


async def _stat_some(
    engine: Engine, paths: Sequence[Path], names: Sequence[bytes], at: int, flags: int
) -> list[os.stat_result | OSError]:
    joined = _joined(names)
    start = address_of(joined)
    memory, address = struct_memory("char[]", STATX_BYTES * len(paths))
    batch = Batch.take(engine, len(paths))
    batch.take_number()
    try:
        for number in range(len(paths)):
            sqe = engine.ring.entry(engine.ring.tail + number)
            place = address + STATX_BYTES * number
            prep_statx(sqe, at, start, flags, STATX_BASIC_STATS, place, batch.name(number))
            start += len(names[number]) + 1
    except BaseException:
        batch.abandon()
        raise
    batch.begin(None, (joined, memory))
    return [
        OSError(-answer, os.strerror(-answer), os.fspath(paths[number]))
        if answer
        else stat_result(memory, STATX_BYTES * number)
        for number, answer in enumerate(await batch.wait())
    ]
