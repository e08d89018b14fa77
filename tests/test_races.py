# SPDX-License-Identifier: MIT OR Apache-2.0
"""Operations against cancels, at every point: nothing is lost, nothing is left.

Each round starts one operation and cancels it after a number of passes of the loop: 0 is before the
operation starts, 1 after it was prepared and before it was submitted, 2 and more after it was
submitted or has completed. What it waits for comes before, between or after.
``TRIO_URING_LONG=1`` makes 10,000 rounds of each.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
from engine_help import (
    EMULATED,
    WAIT_S,
    connect,
    passes,
    rounds,
    socket_pair,
    unix_listener,
)

import trio_uring
from trio_uring import RingOptions
from trio_uring.testing import (
    adopt_ring,
    assert_nothing_left,
    requires_direct_descriptors,
    used_slots,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

pytestmark = [requires_direct_descriptors(), pytest.mark.usefixtures("uring_leak_gate")]

# The handles that a round needs beside the one that it races for, and two to spare.
SMALL = RingOptions(sq_entries=2, cq_entries=4, slots_max=4, recv_buffers=2, recv_buffer_bytes=64)
sizes = pytest.mark.parametrize("options", [RingOptions(), SMALL], ids=["usual", "tiny"])

POINTS = 5


class Race:
    """Counts how the rounds ended."""

    def __init__(self) -> None:
        self.happened = 0
        self.cancelled = 0

    async def round(
        self,
        operation: Callable[[], Awaitable[object]],
        cancel_after: int,
        *,
        trigger: Callable[[], object] | None = None,
        trigger_first: bool = True,
    ) -> object:
        """One operation and one cancel; its result, or None if it was cancelled.

        ``trigger`` makes what the operation waits for, in the same step as the cancel.
        """
        result: object = None
        scope = trio.CancelScope()

        async def run() -> None:
            nonlocal result
            with scope:
                result = await operation()

        if cancel_after == 0:
            scope.cancel()
        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                await passes(cancel_after)
                if trigger and trigger_first:
                    trigger()
                scope.cancel()
                if trigger and not trigger_first:
                    trigger()
        if result is None:
            self.cancelled += 1
            assert scope.cancelled_caught
        else:
            self.happened += 1
        return result

    def check(self, total: int) -> None:
        """Every round is accounted for, and both endings occurred."""
        assert self.happened + self.cancelled == total
        # An emulated worker thread of the kernel may take longer than all points.
        assert self.happened or EMULATED
        assert self.cancelled


@asynccontextmanager
async def nothing_more(before: dict[int, str]) -> AsyncIterator[None]:
    """The block leaves the table as it was."""
    yield
    await passes(1)
    assert used_slots() == before
    statistics = trio_uring.current_statistics()
    assert statistics.operations_in_flight == 0
    assert statistics.slots_used == len(before)
    assert statistics.slots_quarantined == 0
    assert statistics.buffers_lent == 0
    assert statistics.late_completions == 0


@sizes
async def test_an_open_that_is_cancelled_leaves_no_slot(
    options: RingOptions, tmp_path: Path
) -> None:
    """Row 12: open_direct racing a cancel returns a file that works, or leaves nothing."""
    adopt_ring(options)
    path = tmp_path / "file"
    path.write_bytes(b"content")
    race = Race()
    async with nothing_more({}):
        for i in range(rounds()):
            file = await race.round(partial(trio_uring.open_direct, path), i % POINTS)
            if file is not None:
                assert isinstance(file, trio_uring.FixedFile)
                assert await file.read_at(100, 0) == b"content"
                await file.aclose()
    race.check(rounds())


@sizes
async def test_an_open_that_is_cancelled_creates_no_file(
    options: RingOptions, tmp_path: Path
) -> None:
    """A cancelled open_direct with O_CREAT has not created its file; one that returns has."""
    adopt_ring(options)
    race = Race()
    async with nothing_more({}):
        for i in range(rounds()):
            path = tmp_path / str(i)
            create = partial(trio_uring.open_direct, path, os.O_WRONLY | os.O_CREAT)
            file = await race.round(create, i % POINTS)
            assert path.exists() == (file is not None)
            if file is not None:
                assert isinstance(file, trio_uring.FixedFile)
                await file.aclose()
                path.unlink()
    race.check(rounds())


@sizes
async def test_a_socket_that_is_cancelled_leaves_no_slot(options: RingOptions) -> None:
    """socket_direct racing a cancel returns a socket that works, or leaves nothing."""
    adopt_ring(options)
    race = Race()
    async with nothing_more({}):
        for i in range(rounds()):
            sock = await race.round(trio_uring.socket_direct, i % POINTS)
            if sock is not None:
                assert isinstance(sock, trio_uring.FixedSocket)
                await sock.aclose()
    race.check(rounds())


@sizes
@pytest.mark.parametrize("client_first", [True, False])
async def test_an_accept_that_is_cancelled_loses_no_client(
    options: RingOptions, client_first: bool
) -> None:
    """Row 11: a client that races a cancel is accepted, or stays in the backlog and comes next."""
    adopt_ring(options)
    race = Race()
    async with unix_listener() as (listener, address), nothing_more(used_slots()):
        for i in range(rounds()):
            clients: list[socket.socket] = []

            def come(clients: list[socket.socket] = clients) -> None:
                clients.append(connect(address))

            if i // POINTS % 2:
                come()
                trigger = None
            else:
                trigger = come
            accepted = await race.round(
                listener.accept_direct, i % POINTS, trigger=trigger, trigger_first=client_first
            )
            if accepted is None:
                with trio.fail_after(WAIT_S):
                    accepted = await listener.accept_direct()
            assert isinstance(accepted, trio_uring.FixedSocket)
            with clients[0] as client:
                client.send(i.to_bytes(4, "little"))
                async with accepted:
                    assert await accepted.recv(10) == i.to_bytes(4, "little")
                assert client.recv(10) == b""
    race.check(rounds())


@sizes
@pytest.mark.parametrize("data_first", [True, False])
async def test_a_recv_that_is_cancelled_loses_no_byte(
    options: RingOptions, data_first: bool
) -> None:
    """Row 10: data that race a cancel are returned, or there for the next receive, in order."""
    await race_for_bytes(options, data_first, lambda sock: sock.recv(64))


@sizes
@pytest.mark.parametrize("data_first", [True, False])
async def test_a_recv_into_that_is_cancelled_loses_no_byte(
    options: RingOptions, data_first: bool
) -> None:
    """The same for a receive into the caller's own buffer."""

    async def recv_into(sock: trio_uring.FixedSocket) -> bytes:
        buffer = bytearray(64)
        return bytes(buffer[: await sock.recv_into(buffer)])

    await race_for_bytes(options, data_first, recv_into)


