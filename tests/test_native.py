# SPDX-License-Identifier: MIT OR Apache-2.0
"""What is done in C for every operation: whose memory it is, and what one leaves for the next."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from engine_help import WAIT_S, connect, core_turn, engine, listen, passes, socket_pair
from trio.lowlevel import Abort

import trio_uring
from trio_uring import RingOptions
from trio_uring._lib import ffi, lib
from trio_uring._native import new_bytes
from trio_uring._operation import F_BUFFER, Operation
from trio_uring.lowlevel import Op
from trio_uring.testing import (
    adopt_ring,
    requires_direct_descriptors,
    requires_op,
    used_slots,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from pathlib import Path

pytestmark = [
    requires_direct_descriptors(),
    pytest.mark.usefixtures("_adopted", "uring_leak_gate"),
]
# Of the kernel that brought rings of shared buffers; they cannot be asked for by themselves.
shares_buffers = requires_op(Op.SOCKET)


@pytest.fixture
def _adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_URING_DRIVER", "adopted")


class Pipe:
    """A pipe whose ends are in slots; a read at an offset waits for data as any other."""

    def __init__(self, reader: trio_uring.FixedFile, writer: trio_uring.FixedFile) -> None:
        self.reader, self.writer = reader, writer
        self.fds = (-1, -1)

    @classmethod
    async def make(cls) -> Pipe:
        """Keeps ordinary descriptors of both ends."""
        fds = os.pipe()
        pipe = cls(await trio_uring.register(fds[0]), await trio_uring.register(fds[1]))
        pipe.fds = fds
        return pipe

    async def aclose(self) -> None:
        """Closes all four."""
        for fd in self.fds:
            os.close(fd)
        await self.reader.aclose()
        await self.writer.aclose()


@pytest.fixture
async def pipes() -> AsyncIterator[list[Pipe]]:
    """Two."""
    made = [await Pipe.make(), await Pipe.make()]
    yield made
    for pipe in made:
        await pipe.aclose()


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[trio_uring.FixedFile]:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    async with await trio_uring.open_direct(path, os.O_RDWR) as file:
        yield file


async def busy() -> None:
    """Keeps others from being alone."""
    while True:
        await trio.lowlevel.checkpoint()


async def warm(sock: trio_uring.FixedSocket, peer: socket.socket) -> None:
    """The first receive of a run makes its shared buffers."""
    peer.send(b"warm")
    assert await sock.recv(4) == b"warm"


# -- memory that the kernel uses -------------------------------------------------------------------


async def two_reads(pipes: list[Pipe], nbytes: int) -> None:
    """Each waits, and gets what was written to its own pipe."""
    got: dict[int, bytes] = {}

    async def read(number: int) -> None:
        got[number] = await pipes[number].reader.read_at(nbytes, 0)

    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, 0)
            nursery.start_soon(read, 1)
            await trio.testing.wait_all_tasks_blocked()
            junk = [b"\xff" * nbytes for _ in range(4)]
            os.write(pipes[1].fds[1], b"second")
            os.write(pipes[0].fds[1], b"first")
    del junk
    assert got == {0: b"first", 1: b"second"}


@pytest.mark.parametrize("nbytes", [100, 100_000])
async def test_reads_that_wait_have_memory_of_their_own(pipes: list[Pipe], nbytes: int) -> None:
    """Short or long; and they return as many bytes as there were."""
    for _ in range(3):
        await two_reads(pipes, nbytes)


async def test_whoever_uses_the_record_of_a_read_gives_it_back_once(
    file: trio_uring.FixedFile, pipes: list[Pipe]
) -> None:
    """The memory of a read is not given back again by the operation that has its record next."""
    for _ in range(3):
        assert await file.read_at(100, 0) == b"content"
        await file.fsync()
        await two_reads(pipes, 100)


async def test_hundreds_of_reads_at_once_each_get_their_byte(pipes: list[Pipe]) -> None:
    """Also when there were as many before."""
    data = bytes(range(200))
    for _ in range(2):
        got: list[int] = []

        async def read(got: list[int] = got) -> None:
            got += await pipes[0].reader.read_at(1, 0)

        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                for _ in data:
                    nursery.start_soon(read)
                await trio.testing.wait_all_tasks_blocked()
                os.write(pipes[0].fds[1], data)
        assert sorted(got) == list(data)


async def abandoned(coroutine: Coroutine[Any, Any, Any]) -> Operation:
    """Begins what it does and closes it: only its record is left, and we are its task."""
    before = {id(record) for record in engine().records if record.in_flight}
    coroutine.send(None)
    [record] = [r for r in engine().records if r.in_flight and id(r) not in before]
    coroutine.close()
    gc.collect()
    assert isinstance(record, Operation)
    return record


async def sleep_until_it_ends() -> Any:
    """In place of the task that awaited it; what it would have got."""
    return await trio.lowlevel.wait_task_rescheduled(lambda _: Abort.FAILED)


async def drain(peer: socket.socket, got: bytearray) -> None:
    """Until the peer has nothing more to send."""
    while True:
        await trio.lowlevel.wait_readable(peer)
        if not (data := peer.recv(1 << 20)):
            return
        got += data


async def fill(sock: trio_uring.FixedSocket) -> int:
    """How many zeroes the connection took."""
    count = 0
    with pytest.raises(BlockingIOError):
        while True:
            count += await sock.send(bytes(1 << 16), socket.MSG_DONTWAIT)
    return count


def big() -> tuple[bytes, bytes]:
    """Data that nobody else has, and what they begin with."""
    data = os.urandom(1 << 21)
    return data, data[: 1 << 12]


@pytest.mark.parametrize("way", ["send", pytest.param("exchange", marks=shares_buffers)])
async def test_data_outlive_the_task_that_lent_them_to(way: str) -> None:
    """A send that waits for its peer: the frames of its task are gone, the bytes are not."""
    got = bytearray()
    async with socket_pair() as (sock, peer), trio.open_nursery() as nursery:
        nursery.start_soon(busy)
        await warm(sock, peer)
        filler = await fill(sock)
        data, begin = big()
        sends = sock.send_all(data) if way == "send" else sock.exchange(data, 10)
        del data
        await abandoned(sends)
        junk = [b"\xff" * (1 << 21) for _ in range(4)]
        nursery.start_soon(drain, peer, got)
        if way == "exchange":
            peer.send(b"answer")
        with trio.fail_after(WAIT_S):
            result = await sleep_until_it_ends()
            while len(got) < filler + len(begin):
                await passes(1)
        assert result == b"answer" if way == "exchange" else result
        nursery.cancel_scope.cancel()
    del junk
    assert got[filler : filler + len(begin)] == begin


async def test_data_outlive_the_task_that_lent_them_to_write(pipes: list[Pipe]) -> None:
    """The same for a pipe that is full; in older kernels a worker thread writes all of it."""
    reader, writer = pipes[0].fds
    filler = fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)
    os.write(writer, bytes(filler))
    got = bytearray()

    async def read_all() -> None:
        while True:
            await trio.lowlevel.wait_readable(reader)
            got.extend(os.read(reader, 1 << 20))

    data, begin = big()
    writes = pipes[0].writer.write_at(data, 0)
    del data
    await abandoned(writes)
    junk = [b"\xff" * (1 << 21) for _ in range(4)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_all)
        with trio.fail_after(WAIT_S):
            count = await sleep_until_it_ends()
            while len(got) < filler + count:
                await passes(1)
        nursery.cancel_scope.cancel()
    del junk
    assert count >= len(begin)
    assert got[filler : filler + len(begin)] == begin


async def test_what_a_batch_was_lent_outlives_the_task(tmp_path: Path) -> None:
    """The buffer cannot be resized, nor the file's slot be used for another."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    async with await trio_uring.open_direct(path) as file:
        await passes(1)
        buffer = bytearray(4)
        record = await abandoned(file.read_many(buffer, [0, 5]))
        assert record.file is file
        assert file._in_flight == 1
        with pytest.raises(BufferError):
            buffer.append(0)
        assert (await sleep_until_it_ends()) == [2, 2]
        assert buffer == b"cont"[:2] + b"nt"
        assert file._in_flight == 0
        buffer.append(0)


