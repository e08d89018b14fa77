# SPDX-License-Identifier: MIT OR Apache-2.0
"""The queues of a ring: counters, submission, completion, overflow, waits and signals."""

from __future__ import annotations

import errno
import os
import select
import signal
import threading
from array import array
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from ring_help import WAIT_S, a_pipe, open_ring, wait_cqes

from trio_uring import _queue_base
from trio_uring.lowlevel import (
    CQE,
    Cqe,
    EnterFlag,
    Feature,
    Ring,
    SetupFlag,
    Sqe,
    SqeFlag,
    SubmissionQueueFull,
    TimeoutFlag,
    prep_nop,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Buffer

SOON_S = 0.02


@contextmanager
def alarms(handler: Callable[[int], object]) -> Iterator[None]:
    """Calls ``handler`` every 20 ms with the number of the alarm, from 1."""
    count = 0

    def on_alarm(_signum: int, _frame: object) -> None:
        nonlocal count
        count += 1
        handler(count)

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, SOON_S, SOON_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fill(ring: Ring, user_data: int = 1) -> int:
    """Prepares NOPs until the queue is full; how many."""
    count = 0
    while True:
        try:
            ring.nop(user_data + count)
        except SubmissionQueueFull:
            return count
        count += 1


# -- set-up ----------------------------------------------------------------------------------------


class NoSystemCall:
    """Instead of the C core."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"the C core was asked for {name}")


@pytest.mark.parametrize("entries", [0, 3, 8192, -1, 4097])
def test_a_bad_number_of_entries_never_reaches_the_kernel(
    entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A7: entries are a power of two from 1 to 4096, else ValueError before the system call."""
    monkeypatch.setattr(_queue_base, "lib", NoSystemCall())
    with pytest.raises(ValueError, match="entries"):
        Ring(entries)


@pytest.mark.parametrize(
    ("flags", "params"),
    [
        (0, {"sq_entries": 8}),
        (0, {"features": 1}),
        (0, {"resv": 1}),
        (0, {"wq_fd": 1}),
        (0, {"cq_entries": 2}),
        (SetupFlag.CQSIZE, {}),
        (SetupFlag.SQ_REWIND, {}),
    ],
    ids=str,
)
def test_reserved_parameters_never_reach_the_kernel(
    flags: int, params: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A8: what the kernel fills in or would refuse is a ValueError before the system call."""
    monkeypatch.setattr(_queue_base, "lib", NoSystemCall())
    with pytest.raises(ValueError, match=r"reserved|ATTACH_WQ|cq_entries|SQ_REWIND"):
        Ring(4, flags, **params)


def test_an_unknown_parameter_is_a_mistake() -> None:
    """A name that struct io_uring_params has not is a TypeError, as for any function."""
    with pytest.raises(TypeError, match="entires"):
        Ring(4, entires=8)


def test_reserved_parameters_may_be_zero() -> None:
    """A8: naming a reserved parameter is no error if it is 0."""
    open_ring(4, sq_entries=0, features=0, resv=0, wq_fd=0).close()


def test_a_set_up_that_the_kernel_refuses_leaves_nothing() -> None:
    """A9: the errno of io_uring_setup comes as OSError, and no descriptor stays (the leak gate)."""
    with pytest.raises(OSError, match="io_uring_setup") as info:
        Ring(4, 1 << 31)
    assert info.value.errno == errno.EINVAL


def test_a_ring_is_empty_at_first() -> None:
    """A12: every counter is 0, and the sizes are what was asked for."""
    with open_ring(4) as ring:
        assert (ring.sq.head, ring.sq.tail, ring.sq.sqe_head, ring.sq.sqe_tail) == (0, 0, 0, 0)
        assert (ring.sq.entries, ring.sq.mask, ring.sq.dropped) == (4, 3, 0)
        assert (ring.cq.head, ring.cq.tail, ring.cq.overflow, ring.cq.flags) == (0, 0, 0, 0)
        assert (ring.cq.entries, ring.cq.mask, ring.cq.cqes) == (8, 7, [])
        assert (ring.sq_ready(), ring.cq_ready(), ring.in_flight) == (0, 0, 0)
        assert not ring.cq_ring_needs_flush()


def test_the_completion_queue_has_the_size_asked_for() -> None:
    """cq_entries sets CQSIZE by itself; the kernel rounds up to a power of two."""
    with open_ring(2, cq_entries=20) as ring:
        assert ring.flags & SetupFlag.CQSIZE
        assert (ring.cq.entries, ring.cq.mask) == (32, 31)


def test_leaving_the_context_closes_the_ring_also_on_error() -> None:
    """The fd is -1 after the with statement, whatever happened in it."""
    with pytest.raises(ZeroDivisionError), open_ring(1) as ring:
        _ = 1 / 0
    assert ring.fd == -1


def test_closing_is_idempotent() -> None:
    """A13: the second close does nothing, even if the descriptor's number is in use again."""
    ring = open_ring(1)
    fd = ring.fd
    assert ring.close() == []
    with a_pipe() as (reader, writer):
        assert fd in (reader, writer), "the test wants the number back"
        assert ring.close() == []
        os.write(writer, b"x")
        assert os.read(reader, 1) == b"x"
    assert ring.fd == -1


# -- submission ------------------------------------------------------------------------------------


@pytest.mark.parametrize("entries", [1, 2, 8])
def test_a_full_queue_raises_and_goes_on(entries: int) -> None:
    """A14: SubmissionQueueFull, never None; what was prepared is submitted as it is."""
    with open_ring(entries) as ring:
        for round_number in range(3):
            assert fill(ring, 10 * round_number) == entries
            with pytest.raises(SubmissionQueueFull):
                ring.get_sqe()
            assert ring.sq_ready() == entries
            assert ring.submit() == entries
            expected = range(10 * round_number, 10 * round_number + entries)
            assert [cqe.user_data for cqe in wait_cqes(ring, entries)] == [*expected]


def test_flush_shows_entries_and_counts_all_that_wait() -> None:
    """A18, A20: flush_sq moves the tail only, and counts what earlier calls flushed."""
    with open_ring(4) as ring:
        ring.nop(1)
        assert (ring.sq.sqe_tail, ring.sq.sqe_head, ring.sq.tail) == (1, 0, 0)
        assert ring.flush_sq() == 1
        assert (ring.sq.sqe_tail, ring.sq.sqe_head, ring.sq.tail, ring.sq.head) == (1, 1, 1, 0)
        ring.nop(2)
        assert ring.sq_ready() == 2
        assert ring.flush_sq() == 2
        assert ring.flush_sq() == 2
        assert ring.in_flight == 2
        assert ring.submit() == 2
        assert (ring.sq_ready(), ring.sq.head) == (0, 2)
        assert ring.flush_sq() == 0
        assert [cqe.user_data for cqe in wait_cqes(ring, 2)] == [1, 2]


def test_submit_returns_what_the_kernel_took() -> None:
    """A15: a bad entry ends a submit without SUBMIT_ALL; the next one takes the rest."""
    with open_ring(4) as ring:
        ring.nop(1)
        ring.nop(2).opcode = 255
        ring.nop(3)
        assert ring.submit() == 2
        assert ring.sq_ready() == 1
        assert ring.submit() == 1
        assert ring.submit() == 0
        results = {cqe.user_data: cqe.res for cqe in wait_cqes(ring, 3)}
        assert results == {1: 0, 2: -errno.EINVAL, 3: 0}


def test_submit_and_wait_waits_for_that_many() -> None:
    """A16: when it returns, wait_nr completions are in the queue."""
    with open_ring(4) as ring, a_pipe() as (reader, _):
        ring.nop(1)
        ring.timeout(2, SOON_S)
        ring.poll_add(3, reader, select.POLLIN)
        assert ring.submit_and_wait(2) == 3
        assert ring.cq_ready() == 2
        ring.copy_cqes(2)


def test_submit_and_wait_counts_what_is_there_already() -> None:
    """The wait is for the queue's total, not for new completions."""
    with open_ring(4) as ring:
        ring.nop(1)
        ring.submit()
        assert ring.submit_and_wait(1) == 0
        assert ring.copy_cqes(4) == [Cqe(1, 0, 0)]


def test_enter_is_the_raw_call() -> None:
    """A17: it submits what was flushed, no more than it is told to, and raises its errno."""
    with open_ring(4) as ring:
        for number in (1, 2, 3):
            ring.nop(number)
        assert ring.enter(3, 0, 0) == 0
        ring.flush_sq()
        assert ring.enter(1, 0, 0) == 1
        assert ring.enter(2, 3, EnterFlag.GETEVENTS) == 2
        assert ring.cq_ready() == 3
        with pytest.raises(OSError, match="io_uring_enter") as info:
            ring.enter(0, 0, 1 << 31)
        assert info.value.errno == errno.EINVAL


def test_without_sqpoll_every_submit_needs_a_system_call() -> None:
    """A19: and no flag for it; what the caller asks for stays."""
    with open_ring(1) as ring:
        assert ring.sq_ring_needs_enter() == (True, EnterFlag(0))
        assert ring.sq_ring_needs_enter(EnterFlag.GETEVENTS) == (True, EnterFlag.GETEVENTS)


# -- completion ------------------------------------------------------------------------------------


def test_completions_are_copied_in_order_and_once() -> None:
    """A21 to A23: head follows, and a copied entry may be overwritten at once."""
    with open_ring(2, cq_entries=4) as ring:
        for number in range(0, 40, 4):
            for user_data in range(number, number + 4, 2):
                ring.nop(user_data)
                ring.nop(user_data + 1)
                ring.submit()
            assert (ring.cq_ready(), ring.cq.tail, ring.cq.head) == (4, number + 4, number)
            assert [cqe.user_data for cqe in ring.copy_cqes(3)] == [number, number + 1, number + 2]
            assert ring.copy_cqes(3) == [Cqe(number + 3, 0, 0)]
            assert (ring.cq_ready(), ring.copy_cqes(3)) == (0, [])


def test_copy_cqes_returns_at_once_if_any_are_ready() -> None:
    """A22: wait_nr is for an empty queue."""
    with open_ring(2) as ring, a_pipe() as (reader, _):
        ring.poll_add(1, reader, select.POLLIN)
        ring.nop(2)
        ring.submit()
        assert ring.copy_cqes(2, wait_nr=2) == [Cqe(2, 0, 0)]


def test_copy_cqes_waits_for_as_many_as_asked() -> None:
    """An empty queue: both polls have to complete before it returns."""
    with open_ring(2) as ring, a_pipe() as (reader, writer):
        ring.poll_add(1, reader, select.POLLIN)
        ring.poll_add(2, reader, select.POLLIN)
        ring.submit()
        timer = threading.Timer(SOON_S, os.write, (writer, b"x"))
        timer.start()
        cqes = ring.copy_cqes(4, wait_nr=2)
        timer.join()
    assert sorted(cqes) == [Cqe(1, select.POLLIN, 0), Cqe(2, select.POLLIN, 0)]


def test_copy_cqe_waits_for_exactly_one() -> None:
    """A24: the second completion stays in the queue."""
    with open_ring(2) as ring:
        ring.timeout(1, SOON_S)
        ring.submit()
        assert ring.copy_cqe() == Cqe(1, -errno.ETIME, 0)
        ring.nop(2)
        ring.nop(3)
        ring.submit()
        assert (ring.copy_cqe(), ring.cq_ready()) == (Cqe(2, 0, 0), 1)


@pytest.mark.parametrize("timeout", [0, -1.0, SOON_S])
def test_a_wait_ends_with_its_timeout(timeout: float) -> None:
    """An empty list, not an error; what was waited for can still complete."""
    with open_ring(2) as ring, a_pipe() as (reader, writer):
        ring.poll_add(1, reader, select.POLLIN)
        assert ring.submit_and_copy_cqes(2, 1, timeout) == []
        assert ring.copy_cqes(2, 1, timeout) == []
        assert ring.copy_cqes_into(bytearray(32), 1, timeout) == 0
        os.write(writer, b"x")
        assert ring.copy_cqes(2, 1, WAIT_S) == [Cqe(1, select.POLLIN, 0)]


@pytest.mark.parametrize("timeout", [None, WAIT_S, float("inf")])
def test_a_wait_ends_with_its_completion(timeout: float | None) -> None:
    """However long the timeout is, infinity included."""
    with open_ring(2) as ring:
        ring.timeout(1, SOON_S)
        assert ring.submit_and_copy_cqes(2, 1, timeout) == [Cqe(1, -errno.ETIME, 0)]
        ring.timeout(2, SOON_S)
        ring.submit()
        assert ring.copy_cqes(2, 1, timeout) == [Cqe(2, -errno.ETIME, 0)]


def test_a_timeout_brings_fewer_than_were_waited_for() -> None:
    """Two completions are waited for, one comes: it is returned when the time is over."""
    with open_ring(2) as ring, a_pipe() as (reader, _):
        ring.nop(1)
        ring.poll_add(2, reader, select.POLLIN)
        assert ring.submit_and_copy_cqes(2, 2, SOON_S) == [Cqe(1, 0, 0)]


def test_nothing_is_waited_for_where_nothing_may_be_copied() -> None:
    """max_count 0 is an empty list, and completions stay."""
    with open_ring(2) as ring:
        assert ring.copy_cqes(0, wait_nr=1) == []
        ring.nop(1)
        ring.submit()
        assert ring.copy_cqes(0, wait_nr=1) == []
        assert ring.cq_ready() == 1


def test_completions_can_be_copied_as_bytes() -> None:
    """copy_cqes_into fills any writable buffer with whole CQEs, and only as many as fit."""
    with open_ring(4) as ring:
        for number in range(4):
            ring.nop(number)
        ring.submit()
        out = bytearray(b"\xff" * 40)
        assert ring.copy_cqes_into(out) == 2
        assert [*CQE.iter_unpack(out[:32])] == [(0, 0, 0), (1, 0, 0)]
        assert out[32:] == b"\xff" * 8
        assert ring.copy_cqes_into(memoryview(out)[:16]) == 1
        assert CQE.unpack_from(out) == (2, 0, 0)
        with pytest.raises(BufferError):
            ring.copy_cqes_into(bytes(16))
        assert ring.copy_cqes(4) == [Cqe(3, 0, 0)]


def test_completions_can_be_read_in_place() -> None:
    """A26: cq.cqes consumes nothing, cqe_seen one, cq_advance as many as it is told to."""
    with open_ring(4) as ring:
        for number in range(4):
            ring.nop(number)
        ring.submit()
        seen = ring.cq.cqes
        assert [cqe.user_data for cqe in seen] == [0, 1, 2, 3]
        assert (ring.cq_ready(), ring.in_flight) == (4, 4)
        ring.cqe_seen(seen[0])
        assert (ring.cq_ready(), ring.in_flight) == (3, 3)
        ring.cq_advance(2)
        assert [cqe.user_data for cqe in ring.cq.cqes] == [3]
        with pytest.raises(ValueError, match="more completions"):
            ring.cq_advance(2)
        assert (ring.cq_ready(), ring.cq.head, ring.in_flight) == (0, 4, 0)


def test_a_completion_is_a_tuple() -> None:
    """(user_data, res, flags): compared, unpacked and printed as one."""
    with open_ring(1) as ring:
        ring.nop((1 << 64) - 1)
        (cqe,) = ring.submit_and_copy_cqes(1, 1)
    user_data, res, flags = cqe
    assert (user_data, res, flags) == ((1 << 64) - 1, 0, 0)
    assert type(cqe) is Cqe
    assert repr(cqe) == "Cqe(user_data=18446744073709551615, res=0, flags=0)"


# -- overflow --------------------------------------------------------------------------------------


def test_completions_that_do_not_fit_are_not_lost() -> None:
    """A25: the flag says that some wait in the kernel, copying brings them all, in order."""
    with open_ring(4, cq_entries=4) as ring:
        if not ring.features & Feature.NODROP:
            pytest.skip("the kernel drops completions that do not fit (before 5.5)")
        submitted = 0
        for number in range(6):
            try:
                fill(ring, 4 * number)
                submitted += ring.submit()
            except OSError as exc:  # kernels before 5.19 refuse to take more
                if exc.errno != errno.EBUSY:
                    raise
                break
        assert submitted > 4
        assert ring.cq_ring_needs_flush()
        assert ring.cq_ready() == 4
        cqes: list[Cqe] = []
        while ring.in_flight:
            cqes += ring.submit_and_copy_cqes(3, 1, WAIT_S)
        assert [cqe.user_data for cqe in cqes] == [*range(len(cqes))]
        assert len(cqes) >= submitted
        assert not ring.cq_ring_needs_flush()
        assert (ring.cq.overflow, ring.cq_ready()) == (0, 0)


# -- signals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["copy_cqe", "copy_cqes", "submit_and_copy_cqes", "into"])
def test_a_signal_does_not_end_a_wait(call: str) -> None:
    """The handler runs at once, and the wait goes on: the third alarm brings the completion."""
    with open_ring(2) as ring, a_pipe() as (reader, writer):
        ring.poll_add(1, reader, select.POLLIN)
        ring.submit()
        with alarms(lambda count: os.write(writer, b"x") if count == 3 else None):
            if call == "copy_cqe":
                got = ring.copy_cqe()
            elif call == "into":
                out = bytearray(16)
                assert ring.copy_cqes_into(out, 1, WAIT_S) == 1
                got = Cqe(*CQE.unpack(out))
            else:
                (got,) = getattr(ring, call)(2, 1, WAIT_S)
        assert got == Cqe(1, select.POLLIN, 0)


def test_a_signal_does_not_end_submit_and_wait_with_nothing_to_submit() -> None:
    """EINTR is not seen: the wait goes on behind the handler."""
    with open_ring(2) as ring, a_pipe() as (reader, writer):
        ring.poll_add(1, reader, select.POLLIN)
        ring.submit()
        with alarms(lambda count: os.write(writer, b"x") if count == 2 else None):
            assert ring.submit_and_wait(1) == 0
        assert ring.copy_cqes(1) == [Cqe(1, select.POLLIN, 0)]


def test_signals_do_not_prolong_a_wait() -> None:
    """The timeout counts from the call: alarms that come more often do not keep it waiting."""
    with open_ring(2) as ring, a_pipe() as (reader, _):
        ring.poll_add(1, reader, select.POLLIN)
        with alarms(lambda count: None):
            assert ring.submit_and_copy_cqes(1, 1, 2.5 * SOON_S) == []
            assert ring.copy_cqes(1, 1, 2.5 * SOON_S) == []


def test_an_exception_of_a_handler_ends_the_wait_and_loses_nothing() -> None:
    """KeyboardInterrupt comes out of the wait; the operation completes later."""

    def interrupt(_count: int) -> None:
        raise KeyboardInterrupt

    with open_ring(2) as ring, a_pipe() as (reader, writer):
        ring.poll_add(1, reader, select.POLLIN)
        ring.submit()
        for wait in (ring.copy_cqe, lambda: ring.submit_and_wait(1)):
            with pytest.raises(KeyboardInterrupt), alarms(interrupt):
                wait()
        os.write(writer, b"x")
        assert wait_cqes(ring, 1) == [Cqe(1, select.POLLIN, 0)]


# -- batches, and one at a time --------------------------------------------------------------------


def nop_bytes(user_data: int) -> bytes:
    sqe = Sqe()
    prep_nop(sqe, user_data)
    return bytes(sqe)


@pytest.mark.parametrize("as_type", [bytes, bytearray, memoryview], ids=lambda t: t.__name__)
def test_a_batch_of_entries_can_be_put_again_and_again(as_type: Callable[[bytes], Buffer]) -> None:
    """put_sqes copies whole entries into the queue, also across its end."""
    batch = as_type(b"".join(map(nop_bytes, (5, 6, 7))))
    with open_ring(4) as ring:
        for _ in range(6):
            ring.put_sqes(batch)
            assert ring.sq_ready() == 3
            assert [c.user_data for c in ring.submit_and_copy_cqes(4, 3)] == [5, 6, 7]


def test_a_batch_that_does_not_fit_is_not_put_at_all() -> None:
    """SubmissionQueueFull, or ValueError for what is no whole entry; the queue is as it was."""
    with open_ring(4) as ring:
        ring.nop(1)
        with pytest.raises(SubmissionQueueFull):
            ring.put_sqes(nop_bytes(2) * 4)
        with pytest.raises(ValueError, match="whole entries"):
            ring.put_sqes(bytes(65))
        ring.put_sqes(b"")
        assert ring.submit_and_copy_cqes(4, 1) == [Cqe(1, 0, 0)]


def test_completions_of_a_batch_can_be_copied_as_bytes() -> None:
    """submit_and_copy_into submits, waits and fills the buffer."""
    with open_ring(4) as ring:
        out = array("i", bytes(16 * 4))
        for start in (0, 4):
            ring.nop_many(range(start, start + 4))
            assert ring.submit_and_copy_into(out, 4) == 4
            assert out[::4].tolist() == [*range(start, start + 4)]
            assert out[2::4].tolist() == [0] * 4
        assert ring.submit_and_copy_into(out) == 0
        with pytest.raises(BufferError):
            ring.submit_and_copy_into(bytes(16))


def test_one_operation_can_be_made_a_call() -> None:
    """run_one submits the one entry that is prepared, and returns its result or negative errno."""
    with open_ring(2) as ring, a_pipe() as (reader, writer):
        buffer = bytearray(8)
        os.write(writer, b"12345")
        ring.read(1, reader, buffer, -1)
        assert ring.run_one() == 5
        buffer.append(0)
        ring.read(2, 1 << 20, buffer, -1)
        assert ring.run_one() == -errno.EBADF
        ring.timeout(3, SOON_S)
        assert ring.run_one() == -errno.ETIME
        assert (ring.in_flight, ring.cq_ready(), ring.sq_ready()) == (0, 0, 0)
        assert not ring._pins


def test_entries_run_in_turn_have_nobody_beside_them() -> None:
    """submit_in_turn: the second is submitted when the first has completed."""
    with open_ring(4) as ring:
        for _ in range(3):
            ring.timeout(1, SOON_S)
            ring.nop(2)
            ring.nop(3).opcode = 255
            results = ring.submit_in_turn()
            assert ring.sq_ready() == 3
            assert next(results) == -errno.ETIME
            assert (ring.sq_ready(), ring.in_flight) == (2, 0)
            assert [*results] == [0, -errno.EINVAL]


def test_entries_that_were_not_reached_stay_prepared() -> None:
    """Leaving the loop early leaves the rest of the queue; what they borrow stays locked."""
    buffers = [bytearray(8) for _ in range(2)]
    with open_ring(4) as ring, a_pipe() as (reader, writer):
        os.write(writer, b"1234567812345678")
        for number, buffer in enumerate(buffers):
            ring.read(number, reader, buffer, -1)
        for res in ring.submit_in_turn():
            assert res == 8
            break
        assert (ring.sq_ready(), ring.in_flight) == (1, 0)
        with pytest.raises(BufferError):
            buffers[1].append(0)
        assert ring.submit_and_copy_cqes(4, 1) == [Cqe(1, 8, 0)]
        for buffer in buffers:
            buffer.append(0)


def test_a_signal_does_not_end_the_wait_for_one() -> None:
    """run_one and submit_in_turn go on behind the handler."""
    with open_ring(2) as ring, a_pipe() as (reader, writer):
        buffer = bytearray(1)
        for run in (ring.run_one, lambda: next(ring.submit_in_turn())):
            ring.read(1, reader, buffer, -1)
            with alarms(lambda count: os.write(writer, b"x") if count == 3 else None):
                assert run() == 1


def test_running_one_wants_exactly_one() -> None:
    """Nothing prepared, two prepared, one without a CQE, others in flight: an OSError, no wait."""
    with open_ring(4) as ring, a_pipe() as (reader, _):

        def refused(code: int) -> None:
            with pytest.raises(OSError, match="run_one") as info:
                ring.run_one()
            assert info.value.errno == code

        refused(errno.EINVAL)
        ring.nop(1).flags |= SqeFlag.CQE_SKIP_SUCCESS
        refused(errno.EINVAL)
        ring.nop(2)
        refused(errno.EINVAL)
        ring.submit()
        ring.nop(3)
        refused(errno.EBUSY)
        assert {cqe.user_data for cqe in ring.submit_and_copy_cqes(4, 2)} >= {2, 3}
        ring.poll_add(4, reader, select.POLLIN)
        ring.submit()
        ring.nop(4)
        assert ring.run_one() == 0, "the same user_data, and the first to complete"


def test_running_a_multishot_operation_is_refused() -> None:
    """EINVAL, and its completions are there to be copied."""
    with open_ring(4) as ring:
        ring.timeout(1, 0.001, count=2, flags=TimeoutFlag.MULTISHOT)

        def run_or_skip() -> None:
            if ring.run_one() == -errno.EINVAL:
                pytest.skip("this kernel has no multishot timeouts (before 6.4): EINVAL")

        with pytest.raises(OSError, match="run_one") as info:
            run_or_skip()
        assert info.value.errno == errno.EINVAL
        assert [cqe.user_data for cqe in wait_cqes(ring, 2)] == [1, 1]
