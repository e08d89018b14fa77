# SPDX-License-Identifier: MIT OR Apache-2.0
"""Provided buffer rings: a group of buffers from which operations take one when data is there.

io_uring_provided_buffers(7). The program adds buffers at the tail, the kernel takes them from the
head, and a completion says which one it took. Adding one needs no system call.
"""

from __future__ import annotations

import errno
import weakref
from struct import Struct
from typing import TYPE_CHECKING

from ._abi import CQE_BUFFER_SHIFT, CqeFlag, PbufRingFlag, RegisterOp
from ._buffers import TRANSFER_BYTES_MAX, PinnedBuffer, writable
from ._errors import ForkedRingError, RingClosedError
from ._lib import NULL, CData, address_of, ffi, lib

if TYPE_CHECKING:
    from types import TracebackType

    from ._buffers import Pin, WritableBuffer
    from ._queue import BigCqe, Cqe
    from ._register_buffers import RegisteredBuffers

ENTRIES_MAX = 1 << 15
ENTRY_BYTES = 16
# struct io_uring_buf without its last two bytes: those of the first entry are the ring's tail.
BUF = Struct("=QIH")
# Behind the first of them, as a number of 16 bits: the tail, which is moved in C.
_TAIL_PLACE = 7
# struct io_uring_buf_reg: ring_addr, ring_entries, bgid, flags, min_left
BUF_REG = Struct("=QIHHI20x")
# struct io_uring_buf_status: buf_group, head
BUF_STATUS = Struct("=II32x")


def _unmapped_with_its_last_user(memory: CData, nbytes: int) -> CData:
    unmap = lib.tu_unmap
    return ffi.gc(memory, lambda address: unmap(address, nbytes), nbytes)


def _checked(buffer: WritableBuffer) -> tuple[Pin, int, int]:
    lent = writable(buffer)
    if not 1 <= lent[2] <= TRANSFER_BYTES_MAX:
        raise ValueError(f"a buffer has 1 to {TRANSFER_BYTES_MAX} bytes, not {lent[2]}")
    return lent


