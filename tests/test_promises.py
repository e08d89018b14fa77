# SPDX-License-Identifier: MIT OR Apache-2.0
"""The ten promises of docs/guarantees.rst, each with tests named after it.

Each test fails under a mutant: see mutants_engine.py.
"""

from __future__ import annotations

import gc
import os
import select
import socket
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from engine_help import (
    WAIT_S,
    a_running_read,
    big_file,
    can_bind,
    connect,
    engine,
    listen,
    passes,
    run_python,
    socket_pair,
    unix_listener,
)

import trio_uring
from trio_uring import RingOptions, SlotsExhausted
from trio_uring.testing import (
    TINY_RING,
    adopt_ring,
    assert_nothing_left,
    requires_direct_descriptors,
    used_slots,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from trio_uring import FixedFile, FixedSocket

pytestmark = requires_direct_descriptors()
gated = pytest.mark.usefixtures("uring_leak_gate")


class BoomError(Exception):
    """What the tests raise."""


# -- 1. Buffers ------------------------------------------------------------------------------


@gated
async def test_promise_1_a_buffer_is_locked_until_its_operation_has_ended() -> None:
    """A bytearray that is being received into cannot be resized; afterwards it can."""
    buffer = bytearray(100)
    async with socket_pair() as (sock, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sock.recv_into, buffer)
            await passes(2)
            with pytest.raises(BufferError):
                buffer.append(1)
            peer.send(b"data")
        assert buffer[:4] == b"data"
        buffer.append(1)


@gated
async def test_promise_1_a_buffer_stays_locked_through_a_cancel_that_is_too_late() -> None:
    """A cancelled scope does not give back the buffer of an operation that goes on."""
    with big_file() as fd:
        async with await trio_uring.register(fd) as file:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    read = await a_running_read(file, nursery.start_soon)
                    scope.cancel()
                    with pytest.raises(BufferError):
                        read.buffer.append(1)
            read.buffer.append(1)


@gated
async def test_promise_1_a_buffer_that_a_cancel_took_back_in_time_is_free_at_once() -> None:
    """An operation that was never submitted lets go with its cancellation."""
    buffer = bytearray(100)
    async with socket_pair() as (sock, _):
        with trio.CancelScope() as scope:
            scope.cancel()
            await sock.recv_into(buffer)
        await passes(1)  # until then Trio's loop holds the exception, and that its frames
        buffer.append(1)


async def test_promise_1_a_buffer_outlives_the_task_that_lent_it() -> None:
    """Row 1: the frames of a task may be gone; what the kernel writes to is locked all the same."""
    buffer = bytearray(100)
    async with socket_pair() as (sock, peer):
        # A task that was torn down cannot be resumed: Trio says so.
        with pytest.RaisesGroup(RuntimeError):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sock.recv_into, buffer)
                await passes(2)
                for task in nursery.child_tasks:
                    task.coro.close()
                gc.collect()
                with pytest.raises(BufferError):
                    buffer.append(1)
                [record] = [r for r in engine().records if getattr(r, "task", None)]
                peer.send(b"data")
        assert buffer[:4] == b"data"
        assert record.unwrap() == 4  # what the task would have done
        buffer.append(1)


CRASHED = """
import os, gc, sys, time, trio, trio_uring, warnings
import trio_uring._engine
from engine_help import a_running_read, big_file
warnings.simplefilter("ignore")
trio_uring._engine.DRAIN_TIMEOUT_S = float(sys.argv[1])
sys.stderr = open(os.devnull, "w")
buffers = []
async def main():
    with big_file() as fd:
        file = await trio_uring.register(fd)
        async with trio.open_nursery() as nursery:
            buffers.append((await a_running_read(file, nursery.start_soon)).buffer)
            trio.lowlevel.current_task()._runner.clock = None
try:
    trio.run(main)
except trio.TrioInternalError:
    pass
gc.collect()
gc.collect()
try:
    buffers[0].append(1)
    print("free")
except BufferError:
    print("locked")
sys.stdout.flush()
END
"""


