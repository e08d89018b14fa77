# SPDX-License-Identifier: MIT OR Apache-2.0
"""The operations that fill and empty slots, begun in few steps: every file needs both.

They are for `Engine.wait`, and prompt. Other operations are written by the functions of `_prep`,
which are called with an entry and are easier to read.
"""

from __future__ import annotations

import os
import sys
from struct import Struct
from struct import error as StructError
from typing import TYPE_CHECKING, Any

from ._abi import Op
from ._buffers import struct_memory
from ._prep_entry import U32

if TYPE_CHECKING:
    from ._buffers import Path
    from ._engine import Engine
    from ._handle import Handle
    from ._operation import Operation

_OPENAT, _SOCKET, _ACCEPT = int(Op.OPENAT), int(Op.SOCKET), int(Op.ACCEPT)
_CLOSE = int(Op.CLOSE)
# opcode flags fd off addr len op_flags user_data file_index
_pack = Struct("=BB2xiQQIIQ4xI16x").pack_into
# Names of files from here on have memory of their own.
NAME_BYTES = 256
# Ends the name with zeroes.
_pack_name = Struct(f"{NAME_BYTES}s").pack_into
_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()


def path_bytes(path: Path) -> bytes:
    """As `os.fsencode`, but nothing that ends at a NUL in its middle."""
    encoded = path.encode(_ENCODING, _ERRORS) if type(path) is str else os.fsencode(path)
    if 0 in encoded:
        raise ValueError("embedded null byte")
    return encoded


def take_slot(engine: Engine) -> int:
    """A free slot, or -1: then `reserve` waits for one."""
    if engine.reclaim:
        engine.check_run()
        engine.reclaim_dropped()
    return (engine._table or engine.table).take_one()


def begin_on_slot(
    engine: Engine,
    opcode: int,
    slot: int,
    fd: int = 0,
    offset: int = 0,
    address: int = 0,
    length: int = 0,
    op_flags: int = 0,
    sqe_flags: int = 0,
    name: bytes | None = None,
) -> Operation:
    """Begins an operation that fills or empties a slot, for `Engine.wait`.

    ``name``: of a file, shorter than `NAME_BYTES`; it is copied, and is where ``address`` is.
    """
    task = engine.current_task()
    ring = engine.ring
    if ring._tail == ring._limit:
        engine.make_room(1)
    pool = engine.pool if name is None else engine.scratch_pool
    operation = pool.pop() if pool else engine._new_record()
    tail = ring._tail
    try:
        if name is not None:
            address = operation.scratch_at or operation.make_scratch()
            _pack_name(operation.scratch_view, 0, name)
        _pack(
            ring._rows,
            (tail & ring._mask) << 6,
            opcode,
            sqe_flags,
            fd,
            offset,
            address,
            length,
            op_flags,
            operation.user_data,
            slot + 1,
        )
    except BaseException as exc:
        operation.recycle()  # the entry is not in the queue yet
        if not isinstance(exc, StructError):
            raise
        raise ValueError(f"an argument does not fit its field of the entry: {exc}") from None
    ring._tail = (tail + 1) & U32
    operation.task = task
    operation.position = tail
    return operation


def begin_open(
    engine: Engine, at: int, path: bytes, flags: int, mode: int, slot: int, sqe_flags: int = 0
) -> Operation:
    """openat(2) into a slot; ``flags`` without O_CLOEXEC, or the kernel refuses."""
    if len(path) < NAME_BYTES:
        return begin_on_slot(engine, _OPENAT, slot, at, 0, 0, mode, flags, sqe_flags, path)
    pins, address = struct_memory("char[]", path)
    operation = begin_on_slot(engine, _OPENAT, slot, at, 0, address, mode, flags, sqe_flags)
    operation.pins = pins
    return operation


def begin_socket(engine: Engine, family: int, kind: int, proto: int, slot: int) -> Operation:
    """socket(2) into a slot; ``kind`` without SOCK_CLOEXEC, or the kernel refuses."""
    return begin_on_slot(engine, _SOCKET, slot, family, kind, 0, proto)


def begin_accept(engine: Engine, listener: Handle, slot: int) -> Operation:
    """accept(2) on a handle into a slot."""
    number, fixed = listener._checked_number(), listener._fixed
    operation = begin_on_slot(engine, _ACCEPT, slot, number, sqe_flags=fixed)
    operation.file = listener
    listener._in_flight += 1
    return operation


def begin_close(engine: Engine, slot: int) -> Operation:
    """Empties a slot."""
    return begin_on_slot(engine, _CLOSE, slot)


def write_accept(engine: Engine, record: Any, file: Handle, slot: int) -> None:
    """`begin_accept` for a record of the engine's that is no `Operation`."""
    number = file._checked_number()
    ring = engine.ring
    if ring._tail == ring._limit:
        engine.make_room(1)
    tail = ring._tail
    engine.add_record(record)
    _pack(
        ring._rows,
        (tail & ring._mask) << 6,
        _ACCEPT,
        file._fixed,
        number,
        0,
        0,
        0,
        0,
        record.user_data,
        slot + 1,
    )
    ring._tail = (tail + 1) & U32