class BufferRing:
    """A provided buffer ring of a `Ring`, made by `Ring.setup_buf_ring`.

    Operations with ``SqeFlag.BUFFER_SELECT`` and this ``group_id`` as ``buf_group`` take buffers
    from it; their completions have ``CqeFlag.BUFFER`` and the buffer's id. Then the buffer is the
    program's until it is added again: `get` finds the data, `put` gives the buffer back.

    Add an id again only after its completion, and never more buffers at a time than ``entries``.
    A context manager, which calls `free`.
    """

    def __init__(
        self, ring: RegisteredBuffers, entries: int, group_id: int, flags: int, min_left: int
    ) -> None:
        if not 1 <= entries <= ENTRIES_MAX or entries & (entries - 1):
            raise ValueError(f"entries must be a power of two up to {ENTRIES_MAX}, not {entries}")
        if not 0 <= group_id <= 0xFFFF:
            raise ValueError(f"group_id must be in 0..65535, not {group_id}")
        self.entries = entries
        self.group_id = group_id
        self.flags = PbufRingFlag(flags)
        # A strong reference would make a cycle, and an unclosed ring would be found late.
        self._ring = weakref.ref(ring)
        self._mask = entries - 1
        self._memory: CData | None = None
        self._memory = self._set_up(ring, min_left)
        self._entries = memoryview(ffi.buffer(self._memory, entries * ENTRY_BYTES))
        self._shorts = self._entries.cast("H")
        # By id. KERNEL OWNS these until a completion names the id, or the ring is freed and idle.
        self._lent: dict[int, tuple[Pin, int, int]] = {}
        self._ids = [0] * entries
        # By place in the ring: an entry that was written twice with one id names memory twice.
        self._place_pins: list[Pin | None] = [None] * entries
        self._added: dict[int, int] = {}
        self._places: dict[int, int] = {}
        # Bytes of a buffer that completions have used already (PbufRingFlag.INC).
        self._used: dict[int, int] = {}

    def _set_up(self, ring: RegisteredBuffers, min_left: int) -> CData:
        nbytes = self.entries * ENTRY_BYTES
        by_kernel = self.flags & PbufRingFlag.MMAP
        memory = NULL if by_kernel else lib.tu_map_anonymous(nbytes)
        if not by_kernel:
            if memory == NULL:
                raise MemoryError("no memory for a buffer ring")
            memory = _unmapped_with_its_last_user(memory, nbytes)
        arg = BUF_REG.pack(address_of(memory), self.entries, self.group_id, self.flags, min_left)
        ring._register(
            RegisterOp.PBUF_RING, ffi.new("char[]", arg), 1, "io_uring_register(PBUF_RING)"
        )
        if by_kernel:
            memory = lib.tu_map_buf_ring(ring._ring, nbytes, self.group_id)
            if memory == NULL:
                self._unregister(ring)
                raise OSError(errno.ENOMEM, "the memory of the buffer ring cannot be mapped")
            memory = _unmapped_with_its_last_user(memory, nbytes)
        return memory

    def _unregister(self, ring: RegisteredBuffers) -> None:
        arg = ffi.new("char[]", BUF_REG.pack(0, 0, self.group_id, 0, 0))
        what = "io_uring_register(UNREGISTER_PBUF_RING)"
        ring._register(RegisterOp.UNREGISTER_PBUF_RING, arg, 1, what)

    def _live(self) -> tuple[RegisteredBuffers, CData]:
        ring, memory = self._ring(), self._memory
        if ring is not None and ring._forked:
            raise ForkedRingError("the buffer ring belongs to the parent process")
        if ring is None or memory is None:
            raise RingClosedError("the buffer ring is closed")
        return ring, memory

    # -- giving buffers to the kernel ----------------------------------------------------------

    def add(self, buffer: WritableBuffer, buffer_id: int, offset: int = 0) -> None:
        """Writes one buffer into the ring, ``offset`` entries behind the tail.

        The kernel sees it after `advance`. Several are added with offsets 0, 1, 2, ..., then one
        `advance`. ``buffer`` stays exported until its id is added with other memory, or `free`.

        Raises:
            BufferError: ``buffer`` is read-only or not contiguous.
            ValueError: an empty buffer, or a number out of range.
        """
        ring, _ = self._live()
        if not 0 <= offset < self.entries:
            raise ValueError(f"offset must be in 0..{self.entries - 1}, not {offset}")
        if not 0 <= buffer_id <= 0xFFFF:
            raise ValueError(f"buffer_id must be in 0..65535, not {buffer_id}")
        lent = _checked(buffer)
        before = self._lent.get(buffer_id)
        if before is not None and before[1:] != lent[1:]:
            # Without a completion that names the id, it may still be the kernel's.
            ring._keep_until_idle((before[0],))
        self._write(buffer_id, lent, offset)

    def _write(self, buffer_id: int, lent: tuple[Pin, int, int], offset: int) -> None:
        ring = self._ring()
        place = (self.tail + offset) & self._mask
        self._lent[buffer_id] = lent
        self._places[buffer_id] = place
        self._ids[place] = buffer_id
        self._added[buffer_id] = self._added.get(buffer_id, 0) + 1
        before, self._place_pins[place] = self._place_pins[place], lent[0]
        if before is not None and before is not lent[0] and ring is not None:
            ring._keep_until_idle((before,))
        self._used.pop(buffer_id, None)
        BUF.pack_into(self._entries, place * ENTRY_BYTES, lent[1], lent[2], buffer_id)

    def advance(self, count: int) -> None:
        """Shows the ``count`` buffers added last to the kernel."""
        _, memory = self._live()
        if not 0 <= count <= self.entries:
            raise ValueError(f"count must be in 0..{self.entries}, not {count}")
        lib.tu_buf_ring_advance(memory, count)

    def give_in_order(self, returned: CData, base: int, nbytes: int) -> int:
        """Adds and shows the buffers that are next in the order of ids; how many.

        For code that does without `add` and `get`: there are as many buffers as entries, of
        ``nbytes`` each, following each other from the address ``base`` on in memory that the caller
        keeps. Those with a 1 in ``returned`` (``uint8_t[]``, by id) are added up to the first that
        has none; it is a 0 then.
        """
        _, memory = self._live()
        return lib.tu_buf_ring_give_in_order(memory, self._mask, returned, base, nbytes)

    @property
    def address(self) -> int:
        """Where the entries are."""
        _, memory = self._live()
        return address_of(memory)

    def lengths(self) -> memoryview:
        """Of the buffers in the entries, by place; the kernel may have shortened them."""
        self._live()
        return self._entries.cast("I")[2::4]

    def fill(self, memory: WritableBuffer, nbytes: int) -> int:
        """Cuts ``memory`` into buffers of ``nbytes`` with the ids 0, 1, 2, ..., and adds them all.

        Returns their number; a remainder is not used.

        Raises:
            ValueError: not even one buffer, or more than ``entries``.
        """
        whole = memory if isinstance(memory, PinnedBuffer) else PinnedBuffer(memory)
        count = len(whole) // nbytes
        if not 1 <= count <= self.entries:
            raise ValueError(f"{count} buffers for a ring of {self.entries}")
        for i in range(count):
            self.add(whole[i * nbytes : (i + 1) * nbytes], i, i)
        self.advance(count)
        return count

    # -- what came back ------------------------------------------------------------------------

    def get(self, cqe: Cqe | BigCqe) -> memoryview:
        """The data of a completion, in place: copy it before `put`.

        Raises:
            ValueError: the completion took no buffer of this ring, or several (`get_bundle`).
        """
        parts = self._parts(cqe)
        if len(parts) > 1:
            raise ValueError("the data is in several buffers: use get_bundle")
        return self._view(*parts[0])

    def get_bundle(self, cqe: Cqe | BigCqe) -> list[memoryview]:
        """The data of a completion that took several buffers (RecvSendFlag.BUNDLE, 6.10)."""
        return [self._view(*part) for part in self._parts(cqe)]

    def put(self, cqe: Cqe | BigCqe, replacement: WritableBuffer | None = None) -> None:
        """Gives the buffers of a completion back to the kernel; once per completion.

        While ``CqeFlag.BUF_MORE`` says that a buffer is not used up, it is still the kernel's, and
        the next `get` goes on where this one ended. With ``replacement`` the id gets other memory,
        and the old one is the program's.

        Raises:
            ValueError: as `get`; a replacement for several buffers or for one that is in use.
        """
        parts = self._parts(cqe)
        last_id, start, nbytes = parts[-1]
        more = bool(cqe.flags & CqeFlag.BUF_MORE)
        if replacement is not None:
            if more or len(parts) > 1:
                raise ValueError("only one buffer that is used up can be replaced")
            checked = _checked(replacement)
            self._came_back(last_id)
            self._write(last_id, checked, 0)
            self.advance(1)
            return
        done = parts[:-1] if more else parts
        for offset, (buffer_id, _, _) in enumerate(done):
            self._came_back(buffer_id)
            self._write(buffer_id, self._lent[buffer_id], offset)
        if more:
            self._used[last_id] = start + nbytes
        self.advance(len(done))

    def _came_back(self, buffer_id: int) -> None:
        """A completion names the id; if it was added only once, its memory is the program's."""
        self._added[buffer_id] -= 1
        if not self._added[buffer_id]:
            self._place_pins[self._places[buffer_id]] = None

    def _parts(self, cqe: Cqe | BigCqe) -> list[tuple[int, int, int]]:
        """Id, start and length of each piece of the data; a bundle is in the order of adding."""
        self._live()
        if not cqe.flags & CqeFlag.BUFFER:
            raise ValueError("the completion took no buffer")
        buffer_id = cqe.flags >> CQE_BUFFER_SHIFT & 0xFFFF
        left = max(cqe.res, 0)
        parts: list[tuple[int, int, int]] = []
        while buffer_id in self._lent and len(parts) < self.entries:
            start = self._used.get(buffer_id, 0)
            nbytes = min(left, self._lent[buffer_id][2] - start)
            parts.append((buffer_id, start, nbytes))
            left -= nbytes
            if not left:
                return parts
            buffer_id = self._ids[(self._places[buffer_id] + 1) & self._mask]
        raise ValueError("the completion is not of this buffer ring")

    def _view(self, buffer_id: int, start: int, nbytes: int) -> memoryview:
        pin, address, _ = self._lent[buffer_id]
        first = address - address_of(pin) + start
        return memoryview(ffi.buffer(pin))[first : first + nbytes]

    # -- state ---------------------------------------------------------------------------------

    @property
    def tail(self) -> int:
        """Buffers shown to the kernel so far, modulo 65536."""
        return int(self._shorts[_TAIL_PLACE])

    def head(self) -> int:
        """Buffers that the kernel has used up so far, modulo 65536. (PBUF_STATUS, 6.8)"""
        ring, _ = self._live()
        arg = ffi.new("char[]", BUF_STATUS.pack(self.group_id, 0))
        ring._register(RegisterOp.PBUF_STATUS, arg, 1, "io_uring_register(PBUF_STATUS)")
        head: int = BUF_STATUS.unpack_from(ffi.buffer(arg))[1]
        return head & 0xFFFF

    def available(self) -> int:
        """Buffers that the kernel has and has not used up. (6.8)"""
        return (self.tail - self.head()) & 0xFFFF

    # -- the end -------------------------------------------------------------------------------

    def free(self) -> None:
        """Unregisters the ring. Idempotent; closing the `Ring` does it too.

        Operations that took a buffer keep it: the memory is let go when nothing is in flight.
        """
        ring = self._ring()
        if ring is None or self._memory is None:
            return
        self._unregister(ring)
        ring._buffer_rings.pop(self.group_id, None)
        ring._keep_until_idle(
            (self._memory, *self._place_pins, *(p for p, _, _ in self._lent.values()))
        )
        self._forget()

    def _forget(self) -> None:
        self._memory = None
        self._shorts = memoryview(bytes(ENTRY_BYTES)).cast("H")
        self._entries = memoryview(b"")
        self._lent = {}
        self._place_pins = []

    def _abandon_in_child(self) -> None:
        # The address range is not ours there any more: memory of the kernel is not inherited.
        if self._memory is not None:
            ffi.gc(self._memory, None)
        self._forget()

    def __enter__(self) -> BufferRing:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.free()

    def __repr__(self) -> str:
        state = "" if self._memory is not None else " closed"
        return f"<BufferRing group_id={self.group_id} entries={self.entries}{state}>"
