# SPDX-License-Identifier: MIT OR Apache-2.0
"""Prep functions for paths: open, metadata, names, extended attributes.

None of these takes `SqeFlag.FIXED_FILE`, except the xattr operations on a descriptor: a directory
is a normal descriptor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._abi import Op
from ._prep_entry import fill, target, u32

if TYPE_CHECKING:
    from ._sqe import Sqe

__all__ = [
    "prep_fgetxattr",
    "prep_fsetxattr",
    "prep_getxattr",
    "prep_linkat",
    "prep_mkdirat",
    "prep_openat",
    "prep_openat2",
    "prep_openat2_direct",
    "prep_openat_direct",
    "prep_renameat",
    "prep_setxattr",
    "prep_statx",
    "prep_symlinkat",
    "prep_unlinkat",
]

_FGETXATTR = int(Op.FGETXATTR)
_FSETXATTR = int(Op.FSETXATTR)
_GETXATTR = int(Op.GETXATTR)
_LINKAT = int(Op.LINKAT)
_MKDIRAT = int(Op.MKDIRAT)
_OPENAT = int(Op.OPENAT)
_OPENAT2 = int(Op.OPENAT2)
_RENAMEAT = int(Op.RENAMEAT)
_SETXATTR = int(Op.SETXATTR)
_STATX = int(Op.STATX)
_SYMLINKAT = int(Op.SYMLINKAT)
_UNLINKAT = int(Op.UNLINKAT)
# struct open_how: flags, mode, resolve.
_OPEN_HOW_BYTES = 24

# One line for an operation's own arguments, one for those that all have.
# fmt: off


def prep_openat(
    sqe: Sqe, dir_fd: int, path_address: int, flags: int, mode: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """openat(2); 5.6."""
    fill(
        sqe, _OPENAT, sqe_flags, user_data, fd=dir_fd, addr=path_address, length=mode,
        op_flags=flags,
    )


def prep_openat_direct(
    sqe: Sqe, dir_fd: int, path_address: int, flags: int, mode: int, file_index: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """`prep_openat` into slot ``file_index`` (5.15) or any free one, `FILE_INDEX_ALLOC` (5.19).

    ``flags`` without O_CLOEXEC: EINVAL otherwise.
    """
    fill(
        sqe, _OPENAT, sqe_flags, user_data, fd=dir_fd, addr=path_address, length=mode,
        op_flags=flags, file_index=target(sqe, file_index),
    )


def prep_openat2(
    sqe: Sqe, dir_fd: int, path_address: int, how_address: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """openat2(2) with the struct open_how (24 bytes) at ``how_address``; 5.6."""
    fill(
        sqe, _OPENAT2, sqe_flags, user_data, fd=dir_fd, off=how_address, addr=path_address,
        length=_OPEN_HOW_BYTES,
    )


def prep_openat2_direct(
    sqe: Sqe, dir_fd: int, path_address: int, how_address: int, file_index: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """`prep_openat2` into slot ``file_index`` (5.15) or any free one, `FILE_INDEX_ALLOC` (5.19)."""
    fill(
        sqe, _OPENAT2, sqe_flags, user_data, fd=dir_fd, off=how_address, addr=path_address,
        length=_OPEN_HOW_BYTES, file_index=target(sqe, file_index),
    )


def prep_statx(
    sqe: Sqe, dir_fd: int, path_address: int, flags: int, mask: int, statx_address: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """statx(2) to the struct statx (256 bytes) at ``statx_address``; 5.6."""
    fill(
        sqe, _STATX, sqe_flags, user_data, fd=dir_fd, off=statx_address, addr=path_address,
        length=mask, op_flags=flags,
    )


def prep_renameat(
    sqe: Sqe, old_dir_fd: int, old_path_address: int, new_dir_fd: int, new_path_address: int,
    flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """renameat2(2); 5.11."""
    fill(
        sqe, _RENAMEAT, sqe_flags, user_data, fd=old_dir_fd, off=new_path_address,
        addr=old_path_address, length=u32(new_dir_fd), op_flags=flags,
    )


def prep_linkat(
    sqe: Sqe, old_dir_fd: int, old_path_address: int, new_dir_fd: int, new_path_address: int,
    flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """linkat(2); 5.15."""
    fill(
        sqe, _LINKAT, sqe_flags, user_data, fd=old_dir_fd, off=new_path_address,
        addr=old_path_address, length=u32(new_dir_fd), op_flags=flags,
    )


def prep_unlinkat(
    sqe: Sqe, dir_fd: int, path_address: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """unlinkat(2); 5.11."""
    fill(sqe, _UNLINKAT, sqe_flags, user_data, fd=dir_fd, addr=path_address, op_flags=flags)


def prep_mkdirat(
    sqe: Sqe, dir_fd: int, path_address: int, mode: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """mkdirat(2); 5.15."""
    fill(sqe, _MKDIRAT, sqe_flags, user_data, fd=dir_fd, addr=path_address, length=mode)


def prep_symlinkat(
    sqe: Sqe, target_address: int, new_dir_fd: int, link_path_address: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """symlinkat(2); 5.15."""
    fill(
        sqe, _SYMLINKAT, sqe_flags, user_data, fd=new_dir_fd, off=link_path_address,
        addr=target_address,
    )


def prep_getxattr(
    sqe: Sqe, name_address: int, value_address: int, path_address: int, nbytes: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """getxattr(2) to ``nbytes`` at ``value_address``; 5.19."""
    fill(
        sqe, _GETXATTR, sqe_flags, user_data, off=value_address, addr=name_address, length=nbytes,
        addr3=path_address,
    )


def prep_setxattr(
    sqe: Sqe, name_address: int, value_address: int, path_address: int, flags: int, nbytes: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """setxattr(2) from ``nbytes`` at ``value_address``; 5.19."""
    fill(
        sqe, _SETXATTR, sqe_flags, user_data, off=value_address, addr=name_address, length=nbytes,
        op_flags=flags, addr3=path_address,
    )


def prep_fgetxattr(
    sqe: Sqe, fd: int, name_address: int, value_address: int, nbytes: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """fgetxattr(2) to ``nbytes`` at ``value_address``; 5.19."""
    fill(
        sqe, _FGETXATTR, sqe_flags, user_data, fd=fd, off=value_address, addr=name_address,
        length=nbytes,
    )


def prep_fsetxattr(
    sqe: Sqe, fd: int, name_address: int, value_address: int, flags: int, nbytes: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """fsetxattr(2) from ``nbytes`` at ``value_address``; 5.19."""
    fill(
        sqe, _FSETXATTR, sqe_flags, user_data, fd=fd, off=value_address, addr=name_address,
        length=nbytes, op_flags=flags,
    )