@requires_op(Op.FIXED_FD_INSTALL)  # without it files are opened outside of the table
async def test_a_name_outlives_the_task_that_opens_it(tmp_path: Path) -> None:
    """The kernel reads it when the entry is submitted, and the frames may be gone by then."""
    path = tmp_path / ("name" * 20)
    path.touch()
    length = len(os.fsencode(path))
    await trio.lowlevel.checkpoint()
    trio_uring.current_statistics()
    record = await abandoned(trio_uring.open_direct(path))
    junk = [bytes([number]) * length for number in range(1, 256)]
    assert record.task is trio.lowlevel.current_task()
    assert await sleep_until_it_ends() == 0
    del junk
    [(slot, name)] = used_slots().items()
    assert name in (os.fspath(path), "")  # Linux 6.12 tells short names only
    engine().empty_slot(slot)


# -- nothing is left for the next ------------------------------------------------------------------


async def lost_pairs(count: int) -> list[trio_uring.FixedSocket]:
    """Sockets whose peers are gone."""
    made = []
    for _ in range(count):
        ours, theirs = socket.socketpair()
        theirs.close()
        with ours:
            sock = await trio_uring.register(ours)
        assert isinstance(sock, trio_uring.FixedSocket)
        made.append(sock)
    return made


@pytest.mark.parametrize("end", ["cancelled", "closed"])
async def test_nothing_of_an_operation_is_left_in_its_record(end: str) -> None:
    """Why one was cancelled is not why the next is: what is linked to a failure is, too."""
    async with socket_pair() as (sock, peer), trio.open_nursery() as nursery:
        nursery.start_soon(busy)
        await warm(sock, peer)
        lost = await lost_pairs(4)
        broke: list[trio_uring.FixedSocket] = []

        async def receive() -> None:
            try:
                await sock.recv(10)
            except trio.ClosedResourceError:
                assert end == "closed"

        async def exchange(broken: trio_uring.FixedSocket) -> None:
            with pytest.raises(trio.BrokenResourceError):
                await broken.exchange(b"question", 10)
            broke.append(broken)

        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as tasks:
                tasks.start_soon(receive)
                await passes(3)
                if end == "closed":
                    await sock.aclose()
                else:
                    tasks.cancel_scope.cancel()
            async with trio.open_nursery() as tasks:
                for broken in lost:
                    tasks.start_soon(exchange, broken)
        assert len(broke) == len(lost)
        for broken in lost:
            await broken.aclose()
        nursery.cancel_scope.cancel()


