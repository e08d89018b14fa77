# SPDX-License-Identifier: MIT OR Apache-2.0
"""One ring's memory: its entries, the threads that may touch them, and what the kernel borrows.

Ownership. An operation method leaves what the kernel will use (``pins``) on the entry that it
filled. Submitting moves the pins to the ring, under the entry's user_data; the ledger of the C core
says when the last operation of that user_data has had its final CQE, and only then are they let go.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from struct import Struct, calcsize
from threading import get_ident
from typing import TYPE_CHECKING, Any, NamedTuple

from ._abi import SetupFlag, SqeFlag
from ._errors import ForkedRingError, SubmissionQueueFull, WrongThreadError, error_of
from ._lib import CData, ffi, lib
from ._prep import prep_nop
from ._prep_entry import COLUMNS
from ._sqe import SQE_BYTES, Sqe
from ._unavailable import setup_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from ._buffers import Pin

ENTRIES_MAX = 4096
U32 = 0xFFFFFFFF

CQE = Struct("=QiI")
BIG_CQE = Struct("=QiIQQ")


class Cqe(NamedTuple):
    """A completion: the operation's user_data, its result or negative errno, and `CqeFlag` bits."""

    user_data: int
    res: int
    flags: int


class BigCqe(NamedTuple):
    """A completion of a ring with ``CQE32`` or ``CQE_MIXED``; the last two are 0 in a small one."""

    user_data: int
    res: int
    flags: int
    extra1: int
    extra2: int


