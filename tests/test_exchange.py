# SPDX-License-Identifier: MIT OR Apache-2.0
"""`FixedSocket.exchange`: a send and the receive behind it, awaited once."""

from __future__ import annotations

import select
import socket
from contextlib import AsyncExitStack

import pytest
import trio
from engine_help import LONG, WAIT_S, engine, passes, rounds, socket_pair

import trio_uring
from trio_uring import RingOptions
from trio_uring.lowlevel import Op
from trio_uring.testing import TINY_RING, adopt_ring, requires_kernel_feature, requires_op

pytestmark = requires_kernel_feature("direct_descriptors")


@pytest.fixture(params=["adopted", "hosted"], autouse=True)
def _driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_URING_DRIVER", request.param)


async def warm(sock: trio_uring.FixedSocket, peer: socket.socket) -> None:
    """The first receive of a run makes its shared buffers; exchanges use them from then on."""
    peer.send(b"warm")
    assert await sock.recv(4) == b"warm"


def fill(sock: socket.socket) -> int:
    """Sends until the buffers of the connection are full; how much that was."""
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            sent += sock.send(bytes(65536))
    return sent


def drain(sock: socket.socket) -> bytes:
    """All that is there."""
    data = bytearray()
    with pytest.raises(BlockingIOError):
        while part := sock.recv(1 << 20):
            data += part
    return bytes(data)


@pytest.mark.parametrize("nbytes", [1, 4096, 4097, 100_000])
async def test_it_sends_all_and_returns_what_came(nbytes: int) -> None:
    """Also what is too long to be copied, and what the socket's buffers cannot hold at once."""
    async with socket_pair() as (ours, theirs):
        await warm(ours, theirs)
        data = bytes(range(256)) * (nbytes // 256 + 1)
        got = bytearray()

        async def peer() -> None:
            while len(got) < len(data):
                await trio.lowlevel.wait_readable(theirs)
                got.extend(theirs.recv(65536))
            theirs.send(b"answer")

        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer)
                assert await ours.exchange(data, 100) == b"answer"
        assert bytes(got) == data


async def test_a_hundred_pairs_exchange_in_one_system_call_a_pass() -> None:
    """Both operations of all tasks are submitted together."""
    async with trio.open_nursery() as nursery:
        pairs = []
        for _ in range(20):
            pair = socket_pair()
            pairs.append((pair, await pair.__aenter__()))
        await warm(*pairs[0][1])
        before = trio_uring.current_statistics()
        for _, (ours, _peer) in pairs:
            nursery.start_soon(ours.exchange, b"question", 10)
        await passes(3)
        for _, (_ours, peer) in pairs:
            assert peer.recv(100) == b"question"
        after = trio_uring.current_statistics()
        assert after.submitted - before.submitted >= 40
        assert after.enters - before.enters <= 6
        for _, (_ours, peer) in pairs:
            peer.send(b"answer")
    for pair, _ in pairs:
        await pair.__aexit__(None, None, None)


async def test_an_end_of_the_stream_is_empty() -> None:
    """As for recv()."""
    async with socket_pair() as (ours, theirs):
        await warm(ours, theirs)
        theirs.shutdown(socket.SHUT_WR)
        assert await ours.exchange(b"last words", 100) == b""
        assert theirs.recv(100) == b"last words"


async def test_a_lost_peer_breaks_the_sending_side() -> None:
    """What the peer had sent before can still be received."""
    async with socket_pair() as (ours, theirs):
        await warm(ours, theirs)
        theirs.send(b"left over")
        theirs.close()
        with pytest.raises(trio.BrokenResourceError):
            await ours.exchange(b"nobody hears this", 100)
        assert await ours.recv(100) == b"left over"


@requires_op(Op.SOCKET)  # of the kernel that brought shared buffers; without them it is two steps
async def test_its_two_halves_are_one_operation_in_flight() -> None:
    """One completion comes, and nothing is left over: of one that ends, breaks, or is cancelled."""
    async with socket_pair() as (ours, theirs):
        await warm(ours, theirs)
        ring = engine().ring
        await passes(1)
        idle = ring.in_flight
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.exchange, b"question", 100)
            await passes(2)
            assert ring.in_flight == idle + 1
            nursery.cancel_scope.cancel()
        for _ in range(3):
            theirs.send(b"answer")
            await ours.exchange(b"question", 100)
        with trio.move_on_after(0.01):
            await ours.exchange(bytes(10 << 20), 100)
        drain(theirs)
        theirs.close()
        with pytest.raises(trio.BrokenResourceError):
            await ours.exchange(b"nobody hears this", 100)
        async with socket_pair() as (other, _):
            with trio.fail_after(WAIT_S):  # a request to cancel may wait for a second one
                while ring.in_flight > idle:
                    await other.poll(select.POLLOUT)


async def test_cancelled_before_it_began_it_sends_nothing() -> None:
    """Neither half reaches the kernel."""
    async with socket_pair() as (ours, theirs):
        await warm(ours, theirs)
        with trio.CancelScope() as scope:
            scope.cancel()
            await ours.exchange(b"never", 100)
        await passes(2)
        with pytest.raises(BlockingIOError):
            theirs.recv(100)
        theirs.send(b"still there")
        assert await ours.exchange(b"x", 100) == b"still there"


