# SPDX-License-Identifier: MIT OR Apache-2.0
"""Many files at once: `read_files`, `stat_many`.

A file is read by a chain of three operations: open into a slot, read, close. The kernel goes on
from one to the next by itself, and the close runs whatever the read did: no slot outlives its
chain. What does not fit, or cannot be done so, is read as with `open_direct`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import enable_ki_protection

from ._abi import AT_FDCWD
from ._batch import Batch
from ._buffers import struct_memory
from ._capabilities import capabilities
from ._current import current_engine
from ._direct import open_direct
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
_CHAIN = 3
_AT_SYMLINK_NOFOLLOW = 0x100


@enable_ki_protection
async def read_files(paths: Iterable[Path], *, dir_fd: int | None = None) -> list[bytes | OSError]:
    """The contents of all these files, in order; in place of one that cannot be read, the error.

    Many are opened, read and closed at once, for the Python of one. ``dir_fd``: what relative paths
    are relative to, an ordinary descriptor.

    Raises:
        RingUnavailableError: io_uring cannot be used here.
    """
    engine = current_engine()
    wanted = list(paths)
    at_once = _at_once(engine)
    await trio.lowlevel.checkpoint_if_cancelled()
    if not wanted:
        await trio.lowlevel.cancel_shielded_checkpoint()
    found: list[bytes | OSError] = []
    for first in range(0, len(wanted), at_once or 1):
        some = wanted[first : first + (at_once or 1)]
        if at_once:
            found += await _read_chained(engine, some, dir_fd)
        else:
            found.append(await _read_whole(some[0], dir_fd))
    return found


def _at_once(engine: Engine) -> int:
    """How many chains fit; 0: slots cannot be used here, or the queue is too short for a chain."""
    if not capabilities().install:
        return 0
    table = engine.table
    return min((engine.ring._mask + 1) // _CHAIN, table.slots_max - table.slots_manual)


async def _read_chained(
    engine: Engine, paths: Sequence[Path], dir_fd: int | None
) -> list[bytes | OSError]:
    names, starts = _names(paths)
    slots = await reserve(engine, len(paths))
    try:
        memory, answers = await _run_chains(engine, len(paths), dir_fd, names, starts, slots)
    finally:
        if not engine.closed:
            engine.table.release_all(slots)
    found: list[bytes | OSError] = []
    rest: list[int] = []
    contents = ffi.buffer(memory)
    for number, (opened, nbytes) in enumerate(
        zip(answers[::_CHAIN], answers[1::_CHAIN], strict=True)
    ):
        failed = opened if opened < 0 else nbytes
        if failed < 0:
            found.append(OSError(-failed, os.strerror(-failed), os.fspath(paths[number])))
        else:
            start = number * PART_BYTES
            found.append(contents[start : start + nbytes])
            if nbytes == PART_BYTES:
                rest.append(number)
    _keep(engine, memory)
    for number in rest:
        found[number] = await _read_whole(paths[number], dir_fd)
    return found


async def _run_chains(
    engine: Engine, count: int, dir_fd: int | None, names: Any, starts: Any, slots: list[int]
) -> tuple[Any, list[int]]:
    engine.make_room(_CHAIN * count)
    memory = _memory(engine, count * PART_BYTES)
    numbers: Any = ffi.new("uint32_t[]", slots)
    batch = Batch.take(engine, _CHAIN * count, _CHAIN)
    ring: Any = engine.ring
    at = AT_FDCWD if dir_fd is None else dir_fd
    lib.tu_batch_files(
        ring._ring, ring._tail, batch.batch, at, starts, numbers, os.O_RDONLY, address_of(memory),
        PART_BYTES,
    )  # fmt: skip
    batch.begin(None, (memory, names, starts))
    if engine.clock_jumps:
        engine.hold_clock(batch)
    await engine.wait_prompt(batch)
    return memory, batch.answers()


def _names(paths: Sequence[Path]) -> tuple[Any, Any]:
    """The paths as C strings in one piece of memory, and the address of each."""
    encoded = [os.fsencode(path) for path in paths]
    joined = b"\0".join(encoded) + b"\0"
    if joined.count(b"\0") != len(encoded):
        raise ValueError("embedded null byte")
    names = ffi.from_buffer(joined)
    start, starts = address_of(names), []
    for name in encoded:
        starts.append(start)
        start += len(name) + 1
    return names, ffi.new("uint64_t[]", starts)


def _memory(engine: Engine, nbytes: int) -> Any:
    memory, engine.spare_memory = engine.spare_memory, None
    if memory is None or len(memory) < nbytes:
        memory = new_buffer("char[]", nbytes)
    return memory


def _keep(engine: Engine, memory: Any) -> None:
    if len(memory) <= _KEPT_BYTES:
        engine.spare_memory = memory


async def _read_whole(path: Path, dir_fd: int | None) -> bytes | OSError:
    parts: list[bytes] = []
    position = 0
    try:
        async with await open_direct(path, dir_fd=dir_fd) as file:
            while part := await file.read_at(PART_BYTES * 16, position):
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

    Raises:
        RingUnavailableError: io_uring cannot be used here.
    """
    engine = current_engine()
    wanted = list(paths)
    await trio.lowlevel.checkpoint_if_cancelled()
    if not wanted:
        await trio.lowlevel.cancel_shielded_checkpoint()
    found: list[os.stat_result | OSError] = []
    at_once = engine.ring._mask + 1
    flags = 0 if follow_symlinks else _AT_SYMLINK_NOFOLLOW
    at = AT_FDCWD if dir_fd is None else dir_fd
    for first in range(0, len(wanted), at_once):
        found += await _stat_some(engine, wanted[first : first + at_once], at, flags)
    return found


async def _stat_some(
    engine: Engine, paths: Sequence[Path], at: int, flags: int
) -> list[os.stat_result | OSError]:
    names, starts = _names(paths)
    engine.check_run()
    engine.make_room(len(paths))
    batch = Batch.take(engine, len(paths))
    memory, address = struct_memory("char[]", STATX_BYTES * len(paths))
    for number in range(len(paths)):
        sqe = engine.ring.entry(engine.ring.tail + number)
        place = address + STATX_BYTES * number
        prep_statx(sqe, at, starts[number], flags, STATX_BASIC_STATS, place, batch.name(number))
    batch.begin(None, (names, starts, memory))
    if engine.clock_jumps:
        engine.hold_clock(batch)
    await engine.wait_prompt(batch)
    return [
        OSError(-answer, os.strerror(-answer), os.fspath(paths[number]))
        if answer
        else stat_result(memory, STATX_BYTES * number)
        for number, answer in enumerate(batch.answers())
    ]
