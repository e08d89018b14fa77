# SPDX-License-Identifier: MIT OR Apache-2.0
"""What once was wrong with the handles, as attackers and a newcomer found it."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import resource
import signal
import socket
import struct
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
from engine_help import WAIT_S, connect, engine, listen, passes, run_python, socket_pair
from ring_help import is_locked

import trio_uring
from trio_uring import RingOptions, _capabilities
from trio_uring._engine_ring import EngineRing
from trio_uring._prep import prep_recv
from trio_uring._shared_buffers import BUFFER_SHIFT
from trio_uring.lowlevel import Op, SqeFlag
from trio_uring.testing import TINY_RING, adopt_ring, requires_direct_descriptors, requires_op

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

pytestmark = requires_direct_descriptors()

DRIVERS = ["adopted", "hosted"]


@pytest.fixture(params=DRIVERS)
def _driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_URING_DRIVER", request.param)


both_drivers = pytest.mark.usefixtures("_driver")


@pytest.fixture(params=["as it is", "as before 6.8"])
def _install(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also without FIXED_FD_INSTALL: files in ordinary descriptors."""
    found = _capabilities.capabilities()
    if request.param == "as it is":
        return
    if not found.install:
        pytest.skip("this kernel is older than 6.8 anyway")
    old = attrs.evolve(found, ops=found.ops - {Op.FIXED_FD_INSTALL})
    for name, module in list(sys.modules.items()):
        if name.startswith("trio_uring.") and hasattr(module, "capabilities"):
            monkeypatch.setattr(module, "capabilities", lambda: old)


old_kernels_too = pytest.mark.usefixtures("_install")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of ten bytes."""
    found = tmp_path / "mine"
    found.write_bytes(b"0123456789")
    return found


@contextmanager
def descriptors_at_most(limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, soft), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# -- the end of a run ------------------------------------------------------------------------------


UNFINISHED_GENERATOR = """
import socket, sys, trio, trio_uring
kept = []
async def chunks(handle):
    async with handle.recv_multishot() as received:
        async for data in received:
            yield data
async def main():
    ours, theirs = socket.socketpair()
    handle = await trio_uring.register(ours)
    theirs.send(b"hello")
    generator = chunks(handle)
    kept.extend([generator, theirs])
    assert trio_uring.current_statistics().driver == sys.argv[1]
    assert await generator.__anext__() == b"hello"
trio.run(main)
print("over")
"""


@pytest.mark.parametrize("driver", DRIVERS)
def test_an_unfinished_generator_over_a_multishot_lets_its_run_end(
    driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its multishot is cancelled while the run ends, after the system tasks have ended."""
    monkeypatch.setenv("TRIO_URING_DRIVER", driver)
    assert run_python(UNFINISHED_GENERATOR, driver).stdout == "over\n"


def test_a_kernel_that_is_busy_once_does_not_end_a_hosted_run(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EBUSY from a submit is no failure of the driver: the operation happens all the same."""
    monkeypatch.setenv("TRIO_URING_DRIVER", "hosted")
    submit = EngineRing.submit_now
    refusals: list[int] = []

    def refuse_once(ring: EngineRing) -> int:
        if len(refusals) < 1 and ring.sq_ready():
            refusals.append(-errno.EBUSY)
            return -errno.EBUSY
        return submit(ring)

    async def main() -> None:
        async with await trio_uring.open_direct(path) as file:
            monkeypatch.setattr(EngineRing, "submit_now", refuse_once)
            with trio.fail_after(WAIT_S):
                assert await file.read_at(10, 0) == b"0123456789"
                assert await file.read_at(2, 0) == b"01"
        assert refusals

    trio.run(main)


# -- zero-copy sends -------------------------------------------------------------------------------


@both_drivers
@requires_op(Op.SEND_ZC)
async def test_a_zero_copy_send_waits_for_no_peer_and_locks_its_data() -> None:
    """It ends with a count, or by a cancel; so does a close. The data are locked until sent."""
    data = bytearray(1 << 20)
    listener, address = await listen()
    with connect(address) as client, trio.fail_after(WAIT_S):
        theirs = await listener.accept_direct()
        await listener.aclose()
        sent = 0
        while True:  # until nothing fits any more
            with trio.move_on_after(0.2) as scope:
                sent += await theirs.send_zc(data)
            if scope.cancelled_caught:
                break
        assert sent
        assert is_locked(data)

        async def send() -> None:
            nonlocal sent
            try:
                sent += await theirs.send_zc(data)
            except trio.ClosedResourceError:
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await passes(3)
            await theirs.aclose()
        assert is_locked(data), "the kernel still sends them"
        received = 0
        while chunk := await receive(client):
            received += len(chunk)
        assert received == sent
        while is_locked(data):
            await trio.lowlevel.checkpoint()


async def receive(client: socket.socket) -> bytes:
    await trio.lowlevel.wait_readable(client)
    return client.recv(1 << 20)


# -- waits of worker threads -----------------------------------------------------------------------


@both_drivers
async def test_a_splice_that_waits_is_cancelled_or_closed_as_any_other() -> None:
    """A worker that is interrupted answers ERESTARTSYS: Cancelled or ClosedResourceError."""
    with trio.fail_after(WAIT_S):
        async with trio_uring.open_nursery() as nursery:
            source, _feed = await nursery.pipe_direct()
            _drain, target = await nursery.pipe_direct()
            with trio.move_on_after(0.05) as scope:
                await source.splice_to(target, 100)
            assert scope.cancelled_caught

            async def splice() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await source.splice_to(target, 100)

            nursery.start_soon(splice)
            await trio.sleep(0.05)  # a worker has begun; nothing tells
            await source.aclose()


@old_kernels_too
async def test_a_fifo_that_is_opened_to_write_waits_for_its_reader(tmp_path: Path) -> None:
    """As open(2) waits: io_uring's own first attempt, which does not, is not the answer."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    opened: list[trio_uring.FixedFile] = []

    async def open_to_write() -> None:
        opened.append(await trio_uring.open_direct(fifo, os.O_WRONLY))

    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_to_write)
            await passes(5)
            assert not opened
            reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        async with opened[0] as writer:
            await writer.write(b"x")
        assert os.read(reader, 8) == b"x"
        os.close(reader)


