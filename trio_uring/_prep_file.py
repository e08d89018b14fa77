# SPDX-License-Identifier: MIT OR Apache-2.0
"""Prep functions for open files: data, sync, advice, pipes, close."""

from __future__ import annotations

from struct import error as StructError
from typing import TYPE_CHECKING

from ._abi import Op, SqeFlag
from ._prep_entry import (
    SLOTS_END,
    U32,
    fill,
    not_a_slot,
    pack_close_direct,
    pack_command,
    pack_fd,
    pack_rw,
    pack_rw_fixed,
    put,
    refused,
    target,
    u32,
    u64,
)

if TYPE_CHECKING:
    from ._sqe import Sqe

__all__ = [
    "prep_close",
    "prep_close_direct",
    "prep_cmd_discard",
    "prep_fadvise",
    "prep_fallocate",
    "prep_fixed_fd_install",
    "prep_fsync",
    "prep_ftruncate",
    "prep_madvise",
    "prep_pipe",
    "prep_pipe_direct",
    "prep_read",
    "prep_read_fixed",
    "prep_read_multishot",
    "prep_readv",
    "prep_readv_fixed",
    "prep_splice",
    "prep_sync_file_range",
    "prep_tee",
    "prep_write",
    "prep_write_fixed",
    "prep_writev",
    "prep_writev_fixed",
]

_CLOSE = int(Op.CLOSE)
_FADVISE = int(Op.FADVISE)
_FALLOCATE = int(Op.FALLOCATE)
_FIXED_FD_INSTALL = int(Op.FIXED_FD_INSTALL)
_FSYNC = int(Op.FSYNC)
_FTRUNCATE = int(Op.FTRUNCATE)
_MADVISE = int(Op.MADVISE)
_PIPE = int(Op.PIPE)
_READ = int(Op.READ)
_READ_FIXED = int(Op.READ_FIXED)
_READ_MULTISHOT = int(Op.READ_MULTISHOT)
_READV = int(Op.READV)
_READV_FIXED = int(Op.READV_FIXED)
_SPLICE = int(Op.SPLICE)
_SYNC_FILE_RANGE = int(Op.SYNC_FILE_RANGE)
_TEE = int(Op.TEE)
_URING_CMD = int(Op.URING_CMD)
_WRITE = int(Op.WRITE)
_WRITE_FIXED = int(Op.WRITE_FIXED)
_WRITEV = int(Op.WRITEV)
_WRITEV_FIXED = int(Op.WRITEV_FIXED)
_BUFFER_SELECT = int(SqeFlag.BUFFER_SELECT)
_FIXED_FILE = int(SqeFlag.FIXED_FILE)
# linux/blkdev.h: _IO(0x12, 0), as asm-generic/ioctl.h encodes it.
_BLOCK_URING_CMD_DISCARD = 0x1200

# One line for an operation's own arguments, one for those that all have.
# fmt: off


