# SPDX-License-Identifier: MIT OR Apache-2.0
"""Parity with the first IO_Uring of the Zig standard library (2020): rows A1 to A26, A39 to A42."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import threading
import time
from pathlib import Path
from struct import Struct
from typing import Any

import pytest
from ring_help import WAIT_S, a_pipe, open_ring, run_one, wait_cqes

from trio_uring._errors import CLOSED, IN_USE, check
from trio_uring._lib import ffi
from trio_uring._queue import _checked_params
from trio_uring.lowlevel import (
    CQE,
    Cqe,
    EnterFlag,
    Feature,
    Ring,
    RingClosedError,
    SetupFlag,
    Sqe,
    SqeFlag,
    SqFlag,
    SubmissionQueueFull,
    WrongThreadError,
)

# "queue_accept" and its kin lost their prefix in newer versions of Zig; deinit is close.
METHODS = [
    *("get_sqe", "submit", "submit_and_wait", "enter", "flush_sq", "sq_ring_needs_enter", "close"),
    *("sq_ready", "cq_ready", "copy_cqes", "copy_cqe", "cq_ring_needs_flush", "cqe_seen"),
    *("cq_advance", "register_files", "unregister_files"),
    *("accept", "fsync", "nop", "read", "write", "readv", "writev"),
]

OFF_SQ_RING, OFF_CQ_RING, OFF_SQES = 0, 0x8000000, 0x10000000


def ring_mappings() -> set[tuple[str, ...]]:
    """Addresses, rights and offset of each mapping of a ring in this process."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {tuple(line.split()[:3]) for line in lines if line.endswith("anon_inode:[io_uring]")}


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


# -- set-up and close ------------------------------------------------------------------------------


def test_the_ring_has_every_method_of_the_first_io_uring() -> None:
    """A1, A6: what that commit brought can be called on `Ring`, under the newer names."""
    missing = [name for name in METHODS if not callable(getattr(Ring, name, 0))]
    assert missing == []


def test_the_kernels_structures_have_the_kernels_sizes() -> None:
    """A2: params are 120 bytes, an entry 64, a completion 16."""
    assert ffi.sizeof("struct tu_params") == 120
    assert len(bytes(Sqe())) == 64
    assert CQE.size == 16


def test_the_queues_are_at_the_three_mmap_offsets() -> None:
    """A3: entries are mapped at 0x10000000, both rings at 0 and, the same memory, at 0x8000000."""
    with open_ring(1) as ring:
        ring.nop(0xABCDEF)
        with (
            mmap.mmap(ring.fd, 4096, offset=OFF_SQES) as sqes,
            mmap.mmap(ring.fd, 4096, offset=OFF_SQ_RING) as sq_ring,
            mmap.mmap(ring.fd, 4096, offset=OFF_CQ_RING) as cq_ring,
        ):
            assert Struct("=Q").unpack_from(sqes, 32) == (0xABCDEF,)
            before = sq_ring[:]
            assert run_one(ring).user_data == 0xABCDEF
            assert sq_ring[:] == cq_ring[:] != before


def test_an_entry_is_flat_and_starts_as_zeroes() -> None:
    """A4: each field has one place and no union; all are 0 until set."""
    fields = [
        *("opcode", "flags", "ioprio", "fd", "off", "addr", "len", "op_flags", "user_data"),
        *("buf_index", "personality", "splice_fd_in", "addr3", "pad"),
    ]
    sqe = Sqe()
    assert [getattr(sqe, name) for name in fields] == [0] * len(fields)
    for value, name in enumerate(fields, 1):
        setattr(sqe, name, value)
    assert Struct("=BBHiQQIIQHHiQQ").unpack(bytes(sqe)) == tuple(range(1, len(fields) + 1))


def test_completions_that_do_not_fit_are_announced_and_fetched() -> None:
    """A5, A25: bit 1 of the SQ flags is set while completions wait for room (5.8), then cleared."""
    with open_ring(2) as ring:
        if not ring.features & Feature.NODROP:
            pytest.skip("completions that do not fit are lost here (before 5.5)")
        for user_data in range(1, ring.cq.entries + 2):
            ring.nop(user_data)
            assert ring.submit() == 1
        assert ring.sq.flags & (1 << 1)
        assert ring.cq_ring_needs_flush()
        cqes = wait_cqes(ring, ring.cq.entries + 1)
        assert [cqe.user_data for cqe in cqes] == list(range(1, ring.cq.entries + 2))
        assert not ring.cq_ring_needs_flush()
        assert ring.cq.overflow == 0


@pytest.mark.parametrize("entries", [0, -1, 3, 8192])
def test_a_size_that_is_no_power_of_two_up_to_4096_is_a_value_error(entries: int) -> None:
    """A7: the check comes before the system call."""
    with pytest.raises(ValueError, match="power of two"):
        Ring(entries)


