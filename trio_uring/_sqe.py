# SPDX-License-Identifier: MIT OR Apache-2.0
"""One submission queue entry: 64 bytes, written in place.

The layout is the flat one of Zig's ``io_uring_sqe``: a field has one name, whatever the operation
calls it, so that a new use of it in a new kernel changes nothing here. io_uring_enter(2) has the
names per operation.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from ._abi import SqeFlag

if TYPE_CHECKING:
    from typing import Any

    from ._buffers import Pin

SQE_BYTES = 64

# opcode flags ioprio fd off addr len op_flags user_data buf_index personality file_index addr3 pad
WHOLE = Struct("=BBHiQQIIQHHIQQ")

# As plain numbers: arithmetic with a flag of an enum costs more than preparing an operation.
_FIXED_FILE, _IO_DRAIN = int(SqeFlag.FIXED_FILE), int(SqeFlag.IO_DRAIN)
_IO_LINK, _IO_HARDLINK = int(SqeFlag.IO_LINK), int(SqeFlag.IO_HARDLINK)


class _Field:
    """One field of an SQE in the mapped queue, as an attribute."""

    __slots__ = ("_at", "_struct")

    def __init__(self, code: str, at: int) -> None:
        self._struct = Struct("=" + code)
        self._at = at

    def __get__(self, sqe: Sqe, owner: object) -> int:
        value: int = self._struct.unpack_from(sqe.memory, sqe.at + self._at)[0]
        return value

    def __set__(self, sqe: Sqe, value: int) -> None:
        self._struct.pack_into(sqe.memory, sqe.at + self._at, value)


class Sqe:
    """A submission queue entry.

    The operation methods of `Ring` return the entry that they filled; it may be changed until the
    next submit. The entry is a place in the queue: once it was submitted, the same object will be
    handed out again for another operation. ``Sqe()`` is an entry outside of any queue.
    """

    __slots__ = ("at", "memory", "pins")

    def __init__(self, memory: Any = None, at: int = 0) -> None:
        self.memory = bytearray(SQE_BYTES) if memory is None else memory
        self.at = at
        # What this operation borrows from Python; moves to the ring when the entry is submitted.
        self.pins: tuple[Pin, ...] | None = None

    opcode = _Field("B", 0)
    flags = _Field("B", 1)
    ioprio = _Field("H", 2)
    fd = _Field("i", 4)
    off = _Field("Q", 8)
    addr = _Field("Q", 16)
    len = _Field("I", 24)
    op_flags = _Field("I", 28)
    user_data = _Field("Q", 32)
    buf_index = _Field("H", 40)
    personality = _Field("H", 42)
    file_index = _Field("I", 44)
    addr3 = _Field("Q", 48)
    pad = _Field("Q", 56)

    # Other names of the same bytes.
    rw_flags = op_flags
    addr2 = off
    buf_group = buf_index
    splice_fd_in = _Field("i", 44)
    cmd_op = _Field("I", 8)
    level = _Field("I", 16)
    optname = _Field("I", 20)
    optlen = file_index
    optval = addr3

    def link_with_next(self) -> Sqe:
        """The next entry starts when this one has succeeded (IOSQE_IO_LINK, 5.3).

        Any unexpected result breaks the chain, a short read included: what follows is cancelled.
        """
        self.memory[self.at + 1] |= _IO_LINK
        return self

    def hardlink_with_next(self) -> Sqe:
        """`link_with_next`, but a failure does not break the chain (IOSQE_IO_HARDLINK, 5.5)."""
        self.memory[self.at + 1] |= _IO_HARDLINK
        return self

    def drain_previous(self) -> Sqe:
        """Start when all earlier entries have completed, and hold back all later ones.

        IOSQE_IO_DRAIN, 5.2. It stalls the whole queue: prefer links.
        """
        self.memory[self.at + 1] |= _IO_DRAIN
        return self

    def use_registered_fd(self) -> Sqe:
        """``fd`` is a slot of the ring's file table (IOSQE_FIXED_FILE, 5.1).

        Only for operations that take one: some ignore the flag and use the ordinary descriptor of
        that number instead (`trio_uring.lowlevel.OPS_WITH_FIXED_FILE`).
        """
        self.memory[self.at + 1] |= _FIXED_FILE
        return self

    def __bytes__(self) -> bytes:
        return bytes(memoryview(self.memory)[self.at : self.at + SQE_BYTES])

    def __repr__(self) -> str:
        return (
            f"<Sqe opcode={self.opcode} flags={self.flags:#x} fd={self.fd} off={self.off:#x} "
            f"addr={self.addr:#x} len={self.len} op_flags={self.op_flags:#x} "
            f"user_data={self.user_data:#x}>"
        )
