# SPDX-License-Identifier: MIT OR Apache-2.0
"""However a scope or a run ends: no slot is used, no port is busy, only what was dropped warns."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, NoReturn

import pytest
import trio
import trio.testing
from engine_help import (
    EMULATED,
    WAIT_S,
    can_bind,
    connect,
    engine,
    listen,
    passes,
    python_command,
    python_env,
    rounds,
    run_python,
    socket_pair,
)

import trio_uring
from trio_uring.testing import assert_nothing_left, requires_direct_descriptors, used_slots

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from trio_uring import FixedSocket

pytestmark = requires_direct_descriptors()


class BoomError(Exception):
    """What the tests raise."""


# What a server is doing when its end comes: an accept pending, one connection that is being read,
# one that nobody looks at, and a file.


async def busy(
    nursery: trio_uring.FileNursery, path: Path | str = "/dev/zero"
) -> tuple[FixedSocket, tuple[str, int]]:
    """A server in the middle of its work; everything belongs to ``nursery``."""
    listener, address = await listen()
    nursery.adopt(listener)
    clients = [connect(address) for _ in range(2)]
    for client in clients:
        conn = await nursery.accept_direct(listener)
        nursery.start_soon(until_closed, conn.recv, 100)
        client.close() if client is clients[0] else nursery.start_soon(hold, client)
    nursery.start_soon(until_closed, listener.accept_direct)
    await nursery.open_direct(path)
    await trio.testing.wait_all_tasks_blocked()
    assert len(used_slots()) == 4
    return listener, address


async def until_closed(operation: Callable[..., Awaitable[object]], *args: object) -> None:
    try:
        await operation(*args)
    except trio.ClosedResourceError:
        pass


async def hold(client: object) -> None:
    with client:  # type: ignore[attr-defined]
        await trio.sleep_forever()


# -- scopes ----------------------------------------------------------------------------------


async def test_at_the_end_of_a_nursery_its_port_is_free_and_no_slot_is_used(
    uring_leak_gate: None,
) -> None:
    """A nursery that is cancelled closes what it owns, whatever is in flight on it."""
    for _ in range(rounds(20, 500)):
        async with trio_uring.open_nursery() as nursery:
            _, address = await busy(nursery)
            nursery.cancel_scope.cancel()
        assert can_bind(address)
        assert used_slots() == {}
        assert_nothing_left()


async def test_an_exception_closes_what_the_nursery_owns(uring_leak_gate: None) -> None:
    """An exception in the body or in a child closes everything, and comes out alone."""

    async def child() -> NoReturn:
        raise BoomError

    for in_child in (True, False):
        with pytest.RaisesGroup(BoomError):
            async with trio_uring.open_nursery() as nursery:
                _, address = await busy(nursery)
                if not in_child:
                    raise BoomError
                nursery.start_soon(child)
        assert can_bind(address)
        assert_nothing_left()


async def test_a_file_scope_closes_what_it_owns_on_exceptions_and_cancels(
    uring_leak_gate: None,
) -> None:
    """A scope without tasks closes its handles too, if it is left by an exception or a cancel."""
    with pytest.raises(BoomError):
        async with trio_uring.open_file_scope() as scope:
            listener, address = await listen()
            scope.adopt(listener)
            raise BoomError
    assert can_bind(address)
    with trio.CancelScope() as cancelled:
        async with trio_uring.open_file_scope() as scope:
            listener, address = await listen()
            scope.adopt(listener)
            cancelled.cancel()
    assert can_bind(address)
    assert_nothing_left()


async def test_aclose_forcefully_frees_the_port_and_the_slot_at_once(
    uring_leak_gate: None,
) -> None:
    """trio.aclose_forcefully of a listener with an accept pending leaves nothing behind it."""
    for _ in range(rounds(50, 2000)):
        listener, address = await listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_closed, listener.accept_direct)
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(WAIT_S):
                await trio.aclose_forcefully(listener)
            assert can_bind(address)
            assert used_slots() == {}
        assert_nothing_left()


async def test_aclose_frees_the_port_at_once(uring_leak_gate: None) -> None:
    """Row 52: a listener that was closed with an accept pending does not keep its port busy."""
    for _ in range(rounds(50, 2000)):
        listener, address = await listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_closed, listener.accept_direct)
            await trio.testing.wait_all_tasks_blocked()
            await listener.aclose()
            assert can_bind(address)
            assert used_slots() == {}
        assert_nothing_left()


async def test_a_task_that_owns_a_handle_closes_it_also_when_it_never_began(
    uring_leak_gate: None,
) -> None:
    """start_soon_with in a nursery that is cancelled in the same step closes the handle."""
    for cancelled in (True, False):
        async with trio_uring.open_nursery() as nursery:
            listener, address = await listen()
            nursery.start_soon_with(listener, until_closed_with)
            if cancelled:
                nursery.cancel_scope.cancel()
            else:
                await passes(3)
                nursery.cancel_scope.cancel()
        assert listener.closed
        assert can_bind(address)


async def until_closed_with(listener: FixedSocket) -> None:
    await until_closed(listener.accept_direct)


async def test_a_handle_that_its_task_moved_away_stays_open(uring_leak_gate: None) -> None:
    """start_soon_with closes what the task still owns at its end, and not what it gave away."""
    async with trio_uring.open_file_scope() as longer:

        async def give_away(file: trio_uring.FixedFile) -> None:
            file.move_to(longer)

        async with trio_uring.open_nursery() as nursery:
            file = await trio_uring.open_direct("/dev/zero")
            nursery.start_soon_with(file, give_away)
        assert await file.read(3) == bytes(3)
    assert file.closed


# -- runs ------------------------------------------------------------------------------------


def test_a_run_that_is_over_has_freed_its_ports() -> None:
    """Handles that a run left open are closed with it, each with one ResourceWarning."""

    async def main() -> tuple[str, int]:
        listener, address = await listen()
        left.append(listener)
        return address

    for _ in range(rounds(20, 500)):
        left: list[FixedSocket] = []
        with pytest.warns(ResourceWarning) as caught:
            address = trio.run(main)
        assert can_bind(address)
        assert left[0].closed
        assert len(caught) == 1
        assert "engine_help.py" in str(caught[0].message)


def test_a_dropped_handle_warns_once_and_leaves_nothing() -> None:
    """A handle that the garbage collector finds warns once; its slot is empty a pass later."""

    async def main() -> None:
        listener, address = await listen()
        async with trio_uring.open_nursery():
            with pytest.warns(ResourceWarning) as caught:
                del listener
                gc.collect()
            await passes(1)
        assert len(caught) == 1
        assert "engine_help.py" in str(caught[0].message)
        assert used_slots() == {}
        assert_nothing_left()
        assert can_bind(address)

    trio.run(main)


def test_row_45_a_handle_in_a_cycle_is_reclaimed() -> None:
    """Row 45: a handle that only a reference cycle keeps warns, and its slot comes back."""

    async def main() -> None:
        listener, address = await listen()
        cycle: list[object] = [listener]
        cycle.append(cycle)
        del listener
        with pytest.warns(ResourceWarning, match="unclosed FixedSocket"):
            del cycle
            gc.collect()
        await passes(1)
        assert can_bind(address)
        assert_nothing_left()

    trio.run(main)


def test_a_handle_dropped_in_the_last_step_leaves_no_port_busy() -> None:
    """Dropped so late that no pass of the loop follows, it is closed with the run."""

    async def main() -> tuple[str, int]:
        listener, address = await listen()
        with pytest.warns(ResourceWarning, match="unclosed FixedSocket"):
            del listener
            gc.collect()
        return address

    assert can_bind(trio.run(main))


def test_a_crashed_run_frees_its_ports() -> None:
    """Row 73: after a TrioInternalError nothing of the ring is left, and each handle has warned."""
    program = """
