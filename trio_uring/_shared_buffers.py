# SPDX-License-Identifier: MIT OR Apache-2.0
"""The buffers that all receives of a run share.

A receive takes a buffer from this provided buffer ring only when data are there: a thousand idle
connections lend nothing to the kernel. The data are copied out as soon as the completion is seen,
and the buffer goes back before the next system call.

Buffers go back in the order of their ids, which is the order in which the kernel took them: one
that comes back early waits for those before it. So what a bundle took (6.10: several buffers for
one completion, which names only the first) follows each other in memory, up to the last buffer.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from . import _native
from ._lib import NULL, address_of, ffi, lib

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._buf_ring import BufferRing
    from ._engine_ring import EngineRing

GROUP_ID = 0  # in a zeroed SQE already
BUFFER_SHIFT = 16
_unpack: Callable[[Any, int], bytes] = ffi.unpack  # type: ignore[assignment]


class SharedBuffers(_native.SharedBuffers):
    """``count`` buffers of ``nbytes`` in one mapping; untouched ones cost no memory."""

    def __init__(self, ring: EngineRing, count: int, nbytes: int) -> None:
        memory: Any = lib.tu_map_anonymous(count * nbytes)
        if memory == NULL:
            raise MemoryError("no memory for the receive buffers")
        unmap = lib.tu_unmap
        memory = ffi.gc(memory, lambda address: unmap(address, count * nbytes), count * nbytes)
        # The ring lets go of it when it is closed and drained, and not before.
        ring.hold("receive buffers", memory)
        self._count = count
        self._base = address_of(memory)
        self._memory = memory
        # By id, made beforehand: what `take` reads from.
        first: Any = ffi.cast("char *", memory)
        self._starts = [first + number * nbytes for number in range(count)]
        # By id. KERNEL OWNS every buffer that is neither lent nor flagged here.
        self._flags: Any = ffi.new("uint8_t[]", b"\1" * count)
        self._is_back = memoryview(ffi.buffer(self._flags))
        self.returned = count  # flags are set
        self._ring: BufferRing = ring.setup_buf_ring(count, GROUP_ID)
        self._lengths = self._ring.lengths()
        addresses = (self._base, address_of(self._flags), self._ring.address)
        self._attach(*addresses, count, nbytes)
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
        return self._count - available - self.returned

    def take_bundle(self, flags: int, nbytes: int) -> bytes:
        """`take` for a completion that may have taken several buffers."""
        buffer_id = flags >> BUFFER_SHIFT
        # Not the length of all: the kernel shortens a buffer to what it expects to come, and leaves
        # it in the ring like that for the next receive, if nothing came.
        if nbytes > self._lengths[buffer_id]:
            return self._take_several(buffer_id, nbytes)
        self._is_back[buffer_id] = 1
        self.returned += 1
        return _unpack(self._starts[buffer_id], nbytes)

    def _take_several(self, first: int, nbytes: int) -> bytes:
        size = self.nbytes
        end = first + (nbytes - 1) // size + 1
        *full, last = self._lengths[first:end].tolist()
        if end <= self._count and set(full) == {size} and last >= nbytes - size * len(full):
            self._is_back[first:end] = b"\1" * (end - first)
            self.returned += end - first
            return _unpack(self._starts[first], nbytes)
        # Beyond the end of the memory, or with gaps.
        pieces: list[bytes] = []
        while nbytes > 0:
            filled = min(nbytes, self._lengths[first])
            pieces.append(self.take(first << BUFFER_SHIFT, filled))
            nbytes -= filled
            first = (first + 1) % self._count
        return b"".join(pieces)

    def give_back(self) -> None:
        """Shows the returned buffers to the kernel; called before each system call."""
        self.returned -= self._ring.give_in_order(self._flags, self._base, self.nbytes)
