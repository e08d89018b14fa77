# SPDX-License-Identifier: MIT OR Apache-2.0
"""`FixedFile`: what can be done with a file in the ring's table."""

from __future__ import annotations

import errno
import os
from operator import index
from typing import TYPE_CHECKING, Any

from trio.lowlevel import enable_ki_protection

from ._abi import Op
from ._batch import OFFSET_MAX, Batch, transfer_many
from ._buffers import TRANSFER_BYTES_MAX, c_string, iovecs, readable, struct_memory, writable
from ._capabilities import capabilities
from ._handle import Handle
from ._lib import address_of, ffi
from ._locked_buffer import place_of, use_place
from ._native import address_of_bytes, new_bytes
from ._prep import (
    prep_fadvise,
    prep_fallocate,
    prep_fgetxattr,
    prep_fsetxattr,
    prep_fsync,
    prep_ftruncate,
    prep_poll_add,
    prep_readv,
    prep_splice,
    prep_statx,
    prep_sync_file_range,
    prep_writev,
)
from ._stat import STATX_BASIC_STATS, STATX_BYTES, stat_result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ._buffers import ReadableBuffer, WritableBuffer

# The kernel's own file position: what pipes, terminals and sockets need, having none.
_POSITION = 0xFFFF_FFFF_FFFF_FFFF
_SPLICE_FD_IN_FIXED = 1 << 31
_AT_EMPTY_PATH = 0x1000
_DATASYNC = 1
_READ, _WRITE = int(Op.READ), int(Op.WRITE)  # as plain numbers: the hot path packs them

# Uninitialised memory for reads; only what the kernel wrote is ever looked at.
new_buffer: Any = ffi.new_allocator(should_clear_after_alloc=False)
unpack: Callable[[Any, int], bytes] = ffi.unpack  # type: ignore[assignment]


