# SPDX-License-Identifier: MIT OR Apache-2.0
"""One ring's memory: its entries, the threads that may touch them, and what the kernel borrows.

Ownership. An operation method leaves what the kernel will use (``pins``) on the entry that it
filled. Submitting moves the pins to the ring, under the entry's user_data; the ledger of the C core
says when the last operation of that user_data has had its final CQE, and only then are they let go.
"""

from __future__ import annotations

from functools import partial
from struct import Struct
from threading import get_ident
from typing import TYPE_CHECKING, Any, NamedTuple

from ._abi import SetupFlag, SqeFlag
from ._errors import ForkedRingError, SubmissionQueueFull, WrongThreadError, check, error_of
from ._lib import CData, ffi, lib
from ._prep import prep_nop
from ._sqe import SQE_BYTES, Sqe

if TYPE_CHECKING:
    from collections.abc import Callable

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

    fd: int = -1
    """The ring's file descriptor; -1 once it is closed."""

    def __init__(self, entries: int, flags: int = 0, **params: int) -> None:
        kernel_params = _checked_params(entries, flags, params)
        self._forked = False
        # A thread is in a call that reads results of the C core.
        self._inside = False
        self._tail = self._limit = 0
        self._entries: list[Sqe] = []
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
        # While closing: user_data of the cancel requests, and whether each names one operation.
        self._cancel_id = -1
        self._cancel_singly = False
        self._ring = _closed_ring()
        check(lib.tu_setup(self._ring, entries, kernel_params, 1), "io_uring_setup")
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
        self._copied = ffi.new("char[]", int(ring.cq_entries) * self._cqe_struct.size)
        self._copied_view = memoryview(ffi.buffer(self._copied))
        self._copy_max = int(ring.cq_entries)
        memory = ffi.buffer(ring.sqes, ring.sq_entries * ring.sqe_bytes)
        self._entries = [Sqe(memory, i * ring.sqe_bytes) for i in range(ring.sq_entries)]
        self._limit = (lib.tu_counter(ring, lib.TU_SQ_HEAD) + ring.sq_entries) & U32

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
        head = self._check(lib.tu_counter(self._ring, lib.TU_SQ_HEAD), "get_sqe")
        if self._owner is not None and get_ident() != self._owner:
            raise WrongThreadError("this SINGLE_ISSUER ring belongs to another thread")
        self._limit = (head + self._mask + 1) & U32
        if self._tail == self._limit:
            raise SubmissionQueueFull(f"all {self._mask + 1} entries are taken; submit first")

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
        """Their memory is unmapped next: not even a kept `Sqe` may reach it."""
        dead = bytearray()
        for sqe in self._entries:
            sqe.memory = dead
            sqe.pins = None


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