@sizes
@pytest.mark.parametrize("data_first", [True, False])
async def test_a_recvmsg_that_is_cancelled_loses_no_byte(
    options: RingOptions, data_first: bool
) -> None:
    """The same for recvmsg."""

    async def recvmsg(sock: trio_uring.FixedSocket) -> bytes:
        data, *_ = await sock.recvmsg(64)
        return data

    await race_for_bytes(options, data_first, recvmsg)


@sizes
@pytest.mark.parametrize("data_first", [True, False])
async def test_a_multishot_receive_that_is_cancelled_loses_no_byte(
    options: RingOptions, data_first: bool
) -> None:
    """The same for a receive that takes data ahead: what nobody took, the next receive returns."""

    async def first_chunk(sock: trio_uring.FixedSocket) -> bytes:
        async with sock.recv_multishot() as received:
            async for data in received:
                return data
        raise AssertionError("an end that nobody made")

    await race_for_bytes(options, data_first, first_chunk)


async def race_for_bytes(
    options: RingOptions,
    data_first: bool,
    receive: Callable[[trio_uring.FixedSocket], Awaitable[bytes]],
) -> None:
    adopt_ring(options)
    race = Race()
    async with socket_pair() as (sock, peer), nothing_more(used_slots()):
        for i in range(rounds()):
            data = bytes([i & 0xFF]) * (1 + i % 3)
            if i // POINTS % 2:
                peer.send(data)
                trigger = None
            else:

                def trigger(data: bytes = data) -> object:
                    return peer.send(data)

            got = await race.round(
                partial(receive, sock), i % POINTS, trigger=trigger, trigger_first=data_first
            )
            rest = b"" if got is None else got
            assert isinstance(rest, bytes)
            with trio.fail_after(WAIT_S):
                while len(rest) < len(data):
                    rest += await sock.recv(64)
            assert rest == data
    race.check(rounds())