@pytest.mark.parametrize("entries", [1, 2, 1024])
def test_a_new_ring_is_empty(entries: int) -> None:
    """A6, A7, A11, A12: sizes as asked for, completions at least as many, all counters at 0."""
    with open_ring(entries) as ring:
        sq, cq = ring.sq, ring.cq
        assert ring.fd >= 0
        assert ring.flags == 0
        assert (sq.entries, sq.mask) == (entries, entries - 1)
        assert cq.entries >= sq.entries > 0
        assert cq.mask == cq.entries - 1
        assert (sq.head, sq.tail, sq.sqe_head, sq.sqe_tail, sq.dropped) == (0, 0, 0, 0, 0)
        assert (cq.head, cq.tail, cq.overflow, cq.cqes) == (0, 0, 0, [])
        assert (ring.sq_ready(), ring.cq_ready()) == (0, 0)


def test_the_kernel_decides_the_final_sizes() -> None:
    """A7, A8: a completion queue of 5 becomes one of 8."""
    with open_ring(4, cq_entries=5) as ring:
        assert (ring.sq.entries, ring.cq.entries) == (4, 8)


def test_the_submission_thread_idles_after_a_second_unless_told_otherwise() -> None:
    """A7, A8: sq_thread_idle is 1000 ms by default and can be set."""
    default: Any = _checked_params(1, 0, {})
    chosen: Any = _checked_params(1, 0, {"sq_thread_idle": 7})
    assert (default.sq_thread_idle, chosen.sq_thread_idle) == (1000, 7)


@pytest.mark.parametrize("name", ["sq_entries", "features", "resv", "wq_fd"])
def test_a_reserved_parameter_is_a_value_error(name: str) -> None:
    """A8: only flags, sq_thread_cpu, sq_thread_idle, and sizes with their flag, may be set."""
    before = descriptors()
    with pytest.raises(ValueError, match=name):
        Ring(1, **{name: 1})
    assert descriptors() == before


def test_what_set_up_refuses_is_an_os_error_with_the_errno() -> None:
    """A9: DEFER_TASKRUN without SINGLE_ISSUER is EINVAL on every kernel; no descriptor is left."""
    before = descriptors()
    open_ring(1).close()
    with pytest.raises(OSError, match="io_uring_setup") as refusal:
        Ring(1, SetupFlag.DEFER_TASKRUN)
    assert refusal.value.errno == errno.EINVAL
    assert descriptors() == before


def test_a_ring_that_cannot_be_mapped_leaves_no_descriptor() -> None:
    """A9: after a set-up that went well, a failing mmap closes the descriptor again."""
    open_ring(4096).close()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = descriptors()
    # The queues of 4096 entries are larger than what the limit leaves.
    resource.setrlimit(resource.RLIMIT_AS, (pages * mmap.PAGESIZE + (128 << 10), hard))
    try:
        with pytest.raises(OSError, match="memory") as refusal:
            Ring(4096)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert refusal.value.errno == errno.ENOMEM
    assert descriptors() == before


def test_both_queues_are_one_mapping_and_close_removes_all() -> None:
    """A10, A13, A39, A40: the rings at offset 0, the entries at 0x10000000; none after close."""
    before = ring_mappings()
    ring = open_ring(8)
    fd = ring.fd
    assert ring.features & Feature.SINGLE_MMAP
    rights = sorted((mapping[1], int(mapping[2], 16)) for mapping in ring_mappings() - before)
    assert rights == [("rw-s", OFF_SQ_RING), ("rw-s", OFF_SQES)]
    ring.close()
    ring.close()
    assert ring.fd == -1
    assert ring_mappings() == before
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_every_errno_becomes_its_exception_in_one_place() -> None:
    """A41: `check` passes results on and turns negative ones into exceptions."""
    assert check(3, "a call") == 3
    with pytest.raises(PermissionError, match="a call"):
        check(-errno.EPERM, "a call")
    with pytest.raises(RingClosedError):
        check(CLOSED, "a call")
    with pytest.raises(WrongThreadError):
        check(IN_USE, "a call")


# -- submission ------------------------------------------------------------------------------------


def test_a_full_queue_is_an_exception_and_never_none() -> None:
    """A14: get_sqe raises SubmissionQueueFull; after a submit there is room again."""
    with open_ring(2) as ring:
        ring.nop(1)
        ring.nop(2)
        with pytest.raises(SubmissionQueueFull):
            ring.get_sqe()
        assert ring.submit() == 2
        assert ring.get_sqe() is not None