def test_promise_1_a_ring_that_cannot_wait_keeps_its_buffers_for_ever() -> None:
    """Rows 1 and 2: closed with a read still running, the ring never lets its buffer go."""
    program = CRASHED.replace("END", "os._exit(0)")
    assert run_python(program, "0").stdout == "locked\n"


def test_promise_1_a_ring_that_waits_returns_its_buffers() -> None:
    """Row 2: closing waits for what is in flight; the buffer is free when that has ended."""
    program = CRASHED.replace("END", "os._exit(0)")
    assert run_python(program, "30").stdout == "free\n"


def test_promise_1_the_end_of_the_interpreter_frees_no_buffer_too_early() -> None:
    """An interpreter that ends while the kernel writes to its buffers ends without a crash."""
    done = run_python(CRASHED.replace("END", "sys.exit(3)"), "0", check=False)
    assert done.returncode == 3
    assert done.stdout == "locked\n"


# -- 2. Cancelled means it did not happen ------------------------------------------------------


async def cancelled_after_the_effect(
    operation: Callable[[], Awaitable[object]], effect: Callable[[], object]
) -> object:
    """What the operation returns; it waits for ``effect``, and is cancelled in the same step.

    The kernel decides which comes first. If the effect does, the cancellation must still be
    delivered: at the next checkpoint.
    """
    result: object = None
    with trio.fail_after(WAIT_S), trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def cause() -> None:
                await passes(3)
                effect()
                scope.cancel()

            nursery.start_soon(cause)
            result = await operation()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    return result


@gated
async def test_promise_2_cancelled_means_it_did_not_happen_for_recv() -> None:
    """Either recv returns the data, or it raises Cancelled and the data is still there."""
    async with socket_pair() as (sock, peer):
        for number in range(50):
            data = b"%d" % number
            got = await cancelled_after_the_effect(
                lambda: sock.recv(10),
                lambda data=data: peer.send(data),  # type: ignore[misc]
            )
            assert (got or await sock.recv(10)) == data


@gated
async def test_promise_2_cancelled_means_it_did_not_happen_for_accept() -> None:
    """Either accept_direct returns the client, or the client is still in the backlog."""
    async with unix_listener() as (listener, address):
        for number in range(50):
            clients: list[socket.socket] = []
            conn = await cancelled_after_the_effect(
                listener.accept_direct,
                lambda clients=clients: clients.append(connect(address)),  # type: ignore[misc]
            )
            conn = conn or await listener.accept_direct()
            assert isinstance(conn, trio_uring.FixedSocket)
            with clients[0] as client:
                client.send(b"%d" % number)
                async with conn:
                    assert await conn.recv(10) == b"%d" % number


@gated
async def test_promise_2_cancelled_means_it_did_not_happen_for_read_and_write() -> None:
    """The same for pipes, in both directions."""
    reader, writer = await trio_uring.pipe_direct()
    async with reader, writer:
        fd = await reader.install_fd()
        feed = await writer.install_fd()
        try:
            for number in range(50):
                data = b"%d" % number
                got = await cancelled_after_the_effect(
                    lambda: reader.read(10),
                    lambda data=data: os.write(feed, data),  # type: ignore[misc]
                )
                assert (got or await reader.read(10)) == data
            os.set_blocking(fd, False)
            os.set_blocking(feed, False)
            for _ in range(20):
                fill(feed)
                wrote = await cancelled_after_the_effect(
                    lambda: writer.write(bytes(4096)), lambda: os.read(fd, 1 << 20)
                )
                assert drain(fd) == (wrote or 0)
        finally:
            os.close(fd)
            os.close(feed)


def fill(fd: int) -> None:
    try:
        while True:
            os.write(fd, bytes(1 << 16))
    except BlockingIOError:
        pass


def drain(fd: int) -> int:
    found = 0
    try:
        while True:
            found += len(os.read(fd, 1 << 20))
    except BlockingIOError:
        return found