@sizes
@pytest.mark.parametrize("data_first", [True, False])
async def test_a_read_that_is_cancelled_loses_no_byte(
    options: RingOptions, data_first: bool
) -> None:
    """Bytes in a pipe that race a cancel are returned, or still there for the next read."""
    adopt_ring(options)
    race = Race()
    reader, writer = await trio_uring.pipe_direct()
    async with reader, writer, nothing_more(used_slots()):
        feed = await writer.install_fd()
        try:
            for i in range(rounds()):
                data = bytes([i & 0xFF]) * (1 + i % 3)
                if i // POINTS % 2:
                    os.write(feed, data)
                    trigger = None
                else:

                    def trigger(data: bytes = data) -> object:
                        return os.write(feed, data)

                got = await race.round(
                    partial(reader.read, 64), i % POINTS, trigger=trigger, trigger_first=data_first
                )
                if got is None:
                    with trio.fail_after(WAIT_S):
                        got = await reader.read(64)
                assert got == data
        finally:
            os.close(feed)
    race.check(rounds())


@sizes
async def test_a_read_of_a_file_that_is_cancelled_is_all_or_nothing(
    options: RingOptions, tmp_path: Path
) -> None:
    """read_at racing a cancel returns what the file holds there, or raises Cancelled."""
    adopt_ring(options)
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 16)
    race = Race()
    async with await trio_uring.open_direct(path) as file, nothing_more(used_slots()):
        for i in range(rounds()):
            got = await race.round(partial(file.read_at, 64, i % 4000), i % POINTS)
            assert got is None or got == (bytes(range(256)) * 16)[i % 4000 : i % 4000 + 64]
    race.check(rounds())


@sizes
async def test_a_write_that_is_cancelled_has_written_nothing(
    options: RingOptions, tmp_path: Path
) -> None:
    """A cancelled write_at has changed nothing; one that returns has written all it says."""
    adopt_ring(options)
    path = tmp_path / "file"
    race = Race()
    flags = os.O_RDWR | os.O_CREAT
    async with await trio_uring.open_direct(path, flags) as file, nothing_more(used_slots()):
        expected = b""
        for i in range(rounds()):
            data = b"%08d" % i
            wrote = await race.round(partial(file.write_at, data, 0), i % POINTS)
            if wrote is not None:
                assert wrote == 8
                expected = data
            assert path.read_bytes() == expected
    race.check(rounds())


@sizes
async def test_many_cancels_at_once_leave_nothing(options: RingOptions, tmp_path: Path) -> None:
    """Tasks that open, read and close in one nursery that is cancelled leave no slot."""
    adopt_ring(options)
    path = tmp_path / "file"
    path.write_bytes(b"content")

    async def use() -> None:
        async with await trio_uring.open_direct(path) as file:
            assert await file.read_at(100, 0) == b"content"
            await file.stat()

    with trio.fail_after(WAIT_S):
        for i in range(rounds(60, 1000)):
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(use)
                await passes(i % 20)
                nursery.cancel_scope.cancel()
    await passes(1)
    assert_nothing_left()
