# SPDX-License-Identifier: MIT OR Apache-2.0
"""Queues that are full, completions that race, signals, and who is woken when."""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from engine_help import (
    WAIT_S,
    Asleep,
    a_running_read,
    big_file,
    engine,
    passes,
    rounds,
    socket_pair,
)

import trio_uring
from trio_uring import RingOptions
from trio_uring._operation import INDEX_MASK
from trio_uring.lowlevel import prep_nop
from trio_uring.testing import (
    TINY_RING,
    adopt_ring,
    assert_nothing_left,
    requires_direct_descriptors,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Iterator

    from trio_uring import FixedFile, RingStatistics

pytestmark = [requires_direct_descriptors(), pytest.mark.usefixtures("uring_leak_gate")]


def statistics() -> RingStatistics:
    """What the ring of this run is doing."""
    return trio_uring.current_statistics()


async def read_zeroes(file: FixedFile) -> None:
    assert await file.read_at(16, 0) == bytes(16)


async def poll(sock: FixedFile, done: list[int], number: int) -> None:
    await sock.poll(1)
    done.append(number)


# -- full queues -----------------------------------------------------------------------------


async def test_row_21_a_full_submission_queue_delays_nobody_for_ever() -> None:
    """Row 21: a thousand operations at once through a queue of two entries all complete."""
    adopt_ring(TINY_RING)
    async with await trio_uring.open_direct("/dev/zero") as file:
        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                for _ in range(1000):
                    nursery.start_soon(read_zeroes, file)
    assert statistics().queue_full_count > 0


async def test_row_22_completions_that_do_not_fit_all_arrive_in_order() -> None:
    """Row 22: 24 operations that end at once are all seen, with a queue for 4 completions."""
    adopt_ring(TINY_RING)
    done: list[int] = []
    async with socket_pair() as (sock, peer):
        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                for number in range(24):
                    nursery.start_soon(poll, sock, done, number)
                    await passes(1)
                await trio.testing.wait_all_tasks_blocked()
                assert statistics().operations_in_flight == 24
                peer.send(b"x")
    assert sorted(done) == list(range(24))
    assert statistics().overflow_count > 0
    assert statistics().late_completions == 0


async def test_row_15_a_cancel_that_finds_the_queue_full_is_not_lost() -> None:
    """Row 15: 50 operations are cancelled at once with a queue of 2 entries; all end."""
    adopt_ring(TINY_RING)
    done: list[int] = []
    async with socket_pair() as (sock, _):
        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                for number in range(50):
                    nursery.start_soon(poll, sock, done, number)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
    assert done == []
    assert statistics().cancels_sent == 50


async def test_row_15_a_close_that_finds_the_queue_full_ends_all() -> None:
    """Row 15: a handle with 50 operations in flight closes through a queue of 2 entries."""
    adopt_ring(TINY_RING)
    ended: list[int] = []

    async def closed(sock: FixedFile) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await sock.poll(1)
        ended.append(1)

    async with socket_pair() as (sock, _):
        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(closed, sock)
                await trio.testing.wait_all_tasks_blocked()
                await sock.aclose()
    assert len(ended) == 50


async def test_row_27_many_completions_of_one_wake_need_no_other_wake() -> None:
    """Row 27: 100 operations that end at once are all reaped in a few passes, without an event."""
    done: list[int] = []
    async with socket_pair() as (sock, peer), trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(poll, sock, done, number)
        await trio.testing.wait_all_tasks_blocked()
        peer.send(b"x")
        # The kernel may work off 20 at a time.
        await passes(10)
        assert len(done) == 100


async def test_row_26_operations_that_beget_operations_starve_nobody() -> None:
    """Row 26: a task that starts an operation whenever one has ended lets the others run."""
    adopt_ring(TINY_RING)

    async def restless(file: FixedFile) -> None:
        while True:
            await read_zeroes(file)

    async with await trio_uring.open_direct("/dev/zero") as file:
        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(restless, file)
                await passes(200)
                nursery.cancel_scope.cancel()
    assert statistics().completed > 10


# -- cancels ---------------------------------------------------------------------------------


async def test_row_13_what_the_cancel_request_answers_decides_nothing() -> None:
    """Row 13: found, gone (ENOENT) or too late (EALREADY): the operation's own end decides."""
    async with socket_pair() as (sock, peer):
        # Found: nothing happened.
        with trio.move_on_after(0.01) as found:
            await sock.recv(10)
        assert found.cancelled_caught
        # Racing with the data: either may win, and then has won.
        got = b""
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_and_cancel, peer, scope)
                got = await sock.recv(10)
        peer.send(b"y")
        while len(got) < 2:
            got += await sock.recv(10)
        assert got == b"xy"
    # Too late: it has begun, and cannot be interrupted.
    with big_file() as fd:
        async with await trio_uring.register(fd) as file:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    await a_running_read(file, nursery.start_soon)
                    scope.cancel()
    assert statistics().cancels_sent >= 1
    assert statistics().late_completions == 0