@gated
async def test_promise_2_cancelled_means_it_did_not_happen_for_open(tmp_path: Path) -> None:
    """A cancelled open_direct has created no file; in a scope that is cancelled it cannot."""
    opened: list[Path] = []
    for number in range(50):
        path = tmp_path / str(number)
        with trio.CancelScope() as scope:
            if number % 2:
                scope.cancel()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_later, scope, number // 2 % 3)
                file = await trio_uring.open_direct(path, os.O_WRONLY | os.O_CREAT)
                opened.append(path)
                await file.aclose()
        # Cancelled may have come after the open, out of aclose.
        assert path.exists() == (path in opened)


async def cancel_later(scope: trio.CancelScope, count: int) -> None:
    await passes(count)
    scope.cancel()


@gated
async def test_promise_2_a_result_is_returned_although_the_scope_is_cancelled() -> None:
    """An operation that cannot be cancelled any more returns, and the next await raises."""
    steps: list[object] = []
    scope = trio.CancelScope()

    async def read_in_scope(run: Callable[[], Awaitable[object]]) -> None:
        with scope:
            steps.append(await run())
            if scope.cancel_called:
                steps.append("checkpoint")
                await trio.lowlevel.checkpoint()
                steps.append("not cancelled")

    with big_file() as fd:
        async with await trio_uring.register(fd) as file, trio.open_nursery() as nursery:
            await a_running_read(file, lambda run: nursery.start_soon(read_in_scope, run))
            steps.clear()
            scope.cancel()
    assert scope.cancelled_caught
    assert steps[1:] == ["checkpoint"]
    assert steps[0]


# -- 3. No descriptor outlives its scope -------------------------------------------------------


@gated
@pytest.mark.parametrize("end", ["return", "raise", "cancel"])
async def test_promise_3_no_descriptor_outlives_its_scope(end: str) -> None:
    """At the end of a nursery no slot is used and no operation in flight, whatever the end."""
    with pytest.RaisesGroup(BoomError) if end == "raise" else nullcontext():
        async with trio_uring.open_nursery() as nursery:
            listener, address = await listen()
            nursery.adopt(listener)
            await nursery.open_direct("/dev/zero")
            await nursery.pipe_direct()
            with connect(address):
                conn = await nursery.accept_direct(listener)
                if end != "return":
                    nursery.start_soon(conn.recv, 10)
                    nursery.start_soon(listener.accept_direct)
                await passes(3)
                assert len(used_slots()) == 5
            if end == "raise":
                raise BoomError
            if end == "cancel":
                nursery.cancel_scope.cancel()
    assert used_slots() == {}
    assert_nothing_left()
    assert can_bind(address)


@gated
async def test_promise_3_handles_close_last_opened_first_after_the_tasks() -> None:
    """Tasks end before handles close, and handles close in the reverse order of opening."""
    closed: list[object] = []

    class Noted(trio_uring.FileScope):
        def _forget(self, file: object) -> None:
            closed.append(file)
            super()._forget(file)  # type: ignore[arg-type]

    async with Noted() as scope:
        files = [await scope.open_direct("/dev/zero") for _ in range(4)]
    assert closed == files[::-1]


@gated
async def test_promise_3_a_resource_that_arrives_after_the_cancel_is_closed_too() -> None:
    """What open_direct returns into a cancelled scope is closed with that scope."""
    for count in range(60):
        with trio.CancelScope() as scope:
            async with trio_uring.open_nursery() as nursery, trio.open_nursery() as inner:
                inner.start_soon(cancel_later, scope, count % 4)
                await nursery.open_direct("/dev/zero")
                await nursery.socket_direct()
        assert used_slots() == {}
    assert_nothing_left()


# -- 4. A handle never reaches another file ----------------------------------------------------


@gated
async def test_promise_4_the_slot_leaves_the_handle_when_closing_starts() -> None:
    """From the first step of aclose on the handle names no slot, and every method says closed."""
    async with socket_pair() as (sock, _), trio.open_nursery() as nursery:
        nursery.start_soon(expect_closed, sock)
        await passes(2)
        nursery.start_soon(sock.aclose)
        with trio.fail_after(WAIT_S):
            while not sock.closed:
                await passes(1)
        assert sock.slot == -1
        await expect_closed(sock)


async def expect_closed(sock: FixedSocket) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await sock.recv(10)


