# SPDX-License-Identifier: MIT OR Apache-2.0
"""The C core alone: its counters across the u32 wrap, CQEs of both sizes, and the ledger.

The memory that a kernel would map is ordinary memory here, and nothing makes a system call.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import threading
from collections import Counter
from struct import Struct
from typing import TYPE_CHECKING, Any

import pytest

from trio_uring._lib import NULL, ffi, lib
from trio_uring.lowlevel import BIG_CQE, CQE, CqeFlag, Op, SetupFlag, SqeFlag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

U32 = 0xFFFF_FFFF
COUNTERS = (
    *("sq_head", "sq_tail", "sq_flags", "sq_dropped"),
    *("cq_head", "cq_tail", "cq_flags", "cq_overflow"),
)
# opcode, flags, user_data of an SQE
SQE = Struct("=BB30xQ24x")

# An emulated machine is 10 times slower.
STEPS = 300 if "KMATRIX_KERNEL" in os.environ else 2500

libc = ctypes.CDLL(None)
libc.calloc.restype = ctypes.c_void_p
libc.calloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]


def new_ring() -> Any:
    return ffi.new("struct tu_ring *")


class FakeRing:
    """A struct tu_ring over memory of the test, which plays the kernel."""

    def __init__(
        self, sq_entries: int = 4, cq_entries: int = 8, start: int = 0, flags: int = 0
    ) -> None:
        self.counters = ffi.new("uint32_t[8]")
        self.sqe_bytes = 128 if flags & SetupFlag.SQE128 else 64
        self.cqe_bytes = 32 if flags & SetupFlag.CQE32 else 16
        self.sqes = ffi.new("uint8_t[]", sq_entries * self.sqe_bytes)
        self.cqes = ffi.new("uint8_t[]", cq_entries * self.cqe_bytes)
        self.out = ffi.new("char[]", cq_entries * 32)
        self.c = new_ring()
        self.c.fd = os.open(os.devnull, os.O_RDWR)
        self.c.setup_flags = flags
        self.c.sq_entries, self.c.cq_entries = sq_entries, cq_entries
        self.c.sqe_bytes, self.c.cqe_bytes = self.sqe_bytes, self.cqe_bytes
        for place, name in enumerate(COUNTERS):
            setattr(self.c, name, self.counters + place)
        self.c.sqes, self.c.cqes = self.sqes, self.cqes
        for place in (0, 1, 4, 5):
            self.counters[place] = start
        self.c.flushed = self.tail = start
        ledger = self.c.ledger
        # tu_close frees these.
        ledger.entries = ffi.cast("struct tu_ledger_entry *", libc.calloc(16, 16))
        ledger.mask = 15
        ledger.retired = ffi.cast("uint64_t *", libc.calloc(cq_entries, 8))
        ledger.retired_max = cq_entries

    def close(self) -> None:
        if lib.tu_begin_exclusive(self.c) == 0:
            lib.tu_close(self.c)

    # What the caller does.

    def prepare(self, user_data: int, opcode: int = Op.NOP, flags: int = 0) -> None:
        at = (self.tail & (self.c.sq_entries - 1)) * self.sqe_bytes
        SQE.pack_into(ffi.buffer(self.sqes), at, opcode, flags, user_data)
        self.tail = (self.tail + 1) & U32

    def flush(self) -> int:
        return lib.tu_flush(self.c, self.tail)

    def copy(self, max_count: int = 1000) -> list[tuple[int, ...]]:
        count = lib.tu_copy_cqes(self.c, self.out, max_count, 0, -1)
        assert count >= 0
        return self._records(count)

    def peek(self, max_count: int = 1000) -> list[tuple[int, ...]]:
        return self._records(lib.tu_peek_cqes(self.c, self.out, max_count))

    def _records(self, count: int) -> list[tuple[int, ...]]:
        big = self.c.setup_flags & (SetupFlag.CQE32 | SetupFlag.CQE_MIXED)
        struct = BIG_CQE if big else CQE
        return list(struct.iter_unpack(ffi.buffer(self.out, count * struct.size)))

    # What the kernel does.

    def consume(self) -> list[int]:
        """user_data of the SQEs between head and tail."""
        taken = []
        while self.counters[0] != self.counters[1]:
            at = (self.counters[0] & (self.c.sq_entries - 1)) * self.sqe_bytes
            taken.append(SQE.unpack_from(ffi.buffer(self.sqes), at)[2])
            self.counters[0] = (self.counters[0] + 1) & U32
        return taken

    def post(self, user_data: int, res: int = 0, flags: int = 0, extra: bytes = b"") -> None:
        wide = 2 if flags & CqeFlag.F32 else 1
        free = self.c.cq_entries - ((self.counters[5] - self.counters[4]) & U32)
        assert wide <= free, "the completion queue is full"
        at = (self.counters[5] & (self.c.cq_entries - 1)) * self.cqe_bytes
        record = CQE.pack(user_data, res, flags) + extra
        ffi.buffer(self.cqes)[at : at + len(record)] = record
        self.counters[5] = (self.counters[5] + wide) & U32

    # The ledger.

    @property
    def in_flight(self) -> int:
        return int(self.c.ledger.in_flight)

    def retired(self) -> list[int]:
        ledger = self.c.ledger
        return [int(ledger.retired[i]) for i in range(ledger.retired_count)]

    def counts(self) -> Counter[int]:
        ledger = self.c.ledger
        entries = [ledger.entries[i] for i in range(ledger.mask + 1)]
        assert ledger.live == sum(entry.count > 0 for entry in entries)
        return Counter({int(e.user_data): int(e.count) for e in entries if e.count})


@pytest.fixture
def fake() -> Iterator[Callable[..., FakeRing]]:
    rings: list[FakeRing] = []

    def make(*args: int, **kwargs: int) -> FakeRing:
        rings.append(FakeRing(*args, **kwargs))
        return rings[-1]

    yield make
    for ring in rings:
        ring.close()


# -- counters --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sq_entries", [1, 2, 8])
def test_nothing_is_lost_when_the_counters_wrap(
    fake: Callable[..., FakeRing], sq_entries: int
) -> None:
    """SQEs reach the kernel and CQEs the caller, once each and in order, across 2**32."""
    ring = fake(sq_entries, 2 * sq_entries, start=U32 - 2 * sq_entries)
    expected = 0
    for _ in range(8):
        ids = list(range(expected, expected + sq_entries))
        expected += sq_entries
        for number in ids:
            ring.prepare(number)
        assert ring.flush() == sq_entries
        assert ring.consume() == ids
        assert ring.flush() == 0
        for number in ids:
            ring.post(number, -number)

        assert [record[:2] for record in ring.peek()] == [(n, -n) for n in ids]
        assert [record[:2] for record in ring.copy()] == [(n, -n) for n in ids]
        assert ring.copy() == []
        assert ring.in_flight == 0
    assert ring.counters[0] < 8 * sq_entries, "the counters did not wrap"
    assert lib.tu_counter(ring.c, lib.TU_SQ_TAIL) == ring.tail == ring.counters[5]


def test_the_counters_are_u32_wherever_they_stand(fake: Callable[..., FakeRing]) -> None:
    """A counter of 2**31 or more is no negative number, and no error."""
    ring = fake(4, 8, start=U32)
    assert lib.tu_counter(ring.c, lib.TU_SQ_HEAD) == U32
    assert lib.tu_counter(ring.c, lib.TU_CQ_TAIL) == U32
    assert lib.tu_counter(ring.c, 99) == -errno.EINVAL


def test_flush_counts_what_earlier_flushes_left(fake: Callable[..., FakeRing]) -> None:
    """The kernel has consumed nothing yet: flushing again counts the old SQEs and the new."""
    ring = fake(4, 8, start=U32 - 1)
    for number in range(4):
        ring.prepare(number)
        assert ring.flush() == number + 1
    assert ring.flush() == 4
    assert ring.in_flight == 4


def test_a_tail_that_is_not_ahead_is_refused(fake: Callable[..., FakeRing]) -> None:
    """A flush of more SQEs than the queue has, or of less than none, changes nothing."""
    ring = fake(4, 8)
    assert lib.tu_flush(ring.c, 5) == -errno.EINVAL
    assert lib.tu_flush(ring.c, U32) == -errno.EINVAL
    assert ring.counters[1] == 0
    assert ring.in_flight == 0


def test_partial_copies_take_up_where_the_last_ended(fake: Callable[..., FakeRing]) -> None:
    """CQEs come in order when they are copied a few at a time across the wrap."""
    ring = fake(4, 8, start=U32 - 3)
    for number in range(8):
        ring.post(number)
    copied = [ring.copy(3), ring.copy(3), ring.copy(3)]

    assert [[record[0] for record in part] for part in copied] == [[0, 1, 2], [3, 4, 5], [6, 7]]


def test_peeking_consumes_nothing_and_advancing_copies_nothing(
    fake: Callable[..., FakeRing],
) -> None:
    """A peek leaves the head and the ledger alone; an advance moves both."""
    ring = fake(4, 8, start=U32)
    for number in (7, 8):
        ring.prepare(number)
    ring.flush()
    ring.consume()
    ring.post(7)
    ring.post(8)

    assert [record[0] for record in ring.peek(1)] == [7]
    assert ring.in_flight == 2
    assert lib.tu_advance(ring.c, 1) == 1
    assert ring.retired() == [7]
    assert [record[0] for record in ring.peek()] == [8]
    assert lib.tu_advance(ring.c, 5) == 1
    assert ring.in_flight == 0


# -- CQEs of both sizes ----------------------------------------------------------------------------


def test_big_cqes_are_copied_whole(fake: Callable[..., FakeRing]) -> None:
    """On a CQE32 ring each record has its 32 bytes, across the wrap of the counters."""
    ring = fake(2, 4, start=U32 - 1, flags=SetupFlag.CQE32)
    for number in range(4):
        ring.post(number, extra=Struct("=QQ").pack(number + 10, number + 20))

    assert ring.copy() == [(n, 0, 0, n + 10, n + 20) for n in range(4)]


def test_a_mixed_ring_gives_records_of_one_size(fake: Callable[..., FakeRing]) -> None:
    """With CQE_MIXED small CQEs are padded with zeroes, big ones take two places, gaps none."""
    ring = fake(2, 8, start=U32 - 6, flags=SetupFlag.CQE_MIXED)
    big, skip = CqeFlag.F32, CqeFlag.SKIP
    ffi.memmove(ring.out, b"\xff" * len(ring.out), len(ring.out))
    ring.post(1)
    ring.post(2, flags=big, extra=Struct("=QQ").pack(3, 4))
    ring.post(3)
    ring.post(4)
    ring.post(5)
    ring.post(0, flags=skip)
    expected = [(1, 0, 0, 0, 0), (2, 0, big, 3, 4), *((n, 0, 0, 0, 0) for n in (3, 4, 5))]

    assert ring.peek() == expected
    assert ring.copy() == expected
    ring.post(6, flags=big, extra=Struct("=QQ").pack(7, 8))
    assert ring.copy() == [(6, 0, big, 7, 8)]
    assert ring.counters[4] == ring.counters[5]


def test_a_big_cqe_without_its_second_half_does_not_lead_past_the_tail(
    fake: Callable[..., FakeRing],
) -> None:
    """A kernel that publishes one place of a big CQE is not believed to have published two."""
    ring = fake(2, 4, flags=SetupFlag.CQE_MIXED)
    ring.post(1, flags=CqeFlag.F32, extra=bytes(16))
    ring.counters[5] = 1

    assert [record[0] for record in ring.copy()] == [1]
    assert ring.counters[4] == 1


def test_a_gap_alone_is_no_completion(fake: Callable[..., FakeRing]) -> None:
    """A CQE that only fills the end of the queue is consumed, and counts as nothing."""
    ring = fake(2, 4, flags=SetupFlag.CQE_MIXED)
    ring.post(0, flags=CqeFlag.SKIP)

    assert ring.copy() == []
    assert ring.counters[4] == 1


# -- SQEs of both sizes ----------------------------------------------------------------------------


def test_a_big_sqe_in_a_mixed_queue_is_one_operation(fake: Callable[..., FakeRing]) -> None:
    """With SQE_MIXED the second half of an SQE of 128 bytes is not taken for an operation."""
    ring = fake(8, 8, flags=SetupFlag.SQE_MIXED)
    ring.prepare(5, Op.NOP128)
    ring.prepare(999)
    ring.prepare(6)
    ring.flush()

    assert ring.counts() == {5: 1, 6: 1}


def test_a_big_sqe_in_the_last_place_is_one_that_the_kernel_refuses(
    fake: Callable[..., FakeRing],
) -> None:
    """It cannot wrap: the kernel fails it alone, so what follows it is an operation."""
    ring = fake(2, 8, start=1, flags=SetupFlag.SQE_MIXED)
    ring.prepare(5, Op.URING_CMD128)
    ring.prepare(6)
    ring.flush()

    assert ring.counts() == {5: 1, 6: 1}


def test_entries_of_128_bytes_are_each_an_operation(fake: Callable[..., FakeRing]) -> None:
    """On an SQE128 ring the user_data is found at every 128 bytes."""
    ring = fake(4, 8, flags=SetupFlag.SQE128)
    for number in range(4):
        ring.prepare(number)
    ring.flush()

    assert ring.counts() == {0: 1, 1: 1, 2: 1, 3: 1}


# -- the ledger ------------------------------------------------------------------------------------


def test_a_user_data_retires_with_its_last_operation(fake: Callable[..., FakeRing]) -> None:
    """Three SQEs with one user_data: it is retired by the third final CQE, and once."""
    ring = fake()
    for _ in range(3):
        ring.prepare(9)
    ring.flush()
    ring.consume()
    for expected in ([], [], [9]):
        ring.post(9)
        ring.copy()
        assert ring.retired() == expected


def test_only_a_final_cqe_ends_an_operation(fake: Callable[..., FakeRing]) -> None:
    """A CQE with F_MORE promises another one."""
    ring = fake()
    ring.prepare(9)
    ring.flush()
    ring.post(9, flags=CqeFlag.MORE)
    ring.copy()
    assert (ring.in_flight, ring.retired()) == (1, [])

    ring.post(9, flags=CqeFlag.NOTIF)
    ring.copy()
    assert (ring.in_flight, ring.retired()) == (0, [9])


def test_a_cqe_of_no_operation_changes_nothing(fake: Callable[..., FakeRing]) -> None:
    """A message from another ring may carry any user_data."""
    ring = fake()
    ring.prepare(9)
    ring.flush()
    ring.post(10)
    ring.post(0)
    ring.copy()

    assert (ring.in_flight, ring.retired()) == (1, [])


def test_an_expected_completion_counts_as_an_operation(fake: Callable[..., FakeRing]) -> None:
    """tu_expect: the tag of a registered resource, and an operation of the same user_data."""
    ring = fake()
    assert lib.tu_expect(ring.c, 9) == 0
    ring.prepare(9)
    ring.flush()
    ring.post(9)
    ring.copy()
    assert ring.retired() == []

    ring.post(9)
    ring.copy()
    assert ring.retired() == [9]


def test_what_may_end_silently_is_counted(fake: Callable[..., FakeRing]) -> None:
    """SQEs with CQE_SKIP_SUCCESS, and those in a chain behind one: its failure hides theirs."""
    skip, link = SqeFlag.CQE_SKIP_SUCCESS, SqeFlag.IO_LINK
    ring = fake(8, 16)
    for number, flags in enumerate([0, skip, skip | link, link, 0, link, 0]):
        ring.prepare(number, flags=flags)
    ring.flush()

    assert (ring.in_flight, ring.c.ledger.silent) == (7, 4)


def test_no_more_is_copied_than_the_retired_list_can_hold(fake: Callable[..., FakeRing]) -> None:
    """After the completion queue has grown, copies are as large as it was."""
    ring = fake(8, 8)
    ring.c.ledger.retired_max = 2
    for number in range(5):
        ring.prepare(number)
    ring.flush()
    for number in range(5):
        ring.post(number)

    assert [(len(ring.copy()), ring.retired()) for _ in range(3)] == [
        (2, [0, 1]),
        (2, [2, 3]),
        (1, [4]),
    ]


def _same_home(count: int) -> list[int]:
    """user_data that the ledger would all put in one place, the last of a table of 16."""
    found: list[int] = []
    number = 0
    while len(found) < count:
        if ((number * 0x9E37_79B9_7F4A_7C15) >> 32) & 0xFFF == 0xFFF:
            found.append(number)
        number += 1
    return found


@pytest.mark.parametrize(
    "pool",
    [
        range(6),
        [0, 1 << 63, (1 << 64) - 1, 1 << 32, 2 << 32],
        _same_home(5),
        range(0, 4000 << 32, 1 << 32),
    ],
    ids=["few", "edges", "collisions", "many"],
)
def test_the_ledger_counts_like_a_counter(
    fake: Callable[..., FakeRing], pool: range | list[int]
) -> None:
    """After any sequence of SQEs and CQEs the ledger and a model agree, on what retired too."""
    ring = fake(32, 64, start=U32 - 50)
    rng = random.Random(1)
    model: Counter[int] = Counter()
    for step in range(STEPS):
        # The number in flight swings between few and many.
        more = rng.randrange(33) if step // 100 % 2 else rng.randrange(8)
        for user_data in rng.choices(pool, k=more):
            ring.prepare(user_data)
            model[user_data] += 1
        assert ring.flush() == more
        ring.consume()
        ending = min(rng.randrange(20 if step // 100 % 2 else 64), model.total())
        before = set(model)
        for user_data in rng.sample(list(model.elements()), ending):
            ring.post(user_data)
            model[user_data] -= 1
        model += Counter()
        ring.copy()
        assert sorted(ring.retired()) == sorted(before - set(model))
        assert ring.in_flight == model.total()
        if step % 50 == 0:
            assert ring.counts() == model
    assert ring.counts() == model


# -- one thread at a time --------------------------------------------------------------------------


def _calls(ring: FakeRing) -> list[int]:
    return [
        lib.tu_counter(ring.c, lib.TU_SQ_HEAD),
        lib.tu_flush(ring.c, 0),
        lib.tu_enter(ring.c, 0, 0, 0, -1),
        lib.tu_submit(ring.c, 0, 0),
        lib.tu_copy_cqes(ring.c, ring.out, 1, 0, -1),
        lib.tu_submit_and_copy(ring.c, 0, 0, -1, ring.out, 1),
        lib.tu_peek_cqes(ring.c, ring.out, 1),
        lib.tu_advance(ring.c, 1),
        lib.tu_register(ring.c, 0, NULL, 0),
        lib.tu_set_eventfd_muted(ring.c, 1),
        lib.tu_expect(ring.c, 1),
        lib.tu_remap(ring.c, NULL),
    ]


def test_every_call_is_refused_while_another_is_inside(fake: Callable[..., FakeRing]) -> None:
    """EDEADLK, and the one who is inside stays so."""
    ring = fake()
    assert lib.tu_begin_exclusive(ring.c) == 0
    assert set(_calls(ring)) == {-errno.EDEADLK}
    lib.tu_end_exclusive(ring.c)

    assert lib.tu_counter(ring.c, lib.TU_SQ_HEAD) == 0


def test_every_call_is_refused_after_close(fake: Callable[..., FakeRing]) -> None:
    """ESHUTDOWN, and closing again does nothing."""
    ring = fake()
    ring.close()
    assert set(_calls(ring)) == {-errno.ESHUTDOWN}
    ring.close()

    assert ring.c.fd == -1


def test_every_call_of_a_foreign_thread_is_refused(fake: Callable[..., FakeRing]) -> None:
    """EREMOTE once a thread has claimed the ring; that thread goes on, and anyone may close."""
    ring = fake()
    lib.tu_claim(ring.c)
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.extend(_calls(ring)))
    thread.start()
    thread.join()
    assert set(answers) == {-errno.EREMOTE}
    assert lib.tu_counter(ring.c, lib.TU_SQ_HEAD) == 0

    thread = threading.Thread(target=ring.close)
    thread.start()
    thread.join()
    assert ring.c.fd == -1
