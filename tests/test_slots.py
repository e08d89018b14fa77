# SPDX-License-Identifier: MIT OR Apache-2.0
"""Running out of slots harms nobody; slots go round in turn, and never to two at once."""

from __future__ import annotations

import errno
import gc
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from engine_help import WAIT_S, Asleep, connect, engine, listen, passes, socket_pair, unix_listener

import trio_uring
from trio_uring import RingOptions, SlotsExhausted
from trio_uring.testing import (
    adopt_ring,
    assert_nothing_left,
    requires_direct_descriptors,
    used_slots,
)

if TYPE_CHECKING:
    from pathlib import Path

    from trio_uring import FixedFile, FixedSocket

pytestmark = [requires_direct_descriptors(), pytest.mark.usefixtures("uring_leak_gate")]

TWO_SLOTS = RingOptions(slots_max=2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with content."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    return path


# -- many clients, few slots ------------------------------------------------------------------


async def serve_one(conn: FixedSocket) -> None:
    await conn.send_all(await conn.recv(100))


async def client(address: tuple[str, int], number: int, answers: dict[int, bytes]) -> None:
    stream = await trio.open_tcp_stream(*address)
    async with stream:
        await stream.send_all(b"client %d" % number)
        answers[number] = await stream.receive_some(100)
        assert await stream.receive_some(100) == b""


async def clients(address: tuple[str, int], count: int) -> None:
    """So many clients at once; each sends, gets it back, and sees an orderly end."""
    answers: dict[int, bytes] = {}
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(client, address, number, answers)
    assert answers == {number: b"client %d" % number for number in range(count)}


async def test_two_slots_serve_200_clients_by_single_accepts() -> None:
    """Each of 200 clients is served with a listener and one connection at a time, by accept."""
    adopt_ring(TWO_SLOTS)
    async with trio_uring.open_nursery() as nursery:
        listener, address = await listen()

        async def accept() -> None:
            while True:
                nursery.start_soon_with(await listener.accept_direct(), serve_one)

        nursery.start_soon(accept)
        await clients(address, 200)
        nursery.cancel_scope.cancel()
    await listener.aclose()


@pytest.mark.parametrize("slots_max", [2, 3, 9, 40])
async def test_a_small_table_serves_200_clients_by_multishot_accept(slots_max: int) -> None:
    """The same with accept_direct_multishot: nobody is taken whom there is no slot for."""
    adopt_ring(RingOptions(slots_max=slots_max, sq_entries=4, cq_entries=8))
    async with trio_uring.open_nursery() as nursery:
        listener, address = await listen()

        async def accept() -> None:
            async with listener.accept_direct_multishot() as connections:
                async for conn in connections:
                    nursery.start_soon_with(conn, serve_one)

        nursery.start_soon(accept)
        await clients(address, 200)
        nursery.cancel_scope.cancel()
    await listener.aclose()


async def test_row_36_clients_without_a_slot_wait_in_the_backlog() -> None:
    """Row 36: with no free slot nobody is accepted and nobody is hung up on; all are served."""
    adopt_ring(TWO_SLOTS)
    async with unix_listener() as (listener, address):
        waiting = [connect(address) for _ in range(10)]
        served: list[Any] = []
        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(accept_one, listener, served)
                first = await until_one(served)
                await passes(5)
                assert len(served) == 1
                for sock in waiting:
                    with pytest.raises(BlockingIOError):
                        sock.recv(1)
                await first.aclose()
                for number in range(1, 10):
                    while len(served) == number:
                        await passes(1)
                    await served[number].aclose()
        for sock in waiting:
            assert sock.recv(1) == b""
            sock.close()


async def accept_one(listener: FixedSocket, served: list[FixedSocket]) -> None:
    served.append(await listener.accept_direct())


async def until_one(served: list[FixedSocket]) -> FixedSocket:
    while not served:
        await passes(1)
    return served[0]


async def test_row_37_a_multishot_accept_takes_nobody_while_the_table_is_full(path: Path) -> None:
    """Row 37: armed with a full table it takes no client, and goes on when a slot is free."""
    adopt_ring(TWO_SLOTS)
    async with unix_listener() as (listener, address):
        other = await trio_uring.open_direct(path)
        got: list[FixedSocket] = []

        async def accept() -> None:
            async with listener.accept_direct_multishot() as connections:
                async for conn in connections:
                    got.append(conn)
                    return

        with connect(address) as sock, trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept)
                await passes(5)
                assert got == []
                with pytest.raises(BlockingIOError):
                    sock.recv(1)
                await other.aclose()
            await got[0].send_all(b"hello")
            await got[0].aclose()
            assert sock.recv(10) == b"hello"


