# SPDX-License-Identifier: MIT OR Apache-2.0
"""Guest mode: Trio's loop, and the ring in it, inside of the loop of asyncio."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import trio
from engine_help import WAIT_S, engine, passes, rounds, run_python, socket_pair

import trio_uring
from trio_uring import RingOptions
from trio_uring.testing import (
    TINY_RING,
    adopt_ring,
    assert_nothing_left,
    requires_direct_descriptors,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from outcome import Outcome

pytestmark = requires_direct_descriptors()

T = TypeVar("T")


def guest_run(
    async_fn: Callable[..., Awaitable[T]],
    *args: Any,
    host: Callable[[asyncio.AbstractEventLoop], Awaitable[object]] | None = None,
) -> T:
    """`trio.run` in guest mode under asyncio; ``host`` is what else the host does."""

    async def main() -> T:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Outcome[T]] = loop.create_future()
        trio.lowlevel.start_guest_run(
            async_fn,
            *args,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=done.set_result,
        )
        if host is not None:
            await asyncio.gather(host(loop), done)
        return (await asyncio.wait_for(done, 2 * WAIT_S)).unwrap()

    return asyncio.run(main())


@pytest.mark.parametrize("options", [RingOptions(), TINY_RING], ids=["usual", "tiny"])
def test_operations_work_in_a_guest_run(options: RingOptions) -> None:
    """Files, sockets, timeouts and cancels under asyncio; nothing is left."""

    async def main() -> str:
        adopt_ring(options)
        async with await trio_uring.open_direct("/dev/zero") as file:
            assert await file.read_at(4, 0) == bytes(4)
        async with socket_pair() as (sock, peer):
            for i in range(20):
                with trio.move_on_after(0.0001 * i):
                    await sock.recv(10)
                peer.send(b"%d" % i)
                assert await sock.recv(10) == b"%d" % i
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(sock.poll, 1)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        await trio.to_thread.run_sync(bool)
        assert_nothing_left()
        return "done"

    assert guest_run(main) == "done"


def test_row_28_a_guest_run_that_sleeps_wakes_for_a_completion() -> None:
    """Row 28: the host is idle and data come from another thread: they are received."""
    asleep = threading.Event()

    async def main() -> None:
        async with socket_pair() as (sock, peer):

            def send() -> None:
                asleep.wait(WAIT_S)
                peer.send(b"data")

            thread = threading.Thread(target=send)
            thread.start()
            with trio.fail_after(WAIT_S):
                assert await sock.recv(10) == b"data"
            thread.join()

    async def host(loop: asyncio.AbstractEventLoop) -> None:
        await asyncio.sleep(0.02)
        asleep.set()

    guest_run(main, host=host)


@pytest.mark.parametrize("data", [False, True])
def test_a_cancel_by_the_host_between_two_passes_takes_effect(data: bool) -> None:
    """A host callback that cancels a scope wakes the guest; nothing is lost to the cancel."""
    scopes: list[Callable[[], None]] = []
    waiting = threading.Event()

    async def main() -> None:
        async with socket_pair() as (sock, peer):
            for _ in range(rounds(20, 500)):
                got = b""
                with trio.fail_after(WAIT_S), trio.CancelScope() as scope:

                    def cancel(scope: trio.CancelScope = scope) -> None:
                        if data:
                            peer.send(b"x")
                        scope.cancel()

                    scopes.append(cancel)
                    got = await sock.recv(10)
                if data:
                    got = got or await sock.recv(10)
                    assert got == b"x"
                else:
                    assert scope.cancelled_caught
            assert_nothing_left_but(sock)
        waiting.set()

    async def host(loop: asyncio.AbstractEventLoop) -> None:
        while not waiting.is_set():
            await asyncio.sleep(0.0005)
            if scopes:
                scopes.pop()()

    guest_run(main, host=host)


def assert_nothing_left_but(sock: trio_uring.FixedSocket) -> None:
    found = trio_uring.current_statistics()
    assert (found.operations_in_flight, found.slots_used, found.late_completions) == (0, 1, 0)
    assert sock.slot >= 0


def test_a_close_by_the_host_between_two_passes_takes_effect() -> None:
    """What the host changes from a callback that Trio knows of reaches the ring too."""

    async def main() -> None:
        async with socket_pair() as (sock, peer):
            token = trio.lowlevel.current_trio_token()
            threading.Timer(0.01, token.run_sync_soon, [sock._close_now]).start()
            with trio.fail_after(WAIT_S), pytest.raises(trio.ClosedResourceError):
                await sock.recv(10)
            assert peer.recv(10) == b""

    guest_run(main)


def test_row_29_a_wake_without_a_completion_harms_nothing() -> None:
    """Row 29: the eventfd may be signalled for nothing, or once for many."""

    async def main() -> None:
        async with socket_pair() as (sock, peer), trio.open_nursery() as nursery:
            nursery.start_soon(sock.recv, 10)
            for i in range(20):
                await passes(i % 3)
                os.eventfd_write(engine().driver._eventfd, i)  # type: ignore[attr-defined]
                await trio.sleep(0.0005)
            assert trio_uring.current_statistics().operations_in_flight == 1
            peer.send(b"x")

    guest_run(main)


def test_guest_runs_in_sequence_leave_nothing() -> None:
    """Each guest run closes its ring and its eventfd."""

    async def main() -> None:
        async with await trio_uring.open_direct("/dev/zero") as file:
            assert await file.read_at(4, 0) == bytes(4)

    guest_run(main)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        guest_run(main)
    assert len(os.listdir("/proc/self/fd")) == before


def test_start_guest_run_has_the_ring_from_the_first_pass() -> None:
    """trio_uring.start_guest_run takes the options of the ring, and its result is Trio's."""

    async def main() -> int:
        async with await trio_uring.open_direct("/dev/zero") as file:
            assert await file.read_at(4, 0) == bytes(4)
        return engine().options.slots_max

    async def host_main() -> int:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Outcome[int]] = loop.create_future()
        trio_uring.start_guest_run(
            main,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=done.set_result,
            ring=TINY_RING,
        )
        return (await done).unwrap()

    assert asyncio.run(host_main()) == TINY_RING.slots_max


