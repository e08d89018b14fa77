# SPDX-License-Identifier: MIT OR Apache-2.0
"""The buffers that all receives of a run share.

A receive takes a buffer from this provided buffer ring only when data are there: a thousand idle
connections lend nothing to the kernel. The data are copied out as soon as the completion is seen,
and the buffer goes back before the next system call.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import TYPE_CHECKING

from ._lib import NULL, address_of, ffi, lib

if TYPE_CHECKING:
    from ._buf_ring import BufferRing
    from ._engine_ring import EngineRing

GROUP_ID = 0  # in a zeroed SQE already
F_BUFFER = 1  # CqeFlag.BUFFER
BUFFER_SHIFT = 16
_ENTRY = Struct("=QIH")
_ENTRY_BYTES = 16


class SharedBuffers:
    """``count`` buffers of ``nbytes`` in one mapping; untouched ones cost no memory."""

    def __init__(self, ring: EngineRing, count: int, nbytes: int) -> None:
        memory = lib.tu_map_anonymous(count * nbytes)
        if memory == NULL:
            raise MemoryError("no memory for the receive buffers")
        unmap = lib.tu_unmap
        memory = ffi.gc(memory, lambda address: unmap(address, count * nbytes), count * nbytes)
        # The ring lets go of it when it is closed and drained, and not before.
        ring.hold("receive buffers", memory)
        self.nbytes = nbytes
        self._count = count
        self._base = address_of(memory)
        self._data = memoryview(ffi.buffer(memory, count * nbytes))
        # KERNEL OWNS every buffer whose id is not lent or returned.
        self._ring: BufferRing = ring.setup_buf_ring(count, GROUP_ID)
        self._entries = self._ring.entry_memory
        self._returned: list[int] = list(range(count))
        self.give_back()

    @property
    def lent(self) -> int:
        """Buffers with data that nobody has copied out yet; 0 before 6.8, which cannot be asked."""
        try:
            available = self._ring.available()
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            return 0
        return self._count - available - len(self._returned)

    def take(self, flags: int, nbytes: int) -> bytes:
        """A copy of what a completion with these flags received; its buffer is returned."""
        buffer_id = flags >> BUFFER_SHIFT
        start = buffer_id * self.nbytes
        self._returned.append(buffer_id)
        return bytes(self._data[start : start + nbytes])

    def give_back(self) -> None:
        """Shows the returned buffers to the kernel; called before each system call."""
        returned, self._returned = self._returned, []
        mask = self._count - 1
        tail = self._ring.tail
        for offset, buffer_id in enumerate(returned):
            at = ((tail + offset) & mask) * _ENTRY_BYTES
            address = self._base + buffer_id * self.nbytes
            _ENTRY.pack_into(self._entries, at, address, self.nbytes, buffer_id)
        self._ring.advance(len(returned))

    @property
    def has_returned(self) -> bool:
        """There is something to give back."""
        return bool(self._returned)