async def test_row_38_connections_that_nobody_took_are_closed_with_the_block() -> None:
    """Row 38: what a multishot accept took ahead is closed at its end: no slot is left."""
    adopt_ring(RingOptions(slots_max=32))
    async with unix_listener() as (listener, address):
        async with listener.accept_direct_multishot() as connections:
            socks = [connect(address) for _ in range(4)]
            with trio.fail_after(WAIT_S):
                conn = await connections.__anext__()
                while len(used_slots()) < 5:
                    await passes(1)
        assert sorted(used_slots()) == sorted([listener.slot, conn.slot])
        await conn.aclose()
        await passes(1)
        assert trio_uring.current_statistics().slots_used == 1
        for sock in socks:
            assert sock.recv(1) == b""
            sock.close()


async def test_row_38_a_cancelled_block_closes_all_that_nobody_took() -> None:
    """Row 38: also when the block is left by a cancellation."""
    adopt_ring(RingOptions(slots_max=32))
    async with unix_listener() as (listener, address):
        socks = [connect(address) for _ in range(5)]
        with trio.CancelScope() as scope:
            async with listener.accept_direct_multishot() as connections:
                conn = await connections.__anext__()
                await passes(3)
                scope.cancel()
                await trio.lowlevel.checkpoint()
        await conn.aclose()
        # Those that were not taken ahead are still in the backlog.
        left = 0
        for sock in socks:
            try:
                assert sock.recv(1) == b""
            except BlockingIOError:
                left += 1
            sock.close()
        assert left < 4
        assert sorted(used_slots()) == [listener.slot]


# -- opening without a slot ------------------------------------------------------------------


async def test_no_file_is_truncated_by_a_task_that_never_got_a_slot(tmp_path: Path) -> None:
    """50 tasks open with O_TRUNC into 2 slots and are cancelled: 48 files keep their content."""
    adopt_ring(TWO_SLOTS)
    paths = [tmp_path / str(number) for number in range(50)]
    for path in paths:
        path.write_bytes(b"precious")
    opened: list[Path] = []

    async def open_and_hold(path: Path) -> None:
        async with await trio_uring.open_direct(path, os.O_WRONLY | os.O_TRUNC):
            opened.append(path)
            await trio.sleep_forever()

    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            for path in paths:
                nursery.start_soon(open_and_hold, path)
            while len(opened) < 2:
                await passes(1)
            await passes(5)
            nursery.cancel_scope.cancel()

    # Closing the first two gave their slots to the next in the queue, which were cancelled too.
    assert len(opened) == 2
    for path in paths:
        assert path.read_bytes() == (b"" if path in opened else b"precious")


async def test_no_file_is_created_by_a_task_that_never_got_a_slot(tmp_path: Path) -> None:
    """O_CREAT without a slot creates nothing, with wait=False too."""
    adopt_ring(TWO_SLOTS)
    flags = os.O_WRONLY | os.O_CREAT
    async with (
        await trio_uring.open_direct(tmp_path / "0", flags),
        await trio_uring.open_direct(tmp_path / "1", flags),
    ):
        with pytest.raises(SlotsExhausted):
            await trio_uring.open_direct(tmp_path / "2", flags, wait=False)
        with trio.move_on_after(0):
            await trio_uring.open_direct(tmp_path / "3", flags)
        assert sorted(os.listdir(tmp_path)) == ["0", "1"]