async def test_a_record_of_a_read_holds_no_clock_when_it_receives(
    mock_clock: trio.testing.MockClock, file: trio_uring.FixedFile
) -> None:
    """Only operations that end by themselves do."""
    async with socket_pair() as (sock, peer):
        for _ in range(3):
            assert await file.read_at(100, 0) == b"content"
        records = len(engine().records)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sock.recv, 10)
            await passes(3)
            assert engine().bounded_in_flight == 0
            assert len(engine().records) == records  # it was used again
            peer.send(b"x")


async def test_a_read_at_an_offset_holds_a_clock_that_jumps(
    mock_clock: trio.testing.MockClock, pipes: list[Pipe]
) -> None:
    """And so does a write, long or short."""
    reader, writer = pipes[0].fds
    async with trio.open_nursery() as nursery:
        for nbytes in (10, 100_000):
            nursery.start_soon(pipes[0].reader.read_at, nbytes, 0)
        await passes(3)
        assert engine().bounded_in_flight == 2
        os.write(writer, b"x")
        while engine().bounded_in_flight == 2:
            await passes(1)
        assert engine().bounded_in_flight == 1
        os.write(writer, b"x")
    full = fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)
    os.write(writer, bytes(full))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pipes[0].writer.write_at, b"x", 0)
        await passes(3)
        assert engine().bounded_in_flight == 1
        os.read(reader, full)
    assert engine().bounded_in_flight == 0


@shares_buffers
async def test_a_few_shared_buffers_serve_many_receives(monkeypatch: pytest.MonkeyPatch) -> None:
    """They go back before the kernel is entered again: no receive needs memory of its own."""
    adopt_ring(RingOptions(recv_buffers=2, recv_buffer_bytes=64))
    own: list[int] = []

    def counted(nbytes: int) -> bytes:
        own.append(nbytes)
        return new_bytes(nbytes)

    monkeypatch.setattr("trio_uring._socket_receive.new_bytes", counted)
    async with socket_pair() as (sock, peer):
        for _ in range(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sock.recv, 10)
                await passes(3)
                peer.send(b"x")
    assert own == []