async def send_and_cancel(peer: socket.socket, scope: trio.CancelScope) -> None:
    await passes(3)
    peer.send(b"x")
    scope.cancel()


async def test_row_14_an_operation_that_cannot_be_cancelled_returns_its_result() -> None:
    """Row 14: a file read that has begun returns its bytes; Cancelled comes at the next await."""
    results: list[object] = []
    scope = trio.CancelScope()

    async def read_in_scope(run: Callable[[], Awaitable[object]]) -> None:
        with scope:
            results.append(await run())
            await trio.sleep_forever()

    with big_file() as fd:
        async with await trio_uring.register(fd) as file, trio.open_nursery() as nursery:
            await a_running_read(file, lambda run: nursery.start_soon(read_in_scope, run))
            before = len(results)
            scope.cancel()
    assert len(results) == before + 1
    assert results[-1]
    assert scope.cancelled_caught


async def test_row_16_an_abort_prepares_nothing_that_could_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Row 16: Trio's abort function raises nothing, even if no entry is to be had at that time."""

    def refuse() -> None:
        raise trio_uring.SubmissionQueueFull

    async with socket_pair() as (sock, peer):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sock.recv, 10)
                await trio.testing.wait_all_tasks_blocked()
                with monkeypatch.context() as patch:
                    patch.setattr(engine(), "own_sqe", refuse)
                    scope.cancel()
        assert scope.cancelled_caught
        peer.send(b"x")
        assert await sock.recv(10) == b"x"


async def test_row_18_a_cancel_and_a_close_in_one_step_end_an_operation_once() -> None:
    """Row 18: whatever ends an operation, its task is woken once and gets one outcome."""
    for cancel_first in (True, False) * rounds(20, 500):
        outcomes: list[str] = []
        scope = trio.CancelScope()
        async with socket_pair() as (sock, peer), trio.open_nursery() as nursery:

            async def receive(
                sock: trio_uring.FixedSocket = sock,
                scope: trio.CancelScope = scope,
                outcomes: list[str] = outcomes,
            ) -> None:
                with scope:
                    try:
                        outcomes.append((await sock.recv(10)).decode())
                    except trio.ClosedResourceError:
                        outcomes.append("closed")
                if scope.cancelled_caught:
                    outcomes.append("cancelled")

            nursery.start_soon(receive)
            await passes(len(outcomes) + 2)
            if cancel_first:
                scope.cancel()
            peer.send(b"data")
            sock._close_now()
            scope.cancel()
        assert len(outcomes) == 1
        assert outcomes[0] in ("data", "closed", "cancelled")
    assert_nothing_left()


async def test_row_9_records_are_reused_and_completions_never_mistaken() -> None:
    """Row 9: thousands of operations with cancels in between: each gets its own result."""
    adopt_ring(RingOptions(sq_entries=8, cq_entries=16))
    chance = random.Random(9)
    content = os.urandom(1 << 12)
    with big_file(1) as fd:
        os.pwrite(fd, content, 0)
        async with await trio_uring.register(fd) as file:

            async def read(offset: int) -> None:
                assert await file.read_at(8, offset) == content[offset : offset + 8]

            for _ in range(rounds(40, 2000)):
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        for _ in range(chance.randrange(30)):
                            nursery.start_soon(read, chance.randrange(4000))
                        await passes(chance.randrange(4))
                        if chance.randrange(2):
                            scope.cancel()
    assert statistics().late_completions == 0


async def test_row_9_a_completion_of_an_earlier_generation_is_ignored_and_counted() -> None:
    """Row 9: a CQE with the id that a record had before reaches nobody."""
    async with socket_pair() as (sock, peer):
        got: list[bytes] = []
        uses: list[int] = []

        async def receive() -> None:
            got.append(await sock.recv(10))

        with trio.fail_after(WAIT_S):
            for number in range(3):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(receive)
                    await trio.testing.wait_all_tasks_blocked()
                    [record] = [r for r in engine().records if getattr(r, "file", None) is sock]
                    for user_data in uses:
                        prep_nop(engine().own_sqe(), user_data)
                    await passes(3)
                    assert got == [b"data"] * number
                    uses.append(record.user_data)
                    peer.send(b"data")
    assert len({user_data & INDEX_MASK for user_data in uses}) == 1
    assert statistics().late_completions == 3
    engine().late_completions = 0  # they were our own


