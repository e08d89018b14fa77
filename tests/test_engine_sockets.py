# SPDX-License-Identifier: MIT OR Apache-2.0
"""Sockets whose peers, closers and readers meet at the wrong time."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import struct
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from engine_help import WAIT_S, connect, engine, listen, passes, rounds, socket_pair, unix_listener

import trio_uring
from trio_uring import RingOptions
from trio_uring._capabilities import capabilities
from trio_uring._prep import prep_close_direct
from trio_uring._recv_multishot import CHUNKS_MAX
from trio_uring.lowlevel import Op, Sqe
from trio_uring.testing import (
    TINY_RING,
    adopt_ring,
    assert_nothing_left,
    requires_direct_descriptors,
    requires_op,
    used_slots,
)

if TYPE_CHECKING:
    from pathlib import Path

    from trio_uring import FixedSocket

pytestmark = [requires_direct_descriptors(), pytest.mark.usefixtures("uring_leak_gate")]

# SEND_ZC came with 6.0, and so did multishot receive.
takes_ahead = requires_op(Op.SEND_ZC)
FEW_BUFFERS = RingOptions(recv_buffers=2, recv_buffer_bytes=4096, slots_max=8)


# -- closing under an operation ----------------------------------------------------------------


async def expect_closed(sock: FixedSocket) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await sock.recv(10)


@pytest.mark.parametrize("forcefully", [False, True])
async def test_row_19_a_close_ends_the_receive_of_another_task(forcefully: bool) -> None:
    """Row 19: a pending receive raises ClosedResourceError, and the peer sees the end at once."""
    async with socket_pair() as (sock, peer):
        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(expect_closed, sock)
                await trio.testing.wait_all_tasks_blocked()
                if forcefully:
                    await trio.aclose_forcefully(sock)
                else:
                    await sock.aclose()
                assert peer.recv(10) == b""


async def test_row_34_what_arrives_after_the_close_goes_to_nobody() -> None:
    """Row 34: no operation of a closed handle goes on to take data from its file."""
    for _ in range(rounds(30, 1000)):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            handle = await trio_uring.register(ours)
            assert isinstance(handle, trio_uring.FixedSocket)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(expect_closed, handle)
                await passes(2)
                await handle.aclose()
                theirs.send(b"data")
                # The file itself lives on in `ours`: an operation that did so too would read it.
                await passes(2)
                assert ours.recv(10) == b"data"


async def test_row_20_a_close_that_is_cancelled_still_frees_the_slot() -> None:
    """Row 20: aclose in a scope that is cancelled already ends with the slot free."""
    adopt_ring(TINY_RING)
    for in_flight in (0, 1, 5):
        async with socket_pair() as (sock, peer), trio.open_nursery() as nursery:
            for _ in range(in_flight):
                nursery.start_soon(poll_until_closed, sock)
            await trio.testing.wait_all_tasks_blocked()
            with trio.CancelScope() as scope:
                scope.cancel()
                await sock.aclose()
            assert scope.cancelled_caught
            assert used_slots() == {}
            assert peer.recv(10) == b""
        assert_nothing_left()


async def poll_until_closed(sock: FixedSocket) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await sock.poll(1)


async def test_row_40_a_handle_is_closed_once_however_often_it_is_asked() -> None:
    """Row 40: aclose twice, from two tasks, after its scope: one close, and never an error."""
    async with trio_uring.open_file_scope() as scope:
        file = await scope.open_direct("/dev/zero")
        other = await scope.open_direct("/dev/zero")
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(file.aclose)
        await file.aclose()
        await trio_uring.close_direct(file)
        assert len(used_slots()) == 1
        async with await trio_uring.open_direct("/dev/null") as third:
            await file.aclose()
            assert len(used_slots()) == 2
            assert third.slot != other.slot
    await other.aclose()
    await scope.aclose()


async def test_row_40_a_second_close_returns_when_the_file_is_closed() -> None:
    """Row 40: whoever awaits aclose may rely on the file being closed when that returns."""
    async with socket_pair() as (sock, peer):
        seen: list[bytes] = []

        async def close() -> None:
            await sock.aclose()
            seen.append(peer.recv(1))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_closed, sock)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(close)
            nursery.start_soon(close)
        assert seen == [b"", b""]


async def test_row_39_a_slot_is_closed_by_its_index_and_without_the_fixed_file_flag() -> None:
    """Row 39: the SQE has file_index and nothing else; a second one for the slot fails."""
    sqe = Sqe()
    prep_close_direct(sqe, 5, 77)
    assert (sqe.opcode, sqe.flags, sqe.fd, sqe.file_index) == (Op.CLOSE, 0, 0, 6)
    file = await trio_uring.open_direct("/dev/zero")
    slot = file.slot
    await file.aclose()
    with pytest.raises(OSError, match="Errno") as failure:
        await engine().perform(prep_close_direct, slot)
    # Where files stay in ordinary descriptors the ring has no table.
    assert failure.value.errno == (errno.EBADF if capabilities().install else errno.ENXIO)


async def test_row_41_cloexec_changes_nothing(tmp_path: Path) -> None:
    """Row 41: O_CLOEXEC and SOCK_CLOEXEC, which the kernel refuses with a slot, are taken."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    async with (
        await trio_uring.open_direct(path, os.O_RDONLY | os.O_CLOEXEC) as file,
        await trio_uring.socket_direct(
            socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        ) as sock,
    ):
        assert await file.read_at(10, 0) == b"content"
        assert sock.type is socket.SOCK_STREAM
    reader, writer = await trio_uring.pipe_direct(os.O_CLOEXEC)
    async with reader, writer:
        await writer.write(b"data")
        assert await reader.read(10) == b"data"


