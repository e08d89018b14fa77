# SPDX-License-Identifier: MIT OR Apache-2.0
"""Receives of several shared buffers in one piece, and all that has come at once."""

from __future__ import annotations

import errno
import hashlib
import random
import socket
import struct
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
import trio.testing
from engine_help import WAIT_S, connect, engine, listen, passes, rounds, socket_pair
from test_handle_life import Steps

import trio_uring
from trio_uring import RingOptions, _recv_multishot
from trio_uring._capabilities import capabilities
from trio_uring._native import new_bytes
from trio_uring._prep import prep_recv
from trio_uring._recv_multishot import CHUNKS_MAX
from trio_uring.lowlevel import Op, SqeFlag
from trio_uring.testing import TINY_RING, adopt_ring, requires_direct_descriptors, requires_op

if TYPE_CHECKING:
    from trio_uring import FixedSocket
    from trio_uring._recv_multishot import ReceivedData
    from trio_uring._shared_buffers import SharedBuffers

# SEND_ZC came with 6.0, and so did multishot receive.
pytestmark = [
    requires_direct_descriptors(),
    requires_op(Op.SEND_ZC),
    pytest.mark.usefixtures("uring_leak_gate"),
]

SIZE = 64
FEW = RingOptions(recv_buffers=8, recv_buffer_bytes=SIZE)
SMALL = RingOptions(recv_buffers=256, recv_buffer_bytes=SIZE)
NUMBERED = bytes(range(256)) * 16


