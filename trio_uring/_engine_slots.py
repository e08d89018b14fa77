# SPDX-License-Identifier: MIT OR Apache-2.0
"""The operations that fill and empty slots, begun in few steps: every file needs both.

They are for `Engine.wait`, and prompt. Other operations are written by the functions of `_prep`,
which are called with an entry and are easier to read.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from ._abi import Op
from ._native import address_of_bytes

if TYPE_CHECKING:
    from ._buffers import Path
    from ._engine import Engine
    from ._handle import Handle
    from ._operation import Operation

_OPENAT, _SOCKET, _ACCEPT = int(Op.OPENAT), int(Op.SOCKET), int(Op.ACCEPT)
_CLOSE = int(Op.CLOSE)
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


def begin_open(
    engine: Engine, at: int, path: bytes, flags: int, mode: int, slot: int, sqe_flags: int = 0
) -> Operation:
    """openat(2) into a slot; ``flags`` without O_CLOEXEC, or the kernel refuses."""
    address = address_of_bytes(path)  # a NUL follows
    operation: Operation = engine.begin_entry(
        None, _OPENAT, sqe_flags, at, 0, address, mode, flags, slot + 1, path
    )
    return operation


def begin_socket(engine: Engine, family: int, kind: int, proto: int, slot: int) -> Operation:
    """socket(2) into a slot; ``kind`` without SOCK_CLOEXEC, or the kernel refuses."""
    operation: Operation = engine.begin_entry(
        None, _SOCKET, 0, family, kind, 0, proto, 0, slot + 1, None
    )
    return operation


def begin_accept(engine: Engine, listener: Handle, slot: int) -> Operation:
    """accept(2) on a handle into a slot."""
    number = listener._checked_number()
    operation: Operation = engine.begin_entry(
        listener, _ACCEPT, listener._fixed, number, 0, 0, 0, 0, slot + 1, None
    )
    return operation


def begin_close(engine: Engine, slot: int) -> Operation:
    """Empties a slot."""
    operation: Operation = engine.begin_entry(None, _CLOSE, 0, 0, 0, 0, 0, 0, slot + 1, None)
    return operation


def write_accept(engine: Engine, record: Any, file: Handle, slot: int) -> None:
    """`begin_accept` for a record of the engine's that is no `Operation`."""
    number = file._checked_number()
    engine.add_record(record)
    try:
        engine.write_entry(_ACCEPT, file._fixed, number, 0, 0, 0, 0, slot + 1, record.user_data)
    except BaseException:
        engine.remove_record(record)
        raise