async def test_an_entry_that_cannot_be_written_leaves_nothing() -> None:
    """Arguments that do not fit their fields raise, and neither a record nor an entry is lost."""
    async with await trio_uring.open_direct("/dev/zero") as file:
        for offset in (-1, 2**64, "0"):
            with pytest.raises((ValueError, TypeError)):
                await file.read_at(10, offset)  # type: ignore[arg-type]
            assert_no_operation()
        for length in (-1, -(2**70)):
            with pytest.raises(ValueError, match="negative"):
                await file.read_at(length, 0)
            assert_no_operation()
        for length in (2**64, -(2**70)):
            with pytest.raises(ValueError, match="does not fit"):
                await file.sync_range(length, 0, 0)
            assert_no_operation()
        assert await file.read_at(4, 0) == bytes(4)


def assert_no_operation() -> None:
    assert statistics().operations_in_flight == 0
    assert engine().bounded_in_flight == 0


# -- waking ----------------------------------------------------------------------------------


async def test_row_28_a_loop_that_sleeps_wakes_for_a_completion() -> None:
    """Row 28: data that come from another thread while the loop sleeps are received at once."""
    async with socket_pair() as (sock, peer):
        asleep = Asleep()
        trio.lowlevel.add_instrument(asleep)

        def send() -> None:
            asleep.event.wait(WAIT_S)
            peer.send(b"data")

        thread = threading.Thread(target=send)
        thread.start()
        try:
            with trio.move_on_after(WAIT_S) as scope:
                assert await sock.recv(10) == b"data"
            assert not scope.cancel_called
        finally:
            thread.join()
            trio.lowlevel.remove_instrument(asleep)


async def test_row_74_nothing_that_is_done_before_the_wait_sleeps_through_it() -> None:
    """Row 74: operations that complete as they are submitted do not wait for the next deadline."""
    async with await trio_uring.open_direct("/dev/zero") as file:
        with trio.move_on_after(WAIT_S) as scope:
            for _ in range(50):
                await read_zeroes(file)
        assert not scope.cancel_called


async def test_row_74_what_a_full_queue_took_out_in_mid_pass_is_not_slept_through() -> None:
    """Row 74: completions found while the queue was emptied wake their tasks in the same pass."""
    adopt_ring(TINY_RING)
    async with await trio_uring.open_direct("/dev/zero") as file:
        with trio.move_on_after(WAIT_S) as scope:
            for count in range(2, 12):
                async with trio.open_nursery() as nursery:
                    for _ in range(count):
                        nursery.start_soon(read_zeroes, file)
        assert not scope.cancel_called


@pytest.mark.parametrize("in_flight", [False, True], ids=["idle", "in_flight"])
async def test_readiness_is_still_trios(in_flight: bool) -> None:
    """wait_readable and wait_writable work beside operations, and report no more than epoll."""
    async with socket_pair() as (sock, peer), trio.open_nursery() as others:
        if in_flight:
            others.start_soon(sock.recv, 1)
            await passes(3)
        await trio.lowlevel.wait_writable(peer)
        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.lowlevel.wait_readable, peer)
                await trio.testing.wait_all_tasks_blocked()
                await sock.send_all(b"x")
        with trio.move_on_after(0.01) as scope:
            await trio.lowlevel.wait_readable(sock_without_data := os.eventfd(0))
        os.close(sock_without_data)
        assert scope.cancelled_caught
        others.cancel_scope.cancel()


async def test_completions_come_while_another_task_never_sleeps() -> None:
    """Passes that do not wait look for them, too."""

    async def work() -> None:
        while True:
            await trio.lowlevel.checkpoint()

    async with socket_pair() as (sock, peer), trio.open_nursery() as nursery:
        nursery.start_soon(work)
        with trio.fail_after(WAIT_S):
            for _ in range(10):
                async with trio.open_nursery() as tasks:
                    tasks.start_soon(sock.recv, 10)
                    await passes(5)
                    peer.send(b"x")
        nursery.cancel_scope.cancel()