async def test_wait_false_raises_enfile_at_once(path: Path) -> None:
    """SlotsExhausted is an OSError with ENFILE; every opener raises it with wait=False."""
    adopt_ring(TWO_SLOTS)
    async with unix_listener() as (listener, address), await trio_uring.open_direct(path):
        with connect(address) as sock, open(path) as file:
            for attempt in (
                lambda: trio_uring.open_direct(path, wait=False),
                lambda: trio_uring.socket_direct(wait=False),
                lambda: trio_uring.pipe_direct(wait=False),
                lambda: trio_uring.register(file, wait=False),
                lambda: trio_uring.accept_direct(listener, wait=False),
                lambda: listener.accept_direct(wait=False),
            ):
                with pytest.raises(SlotsExhausted) as failure:
                    await attempt()
                assert failure.value.errno == errno.ENFILE
            with pytest.raises(BlockingIOError):
                sock.recv(1)


# -- fairness --------------------------------------------------------------------------------


async def test_slots_are_given_in_the_order_of_asking(path: Path) -> None:
    """Tasks that wait for a slot get it first come, first served."""
    adopt_ring(TWO_SLOTS)
    order: list[int] = []
    first = [await trio_uring.open_direct(path), await trio_uring.open_direct(path)]

    async def take(number: int) -> None:
        async with await trio_uring.open_direct(path):
            order.append(number)

    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(take, number)
                # Trio starts the tasks of one pass in no order.
                await trio.testing.wait_all_tasks_blocked()
            await first[0].aclose()
            while len(order) < 20:
                await passes(1)
            await first[1].aclose()
    assert order == list(range(20))


async def test_a_pipe_waits_for_two_slots_and_nobody_overtakes_it(path: Path) -> None:
    """Who asks for two slots is not starved by those who ask for one."""
    adopt_ring(TWO_SLOTS)
    order: list[str] = []
    held = [await trio_uring.open_direct(path), await trio_uring.open_direct(path)]

    async def pipe() -> None:
        for end in await trio_uring.pipe_direct():
            await end.aclose()
        order.append("pipe")

    async def single() -> None:
        async with await trio_uring.open_direct(path):
            order.append("file")

    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pipe)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(single)
            await trio.testing.wait_all_tasks_blocked()
            await held[0].aclose()
            await passes(5)
            assert order == []
            with pytest.raises(SlotsExhausted):
                await trio_uring.open_direct(path, wait=False)
            await held[1].aclose()
    assert sorted(order) == ["file", "pipe"]


async def test_a_cancelled_wait_lets_those_behind_it_go_on(path: Path) -> None:
    """A wait for two slots that is cancelled gives the one free slot to the next in the queue."""
    adopt_ring(TWO_SLOTS)
    async with await trio_uring.open_direct(path):
        other = await trio_uring.open_direct(path)
        scope = trio.CancelScope()
        done = trio.Event()

        async def pipe() -> None:
            with scope:
                await trio_uring.pipe_direct()

        async def single() -> None:
            async with await trio_uring.open_direct(path):
                done.set()

        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pipe)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(single)
                await trio.testing.wait_all_tasks_blocked()
                await other.aclose()
                scope.cancel()
                await done.wait()
        assert scope.cancelled_caught


async def test_a_cancelled_wait_gives_back_a_slot_that_it_was_just_given(path: Path) -> None:
    """A slot granted in the same pass as the cancel goes to the next one, and not astray."""
    adopt_ring(RingOptions(slots_max=1))
    for cancel_first in (True, False) * 20:
        held = await trio_uring.open_direct(path)
        scope = trio.CancelScope()
        results: list[str] = []

        async def first(scope: trio.CancelScope = scope, results: list[str] = results) -> None:
            with scope:
                async with await trio_uring.open_direct(path):
                    results.append("first")

        async def second(results: list[str] = results) -> None:
            async with await trio_uring.open_direct(path):
                results.append("second")

        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(first)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(second)
                await trio.testing.wait_all_tasks_blocked()
                if cancel_first:
                    scope.cancel()
                held._close_now()
                scope.cancel()
        assert results[-1] == "second"
        assert_nothing_left()


