# SPDX-License-Identifier: MIT OR Apache-2.0
"""Python memory lent to the kernel.

A pin is any object that keeps memory where it is for as long as the pin lives: the cffi export of a
Python buffer (a ``bytearray`` cannot be resized meanwhile) or memory that cffi allocated. Whoever
submits an operation holds its pins until the final CQE.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from . import _native
from ._lib import CData, address_of, ffi

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeAlias

    from typing_extensions import Buffer

    Pin: TypeAlias = CData
    ReadableBuffer: TypeAlias = "Buffer | PinnedBuffer"
    WritableBuffer: TypeAlias = "Buffer | PinnedBuffer"
    Path: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes]"

# struct iovec: base, length. 1024 is IOV_MAX (limits.h), the most that readv(2) takes.
IOVECS_MAX = 1024

# A length field of an SQE is 32 bits, and the kernel moves at most INT_MAX rounded down to a page.
TRANSFER_BYTES_MAX = 0x7FFFF000


class PinnedBuffer(_native.Pinned):
    """A buffer exported once, for use in many operations.

    Taking a Python buffer anew for each operation costs more than preparing the operation. ``obj``
    is anything with the buffer protocol, contiguous; it stays exported while this object lives. A
    slice is a part of the same memory; ``bytes(buffer)`` copies it.

    Raises:
        BufferError: ``obj`` is not contiguous.
        TypeError: ``obj`` has no buffer.
    """

    __slots__ = ()

    def __init__(self, obj: Buffer) -> None:
        self.writable = not memoryview(obj).readonly
        self.export = (
            ffi.from_buffer("char[]", obj, True) if self.writable else ffi.from_buffer(obj)
        )
        self.address = address_of(self.export)
        self.nbytes = len(self.export)

    def __len__(self) -> int:
        return self.nbytes

    def __getitem__(self, part: slice) -> PinnedBuffer:
        start, stop, step = part.indices(self.nbytes)
        if step != 1:
            raise ValueError("a pinned buffer has contiguous parts only")
        view = PinnedBuffer.__new__(PinnedBuffer)
        view.export = self.export
        view.writable = self.writable
        view.address = self.address + start
        view.nbytes = max(0, stop - start)
        return view

    def __bytes__(self) -> bytes:
        data: bytes = ffi.buffer(ffi.cast("char *", self.address), self.nbytes)[:]
        return data


def readable(buffer: ReadableBuffer) -> tuple[Pin, int, int]:
    """The pin, address and length in bytes of memory that the kernel only reads."""
    if isinstance(buffer, PinnedBuffer):
        return buffer.export, buffer.address, buffer.nbytes
    if isinstance(buffer, str):
        raise TypeError("a bytes-like object is required, not 'str'")
    memory: Any = buffer
    export = ffi.from_buffer(memory)
    return export, address_of(export), len(export)


def writable(buffer: WritableBuffer) -> tuple[Pin, int, int]:
    """The pin, address and length in bytes of memory that the kernel writes.

    Raises:
        BufferError: the buffer is read-only or not contiguous.
    """
    if isinstance(buffer, PinnedBuffer):
        if not buffer.writable:
            raise BufferError("the kernel would write to a read-only buffer")
        return buffer.export, buffer.address, buffer.nbytes
    memory: Any = buffer
    export = ffi.from_buffer("char[]", memory, True)
    return export, address_of(export), len(export)


def struct_memory(ctype: str, *init: Any) -> tuple[CData, int]:
    """Zeroed memory for one C object, and its address."""
    memory = ffi.new(ctype, *init)
    return memory, address_of(memory)


def c_path(path: Path) -> tuple[Pin, int]:
    """The NUL-terminated file system encoding of ``path``, and its address."""
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise ValueError("embedded null byte")
    return struct_memory("char[]", encoded)


def c_string(text: str | bytes) -> tuple[Pin, int]:
    """A NUL-terminated string that is not a path: the name of an extended attribute."""
    return c_path(text)


def iovecs(buffers: Iterable[Any], *, to_kernel: bool) -> tuple[tuple[Pin, ...], int, int]:
    """An array of struct iovec: its pins, its address, how many.

    ``to_kernel``: the kernel reads the buffers; else it writes them.
    """
    take = readable if to_kernel else writable
    parts = [take(buffer) for buffer in buffers]
    if len(parts) > IOVECS_MAX:
        raise ValueError(f"at most {IOVECS_MAX} buffers, got {len(parts)}")
    flat = [number for _, address, nbytes in parts for number in (address, nbytes)]
    memory, address = struct_memory("uint64_t[]", flat or 1)
    return (memory, *(pin for pin, _, _ in parts)), address, len(parts)