# -- streams ---------------------------------------------------------------------------------


async def test_row_50_a_broken_stream_stays_broken() -> None:
    """Row 50: after a reset every receive raises BrokenResourceError; none looks like an end."""
    listener, address = await listen()
    async with listener:
        client = connect(address)
        async with await listener.accept_direct() as conn:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            for _ in range(3):
                with pytest.raises(trio.BrokenResourceError):
                    await conn.recv(10)
            buffer = bytearray(10)
            with pytest.raises(trio.BrokenResourceError):
                await conn.recv_into(buffer)
            with pytest.raises(trio.BrokenResourceError):
                await conn.send_all(b"x")
            async with trio_uring.open_file_scope():
                with pytest.raises(trio.BrokenResourceError):
                    async with conn.recv_multishot():
                        pass


async def test_an_end_is_reported_as_often_as_it_is_asked_for() -> None:
    """The orderly end of a stream is b"" again and again, by each kind of receive."""
    async with socket_pair() as (sock, peer):
        peer.send(b"last")
        peer.close()
        assert await sock.recv(10) == b"last"
        for _ in range(2):
            assert await sock.recv(10) == b""
            assert await sock.recv_into(bytearray(10)) == 0
            async with sock.recv_multishot() as received:
                assert [data async for data in received] == []


async def test_row_53_a_shutdown_before_the_close_loses_no_byte() -> None:
    """Row 53: the peer gets every byte and then the end, when shutdown and aclose follow a send."""
    listener, address = await listen()
    async with listener:
        for i in range(rounds(50, 1000)):
            with connect(address) as client:
                async with await listener.accept_direct() as conn:
                    await conn.send_all(b"x" * (100 * i))
                    await conn.shutdown(socket.SHUT_WR)
                client.setblocking(True)
                got = b""
                while data := client.recv(1 << 16):
                    got += data
                assert len(got) == 100 * i