async def test_closing_the_listener_ends_an_accept_that_waits_for_a_slot(path: Path) -> None:
    """accept_direct that has no slot yet raises ClosedResourceError when its listener closes."""
    adopt_ring(RingOptions(slots_max=3))
    async with await trio_uring.open_direct(path), await trio_uring.open_direct(path):
        async with unix_listener() as (listener, _):
            pipe = trio.CancelScope()

            async def ahead() -> None:
                with pipe:
                    await trio_uring.pipe_direct()

            async def accept() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await listener.accept_direct()

            async def accept_many() -> None:
                async with listener.accept_direct_multishot() as connections:
                    with pytest.raises(trio.ClosedResourceError):
                        await connections.__anext__()

            with trio.fail_after(WAIT_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ahead)
                    await trio.testing.wait_all_tasks_blocked()
                    async with trio.open_nursery() as accepts:
                        accepts.start_soon(accept)
                        accepts.start_soon(accept_many)
                        await trio.testing.wait_all_tasks_blocked()
                        await listener.aclose()
                    pipe.cancel()


async def test_a_dropped_handle_gives_its_slot_to_who_waits(path: Path) -> None:
    """The garbage collector frees a slot: the task that waits for one goes on at once."""
    adopt_ring(RingOptions(slots_max=1))
    held: list[FixedFile] = [await trio_uring.open_direct(path)]
    got = trio.Event()

    async def wait() -> None:
        async with await trio_uring.open_direct(path):
            got.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.warns(ResourceWarning, match=r"test_slots\.py"):
            held.clear()
            gc.collect()
        with trio.fail_after(WAIT_S):
            await got.wait()


async def test_a_handle_dropped_in_another_thread_gives_its_slot_to_who_waits(path: Path) -> None:
    """Also when the collector runs in a thread that is not Trio's, while the loop sleeps."""
    adopt_ring(RingOptions(slots_max=1))
    held: list[FixedFile] = [await trio_uring.open_direct(path)]
    asleep = Asleep()
    trio.lowlevel.add_instrument(asleep)

    def drop() -> None:
        asleep.event.wait(WAIT_S)
        held.clear()

    thread = threading.Thread(target=drop)
    with pytest.warns(ResourceWarning, match=r"test_slots\.py"), trio.fail_after(WAIT_S):
        thread.start()
        async with await trio_uring.open_direct(path):
            pass
    thread.join()
    trio.lowlevel.remove_instrument(asleep)


# -- named slots -----------------------------------------------------------------------------


async def test_manual_slots_are_given_only_to_who_names_them(path: Path) -> None:
    """The first slots_manual slots are never handed out by us; slot= takes exactly that one."""
    adopt_ring(RingOptions(slots_max=4, slots_manual=2))
    async with (
        await trio_uring.open_direct(path, slot=1) as named,
        await trio_uring.open_direct(path) as one,
        await trio_uring.open_direct(path) as other,
    ):
        assert named.slot == 1
        assert sorted([one.slot, other.slot]) == [2, 3]
        with pytest.raises(SlotsExhausted):
            await trio_uring.open_direct(path, wait=False)
        async with await trio_uring.socket_direct(slot=0) as sock:
            assert sock.slot == 0
            assert sorted(used_slots()) == [0, 1, 2, 3]


async def test_a_manual_slot_that_is_taken_is_refused(path: Path) -> None:
    """slot= of a taken slot raises EBUSY and replaces nothing; after the close it can be had."""
    adopt_ring(RingOptions(slots_max=4, slots_manual=2))
    async with await trio_uring.open_direct(path, slot=1) as named:
        with pytest.raises(OSError, match="slot 1 is taken") as failure:
            await trio_uring.open_direct("/dev/null", slot=1)
        assert failure.value.errno == errno.EBUSY
        assert await named.read_at(100, 0) == b"content"
    async with await trio_uring.open_direct(path, slot=1) as again:
        assert again.slot == 1


