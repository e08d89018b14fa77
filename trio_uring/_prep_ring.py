# SPDX-License-Identifier: MIT OR Apache-2.0
"""Prep functions about the ring: NOP, cancel, its tables and buffers, other rings, commands."""

from __future__ import annotations

from struct import error as StructError
from typing import TYPE_CHECKING

from ._abi import FILE_INDEX_ALLOC, CancelFlag, MsgRingCommand, MsgRingFlag, Op
from ._prep_entry import U64, fill, pack_cancel, pack_command, pack_nop, put, refused, target

if TYPE_CHECKING:
    from ._sqe import Sqe

__all__ = [
    "prep_cancel",
    "prep_cancel_fd",
    "prep_files_update",
    "prep_msg_ring",
    "prep_msg_ring_cqe_flags",
    "prep_msg_ring_fd",
    "prep_msg_ring_fd_alloc",
    "prep_nop",
    "prep_nop128",
    "prep_provide_buffers",
    "prep_remove_buffers",
    "prep_uring_cmd",
    "prep_uring_cmd128",
]

_ASYNC_CANCEL = int(Op.ASYNC_CANCEL)
_FILES_UPDATE = int(Op.FILES_UPDATE)
_MSG_RING = int(Op.MSG_RING)
_NOP = int(Op.NOP)
_NOP128 = int(Op.NOP128)
_PROVIDE_BUFFERS = int(Op.PROVIDE_BUFFERS)
_REMOVE_BUFFERS = int(Op.REMOVE_BUFFERS)
_URING_CMD = int(Op.URING_CMD)
_URING_CMD128 = int(Op.URING_CMD128)
_CANCEL_FD = int(CancelFlag.FD)
_MSG_SEND_FD = int(MsgRingCommand.SEND_FD)
_MSG_FLAGS_PASS = int(MsgRingFlag.FLAGS_PASS)

# One line for an operation's own arguments, one for those that all have.
# fmt: off


def prep_nop(sqe: Sqe, user_data: int = 0, sqe_flags: int = 0) -> None:
    """Does nothing and completes; 5.1. All other bytes are zero, ``fd`` too."""
    try:
        pack_nop(sqe.memory, sqe.at, _NOP, sqe_flags, user_data)
    except StructError as error:
        raise refused(sqe, error) from None


def prep_nop128(sqe: Sqe, user_data: int = 0, sqe_flags: int = 0) -> None:
    """A NOP in an entry of 128 bytes, of which this writes the first 64; 6.19."""
    try:
        pack_nop(sqe.memory, sqe.at, _NOP128, sqe_flags, user_data)
    except StructError as error:
        raise refused(sqe, error) from None


def prep_cancel(
    sqe: Sqe, target_user_data: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """Asks the operation with ``target_user_data`` to end; 5.5. Its final CQE says if it did."""
    try:
        pack_cancel(
            sqe.memory, sqe.at, _ASYNC_CANCEL, sqe_flags, -1, target_user_data, flags, user_data,
        )
    except StructError as error:
        raise refused(sqe, error) from None


def prep_cancel_fd(sqe: Sqe, fd: int, flags: int, user_data: int = 0, sqe_flags: int = 0) -> None:
    """Asks operations on a file to end; 5.19. `CancelFlag.FD_FIXED`: ``fd`` is a slot (6.0)."""
    fill(sqe, _ASYNC_CANCEL, sqe_flags, user_data, fd=fd, op_flags=flags | _CANCEL_FD)


def prep_files_update(
    sqe: Sqe, fds_address: int, count: int, offset: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """Puts ``count`` descriptors into slots from ``offset``; 5.6.

    With `FILE_INDEX_ALLOC` into any free slots, whose numbers replace the descriptors (6.0).
    """
    off = U64 if offset == FILE_INDEX_ALLOC else offset
    fill(sqe, _FILES_UPDATE, sqe_flags, user_data, fd=-1, off=off, addr=fds_address, length=count)


def prep_provide_buffers(
    sqe: Sqe, address: int, buffer_nbytes: int, count: int, group_id: int, buffer_id: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """Gives a group ``count`` buffers of ``buffer_nbytes``, numbered from ``buffer_id``; 5.7."""
    fill(
        sqe, _PROVIDE_BUFFERS, sqe_flags, user_data, fd=count, off=buffer_id, addr=address,
        length=buffer_nbytes, buf_index=group_id,
    )


def prep_remove_buffers(
    sqe: Sqe, count: int, group_id: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """Takes up to ``count`` buffers back from a group; 5.7."""
    fill(sqe, _REMOVE_BUFFERS, sqe_flags, user_data, fd=count, buf_index=group_id)


def prep_msg_ring(
    sqe: Sqe, fd: int, length: int, data: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """Posts a completion with user_data ``data`` and result ``length`` to the ring ``fd``; 5.18."""
    fill(sqe, _MSG_RING, sqe_flags, user_data, fd=fd, off=data, length=length, op_flags=flags)


def prep_msg_ring_cqe_flags(
    sqe: Sqe, fd: int, length: int, data: int, flags: int, cqe_flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """`prep_msg_ring` with the flags of that completion; 6.3."""
    fill(
        sqe, _MSG_RING, sqe_flags, user_data, fd=fd, off=data, length=length,
        op_flags=flags | _MSG_FLAGS_PASS, file_index=cqe_flags,
    )


def prep_msg_ring_fd(
    sqe: Sqe, fd: int, source_fd: int, target_fd: int, data: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """Copies the file of slot ``source_fd`` to slot ``target_fd`` of the ring ``fd``; 6.0.

    A full target queue is EOVERFLOW, with the file installed all the same.
    """
    fill(
        sqe, _MSG_RING, sqe_flags, user_data, fd=fd, off=data, addr=_MSG_SEND_FD, op_flags=flags,
        file_index=target(sqe, target_fd), addr3=source_fd,
    )


def prep_msg_ring_fd_alloc(
    sqe: Sqe, fd: int, source_fd: int, data: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """`prep_msg_ring_fd` to any free slot of that ring: the result over there is the slot."""
    prep_msg_ring_fd(sqe, fd, source_fd, FILE_INDEX_ALLOC, data, flags, user_data, sqe_flags)


def prep_uring_cmd(sqe: Sqe, cmd_op: int, fd: int, user_data: int = 0, sqe_flags: int = 0) -> None:
    """A command that the file understands; 5.19. Its arguments are for the caller to write."""
    put(pack_command, sqe, _URING_CMD, sqe_flags, fd, cmd_op, 0, user_data, 0, 0)


def prep_uring_cmd128(
    sqe: Sqe, cmd_op: int, fd: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """`prep_uring_cmd` in an entry of 128 bytes, of which this writes the first 64; 6.19."""
    put(pack_command, sqe, _URING_CMD128, sqe_flags, fd, cmd_op, 0, user_data, 0, 0)
