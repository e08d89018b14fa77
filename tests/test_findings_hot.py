# SPDX-License-Identifier: MIT OR Apache-2.0
"""What an attack on the hot path, on batches and on exchanges brought to light."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
from engine_help import WAIT_S, connect, core_turn, engine, listen, passes, rounds, socket_pair

import trio_uring
from trio_uring import FixedFile, RingOptions
from trio_uring._batch import Batch
from trio_uring._hot import ALONE_MIN
from trio_uring._lib import address_of, ffi, lib
from trio_uring._many import PART_BYTES
from trio_uring._prep import prep_nop, prep_read
from trio_uring.lowlevel import Op, SqeFlag
from trio_uring.testing import (
    adopt_ring,
    requires_direct_descriptors,
    requires_op,
    used_slots,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

pytestmark = requires_direct_descriptors()


@pytest.fixture(params=["adopted", "hosted"])
def _driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_URING_DRIVER", request.param)


both_drivers = pytest.mark.usefixtures("_driver")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(reader, True)
    yield reader, writer
    os.close(reader)
    os.close(writer)


async def busy() -> None:
    """Keeps the loop from sleeping, and others from being alone."""
    while True:
        await trio.lowlevel.checkpoint()


# -- batches ---------------------------------------------------------------------------------------


async def test_a_batch_does_not_take_the_completion_of_another_task(pipe: tuple[int, int]) -> None:
    """As many completions as the batch lacks, but one of them is not its own."""
    reader, writer = pipe
    async with await trio_uring.register(reader) as file, socket_pair() as (ours, theirs):
        got: list[bytes] = []
        results: list[int] = []
        buffer = bytearray(3)

        async def receive() -> None:
            got.append(await ours.recv(10))

        async def read() -> None:
            results.extend(await file.read_many(buffer, [0, 0, 0]))

        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                await passes(2 * ALONE_MIN)
                os.write(writer, b"AB")  # two of the three reads end at once
                theirs.send(b"foreign")
                nursery.start_soon(read)
                await passes(3)
                assert not results
                os.write(writer, b"C")
        assert (got, results) == ([b"foreign"], [1, 1, 1])
        assert sorted(buffer) == sorted(b"ABC")  # in any order


@both_drivers
@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="no /proc/self/smaps here")
async def test_files_that_are_read_in_pieces_are_read_to_their_end() -> None:
    """A short read is not the end of a file in /proc."""
    paths = ["/proc/self/smaps", "/proc/self/maps", "/proc/self/status"]
    for path, content in zip(paths, await trio_uring.read_files(paths), strict=True):
        assert isinstance(content, bytes)
        with open(path, "rb") as file:
            whole = file.read()
        # Memory may have been mapped meanwhile.
        assert len(content) >= 0.8 * len(whole), path
        assert content.count(b"\n") >= 0.8 * whole.count(b"\n")


@both_drivers
async def test_a_pipe_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    """What a chain has read of it cannot be read again: an error, and not a part."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def write(*parts: bytes) -> None:
        with suppress(BrokenPipeError), open(fifo, "wb", buffering=0) as file:
            for part in parts:
                file.write(part)

    for parts, may_fail in (((b"all",), False), ((b"x" * 65536, b"more"), True)):
        writer = threading.Thread(target=write, args=parts)
        writer.start()
        with trio.fail_after(WAIT_S):
            found = await trio_uring.read_files([fifo])
        await trio.to_thread.run_sync(writer.join)
        if may_fail and isinstance(found[0], OSError):
            assert found[0].errno == errno.ESPIPE
        else:
            assert found == [b"".join(parts)]


@requires_op(Op.FIXED_FD_INSTALL)  # before 6.8 files are read one by one
@both_drivers
async def test_a_pipe_is_not_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain has read more than fits. To open it would wait for a writer, if the kernel does so
    in a thread of its own.
    """
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(fifo, os.O_WRONLY)
    monkeypatch.setattr("trio_uring._many.open_direct", None)
    try:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)
        assert os.write(writer, bytes(PART_BYTES + 10)) == PART_BYTES + 10
        with trio.fail_after(WAIT_S):
            (found,) = await trio_uring.read_files([fifo])
        assert isinstance(found, OSError)
        assert found.errno == errno.ESPIPE
    finally:
        os.close(reader)
        os.close(writer)


@both_drivers
async def test_read_files_makes_do_with_the_slots_that_are_free(tmp_path: Path) -> None:
    """It waits for one at the most, and keeps nobody waiting who would have got one."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    adopt_ring(RingOptions(slots_max=4))
    with trio.fail_after(WAIT_S):
        async with await trio_uring.open_direct(path), await trio_uring.open_direct(path):
            async with await trio_uring.open_direct(path):
                assert await trio_uring.read_files([path] * 10) == [b"content"] * 10
            assert await trio_uring.read_files([path] * 10) == [b"content"] * 10