@pytest.mark.parametrize("slot", [-1, 2, 3, 4, 2**32 - 2, 2**32 - 1, 2**32])
async def test_a_slot_outside_of_the_manual_part_is_a_value_error(path: Path, slot: int) -> None:
    """slot= of a slot that we hand out, or that there is not, opens nothing."""
    adopt_ring(RingOptions(slots_max=4, slots_manual=2))
    with pytest.raises(ValueError, match="slots_manual=2"):
        await trio_uring.open_direct(path, slot=slot)
    assert trio_uring.current_statistics().slots_used == 0


async def test_asking_for_more_slots_than_there_are_raises_and_does_not_hang(path: Path) -> None:
    """A pipe in a table of one slot, or anything in a table of manual slots only, is ENFILE."""
    adopt_ring(RingOptions(slots_max=3, slots_manual=2))
    with pytest.raises(SlotsExhausted):
        await trio_uring.pipe_direct()
    async with await trio_uring.open_direct(path):
        pass


# -- reuse -----------------------------------------------------------------------------------


async def test_row_33_a_stale_handle_never_reaches_the_next_file(path: Path) -> None:
    """Row 33: a closed handle raises, however soon its slot holds another file; no SQE is made."""
    adopt_ring(RingOptions(slots_max=1))
    stale = await trio_uring.open_direct(path)
    slot = stale.slot
    await stale.aclose()
    async with await trio_uring.open_direct("/dev/zero") as fresh:
        assert fresh.slot == slot
        before = trio_uring.current_statistics().submitted, engine().ring.tail
        with pytest.raises(trio.ClosedResourceError):
            await stale.read_at(10, 0)
        with pytest.raises(trio.ClosedResourceError):
            await stale.write_at(b"x", 0)
        await stale.aclose()
        assert (trio_uring.current_statistics().submitted, engine().ring.tail) == before
        assert await fresh.read(4) == bytes(4)


async def test_row_17_a_cancel_for_an_old_handle_spares_the_new_one() -> None:
    """Row 17: closing a handle ends its own operations, not those of the next file in its slot."""
    adopt_ring(RingOptions(slots_max=1))
    async with socket_pair() as (old, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(raises_closed, old)
            await trio.testing.wait_all_tasks_blocked()
            await old.aclose()
        async with socket_pair() as (new, peer):
            got: list[bytes] = []

            async def receive() -> None:
                got.append(await new.recv(10))

            with trio.fail_after(WAIT_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(receive)
                    await trio.testing.wait_all_tasks_blocked()
                    await old.aclose()
                    await passes(3)
                    assert got == []
                    peer.send(b"data")
            assert got == [b"data"]


async def raises_closed(sock: FixedSocket) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await sock.recv(10)


async def test_more_handles_than_descriptors_are_possible(path: Path) -> None:
    """A thousand open files take a thousand slots, and no descriptor where 6.8 is at hand."""
    from trio_uring._capabilities import capabilities

    adopt_ring(RingOptions(slots_max=512))
    before = len(os.listdir("/proc/self/fd"))
    async with trio_uring.open_file_scope() as scope:
        for _ in range(500):
            await scope.open_direct(path)
        assert len(used_slots()) == 500
        grown = len(os.listdir("/proc/self/fd")) - before
        assert grown <= (1 if capabilities().install else 501)  # the ring itself


async def test_a_family_of_sockets_shares_no_slot() -> None:
    """Sockets that are open at once have different slots, and each its own kernel object."""
    adopt_ring(RingOptions(slots_max=8))
    async with trio_uring.open_file_scope() as scope:
        socks = [await scope.socket_direct(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(8)]
        names = []
        for sock in socks:
            await sock.bind(("127.0.0.1", 0))
            names.append(await sock.getsockname())
        assert len({sock.slot for sock in socks}) == 8
        assert len(set(names)) == 8