async def test_row_55_a_second_reader_or_writer_is_refused() -> None:
    """Row 55: two tasks in one direction of a stream: the second raises BusyResourceError."""
    async with socket_pair() as (sock, peer):
        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sock.recv, 10)
                await trio.testing.wait_all_tasks_blocked()
                for attempt in (
                    lambda: sock.recv(10),
                    lambda: sock.recv_into(bytearray(10)),
                    lambda: sock.recvmsg(10),
                    lambda: sock.recv_multishot().__aenter__(),
                ):
                    with pytest.raises(trio.BusyResourceError):
                        await attempt()
                peer.send(b"x")
            big = bytes(1 << 22)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sock.send_all, big)
                await trio.testing.wait_all_tasks_blocked()
                for send in (sock.send, sock.send_all):
                    with pytest.raises(trio.BusyResourceError):
                        await send(b"x")
                nursery.cancel_scope.cancel()
        # Who was refused has broken nothing.
        peer.send(b"y")
        assert await sock.recv(10) == b"y"


async def test_row_57_a_connect_that_is_cancelled_closes_its_socket() -> None:
    """Row 57: a socket in an unknown state is of no use: after a cancelled connect it is closed."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        # The backlog is full: further clients are not answered.
        waiting = [connect(full.getsockname()) for _ in range(3)]
        try:
            sock = await trio_uring.socket_direct()
            with trio.move_on_after(0.05) as scope:
                await sock.connect(full.getsockname())
            assert scope.cancelled_caught
            assert sock.closed
            assert used_slots() == {}
        finally:
            for client in waiting:
                client.close()


# -- multishot and provided buffers ------------------------------------------------------------


@pytest.mark.parametrize("options", [FEW_BUFFERS, TINY_RING, RingOptions()])
async def test_row_58_a_multishot_receive_goes_on_when_it_has_run_out_of_buffers(
    options: RingOptions,
) -> None:
    """Row 58: 1 MiB through two buffers to a slow reader: every byte, in order, and the end."""
    adopt_ring(options)
    data = os.urandom(1 << 20 if options.recv_buffer_bytes > 1000 else 1 << 17)
    got = hashlib.sha256()
    async with socket_pair() as (sock, peer):

        async def send() -> None:
            stream = trio.socket.from_stdlib_socket(peer.dup())
            with stream:
                sent = 0
                while sent < len(data):
                    sent += await stream.send(data[sent : sent + 50_000])
                stream.shutdown(socket.SHUT_WR)

        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                async with sock.recv_multishot() as received:
                    count = 0
                    async for chunk in received:
                        got.update(chunk)
                        count += 1
                        await passes(count % 3)
    assert got.digest() == hashlib.sha256(data).digest()


async def test_row_59_a_multishot_that_ends_without_a_word_is_armed_again() -> None:
    """Row 59: whenever the kernel ends the receive, the next is armed; the end is still seen."""
    adopt_ring(RingOptions(sq_entries=2, cq_entries=2, recv_buffers=1, recv_buffer_bytes=8))
    async with socket_pair() as (sock, peer):
        with trio.fail_after(WAIT_S):
            got = b""
            async with sock.recv_multishot() as received:
                for number in range(100):
                    peer.send(b"%08d" % number * (1 + number % 3))
                    async for chunk in received:
                        got += chunk
                        if got.endswith(b"%08d" % number) and len(got) == sum(
                            8 * (1 + n % 3) for n in range(number + 1)
                        ):
                            break
                peer.close()
                assert [chunk async for chunk in received] == []
    assert got == b"".join(b"%08d" % n * (1 + n % 3) for n in range(100))


async def test_row_61_a_cancelled_receive_keeps_no_buffer() -> None:
    """Row 61: after many cancels, with data coming at the same time, all buffers are there."""
    adopt_ring(FEW_BUFFERS)
    async with socket_pair() as (sock, peer):
        for i in range(rounds(200, 5000)):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(sock.recv, 4096)
                    await passes(i % 4)
                    if i % 2:
                        peer.send(b"x")
                    scope.cancel()
                    if not i % 2:
                        peer.send(b"x")
            assert trio_uring.current_statistics().buffers_lent == 0
    assert_nothing_left()


async def test_row_62_a_reader_that_stalls_takes_a_bounded_amount() -> None:
    """Row 62: with nobody reading, a multishot receive stops taking data: the peer is held up."""
    adopt_ring(FEW_BUFFERS)
    async with socket_pair() as (sock, peer):
        async with sock.recv_multishot() as received:
            peer.send(b"first")
            assert await received.__anext__() == b"first"
            sent = 0
            stalled = 0
            while stalled < 20:
                try:
                    sent += peer.send(bytes(4096))
                    stalled = 0
                except BlockingIOError:
                    stalled += 1
                await passes(2)
            assert len(received._chunks) <= CHUNKS_MAX + FEW_BUFFERS.recv_buffers
        # What was taken ahead is not lost with the block.
        peer.setblocking(True)
        peer.shutdown(socket.SHUT_WR)
        got = 0
        while data := await sock.recv(1 << 16):
            got += len(data)
        assert got == sent


async def test_a_thousand_idle_receives_pin_no_buffer() -> None:
    """Receives that wait take no buffer: with two buffers, any number of them may wait."""
    adopt_ring(RingOptions(recv_buffers=2, recv_buffer_bytes=64))
    async with unix_listener() as (listener, address):
        pairs = []
        with trio.fail_after(WAIT_S):
            async with trio_uring.open_nursery() as nursery:
                got: list[bytes] = []

                async def receive(conn: FixedSocket) -> None:
                    got.append(await conn.recv(64))

                for _ in range(200):
                    client = connect(address)
                    pairs.append(client)
                    nursery.start_soon_with(await listener.accept_direct(), receive)
                await trio.testing.wait_all_tasks_blocked()
                assert trio_uring.current_statistics().operations_in_flight == 200
                assert trio_uring.current_statistics().buffers_lent == 0
                for number, client in enumerate(pairs):
                    client.send(b"%d" % number)
            assert sorted(got, key=int) == [b"%d" % number for number in range(200)]
        for client in pairs:
            client.close()


@pytest.mark.parametrize("one_by_one", [False, True])
async def test_leaving_the_block_ends_a_reader_in_another_task(one_by_one: bool) -> None:
    """A task in __anext__ of a multishot whose block ends raises ClosedResourceError, no hang.

    Also where each chunk is a receive of its own: before 6.0, or with all shared buffers lent.
    """
    async with socket_pair() as (sock, peer), unix_listener() as (listener, _):

        async def next_of(iterator: object) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await iterator.__anext__()  # type: ignore[attr-defined]

        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                async with sock.recv_multishot() as received:
                    received._supported &= not one_by_one
                    nursery.start_soon(next_of, received)
                    await trio.testing.wait_all_tasks_blocked()
                async with listener.accept_direct_multishot() as connections:
                    nursery.start_soon(next_of, connections)
                    await trio.testing.wait_all_tasks_blocked()
        peer.send(b"y")
        assert await sock.recv(1) == b"y"


@takes_ahead
async def test_a_close_ends_a_multishot_after_what_it_has_taken() -> None:
    """Bytes that a multishot receive took are delivered before the ClosedResourceError."""
    if Op.SEND_ZC not in capabilities().ops:
        pytest.skip("before 6.0 nothing is received ahead")
    async with socket_pair() as (sock, peer), sock.recv_multishot() as received:
        peer.send(b"one")
        assert await received.__anext__() == b"one"
        peer.send(b"two")
        await passes(3)
        await sock.aclose()
        assert await received.__anext__() == b"two"
        with pytest.raises(trio.ClosedResourceError):
            await received.__anext__()


async def test_a_reset_ends_a_multishot_after_what_it_has_taken() -> None:
    """Bytes that a multishot receive took are delivered before the BrokenResourceError."""
    listener, address = await listen()
    async with listener:
        client = connect(address)
        async with await listener.accept_direct() as conn:
            async with conn.recv_multishot() as received:
                client.send(b"one")
                assert await received.__anext__() == b"one"
                client.send(b"two")
                await passes(3)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                await passes(3)
                assert await received.__anext__() == b"two"
                with pytest.raises(trio.BrokenResourceError):
                    await received.__anext__()
            with pytest.raises(trio.BrokenResourceError):
                await conn.recv(10)