ABANDONED = """
import asyncio, contextlib, gc, os, sys, time, trio, trio_uring, warnings
from engine_help import engine, socket_pair
warnings.simplefilter("ignore")
sys.stderr = open(os.devnull, "w")  # Trio and asyncio complain at length
buffers = [bytearray(8), bytearray(8)]
peers, rings = [], []
async def receive(buffer):
    async with socket_pair() as (sock, peer):
        peers.append(peer.dup())
        await sock.recv_into(buffer)
async def main():
    rings.append(engine().ring)
    async with trio.open_nursery() as nursery:
        for buffer in buffers:
            nursery.start_soon(receive, buffer)
        while sys.argv[1] == "busy":
            await trio.lowlevel.checkpoint()
        await trio.sleep_forever()
async def host():
    trio.lowlevel.start_guest_run(
        main,
        run_sync_soon_threadsafe=asyncio.get_running_loop().call_soon_threadsafe,
        done_callback=print,
    )
    await asyncio.sleep(0.1)
asyncio.run(host())
with contextlib.suppress(BrokenPipeError):
    peers[0].send(b"wake")
gc.collect()
deadline = time.monotonic() + 5
while rings[0].fd != -1 and time.monotonic() < deadline:
    time.sleep(0.01)
with contextlib.suppress(BrokenPipeError):
    peers[1].send(b"late")
for _ in range(3):  # Python 3.13 takes one more for what a finalizer has let go of
    gc.collect()
time.sleep(0.05)
try:
    buffers[1].append(0)
    print("free", rings[0].fd, bytes(buffers[1]), flush=True)
except BufferError:
    print("locked", rings[0].fd, flush=True)
os._exit(0)
"""


def test_an_abandoned_guest_run_closes_its_ring_and_lets_go() -> None:
    """A host that stops between two passes of its guest: the ring is drained and closed."""
    free = f"free -1 {bytes(9)!r}\n"
    assert run_python(ABANDONED, "busy").stdout == free


def test_row_1_a_guest_run_abandoned_in_its_sleep_keeps_its_buffers() -> None:
    """Row 1: Trio's worker thread ends the run, may not drain the ring, and keeps the buffers."""
    out = run_python(ABANDONED, "asleep").stdout
    # Where there is no SINGLE_ISSUER, any thread may drain. The hosted driver is not told of such
    # an end: its ring stays open.
    assert out.startswith("locked ") or out == f"free -1 {bytes(9)!r}\n"
