# SPDX-License-Identifier: MIT OR Apache-2.0
"""Traps of Trio's loop, and of a ring in it, that were met before: one test each."""

from __future__ import annotations

import errno
import math
import os
import select
import signal
import socket
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from engine_help import (
    EMULATED,
    WAIT_S,
    core_turn,
    engine,
    listen,
    passes,
    rounds,
    run_python,
    socket_pair,
)
from run_modes import MODE

import trio_uring
from trio_uring._lib import lib
from trio_uring._operation import CANCEL_BIT, Notification, Operation
from trio_uring.testing import requires_direct_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = requires_direct_descriptors()
gated = pytest.mark.usefixtures("uring_leak_gate")

MILLISECOND = 1_000_000


@pytest.fixture
def _adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver that waits in the ring itself."""
    monkeypatch.setenv("TRIO_URING_DRIVER", "adopted")


in_the_ring = pytest.mark.usefixtures("_adopted")


# -- timeouts ----------------------------------------------------------------------------------


@pytest.fixture
def waits() -> Iterator[list[tuple[int, int, int]]]:
    """Each wait in the kernel: how many SQEs it submitted, its timeout, and what it returned."""
    seen: list[tuple[int, int, int]] = []

    def recording(ring: Any, tail: int, wait_nr: int, timeout_ns: int, *out: Any) -> int:
        queued = (tail - lib.tu_counter(ring, lib.TU_SQ_HEAD)) & 0xFFFF_FFFF
        count = lib.tu_submit_and_copy(ring, tail, wait_nr, timeout_ns, *out)
        if wait_nr:
            seen.append((queued, timeout_ns, count))
        return count

    with core_turn(recording):
        yield seen


the_loop_waits = pytest.mark.skipif(MODE == "guest", reason="in guest mode a worker thread waits")


@in_the_ring
@gated
@the_loop_waits
@pytest.mark.parametrize("in_flight", [False, True], ids=["idle", "in_flight"])
async def test_a_timeout_goes_to_the_kernel_as_it_is(
    waits: list[tuple[int, int, int]], in_flight: bool
) -> None:
    """A sleep of 300 microseconds is one wait of at most that, where epoll waits a millisecond."""
    async with socket_pair() as (sock, _), trio.open_nursery() as nursery:
        if in_flight:
            nursery.start_soon(sock.recv, 1)
            await passes(3)
        # On a slow machine the time is over before the wait.
        seconds = 0.0103 if EMULATED else 0.0003
        del waits[:]
        while not waits:  # noqa: ASYNC110
            await trio.sleep(seconds)
        timeouts = [timeout for _, timeout, _ in waits]
        nursery.cancel_scope.cancel()
    assert all(0 < timeout <= seconds * 1e9 for timeout in timeouts), timeouts
    assert any(timeout % MILLISECOND for timeout in timeouts)


@in_the_ring
@gated
@the_loop_waits
async def test_no_time_is_no_wait_and_for_ever_is_a_day(waits: list[tuple[int, int, int]]) -> None:
    """A checkpoint asks the kernel for nothing to wait for; a sleep without end for Trio's longest.

    Trio wakes once in 24 hours.
    """
    async with socket_pair() as (sock, peer), trio.open_nursery() as nursery:
        await passes(3)
        del waits[:]
        await passes(10)
        assert waits == []
        nursery.start_soon(sock.recv, 10)
        nursery.start_soon(trio.sleep, math.inf)
        thread = threading.Timer(0.01, peer.send, [b"x"])
        thread.start()
        await sock.poll(select.POLLIN)
        thread.join()
        assert {timeout for _, timeout, _ in waits} == {86400 * 1000 * MILLISECOND}
        nursery.cancel_scope.cancel()


@in_the_ring
@gated
@the_loop_waits
async def test_an_idle_loop_waits_once(waits: list[tuple[int, int, int]]) -> None:
    """Also where nothing is in flight, and its ring is still the one to wait in."""
    async with socket_pair():
        del waits[:]
        await trio.sleep(0.2)
        slept = list(waits)
    assert [timeout > 100 * MILLISECOND for _, timeout, _ in slept] == [True], slept


@in_the_ring
@gated
@the_loop_waits
@pytest.mark.parametrize("idle", [False, True], ids=["in_flight", "idle"])
async def test_a_submission_hides_the_end_of_the_time_from_nobody(
    waits: list[tuple[int, int, int]], idle: bool
) -> None:
    """io_uring_enter answers what it submitted instead of ETIME: the loop does not wait again."""
    async with socket_pair() as (sock, peer):
        if idle:
            await trio.lowlevel.wait_writable(peer)  # the poll of epoll must be submitted again
        else:
            await passes(3)
        del waits[:]
        with trio.move_on_after(0.03) as scope:
            if idle:
                await trio.sleep_forever()
            await sock.recv(10)
    assert scope.cancelled_caught
    hidden = [i for i, (queued, _, count) in enumerate(waits) if queued and count == 0]
    assert hidden, waits
    # What is left after it is less than the clocks differ by.
    after = [wait[1] for wait in waits[hidden[0] + 1 :] if wait[1] <= 30 * MILLISECOND]
    assert sum(after) < 25 * MILLISECOND, waits


@in_the_ring
@gated
@pytest.mark.parametrize("idle", [False, True], ids=["in_flight", "idle"])
async def test_a_signal_shortens_no_wait(monkeypatch: pytest.MonkeyPatch, idle: bool) -> None:
    """Nothing to report is reported at the end of the time only: autojump clocks go by that.

    Signals interrupt the wait, and only the time that is left is waited for then.
    """
    async with socket_pair() as (sock, _), trio.open_nursery() as nursery:
        if not idle:
            nursery.start_soon(sock.recv, 1)
        driver: Any = engine().driver
        found: list[tuple[float, float]] = []
        get_events = driver.get_events

        def timed(timeout: float) -> Any:
            begun = time.monotonic()
            events = get_events(timeout)
            if timeout and not events:
                found.append((timeout, time.monotonic() - begun))
            return events

        seen: list[int] = []
        before = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
        # Trio's own wakeup would be a completion.
        wakeup = signal.set_wakeup_fd(-1)
        try:
            monkeypatch.setattr(driver, "get_events", timed)
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            await trio.sleep(0.05)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.set_wakeup_fd(wakeup)
            signal.signal(signal.SIGALRM, before)
            nursery.cancel_scope.cancel()
    assert seen
    assert found or MODE == "guest"
    assert all(elapsed >= timeout for timeout, elapsed in found), found


@in_the_ring
@gated
@the_loop_waits
async def test_a_handler_of_a_signal_runs_while_the_loop_waits() -> None:
    """Also if another library has taken Trio's wakeup away: what it does may end the wait."""
    async with socket_pair() as (sock, peer):
        before = signal.signal(signal.SIGALRM, lambda *_: peer.send(b"x"))
        wakeup = signal.set_wakeup_fd(-1)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
            with trio.fail_after(WAIT_S):
                assert await sock.recv(1) == b"x"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.set_wakeup_fd(wakeup)
            signal.signal(signal.SIGALRM, before)


