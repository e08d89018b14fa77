# SPDX-License-Identifier: MIT OR Apache-2.0
"""Rings of every kind that io_uring_setup(2) offers; what a kernel has not is skipped."""

from __future__ import annotations

import errno
import os
import random
import select
import threading
from typing import TYPE_CHECKING, Any

import pytest
from ring_help import WAIT_S, a_pipe, open_ring, run_one, wait_cqes

from trio_uring.lowlevel import (
    BigCqe,
    Cqe,
    EnterFlag,
    NopFlag,
    Ring,
    RingClosedError,
    SetupFlag,
    SqeFlag,
    SqFlag,
    SubmissionQueueFull,
    WrongThreadError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

DEFER = SetupFlag.SINGLE_ISSUER | SetupFlag.DEFER_TASKRUN
# What the kernel asks for besides the flag itself.
NEEDS = {
    SetupFlag.SQ_AFF: SetupFlag.SQPOLL,
    SetupFlag.TASKRUN_FLAG: SetupFlag.COOP_TASKRUN,
    SetupFlag.DEFER_TASKRUN: SetupFlag.SINGLE_ISSUER,
    SetupFlag.REGISTERED_FD_ONLY: SetupFlag.NO_MMAP,
    SetupFlag.HYBRID_IOPOLL: SetupFlag.IOPOLL,
}
# Each of these needs something else, and has its own test.
ELSEWHERE = SetupFlag.ATTACH_WQ | SetupFlag.R_DISABLED | SetupFlag.SQ_REWIND | SetupFlag.CQSIZE


def ring_with(flags: SetupFlag, entries: int = 4, **params: int) -> Ring:
    """A ring with ``flags``, or a skip that says that this kernel has them not."""
    try:
        return open_ring(entries, flags, **params)
    except OSError as exc:
        if exc.errno == errno.EINVAL:
            pytest.skip(f"this kernel has no rings with {flags!r}: EINVAL")
        raise


def in_a_thread(call: Callable[[], object]) -> object:
    """The result of ``call`` in another thread, or its exception, raised."""
    results: list[tuple[object, BaseException | None]] = []

    def run() -> None:
        try:
            results.append((call(), None))
        except BaseException as exc:
            results.append((None, exc))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    ((result, error),) = results
    if error is not None:
        raise error
    return result


def wait_for(condition: Callable[[], object]) -> None:
    """For what another thread of the kernel does without an event."""
    expired = threading.Event()
    timer = threading.Timer(WAIT_S, expired.set)
    timer.start()
    try:
        while not condition():
            assert not expired.is_set(), "it never came"
            os.sched_yield()
    finally:
        timer.cancel()
        timer.join()


# -- every flag ------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", [f for f in SetupFlag if not f & ELSEWHERE], ids=lambda f: f.name)
def test_every_kind_of_ring_carries_operations(flag: SetupFlag) -> None:
    """Three rounds of a full queue of NOPs come back complete from a ring with each flag."""
    flags = flag | NEEDS.get(flag, SetupFlag(0))
    with ring_with(flags) as ring:
        assert ring.flags & flags == flags
        for number in range(0, 12, 4):
            # SQPOLL: the kernel's thread gives the entries back after their completions.
            wait_for(lambda: ring.sq_ready() == 0)
            for user_data in range(number, number + 4):
                ring.nop(user_data)
            cqes = ring.submit_and_copy_cqes(4, 4, WAIT_S)
            while len(cqes) < 4:
                cqes += ring.copy_cqes(4 - len(cqes), 1, WAIT_S)
            # A NOP was refused on IOPOLL rings of old kernels.
            assert {cqe.res for cqe in cqes} <= {
                0,
                -errno.EINVAL if flags & SetupFlag.IOPOLL else 0,
            }
            assert [cqe.user_data for cqe in cqes] == [*range(number, number + 4)]
        assert ring.in_flight == 0


# -- SQPOLL ----------------------------------------------------------------------------------------


def test_sqpoll_takes_entries_without_a_system_call_and_is_woken() -> None:
    """A19: while the kernel's thread runs, submitting enters nothing; asleep, it is woken."""
    with ring_with(SetupFlag.SQPOLL, sq_thread_idle=1) as ring:
        for number in range(3):
            wait_for(lambda: ring.sq.flags & SqFlag.NEED_WAKEUP)
            assert ring.sq_ring_needs_enter() == (True, EnterFlag.SQ_WAKEUP)
            entered = ring._ring.entered
            ring.nop(number)
            assert ring.submit() == 1
            assert ring._ring.entered == entered + 1
            assert wait_cqes(ring, 1) == [Cqe(number, 0, 0)]


def test_sqpoll_makes_room_by_itself() -> None:
    """get_sqe finds room as soon as the kernel's thread has consumed entries."""
    with ring_with(SetupFlag.SQPOLL, 2, sq_thread_idle=2000) as ring:
        assert ring.sq_ring_needs_enter(EnterFlag.GETEVENTS)[1] & EnterFlag.GETEVENTS
        cqes: list[Cqe] = []
        number = 0
        while number < 200:
            try:
                ring.nop(number)
                number += 1
            except SubmissionQueueFull:
                ring.submit()
                cqes += ring.copy_cqes(4)
        ring.submit()
        cqes += wait_cqes(ring, 200 - len(cqes))
        assert [cqe.user_data for cqe in cqes] == [*range(200)]


# -- disabled, single issuer -----------------------------------------------------------------------


def test_a_disabled_ring_takes_nothing_until_it_is_enabled() -> None:
    """R_DISABLED: submitting is EBADFD, and what was prepared is submitted once it is enabled."""
    with ring_with(SetupFlag.R_DISABLED) as ring:
        ring.nop(1)
        with pytest.raises(OSError, match="io_uring_enter") as info:
            ring.submit()
        assert info.value.errno == errno.EBADFD
        ring.enable_rings()
        assert ring.submit() == 1
        assert wait_cqes(ring, 1) == [Cqe(1, 0, 0)]


def test_a_disabled_ring_closes_with_entries_that_the_kernel_never_took() -> None:
    """Nothing is waited for: the kernel refuses to be entered."""
    with ring_with(SetupFlag.R_DISABLED) as ring:
        ring.nop(1)
        ring.flush_sq()
    assert ring.fd == -1


def test_the_thread_that_enables_a_single_issuer_ring_owns_it() -> None:
    """Made here, enabled there: this thread is refused before anything is queued."""
    with ring_with(SetupFlag.R_DISABLED | SetupFlag.SINGLE_ISSUER) as ring:

        def enable_and_use() -> list[Cqe]:
            ring.enable_rings()
            ring.nop(1)
            return ring.submit_and_copy_cqes(1, 1, WAIT_S)

        assert in_a_thread(enable_and_use) == [Cqe(1, 0, 0)]
        with pytest.raises(WrongThreadError):
            ring.nop(2)


def test_deferred_work_is_done_when_it_is_asked_for() -> None:
    """DEFER_TASKRUN: a completion comes with the next copy, although nobody waits for it."""
    with ring_with(DEFER) as ring, a_pipe() as (reader, writer):
        ring.poll_add(1, reader, select.POLLIN)
        ring.submit()
        assert ring.copy_cqes(4) == []
        os.write(writer, b"x")
        assert ring.cq_ready() == 0
        assert ring.copy_cqes(4) == [Cqe(1, select.POLLIN, 0)]


def test_with_taskrun_flag_a_copy_of_nothing_enters_nothing() -> None:
    """The kernel says when there is work to be done; without it there is no system call."""
    with ring_with(DEFER | SetupFlag.TASKRUN_FLAG) as ring, a_pipe() as (reader, writer):
        ring.poll_add(1, reader, select.POLLIN)
        ring.submit()
        entered = ring._ring.entered
        assert ring.copy_cqes(4) == []
        assert ring._ring.entered == entered
        os.write(writer, b"x")
        assert ring.sq.flags & SqFlag.TASKRUN
        assert ring.copy_cqes(4) == [Cqe(1, select.POLLIN, 0)]


# -- sizes of entries ------------------------------------------------------------------------------


def test_completions_of_32_bytes_are_big_tuples() -> None:
    """CQE32: five numbers, of which a NOP leaves the last two 0."""
    with ring_with(SetupFlag.CQE32) as ring:
        ring.nop(1)
        cqes: list[Any] = ring.submit_and_copy_cqes(1, 1)
        assert cqes == [BigCqe(1, 0, 0, 0, 0)]
        assert type(cqes[0]) is BigCqe
        ring.nop(2)
        ring.submit()
        assert [tuple(cqe) for cqe in ring.cq.cqes] == [(2, 0, 0, 0, 0)]
        out = bytearray(70)
        assert ring.copy_cqes_into(out) == 1
        assert out[:32] == (2).to_bytes(8, "little") + bytes(24)


def test_completions_of_both_sizes_mix() -> None:
    """CQE_MIXED: 500 completions of random sizes come in order, across every end of the queue."""
    # Nothing overflows: with big CQEs in the overflow list, Linux 6.18 loses small ones.
    rng = random.Random(1)
    with ring_with(SetupFlag.CQE_MIXED, 4, cq_entries=16) as ring:
        copied: list[Any] = []
        expected: list[tuple[int, bool]] = []
        while len(expected) < 500:
            for _ in range(rng.randrange(1, 5)):
                big = rng.random() < 0.5
                sqe = ring.nop(len(expected))
                if big:
                    sqe.op_flags, sqe.off, sqe.addr = NopFlag.CQE32, len(expected), 7
                expected.append((len(expected), big))
            ring.submit()
            copied += ring.copy_cqes(rng.randrange(1, 5), 1, WAIT_S)
            copied += ring.copy_cqes(16)
        assert ring.in_flight == 0
        assert [(c[0], c[1]) for c in copied] == [(number, 0) for number, _ in expected]
        assert [c.extra1 for c in copied] == [number if big else 0 for number, big in expected]


def test_entries_of_128_bytes_are_clean_in_their_second_half() -> None:
    """SQE128: get_sqe128 hands out an entry without the remains of an earlier command."""
    with ring_with(SetupFlag.SQE128, 1) as ring:
        sqe = ring.get_sqe128()
        sqe.memory[sqe.at + 64 : sqe.at + 128] = b"\xff" * 64
        sqe.opcode = sqe.flags = 0
        assert run_one(ring).res == 0
        again = ring.get_sqe128()
        assert again.memory[again.at + 64 : again.at + 128] == bytes(64)


def test_entries_of_both_sizes_mix() -> None:
    """SQE_MIXED: 300 entries of random sizes complete once each, and the ledger ends empty."""
    rng = random.Random(1)
    with ring_with(SetupFlag.SQE_MIXED, 8) as ring:
        number, cqes = 1, []
        while number <= 300:
            try:
                (ring.nop128 if rng.random() < 0.5 else ring.nop)(number)
                number += 1
            except SubmissionQueueFull:
                cqes += ring.submit_and_copy_cqes(16, 1, WAIT_S)
        cqes += ring.submit_and_copy_cqes(16, 1, WAIT_S)
        cqes += wait_cqes(ring, 300 - len(cqes))
        assert [(cqe.user_data, cqe.res) for cqe in cqes] == [(n, 0) for n in range(1, 301)]
        # What fills the end of the queue posts no CQE.
        assert ring.in_flight == ring._ring.ledger.silent


def test_big_entries_want_a_ring_for_them() -> None:
    """get_sqe128 on a ring of small entries is refused, and takes none."""
    with open_ring(2) as ring:
        with pytest.raises(ValueError, match="SQE128"):
            ring.get_sqe128()
        assert ring.sq_ready() == 0


# -- memory and descriptors ------------------------------------------------------------------------


@pytest.mark.parametrize(("entries", "cq_entries"), [(1, 0), (4, 100), (64, 200), (4, 2049)])
def test_own_memory_is_as_large_as_the_kernel_will_use(entries: int, cq_entries: int) -> None:
    """NO_MMAP: the kernel rounds the queue up to a power of two, and so does the memory."""
    params = {"cq_entries": cq_entries} if cq_entries else {}
    try:
        ring = ring_with(SetupFlag.NO_MMAP, entries, **params)
    except OSError as exc:
        # Kernels before 6.14 want the queue in one page, or a huge one.
        pytest.skip(f"this kernel wants other memory for {cq_entries} entries: {exc}")
    with ring:
        header = ring._ring.ring_map_bytes - ring.cq.entries * ring._ring.cqe_bytes
        assert header >= 4096
        count = 0
        while count < 2 * ring.cq.entries:
            for _ in range(entries):
                ring.nop(count)
                count += 1
            assert len(ring.submit_and_copy_cqes(entries, entries, WAIT_S)) == entries


def test_a_ring_without_descriptor_belongs_to_its_thread() -> None:
    """REGISTERED_FD_ONLY: the index means another ring elsewhere, so nobody else may use it."""
    flags = SetupFlag.REGISTERED_FD_ONLY | SetupFlag.NO_MMAP
    descriptors = set(os.listdir("/proc/self/fd"))
    with ring_with(flags) as ring:
        assert set(os.listdir("/proc/self/fd")) == descriptors
        for call in (ring.submit, ring.cq_ready, ring.close, lambda: ring.nop(1), ring.copy_cqe):
            with pytest.raises(WrongThreadError):
                in_a_thread(call)
        ring.nop(1)
        assert ring.submit_and_copy_cqes(1, 1) == [Cqe(1, 0, 0)]
    with pytest.raises(RingClosedError):
        ring.submit()


def test_the_index_of_a_closed_ring_without_descriptor_is_free() -> None:
    """A thread has 16 of them: 40 rings in turn need only one."""
    flags = SetupFlag.REGISTERED_FD_ONLY | SetupFlag.NO_MMAP
    indices = set()
    for _ in range(40):
        with ring_with(flags) as ring:
            indices.add(ring.fd)
    assert len(indices) == 1


def test_rings_can_share_workers() -> None:
    """ATTACH_WQ: the second ring works while the first one does, and after it has closed."""
    with open_ring(2) as first:
        second = ring_with(SetupFlag.ATTACH_WQ, 2, wq_fd=first.fd)
        with second:
            for ring in (first, second):
                ring.nop(1).flags |= SqeFlag.ASYNC
                assert run_one(ring) == Cqe(1, 0, 0)
            first.close()
            second.nop(2).flags |= SqeFlag.ASYNC
            assert run_one(second) == Cqe(2, 0, 0)


def test_a_registered_index_serves_the_thread_that_registered_it() -> None:
    """Another thread may use an ordinary ring too: it enters by the descriptor."""
    with open_ring(2) as ring:
        try:
            ring.register_ring_fd()
        except OSError as exc:
            pytest.skip(f"this kernel registers no rings: {exc}")

        def use() -> list[Cqe]:
            ring.nop(1)
            return ring.submit_and_copy_cqes(1, 1, WAIT_S)

        assert use() == [Cqe(1, 0, 0)]
        assert in_a_thread(use) == [Cqe(1, 0, 0)]
        assert use() == [Cqe(1, 0, 0)]
