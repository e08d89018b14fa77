# SPDX-License-Identifier: MIT OR Apache-2.0
"""Operations on paths: open, metadata, names, extended attributes.

``dir_fd`` is a normal descriptor or ``AT_FDCWD``; none of them takes a slot for it. The result of
every operation is a negative errno if it failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _prep as prep
from ._buffers import c_path, c_string, readable, writable
from ._ops_common import Operations
from ._structs import OpenHow

if TYPE_CHECKING:
    from ._buffers import Path, ReadableBuffer, WritableBuffer
    from ._sqe import Sqe
    from ._structs import Statx


class PathOperations(Operations):
    """The part of `Ring` that works on paths."""

    # -- open --------------------------------------------------------------------------------

    def openat(self, user_data: int, dir_fd: int, path: Path, flags: int, mode: int = 0) -> Sqe:
        """``openat(2)`` (5.6). Result: the descriptor."""
        pin, address = c_path(path)
        return self._fill((pin,), prep.prep_openat, dir_fd, address, flags, mode, user_data)

    def openat_direct(
        self, user_data: int, dir_fd: int, path: Path, flags: int, mode: int, file_index: int
    ) -> Sqe:
        """Opens into slot ``file_index`` (5.15), or any free one: `FILE_INDEX_ALLOC` (5.19).

        Result: 0, or the slot that the kernel chose. A file that is in the slot is replaced. No
        ``O_CLOEXEC``: a slot is not inherited, and the kernel refuses the flag.
        """
        pin, address = c_path(path)
        return self._fill(
            (pin,), prep.prep_openat_direct, dir_fd, address, flags, mode, file_index, user_data
        )

    def openat2(self, user_data: int, dir_fd: int, path: Path, how: OpenHow) -> Sqe:
        """``openat2(2)`` (5.6). Result: the descriptor."""
        (pin, address), (how_pin, how_address) = c_path(path), OpenHow(*how).memory()
        return self._fill(
            (pin, how_pin), prep.prep_openat2, dir_fd, address, how_address, user_data
        )

    def openat2_direct(
        self, user_data: int, dir_fd: int, path: Path, how: OpenHow, file_index: int
    ) -> Sqe:
        """`openat2` into a slot, as in `openat_direct` (5.15)."""
        (pin, address), (how_pin, how_address) = c_path(path), OpenHow(*how).memory()
        return self._fill(
            (pin, how_pin),
            prep.prep_openat2_direct,
            dir_fd,
            address,
            how_address,
            file_index,
            user_data,
        )

    # -- metadata and names --------------------------------------------------------------------

    def statx(
        self, user_data: int, dir_fd: int, path: Path, flags: int, mask: int, buf: Statx
    ) -> Sqe:
        """``statx(2)`` (5.6): fills ``buf``. There is none for a slot."""
        pin, address = c_path(path)
        return self._fill(
            (pin, buf.memory),
            prep.prep_statx,
            dir_fd,
            address,
            flags,
            mask,
            buf.pointer,
            user_data,
        )

    def renameat(
        self,
        user_data: int,
        old_dir_fd: int,
        old_path: Path,
        new_dir_fd: int,
        new_path: Path,
        flags: int = 0,
    ) -> Sqe:
        """``renameat2(2)`` (5.11)."""
        (old_pin, old), (new_pin, new) = c_path(old_path), c_path(new_path)
        return self._fill(
            (old_pin, new_pin),
            prep.prep_renameat,
            old_dir_fd,
            old,
            new_dir_fd,
            new,
            flags,
            user_data,
        )

    def unlinkat(self, user_data: int, dir_fd: int, path: Path, flags: int = 0) -> Sqe:
        """``unlinkat(2)`` (5.11)."""
        pin, address = c_path(path)
        return self._fill((pin,), prep.prep_unlinkat, dir_fd, address, flags, user_data)

    def mkdirat(self, user_data: int, dir_fd: int, path: Path, mode: int = 0o777) -> Sqe:
        """``mkdirat(2)`` (5.15)."""
        pin, address = c_path(path)
        return self._fill((pin,), prep.prep_mkdirat, dir_fd, address, mode, user_data)

    def symlinkat(self, user_data: int, target: Path, new_dir_fd: int, link_path: Path) -> Sqe:
        """``symlinkat(2)`` (5.15)."""
        (target_pin, to), (pin, address) = c_path(target), c_path(link_path)
        return self._fill(
            (target_pin, pin), prep.prep_symlinkat, to, new_dir_fd, address, user_data
        )

    def linkat(
        self,
        user_data: int,
        old_dir_fd: int,
        old_path: Path,
        new_dir_fd: int,
        new_path: Path,
        flags: int = 0,
    ) -> Sqe:
        """``linkat(2)`` (5.15)."""
        (old_pin, old), (new_pin, new) = c_path(old_path), c_path(new_path)
        return self._fill(
            (old_pin, new_pin),
            prep.prep_linkat,
            old_dir_fd,
            old,
            new_dir_fd,
            new,
            flags,
            user_data,
        )

    # -- extended attributes -------------------------------------------------------------------

    def getxattr(self, user_data: int, name: str | bytes, value: WritableBuffer, path: Path) -> Sqe:
        """``getxattr(2)`` (5.19). Result: the size of the value, also if ``value`` is empty."""
        (name_pin, name_at), (path_pin, path_at) = c_string(name), c_path(path)
        pin, address, nbytes = writable(value)
        return self._fill(
            (name_pin, path_pin, pin),
            prep.prep_getxattr,
            name_at,
            address,
            path_at,
            nbytes,
            user_data,
        )

    def setxattr(
        self,
        user_data: int,
        name: str | bytes,
        value: ReadableBuffer,
        path: Path,
        flags: int = 0,
    ) -> Sqe:
        """``setxattr(2)`` (5.19), with ``XATTR_CREATE`` or ``XATTR_REPLACE`` in ``flags``."""
        (name_pin, name_at), (path_pin, path_at) = c_string(name), c_path(path)
        pin, address, nbytes = readable(value)
        return self._fill(
            (name_pin, path_pin, pin),
            prep.prep_setxattr,
            name_at,
            address,
            path_at,
            flags,
            nbytes,
            user_data,
        )

    def fgetxattr(self, user_data: int, fd: int, name: str | bytes, value: WritableBuffer) -> Sqe:
        """``fgetxattr(2)`` (5.19). Kernels up to 6.12 take no slot."""
        name_pin, name_at = c_string(name)
        pin, address, nbytes = writable(value)
        return self._fill(
            (name_pin, pin), prep.prep_fgetxattr, fd, name_at, address, nbytes, user_data
        )

    def fsetxattr(
        self, user_data: int, fd: int, name: str | bytes, value: ReadableBuffer, flags: int = 0
    ) -> Sqe:
        """``fsetxattr(2)`` (5.19). Kernels up to 6.12 take no slot."""
        name_pin, name_at = c_string(name)
        pin, address, nbytes = readable(value)
        return self._fill(
            (name_pin, pin), prep.prep_fsetxattr, fd, name_at, address, flags, nbytes, user_data
        )