async def test_more_ready_descriptors_than_one_epoll_call_takes_all_wake() -> None:
    """A hundred descriptors that become readable at once wake a hundred tasks."""
    fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(100)]
    try:
        async with await trio_uring.open_direct("/dev/zero") as file:
            await read_zeroes(file)
            with trio.fail_after(WAIT_S):
                async with trio.open_nursery() as nursery:
                    for fd in fds:
                        nursery.start_soon(trio.lowlevel.wait_readable, fd)
                    await trio.testing.wait_all_tasks_blocked()
                    for fd in fds:
                        os.eventfd_write(fd, 1)
    finally:
        for fd in fds:
            os.close(fd)


# -- signals ---------------------------------------------------------------------------------


@contextmanager
def storm() -> Iterator[list[int]]:
    """A signal every millisecond; how often its handler ran."""
    seen: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        yield seen
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


async def test_row_30_signals_interrupt_no_operation() -> None:
    """Row 30: with a signal every millisecond all operations complete and all handlers run."""
    async with socket_pair() as (sock, peer), await trio_uring.open_direct("/dev/zero") as file:
        with storm() as seen:
            for i in range(rounds(300, 10_000)):
                await read_zeroes(file)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(sock.recv, 10)
                    await passes(i % 3)
                    peer.send(b"x")
            while len(seen) < 3:  # a wait that only a signal interrupts
                with trio.move_on_after(0.005):
                    await sock.recv(10)
    assert statistics().late_completions == 0


async def test_row_30_a_deadline_is_kept_through_signals() -> None:
    """Row 30: a wait that signals interrupt ends at its deadline, and not before."""
    async with socket_pair() as (sock, _):
        with storm() as seen, trio.move_on_after(0.05) as scope:
            await sock.recv(10)
    assert scope.cancelled_caught
    assert trio.current_time() >= scope.deadline
    assert seen


# -- garbage ---------------------------------------------------------------------------------


async def test_row_71_the_garbage_collector_may_run_at_any_time() -> None:
    """Row 71: with a collection at almost every allocation nothing is collected too early."""
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        async with socket_pair() as (sock, peer):
            for i in range(rounds(30, 300)):
                buffer = bytearray(16)
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(sock.recv_into, buffer)
                        await passes(i % 3)
                        scope.cancel()
                peer.send(b"data")
                assert await sock.recv(10) == b"data"
    finally:
        gc.set_threshold(*threshold)


async def test_statistics_add_up() -> None:
    """Submitted, completed and in flight agree when the ring is idle."""
    async with await trio_uring.open_direct("/dev/zero") as file:
        for _ in range(10):
            await read_zeroes(file)
        found = statistics()
        assert found.operations_in_flight == 0
        assert found.submitted - found.completed in (0, 1)  # the poll of epoll is always armed
        assert found.enters >= 10
        assert found.slots_used == 1
        assert found.slots_free == engine().options.slots_max - 1


@pytest.mark.parametrize("driver", ["adopted", "hosted"])
async def test_records_are_used_again(driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However an operation is begun: after the first few of a kind there is no new record."""
    monkeypatch.setenv("TRIO_URING_DRIVER", driver)
    async with socket_pair() as (ours, theirs), await trio_uring.open_direct("/dev/zero") as file:
        buffer = bytearray(10)

        async def a_bit_of_everything() -> None:
            await file.read_at(10, 0)
            await file.read_at(100_000, 0)
            await file.readinto_at(buffer, 0)
            await file.read_many(buffer, [0, 1])
            await trio_uring.read_files(["/dev/null"])
            async with await trio_uring.open_direct("/dev/null"):
                pass
            with pytest.raises(FileNotFoundError):
                await trio_uring.open_direct("/nowhere")
            await (await trio_uring.socket_direct()).aclose()
            theirs.send(b"data")
            await ours.recv(10)
            theirs.send(b"data")
            await ours.recv_into(buffer)
            await ours.send_all(b"short")
            await ours.send_all(b"x" * 10_000)
            for request in (b"short", b"x" * 10_000):
                theirs.send(b"answer")
                await ours.exchange(request, 100)
            theirs.recv(100_000)
            with trio.CancelScope() as scope:
                scope.cancel()
                await ours.recv(10)
            with trio.CancelScope() as scope:
                scope.cancel()
                await ours.exchange(b"never", 10)

        async def keep_the_loop_busy() -> None:
            while True:
                await trio.lowlevel.checkpoint()

        for beside_others in (False, True):
            async with trio.open_nursery() as nursery:
                if beside_others:
                    nursery.start_soon(keep_the_loop_busy)
                for _ in range(5):
                    await a_bit_of_everything()
                before = len(engine().records)
                for _ in range(50):
                    await a_bit_of_everything()
                assert len(engine().records) == before
                nursery.cancel_scope.cancel()