import os, sys, trio, trio_uring, warnings
from test_end_of_run import busy
from engine_help import can_bind
addresses = []
async def main():
    async with trio_uring.open_nursery() as nursery:
        _, address = await busy(nursery)
        addresses.append(address)
        # Not the fault of the ring: Trio asks its clock in its loop.
        trio.lowlevel.current_task()._runner.clock = None
        await trio.sleep_forever()
for _ in range(int(sys.argv[1])):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            trio.run(main)
        except trio.TrioInternalError:
            print(can_bind(addresses.pop()), sum("Fixed" in str(w.message) for w in caught))
sys.stdout.flush()
os._exit(0)  # Trio itself complains of what the crash has left
"""
    assert run_python(program, str(rounds(10, 300))).stdout == "True 4\n" * rounds(10, 300)


def test_row_46_a_table_is_dropped_only_when_nothing_is_in_flight_on_it() -> None:
    """Row 46: operations of a crashed run end before its table goes: the peer sees the end."""
    program = """
import os, trio, trio_uring, warnings
from engine_help import passes, socket_pair
warnings.simplefilter("ignore")
peers = []
async def main():
    pairs = socket_pair(), socket_pair()
    async with pairs[0] as (sock, peer), pairs[1] as (busy, other), trio.open_nursery() as nursery:
        peers.append(peer.dup())
        other.send(b"shared buffers")
        await busy.recv(100)
        nursery.start_soon(sock.recv, 10)
        nursery.start_soon(sock.poll, 2)
        nursery.start_soon(busy.exchange, bytes(10 << 20), 10)
        await passes(2)
        trio.lowlevel.current_task()._runner.clock = None
        await trio.sleep_forever()