@both_drivers
async def test_a_timeout_ends_a_long_read_files() -> None:
    """After the files that are being read; not after all."""
    with trio.fail_after(WAIT_S), trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def cancel() -> None:
                await passes(2)
                scope.cancel()

            nursery.start_soon(cancel)
            await trio_uring.read_files(["/dev/null"] * 20_000)
    assert scope.cancelled_caught
    assert trio_uring.current_statistics().submitted < 20_000
    assert used_slots() == {}


async def test_one_path_is_not_taken_for_many() -> None:
    """Its letters would be."""
    for function in (trio_uring.read_files, trio_uring.stat_many):
        with pytest.raises(TypeError, match="not one path"):
            await function("/etc")


async def test_batches_that_could_not_be_written_leave_no_number() -> None:
    """A directory that is no descriptor; the numbers of batches are few."""
    for _ in range(40):
        with pytest.raises((OverflowError, ValueError)):
            await trio_uring.stat_many(["x"], dir_fd=1 << 40)
        with pytest.raises((OverflowError, ValueError)):
            await trio_uring.read_files(["x"], dir_fd=1 << 40)
    ring: Any = engine().ring._ring
    assert [ring.batches[number] for number in range(ring.batches_size)].count(
        ring.batches[0]
    ) == ring.batches_size
    assert used_slots() == {}


async def test_offsets_and_sizes_that_the_kernel_has_no_field_for_are_refused() -> None:
    """2**64 - 1 would be the file position; bytes are not numbers of eight bytes each."""
    async with await trio_uring.open_direct("/dev/zero") as file:
        for offset in (-1, 1 << 63, (1 << 64) - 1, 1 << 64):
            with pytest.raises(ValueError, match="offset"):
                await file.read_at(8, offset)
            with pytest.raises(ValueError, match="offset"):
                await file.readinto_at(bytearray(8), offset)
        assert await file.read_many(bytearray(3), bytes(3)) == [1, 1, 1]


async def test_cancelled_chains_that_end_at_once_are_not_slept_over() -> None:
    """No other task, no other completion: what was taken out in mid-pass is all that comes."""
    reader_alone, writer = os.pipe()
    os.close(writer)
    try:
        path = f"/proc/self/fd/{reader_alone}"  # a worker thread of the kernel opens it
        with trio.fail_after(WAIT_S):
            for count in range(rounds(200, 2000)):
                with trio.move_on_after(0.00005 * (count % 5)):
                    await trio_uring.read_files([path])
    finally:
        os.close(reader_alone)


@pytest.mark.parametrize("alone", [True, False])
async def test_each_link_of_a_cancelled_chain_is_cancelled_in_its_turn(alone: bool) -> None:
    """The second read begins when a worker thread of the kernel has given up the first, and nothing
    else is in flight that would wake the loop; or the loop never sleeps.
    """
    (reader, writer), (reader2, writer2) = os.pipe(), os.pipe()
    try:
        async with (
            await trio_uring.register(reader) as first,
            await trio_uring.register(reader2) as second,
            trio.open_nursery() as nursery,
        ):
            if not alone:
                nursery.start_soon(busy)
            with trio.fail_after(WAIT_S):
                for count in range(rounds(100, 2000)):
                    with trio.move_on_after(0.0002 * (count % 5)):
                        await read_both(first, second)
            nursery.cancel_scope.cancel()
            assert engine().ring._ring.stepwise == 0
    finally:
        for fd in (reader, writer, reader2, writer2):
            os.close(fd)


async def read_both(first: trio_uring.FixedFile, second: trio_uring.FixedFile) -> None:
    """One after the other, and then something that must be done."""
    memory = ffi.new("char[]", 2)
    batch = Batch.take(engine(), 3, 3)
    batch.take_number()
    ring = engine().ring
    for place, (file, flags) in enumerate(((first, SqeFlag.ASYNC), (second, SqeFlag(0)))):
        prep_read(
            ring.entry(ring.tail + place),
            file._checked_number(),
            address_of(memory) + place,
            1,
            -1,
            batch.name(place),
            file._fixed | flags | SqeFlag.IO_HARDLINK,
        )
    prep_nop(ring.entry(ring.tail + 2), batch.name(2))
    batch.begin(None, memory)
    await engine().wait(batch)