# -- readiness ---------------------------------------------------------------------------------


@gated
async def test_a_half_closed_peer_makes_nothing_writable() -> None:
    """A poll of io_uring always tells of a peer that sends no more; wait_writable must not."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                ours.send(bytes(65536))
        theirs.shutdown(socket.SHUT_WR)
        async with socket_pair():
            with trio.move_on_after(0.02) as scope:
                await trio.lowlevel.wait_writable(ours)
        assert scope.cancelled_caught


@gated
async def test_what_epoll_refuses_is_refused() -> None:
    """A regular file and a descriptor that is not open raise as on stock Trio."""
    async with socket_pair():
        with tempfile.TemporaryFile() as file, pytest.raises(PermissionError):
            await trio.lowlevel.wait_readable(file)
        fd = os.eventfd(0)
        os.close(fd)
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            await trio.lowlevel.wait_readable(fd)


@gated
async def test_statistics_of_the_loop_are_still_epolls() -> None:
    """Programs look at the backend of trio.lowlevel.current_statistics."""
    async with socket_pair():
        found: Any = trio.lowlevel.current_statistics().io_statistics
        assert found.backend == "epoll"
        assert found.tasks_waiting_read >= 1  # Trio's own


@in_the_ring
@gated
async def test_an_event_that_one_look_at_epoll_left_there_is_seen_in_the_next() -> None:
    """Trio asks epoll for as many events as tasks wait; its own wakeups can fill the list."""
    async with socket_pair():
        manager: Any = engine().driver
        readable = os.eventfd(0, os.EFD_NONBLOCK)
        try:
            with trio.fail_after(WAIT_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.lowlevel.wait_readable, readable)
                    await trio.testing.wait_all_tasks_blocked()
                    # Three are ready, and two tasks wait: one of them is Trio's own.
                    manager.force_wakeup()
                    trio.lowlevel.current_trio_token().run_sync_soon(int)
                    os.eventfd_write(readable, 1)
        finally:
            os.close(readable)


# -- cancels and closes ------------------------------------------------------------------------


@gated
async def test_an_interrupted_worker_of_the_kernel_is_a_cancel() -> None:
    """A send to a peer that is half closed and reads nothing waits in a worker thread.

    Cancelled there it answers EINTR, and not ECANCELED.
    """
    listener, address = await listen()
    async with listener:
        with socket.create_connection(address) as client:
            async with await listener.accept_direct() as connection:
                client.shutdown(socket.SHUT_WR)
                cancelled = 0
                # On its way to the worker thread it is not found by a request to cancel.
                while cancelled < rounds(10, 200):
                    with trio.move_on_after(0.001 * (cancelled % 20)) as scope:
                        await connection.send(bytes(8 << 20))
                    cancelled += scope.cancelled_caught


@gated
async def test_a_request_to_cancel_that_found_nothing_is_made_again() -> None:
    """As long as the operation is in flight."""
    async with socket_pair() as (ours, _theirs):

        async def receive() -> None:
            with pytest.raises(OSError, match="cancel"):
                await ours.recv(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            (operation,) = [
                record
                for record in engine().records
                if isinstance(record, Operation) and record.in_flight
            ]
            answer = (CANCEL_BIT | operation.user_data, -errno.ENOENT, 0)
            engine().dispatch([answer, answer])
            nursery.cancel_scope.deadline = trio.current_time() + WAIT_S
        assert not nursery.cancel_scope.cancelled_caught
        assert not engine()._not_found


@gated
async def test_a_notification_is_not_asked_to_end_again_and_again() -> None:
    """The send was cancelled too late; what is left of it ends when the peer has read."""
    async with socket_pair():
        notification = Notification(engine(), 0, None)
        engine().add_record(notification)
        engine().dispatch([(CANCEL_BIT | notification.user_data, -errno.ENOENT, 0)])
        assert not engine()._cancels_again
        engine().remove_record(notification)


@gated
async def test_the_file_of_a_cancelled_operation_is_let_go_with_its_handle() -> None:
    """An accept in flight holds its listener: without one checkpoint the port is free again."""
    listener, address = await listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(closed_meanwhile, listener.accept_direct)
        await trio.testing.wait_all_tasks_blocked()
        listener._close_now()
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(address)


async def closed_meanwhile(async_fn: Callable[[], Any]) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await async_fn()


@gated
async def test_an_operation_that_was_not_submitted_never_meets_the_next_file() -> None:
    """The number of a file that is closed before its SQE was submitted is soon another file's."""
    mine, others = socket.socketpair(), socket.socketpair()
    unsubmitted = 0
    with mine[0], mine[1], others[0], others[1]:
        others[0].setblocking(False)
        others[1].send(b"not mine")
        while not unsubmitted:
            handle = await trio_uring.register(mine[0])
            assert isinstance(handle, trio_uring.FixedSocket)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(closed_meanwhile, lambda handle=handle: handle.recv(10))
                await passes(1)  # after it has begun in this pass, or before
                unsubmitted += engine().ring.sq_ready() if handle._in_flight else 0
                number, in_table = handle._number, handle._companion < 0
                handle._close_now()
                if in_table:
                    engine().ring.register_files_update(number, [others[0].fileno()])
                else:
                    os.dup2(others[0].fileno(), number)
            await passes(3)
            if in_table:
                engine().ring.register_files_update(number, [-1])
            else:
                os.close(number)
        assert others[0].recv(10) == b"not mine"