def prep_read(
    sqe: Sqe, fd: int, address: int, nbytes: int, offset: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """Reads ``nbytes`` to ``address``; an ``offset`` of -1 is the file position; pread(2); 5.6."""
    try:
        pack_rw(sqe.memory, sqe.at, _READ, sqe_flags, fd, offset, address, nbytes, user_data)
    except StructError:
        fill(sqe, _READ, sqe_flags, user_data, fd=fd, off=u64(offset), addr=address, length=nbytes)


def prep_write(
    sqe: Sqe, fd: int, address: int, nbytes: int, offset: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """Writes ``nbytes`` at ``address``, with ``offset`` as in `prep_read`; pwrite(2); 5.6."""
    try:
        pack_rw(sqe.memory, sqe.at, _WRITE, sqe_flags, fd, offset, address, nbytes, user_data)
    except StructError:
        fill(sqe, _WRITE, sqe_flags, user_data, fd=fd, off=u64(offset), addr=address, length=nbytes)


def prep_readv(
    sqe: Sqe, fd: int, iovecs_address: int, count: int, offset: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """Reads to ``count`` struct iovec. RWF_ flags go to ``sqe.rw_flags``; preadv2(2); 5.1."""
    try:
        pack_rw(sqe.memory, sqe.at, _READV, sqe_flags, fd, offset, iovecs_address, count, user_data)
    except StructError:
        fill(
            sqe, _READV, sqe_flags, user_data, fd=fd, off=u64(offset), addr=iovecs_address,
            length=count,
        )


def prep_writev(
    sqe: Sqe, fd: int, iovecs_address: int, count: int, offset: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """Writes from ``count`` struct iovec. RWF_ flags go to ``sqe.rw_flags``; pwritev2(2); 5.1."""
    try:
        pack_rw(
            sqe.memory, sqe.at, _WRITEV, sqe_flags, fd, offset, iovecs_address, count, user_data,
        )
    except StructError:
        fill(
            sqe, _WRITEV, sqe_flags, user_data, fd=fd, off=u64(offset), addr=iovecs_address,
            length=count,
        )


def prep_read_fixed(
    sqe: Sqe, fd: int, address: int, nbytes: int, offset: int, buffer_index: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """`prep_read` to memory inside the registered buffer ``buffer_index``; 5.1."""
    try:
        pack_rw_fixed(
            sqe.memory, sqe.at, _READ_FIXED, sqe_flags, fd, offset, address, nbytes, user_data,
            buffer_index,
        )
    except StructError:
        fill(
            sqe, _READ_FIXED, sqe_flags, user_data, fd=fd, off=u64(offset), addr=address,
            length=nbytes, buf_index=buffer_index,
        )


def prep_write_fixed(
    sqe: Sqe, fd: int, address: int, nbytes: int, offset: int, buffer_index: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """`prep_write` from memory inside the registered buffer ``buffer_index``; 5.1."""
    try:
        pack_rw_fixed(
            sqe.memory, sqe.at, _WRITE_FIXED, sqe_flags, fd, offset, address, nbytes, user_data,
            buffer_index,
        )
    except StructError:
        fill(
            sqe, _WRITE_FIXED, sqe_flags, user_data, fd=fd, off=u64(offset), addr=address,
            length=nbytes, buf_index=buffer_index,
        )


def prep_readv_fixed(
    sqe: Sqe, fd: int, iovecs_address: int, count: int, offset: int, buffer_index: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """`prep_readv` to parts of the registered buffer ``buffer_index``; 6.15."""
    fill(
        sqe, _READV_FIXED, sqe_flags, user_data, fd=fd, off=u64(offset), addr=iovecs_address,
        length=count, buf_index=buffer_index,
    )


def prep_writev_fixed(
    sqe: Sqe, fd: int, iovecs_address: int, count: int, offset: int, buffer_index: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """`prep_writev` from parts of the registered buffer ``buffer_index``; 6.15."""
    fill(
        sqe, _WRITEV_FIXED, sqe_flags, user_data, fd=fd, off=u64(offset), addr=iovecs_address,
        length=count, buf_index=buffer_index,
    )


def prep_read_multishot(
    sqe: Sqe, fd: int, nbytes: int, offset: int, buf_group: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """Reads again and again, each time to a buffer of ``buf_group``; pollable files only; 6.7."""
    sqe_flags |= _BUFFER_SELECT
    fill(
        sqe, _READ_MULTISHOT, sqe_flags, user_data, fd=fd, off=u64(offset), length=nbytes,
        buf_index=buf_group,
    )


def prep_fsync(sqe: Sqe, fd: int, flags: int, user_data: int = 0, sqe_flags: int = 0) -> None:
    """fsync(2), with `FsyncFlag.DATASYNC` fdatasync(2); 5.1. Earlier writes may end after it."""
    fill(sqe, _FSYNC, sqe_flags, user_data, fd=fd, op_flags=flags)


def prep_sync_file_range(
    sqe: Sqe, fd: int, nbytes: int, offset: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """sync_file_range(2); 5.2."""
    fill(
        sqe, _SYNC_FILE_RANGE, sqe_flags, user_data, fd=fd, off=offset, length=nbytes,
        op_flags=flags,
    )


def prep_fallocate(
    sqe: Sqe, fd: int, mode: int, offset: int, length: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """fallocate(2); 5.6."""
    fill(sqe, _FALLOCATE, sqe_flags, user_data, fd=fd, off=offset, addr=length, length=mode)


def prep_ftruncate(sqe: Sqe, fd: int, length: int, user_data: int = 0, sqe_flags: int = 0) -> None:
    """ftruncate(2); 6.9."""
    fill(sqe, _FTRUNCATE, sqe_flags, user_data, fd=fd, off=length)


def prep_fadvise(
    sqe: Sqe, fd: int, offset: int, length: int, advice: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """posix_fadvise(2); 5.6. A ``length`` over 32 bits is EINVAL on older kernels."""
    # The 32-bit place is the one that every kernel knows.
    long, short = (length, 0) if length > U32 else (0, length)
    fill(
        sqe, _FADVISE, sqe_flags, user_data, fd=fd, off=offset, addr=long, length=short,
        op_flags=advice,
    )


def prep_madvise(
    sqe: Sqe, address: int, length: int, advice: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """madvise(2); 5.6. A ``length`` over 32 bits is EINVAL on older kernels."""
    long, short = (length, 0) if length > U32 else (0, length)
    fill(
        sqe, _MADVISE, sqe_flags, user_data, fd=-1, off=long, addr=address, length=short,
        op_flags=advice,
    )


def prep_splice(
    sqe: Sqe, fd_in: int, off_in: int, fd_out: int, off_out: int, nbytes: int, flags: int = 0,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """splice(2), offset -1 for a pipe or the file position; 5.7.

    `SqeFlag.FIXED_FILE` makes ``fd_out`` a slot; `SPLICE_F_FD_IN_FIXED` in ``flags``, ``fd_in``.
    """
    fill(
        sqe, _SPLICE, sqe_flags, user_data, fd=fd_out, off=u64(off_out), addr=u64(off_in),
        length=nbytes, op_flags=flags, file_index=u32(fd_in),
    )


def prep_tee(
    sqe: Sqe, fd_in: int, fd_out: int, nbytes: int, flags: int = 0,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """tee(2), with slots as in `prep_splice`; 5.8."""
    fill(
        sqe, _TEE, sqe_flags, user_data, fd=fd_out, length=nbytes, op_flags=flags,
        file_index=u32(fd_in),
    )


def prep_pipe(
    sqe: Sqe, fds_address: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """pipe2(2): two descriptors to the int[2] at ``fds_address``; 6.16."""
    fill(sqe, _PIPE, sqe_flags, user_data, addr=fds_address, op_flags=flags)


def prep_pipe_direct(
    sqe: Sqe, fds_address: int, flags: int, file_index: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """`prep_pipe` into slots ``file_index`` and the next, or two that the kernel picks; 6.16."""
    fill(
        sqe, _PIPE, sqe_flags, user_data, addr=fds_address, op_flags=flags,
        file_index=target(sqe, file_index),
    )


def prep_close(sqe: Sqe, fd: int, user_data: int = 0, sqe_flags: int = 0) -> None:
    """close(2) of a normal descriptor; 5.6. A slot takes `prep_close_direct`."""
    try:
        pack_fd(sqe.memory, sqe.at, _CLOSE, sqe_flags, fd, user_data)
    except StructError as error:
        raise refused(sqe, error) from None


def prep_close_direct(sqe: Sqe, file_index: int, user_data: int = 0, sqe_flags: int = 0) -> None:
    """Empties slot ``file_index``; 5.15. Ends no operation on it.

    Not with `SqeFlag.FIXED_FILE`: the kernel answers EBADF, whatever older manual pages say.

    Raises:
        ValueError: not a slot, `FILE_INDEX_ALLOC` included. The field would wrap to 0, and then the
            kernel would close descriptor 0.
    """
    if not 0 <= file_index < SLOTS_END:
        raise not_a_slot(sqe, file_index)
    try:
        pack_close_direct(sqe.memory, sqe.at, _CLOSE, sqe_flags, user_data, file_index + 1)
    except StructError as error:
        raise refused(sqe, error) from None


def prep_fixed_fd_install(
    sqe: Sqe, slot: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """A normal descriptor for the file in ``slot``; ``flags`` are `InstallFlag`; 6.8."""
    sqe_flags |= _FIXED_FILE
    fill(sqe, _FIXED_FD_INSTALL, sqe_flags, user_data, fd=slot, op_flags=flags)


def prep_cmd_discard(
    sqe: Sqe, fd: int, offset: int, nbytes: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """Discards a range of a block device, as BLKDISCARD; 6.12."""
    put(
        pack_command, sqe, _URING_CMD, sqe_flags, fd, _BLOCK_URING_CMD_DISCARD, offset, user_data,
        0, nbytes,
    )