@gated
async def test_promise_4_a_slot_is_not_reused_while_an_operation_names_it() -> None:
    """A forced close with a read still running keeps its slot until that has ended."""
    adopt_ring(RingOptions(slots_max=1))
    with big_file() as fd:
        for _ in range(50):
            file = await trio_uring.register(fd)
            async with trio.open_nursery() as nursery:
                await a_running_read(file, lambda run: nursery.start_soon(run_until_closed, run))
                await trio.aclose_forcefully(file)
                assert used_slots() == {}
                if engine().in_flight:
                    await expect_quarantine()
                    return
    pytest.fail("all reads ended while the handle was closed")


async def expect_quarantine() -> None:
    assert trio_uring.current_statistics().slots_quarantined == 1
    with pytest.raises(SlotsExhausted):
        await trio_uring.open_direct("/dev/zero", wait=False)
    # Who waits gets it when the read has ended.
    async with await trio_uring.open_direct("/dev/zero") as other:
        assert trio_uring.current_statistics().operations_in_flight == 0
        assert other.slot == 0


async def run_until_closed(run: Callable[[], Awaitable[object]]) -> None:
    try:
        await run()
    except trio.ClosedResourceError:
        pass


@gated
async def test_promise_4_a_stale_handle_raises(tmp_path: Path) -> None:
    """Every method of a closed handle raises ClosedResourceError, with another file in its slot."""
    adopt_ring(TINY_RING)
    path = tmp_path / "file"
    path.write_bytes(b"precious")
    stale = await trio_uring.open_direct("/dev/zero", os.O_RDWR)
    await stale.aclose()
    async with (
        await trio_uring.open_direct(path, os.O_RDWR) as one,
        await trio_uring.open_direct(path, os.O_RDWR) as two,
    ):
        attempts: list[Callable[[], Awaitable[object]]] = [
            lambda: stale.read_at(1, 0),
            lambda: stale.write_at(b"x", 0),
            lambda: stale.readinto_at(bytearray(1), 0),
            lambda: stale.readv_at([bytearray(1)], 0),
            lambda: stale.writev_at([b"x"], 0),
            lambda: stale.read(1),
            lambda: stale.write(b"x"),
            lambda: stale.truncate(0),
            lambda: stale.allocate(0, 1),
            lambda: stale.advise(0, 0, 0),
            lambda: stale.splice_to(one, 1),
            lambda: one.splice_to(stale, 1),
            lambda: stale.poll(select.POLLIN),
            stale.fsync,
            stale.fdatasync,
            stale.stat,
            stale.install_fd,
        ]
        for attempt in attempts:
            with pytest.raises(trio.ClosedResourceError):
                await attempt()
        assert {one.slot, two.slot} == {0, 1}
    assert path.read_bytes() == b"precious"


# -- 5. Running out of slots harms nobody ------------------------------------------------------


@gated
async def test_promise_5_running_out_of_slots_harms_nobody(tmp_path: Path) -> None:
    """With a full table no file is truncated and no client is taken; later both get their turn."""
    adopt_ring(TINY_RING)
    path = tmp_path / "file"
    path.write_bytes(b"precious")
    async with unix_listener() as (listener, address), trio_uring.open_nursery() as nursery:
        other = await trio_uring.open_direct("/dev/zero")
        served: list[bytes] = []

        async def serve() -> None:
            async with await listener.accept_direct() as conn:
                served.append(await conn.recv(10))

        async def truncate() -> None:
            async with await trio_uring.open_direct(path, os.O_WRONLY | os.O_TRUNC):
                pass

        with connect(address) as client, trio.fail_after(WAIT_S):
            client.send(b"hello")
            nursery.start_soon(serve)
            nursery.start_soon(truncate)
            await passes(10)
            assert served == []
            assert path.read_bytes() == b"precious"
            with pytest.raises(BlockingIOError):
                client.recv(1)
            await other.aclose()
            while not served or path.read_bytes():
                await passes(1)
            while client_is_open(client):
                await passes(1)
    assert served == [b"hello"]