# -- the hosted driver -------------------------------------------------------------------------


@pytest.fixture
def _hosted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver with public names only."""
    monkeypatch.setenv("TRIO_URING_DRIVER", "hosted")


hosted = pytest.mark.usefixtures("_hosted")


@hosted
@gated
async def test_hosted_a_task_that_is_done_at_its_submission_does_not_sleep() -> None:
    """The timeout of a pass is fixed before the hook that submits: nothing is woken there.

    A task that was would run only when the loop wakes for another reason.
    """
    async with await trio_uring.open_direct("/dev/zero") as file:
        with trio.move_on_after(WAIT_S) as scope:
            for _ in range(20):
                assert await file.read_at(4, 0) == bytes(4)
        assert not scope.cancelled_caught


class BoomError(Exception):
    """What the tests raise."""


BROKEN_HOOK = """
import os, sys, trio, trio.testing, trio_uring
from engine_help import engine, listen, socket_pair
def broken(*args):
    raise OSError("broken")
ended = []
async def wait(async_fn):
    try:
        await async_fn()
    except OSError as exc:
        ended.append(str(exc))
async def main():
    listener, _ = await listen()
    async with socket_pair() as (sock, _), listener, trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(wait, lambda: sock.poll(1))
        async def chunks():
            async with sock.recv_multishot() as received:
                await received.__anext__()
        nursery.start_soon(wait, chunks)
        async def connections():
            async with listener.accept_direct_multishot() as accepted:
                await accepted.__anext__()
        nursery.start_soon(wait, connections)
        await trio.testing.wait_all_tasks_blocked()
        setattr(engine(), sys.argv[1], broken)
        while len(ended) < 4:
            await trio.lowlevel.checkpoint()
        print(ended, flush=True)
        os._exit(0)