class RingBase:
    """Set-up of one ring, its entries, and what it holds for the kernel."""

    # Of the attributes, those that every operation uses: quicker than in a dictionary.
    __slots__ = (
        *("_asks_kernel", "_columns", "_copied", "_copied_view", "_copy_max", "_cqe_bytes"),
        *("_cqe_struct", "_entries", "_inside", "_lenders", "_lending", "_limit", "_mask"),
        *("_new_cqe", "_owner", "_pins", "_ring", "_rows", "_sq_head", "_sqe_bytes", "_tail"),
        "_unpack_cqe",
    )

    fd: int = -1
    """The ring's file descriptor; -1 once it is closed."""

    def __init__(self, entries: int, flags: int = 0, **params: int) -> None:
        kernel_params = _checked_params(entries, flags, params)
        self._forked = False
        # A thread is in a call that reads results of the C core.
        self._inside = False
        self._tail = self._limit = 0
        self._entries: list[Sqe] = []
        self._rows = self._sq_head = memoryview(b"")
        self._columns: dict[str, memoryview] = {}
        self._asks_kernel = True
        # By user_data: what operations in flight borrow.
        self._pins: dict[int, list[tuple[Pin, ...]]] = {}
        # Entries that carry pins and are not submitted; user_data of those being submitted.
        self._lenders: list[Sqe] = []
        self._lending: set[int] = set()
        # user_data that other rings may post here (MSG_RING): their CQEs prove nothing.
        self._foreign: set[int] = set()
        self._held: dict[str, object] = {}
        self._has_files = False
        self._owner: int | None = None
        self._mapping: Any = None
        # While closing: user_data of the cancel requests, and whether each names one operation.
        self._cancel_id = -1
        self._cancel_singly = False
        self._ring = _closed_ring()
        code = lib.tu_setup(self._ring, entries, kernel_params, 1)
        if code < 0:
            raise setup_error(code)
        self.fd = int(self._ring.fd)
        self.flags = SetupFlag(self._ring.setup_flags)
        self.features = int(self._ring.features)
        if not self.flags & SetupFlag.R_DISABLED:
            self._owner = self._issuer()
        self._adopt_memory()

    def _issuer(self) -> int | None:
        """The calling thread, if no other may use the ring; called when the ring is enabled."""
        if not self.flags & (SetupFlag.SINGLE_ISSUER | SetupFlag.REGISTERED_FD_ONLY):
            return None
        lib.tu_claim(self._ring)
        return get_ident()

    def _adopt_memory(self) -> None:
        """Takes over the mapped queues after set-up and after a resize."""
        ring = self._ring
        self._kill_entries()
        self._mask = int(ring.sq_entries) - 1
        big = self.flags & (SetupFlag.CQE32 | SetupFlag.CQE_MIXED)
        self._cqe_struct = BIG_CQE if big else CQE
        # What _make() does, without a Python frame.
        self._new_cqe: Callable[[Any], Any] = partial(tuple.__new__, BigCqe if big else Cqe)
        self._cqe_bytes = self._cqe_struct.size
        self._unpack_cqe = self._cqe_struct.unpack_from
        self._copied = ffi.new("char[]", int(ring.cq_entries) * self._cqe_bytes)
        self._copied_view = memoryview(ffi.buffer(self._copied))
        self._copy_max = int(ring.cq_entries)
        self._sqe_bytes = int(ring.sqe_bytes)
        self._rows = memoryview(self._own_entries()).cast("B")
        self._entries = [Sqe(self._rows, i * self._sqe_bytes) for i in range(ring.sq_entries)]
        # Field -> that field of all entries.
        self._columns = {
            name: self._rows.cast(code)[  # type: ignore[call-overload]
                place :: self._sqe_bytes // calcsize(code)
            ]
            for name, (code, place) in COLUMNS.items()
        }
        # Only inside our own system calls does the kernel move the head: no acquire load is needed,
        # and no call into the core. With SQPOLL its thread moves it whenever it likes.
        self._sq_head = memoryview(ffi.buffer(ring.sq_head, 4)).cast("I")
        self._asks_kernel = bool(self.flags & SetupFlag.SQPOLL)
        self._limit = (lib.tu_counter(ring, lib.TU_SQ_HEAD) + self._mask + 1) & U32

    def _own_entries(self) -> Any:
        """The mapped entries; unmapped when the last reference to them goes, in whatever hands."""
        ring = self._ring
        unmap, nbytes = lib.tu_unmap, int(ring.sqes_map_bytes)
        self._mapping = ffi.gc(ffi.cast("char *", ring.sqes_map), lambda it: unmap(it, nbytes))
        return ffi.buffer(self._mapping, ring.sq_entries * ring.sqe_bytes)

    # -- submission queue ----------------------------------------------------------------------

    def get_sqe(self) -> Sqe:
        """The next free entry, to be filled by a prep function before the next submit.

        Raises:
            SubmissionQueueFull: all entries are taken.
            RingClosedError, ForkedRingError, WrongThreadError: this ring cannot be used here.
        """
        tail = self._tail
        if tail == self._limit or (self._owner is not None and get_ident() != self._owner):
            self._make_room()
        self._tail = (tail + 1) & U32
        return self._entries[tail & self._mask]

    def _make_room(self) -> None:
        """Learns what the kernel has consumed; raises if there is no room or no right."""
        if self._asks_kernel or (self._owner is not None and get_ident() != self._owner):
            head = self._check(lib.tu_counter(self._ring, lib.TU_SQ_HEAD), "get_sqe")
        else:
            head = self._sq_head[0]
        self._limit = (head + self._mask + 1) & U32
        if self._tail == self._limit:
            raise SubmissionQueueFull(f"all {self._mask + 1} entries are taken; submit first")

    def _need_room(self, count: int) -> None:
        """Raises unless ``count`` entries are free, and this thread may have them."""
        if count > (self._limit - self._tail) & U32 or (
            self._owner is not None and get_ident() != self._owner
        ):
            self._make_room()
            if count > (self._limit - self._tail) & U32:
                raise SubmissionQueueFull(f"no {count} entries are free; submit first")

    def put_sqes(self, entries: Buffer) -> None:
        """Takes copies of entries that were prepared before, to submit a batch again and again.

        ``entries`` are whole ones, as `bytes` makes them of an `Sqe`. What they point to is the
        caller's to keep until their final completions.

        Raises:
            SubmissionQueueFull: not all fit; none was taken.
            ValueError: they have not the size of this ring's entries.
        """
        rows = entries if type(entries) is bytes else memoryview(entries).cast("B")
        size, nbytes = self._sqe_bytes, len(rows)
        if nbytes % size:
            raise ValueError(f"an entry has {size} bytes; {nbytes} are not whole entries")
        self._need_room(nbytes // size)
        start = (self._tail & self._mask) * size
        until_end = len(self._rows) - start
        if nbytes <= until_end:
            self._rows[start : start + nbytes] = rows
        else:
            self._rows[start:] = rows[:until_end]
            self._rows[: nbytes - until_end] = rows[until_end:]
        self._tail = (self._tail + nbytes // size) & U32

    def get_sqe128(self) -> Sqe:
        """An entry of 128 bytes, for ``NOP128`` and ``URING_CMD128`` (6.19).

        On a ring with ``SQE128`` every entry is one; with ``SQE_MIXED`` it takes two places, and a
        NOP that posts no CQE fills the last place of the queue when the pair would wrap.
        """
        if not self.flags & (SetupFlag.SQE128 | SetupFlag.SQE_MIXED):
            raise ValueError("the ring was made without SQE128 or SQE_MIXED")
        mixed = not self.flags & SetupFlag.SQE128
        if mixed and self._tail & self._mask == self._mask:
            prep_nop(self.get_sqe(), 0, SqeFlag.CQE_SKIP_SUCCESS)
        first = self.get_sqe()
        try:
            if mixed:
                self.get_sqe()
        except SubmissionQueueFull:
            self._tail = (self._tail - 1) & U32
            raise
        second_half = first.at + SQE_BYTES
        first.memory[second_half : second_half + SQE_BYTES] = bytes(SQE_BYTES)
        return first

    def _lend(self, sqe: Sqe, *pins: Pin) -> Sqe:
        """Called by operation methods: the kernel uses ``pins`` until the operation has ended."""
        sqe.pins = pins
        self._lenders.append(sqe)
        return sqe

    def _move_pins(self) -> None:
        # Until the entries are known to the ledger, a CQE with their user_data proves nothing.
        for sqe in self._lenders:
            user_data, pins = sqe.user_data, sqe.pins
            if pins is not None:
                self._lending.add(user_data)
                self._pins.setdefault(user_data, []).append(pins)
                sqe.pins = None
        self._lenders.clear()

    def _settle(self, tail: int) -> None:
        """If the entries before ``tail`` were flushed, their CQEs count from now on."""
        if self._ring.flushed == tail:
            self._lending.clear()

    def _release_retired(self) -> None:
        """Lets go of the pins of operations that ended in the completions copied last."""
        ledger = self._ring.ledger
        retired: Any = ffi.unpack(ledger.retired, ledger.retired_count)
        for user_data in retired:
            if user_data not in self._lending and user_data not in self._foreign:
                self._pins.pop(user_data, None)
        if self._pins:
            self._release_idle()

    def _release_idle(self) -> None:
        """Lets go of what was kept past the end of its operation, once nothing is in flight.

        An exception came between, or a twin was prepared that was not submitted yet.
        """
        # A message from another ring (_foreign) may have been counted as the end of an operation.
        if not (self._ring.ledger.in_flight or self._lending or self._foreign):
            self._pins = {}

    # -- state ---------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Operations flushed to the kernel whose final CQE was not copied yet.

        One with ``CQE_SKIP_SUCCESS`` that succeeds is never seen to end.
        """
        return int(self._ring.ledger.in_flight)

    def _counter(self, which: int) -> int:
        return self._check(lib.tu_counter(self._ring, which), "the ring's counters")

    def _check(self, code: int, what: str) -> int:
        if code >= 0:
            return code
        if self._forked:
            raise ForkedRingError("the ring belongs to the parent process")
        raise error_of(code, what)

    def _register(self, opcode: int, arg: CData, count: int, what: str) -> int:
        return self._check(lib.tu_register(self._ring, opcode, arg, count), what)

    def _kill_entries(self) -> None:
        """No entry reaches the ring any more, not even a kept `Sqe`.

        A view that is in use at this very moment, by code that closes the ring from within an
        ``__index__``, cannot be released; it keeps the mapping.
        """
        dead = bytearray()
        for sqe in self._entries:
            sqe.memory = dead
            sqe.pins = None
        self._mapping = None
        for view in (self._sq_head, *self._columns.values(), self._rows):
            with suppress(BufferError):
                view.release()
        self._rows = memoryview(b"")
        self._columns = {}
        self._asks_kernel = True


def _closed_ring() -> Any:
    return ffi.new("struct tu_ring *", {"fd": -1})


def _checked_params(entries: int, flags: int, params: dict[str, int]) -> CData:
    """struct io_uring_params, or ValueError for what the kernel reserves."""
    if not 1 <= entries <= ENTRIES_MAX or entries & (entries - 1):
        raise ValueError(f"entries must be a power of two from 1 to {ENTRIES_MAX}, not {entries}")
    if flags & SetupFlag.SQ_REWIND:
        raise ValueError("SQ_REWIND is not offered: entries are prepared one by one here")
    settable = ("sq_thread_cpu", "sq_thread_idle", "cq_entries", "wq_fd")
    for name, value in params.items():
        if name not in settable and name not in ("sq_entries", "features", "resv"):
            raise TypeError(f"Ring() got an unexpected keyword argument {name!r}")
        if name not in settable and value:
            raise ValueError(f"{name} is reserved and must be 0")
    if params.get("cq_entries"):
        flags |= SetupFlag.CQSIZE
    if params.get("wq_fd") and not flags & SetupFlag.ATTACH_WQ:
        raise ValueError("wq_fd needs ATTACH_WQ")
    if flags & SetupFlag.CQSIZE and params.get("cq_entries", 0) < entries:
        raise ValueError("cq_entries must not be smaller than entries")
    given = {name: value for name, value in params.items() if name in settable}
    return ffi.new("struct tu_params *", {"flags": flags, "sq_thread_idle": 1000, **given})


def someone_is_inside() -> WrongThreadError:
    """For a call while `RingBase._inside`."""
    return WrongThreadError("another thread, or what a signal interrupted, is inside this ring")