try:
    trio.run(main)
except trio.TrioInternalError:
    print(peers[0].recv(10), flush=True)
os._exit(0)
"""
    assert run_python(program).stdout == "b''\n"


def test_row_73_a_crash_with_an_operation_that_cannot_be_cancelled_waits_for_it() -> None:
    """Row 73: the end of a crashed run drains what is in flight before it lets the buffers go."""
    program = """
import os, trio, trio_uring, warnings
from engine_help import a_running_read, big_file
warnings.simplefilter("ignore")
async def main():
    with big_file() as fd:
        file = await trio_uring.register(fd)
        async with trio.open_nursery() as nursery:
            await a_running_read(file, nursery.start_soon)
            trio.lowlevel.current_task()._runner.clock = None
try:
    trio.run(main)
except trio.TrioInternalError:
    print("crashed", flush=True)
    os._exit(0)
"""
    assert run_python(program).stdout == "crashed\n"


# -- Ctrl-C ----------------------------------------------------------------------------------

SERVER = """
import os, signal, sys, trio, trio_uring, warnings
warnings.simplefilter("error")
from test_end_of_run import busy
from engine_help import can_bind
from trio_uring.testing import used_slots
async def main():
    try:
        async with trio_uring.open_nursery() as nursery:
            _, address = await busy(nursery)
            addresses.append(address)
            WHAT
            await trio.sleep_forever()
    finally:
        print("slots", used_slots(), flush=True)
addresses = []
try:
    trio.run(main)
except BaseException as exc:
    while isinstance(exc, BaseExceptionGroup):
        [exc] = exc.exceptions
    print(type(exc).__name__, can_bind(addresses[0]))
