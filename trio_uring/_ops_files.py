# SPDX-License-Identifier: MIT OR Apache-2.0
"""Operations on open files: data, sync, advice, pipes, close.

``fd`` is a slot of the file table if `Sqe.use_registered_fd` of the returned entry is called. The
result of every operation is a negative errno if it failed.
"""

from __future__ import annotations

import mmap
from array import array
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast, overload

from . import _prep as prep
from ._buffers import TRANSFER_BYTES_MAX, iovecs, readable, writable
from ._ops_common import Operations
from ._prep import prep_read, prep_read_fixed, prep_write
from ._queue import CLOSE_TIMEOUT_S
from ._sqe import Sqe
from ._structs import BufferSelection, int_array

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._buffers import Pin, ReadableBuffer, WritableBuffer
    from ._ops_common import Integers
    from ._queue import Cqe


class FileOperations(Operations):
    """The part of `Ring` that works on open files."""

    # -- data ----------------------------------------------------------------------------------

    def read(
        self,
        user_data: int,
        fd: int,
        buffer: WritableBuffer | BufferSelection | Sequence[WritableBuffer],
        offset: int,
    ) -> Sqe:
        """``pread(2)``, or ``preadv(2)`` with a list or tuple of buffers (5.6).

        Offset -1 reads at the file position and moves it. Result: bytes read, 0 at the end.
        """
        if isinstance(buffer, (list, tuple)):
            return self.readv(user_data, fd, buffer, offset)
        if isinstance(buffer, BufferSelection):
            return self._select(buffer, (), prep_read, fd, 0, buffer.limit, offset, user_data)
        pin, address, nbytes = writable(cast("WritableBuffer", buffer))
        if nbytes > TRANSFER_BYTES_MAX:
            nbytes = TRANSFER_BYTES_MAX
        tail = self._tail
        try:
            sqe = self.get_sqe()
            prep_read(sqe, fd, address, nbytes, offset, user_data)
            return self._lend(sqe, pin)
        except BaseException:
            self._tail = tail
            raise

    def write(self, user_data: int, fd: int, buffer: ReadableBuffer, offset: int) -> Sqe:
        """``pwrite(2)`` (5.6). Offset -1 writes at the file position. Result: bytes written."""
        pin, address, nbytes = readable(buffer)
        if nbytes > TRANSFER_BYTES_MAX:
            nbytes = TRANSFER_BYTES_MAX
        tail = self._tail
        try:
            sqe = self.get_sqe()
            prep_write(sqe, fd, address, nbytes, offset, user_data)
            return self._lend(sqe, pin)
        except BaseException:
            self._tail = tail
            raise

    def readv(self, user_data: int, fd: int, buffers: Sequence[WritableBuffer], offset: int) -> Sqe:
        """``preadv2(2)`` into at most 1024 buffers (5.1); ``RWF_`` flags go to ``sqe.rw_flags``."""
        pins, address, count = iovecs(buffers, to_kernel=False)
        return self._fill(pins, prep.prep_readv, fd, address, count, offset, user_data)

    def writev(
        self, user_data: int, fd: int, buffers: Sequence[ReadableBuffer], offset: int
    ) -> Sqe:
        """``pwritev2(2)`` of at most 1024 buffers (5.1); ``RWF_`` flags go to ``sqe.rw_flags``."""
        pins, address, count = iovecs(buffers, to_kernel=True)
        return self._fill(pins, prep.prep_writev, fd, address, count, offset, user_data)

    def read_fixed(
        self, user_data: int, fd: int, buffer: WritableBuffer, offset: int, buffer_index: int
    ) -> Sqe:
        """`read` into a part of the registered buffer ``buffer_index`` (5.1).

        Its registration keeps the memory alive, and the kernel refuses what is not part of it.
        """
        _, address, nbytes = writable(buffer)
        tail = self._tail
        try:
            sqe = self.get_sqe()
            prep_read_fixed(sqe, fd, address, nbytes, offset, buffer_index, user_data)
            return sqe
        except BaseException:
            self._tail = tail
            raise

    def write_fixed(
        self, user_data: int, fd: int, buffer: ReadableBuffer, offset: int, buffer_index: int
    ) -> Sqe:
        """`write` of a part of the registered buffer ``buffer_index`` (5.1), as `read_fixed`."""
        _, address, nbytes = readable(buffer)
        return self._fill(
            (), prep.prep_write_fixed, fd, address, nbytes, offset, buffer_index, user_data
        )

    def readv_fixed(
        self,
        user_data: int,
        fd: int,
        buffers: Sequence[WritableBuffer],
        offset: int,
        buffer_index: int,
    ) -> Sqe:
        """`readv` into parts of the registered buffer ``buffer_index`` (6.15)."""
        pins, address, count = iovecs(buffers, to_kernel=False)
        return self._fill(
            pins, prep.prep_readv_fixed, fd, address, count, offset, buffer_index, user_data
        )

    def writev_fixed(
        self,
        user_data: int,
        fd: int,
        buffers: Sequence[ReadableBuffer],
        offset: int,
        buffer_index: int,
    ) -> Sqe:
        """`writev` of parts of the registered buffer ``buffer_index`` (6.15)."""
        pins, address, count = iovecs(buffers, to_kernel=True)
        return self._fill(
            pins, prep.prep_writev_fixed, fd, address, count, offset, buffer_index, user_data
        )

    def read_multishot(
        self, user_data: int, fd: int, selection: BufferSelection, offset: int = -1
    ) -> Sqe:
        """Reads into a buffer of the group whenever there is data (6.7).

        Pollable files only: pipes, terminals. One completion for each read, with ``CqeFlag.MORE``
        until the last.
        """
        nbytes, group = selection.nbytes, selection.group_id
        return self._fill((), prep.prep_read_multishot, fd, nbytes, offset, group, user_data)

    # -- many at once --------------------------------------------------------------------------

    def read_many(
        self,
        user_data: Integers,
        fd: int,
        buffer: WritableBuffer,
        nbytes: int,
        offsets: Integers,
        sqe_flags: int = 0,
    ) -> None:
        """A `read` of ``nbytes`` for each of ``user_data``, prepared together.

        The i-th reads from ``offsets[i]`` to the i-th part of ``buffer``, which has
        ``nbytes * len(user_data)`` bytes. Fastest with an ``array.array('Q')`` of each. With
        ``SqeFlag.FIXED_FILE`` in ``sqe_flags`` ``fd`` is a slot.

        Raises:
            SubmissionQueueFull: not all fit; none was prepared. So with every error.
            ValueError: the lengths do not agree.
        """
        template = Sqe()
        prep_read(template, fd, 0, nbytes, 0, 0, sqe_flags)
        self._transfer_many(template, user_data, writable(buffer), nbytes, offsets)

    def write_many(
        self,
        user_data: Integers,
        fd: int,
        buffer: ReadableBuffer,
        nbytes: int,
        offsets: Integers,
        sqe_flags: int = 0,
    ) -> None:
        """A `write` of ``nbytes`` for each of ``user_data``, as in `read_many`."""
        template = Sqe()
        prep_write(template, fd, 0, nbytes, 0, 0, sqe_flags)
        self._transfer_many(template, user_data, readable(buffer), nbytes, offsets)

    def read_fixed_many(
        self,
        user_data: Integers,
        fd: int,
        buffer: WritableBuffer,
        nbytes: int,
        offsets: Integers,
        buffer_index: int,
        sqe_flags: int = 0,
    ) -> None:
        """A `read_fixed` of ``nbytes`` for each of ``user_data``, as in `read_many`."""
        template = Sqe()
        prep_read_fixed(template, fd, 0, nbytes, 0, buffer_index, 0, sqe_flags)
        _, address, size = writable(buffer)
        self._transfer_many(template, user_data, (None, address, size), nbytes, offsets)

    def _transfer_many(
        self,
        template: Sqe,
        user_data: Integers,
        memory: tuple[Pin | None, int, int],
        nbytes: int,
        offsets: Integers,
    ) -> None:
        pin, address, size = memory
        if size != nbytes * len(user_data):
            raise ValueError(f"{len(user_data)} times {nbytes} bytes are not {size} bytes")
        parts = _addresses(range(address, address + size, nbytes))
        self._fill_many(template, user_data, {"addr": parts, "off": offsets}, pin)

    # -- sync, space, advice -------------------------------------------------------------------

    def fsync(self, user_data: int, fd: int, flags: int = 0) -> Sqe:
        """``fsync(2)``; with `FsyncFlag.DATASYNC` ``fdatasync(2)`` (5.1).

        Not ordered after writes that were submitted earlier: link it to them, or drain.
        """
        return self._fill((), prep.prep_fsync, fd, flags, user_data)

    def sync_file_range(
        self, user_data: int, fd: int, nbytes: int, offset: int, flags: int = 0
    ) -> Sqe:
        """``sync_file_range(2)`` (5.2)."""
        return self._fill((), prep.prep_sync_file_range, fd, nbytes, offset, flags, user_data)

    def fallocate(self, user_data: int, fd: int, mode: int, offset: int, length: int) -> Sqe:
        """``fallocate(2)`` (5.6)."""
        return self._fill((), prep.prep_fallocate, fd, mode, offset, length, user_data)

    def ftruncate(self, user_data: int, fd: int, length: int) -> Sqe:
        """``ftruncate(2)`` (6.9)."""
        return self._fill((), prep.prep_ftruncate, fd, length, user_data)

    def fadvise(self, user_data: int, fd: int, offset: int, length: int, advice: int) -> Sqe:
        """``posix_fadvise(2)`` (5.6). ``length`` is below 4 GiB before 6.11; 0: to the end."""
        return self._fill((), prep.prep_fadvise, fd, offset, length, advice, user_data)

    def madvise(self, user_data: int, memory: ReadableBuffer, advice: int) -> Sqe:
        """``madvise(2)`` (5.6) of a ``mmap.mmap``, or of whole pages of another writable buffer.

        Raises:
            ValueError: not whole pages. The kernel rounds up, and some advice empties the page.
        """
        if isinstance(memory, mmap.mmap):
            pin, address, nbytes = readable(memory)
        else:
            pin, address, nbytes = writable(memory)
            if address % mmap.PAGESIZE or nbytes % mmap.PAGESIZE:
                raise ValueError(f"not whole pages of {mmap.PAGESIZE} bytes")
        return self._fill((pin,), prep.prep_madvise, address, nbytes, advice, user_data)

    def cmd_discard(self, user_data: int, fd: int, offset: int, nbytes: int) -> Sqe:
        """Discards a range of a block device, as the ioctl ``BLKDISCARD`` does (6.12)."""
        return self._fill((), prep.prep_cmd_discard, fd, offset, nbytes, user_data)

    # -- pipes ---------------------------------------------------------------------------------

    def splice(
        self,
        user_data: int,
        fd_in: int,
        off_in: int,
        fd_out: int,
        off_out: int,
        nbytes: int,
        flags: int = 0,
    ) -> Sqe:
        """``splice(2)`` (5.7). Offset -1 for a pipe, or for the file position. Result: bytes moved.

        `Sqe.use_registered_fd` makes ``fd_out`` a slot, and `SPLICE_F_FD_IN_FIXED` in ``flags``
        makes ``fd_in`` one.
        """
        return self._fill(
            (), prep.prep_splice, fd_in, off_in, fd_out, off_out, nbytes, flags, user_data
        )

    def tee(self, user_data: int, fd_in: int, fd_out: int, nbytes: int, flags: int = 0) -> Sqe:
        """``tee(2)`` (5.8), with slots as in `splice`. Result: bytes copied."""
        return self._fill((), prep.prep_tee, fd_in, fd_out, nbytes, flags, user_data)

    def pipe(self, user_data: int, fds: WritableBuffer, flags: int = 0) -> Sqe:
        """``pipe2(2)`` (6.16): descriptors come in ``fds``, an ``array.array("i", [-1, -1])``."""
        pin, address = _pair(fds)
        return self._fill((pin,), prep.prep_pipe, address, flags, user_data)

    def pipe_direct(self, user_data: int, fds: WritableBuffer, flags: int, file_index: int) -> Sqe:
        """`pipe` into slots ``file_index`` and the next, or into two free ones (6.16).

        With `FILE_INDEX_ALLOC` the slots come in ``fds``. With others some kernels up to 6.18 write
        zeroes there.
        """
        pin, address = _pair(fds)
        return self._fill((pin,), prep.prep_pipe_direct, address, flags, file_index, user_data)

    # -- close ---------------------------------------------------------------------------------

    @overload
    def close(self, timeout: float = CLOSE_TIMEOUT_S) -> list[Cqe]: ...

    @overload
    def close(self, user_data: int, fd: int) -> Sqe: ...

    def close(self, *args: Any, **kwargs: Any) -> Any:
        """Closes the ring; with ``(user_data, fd)`` it is the operation ``close(2)`` (5.6).

        Closing the ring cancels what is in flight, and waits at most ``timeout`` seconds for its
        end. It returns the completions that nobody had copied. It may be repeated. Operations that
        do not end keep what they borrowed until the process ends.
        """
        if len(args) == 2 or "fd" in kwargs:
            return self._close_fd(*args, **kwargs)
        return super().close(*args, **kwargs)

    def _close_fd(self, user_data: int, fd: int) -> Sqe:
        return self._fill((), prep.prep_close, fd, user_data)

    def close_direct(self, user_data: int, file_index: int) -> Sqe:
        """Empties a slot (5.15). Operations on its file go on, and keep it open until they end.

        Not to be combined with `Sqe.use_registered_fd`.

        Raises:
            ValueError: no slot, `FILE_INDEX_ALLOC` included.
        """
        return self._fill((), prep.prep_close_direct, file_index, user_data)

    def fixed_fd_install(self, user_data: int, slot: int, flags: int = 0) -> Sqe:
        """A normal descriptor for the file in ``slot``, as `InstallFlag` says (6.8).

        Result: the descriptor, which is closed on exec by default.
        """
        return self._fill((), prep.prep_fixed_fd_install, slot, flags, user_data)


@lru_cache(maxsize=16)
def _addresses(addresses: range) -> array[int]:
    """As a column; the same buffer is mostly used again and again."""
    return array("Q", addresses)


def _pair(fds: WritableBuffer) -> tuple[Pin, int]:
    pin, address, count = int_array(fds, in_place=True)
    if count != 2:
        raise ValueError(f"room for 2 descriptors, not {count}")
    return pin, address