def test_counters_are_right_when_they_pass_four_billion() -> None:
    """A14, A18, A20, A21, A23: every difference of counters is taken modulo 2**32."""
    # The kernel counts from 0 only: memory of ours stands for the shared queues.
    start, names = 0xFFFFFFFF, ("sq_head", "sq_tail", "cq_head", "cq_tail")
    memory, cqes = ffi.new("uint32_t[]", [start] * 4), ffi.new("uint8_t[]", 4 * CQE.size)
    with open_ring(2) as ring:
        shared = ring._ring
        real = {name: getattr(shared, name) for name in (*names, "cqes")}
        for at, name in enumerate(names):
            setattr(shared, name, memory + at)
        shared.cqes, shared.flushed = cqes, start
        ring._tail, ring._limit = start, start
        ring._asks_kernel = True
        try:
            ring.nop(1)
            ring.nop(2)
            assert ring.sq_ready() == 2
            with pytest.raises(SubmissionQueueFull):
                ring.nop(3)
            assert ring.flush_sq() == 2
            assert ring.sq.tail == ring.sq.sqe_tail == 1
            memory[0] = 1
            assert ring.sq_ready() == 0
            CQE.pack_into(ffi.buffer(cqes), (start & 3) * CQE.size, 1, 0, 0)
            CQE.pack_into(ffi.buffer(cqes), 0, 2, 0, 0)
            memory[3] = 1
            assert ring.cq_ready() == 2
            assert ring.copy_cqes(8) == [(1, 0, 0), (2, 0, 0)]
            assert ring.cq.head == 1
        finally:
            for name, pointer in real.items():
                setattr(shared, name, pointer)
            shared.flushed = 0
            ring._tail, ring._limit = 0, 2


def test_submit_is_submit_and_wait_for_none() -> None:
    """A15: both return how many entries the kernel took, 0 if there are none."""
    with open_ring(4) as ring:
        assert ring.submit() == 0
        ring.nop(1)
        ring.nop(2)
        assert ring.submit() == 2
        ring.nop(3)
        assert ring.submit_and_wait(0) == 1


def test_submit_and_wait_returns_when_the_completions_are_there() -> None:
    """A16: it blocks until a read of an empty pipe has got its byte from another thread."""
    with a_pipe() as (reader, writer), open_ring(1) as ring:
        ring.read(1, reader, bytearray(1), 0)
        other = threading.Thread(target=os.write, args=(writer, b"x"))
        other.start()
        assert ring.submit_and_wait(1) == 1
        assert ring.cq_ready() == 1
        other.join()
        assert ring.copy_cqe() == (1, 1, 0)


def test_a_polled_ring_completes_what_it_is_given() -> None:
    """A16: with IOPOLL a submit asks for completions; not every kernel allows a nop."""
    with open_ring(1, SetupFlag.IOPOLL) as ring:
        ring.nop(7)
        assert run_one(ring) in [(7, 0, 0), (7, -errno.EINVAL, 0)]


def test_enter_is_the_raw_system_call() -> None:
    """A17: it takes what was flushed and waits as told; its errno becomes an OSError."""
    with open_ring(2) as ring:
        ring.nop(1)
        assert ring.flush_sq() == 1
        assert ring.enter(1, 1, EnterFlag.GETEVENTS) == 1
        assert ring.cq_ready() == 1
        with pytest.raises(OSError, match="Invalid argument"):
            ring.enter(0, 0, 1 << 31)


def test_flush_returns_everything_that_is_pending() -> None:
    """A18, A20: entries of an earlier flush count until the kernel has taken them."""
    with open_ring(4) as ring:
        ring.nop(1)
        assert ring.flush_sq() == 1
        assert (ring.sq.sqe_head, ring.sq.tail) == (1, 1)
        ring.nop(2)
        assert ring.sq_ready() == 2
        assert ring.flush_sq() == 2
        assert (ring.sq.sqe_head, ring.sq.tail, ring.sq.head) == (2, 2, 0)
        assert ring.submit() == 2
        assert ring.sq_ready() == 0


def test_a_ring_without_a_submission_thread_always_needs_to_enter() -> None:
    """A19: and without further flags."""
    with open_ring(1) as ring:
        ring.nop(1)
        ring.flush_sq()
        assert ring.sq_ring_needs_enter() == (True, 0)


def test_a_ring_with_an_awake_submission_thread_needs_no_enter() -> None:
    """A19: the thread takes the entry by itself."""
    with open_ring(1, SetupFlag.SQPOLL, sq_thread_idle=600_000) as ring:
        ring.nop(1)
        assert ring.submit() == 1
        assert wait_cqes(ring, 1) == [(1, 0, 0)]
        assert ring.sq_ring_needs_enter() == (False, 0)