# -- slots -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"slots_max": 4, "slots_manual": 5},
        {"slots_manual": -1},
        {"slots_max": 0},
        {"sq_entries": 0},
        {"sq_entries": 3},
        {"sq_entries": 8192},
        {"cq_entries": 0},
        {"cq_entries": 1 << 17},
        {"recv_buffers": 0},
        {"recv_buffers": 3},
        {"recv_buffers": 65536},
        {"recv_buffer_bytes": 0},
    ],
    ids=str,
)
def test_sizes_that_cannot_be_are_refused_where_they_are_written(wrong: dict[str, int]) -> None:
    """A ValueError that names the option, and no error of the kernel in some later call."""
    with pytest.raises(ValueError, match=list(wrong)[-1]):
        RingOptions(**wrong)


async def test_a_slot_outside_of_the_real_table_truncates_nothing(path: Path) -> None:
    """RLIMIT_NOFILE made the table smaller than asked for: the file keeps its content."""
    if not _capabilities.capabilities().install:
        pytest.skip("before 6.8 slots are only counted, and the table is as large as asked for")
    with descriptors_at_most(256):
        adopt_ring(RingOptions(slots_max=1024, slots_manual=512))
        with pytest.raises(ValueError, match="slot 300"):
            await trio_uring.open_direct(path, os.O_WRONLY | os.O_TRUNC, slot=300)
    assert os.path.getsize(path) == 10  # noqa: ASYNC240


@both_drivers
async def test_the_manual_slot_of_a_dropped_handle_is_free_at_once(path: Path) -> None:
    """No pass of the loop is needed between the drop and the next use."""
    adopt_ring(RingOptions(slots_max=4, slots_manual=2))
    file = await trio_uring.open_direct(path, slot=0)
    with pytest.warns(ResourceWarning, match="unclosed"):
        del file
    async with await trio_uring.open_direct(path, slot=0) as file:
        assert await file.read_at(3, 0) == b"012"


@both_drivers
async def test_an_idle_accept_gives_its_slots_to_those_who_wait(path: Path) -> None:
    """Of 20 slots the listener has one and the next client has one: the rest can be had."""
    adopt_ring(RingOptions(slots_max=20))
    listener, address = await listen()
    got: list[trio_uring.FixedSocket] = []
    with trio.fail_after(WAIT_S):
        async with (
            trio_uring.open_nursery() as files,
            listener,
            listener.accept_direct_multishot() as connections,
            trio.open_nursery() as nursery,
        ):

            async def accept() -> None:
                got.append(await connections.__anext__())

            nursery.start_soon(accept)
            await passes(3)
            for _ in range(18):
                await files.open_direct(path)
            with connect(address):
                while not got:
                    await trio.lowlevel.checkpoint()
                await got[0].aclose()