def client_is_open(client: socket.socket) -> bool:
    try:
        return bool(client.recv(1))
    except BlockingIOError:
        return True


# -- 6. Every await is a checkpoint, and every operation ends ----------------------------------


@gated
async def test_promise_6_every_method_is_a_checkpoint(tmp_path: Path) -> None:
    """Awaited when it has nothing to wait for, each method lets others run and can be cancelled."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    async with (
        await trio_uring.open_direct(path, os.O_RDWR) as file,
        socket_pair() as (sock, peer),
    ):
        peer.send(b"data")
        attempts: list[Callable[[], Awaitable[object]]] = [
            lambda: file.read_at(1, 0),
            lambda: file.write_at(b"c", 0),
            lambda: file.readv_at([bytearray(1)], 0),
            lambda: file.writev_at([b"c"], 0),
            file.fsync,
            file.stat,
            lambda: file.truncate(7),
            lambda: file.poll(select.POLLIN),
            lambda: sock.recv(1),
            lambda: sock.recv_into(bytearray(1)),
            lambda: sock.recvmsg(1),
            lambda: sock.send(b"x"),
            lambda: sock.send_all(b"x"),
            lambda: sock.send_all(b""),
            lambda: sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE),
            lambda: sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096),
            sock.getsockname,
            sock.getpeername,
        ]
        for attempt in attempts:
            with trio.testing.assert_checkpoints():
                await attempt()
        for attempt in attempts:
            with trio.CancelScope() as scope:
                scope.cancel()
                await attempt()
            assert scope.cancelled_caught
        for opener in (
            lambda: trio_uring.open_direct(path),
            trio_uring.socket_direct,
            lambda: trio_uring.register(peer),
        ):
            with trio.testing.assert_checkpoints():
                handle = await opener()  # type: ignore[no-untyped-call]
            with trio.testing.assert_checkpoints():
                await handle.aclose()
            with trio.testing.assert_checkpoints():
                await handle.aclose()


@gated
async def test_promise_6_what_is_pending_is_visible() -> None:
    """current_statistics counts what the kernel has not finished, and nothing else."""
    async with socket_pair() as (sock, peer):
        assert trio_uring.current_statistics().operations_in_flight == 0
        async with trio.open_nursery() as nursery:
            for count in range(3):
                assert trio_uring.current_statistics().operations_in_flight == count
                nursery.start_soon(sock.poll, select.POLLIN)
                await passes(2)
            peer.send(b"x")
        assert trio_uring.current_statistics().operations_in_flight == 0


# -- 7. Closing ------------------------------------------------------------------------------


@gated
async def test_promise_7_closing_is_idempotent_and_ends_what_is_pending() -> None:
    """Pending and later operations raise ClosedResourceError; a second close does nothing."""
    listener, _ = await listen()
    async with socket_pair() as (sock, _), trio.open_nursery() as nursery:

        async def expect(operation: Callable[[], Awaitable[object]]) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await operation()

        nursery.start_soon(expect, lambda: sock.recv(10))
        nursery.start_soon(expect, lambda: sock.send_all(bytes(1 << 22)))
        nursery.start_soon(expect, lambda: sock.poll(select.POLLPRI))
        nursery.start_soon(expect, listener.accept_direct)
        await trio.testing.wait_all_tasks_blocked()
        for handle in (sock, listener):
            for _ in range(2):
                await handle.aclose()
        await expect(lambda: sock.recv(10))
        await expect(listener.accept_direct)


@gated
async def test_promise_7_the_empty_string_means_the_end_only() -> None:
    """recv returns b"" when the peer has ended, and not when it was asked for nothing else."""
    adopt_ring(TINY_RING)
    async with socket_pair() as (sock, peer):
        got = b""
        for _ in range(30):
            with trio.move_on_after(0.0005):
                data = await sock.recv(10)
                assert data
                got += data
            peer.send(b"x")
        peer.close()
        while data := await sock.recv(10):
            got += data
        assert len(got) == 30
        assert await sock.recv(10) == b""


# -- 8. Nothing is lost silently ---------------------------------------------------------------


@gated
async def test_promise_8_a_short_write_is_reported_or_finished() -> None:
    """send returns how much was taken; send_all sends all of it, through a clogged socket."""
    async with socket_pair() as (sock, peer):
        data = os.urandom(1 << 22)
        assert 0 < await sock.send(data) <= len(data)
        while True:
            try:
                peer.recv(1 << 20)
            except BlockingIOError:
                break
        got = bytearray()

        async def collect() -> None:
            with trio.socket.from_stdlib_socket(peer.dup()) as other:
                while len(got) < len(data):
                    got.extend(await other.recv(50_000))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect)
            await sock.send_all(data)
        assert got == data


@gated
async def test_promise_8_overflowed_completions_are_recovered() -> None:
    """With room for 4 completions, 100 that come at once all arrive."""
    adopt_ring(TINY_RING)
    async with socket_pair() as (sock, peer):
        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(sock.poll, select.POLLIN)
                await trio.testing.wait_all_tasks_blocked()
                peer.send(b"x")
    assert trio_uring.current_statistics().overflow_count > 0


# -- 9. The wrong thread, a forked child, another run ------------------------------------------


@gated
async def test_promise_9_another_run_gets_a_clear_error() -> None:
    """A handle used in another run raises RuntimeError, and is as usable as before in its own."""

    async def misuse() -> None:
        with pytest.raises(RuntimeError, match="another Trio run"):
            await file.read_at(1, 0)
        with pytest.raises(RuntimeError, match="another Trio run"):
            await file.aclose()

    async with await trio_uring.open_direct("/dev/zero") as file:
        await trio.to_thread.run_sync(trio.run, misuse)
        assert await file.read_at(1, 0) == b"\0"


def test_promise_9_a_handle_of_a_run_that_is_over_is_closed() -> None:
    """A handle that outlives its run raises ClosedResourceError in the next one."""

    async def first() -> FixedFile:
        return await trio_uring.open_direct("/dev/zero")

    async def second(file: FixedFile) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await file.read_at(1, 0)
        await file.aclose()

    with pytest.warns(ResourceWarning, match="still open when its run ended"):
        file = trio.run(first)
    trio.run(second, file)


def test_promise_9_a_forked_child_gets_a_clear_error() -> None:
    """A child that uses its parent's ring raises ForkedRingError; the parent goes on."""
    program = """
import os, trio, trio_uring
async def main():
    async with await trio_uring.open_direct("/dev/zero") as file:
        if not (child := os.fork()):
            try:
                await file.read_at(1, 0)
            except trio_uring.ForkedRingError:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert await file.read_at(1, 0) == bytes(1)
trio.run(main)
"""
    assert run_python(program).stderr == ""


