# SPDX-License-Identifier: MIT OR Apache-2.0
"""The openers: each reserves a slot first, then asks the kernel to fill it.

A slot is given back only when the operation that names it has ended, however it ended: with an
error, cancelled, or not submitted at all. A file that arrives although the task was cancelled
meanwhile is returned; the cancellation is delivered at the next checkpoint.

On kernels that cannot turn a slot into an ordinary descriptor (before 6.8) the file stays in an
ordinary descriptor, and the slot is only counted. Their file tables also let go of a file late:
after a second, or when an operation on another slot ends, so that a peer would not see the close.
"""

from __future__ import annotations

import errno
import os
import socket as stdlib_socket
import stat
from typing import TYPE_CHECKING, Any, overload

import trio
from trio.lowlevel import enable_ki_protection

from ._abi import AT_FDCWD
from ._buffers import struct_memory
from ._capabilities import capabilities
from ._current import current_engine
from ._engine_slots import begin_open, begin_socket, path_bytes, take_slot
from ._fixed_file import FixedFile
from ._fixed_socket import FixedSocket
from ._operation import BringsFd
from ._prep import prep_openat
from ._slots import fill_slot, reserve
from ._socket_setup import socket_kind

if TYPE_CHECKING:
    from ._buffers import Path
    from ._engine import Engine
    from ._socket_setup import SocketKind

_ASYNC = 1 << 4  # SqeFlag.ASYNC


@enable_ki_protection
async def open_direct(
    path: Path,
    flags: int = os.O_RDONLY,
    mode: int = 0o666,
    *,
    dir_fd: int | None = None,
    slot: int | None = None,
    wait: bool = True,
) -> FixedFile:
    """Opens a file into a slot of the ring's file table: openat(2), argument for argument.

    The arguments are those of `os.open`. ``O_CLOEXEC`` changes nothing: no slot survives an exec.
    A FIFO opens for reading without a writer, and the first read waits for one. ``dir_fd`` is an
    ordinary descriptor. ``slot`` names one of the `RingOptions.slots_manual`.

    With no free slot it waits for one, in the order of asking; ``wait=False`` raises instead. No
    file is created or truncated before there is a slot for it.

    Raises:
        OSError: what openat(2) says; `SlotsExhausted` with ``wait=False``.
        RingUnavailableError: io_uring or direct descriptors cannot be used here (Linux 5.15).
    """
    engine = current_engine()
    encoded = path_bytes(path)
    at = AT_FDCWD if dir_fd is None else dir_fd
    taken = take_slot(engine) if slot is None else -1
    if taken < 0:
        [taken] = await reserve(engine, slot=slot, wait=wait)
    try:
        if not capabilities().install:
            fd = await _open_outside(engine, at, encoded, flags | os.O_CLOEXEC, mode)
            return FixedFile(engine, taken, fill_slot(engine, taken, fd))
        # K15: with O_CLOEXEC the kernel refuses a slot.
        flags &= ~os.O_CLOEXEC
        operation = begin_open(engine, at, encoded, flags, mode, taken)
        if engine.clock_jumps:
            engine.hold_clock(operation)
        try:
            await engine.wait(operation, True)
        except OSError as exc:
            if not _must_wait(exc, flags):
                raise
            await engine.wait(begin_open(engine, at, encoded, flags, mode, taken, _ASYNC))
        return FixedFile(engine, taken)
    except OSError as exc:
        engine.release_slot(taken)
        # As os.open has it. The traceback needs no second exception.
        raise OSError(exc.errno, exc.strerror, os.fspath(path)) from None
    except BaseException:
        engine.release_slot(taken)
        raise


def _must_wait(exc: OSError, flags: int) -> bool:
    """A FIFO that has no reader yet.

    io_uring tries with O_NONBLOCK first, which is answered with ENXIO. A worker thread opens it as
    it was asked to, and waits.
    """
    return exc.errno == errno.ENXIO and bool(flags & os.O_WRONLY) and not flags & os.O_NONBLOCK


async def _open_outside(engine: Engine, at: int, path: bytes, flags: int, mode: int) -> int:
    """An ordinary descriptor, where slots are only counted."""
    memory, address = struct_memory("char[]", path)
    args, pins = (at, address, flags, mode), BringsFd(memory)
    try:
        return await engine.perform(prep_openat, *args, pins=pins)
    except OSError as exc:
        if not _must_wait(exc, flags):
            raise
        return await engine.perform(prep_openat, *args, pins=pins, bounded=False, flags=_ASYNC)