@pytest.mark.parametrize("comes", [False, True], ids=["nothing_comes", "data_come"])
async def test_the_next_pass_empties_the_slot_of_a_dropped_handle(comes: bool) -> None:
    """Whoever looks after one checkpoint finds it empty: `used_slots`, or the gate of a test."""
    async with socket_pair() as (sock, peer), trio.open_nursery() as nursery:
        before = used_slots()
        for _ in range(5):
            dropped = await trio_uring.open_direct("/dev/null")
            nursery.start_soon(sock.recv, 10)
            await passes(3)
            if comes:
                peer.send(b"x")
            with pytest.warns(ResourceWarning, match="unclosed"):
                del dropped
            await trio.lowlevel.checkpoint()
            assert used_slots() == before
            if not comes:
                peer.send(b"x")
            await passes(5)


# -- results ---------------------------------------------------------------------------------------


async def test_what_is_traced_returns_the_same(file: trio_uring.FixedFile) -> None:
    """A debugger makes Python 3.11 and before await step by step."""
    if sys.gettrace() is not None:
        pytest.skip("a debugger or a coverage tool traces already")
    async with socket_pair() as (sock, peer):
        for _ in range(20):
            sys.settrace(lambda *_: None)
            try:
                data = await file.read_at(3, 0)
                await sock.send_all(b"question")
                peer.send(b"answer")
                answer = await sock.recv(10)
            finally:
                sys.settrace(None)
            assert (data, answer, peer.recv(100)) == (b"con", b"answer", b"question")


async def test_an_answer_does_not_overtake_the_send_before_it() -> None:
    """An exchange receives only when all is sent, though the answer was there before."""
    async with socket_pair() as (sock, peer), trio.open_nursery() as nursery:
        nursery.start_soon(busy)
        await warm(sock, peer)
        answers: list[bytes] = []
        got = bytearray()

        async def exchange() -> None:
            answers.append(await sock.exchange(bytes(10 << 20), 100))

        peer.send(b"early")
        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as tasks:
                tasks.start_soon(exchange)
                await passes(10)
                assert answers == []
                assert peer.recv(1, socket.MSG_PEEK) == b"\0"
                tasks.start_soon(drain, peer, got)
                while not answers:
                    await passes(1)
                tasks.cancel_scope.cancel()
        while len(got) < 10 << 20:
            got += peer.recv(1 << 20)
        assert answers == [b"early"]
        nursery.cancel_scope.cancel()


async def test_a_lost_connection_is_lost_for_the_reason_that_was_told_first() -> None:
    """The kernel tells it once; every send tells it, and a receive at the end of the stream."""
    listener, address = await listen()
    async with listener:
        peer = connect(address)
        async with await listener.accept_direct() as sock:
            peer.sendall(b"half")
            assert await sock.recv(4) == b"half"
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            for call in (sock.send_all, sock.send_all, sock.send):
                with pytest.raises(trio.BrokenResourceError) as broken:
                    await call(b"x")
                assert isinstance(broken.value.__cause__, OSError)
                assert broken.value.__cause__.errno == errno.ECONNRESET
            for _ in range(2):
                with pytest.raises(trio.BrokenResourceError):
                    await sock.recv(10)


@shares_buffers
async def test_an_error_that_took_a_buffer_gives_it_back() -> None:
    """A completion may say that it failed, and that a shared buffer is taken.

    What kernels do that with is rare: here one says so of a receive that was none.
    """
    fails = False

    def failing(ring: Any, tail: int, wait_nr: int, timeout_ns: int, out: Any, room: int) -> int:
        count = lib.tu_submit_and_copy(ring, tail, wait_nr, timeout_ns, out, room)
        cqes = ffi.buffer(out, 16 * room)
        for place in range(0, 16 * max(count, 0), 16):
            user_data, _, flags = struct.unpack_from("=QiI", cqes, place)
            if fails and flags & F_BUFFER:
                struct.pack_into("=QiI", cqes, place, user_data, -errno.EIO, flags)
        return count

    with core_turn(failing):
        async with socket_pair() as (sock, peer):
            await warm(sock, peer)
            fails = True
            for _ in range(3):
                peer.send(b"lost")
                with pytest.raises(OSError, match="Errno 5"):
                    await sock.recv(10)
            fails = False
            assert trio_uring.current_statistics().buffers_lent == 0
