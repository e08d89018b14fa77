# SPDX-License-Identifier: MIT OR Apache-2.0
"""The operations that fill and empty slots, begun in few steps: every file needs both.

They are for `Engine.wait`, and prompt. Other operations are written by the functions of `_prep`,
which are called with an entry and are easier to read.
"""

from __future__ import annotations

import os
import sys
from struct import Struct
from typing import TYPE_CHECKING, Any

from ._abi import Op
from ._buffers import struct_memory
from ._lib import ffi
from ._operation import SCRATCH_BYTES
from ._prep_entry import U32, pack_close_direct

if TYPE_CHECKING:
    from ._buffers import Path
    from ._engine import Engine
    from ._operation import Operation

_OPENAT, _CLOSE, _ACCEPT = int(Op.OPENAT), int(Op.CLOSE), int(Op.ACCEPT)
# opcode flags fd addr len op_flags user_data file_index
_pack_open = Struct("=BB2xi8xQIIQ4xI16x").pack_into
_memmove: Any = ffi.memmove
_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()


def path_bytes(path: Path) -> bytes:
    """As `os.fsencode`, but nothing that ends at a NUL in its middle."""
    encoded = path.encode(_ENCODING, _ERRORS) if type(path) is str else os.fsencode(path)
    if b"\0" in encoded:
        raise ValueError("embedded null byte")
    return encoded


def take_slot(engine: Engine) -> int:
    """A free slot, or -1: then `reserve` waits for one."""
    if engine.reclaim:
        engine.check_run()
        engine.reclaim_dropped()
    return (engine._table or engine.table).take_one()


def _begin(engine: Engine, scratch: bool = False) -> Operation:
    """A record for an operation on no handle, and the last entry of the queue for it."""
    task = engine.current_task()
    ring = engine.ring
    if ring._tail == ring._limit:
        engine.make_room(1)
    tail = ring._tail
    ring._tail = (tail + 1) & U32
    pool = engine.scratch_pool if scratch else engine.pool
    operation = pool.pop() if pool else engine._new_record()
    operation.task = task
    operation.position = tail
    return operation


def begin_open(
    engine: Engine, at: int, path: bytes, flags: int, mode: int, slot: int, sqe_flags: int = 0
) -> Operation:
    """openat(2) into a slot; ``flags`` without O_CLOEXEC, or the kernel refuses."""
    fits = len(path) < SCRATCH_BYTES
    operation = _begin(engine, fits)
    try:
        if fits:
            address = operation.scratch_at or operation.make_scratch()
            _memmove(operation.scratch, path + b"\0", len(path) + 1)
        else:
            operation.pins, address = struct_memory("char[]", path)
        ring = engine.ring
        _pack_open(
            ring._rows,
            (operation.position & ring._mask) << 6,
            _OPENAT,
            sqe_flags,
            at,
            address,
            mode,
            flags,
            operation.user_data,
            slot + 1,
        )
    except BaseException as exc:
        raise engine.discarded(operation, exc) from None
    return operation


def begin_close(engine: Engine, slot: int) -> Operation:
    """Empties a slot."""
    operation = _begin(engine)
    ring = engine.ring
    pack_close_direct(
        ring._rows,
        (operation.position & ring._mask) << 6,
        _CLOSE,
        0,
        operation.user_data,
        slot + 1,
    )
    return operation


def write_accept(engine: Engine, record: Any, file: Any, slot: int) -> None:
    """accept(2) on a handle into a slot, for a record of the engine's that is no `Operation`."""
    number = file._checked_number()
    ring = engine.ring
    if ring._tail == ring._limit:
        engine.make_room(1)
    tail = ring._tail
    engine.add_record(record)
    # `_pack_open` has all fields of it, with zeroes for the rest.
    _pack_open(
        ring._rows,
        (tail & ring._mask) << 6,
        _ACCEPT,
        file._fixed,
        number,
        0,
        0,
        0,
        record.user_data,
        slot + 1,
    )
    ring._tail = (tail + 1) & U32