@enable_ki_protection
async def socket_direct(
    family: int = stdlib_socket.AF_INET,
    type: int = stdlib_socket.SOCK_STREAM,
    proto: int = 0,
    *,
    slot: int | None = None,
    wait: bool = True,
) -> FixedSocket:
    """Makes a socket in a slot of the ring's file table: socket(2); an operation since 5.19.

    ``SOCK_NONBLOCK`` and ``SOCK_CLOEXEC`` in ``type`` change nothing. See `open_direct` for slots.
    """
    engine = current_engine()
    kind = type & ~(stdlib_socket.SOCK_NONBLOCK | stdlib_socket.SOCK_CLOEXEC)
    taken = take_slot(engine) if slot is None else -1
    if taken < 0:
        [taken] = await reserve(engine, slot=slot, wait=wait)
    try:
        if capabilities().install:
            operation = begin_socket(engine, family, kind, proto, taken)
            if engine.clock_jumps:
                engine.hold_clock(operation)
            await engine.wait(operation, True)
            companion = -1
        else:
            await trio.lowlevel.checkpoint()
            fd = stdlib_socket.socket(family, kind, proto).detach()
            os.set_blocking(fd, True)
            companion = fill_slot(engine, taken, fd)
        return FixedSocket(engine, taken, companion, socket_kind(family, kind, proto))
    except BaseException:
        engine.release_slot(taken)
        raise


async def accept_direct(
    listener: FixedSocket, *, slot: int | None = None, wait: bool = True
) -> FixedSocket:
    """Takes one connection from a listening socket into a slot: `FixedSocket.accept_direct`."""
    return await listener.accept_direct(slot=slot, wait=wait)


@enable_ki_protection
async def pipe_direct(flags: int = 0, *, wait: bool = True) -> tuple[FixedFile, FixedFile]:
    """Makes a pipe in two slots: pipe2(2); returns the end to read and the end to write.

    ``O_CLOEXEC`` changes nothing. See `open_direct` for slots. The pipe is made by the system call
    and then put into its slots: IORING_OP_PIPE (6.16) into slots of our choice reports wrong ones
    on some kernels up to 6.18, and empties slot 0 when it fails.
    """
    engine = current_engine()
    flags &= ~os.O_CLOEXEC
    read_slot, write_slot = await reserve(engine, 2, wait=wait)
    try:
        await trio.lowlevel.checkpoint()
        read_end, write_end = os.pipe2(flags | os.O_CLOEXEC)
        try:
            companion = fill_slot(engine, read_slot, read_end)
        except BaseException:
            os.close(write_end)
            raise
    except BaseException:
        engine.release_slot(read_slot)
        engine.release_slot(write_slot)
        raise
    reader = FixedFile(engine, read_slot, companion)
    try:
        companion = fill_slot(engine, write_slot, write_end)
    except BaseException:
        reader._close_now()
        engine.release_slot(write_slot)
        raise
    return reader, FixedFile(engine, write_slot, companion)


@overload
async def register(
    fd: stdlib_socket.socket, *, slot: int | None = None, wait: bool = True
) -> FixedSocket: ...
@overload
async def register(
    fd: Any, *, slot: int | None = None, wait: bool = True
) -> FixedFile | FixedSocket: ...
@enable_ki_protection
async def register(
    fd: Any, *, slot: int | None = None, wait: bool = True
) -> FixedFile | FixedSocket:
    """Puts an open file into a slot; a socket comes back as a `FixedSocket`.

    ``fd`` is an ordinary descriptor, or an object with ``fileno()``. It stays open and stays the
    caller's: the slot has a reference of its own.

    Raises:
        OSError: ``EBADF``: not open, or the descriptor of a ring.
    """
    number = fd if isinstance(fd, int) else fd.fileno()
    engine = current_engine()
    [taken] = await reserve(engine, slot=slot, wait=wait)
    try:
        await trio.lowlevel.checkpoint()
        kind = _socket_kind(number)
        companion = fill_slot(engine, taken, os.dup(number))
        file = (
            FixedFile(engine, taken, companion)
            if kind is None
            else FixedSocket(engine, taken, companion, kind)
        )
        file._sole_owner = False
        return file
    except BaseException:
        engine.release_slot(taken)
        raise


def _socket_kind(fd: int) -> SocketKind | None:
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return None
    sock = stdlib_socket.socket(fileno=fd)
    kind = socket_kind(sock.family, sock.type, sock.proto)
    sock.detach()
    return kind


async def close_direct(file: FixedFile) -> None:
    """Closes a handle: the same as ``await file.aclose()``."""
    await file.aclose()
