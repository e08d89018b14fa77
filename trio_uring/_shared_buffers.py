# SPDX-License-Identifier: MIT OR Apache-2.0
"""The buffers that all receives of a run share.

A receive takes a buffer from this provided buffer ring only when data are there: a thousand idle
connections lend nothing to the kernel. The data are copied out as soon as the completion is seen,
and the buffer goes back before the next system call.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from ._lib import NULL, address_of, ffi, lib

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._buf_ring import BufferRing
    from ._engine_ring import EngineRing

GROUP_ID = 0  # in a zeroed SQE already
BUFFER_SHIFT = 16
_unpack: Callable[[Any, int], bytes] = ffi.unpack  # type: ignore[assignment]


class SharedBuffers:
    """``count`` buffers of ``nbytes`` in one mapping; untouched ones cost no memory."""

    def __init__(self, ring: EngineRing, count: int, nbytes: int) -> None:
        memory: Any = lib.tu_map_anonymous(count * nbytes)
        if memory == NULL:
            raise MemoryError("no memory for the receive buffers")
        unmap = lib.tu_unmap
        memory = ffi.gc(memory, lambda address: unmap(address, count * nbytes), count * nbytes)
        # The ring lets go of it when it is closed and drained, and not before.
        ring.hold("receive buffers", memory)
        self.nbytes = nbytes
        self._count = count
        self._base = address_of(memory)
        self._memory = memory
        # By id, made beforehand: what `take` reads from.
        first: Any = ffi.cast("char *", memory)
        self._starts = [first + number * nbytes for number in range(count)]
        # KERNEL OWNS every buffer whose id is not lent or among the first `returned` of these.
        self._ids = ffi.new("uint16_t[]", list(range(count)))
        self.returned = count
        self._ring: BufferRing = ring.setup_buf_ring(count, GROUP_ID)
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

    def take(self, flags: int, nbytes: int) -> bytes:
        """A copy of what a completion with these flags received; its buffer is returned."""
        buffer_id = flags >> BUFFER_SHIFT
        self._ids[self.returned] = buffer_id
        self.returned += 1
        return _unpack(self._starts[buffer_id], nbytes)

    def give_back(self) -> None:
        """Shows the returned buffers to the kernel; called before each system call."""
        count, self.returned = self.returned, 0
        self._ring.give(self._ids, count, self._base, self.nbytes)