class FixedFile(Handle):
    """A file in the ring's table: a direct descriptor.

    Comes from `open_direct`, `pipe_direct`, `register` and their like. It has no ordinary
    descriptor (`install_fd` makes one) and belongs to the Trio run that opened it. Each method is
    one operation of io_uring: a checkpoint that either happened, and then returns its result even
    if it was cancelled meanwhile, or raises `trio.Cancelled` and had no effect.

    Raises:
        trio.ClosedResourceError: the handle is closed, or another task closes it meanwhile.
        OSError: what the kernel refuses.
        RuntimeError: used in another Trio run, or outside of one.
    """

    # -- read and write ------------------------------------------------------------------------

    @enable_ki_protection
    async def read_at(self, nbytes: int, offset: int) -> bytes:
        """Up to ``nbytes`` bytes from ``offset`` on; ``b""`` at the end of the file. pread(2).

        What is in the page cache is copied in the thread of the loop, and no other task runs
        meanwhile, a second or so for 1 GiB: read large files in pieces of 1 MiB or less.
        """
        reading = self._begin_read(nbytes, offset)
        if reading is None:
            reading = self._read_anyhow(_length(nbytes), _offset(offset))
        data: bytes = await reading
        return data

    async def _read_anyhow(self, nbytes: int, offset: int, at_once: bool = True) -> bytes:
        """`read_at`, where something is unusual; or at the position that the kernel keeps."""
        engine, memory = self._engine, new_bytes(nbytes)
        address = address_of_bytes(memory)
        operation = engine.begin_transfer(self, _READ, 0, address, nbytes, offset, 0, memory)
        if at_once and engine.clock_jumps:
            engine.hold_clock(operation)
        return memory[: await engine.wait(operation, at_once)]

    @enable_ki_protection
    async def readinto_at(self, buffer: WritableBuffer, offset: int) -> int:
        """Fills ``buffer`` from ``offset`` on; returns the number of bytes read, 0 at the end.

        The buffer is locked meanwhile, and may be written to even if this raises.
        """
        reading = self._begin_readinto(buffer, offset)
        if reading is None:
            reading = self._transfer(_READ, buffer, writable(buffer), _offset(offset))
        count: int = await reading
        return count

    @enable_ki_protection
    async def write_at(self, data: ReadableBuffer, offset: int) -> int:
        """Writes at ``offset``; returns how many bytes were written, maybe fewer. pwrite(2)."""
        writing = self._begin_write(data, offset)
        if writing is None:
            writing = self._transfer(_WRITE, data, readable(data), _offset(offset))
        count: int = await writing
        return count

    @enable_ki_protection
    async def _transfer(
        self, opcode: int, buffer: Any, lent: tuple[Any, int, int], offset: int
    ) -> int:
        """At an offset of a file, so that it ends by itself."""
        engine = self._engine
        pin, address, nbytes = lent
        operation = engine.begin_transfer(self, opcode, 0, address, _length(nbytes), offset, 0, pin)
        if (place := place_of(engine, buffer)) >= 0:
            use_place(engine, operation, place)
        if engine.clock_jumps:
            engine.hold_clock(operation)
        return await engine.wait(operation, True)

    @enable_ki_protection
    async def read_many(self, buffer: WritableBuffer, offsets: Iterable[int]) -> list[int]:
        """Fills equal parts of ``buffer``, the first from the first of ``offsets``, and so on.

        As many `readinto_at` at once, for the Python of one. ``buffer`` may be an array with a row
        for each offset, and ``offsets`` an array of unsigned 64-bit numbers, used in place. Returns
        how many bytes each read, fewer at the end of the file.

        Raises:
            ValueError: the parts would not be equal.
            OSError: the first error; the others have ended too.
        """
        counts: list[int] = await (
            self._begin_many(_READ, buffer, offsets)
            or transfer_many(self._engine, self, _READ, buffer, writable(buffer), offsets)
        )
        return counts

    def _take_batch(self, count: int) -> Batch:
        """For C: a record of so many operations, and room for them."""
        return Batch.take(self._engine, count)

    @enable_ki_protection
    async def write_many(self, data: ReadableBuffer, offsets: Iterable[int]) -> list[int]:
        """Writes equal parts of ``data`` at ``offsets``: see `read_many`.

        Returns how many bytes each wrote. After an error or a cancellation nobody knows which were.
        """
        counts: list[int] = await (
            self._begin_many(_WRITE, data, offsets)
            or transfer_many(self._engine, self, _WRITE, data, readable(data), offsets)
        )
        return counts

    async def readv_at(self, buffers: Iterable[WritableBuffer], offset: int) -> int:
        """`readinto_at` into several buffers, one after the other. preadv(2)."""
        pins, address, count = iovecs(buffers, to_kernel=False)
        return await self._engine.perform_on(
            self, prep_readv, address, count, _offset(offset), pins=pins
        )

    async def writev_at(self, buffers: Iterable[ReadableBuffer], offset: int) -> int:
        """`write_at` from several buffers, one after the other. pwritev(2)."""
        pins, address, count = iovecs(buffers, to_kernel=True)
        return await self._engine.perform_on(
            self, prep_writev, address, count, _offset(offset), pins=pins
        )

    # Ctrl-C waits for the next checkpoint: between the completion and the return, bytes would be
    # lost.
    @enable_ki_protection
    async def read(self, nbytes: int) -> bytes:
        """Up to ``nbytes`` bytes; waits for the first. For pipes, terminals, sockets.

        On a file it reads at the position that the kernel keeps, which all users of the slot share.
        """
        return await self._read_anyhow(_length(nbytes), _POSITION, at_once=False)

    @enable_ki_protection
    async def readinto(self, buffer: WritableBuffer) -> int:
        """`read` into ``buffer``; returns the number of bytes read."""
        pin, address, nbytes = writable(buffer)
        engine = self._engine
        return await engine.wait(
            engine.begin_transfer(self, _READ, 0, address, _length(nbytes), _POSITION, 0, pin)
        )

    @enable_ki_protection
    async def write(self, data: ReadableBuffer) -> int:
        """Writes at the kernel's position; returns how many bytes were written, maybe fewer."""
        pin, address, nbytes = readable(data)
        engine = self._engine
        return await engine.wait(
            engine.begin_transfer(self, _WRITE, 0, address, _length(nbytes), _POSITION, 0, pin),
            True,
        )

    # -- the file ------------------------------------------------------------------------------

    async def fsync(self) -> None:
        """Returns when data and metadata are on the disk. fsync(2)."""
        await self._engine.perform_on(self, prep_fsync, 0)

    async def fdatasync(self) -> None:
        """Returns when the data are on the disk. fdatasync(2)."""
        await self._engine.perform_on(self, prep_fsync, _DATASYNC)

    async def truncate(self, length: int) -> None:
        """Makes the file ``length`` bytes long. ftruncate(2); an operation since 6.9."""
        if Op.FTRUNCATE in capabilities().ops:
            await self._engine.perform_on(self, prep_ftruncate, length)
            return
        async with self._ordinary_fd() as fd:
            os.ftruncate(fd, length)

    async def allocate(self, offset: int, length: int, mode: int = 0) -> None:
        """Reserves room on the disk, or what ``mode`` says. fallocate(2)."""
        await self._engine.perform_on(self, prep_fallocate, mode, offset, length)

    async def advise(self, offset: int, length: int, advice: int) -> None:
        """Says how the file will be read: ``os.POSIX_FADV_*``. posix_fadvise(2)."""
        await self._engine.perform_on(self, prep_fadvise, offset, length, advice)

    async def sync_range(self, offset: int, nbytes: int, flags: int) -> None:
        """Writes a part of the file to the disk. sync_file_range(2)."""
        await self._engine.perform_on(self, prep_sync_file_range, nbytes, offset, flags)

    async def stat(self) -> os.stat_result:
        """The status of the file. statx(2), which takes no slot: through an ordinary descriptor."""
        memory, address = struct_memory("char[]", STATX_BYTES)
        pin, path = c_string(b"")
        async with self._ordinary_fd() as fd:
            await self._engine.perform(
                prep_statx,
                fd,
                path,
                _AT_EMPTY_PATH,
                STATX_BASIC_STATS,
                address,
                pins=(pin, memory),
            )
        return stat_result(memory)

    async def getxattr(self, name: str | bytes) -> bytes:
        """The value of an extended attribute. fgetxattr(2); an operation since 5.19.

        Through an ordinary descriptor: kernels before 6.18 refuse a slot.
        """
        async with self._ordinary_fd() as fd:
            if Op.FGETXATTR not in capabilities().ops:
                return os.getxattr(fd, os.fsencode(name))
            pin, name_address = c_string(name)
            while True:
                size = await self._engine.perform(prep_fgetxattr, fd, name_address, 0, 0, pins=pin)
                value: Any = new_buffer("char[]", max(size, 1))
                try:
                    size = await self._engine.perform(
                        prep_fgetxattr, fd, name_address, address_of(value), size, pins=(pin, value)
                    )
                except OSError as exc:
                    if exc.errno != errno.ERANGE:  # it has grown since it was asked for its size
                        raise
                else:
                    return ffi.unpack(value, size)  # type: ignore[return-value]

    async def setxattr(self, name: str | bytes, value: ReadableBuffer, flags: int = 0) -> None:
        """Sets an extended attribute; ``flags`` as in `os.setxattr`. See `getxattr`."""
        pin, name_address = c_string(name)
        value_pin, address, nbytes = readable(value)
        async with self._ordinary_fd() as fd:
            if Op.FSETXATTR not in capabilities().ops:
                os.setxattr(fd, os.fsencode(name), bytes(ffi.buffer(value_pin)), flags)
                return
            await self._engine.perform(
                prep_fsetxattr, fd, name_address, address, flags, nbytes, pins=(pin, value_pin)
            )

    async def splice_to(
        self,
        target: FixedFile,
        nbytes: int,
        offset: int | None = None,
        target_offset: int | None = None,
        flags: int = 0,
    ) -> int:
        """Moves up to ``nbytes`` bytes to another handle without copying; one of both is a pipe.

        ``offset`` and ``target_offset`` must be None for a pipe. Returns how many bytes moved, 0 at
        the end. splice(2).
        """
        target._engine.check_run()  # its slot number means nothing in another ring's table
        return await self._engine.perform_on(
            _Pair(target, self),
            _prep_splice_from,
            self._checked_number(),
            _POSITION if offset is None else _offset(offset),
            _POSITION if target_offset is None else _offset(target_offset),
            _length(nbytes),
            flags | (_SPLICE_FD_IN_FIXED if self._fixed else 0),
            bounded=False,
        )

    async def poll(self, events: int) -> int:
        """Waits until one of ``events`` (``select.POLL*``) is there; returns those that are."""
        return await self._engine.perform_on(self, prep_poll_add, events, bounded=False)