@both_drivers
async def test_a_listener_can_close_after_the_wait_for_its_slot_was_cancelled() -> None:
    """In the same pass: the waiter is gone already, and the slot must be freed all the same."""
    adopt_ring(RingOptions(slots_max=1))
    for _ in range(3):
        listener = await trio_uring.socket_direct()
        await listener.bind(("127.0.0.1", 0))
        await listener.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.accept_direct)  # waits for a slot
            await passes(3)
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await listener.aclose()
        assert trio_uring.current_statistics().slots_used == 0


@both_drivers
async def test_a_connection_is_not_lost_when_the_kernel_takes_no_more_accepts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error is raised, and the connection comes with the next call."""
    listener, address = await listen()
    clients = [connect(address) for _ in range(4)]
    async with listener, listener.accept_direct_multishot() as connections:
        got = [await connections.__anext__()]
        await passes(3)

        def refuse() -> None:
            raise OSError(errno.ENOMEM, "refused")

        while len(got) < 4:
            if connections._ready:
                with monkeypatch.context() as patch:
                    patch.setattr(connections, "_take_ahead", refuse)
                    with pytest.raises(OSError, match="refused"):
                        await connections.__anext__()
            got.append(await connections.__anext__())
        for handle in got:
            await handle.aclose()
    for client in clients:
        client.close()


@both_drivers
async def test_a_block_of_connections_is_left_by_one_task() -> None:
    """A second one is refused; nobody hangs."""
    listener, _ = await listen()
    async with listener:
        connections = listener.accept_direct_multishot()
        await connections.__aenter__()
        refused: list[trio.BusyResourceError] = []

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await connections.__anext__()

        async def leave() -> None:
            try:
                await connections.__aexit__(None, None, None)
            except trio.BusyResourceError as exc:
                refused.append(exc)

        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await passes(3)
                nursery.start_soon(leave)
                nursery.start_soon(leave)
        assert len(refused) == 1


# -- exchanges -------------------------------------------------------------------------------------


@both_drivers
async def test_a_cancelled_exchange_does_not_touch_the_record_of_the_next() -> None:
    """Its record is used again before its task runs: no send is forgotten, none goes out alone."""

    async def drained(sock: socket.socket) -> bytes:
        try:
            return sock.recv(1 << 20)
        except BlockingIOError:
            return b""

    async with (
        socket_pair() as (a, a_peer),
        socket_pair() as (b, b_peer),
        socket_pair() as (e, e_peer),
    ):
        a_peer.send(b"x")
        await a.recv(10)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(busy)
            await passes(20)
            # It takes one order of Trio's random scheduling.
            for _ in range(rounds(40, 400)):
                scope_a, scope_b = trio.CancelScope(), trio.CancelScope()
                go_b, go_d = trio.Event(), trio.Event()

                async def task_a(scope: trio.CancelScope = scope_a) -> None:
                    with scope:
                        await a.exchange(b"a" * 5000, 100)

                async def task_x(
                    scope: trio.CancelScope = scope_a, events: Any = (go_b, go_d)
                ) -> None:
                    events[0].set()
                    scope.cancel()
                    events[1].set()

                async def task_b(scope: trio.CancelScope = scope_b, go: Any = go_b) -> None:
                    await go.wait()
                    with scope:
                        await b.exchange(b"for-b", 100)

                async def task_d(scope: trio.CancelScope = scope_b, go: Any = go_d) -> None:
                    await go.wait()
                    scope.cancel()
                    await e.send_all(b"SECRET")

                async with trio.open_nursery() as tasks:
                    tasks.start_soon(task_b)
                    tasks.start_soon(task_d)
                    await passes(3)
                    tasks.start_soon(task_a)
                    tasks.start_soon(task_x)
                assert await drained(b_peer) in (b"", b"for-b")
                assert await drained(e_peer) == b"SECRET"
                await drained(a_peer)
            nursery.cancel_scope.cancel()


@both_drivers
@pytest.mark.parametrize("close", [False, True], ids=["cancelled", "closed"])
async def test_an_exchange_ends_whenever_it_is_stopped(close: bool) -> None:
    """Also while its receive is deferred work of the kernel, which no cancel finds."""
    for count in range(8):
        async with socket_pair() as (ours, theirs):
            theirs.send(b"x")
            await ours.recv(1)
            scope = trio.CancelScope()

            async def exchange(
                scope: trio.CancelScope = scope, sock: trio_uring.FixedSocket = ours
            ) -> None:
                try:
                    with scope:
                        await sock.exchange(b"request", 100)
                except trio.ClosedResourceError:
                    assert close

            with trio.fail_after(WAIT_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(busy)
                    async with trio.open_nursery() as tasks:
                        tasks.start_soon(exchange)
                        await passes(count)
                        if close:
                            await ours.aclose()
                        else:
                            scope.cancel()
                    nursery.cancel_scope.cancel()


@both_drivers
async def test_an_exchange_works_in_a_queue_of_one() -> None:
    """The send and the receive cannot be linked there."""
    adopt_ring(RingOptions(sq_entries=1, cq_entries=2))
    async with socket_pair() as (ours, theirs), trio.open_nursery() as nursery:
        nursery.start_soon(busy)
        for _ in range(5):
            theirs.send(b"answer")
            assert await ours.exchange(b"question", 100) == b"answer"
            assert theirs.recv(100) == b"question"
        nursery.cancel_scope.cancel()


@both_drivers
@pytest.mark.parametrize("alone", [True, False])
async def test_a_refused_exchange_sends_nothing(alone: bool) -> None:
    """Whether others run or not: a size that is none, and a receive that somebody waits in."""
    async with socket_pair() as (ours, theirs), trio.open_nursery() as nursery:
        theirs.send(b"x")
        await ours.recv(1)
        if not alone:
            nursery.start_soon(busy)
        await passes(2 * ALONE_MIN)
        for size, error in ((-1, ValueError), (1.5, TypeError)):
            with pytest.raises(error):
                await ours.exchange(b"q", size)  # type: ignore[arg-type]
        nursery.start_soon(ours.recv, 10)
        await passes(2 * ALONE_MIN)
        with pytest.raises(trio.BusyResourceError):
            await ours.exchange(b"q", 10)
        with pytest.raises(BlockingIOError):
            theirs.recv(10)
        nursery.cancel_scope.cancel()


# -- Ctrl-C ----------------------------------------------------------------------------------------


def has_begun(frame: FrameType) -> bool:
    it = frame.f_locals.get("self")
    return isinstance(it, FixedFile) and it._in_flight > 0


def begins(frame: FrameType) -> bool:
    return isinstance(frame.f_locals.get("self"), FixedFile) and not has_begun(frame)


@pytest.mark.parametrize("where", [begins, has_begun])
@pytest.mark.parametrize("call", ["send_all", "send", "exchange", "recv", "write"])
def test_ctrl_c_leaves_no_operation_without_its_task(
    where: Callable[[FrameType], bool], call: str
) -> None:
    """Wherever it comes in a call: the operation ends, and wakes nobody in another await."""
    if sys.gettrace() is not None:
        pytest.skip("a debugger or a coverage tool traces already")
    left: list[int] = []
    met: list[str] = []

    async def main() -> None:
        async with socket_pair() as (ours, theirs):
            await ours.send_all(b"hello")
            theirs.send(b"data")
            await ours.recv(10)  # now there are shared buffers

            def trace(frame: FrameType, event: str, _: object) -> Any:
                if event in ("line", "return") and where(frame):
                    sys.settrace(None)
                    met.append(call)
                    signal.raise_signal(signal.SIGINT)
                return trace

            async def go() -> None:
                sys.settrace(trace)
                try:
                    if call == "exchange":
                        await ours.exchange(b"hello", 10)
                    elif call == "recv":
                        await ours.recv(10)
                    else:
                        await getattr(ours, call)(b"hello")
                finally:
                    sys.settrace(None)

            theirs.send(b"data")
            try:
                await go()
                await trio.lowlevel.checkpoint()
            except KeyboardInterrupt:
                pass
            with trio.CancelScope(shield=True):
                await trio.sleep(0.01)
            with trio.fail_after(WAIT_S):
                await ours.aclose()
            left.append(trio_uring.current_statistics().operations_in_flight)

    try:
        trio.run(main)
    except KeyboardInterrupt:
        pass
    assert left == [0]
    assert met == [call]


# -- the kernel takes nothing ----------------------------------------------------------------------


@pytest.mark.usefixtures("_adopted")
async def test_what_the_kernel_did_not_take_is_submitted_in_the_next_pass() -> None:
    """EAGAIN, and then a loop that never sleeps."""
    async with await trio_uring.open_direct("/dev/zero") as file, trio.open_nursery() as nursery:
        nursery.start_soon(busy)
        await passes(5)
        ring = engine().ring
        done: list[bytes] = []

        async def read() -> None:
            done.append(await file.read_at(3, 0))

        refused: list[int] = []

        def refuse(cring: Any, tail: int, *rest: Any) -> int:
            if not refused and ring._tail != ring._sq_head[0]:
                refused.append(1)
                lib.tu_flush(cring, tail)  # shown, and not taken
                return -errno.EAGAIN
            return lib.tu_submit_and_copy(cring, tail, *rest)

        nursery.start_soon(read)
        with trio.fail_after(WAIT_S), core_turn(refuse):
            while not done:
                await trio.lowlevel.checkpoint()
        assert refused
        nursery.cancel_scope.cancel()


@pytest.fixture
def _adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_URING_DRIVER", "adopted")