def test_a_sleeping_submission_thread_is_woken_by_submit() -> None:
    """A7, A19: after sq_thread_idle ms it asks for a wake-up, by NEED_WAKEUP."""
    with open_ring(1, SetupFlag.SQPOLL, sq_thread_idle=1) as ring:
        deadline = time.monotonic() + WAIT_S
        while not ring.sq.flags & SqFlag.NEED_WAKEUP:
            assert time.monotonic() < deadline
            os.sched_yield()
        assert ring.sq_ring_needs_enter() == (True, EnterFlag.SQ_WAKEUP)
        ring.nop(1)
        assert ring.submit() == 1
        assert wait_cqes(ring, 1) == [(1, 0, 0)]


# -- completion ------------------------------------------------------------------------------------


def test_copied_completions_are_consumed_and_stay_as_they_are() -> None:
    """A21, A22: copied by value, at once if any are there, and with no cqe_seen to call."""
    with open_ring(2) as ring:
        assert ring.copy_cqes(8) == []
        ring.nop(1)
        assert ring.submit() == 1
        assert ring.cq_ready() == 1
        # The wait is for two, but there is one already.
        first = ring.copy_cqes(8, 2)
        assert ring.cq_ready() == 0
        for user_data in range(2, 8):
            ring.nop(user_data)
            assert run_one(ring).user_data == user_data
        assert first == [Cqe(1, 0, 0)]


def test_a_batch_of_completions_may_wrap_around_the_queue() -> None:
    """A22, A23: the order is kept, and the head moves by the whole batch."""
    with open_ring(2) as ring:
        for user_data in (1, 2, 3):
            ring.nop(user_data)
            run_one(ring)
        for user_data in (4, 5, 6, 7):
            ring.nop(user_data)
            assert ring.submit() == 1
        assert ring.cq.entries == ring.cq_ready() == 4
        assert [cqe.user_data for cqe in ring.copy_cqes(3)] == [4, 5, 6]
        assert ring.cq.head == 6
        assert [cqe.user_data for cqe in ring.copy_cqes(8)] == [7]
        assert ring.cq.head == ring.cq.tail == 7


def test_copy_cqe_takes_exactly_one() -> None:
    """A24: the second completion stays in the queue."""
    with open_ring(2) as ring:
        ring.nop(1)
        ring.nop(2)
        assert ring.submit() == 2
        assert ring.copy_cqe() == (1, 0, 0)
        assert ring.cq_ready() == 1
        assert ring.copy_cqe() == (2, 0, 0)


def test_completions_read_in_place_are_consumed_once_each() -> None:
    """A26: cqe_seen and cq_advance consume anew at every call, and never more than there are."""
    with open_ring(4) as ring:
        for user_data in (1, 2, 3, 4):
            ring.nop(user_data)
        assert ring.submit() == 4
        first, *others = ring.cq.cqes
        assert [cqe.user_data for cqe in (first, *others)] == [1, 2, 3, 4]
        ring.cqe_seen(first)
        ring.cqe_seen(first)
        assert [cqe.user_data for cqe in ring.cq.cqes] == [3, 4]
        ring.cq_advance(2)
        assert ring.cq_ready() == 0
        with pytest.raises(ValueError, match="more completions"):
            ring.cq_advance(1)


# -- the first of the four test scenarios; the others are in test_zig_operations.py ----------------


def test_scenario_nop() -> None:
    """A13, A42: exact bytes of the entry, counters before and after, then a nop as a barrier."""
    ring = open_ring(1)
    sqe = ring.nop(0xAAAAAAAA)
    assert bytes(sqe) == bytes(32) + (0xAAAAAAAA).to_bytes(8, "little") + bytes(24)
    assert (ring.sq.sqe_head, ring.sq.sqe_tail, ring.sq.tail, ring.cq.head) == (0, 1, 0, 0)
    assert (ring.sq_ready(), ring.cq_ready()) == (1, 0)

    assert ring.submit() == 1
    assert (ring.sq.sqe_head, ring.sq.sqe_tail, ring.sq.tail, ring.cq.head) == (1, 1, 1, 0)
    assert ring.sq_ready() == 0
    assert ring.copy_cqe() == Cqe(0xAAAAAAAA, 0, 0)
    assert (ring.cq.head, ring.cq_ready()) == (1, 0)

    assert ring.nop(0xBBBBBBBB).drain_previous().flags == SqeFlag.IO_DRAIN
    assert ring.submit() == 1
    assert ring.copy_cqe() == Cqe(0xBBBBBBBB, 0, 0)
    assert (ring.sq.sqe_head, ring.sq.sqe_tail, ring.sq.tail, ring.cq.head) == (2, 2, 2, 2)
    ring.close()
    assert ring.fd == -1
