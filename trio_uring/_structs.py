# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the kernel reads and fills in for single operations: small C structs as Python objects.

Those that the kernel fills in are to be read after the operation's completion. Layouts: the manual
page that each class names.
"""

from __future__ import annotations

import platform
from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple, cast

from ._abi import FUTEX2_SIZE_U32
from ._buffers import TRANSFER_BYTES_MAX, readable, struct_memory, writable
from ._lib import CData, ffi

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TypeAlias

    from ._buffers import Pin, ReadableBuffer, WritableBuffer

    Seconds: TypeAlias = "Timespec | tuple[int, int] | float"

NS_PER_S = 1_000_000_000


class BufferSelection:
    """Instead of a buffer: the kernel takes one of the group when there is data (5.7).

    ``nbytes`` is how much to take at the most; 0 means all that the buffer holds. The completion
    has ``CqeFlag.BUFFER``, and the number of the buffer above ``CQE_BUFFER_SHIFT``.
    """

    __slots__ = ("group_id", "nbytes")

    def __init__(self, group_id: int, nbytes: int = 0) -> None:
        if not 0 <= group_id <= 0xFFFF:
            raise ValueError("a buffer group has a number from 0 to 65535")
        if not 0 <= nbytes <= 0xFFFFFFFF:
            raise ValueError("nbytes must fit in 32 bits")
        self.group_id = group_id
        self.nbytes = nbytes

    @property
    def limit(self) -> int:
        """``nbytes`` as a limit: only newer kernels, and multishots, take 0 for all."""
        return self.nbytes or TRANSFER_BYTES_MAX

    def __repr__(self) -> str:
        return f"BufferSelection(group_id={self.group_id}, nbytes={self.nbytes})"


class Timespec(NamedTuple):
    """A time: ``struct __kernel_timespec``."""

    sec: int
    nsec: int = 0

    @classmethod
    def of(cls, time: Seconds) -> Timespec:
        """``time`` in seconds, or already as ``(sec, nsec)``."""
        if isinstance(time, tuple):
            return cls(*time)
        if isinstance(time, int):
            return cls(time)
        return cls(*divmod(round(time * 1e9), NS_PER_S))

    def memory(self) -> tuple[Pin, int]:
        """The struct and its address."""
        return struct_memory("int64_t[]", self)


class OpenHow(NamedTuple):
    """How to open: ``struct open_how`` of openat2(2)."""

    flags: int
    mode: int = 0
    resolve: int = 0

    def memory(self) -> tuple[Pin, int]:
        """The struct and its address."""
        return struct_memory("uint64_t[]", self)


class _Filled:
    """A struct that the kernel fills in."""

    __slots__ = ("_view", "memory", "pointer")

    def __init__(self, nbytes: int) -> None:
        self.memory: CData
        self.memory, self.pointer = struct_memory("uint64_t[]", -(-nbytes // 8))
        self._view = ffi.buffer(self.memory, nbytes)

    def __bytes__(self) -> bytes:
        data: bytes = self._view[:]
        return data


class _Member:
    """One member of such a struct; with ``=q8xI`` and the like the first number of several."""

    def __init__(self, code: str, at: int) -> None:
        self._struct = Struct(code)
        self._at = at

    def __get__(self, owner: _Filled, _: object) -> int:
        value: int = self._struct.unpack_from(owner._view, self._at)[0]
        return value


class _Nanoseconds(_Member):
    """A struct statx_timestamp, in nanoseconds."""

    def __init__(self, at: int) -> None:
        super().__init__("=qI4x", at)

    def __get__(self, owner: _Filled, _: object) -> int:
        sec, nsec = self._struct.unpack_from(owner._view, self._at)
        return int(sec) * NS_PER_S + int(nsec)


class Statx(_Filled):
    """What statx(2) tells, by the names there; the times are nanoseconds since the epoch."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(256)

    stx_mask = _Member("=I", 0)
    stx_blksize = _Member("=I", 4)
    stx_attributes = _Member("=Q", 8)
    stx_nlink = _Member("=I", 16)
    stx_uid = _Member("=I", 20)
    stx_gid = _Member("=I", 24)
    stx_mode = _Member("=H", 28)
    stx_ino = _Member("=Q", 32)
    stx_size = _Member("=Q", 40)
    stx_blocks = _Member("=Q", 48)
    stx_attributes_mask = _Member("=Q", 56)
    stx_atime_ns = _Nanoseconds(64)
    stx_btime_ns = _Nanoseconds(80)
    stx_ctime_ns = _Nanoseconds(96)
    stx_mtime_ns = _Nanoseconds(112)
    stx_rdev_major = _Member("=I", 128)
    stx_rdev_minor = _Member("=I", 132)
    stx_dev_major = _Member("=I", 136)
    stx_dev_minor = _Member("=I", 140)
    stx_mnt_id = _Member("=Q", 144)  # 5.8
    stx_dio_mem_align = _Member("=I", 152)  # 6.1
    stx_dio_offset_align = _Member("=I", 156)  # 6.1
    stx_subvol = _Member("=Q", 160)  # 6.10
    stx_atomic_write_unit_min = _Member("=I", 168)  # 6.11
    stx_atomic_write_unit_max = _Member("=I", 172)  # 6.11
    stx_atomic_write_segments_max = _Member("=I", 176)  # 6.11
    stx_dio_read_offset_align = _Member("=I", 180)  # 6.14
    stx_atomic_write_unit_max_opt = _Member("=I", 184)  # 6.16

    def __repr__(self) -> str:
        return f"<Statx mode={self.stx_mode:#o} size={self.stx_size} ino={self.stx_ino}>"