@both_drivers
async def test_two_tasks_cannot_wait_for_one_connection() -> None:
    """Neither may be forgotten: the second is refused, also while the first waits for a slot."""
    adopt_ring(RingOptions(slots_max=2))
    listener, address = await listen()
    got: list[trio_uring.FixedSocket] = []
    with trio.fail_after(WAIT_S):
        async with (
            await trio_uring.open_direct("/dev/null") as other,
            listener,
            listener.accept_direct_multishot() as connections,
            trio.open_nursery() as nursery,
        ):

            async def accept() -> None:
                got.append(await connections.__anext__())

            nursery.start_soon(accept)
            await passes(2)
            with pytest.raises(trio.BusyResourceError):
                await connections.__anext__()
            await other.aclose()
            with connect(address):
                while not got:
                    await trio.lowlevel.checkpoint()
                await got[0].aclose()


# -- closing and moving ----------------------------------------------------------------------------


@both_drivers
@old_kernels_too
async def test_a_status_is_never_that_of_another_file(path: Path, tmp_path: Path) -> None:
    """stat() while another task closes the handle: its own status, or ClosedResourceError."""
    other = tmp_path / "other"
    other.write_bytes(b"x" * 777)

    async def status(file: trio_uring.FixedFile) -> None:
        try:
            assert (await file.stat()).st_size == 10
        except trio.ClosedResourceError:
            pass

    for at in range(16):
        file = await trio_uring.open_direct(path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(status, file)
            await passes(at % 4)
            if at < 8:
                await trio.aclose_forcefully(file)
            else:
                await file.aclose()
            # The lowest descriptors that are free, and the slot.
            fds = [os.open(other, os.O_RDONLY | os.O_CLOEXEC) for _ in range(3)]
            async with await trio_uring.open_direct(other):
                await passes(2)
            for fd in fds:
                os.close(fd)


@both_drivers
async def test_a_move_into_another_run_changes_nothing(path: Path) -> None:
    """A RuntimeError there, and here a handle that is as it was, though that scope is closed."""
    file = await trio_uring.open_direct(path)

    async def other_run(closed: bool) -> None:
        scope = trio_uring.open_file_scope()
        if closed:
            await scope.aclose()
        with pytest.raises(RuntimeError):
            file.move_to(scope)

    for closed in (True, False):
        await trio.to_thread.run_sync(trio.run, other_run, closed)
    assert not file.closed
    assert await file.read_at(2, 0) == b"01"
    await file.aclose()
    assert trio_uring.current_statistics().slots_used == 0


async def test_a_closed_scope_opens_nothing(tmp_path: Path) -> None:
    """The error comes before the file is created."""
    scope = trio_uring.open_file_scope()
    await scope.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await scope.open_direct(tmp_path / "new", os.O_CREAT | os.O_WRONLY)
    assert not (tmp_path / "new").exists()
    assert trio_uring.current_statistics().slots_used == 0


@old_kernels_too
async def test_a_register_without_a_free_descriptor_leaks_nothing() -> None:
    """EMFILE at any of the descriptors that it needs: nothing stays open."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        async with await trio_uring.open_direct("/dev/null"):
            before = os.listdir("/proc/self/fd")
            for spare in range(3):
                fillers = []
                with descriptors_at_most(len(before) + 32):
                    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
                        while True:
                            fillers.append(os.dup(0))
                    for _ in range(spare):
                        os.close(fillers.pop())
                    try:
                        await (await trio_uring.register(ours)).aclose()
                    except OSError:
                        pass
                for fd in fillers:
                    os.close(fd)
            assert sorted(os.listdir("/proc/self/fd")) == sorted(before)
        assert trio_uring.current_statistics().slots_used == 0


async def test_a_handle_cannot_be_copied_or_pickled(path: Path) -> None:
    """Two handles on one slot: the second would outlive the close of the first."""
    async with await trio_uring.open_direct(path) as file:
        for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="cannot be copied or pickled"):
                duplicate(file)


async def test_a_file_that_is_missing_is_named_in_the_error(tmp_path: Path) -> None:
    """As open() does it: FileNotFoundError with the path."""
    path = tmp_path / "missing"
    with pytest.raises(FileNotFoundError) as failure:
        await trio_uring.open_direct(path)
    assert failure.value.filename == str(path)


async def test_a_task_for_a_handle_wants_the_handle_and_an_async_function(path: Path) -> None:
    """Swapped arguments and a synchronous function are TypeErrors, and the handle is closed."""
    wrong: Any = lambda file: None  # noqa: E731

    async def right(file: trio_uring.FixedFile) -> None:
        pass

    async with trio_uring.open_nursery() as nursery:
        file = await nursery.open_direct(path)
        swapped: tuple[Any, Any] = (right, file)
        with pytest.raises(TypeError, match="the first argument is the handle"):
            nursery.start_soon_with(*swapped)
        assert not file.closed
    with pytest.raises(BaseException) as failure:  # noqa: PT011
        async with trio_uring.open_nursery() as nursery:
            file = await nursery.open_direct(path)
            nursery.start_soon_with(file, wrong)
    assert [type(exc) for exc in failure.value.exceptions] == [TypeError]  # type: ignore[attr-defined]
    assert file.closed


# -- receiving -------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", DRIVERS)
def test_ctrl_c_between_a_completion_and_its_return_loses_no_byte(
    driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """recv returns what it received and its buffer goes back; KeyboardInterrupt comes later."""
    monkeypatch.setenv("TRIO_URING_DRIVER", driver)
    if sys.gettrace() is not None:
        pytest.skip("a debugger or a coverage tool traces already")
    got: list[bytes] = []
    interrupted: list[int] = []

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_name == "recv" and "data" in frame.f_locals and not interrupted:
            interrupted.append(1)
            signal.raise_signal(signal.SIGINT)
        return trace

    async def main() -> None:
        async with socket_pair() as (ours, theirs):
            buffers = engine().shared_buffers()
            if buffers is None:
                pytest.skip("this kernel lacks provided buffer rings (before 5.19)")

            theirs.send(b"hello")
            sys.settrace(trace)
            try:
                got.append(await ours.recv(100))
            finally:
                sys.settrace(None)
            assert buffers.lent == 0
            await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert got == [b"hello"]
    assert interrupted


@both_drivers
async def test_a_multishot_delivers_also_without_a_shared_buffer() -> None:
    """Somebody else has all the buffers of the run: chunks come in memory of their own."""
    adopt_ring(TINY_RING)
    async with socket_pair() as (ours, theirs):
        buffers = engine().shared_buffers()
        if buffers is None:
            pytest.skip("this kernel lacks provided buffer rings (before 5.19)")
        for _ in range(TINY_RING.recv_buffers):  # these are not given back before the end
            theirs.send(b"taken")
            await engine().perform_on(
                ours, prep_recv, 0, 64, 0, bounded=False, flags=SqeFlag.BUFFER_SELECT
            )
        with trio.fail_after(WAIT_S):
            async with ours.recv_multishot() as received:
                for data in (b"one", b"two"):
                    theirs.send(data)
                    assert await received.__anext__() == data
        for number in range(TINY_RING.recv_buffers):
            buffers.take(number << BUFFER_SHIFT, 0)


async def test_a_multishot_on_datagrams_is_refused() -> None:
    """An empty datagram would end it, and boundaries would be lost: ValueError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        handle = await trio_uring.register(ours)
        assert isinstance(handle, trio_uring.FixedSocket)
        async with handle:
            with pytest.raises(ValueError, match="SOCK_STREAM"):
                handle.recv_multishot()


@both_drivers
async def test_what_a_multishot_left_is_read_first() -> None:
    """read() and recv() after the block go on where the loop ended."""
    async with socket_pair() as (ours, theirs):
        theirs.send(b"1st")
        async with ours.recv_multishot() as received:
            assert await received.__anext__() == b"1st"
            theirs.send(b"2nd")
            await passes(3)
        theirs.send(b"3rd")
        assert await ours.read(3) == b"2nd"
        assert await ours.recv(3) == b"3rd"


@both_drivers
async def test_a_send_that_fails_leaves_what_was_received() -> None:
    """The peer said something and went: that can be read, and then the end."""
    async with socket_pair() as (ours, theirs):
        theirs.send(b"last words")
        theirs.close()
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError):
                await ours.send(b"x")
        assert await ours.recv(100) == b"last words"
        assert await ours.recv(100) == b""


