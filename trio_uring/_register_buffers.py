# SPDX-License-Identifier: MIT OR Apache-2.0
"""Registered buffers (io_uring_registered_buffers(7)), and the buffer rings of a ring.

The kernel holds the pages of a registered buffer, not the Python object. If the object went while
an operation uses the pages, the interpreter would put other objects there. So a buffer stays
exported after it has left its slot, until nothing is in flight.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from ._abi import RSRC_REGISTER_SPARSE, CloneFlag, RegisterOp
from ._buf_ring import BufferRing
from ._buffers import writable
from ._lib import NULL, address_of, ffi, lib
from ._register_files import (
    RSRC_REGISTER,
    RSRC_UPDATE2,
    RegisteredFiles,
    argument,
    tag_array,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._buffers import Pin, WritableBuffer
    from ._lib import CData

# struct io_uring_clone_buffers: src_fd, flags, src_off, dst_off, nr
CLONE_BUFFERS = Struct("=IIIII12x")
# In the table of pins, what waits until nothing is in flight: no user_data is negative.
UNTIL_IDLE = -1


def _iovecs(buffers: Iterable[WritableBuffer | None]) -> tuple[list[Pin | None], CData]:
    """An export for each buffer, and their struct iovec array; None is an empty slot."""
    parts = [(None, 0, 0) if buffer is None else writable(buffer) for buffer in buffers]
    flat = [number for _, address, nbytes in parts for number in (address, nbytes)]
    return [pin for pin, _, _ in parts], ffi.new("uint64_t[]", flat or 1)


class RegisteredBuffers(RegisteredFiles):
    """The methods of `Ring` for registered buffers and buffer rings."""

    def __init__(self, entries: int, flags: int = 0, **params: int) -> None:
        self._buffer_rings: dict[int, BufferRing] = {}
        self._buffers: list[Pin | None] = []
        super().__init__(entries, flags, **params)

    def _set_buffers(self, exports: list[Pin | None]) -> None:
        # KERNEL OWNS these until they leave the table and nothing is in flight.
        self._buffers = exports
        self._held["registered buffers"] = exports

    def _keep_until_idle(self, pins: Iterable[Pin | None]) -> None:
        """Operations in flight may use ``pins`` without having lent them."""
        kept = tuple(pin for pin in pins if pin is not None)
        if kept and (self._ring.ledger.in_flight or self._foreign):
            self._pins.setdefault(UNTIL_IDLE, []).append(kept)

    def _release_retired(self) -> None:
        super()._release_retired()
        # A message from another ring may have been counted as the end of an operation.
        if not self._ring.ledger.in_flight and not self._foreign:
            self._pins.pop(UNTIL_IDLE, None)

    # -- registered buffers --------------------------------------------------------------------

    def register_buffers(self, buffers: Iterable[WritableBuffer | None]) -> None:
        """Registers ``buffers`` for ``READ_FIXED``, ``WRITE_FIXED`` and kin. (5.1)

        ``buf_index`` 0 is the first; None leaves its place empty (5.13). The kernel locks the pages
        in memory; the objects stay exported until they are unregistered and nothing is in flight.
        io_uring_register_buffers(3).

        Raises:
            OSError: EBUSY, buffers are registered already; ENOMEM, ``RLIMIT_MEMLOCK``; EFAULT, more
                than 1 GiB or none in one buffer, or a read-only mapping.
            BufferError: a buffer is read-only or not contiguous.
        """
        exports, iov = _iovecs(buffers)
        what = "io_uring_register(BUFFERS)"
        self._register(RegisterOp.BUFFERS, iov, len(exports), what)
        self._set_buffers(exports)

    def register_buffers_tags(
        self, buffers: Iterable[WritableBuffer | None], tags: Iterable[int]
    ) -> None:
        """`register_buffers` with one tag for each, 0 for none. (5.13)

        A tag is the user_data of the completion that comes when the kernel is done with the memory.

        Raises:
            OSError: EINVAL, also for a tag on an empty place; else as `register_buffers`.
            ValueError: not one tag for each buffer.
        """
        exports, iov = _iovecs(buffers)
        count = len(exports)
        tagged = tag_array(tags, count)
        arg = argument(RSRC_REGISTER, count, 0, 0, address_of(iov), address_of(tagged))
        what = "io_uring_register(BUFFERS2)"
        self._register(RegisterOp.BUFFERS2, arg, RSRC_REGISTER.size, what)
        self._set_buffers(exports)
        self._tagged_buffers_end = self._expect_tags(tagged, 0, count)

    def register_buffers_sparse(self, count: int) -> None:
        """Makes a table of ``count`` empty places for `register_buffers_update_tag`. (5.19)"""
        arg = argument(RSRC_REGISTER, count, RSRC_REGISTER_SPARSE, 0, 0, 0)
        what = "io_uring_register(BUFFERS2)"
        self._register(RegisterOp.BUFFERS2, arg, RSRC_REGISTER.size, what)
        self._set_buffers([None] * count)

    def register_buffers_update_tag(
        self,
        offset: int,
        buffers: Iterable[WritableBuffer | None],
        tags: Iterable[int] | None = None,
    ) -> int:
        """Replaces registered buffers from place ``offset`` on; None empties a place. (5.13)

        Returns how many places were done, which may be less than asked.

        Raises:
            OSError: nothing was done. EINVAL, past the end or a tag on None; ENXIO, no table.
        """
        exports, iov = _iovecs(buffers)
        count = len(exports)
        tagged = tag_array(tags, count)
        arg = argument(RSRC_UPDATE2, offset, 0, address_of(iov), address_of(tagged), count, 0)
        what = "io_uring_register(BUFFERS_UPDATE)"
        done = self._register(RegisterOp.BUFFERS_UPDATE, arg, RSRC_UPDATE2.size, what)
        self._replace_buffers(offset, exports[:done])
        end = self._expect_tags(tagged, offset, done)
        self._tagged_buffers_end = max(self._tagged_buffers_end, end)
        return done

    def _replace_buffers(self, offset: int, exports: list[Pin | None]) -> None:
        end = offset + len(exports)
        self._set_buffers(self._buffers + [None] * (end - len(self._buffers)))
        self._keep_until_idle(self._buffers[offset:end])
        self._buffers[offset:end] = exports

    def _release_buffer_tags(self) -> None:
        """As `_release_file_tags`."""
        end, self._tagged_buffers_end = self._tagged_buffers_end, 0
        if end:
            iov, tags = ffi.new("uint64_t[]", 2 * end), tag_array(None, end)
            arg = argument(RSRC_UPDATE2, 0, 0, address_of(iov), address_of(tags), end, 0)
            lib.tu_register(self._ring, RegisterOp.BUFFERS_UPDATE, arg, RSRC_UPDATE2.size)

    def unregister_buffers(self) -> None:
        """Drops the table of registered buffers. (5.1)

        Kernels before 6.13 may wait here for the end of operations that use them.

        Raises:
            OSError: ENXIO, no table.
        """
        self._release_buffer_tags()
        what = "io_uring_register(UNREGISTER_BUFFERS)"
        self._register(RegisterOp.UNREGISTER_BUFFERS, NULL, 0, what)
        self._keep_until_idle(self._buffers)
        self._set_buffers([])

    def clone_buffers(
        self,
        source: RegisteredBuffers,
        source_offset: int = 0,
        offset: int = 0,
        count: int = 0,
        flags: int = 0,
    ) -> None:
        """Takes over the registered buffers of another ring, which keeps them too. (6.12)

        ``count`` 0 takes all of them. Offsets and counts need 6.13, and so does
        ``CloneFlag.DST_REPLACE``, without which this ring may have no buffers.
        io_uring_register_clone_buffers(3).

        Raises:
            OSError: EBUSY, this ring has buffers; ENXIO, the other has none; EINVAL or EOVERFLOW,
                past the end.
        """
        if source._ring.register_flags:
            flags |= CloneFlag.SRC_REGISTERED
        arg = argument(CLONE_BUFFERS, source.fd & 0xFFFFFFFF, flags, source_offset, offset, count)
        self._register(RegisterOp.CLONE_BUFFERS, arg, 1, "io_uring_register(CLONE_BUFFERS)")
        taken = source._buffers[source_offset : source_offset + count if count else None]
        self._replace_buffers(offset, taken)

    # -- buffer rings --------------------------------------------------------------------------

    def setup_buf_ring(
        self, entries: int, group_id: int, flags: int = 0, min_left: int = 0
    ) -> BufferRing:
        """Makes a provided buffer ring of ``entries``, a power of two up to 32768. (5.19)

        With ``PbufRingFlag.MMAP`` the kernel brings the ring's memory (6.4). With ``INC`` a buffer
        is used up bit by bit (6.12), and taken for used up when fewer than ``min_left`` bytes are
        left. io_uring_setup_buf_ring(3).

        Raises:
            OSError: EEXIST, the group is there already; EINVAL, a flag that the kernel lacks.
            ValueError: a number out of range.
        """
        buf_ring = BufferRing(self, entries, group_id, flags, min_left)
        self._buffer_rings[group_id] = buf_ring
        return buf_ring

    def _invalidate(self) -> None:
        super()._invalidate()
        # Close keeps what `_held` has if operations are in flight: then these must be in it.
        self._held["buffer rings"] = [(br._memory, br._lent) for br in self._buffer_rings.values()]
        for buf_ring in self._buffer_rings.values():
            buf_ring._forget()
        self._buffer_rings = {}
        self._buffers = []

    def _abandon_in_child(self) -> None:
        for buf_ring in self._buffer_rings.values():
            buf_ring._abandon_in_child()
        super()._abandon_in_child()