trio.run(main)
"""


@pytest.mark.parametrize("hook", ["submit", "take_completions"])
@hosted
def test_hosted_an_error_in_a_hook_wakes_all_who_wait(hook: str) -> None:
    """Trio disables a hook that raises, and says so in a log: all waiters would hang."""
    assert run_python(BROKEN_HOOK, hook).stdout == f"{['broken'] * 4}\n"


@hosted
def test_hosted_operations_work_when_the_system_tasks_have_ended() -> None:
    """The last async generators are finalised after the system nursery: who waits is woken."""

    async def generator(sock: Any, peer: socket.socket) -> Any:
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                thread = threading.Timer(0.01, peer.send, [b"late"])
                thread.start()
                received.append(await sock.recv(10))
                thread.join()
                await sock.aclose()

    async def main() -> None:
        handle = await trio_uring.register(ours)
        kept.append(generator(handle, theirs))
        await kept[0].__anext__()

    kept: list[Any] = []
    received: list[bytes] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        trio.run(main)
    assert received == [b"late"]


@hosted
def test_hosted_system_tasks_that_wait_at_the_end_are_cancelled() -> None:
    """A system task in a receive is cancelled with the system nursery, and its receive ends."""

    async def wait(sock: Any) -> None:
        try:
            await sock.recv(10)
        except trio.Cancelled:
            cancelled.append(True)
            raise
        finally:
            with trio.CancelScope(shield=True):
                await sock.aclose()

    async def main() -> None:
        handle = await trio_uring.register(ours)
        trio.lowlevel.spawn_system_task(wait, handle)
        await passes(3)

    cancelled: list[bool] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        trio.run(main)
    assert cancelled == [True]


@hosted
def test_hosted_a_ring_that_does_not_close_costs_no_eventfd(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the end of a run meets, the descriptors of its driver are closed."""

    async def main() -> None:
        close = engine().close

        def broken() -> None:
            close()
            raise BoomError

        monkeypatch.setattr(engine(), "close", broken)

    before = os.listdir("/proc/self/fd")
    trio.run(main)
    assert os.listdir("/proc/self/fd") == before
    assert "BoomError" in caplog.text
    caplog.clear()