"""
ENDED = "slots {}\nKeyboardInterrupt True\n"
needs_groups = pytest.mark.skipif(sys.version_info < (3, 11), reason="the program uses 3.11")


@needs_groups
@pytest.mark.parametrize(
    "what",
    ["os.kill(os.getpid(), signal.SIGINT)", "signal.raise_signal(signal.SIGINT)"],
    ids=["kill", "raise_signal"],
)
def test_ctrl_c_from_within_closes_everything(what: str) -> None:
    """SIGINT that the program sends itself: no slot is used, the port is free, nobody warns."""
    done = run_python(SERVER.replace("WHAT", what))
    assert done.stdout == ENDED
    assert done.stderr == ""


@needs_groups
def test_ctrl_c_from_outside_closes_everything() -> None:
    """SIGINT while the loop sleeps in io_uring_enter: the same."""
    ready = "print('ready', flush=True)"
    with subprocess.Popen(
        python_command(SERVER.replace("WHAT", ready)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=python_env(),
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=WAIT_S)
    assert out == ENDED
    assert err == ""


def test_ctrl_c_in_the_main_task_of_an_operation_cancels_it() -> None:
    """raise_signal in a task that then awaits: KeyboardInterrupt, and the data is still there."""

    async def main() -> None:
        async with socket_pair() as (sock, peer):
            signal.raise_signal(signal.SIGINT)
            try:
                await sock.recv(10)
            except KeyboardInterrupt:
                pass
            else:
                raise AssertionError("no KeyboardInterrupt")
            peer.send(b"data")
            assert await sock.recv(10) == b"data"
        assert_nothing_left()
        interrupted.append(True)

    interrupted: list[bool] = []
    # Where it is delivered is Trio's to decide: here, or in the main task at its next checkpoint.
    try:
        trio.run(main)
    except KeyboardInterrupt:
        interrupted.append(True)
    assert interrupted


# -- the end of the process ------------------------------------------------------------------


def test_row_70_handles_that_outlive_the_interpreter_say_so_and_crash_nothing() -> None:
    """Row 70: handles in globals at exit, of a run that is over, make no noise."""
    program = """
import trio, trio_uring, warnings
warnings.simplefilter("ignore")
async def main():
    global file, sock, scope
    file = await trio_uring.open_direct("/dev/zero")
    sock = await trio_uring.socket_direct()
    scope = trio_uring.open_file_scope()
    scope.adopt(await trio_uring.open_direct("/dev/zero"))
trio.run(main)
"""
    done = run_python(program)
    assert (done.stdout, done.stderr) == ("", "")


def test_row_70_an_exit_in_the_middle_of_a_run_crashes_nothing() -> None:
    """Row 70: sys.exit and os._exit in a task with operations in flight end the process cleanly."""
    program = """
import os, sys, trio, trio_uring
from engine_help import socket_pair, passes
async def main():
    async with socket_pair() as (sock, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sock.recv, 100)
            await passes(2)
            sys.exit(7) if sys.argv[1] == "exit" else os._exit(7)
try:
    trio.run(main)
except BaseException as exc:
    raise exc.exceptions[0] from None
"""
    for how in ("exit", "_exit"):
        done = run_python(program, how, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


def test_row_69_ten_thousand_pending_operations_do_not_delay_the_end() -> None:
    """Row 69: a run with 10,000 receives in flight ends, and so does its process."""
    program = """
import sys, trio, trio_uring
from engine_help import socket_pair, passes, engine
from trio_uring.lowlevel import prep_poll_add
async def main():
    count = int(sys.argv[1])
    async with socket_pair() as (sock, peer), trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(sock.poll, 1)
        await passes(2)
        assert trio_uring.current_statistics().operations_in_flight == count
        nursery.cancel_scope.cancel()
    assert trio_uring.current_statistics().operations_in_flight == 0
trio.run(main)
"""
    done = run_python(program, "10000")
    assert (done.stdout, done.stderr) == ("", "")


def test_500_runs_in_sequence_leak_nothing() -> None:
    """Each run makes a ring and closes it: no descriptor, no mapping, no memory lock is left."""

    async def main() -> None:
        async with await trio_uring.open_direct("/dev/zero") as file:
            assert await file.read(4) == bytes(4)
        assert_nothing_left()

    trio.run(main)
    before = len(os.listdir("/proc/self/fd")), mappings()
    for _ in range(50 if EMULATED else 500):
        trio.run(main)
    assert (len(os.listdir("/proc/self/fd")), mappings()) == before


def mappings() -> int:
    """Mappings of rings in this process."""
    with open("/proc/self/maps") as lines:
        return sum("io_uring" in line for line in lines)


def test_the_engine_of_a_run_is_closed_with_it() -> None:
    """After the run its engine is closed, and what still uses it gets a clear error."""

    async def main() -> None:
        async with await trio_uring.open_direct("/dev/zero"):
            found.append(engine())

    found: list[object] = []
    trio.run(main)
    assert found[0].closed  # type: ignore[attr-defined]
    assert found[0].ring.fd == -1  # type: ignore[attr-defined]