def _prep_splice_from(
    sqe: Any,
    slot: int,
    source: int,
    offset: int,
    target_offset: int,
    nbytes: int,
    flags: int,
    user_data: int,
    sqe_flags: int,
) -> None:
    prep_splice(sqe, source, offset, slot, target_offset, nbytes, flags, user_data, sqe_flags)


class _Pair:
    """The two handles of one SQE: both count it, and closing either cancels it."""

    # What the engine asks to see whether it may count by itself.
    _slot = -1

    def __init__(self, target: FixedFile, source: FixedFile) -> None:
        self.members = (target, source)
        self._fixed = target._fixed

    def _checked_number(self) -> int:
        return self.members[0]._checked_number()

    # The engine says ``file._in_flight += 1``, as a method would cost too much on the hot path:
    # this is read as 0, so that what is set is what was added.
    @property
    def _in_flight(self) -> int:
        return 0

    @_in_flight.setter
    def _in_flight(self, one: int) -> None:
        for file in self.members:
            file._in_flight += one

    def _operation_ended(self) -> None:
        for file in self.members:
            file._operation_ended()


def _length(nbytes: int) -> int:
    nbytes = index(nbytes)  # asked once: what is allocated is what the kernel is told
    if nbytes < 0:
        raise ValueError("a number of bytes must not be negative")
    return min(nbytes, TRANSFER_BYTES_MAX)


def _offset(offset: int) -> int:
    # -1 would be the position that the kernel keeps, and so would 2**64 - 1.
    if not 0 <= offset <= OFFSET_MAX:
        raise ValueError(f"an offset must be from 0 to {OFFSET_MAX}, not {offset}")
    return offset