async def test_cancelled_while_it_waits_for_an_answer_it_loses_none() -> None:
    """The answer comes with the next receive."""
    async with socket_pair() as (ours, theirs):
        await warm(ours, theirs)
        with trio.move_on_after(0.01) as scope:
            await ours.exchange(b"question", 100)
        assert scope.cancelled_caught
        assert theirs.recv(100) == b"question"
        theirs.send(b"late answer")
        assert await ours.recv(100) == b"late answer"


async def test_cancelled_while_it_sends_it_ends() -> None:
    """A peer that does not read holds up the send, and so the receive that is linked behind it."""
    async with socket_pair() as (ours, theirs):
        await warm(ours, theirs)
        with trio.fail_after(WAIT_S), trio.move_on_after(0.01) as scope:
            await ours.exchange(bytes(10 << 20), 100)
        assert scope.cancelled_caught
        drain(theirs)
        theirs.send(b"and on")
        assert await ours.recv(100) == b"and on"


async def test_it_keeps_others_from_sending_and_receiving() -> None:
    """It does both."""
    async with socket_pair() as (ours, theirs):
        await warm(ours, theirs)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.exchange, b"mine", 100)
            await passes(2)
            with pytest.raises(trio.BusyResourceError):
                await ours.recv(1)
            with pytest.raises(trio.BusyResourceError):
                await ours.send_all(b"x")
            with pytest.raises(trio.BusyResourceError):
                await ours.exchange(b"x", 1)
            theirs.send(b"done")


async def test_nobody_else_receives_while_it_sends() -> None:
    """Also where it is a send and then a receive: before the first receive of a run."""
    async with socket_pair() as (ours, theirs):

        async def read_all() -> None:
            while True:
                await trio.lowlevel.wait_readable(theirs)
                theirs.recv(1 << 20)

        async with trio.open_nursery() as nursery:

            async def exchange() -> None:
                assert await ours.exchange(bytes(10 << 20), 100) == b"done"
                nursery.cancel_scope.cancel()

            nursery.start_soon(exchange)
            await passes(3)
            with pytest.raises(trio.BusyResourceError):
                await ours.recv(1)
            theirs.send(b"done")
            nursery.start_soon(read_all)


async def test_a_close_ends_it() -> None:
    """While it waits for an answer, and while it sends."""
    async with socket_pair() as (ours, theirs):
        await warm(ours, theirs)
        for data in (b"short", bytes(10 << 20)):
            async with trio.open_nursery() as nursery:

                async def exchange(data: bytes = data) -> None:
                    with pytest.raises(trio.ClosedResourceError):
                        await ours.exchange(data, 100)

                nursery.start_soon(exchange)
                await passes(3)
                await ours.aclose()


async def test_in_a_tiny_ring_nothing_is_lost() -> None:
    """Two entries, two shared buffers: every exchange fills the queue."""
    adopt_ring(TINY_RING)
    async with socket_pair() as (first, peer), socket_pair() as (second, other):
        await warm(first, peer)

        async def talk(ours: trio_uring.FixedSocket, theirs: socket.socket) -> None:
            for number in range(50):
                theirs.send(b"%3d" % number)
                assert await ours.exchange(b"<%3d>" % number, 100) == b"%3d" % number
            assert drain(theirs) == b"".join(b"<%3d>" % number for number in range(50))

        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(talk, first, peer)
                nursery.start_soon(talk, second, other)


async def test_without_a_buffer_for_the_answer_it_has_sent_once() -> None:
    """The send is over when the receive finds no shared buffer; the receive alone is made again."""
    adopt_ring(RingOptions(recv_buffers=2, recv_buffer_bytes=64))
    async with AsyncExitStack() as stack:
        pairs = [await stack.enter_async_context(socket_pair()) for _ in range(6)]
        await warm(*pairs[0])
        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                for ours, theirs in pairs:
                    theirs.send(b"answer")
                    nursery.start_soon(ours.exchange, b"question", 10)
        assert [drain(theirs) for _, theirs in pairs] == [b"question"] * 6


async def test_a_cancel_that_races_the_answer_loses_nothing() -> None:
    """The bytes come back from this exchange or from the next receive."""
    async with socket_pair() as (ours, theirs):
        await warm(ours, theirs)
        got = bytearray()
        for number in range(rounds(200, 5000)):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    async def exchange() -> None:
                        got.extend(await ours.exchange(b"?", 100))

                    nursery.start_soon(exchange)
                    await passes(number % 4)
                    theirs.send(b"!")
                    if number % 3:
                        scope.cancel()
            drain(theirs)
        with trio.fail_after(WAIT_S):
            while len(got) < rounds(200, 5000):
                got.extend(await ours.recv(1000))
        assert bytes(got) == b"!" * rounds(200, 5000)
    assert not LONG or engine().late_completions == 0