@both_drivers
async def test_to_receive_nothing_takes_no_time() -> None:
    """recv(0) and recv_into() an empty buffer return at once, as those of a socket do."""
    async with socket_pair() as (ours, _):
        with trio.fail_after(WAIT_S):
            assert await ours.recv(0) == b""
            assert await ours.recv_into(bytearray()) == 0


@both_drivers
async def test_the_body_of_an_accept_loop_gets_the_slots_that_nobody_waits_for() -> None:
    """What is accepted ahead holds none back from the task that would take it."""
    adopt_ring(RingOptions(slots_max=9))
    async with trio_uring.open_nursery() as nursery:
        listener = await nursery.socket_direct()
        await listener.bind(("127.0.0.1", 0))
        await listener.listen()
        address = await listener.getsockname()
        with socket.create_connection(address), trio.fail_after(WAIT_S):
            async with listener.accept_direct_multishot() as connections:
                connection = await connections.__anext__()
                for _ in range(7):  # with the listener and the connection that is all
                    await nursery.open_direct("/dev/null")
                await connection.aclose()
                with socket.create_connection(address):
                    await (await connections.__anext__()).aclose()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("code", [errno.ECONNABORTED, errno.EHOSTUNREACH])
async def test_a_connection_that_was_taken_down_stays_broken(code: int) -> None:
    """The kernel says so once; later receives would look like an orderly end."""
    async with socket_pair() as (ours, _theirs):
        with pytest.raises(trio.BrokenResourceError):
            ours._receive_failed(OSError(code, os.strerror(code)))
        with pytest.raises(trio.BrokenResourceError):
            await ours.recv(1)


