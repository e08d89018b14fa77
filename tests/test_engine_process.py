# SPDX-License-Identifier: MIT OR Apache-2.0
"""Threads, children, signals and crashes: the ring belongs to one run, and to nobody else."""

from __future__ import annotations

import gc
import os
import signal
import threading
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import trio
import trio.testing
from engine_help import (
    EMULATED,
    WAIT_S,
    can_bind,
    engine,
    listen,
    passes,
    rounds,
    run_python,
    socket_pair,
)
from trio._core._run import GLOBAL_RUN_CONTEXT

import trio_uring
from trio_uring.testing import (
    TINY_RING,
    adopt_ring,
    assert_nothing_left,
    requires_direct_descriptors,
    used_slots,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_uring import FixedFile, FixedSocket

pytestmark = requires_direct_descriptors()


# -- other threads, other runs -----------------------------------------------------------------


def calls(file: FixedFile, sock: FixedSocket) -> list[Callable[[], Awaitable[object]]]:
    """One call of each kind on handles of another run."""
    return [
        lambda: file.read_at(10, 0),
        lambda: sock.recv(10),
        lambda: sock.send_all(b"x"),
        sock.accept_direct,
        sock.recv_multishot().__aenter__,
        sock.accept_direct_multishot().__aenter__,
        file.install_fd,
        file.aclose,
        sock.aclose,
    ]


async def test_row_63_a_handle_in_another_run_is_a_clear_error(uring_leak_gate: None) -> None:
    """Row 63: a run in another thread that uses our handle gets RuntimeError; we notice nothing."""

    async def misuse(call: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(RuntimeError, match="another Trio run"):
            await call()

    async with await trio_uring.open_direct("/dev/zero") as file, socket_pair() as (sock, peer):
        for call in calls(file, sock):
            await trio.to_thread.run_sync(trio.run, misuse, call)
        assert trio_uring.current_statistics().operations_in_flight == 0
        assert not engine()._stash
        assert not engine()._cancels
        assert not file.closed
        assert not sock.closed
        assert await file.read_at(4, 0) == bytes(4)
        peer.send(b"x")
        assert await sock.recv(10) == b"x"


async def test_row_63_a_handle_in_a_run_that_interrupts_its_own_is_a_clear_error(
    uring_leak_gate: None,
) -> None:
    """Row 63: Trio forbids a second run in a thread; what goes around that gets RuntimeError."""

    async def misuse(call: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(RuntimeError, match="another Trio run"):
            await call()

    async def interrupted() -> None:
        async with await trio_uring.open_direct("/dev/zero") as file, socket_pair() as (sock, _):
            for call in calls(file, sock):
                ours = dict(vars(GLOBAL_RUN_CONTEXT))
                vars(GLOBAL_RUN_CONTEXT).clear()
                try:
                    trio.run(misuse, call)
                finally:
                    vars(GLOBAL_RUN_CONTEXT).update(ours)
            assert trio_uring.current_statistics().operations_in_flight == 0
            assert await file.read_at(4, 0) == bytes(4)

    # Signals are the main thread's, and one run's.
    await trio.to_thread.run_sync(trio.run, interrupted)


async def test_row_63_a_multishot_in_another_run_is_a_clear_error(uring_leak_gate: None) -> None:
    """Row 63: the same for the next item of a multishot that is in use here."""

    async def misuse(iterator: object) -> None:
        with pytest.raises(RuntimeError, match="another Trio run"):
            await iterator.__anext__()  # type: ignore[attr-defined]

    listener, _ = await listen()
    async with listener, socket_pair() as (sock, _):
        async with sock.recv_multishot() as received:
            await trio.to_thread.run_sync(trio.run, misuse, received)
        async with listener.accept_direct_multishot() as connections:
            await trio.to_thread.run_sync(trio.run, misuse, connections)


async def test_row_63_a_handle_in_a_thread_without_a_run_is_a_clear_error(
    uring_leak_gate: None,
) -> None:
    """Row 63: driven by hand in another thread, a method raises before it touches the ring."""

    def misuse(call: Callable[[], Awaitable[object]]) -> None:
        coroutine = call()
        with pytest.raises(RuntimeError):
            coroutine.send(None)  # type: ignore[attr-defined]

    async with await trio_uring.open_direct("/dev/zero") as file, socket_pair() as (sock, _):
        for call in calls(file, sock):
            await trio.to_thread.run_sync(misuse, call)
        assert trio_uring.current_statistics().operations_in_flight == 0
        assert not engine()._stash
        assert not engine()._cancels
        assert not file.closed


async def test_from_thread_run_uses_the_ring_of_its_run(uring_leak_gate: None) -> None:
    """trio.from_thread.run brings an operation of a thread to where it belongs."""
    async with await trio_uring.open_direct("/dev/zero") as file:

        def work() -> bytes:
            return trio.from_thread.run(file.read_at, 4, 0)

        assert await trio.to_thread.run_sync(work) == bytes(4)


def test_outside_of_a_run_everything_is_a_clear_error() -> None:
    """Openers and statistics without a Trio run raise RuntimeError."""
    with pytest.raises(RuntimeError):
        trio_uring.current_statistics()
    with pytest.raises(RuntimeError):
        adopt_ring()
    with pytest.raises(RuntimeError):
        trio_uring.open_direct("/dev/zero").send(None)


async def work_a_little() -> None:
    """Files, sockets and cancels; nothing is left."""
    async with await trio_uring.open_direct("/dev/zero") as file, socket_pair() as (sock, peer):
        for i in range(20):
            assert await file.read_at(4, 0) == bytes(4)
            with trio.move_on_after(0):
                await sock.recv(10)
            peer.send(b"%d" % i)
            assert await sock.recv(10) == b"%d" % i
    assert_nothing_left()


def test_runs_in_threads_have_rings_of_their_own() -> None:
    """Runs in several threads at once do not disturb each other."""
    errors: list[BaseException] = []

    def run_often() -> None:
        try:
            for _ in range(rounds(5, 200)):
                trio.run(work_a_little)
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=run_often) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


async def test_a_run_within_a_run_has_a_ring_of_its_own(uring_leak_gate: None) -> None:
    """trio.run in to_thread in trio.run: three levels, each with operations in flight."""

    async def level(depth: int) -> None:
        async with socket_pair() as (sock, peer), trio.open_nursery() as nursery:
            nursery.start_soon(sock.recv, 10)
            await work_beside(sock)
            if depth:
                await trio.to_thread.run_sync(trio.run, level, depth - 1)
            peer.send(b"x")

    async def work_beside(sock: FixedSocket) -> None:
        await trio.testing.wait_all_tasks_blocked()
        assert trio_uring.current_statistics().operations_in_flight == 1
        assert used_slots().keys() == {sock.slot}

    await level(2)


async def test_a_run_has_one_ring(uring_leak_gate: None) -> None:
    """A second ring for a run that has one is refused, and the first goes on."""
    adopt_ring(TINY_RING)
    first = engine()
    with pytest.raises(RuntimeError, match="a ring already"):
        adopt_ring()
    assert engine() is first
    await work_a_little()


# -- children --------------------------------------------------------------------------------


def test_row_65_a_forked_child_gets_a_clear_error_and_takes_nothing() -> None:
    """Row 65: a child that uses its parent's handles raises; the parent gets every completion."""
    program = """
import os, trio, trio_uring
from engine_help import socket_pair, passes
async def main():
    async with socket_pair() as (sock, peer), await trio_uring.open_direct("/dev/zero") as file:
        got = []
        async def receive():
            got.append(await sock.recv(10))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await passes(2)
            child = os.fork()
            if not child:
                attempts = [
                    lambda: file.read_at(10, 0), lambda: sock.send(b"x"), file.aclose,
                    lambda: trio_uring.open_direct("/dev/zero"), trio_uring.pipe_direct,
                    lambda: trio_uring.register(0), sock.aclose,
                ]
                refused = 0
                for attempt in attempts:
                    try:
                        await attempt()
                    except trio_uring.ForkedRingError:
                        refused += 1
                os._exit(refused)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 7, status
            peer.send(b"data")
        assert got == [b"data"]
        assert await file.read_at(4, 0) == bytes(4)
trio.run(main)
"""
    done = run_python(program)
    assert done.stderr == ""


def test_row_65_a_child_can_have_a_run_of_its_own() -> None:
    """Row 65: a child forked outside of a run makes rings as its parent does."""
    program = """
import os, trio, warnings
from test_engine_process import work_a_little
trio.run(work_a_little)
# Since Python 3.12 a fork beside other threads, which Trio keeps for names of files, is warned of.
warnings.filterwarnings("ignore", "This process", DeprecationWarning)
child = os.fork()
trio.run(work_a_little)
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    assert run_python(program).stderr == ""


def test_row_65b_a_child_that_lives_on_keeps_no_port_busy() -> None:
    """Row 65b: after the parent's scope, and after its run, a sleeping child holds no file."""
    program = """
import os, signal, trio, trio_uring
from engine_help import listen, can_bind, passes
async def main():
    listener, address = await listen()
    kept, kept_address = await listen()
    children.append(os.fork())
    if not children[-1]:
        signal.pause()
        os._exit(0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept, listener)
        await passes(2)
        await listener.aclose()
    assert can_bind(address)
    await kept.aclose()
    assert can_bind(kept_address)
    return address
async def accept(listener):
    try:
        await listener.accept_direct()
    except trio.ClosedResourceError:
        pass
children = []
try:
    assert can_bind(trio.run(main))
finally:
    os.kill(children[0], signal.SIGKILL)
    os.waitpid(children[0], 0)
"""
    assert run_python(program).stderr == ""


def test_row_65b_a_child_keeps_nothing_of_a_run_that_crashed() -> None:
    """Row 65b: also when the run ends without closing anything, the port is free at once."""
    program = """
import os, signal, sys, trio, trio_uring, warnings
from engine_help import listen, can_bind
warnings.simplefilter("ignore")
async def main():
    listener, address = await listen()
    addresses.append(address)
    children.append(os.fork())
    if not children[-1]:
        signal.pause()
        os._exit(0)
    trio.lowlevel.current_task()._runner.clock = None
    await trio.sleep_forever()
children, addresses = [], []
try:
    trio.run(main)
except trio.TrioInternalError:
    print(can_bind(addresses[0]), flush=True)
finally:
    os.kill(children[0], signal.SIGKILL)
    os.waitpid(children[0], 0)
os._exit(0)
"""
    assert run_python(program).stdout == "True\n"


# -- KeyboardInterrupt -------------------------------------------------------------------------

STORM = """
import gc, signal, sys, trio, trio_uring, warnings
from trio.lowlevel import disable_ki_protection, enable_ki_protection
from engine_help import socket_pair, passes, engine
from trio_uring.testing import assert_nothing_left, used_slots
warnings.simplefilter("ignore")
count = interrupted = 0
@disable_ki_protection
async def work(wanted):
    global count
    WORK
@enable_ki_protection
async def main():
    global count, interrupted
    await work(1)  # imports nothing from now on
    count, wanted = 0, int(sys.argv[1])
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    pause = float(sys.argv[2])
    signal.setitimer(signal.ITIMER_REAL, 0.001, pause)
    while count < wanted:
        before = count
        try:
            await work(wanted)
        except KeyboardInterrupt:
            interrupted += 1
        except BaseExceptionGroup as group:
            rest = group.split(KeyboardInterrupt)[1]
            if rest is not None:
                raise rest
            interrupted += 1
        if count == before:  # a busy machine would do nothing but handle signals
            pause *= 1.5
            signal.setitimer(signal.ITIMER_REAL, pause, pause)
    signal.setitimer(signal.ITIMER_REAL, 0)
    gc.collect()
    try:
        await passes(1)
    except KeyboardInterrupt:
        pass  # the last one
    await passes(2)
    assert_nothing_left()
    print(count >= wanted, interrupted > 0)
try:
    trio.run(main)
except KeyboardInterrupt:
    pass  # the last one came after the last checkpoint
"""
READS = """
    async with await trio_uring.open_direct("/dev/zero") as file:
        while count < wanted:
            assert await file.read_at(4, 0) == bytes(4)
            count += 1
"""
HANDLES = """
    while count < wanted:
        async with await trio_uring.open_direct("/dev/zero") as file:
            count += 1
        sock = await trio_uring.socket_direct()
        count += 1
        await sock.aclose()
        for end in await trio_uring.pipe_direct():
            await end.aclose()
        count += 1
"""
# Ctrl-C between the end of a block and the first step of __aexit__ leaves a nursery of Trio open,
# with its tasks, and Trio says TrioInternalError: so the `async with` itself is protected.
NURSERIES = """
    @disable_ki_protection
    async def child(file):
        await file.read(4)
    @disable_ki_protection
    async def block(nursery):
        file = await nursery.open_direct("/dev/zero")
        other = await trio_uring.open_direct("/dev/zero")
        nursery.start_soon_with(other, child)
        async with trio_uring.open_file_scope() as scope:
            file.move_to(scope)
    @enable_ki_protection
    async def in_nursery():
        async with trio_uring.open_nursery() as nursery:
            await block(nursery)
    while count < wanted:
        await in_nursery()
        count += 1
"""


@pytest.mark.skipif("sys.version_info < (3, 11)", reason="the program uses 3.11")
@pytest.mark.parametrize(
    ("work", "usual", "long", "interval"),
    [
        (READS, 2000, 50_000, 0.001),
        (HANDLES, 1000, 30_000, 0.003),
        (NURSERIES, 200, 5000, 0.011),
    ],
    ids=["reads", "handles", "nurseries"],
)
def test_row_68_a_storm_of_keyboard_interrupts_orphans_nothing(
    work: str, usual: int, long: int, interval: float
) -> None:
    """Row 68: with a Ctrl-C every few milliseconds no record or slot is lost."""
    program = STORM.replace("    WORK\n", work)
    # An emulated machine would do nothing but handle signals.
    pause = interval * 30 if EMULATED else interval
    done = run_python(program, str(rounds(usual, long)), str(pause), timeout=300)
    assert done.stdout == "True True\n", done.stderr


# -- hooks that raise --------------------------------------------------------------------------


class Raises(trio.abc.Instrument):
    """An instrument that is broken."""

    def after_io_wait(self, timeout: float) -> NoReturn:
        """Trio's word that the wait is over."""
        raise RuntimeError("a hook that is not ours")


async def test_row_72_a_hook_of_others_that_raises_wakes_and_loses_nothing(
    uring_leak_gate: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 72: Trio drops an instrument that raises; operations in flight go on."""
    async with socket_pair() as (sock, peer):
        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sock.recv, 10)
                await passes(2)
                trio.lowlevel.add_instrument(Raises())
                await passes(2)
                peer.send(b"x")
    assert "a hook that is not ours" in caplog.text
    caplog.clear()


def test_row_72_an_error_in_the_driver_ends_every_wait() -> None:
    """Row 72: if the loop's own part fails, nobody hangs: tasks get errors, or the run ends."""
    program = """
import os, sys, trio, trio_uring
from engine_help import engine, passes, socket_pair
def broken(*args):
    raise OSError(5, "a ring that does not work any more")
async def receive(sock):
    try:
        await sock.recv(10)
    except OSError as exc:
        ended.append(str(exc))
ended = []
async def main():
    async with socket_pair() as (sock, peer), trio.open_nursery() as nursery:
        nursery.start_soon(receive, sock)
        nursery.start_soon(sock.poll, 1)
        await passes(2)
        engine().turn = broken
        await trio.sleep(0.01)
        engine().ring.close()
try:
    trio.run(main)
except BaseException as exc:
    print("over", flush=True)
os._exit(0)
"""
    assert run_python(program).stdout == "over\n"


# -- clocks ----------------------------------------------------------------------------------


async def test_row_75_the_clock_does_not_jump_over_an_operation_on_a_file(
    uring_leak_gate: None, autojump_clock: trio.testing.MockClock
) -> None:
    """Row 75: with autojump_clock, an hour passes only when no operation on a file is in flight."""
    from engine_help import SlowRead, big_file

    with big_file() as fd:
        async with await trio_uring.register(fd) as file:
            for _ in range(2):
                begun = trio.current_time()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep, 3600)
                    assert await SlowRead(file, 128).run() == 128 << 20
                    assert trio.current_time() == begun
                    assert await file.read_at(4, 0) == bytes(4)
                    assert trio.current_time() == begun
                assert trio.current_time() == begun + 3600


async def test_row_75_the_clock_does_jump_over_a_receive(
    uring_leak_gate: None, autojump_clock: trio.testing.MockClock
) -> None:
    """Row 75: what may wait for ever does not hold the clock: its timeouts can be tested."""
    async with socket_pair() as (sock, _):
        begun = trio.current_time()
        with trio.move_on_after(3600) as scope:
            await sock.recv(10)
        assert scope.cancelled_caught
        assert trio.current_time() == begun + 3600


async def test_row_75_a_clock_that_is_moved_by_hand_moves(
    uring_leak_gate: None, mock_clock: trio.testing.MockClock
) -> None:
    """Row 75: mock_clock without autojump stands still, with operations in flight or not."""
    async with socket_pair() as (sock, peer), await trio_uring.open_direct("/dev/zero") as file:
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sock.recv, 10)
            assert await file.read_at(4, 0) == bytes(4)
            await trio.testing.wait_all_tasks_blocked()
            assert trio.current_time() == begun
            mock_clock.jump(10)
            assert trio.current_time() == begun + 10
            peer.send(b"x")


def test_row_75_an_operation_at_the_very_end_of_a_run_works_under_a_mock_clock() -> None:
    """Row 75: async generators that are finalised last can still use files, and leave nothing."""

    async def main() -> None:
        async def generator() -> object:
            try:
                async with await trio_uring.open_direct("/dev/zero") as file:
                    yield file
            finally:
                with trio.CancelScope(shield=True):
                    async with await trio_uring.open_direct("/dev/zero") as file:
                        read.append(await file.read_at(4, 0))

        kept.append(generator())
        await kept[0].__anext__()

    kept: list[Any] = []
    read: list[bytes] = []
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert read == [bytes(4)]


async def test_wait_all_tasks_blocked_counts_an_operation_in_flight_as_blocked(
    uring_leak_gate: None,
) -> None:
    """A task that waits for the kernel is blocked, as one that waits for a socket is."""
    async with socket_pair() as (sock, peer), trio.open_nursery() as nursery:
        nursery.start_soon(sock.recv, 10)
        with trio.fail_after(WAIT_S):
            await trio.testing.wait_all_tasks_blocked()
        peer.send(b"x")


# -- signals and children as everybody uses them -------------------------------------------------


async def test_subprocesses_work_beside_operations(uring_leak_gate: None) -> None:
    """trio.run_process in a run with a ring: and the child has no descriptor of ours."""
    async with socket_pair() as (sock, peer), trio.open_nursery() as nursery:
        nursery.start_soon(sock.recv, 10)
        done = await trio.run_process(["ls", "-l", "/proc/self/fd"], capture_stdout=True)
        assert b"io_uring" not in done.stdout
        peer.send(b"x")


async def test_open_signal_receiver_works_beside_operations(uring_leak_gate: None) -> None:
    """A signal wakes a loop that sleeps in io_uring_enter."""
    async with socket_pair() as (sock, peer), trio.open_nursery() as nursery:
        nursery.start_soon(sock.recv, 10)
        with trio.open_signal_receiver(signal.SIGUSR1) as signals:
            timer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGUSR1))
            timer.start()
            with trio.fail_after(WAIT_S):
                async for signum in signals:
                    assert signum == signal.SIGUSR1
                    break
            timer.join()
        peer.send(b"x")


def test_the_port_of_a_run_in_a_thread_is_free_when_its_thread_has_ended() -> None:
    """Row 64: a run that ends with its thread closes its ring in that thread."""
    addresses: list[tuple[str, int]] = []

    async def main() -> None:
        async with trio_uring.open_nursery() as nursery:
            listener, address = await listen()
            nursery.adopt(listener)
            addresses.append(address)
            nursery.start_soon(listener.accept_direct)
            await passes(2)
            nursery.cancel_scope.cancel()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    thread.join()
    assert can_bind(addresses[0])
    gc.collect()