class Siginfo(_Filled):
    """What waitid(2) tells of a child: ``siginfo_t``, by the names there."""

    __slots__ = ()

    # Three ints, then a union that is aligned as a pointer.
    _UNION = Struct("@iii0P").size

    def __init__(self) -> None:
        super().__init__(128)

    si_signo = _Member("=i", 0)
    si_errno = _Member("=i", 8 if platform.machine().startswith("mips") else 4)
    si_code = _Member("=i", 4 if platform.machine().startswith("mips") else 8)
    si_pid = _Member("=i", _UNION)
    si_uid = _Member("=I", _UNION + 4)
    si_status = _Member("=i", _UNION + 8)

    def __repr__(self) -> str:
        return f"<Siginfo pid={self.si_pid} code={self.si_code} status={self.si_status}>"


# Packed on x86, so that 32-bit and 64-bit programs share it; elsewhere not.
_EPOLL_EVENT = Struct("=IQ" if platform.machine() in ("x86_64", "i386", "i686") else "@IQ")


class EpollOp(IntEnum):
    """What ``epoll_ctl`` does with a descriptor: ``EPOLL_CTL_*``."""

    ADD = 1
    DEL = 2
    MOD = 3


class EpollEvent(NamedTuple):
    """Events and the number that belongs to them: ``struct epoll_event`` of epoll_ctl(2)."""

    events: int
    data: int = 0

    def memory(self) -> tuple[Pin, int]:
        """The struct and its address."""
        return struct_memory("char[]", _EPOLL_EVENT.pack(*self))


class EpollEvents(_Filled):
    """Room for the events that epoll_wait(2) brings."""

    __slots__ = ("max_events",)

    def __init__(self, max_events: int) -> None:
        if max_events < 1:
            raise ValueError("max_events must be at least 1")
        super().__init__(max_events * _EPOLL_EVENT.size)
        self.max_events = max_events

    def first(self, count: int) -> list[EpollEvent]:
        """The first ``count`` events, the result of the operation."""
        found = self._view[: count * _EPOLL_EVENT.size]
        return [EpollEvent(*event) for event in _EPOLL_EVENT.iter_unpack(found)]


class FutexWaiter(NamedTuple):
    """One futex of ``futex_waitv``: 32 bits of memory that should have the value ``val``."""

    futex: ReadableBuffer
    val: int
    flags: int = FUTEX2_SIZE_U32


def futex_word(futex: ReadableBuffer) -> tuple[Pin, int]:
    """The pin and address of a futex.

    Raises:
        ValueError: it is not 32 bits, aligned.
    """
    pin, address, nbytes = readable(futex)
    if nbytes != 4 or address % 4:
        raise ValueError("a futex is 4 bytes at an address that 4 divides")
    return pin, address


def futex_waiters(waiters: Sequence[FutexWaiter]) -> tuple[tuple[Pin, ...], int]:
    """An array of struct futex_waitv: its pins and its address."""
    words = [futex_word(waiter.futex) for waiter in waiters]
    flat: list[int] = []
    for (_, address), waiter in zip(words, waiters, strict=True):
        flat += (waiter.val, address, waiter.flags)
    memory, pointer = struct_memory("uint64_t[]", flat or 1)
    return (memory, *(pin for pin, _ in words)), pointer


def int_array(
    numbers: WritableBuffer | Iterable[int], *, in_place: bool = False
) -> tuple[Pin, int, int]:
    """Pin, address and count of C ints: a writable buffer itself, or a copy of the numbers.

    ``in_place``: only the buffer will do, for the kernel writes numbers that must not get lost.

    Raises:
        BufferError: the buffer is read-only.
        ValueError: it does not hold whole ints.
    """
    try:
        pin, address, nbytes = writable(cast("WritableBuffer", numbers))
    except TypeError:  # no buffer
        if in_place:
            raise
        copied = list(cast("Iterable[int]", numbers))
        memory, address = struct_memory("int[]", copied or 1)
        return memory, address, len(copied)
    if nbytes % 4 or address % 4:
        raise ValueError("not an array of C ints")
    return pin, address, nbytes // 4