@both_drivers
async def test_urgent_data_is_not_what_a_multishot_left() -> None:
    """MSG_OOB asks for another byte."""
    listener, address = await listen()
    async with listener:
        with connect(address) as peer:
            async with await listener.accept_direct() as sock:
                sock._received.append(b"left")
                peer.send(b"!", socket.MSG_OOB)
                assert await sock.recv(1, socket.MSG_OOB) == b"!"
                assert await sock.recv(10) == b"left"


@both_drivers
async def test_all_is_waited_for_also_behind_what_a_multishot_left() -> None:
    """MSG_WAITALL; and cancelled it has taken nothing."""
    async with socket_pair() as (ours, theirs):
        ours._received.extend([b"abc", b"de"])
        theirs.send(b"fghij")
        assert await ours.recv(10, socket.MSG_WAITALL | socket.MSG_PEEK) == b"abc"
        assert await ours.recv(10, socket.MSG_WAITALL) == b"abcdefghij"
        ours._received.extend([b"abc", b"de"])
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ours.recv, 10, socket.MSG_WAITALL)
                await passes(5)
                scope.cancel()
        assert scope.cancelled_caught
        assert await ours.recv(10) + await ours.recv(10) == b"abcde"


@both_drivers
async def test_a_splice_that_moves_bytes_ends_for_both_handles(tmp_path: Path) -> None:
    """Both count it, and both can be closed afterwards."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    reader, writer = os.pipe()
    try:
        async with await trio_uring.register(writer) as pipe:
            async with await trio_uring.open_direct(path) as file:
                assert await file.splice_to(pipe, 4, 2) == 4
                assert await file.splice_to(pipe, 100, 8) == 2
                assert (file._in_flight, pipe._in_flight) == (0, 0)
        assert os.read(reader, 100) == b"234589"
    finally:
        os.close(reader)
        os.close(writer)


@both_drivers
@pytest.mark.parametrize("way", ["recv", "recv_into", "multishot"])
async def test_a_reset_that_a_send_was_told_of_is_no_orderly_end(way: str) -> None:
    """The kernel tells it once; what had come before is received first."""
    listener, address = await listen()
    async with listener:
        peer = connect(address)
        async with await listener.accept_direct() as sock:
            peer.sendall(b"half")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if way != "multishot":
                assert await sock.recv(4) == b"half"
            peer.close()
            with pytest.raises(trio.BrokenResourceError):
                await sock.send_all(b"x")
            with pytest.raises(trio.BrokenResourceError), trio.fail_after(WAIT_S):
                if way == "recv":
                    await sock.recv(1)
                elif way == "recv_into":
                    await sock.recv_into(bytearray(1))
                else:
                    async with sock.recv_multishot() as received:
                        assert await received.drain()
                        await received.drain()
            with pytest.raises(trio.BrokenResourceError):
                await sock.recv(1)


@both_drivers
async def test_a_buffer_is_free_when_the_cancellation_is_over(tmp_path: Path) -> None:
    """Without another checkpoint, whether the operation was submitted or not."""
    path = tmp_path / "file"
    path.write_bytes(bytes(1000))
    async with await trio_uring.open_direct(path) as file:
        for many in (False, True):
            data = bytearray(1000)
            with trio.CancelScope() as scope:
                scope.cancel()
                if many:
                    await file.read_many(data, range(10))
                else:
                    await file.readinto_at(data, 0)
            assert scope.cancelled_caught
            data.clear()  # BufferError while somebody has it


@both_drivers
async def test_nothing_is_read_of_a_closed_handle_either(tmp_path: Path) -> None:
    """An empty batch is refused as any other."""
    path = tmp_path / "file"
    path.write_bytes(b"")
    file = await trio_uring.open_direct(path)
    await file.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await file.read_many(bytearray(8), [])