# -- 10. io_uring unusable ---------------------------------------------------------------------


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS", "ENOMEM"])
def test_promise_10_an_unusable_io_uring_is_one_clear_error(error: str) -> None:
    """Where io_uring is refused, the first operation says why and what to do; Trio goes on."""
    program = f"""
import sys
from pathlib import Path
import refusing, errno
if not refusing.refuse(refusing.NUMBERS["io_uring_setup"], errno.{error}):
    sys.exit(77)
import trio, trio_uring
async def main():
    for _ in range(2):
        try:
            await trio_uring.open_direct("/dev/zero")
        except trio_uring.RingUnavailableError as exc:
            assert exc.errno == errno.{error}, exc
            assert exc.reason and exc.remedy
            assert exc.reason in str(exc) and exc.remedy in str(exc)
        else:
            raise AssertionError("an io_uring that was refused")
    await trio.sleep(0)
    assert await trio.Path("/proc/self/comm").read_text()
run_modes.trio_run(main)  # trio_uring.run would not begin
"""
    done = run_python(program, check=False)
    if done.returncode == 77:
        pytest.skip("seccomp cannot be used here")
    assert (done.returncode, done.stderr) == (0, "")


def test_all_promises_have_tests() -> None:
    """Each of the ten promises has at least one test named after it."""
    names = [name for name in globals() if name.startswith("test_promise_")]
    assert {name.split("_")[2] for name in names} == {str(number) for number in range(1, 11)}