@pytest.fixture(params=["as it is", "before 6.17", "before 6.10"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Also without limits of multishots, and without bundles."""
    found = capabilities()
    if request.param == "as it is":
        return "as it is"
    if not (found.limits_receives if request.param == "before 6.17" else found.bundles):
        pytest.skip(f"this kernel does not know what {request.param} was not known anyway")
    bundles = request.param == "before 6.17"
    older = attrs.evolve(found, limits_receives=False, bundles=bundles)
    monkeypatch.setattr(_recv_multishot, "capabilities", lambda: older)
    return str(request.param)


@pytest.fixture(params=["for", "drain"])
def way(request: pytest.FixtureRequest) -> str:
    """How the chunks are taken."""
    return str(request.param)


async def take(received: ReceivedData, way: str) -> list[bytes]:
    """``[]`` at the end."""
    if way == "drain":
        return await received.drain()
    return [chunk async for chunk in Once(received)]


class Once:
    """At most one chunk of a loop."""

    def __init__(self, received: ReceivedData) -> None:
        self.received: ReceivedData | None = received

    def __aiter__(self) -> Once:
        return self

    async def __anext__(self) -> bytes:
        received, self.received = self.received, None
        if received is None:
            raise StopAsyncIteration
        return await received.__anext__()


async def tcp_pair() -> tuple[FixedSocket, socket.socket]:
    """Of TCP the kernel has always known how much is there to be received."""
    listener, address = await listen()
    async with listener:
        client = connect(address)
        return await listener.accept_direct(), client


def shared_buffers() -> SharedBuffers:
    buffers = engine().shared_buffers()
    assert buffers is not None
    return buffers


def assert_all_given_back() -> None:
    """Nothing is lent, and what came back is the kernel's again: nothing else holds it up."""
    buffers = shared_buffers()
    buffers.give_back()
    assert (buffers.returned, buffers.lent) == (0, 0)


async def send_all(
    peer: socket.socket, data: bytes, randomly: random.Random, nbytes: int = 2000
) -> None:
    """In pieces of 1 to ``nbytes`` bytes; then the end."""
    stream = trio.socket.from_stdlib_socket(peer.dup())
    with stream:
        while data:
            sent = await stream.send(data[: randomly.randint(1, nbytes)])
            data = data[sent:]
        stream.shutdown(socket.SHUT_WR)


# -- bundles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [TINY_RING, FEW, SMALL, RingOptions()])
async def test_every_byte_comes_once_and_in_order_on_sockets_that_share_the_buffers(
    options: RingOptions, kernel: str, way: str
) -> None:
    """Six streams of random pieces at the same time; then all buffers are the kernel's again."""
    adopt_ring(options)
    randomly = random.Random(f"{options} {kernel} {way}")
    nbytes = rounds(20_000, 1_000_000)

    async def check(sock: FixedSocket, digest: bytes) -> None:
        got = hashlib.sha256()
        async with sock.recv_multishot() as received:
            while chunks := await take(received, way):
                assert {type(chunk) for chunk in chunks} == {bytes}
                got.update(b"".join(chunks))
                await passes(randomly.choice((0, 0, 0, 1, 3)))
        assert got.digest() == digest

    async def one_stream(tcp: bool) -> None:
        data = randomly.randbytes(nbytes)
        digest = hashlib.sha256(data).digest()
        async with slots, trio.open_nursery() as nursery:
            if tcp:
                sock, peer = await tcp_pair()
                with peer:
                    async with sock:
                        nursery.start_soon(send_all, peer, data, randomly)
                        await check(sock, digest)
            else:
                async with socket_pair() as (sock, peer):
                    nursery.start_soon(send_all, peer, data, randomly)
                    await check(sock, digest)

    # A listener and a connection each.
    slots = trio.CapacityLimiter(max(1, options.slots_max // 2))
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(one_stream, number % 2 == 0)
    assert_all_given_back()


async def test_one_completion_brings_several_buffers_and_gives_all_of_them_back(way: str) -> None:
    """Chunks are longer than a buffer, also across the last one, and fewer than buffers."""
    if not capabilities().bundles:
        pytest.skip("this kernel has no bundles (before 6.10)")
    adopt_ring(FEW)
    sock, peer = await tcp_pair()
    with peer:
        async with sock:
            for start in range(1, 50):
                data = NUMBERED[start : start + 5 * SIZE]
                peer.sendall(data)
                async with sock.recv_multishot() as received:
                    got: list[bytes] = []
                    while sum(map(len, got)) < len(data):
                        got += await take(received, way)
                assert b"".join(got) == data
                assert max(map(len, got)) > SIZE
                assert len(got) < 5
                assert_all_given_back()


@pytest.mark.parametrize("nbytes", [20, SIZE + 20, 6 * SIZE])
@pytest.mark.parametrize("place", [0, 1, 3])
async def test_a_buffer_that_the_kernel_has_shortened_makes_no_gap(
    place: int, nbytes: int, way: str
) -> None:
    """It shortens one to what it expects, and leaves it so for the next if nothing came."""
    adopt_ring(FEW)
    sock, peer = await tcp_pair()
    with peer:
        async with sock:
            buffers = shared_buffers()
            for number in range(20):
                first = buffers._ring.tail  # all are in the ring: the next that is taken
                buffers._lengths[(first + place) % FEW.recv_buffers] = 5
                data = NUMBERED[number : number + nbytes]
                peer.sendall(data)
                got = b""
                async with sock.recv_multishot() as received:
                    while len(got) < len(data):
                        got += b"".join(await take(received, way))
                assert got == data
                assert_all_given_back()
                assert buffers._lengths[first % FEW.recv_buffers] == SIZE


async def test_buffers_that_come_back_early_wait_for_those_before_them() -> None:
    """So the ring keeps the order of ids. All are given back when the first is."""
    adopt_ring(FEW)
    async with socket_pair() as (sock, peer):
        buffers = shared_buffers()
        tail = buffers._ring.tail
        for number in range(3):  # lent: these receives do not give back
            peer.send(b"%d" % number)
            await engine().perform_on(
                sock, prep_recv, 0, SIZE, 0, bounded=False, flags=SqeFlag.BUFFER_SELECT
            )
        for buffer_id, given in ((2, 0), (1, 0), (0, 3)):
            assert buffers.take(buffer_id << 16, 1) == b"%d" % buffer_id
            buffers.give_back()
            assert buffers._ring.tail == tail + given
        assert buffers.returned == 0


async def test_a_reader_that_stalls_takes_no_more_than_the_bound(kernel: str) -> None:
    """As many bytes as `CHUNKS_MAX` buffers have; without a limit what one pass can bring, too."""
    options = RingOptions(recv_buffers=64, recv_buffer_bytes=1024)
    adopt_ring(options)
    bound = CHUNKS_MAX * options.recv_buffer_bytes
    if not (kernel == "as it is" and capabilities().limits_receives):
        bound += 2 * options.recv_buffers * options.recv_buffer_bytes
    sock, peer = await tcp_pair()
    with peer:
        async with sock, sock.recv_multishot() as received:
            peer.sendall(b"first")
            assert await received.__anext__() == b"first"
            peer.setblocking(False)
            stalled = sent = 0
            while stalled < 20:
                try:
                    sent += peer.send(bytes(65536))
                    stalled = 0
                except BlockingIOError:
                    stalled += 1
                await passes(2)
            assert sum(map(len, received._chunks)) <= bound < sent
            peer.shutdown(socket.SHUT_WR)
            got = 0
            while chunks := await received.drain():
                got += sum(map(len, chunks))
            assert got == sent


async def test_what_a_bundle_left_is_received_in_small_pieces() -> None:
    """By recv, with a look ahead, by recv_into, and by the next multishot."""
    adopt_ring(SMALL)
    sock, peer = await tcp_pair()
    with peer:
        async with sock:
            async with sock.recv_multishot() as received:
                peer.sendall(NUMBERED[:1])
                got = await received.__anext__()
                peer.sendall(NUMBERED[1:400])
                while sum(map(len, received._chunks)) < 399:
                    await passes(1)
            peer.sendall(NUMBERED[400:1000])
            buffer = bytearray(3)
            while len(got) < 300:
                ahead = await sock.recv(5, socket.MSG_PEEK)
                piece = await sock.recv(5)
                assert type(piece) is type(ahead) is bytes
                assert piece.startswith(ahead) or ahead.startswith(piece)
                got += piece
                count = await sock.recv_into(buffer)
                got += buffer[:count]
            async with sock.recv_multishot() as received:
                while len(got) < 1000:
                    chunk = await received.__anext__()
                    assert type(chunk) is bytes
                    got += chunk
            assert got == NUMBERED[:1000]


# -- recv ------------------------------------------------------------------------------------------


async def test_a_receive_behind_a_full_buffer_takes_more_than_one() -> None:
    """And when little has come, the next takes a shared buffer again."""
    adopt_ring(FEW)
    async with socket_pair() as (sock, peer):
        for _ in range(3):
            peer.send(NUMBERED[:500])
            assert await sock.recv(4096) == NUMBERED[:SIZE]
            assert await sock.recv(4096) == NUMBERED[SIZE:500]
            peer.send(NUMBERED[:SIZE])  # full to the last byte, and nothing behind it
            assert await sock.recv(4096) == NUMBERED[:SIZE]
            with trio.move_on_after(0):
                await sock.recv(4096)
            peer.send(b"little")
            assert await sock.recv(4096) == b"little"
        peer.send(NUMBERED[:500])
        assert await sock.recv(4096) == NUMBERED[:SIZE]


async def test_a_large_receive_does_not_take_as_much_memory_as_it_might(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a stream that flows 256 KiB at the most; all of it comes."""
    data = random.Random(1).randbytes(1 << 21)
    taken: list[int] = []

    def counted(nbytes: int) -> bytes:
        taken.append(nbytes)
        return new_bytes(nbytes)

    monkeypatch.setattr("trio_uring._socket_receive.new_bytes", counted)
    sock, peer = await tcp_pair()
    with peer, trio.fail_after(WAIT_S):
        async with sock, trio.open_nursery() as nursery:
            nursery.start_soon(send_all, peer, data, random.Random(2), 1 << 20)
            got = b""
            while chunk := await sock.recv(1 << 29):
                got += chunk
    assert got == data
    assert set(taken) == {1 << 18}


# -- how bundles end -------------------------------------------------------------------------------


async def test_leaving_at_any_time_loses_no_byte_and_no_buffer(kernel: str, way: str) -> None:
    """The block is left, cancelled or entered again while bundles come."""
    adopt_ring(FEW)
    randomly = random.Random(f"{kernel} {way}")
    data = randomly.randbytes(rounds(40_000, 1_000_000))
    sock, peer = await tcp_pair()
    got = bytearray()
    with peer, trio.fail_after(WAIT_S):
        async with sock, trio.open_nursery() as nursery:
            nursery.start_soon(send_all, peer, data, randomly)
            while len(got) < len(data):
                with trio.CancelScope() as scope:
                    async with sock.recv_multishot() as received:
                        while chunks := await take(received, way):
                            got += b"".join(chunks)
                            if not randomly.randrange(4):
                                break
                            if not randomly.randrange(4):
                                scope.cancel()
                        got += b"".join(received._chunks)
                        received._chunks.clear()
                if randomly.randrange(2):
                    got += await sock.recv(randomly.randint(1, 300))
                assert trio_uring.current_statistics().buffers_lent == 0
    assert got == data


@pytest.mark.parametrize("as_it_is", [True, False], ids=["as it is", "with ends that are lost"])
async def test_an_end_that_comes_with_data_is_seen(
    as_it_is: bool, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Unix sockets, too, where multishots of some kernels do not see it."""
    if not as_it_is:
        known = attrs.evolve(capabilities(), loses_ends=True)
        monkeypatch.setattr(_recv_multishot, "capabilities", lambda: known)
    for _ in range(rounds(20, 1000)):
        async with socket_pair() as (sock, peer), sock.recv_multishot() as received:
            if not as_it_is:
                assert not received._supported
            peer.send(b"first")
            assert await take(received, way) == [b"first"]
            peer.send(b"last")
            peer.close()
            with trio.fail_after(WAIT_S):
                assert await take(received, way) == [b"last"]
                assert await take(received, way) == []


async def test_a_close_delivers_what_bundles_brought_and_gives_every_buffer_back(
    kernel: str, way: str
) -> None:
    """Then it is ClosedResourceError: for drain and for the loop."""
    adopt_ring(SMALL)
    sock, peer = await tcp_pair()
    with peer:
        async with sock, sock.recv_multishot() as received:
            peer.sendall(b"1")
            got = await received.__anext__()
            peer.sendall(NUMBERED[:500])
            while sum(map(len, received._chunks)) < 500:
                await passes(1)
            await sock.aclose()
            with pytest.raises(trio.ClosedResourceError):
                while chunks := await take(received, way):
                    got += b"".join(chunks)
        assert got == b"1" + NUMBERED[:500]
    assert_all_given_back()


async def test_a_reset_delivers_what_bundles_brought_first(kernel: str, way: str) -> None:
    """Then it is BrokenResourceError, and for the next receive, too."""
    adopt_ring(SMALL)
    sock, peer = await tcp_pair()
    async with sock:
        with peer:
            async with sock.recv_multishot() as received:
                peer.sendall(b"1")
                got = await received.__anext__()
                peer.sendall(NUMBERED[:500])
                while sum(map(len, received._chunks)) < 500:
                    await passes(1)
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                peer.close()
                with pytest.raises(trio.BrokenResourceError):
                    while chunks := await take(received, way):
                        got += b"".join(chunks)
        assert got == b"1" + NUMBERED[:500]
        with pytest.raises(trio.BrokenResourceError):
            await sock.recv(1)


# -- drain -----------------------------------------------------------------------------------------


async def test_drain_takes_all_that_has_come_for_one_checkpoint() -> None:
    """One step of the loop for four chunks that are there, and for one that is waited for."""
    sock, peer = await tcp_pair()
    with peer:
        async with sock, sock.recv_multishot() as received:
            peer.send(b"0")
            assert await received.drain() == [b"0"]
            for number in b"1234":
                peer.send(bytes([number]))
                while list(received._chunks)[-1:] != [bytes([number])]:
                    await passes(1)
            with Steps() as steps, trio.testing.assert_checkpoints():
                assert await received.drain() == [b"1", b"2", b"3", b"4"]
            assert steps.count == 1
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_when_blocked, peer)
                with Steps() as steps, trio.testing.assert_checkpoints():
                    assert await received.drain() == [b"late"]
                assert steps.count == 1


async def send_when_blocked(peer: socket.socket) -> None:
    await trio.testing.wait_all_tasks_blocked()
    peer.send(b"late")


@pytest.mark.parametrize("known", [False, True])
async def test_drain_is_empty_at_the_end_and_only_there(known: bool) -> None:
    """After all data, as often as one asks, and each time a checkpoint."""
    async with socket_pair() as (sock, peer), sock.recv_multishot() as received:
        peer.send(b"x")
        assert await received.drain() == [b"x"]
        peer.send(b"y")
        peer.close()
        await passes(3 * known)
        assert b"".join(await received.drain()) == b"y"
        for _ in range(2):
            with trio.testing.assert_checkpoints():
                assert await received.drain() == []
        with pytest.raises(StopAsyncIteration):
            await received.__anext__()


@pytest.mark.parametrize("starved", [False, True], ids=["multishot", "without buffers"])
async def test_a_drain_that_is_cancelled_loses_nothing(starved: bool) -> None:
    """Whatever came before, with or after the cancellation, the next drain returns."""
    async with socket_pair() as (sock, peer), sock.recv_multishot() as received:
        expected = got = b""
        for number in range(rounds(100, 5000)):
            received._starved = starved and not received._armed
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    async def drain() -> None:
                        nonlocal got
                        got += b"".join(await received.drain())

                    nursery.start_soon(drain)
                    await passes(number % 3)
                    data = bytes([number & 0xFF]) * (1 + number % 5)
                    expected += data
                    if number % 2:
                        peer.send(data)
                    scope.cancel()
                    if not number % 2:
                        peer.send(data)
            with trio.fail_after(WAIT_S):
                while len(got) < len(expected):
                    got += b"".join(await received.drain())
            assert got == expected


async def test_drain_is_refused_where_the_loop_is() -> None:
    """Beside another reader, out of its block, in a block that has ended."""
    async with socket_pair() as (sock, peer):
        received = sock.recv_multishot()
        with pytest.raises(RuntimeError, match="inside"):
            await received.drain()
        async with received, trio.open_nursery() as nursery:
            for first, second in (("drain", "__anext__"), ("__anext__", "drain")):
                nursery.start_soon(getattr(received, first))
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(trio.BusyResourceError):
                    await getattr(received, second)()
                peer.send(b"x")
                await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RuntimeError, match="inside"):
            await received.drain()


async def test_a_drain_that_waits_ends_with_its_block() -> None:
    """ClosedResourceError in the task that waits."""
    errors: list[type[BaseException]] = []

    async def drain(received: ReceivedData) -> None:
        try:
            await received.drain()
        except trio.ClosedResourceError as error:
            errors.append(type(error))

    async with socket_pair() as (sock, _), trio.open_nursery() as nursery:
        async with sock.recv_multishot() as received:
            nursery.start_soon(drain, received)
            await trio.testing.wait_all_tasks_blocked()
    assert errors == [trio.ClosedResourceError]


@pytest.mark.parametrize("forbidden", ["socketpair", "create_server"])
async def test_a_process_without_sockets_can_use_files(
    forbidden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sandbox forbids them: what is asked by means of sockets is then not known."""

    def refuse(*args: Any, **options: Any) -> Any:
        raise PermissionError(errno.EPERM, "refused")

    known = capabilities()
    monkeypatch.setattr(f"trio_uring._capabilities.socket.{forbidden}", refuse)
    found = capabilities.__wrapped__()
    assert (found.ops, found.direct, found.install) == (known.ops, known.direct, known.install)
    assert found.bundles == (known.bundles and forbidden == "create_server")
