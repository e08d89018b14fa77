# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the kernel may still touch is alive and in its place, until the final CQE was copied.

tests/mutants.py breaks each rule and runs these tests: they fail then.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import mmap
import os
import select
import signal
import socket
import tempfile
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from ring_help import WAIT_S, a_pipe, a_socketpair, is_locked, open_ring, run_one, wait_cqes

from trio_uring import _queue, _queue_close
from trio_uring.lowlevel import (
    AT_FDCWD,
    Cqe,
    CqeFlag,
    Feature,
    Msghdr,
    Op,
    PinnedBuffer,
    PollFlag,
    RegisterOp,
    Restriction,
    Ring,
    SetupFlag,
    SqeFlag,
    TimeoutFlag,
    Timespec,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

U64_MAX = (1 << 64) - 1
# As the tests churn the heap with: big enough to be given the memory of a freed buffer.
SIZE = 5000


class Buffer(bytearray):
    """A bytearray that can be watched."""


def churn() -> list[bytearray]:
    """Takes the memory of everything that was freed, and writes to it."""
    gc.collect(0)
    small = [bytearray(b"\xaa" * size) for size in range(16, 528, 16) for _ in range(20)]
    return small + [bytearray(b"\xaa" * SIZE) for _ in range(200)]


def untouched(memory: list[bytearray]) -> bool:
    return all(part.count(0xAA) == len(part) for part in memory)


# How a buffer is lent for something to be read from a socket.
READERS: dict[str, Callable[[Ring, int, Any], object]] = {
    "recv": lambda ring, fd, buffer: ring.recv(7, fd, buffer),
    "read": lambda ring, fd, buffer: ring.read(7, fd, buffer, 0),
    "readv": lambda ring, fd, buffer: ring.readv(7, fd, [buffer], 0),
    "recvmsg": lambda ring, fd, buffer: ring.recvmsg(7, fd, Msghdr.receive([buffer])),
    "a slice": lambda ring, fd, buffer: ring.recv(7, fd, memoryview(buffer)[:]),
    "pinned": lambda ring, fd, buffer: ring.recv(7, fd, PinnedBuffer(buffer)),
    "a pinned slice": lambda ring, fd, buffer: ring.recv(7, fd, PinnedBuffer(buffer)[:SIZE]),
    "read_many": lambda ring, fd, buffer: ring.read_many([7], fd, buffer, SIZE, [0]),
    "async": lambda ring, fd, buffer: setattr(ring.recv(7, fd, buffer), "flags", SqeFlag.ASYNC),
}


# -- rows 1, 3, 4, 5: buffers ----------------------------------------------------------------------


@pytest.mark.parametrize("how", READERS)
def test_a_buffer_is_locked_until_the_final_completion_was_copied(how: str) -> None:
    """Row 3: resizing it raises from the preparation on, and works after the copy."""
    buffer = bytearray(SIZE)
    with open_ring(4) as ring, a_socketpair() as (left, right):
        READERS[how](ring, left.fileno(), buffer)
        assert is_locked(buffer), "prepared"
        ring.submit()
        assert is_locked(buffer), "in flight"
        right.send(b"hello")
        ring.submit_and_wait(1)
        assert is_locked(buffer), "completed, not copied"
        assert ring.copy_cqes(1)[0][:2] == (7, 5)
        assert not is_locked(buffer)
        assert buffer[:5] == b"hello"
        assert not ring._pins


@pytest.mark.parametrize("how", READERS)
def test_a_buffer_that_nobody_else_has_is_not_freed(how: str) -> None:
    """Row 1: all references are dropped, its memory is not given to others, the peer sends."""
    with open_ring(4) as ring, a_socketpair() as (left, right):
        buffer = Buffer(SIZE)
        alive = weakref.ref(buffer)
        READERS[how](ring, left.fileno(), buffer)
        del buffer
        ring.submit()
        memory = churn()
        assert alive() is not None
        right.send(b"K" * SIZE)
        assert wait_cqes(ring, 1)[0][:2] == (7, SIZE)
        assert untouched(memory)
        assert alive() is None


def test_a_buffer_to_be_sent_is_kept_as_it_is() -> None:
    """Row 1 in the other direction: a send that waits for room sends what it was given."""
    with open_ring(4) as ring, a_socketpair() as (left, right):
        left.setblocking(False)
        filled = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                filled += left.send(bytes(4096))
        left.setblocking(True)
        ring.send(7, left.fileno(), Buffer(b"K" * SIZE))
        ring.submit()
        memory = churn()
        assert ring.copy_cqes(1) == []
        right.settimeout(WAIT_S)
        while filled:
            filled -= len(right.recv(min(filled, 1 << 16)))
        (cqe,) = wait_cqes(ring, 1)
        got = b""
        while len(got) < cqe.res:
            got += right.recv(SIZE)
        assert got == b"K" * cqe.res
        assert untouched(memory)


def test_a_view_that_is_released_and_a_map_that_is_closed_are_refused_meanwhile() -> None:
    """Row 4: the ring's own export holds both, and lets go of both."""
    with open_ring(4) as ring, a_socketpair() as (left, right), mmap.mmap(-1, 4096) as pages:
        view = memoryview(bytearray(64))
        ring.recv(1, left.fileno(), view)
        ring.recv(2, left.fileno(), pages)
        ring.submit()
        with pytest.raises(BufferError):
            view.release()
        with pytest.raises(BufferError):
            pages.close()
        for data in (b"one", b"two"):
            right.send(data)
            wait_cqes(ring, 1)
        assert {view[:3].tobytes(), pages[:3]} == {b"one", b"two"}
        view.release()


READ_ONLY = [b"12345678", memoryview(bytearray(8)).toreadonly(), PinnedBuffer(b"12345678")]


@pytest.mark.parametrize("buffer", [*READ_ONLY, memoryview(bytearray(16))[::2]], ids=repr)
@pytest.mark.parametrize("how", ["recv", "read", "readv", "recvmsg"])
def test_a_buffer_that_cannot_be_written_is_refused_before_an_entry_is_taken(
    buffer: Any, how: str
) -> None:
    """Row 5: read-only or strided memory raises, and the queue is as it was."""
    with open_ring(2) as ring:
        with pytest.raises((BufferError, ValueError)):
            READERS[how](ring, 0, buffer)
        assert (ring.sq_ready(), ring.sq.sqe_tail) == (0, 0)


def test_a_call_that_fails_borrows_nothing() -> None:
    """Neither a full queue nor an argument that does not fit leaves a buffer locked."""
    buffer = bytearray(8)
    with open_ring(1) as ring:
        with pytest.raises((ValueError, OverflowError)):
            ring.read(1, 0, buffer, 1 << 70)
        assert not is_locked(buffer)
        ring.nop(1)
        with pytest.raises(Exception, match="entries"):
            ring.read(1, 0, buffer, 0)
        assert not is_locked(buffer)


# -- row 6: what an operation points to ------------------------------------------------------------


def _openat(ring: Ring, stack: contextlib.ExitStack) -> Callable[[Cqe], None]:
    directory = stack.enter_context(tempfile.TemporaryDirectory())
    ring.openat(7, AT_FDCWD, f"{directory}/{'name' * 50}", os.O_CREAT | os.O_WRONLY, 0o600)

    def check(cqe: Cqe) -> None:
        os.close(cqe.res)
        assert os.listdir(directory) == ["name" * 50]

    return check


def _timeout(ring: Ring, stack: contextlib.ExitStack) -> Callable[[Cqe], None]:
    ring.timeout(7, Timespec(0, 20_000_000))

    def check(cqe: Cqe) -> None:
        assert cqe.res == -errno.ETIME

    return check


def _connect(ring: Ring, stack: contextlib.ExitStack) -> Callable[[Cqe], None]:
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    client = stack.enter_context(socket.socket())
    ring.connect(7, client.fileno(), listener.getsockname())

    def check(cqe: Cqe) -> None:
        assert cqe.res == 0
        assert client.getpeername() == listener.getsockname()

    return check


def _sendmsg(ring: Ring, stack: contextlib.ExitStack) -> Callable[[Cqe], None]:
    left, right = stack.enter_context(a_socketpair())
    ring.sendmsg(7, left.fileno(), Msghdr([b"one" * 9, b"two" * 9]))

    def check(cqe: Cqe) -> None:
        assert right.recv(99) == b"one" * 9 + b"two" * 9

    return check


def _writev(ring: Ring, stack: contextlib.ExitStack) -> Callable[[Cqe], None]:
    reader, writer = stack.enter_context(a_pipe())
    ring.writev(7, writer, [bytes([n]) * 30 for n in range(10)], 0)

    def check(cqe: Cqe) -> None:
        assert os.read(reader, 999) == b"".join(bytes([n]) * 30 for n in range(10))

    return check


@pytest.mark.parametrize("prepare", [_openat, _timeout, _connect, _sendmsg, _writev])
@pytest.mark.parametrize("flags", [SqeFlag(0), SqeFlag.ASYNC], ids=["inline", "async"])
def test_what_an_operation_points_to_lives_as_long_as_it(
    prepare: Callable[[Ring, contextlib.ExitStack], Callable[[Cqe], None]], flags: SqeFlag
) -> None:
    """Row 6: path, time, address, iovec and msghdr survive until submit, and until the end."""
    with open_ring(4) as ring, contextlib.ExitStack() as stack:
        check = prepare(ring, stack)
        ring._entries[0].flags |= flags
        memory = churn()
        ring.submit()
        memory += churn()
        check(wait_cqes(ring, 1)[0])
        assert untouched(memory)
        assert not ring._pins


# -- shared and changed user_data ------------------------------------------------------------------


def test_operations_with_one_user_data_keep_all_their_buffers() -> None:
    """Whichever ends first: the CQEs do not tell them apart, so none is let go before the last."""
    buffers = [bytearray(SIZE) for _ in range(3)]
    with open_ring(4) as ring, contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(a_socketpair()) for _ in buffers]
        for (left, _), buffer in zip(pairs, buffers, strict=True):
            ring.recv(7, left.fileno(), buffer)
            ring.submit()
        for count, index in enumerate((1, 2, 0)):
            assert [is_locked(buffer) for buffer in buffers] == [True] * 3, count
            pairs[index][1].send(b"x")
            wait_cqes(ring, 1)
        assert not any(map(is_locked, buffers))


def test_a_user_data_that_is_used_again_at_once_keeps_the_new_buffer() -> None:
    """The completion of the first operation is copied after the second was submitted."""
    first, second = bytearray(8), bytearray(8)
    with open_ring(4) as ring, a_socketpair() as (left, right):
        right.send(b"x")
        ring.recv(7, left.fileno(), first)
        ring.submit_and_wait(1)
        ring.recv(7, left.fileno(), second)
        ring.submit()
        assert ring.copy_cqes(1) == [Cqe(7, 1, 0)]
        assert (is_locked(first), is_locked(second)) == (True, True)
        right.send(b"y")
        wait_cqes(ring, 1)
        assert (is_locked(first), is_locked(second)) == (False, False)


def test_an_entry_that_is_only_prepared_keeps_its_buffer_past_its_twins_end() -> None:
    """A CQE with the user_data of an entry that was not submitted proves nothing for it."""
    first, second = bytearray(8), bytearray(8)
    with open_ring(4) as ring, a_socketpair() as (left, right):
        right.send(b"x")
        ring.recv(7, left.fileno(), first)
        ring.submit_and_wait(1)
        ring.recv(7, left.fileno(), second)
        assert ring.copy_cqes(1) == [Cqe(7, 1, 0)]
        assert (is_locked(first), is_locked(second)) == (False, True)


def test_many_at_once_keep_their_buffer_past_their_twins_end() -> None:
    """The same for what read_many prepared, with a user_data that is in flight."""
    with open_ring(4) as ring, a_socketpair() as (left, right):
        right.send(b"x")
        ring.recv(7, left.fileno(), bytearray(8))
        ring.submit_and_wait(1)
        buffer = bytearray(16)
        ring.read_many([7, 7], left.fileno(), buffer, 8, [0, 0])
        assert ring.copy_cqes(1) == [Cqe(7, 1, 0)]
        assert is_locked(buffer)
        ring.submit()
        for _ in range(2):
            assert is_locked(buffer)
            right.send(b"y")
            wait_cqes(ring, 1)
        assert not is_locked(buffer)


def test_a_user_data_that_is_changed_before_submit_takes_the_buffer_along() -> None:
    """What counts is what the kernel will send back."""
    buffer, other = bytearray(8), bytearray(8)
    with open_ring(4) as ring, a_socketpair() as (left, right):
        ring.recv(7, left.fileno(), buffer).user_data = 8
        ring.nop(7)
        ring.submit()
        assert wait_cqes(ring, 1) == [Cqe(7, 0, 0)]
        assert is_locked(buffer)
        right.send(b"x")
        assert wait_cqes(ring, 1) == [Cqe(8, 1, 0)]
        assert not is_locked(buffer)
        assert not is_locked(other)


def test_an_entry_that_is_never_submitted_keeps_its_buffer_until_close() -> None:
    """It may still be submitted; closing the ring ends that."""
    buffer = Buffer(8)
    alive = weakref.ref(buffer)
    with open_ring(4) as ring, a_pipe() as (reader, _):
        ring.read(7, reader, buffer, 0)
        del buffer
        gc.collect()
        assert alive() is not None
        assert ring.close() == []
    assert alive() is None


# -- operations with several CQEs, or none ---------------------------------------------------------


def test_a_multishot_operation_keeps_its_memory_until_the_cqe_without_more() -> None:
    """F_MORE: the first two of three timeouts are not the end."""
    with open_ring(4) as ring:
        ring.timeout(7, 0.001, count=3, flags=TimeoutFlag.MULTISHOT)
        ring.submit()
        cqes = wait_cqes(ring, 1)
        if cqes[0].res == -errno.EINVAL:
            pytest.skip("this kernel has no multishot timeouts (before 6.4): EINVAL")
        while cqes[-1].flags & CqeFlag.MORE:
            assert list(ring._pins) == [7]
            cqes += wait_cqes(ring, 1)
        assert len(cqes) == 3
        assert not ring._pins


def test_a_zero_copy_send_keeps_its_buffer_until_the_notification() -> None:
    """Row 8: the first CQE, with F_MORE, is the result; the buffer may still be on the wire."""
    buffer = bytearray(b"K" * (1 << 16))
    with contextlib.ExitStack() as stack:
        ring = stack.enter_context(open_ring(4))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        client = stack.enter_context(socket.create_connection(listener.getsockname()))
        server = stack.enter_context(listener.accept()[0])
        ring.send_zc(7, client.fileno(), buffer)
        first = run_one(ring)
        if first.res == -errno.EINVAL and not first.flags & CqeFlag.MORE:
            pytest.skip("this kernel has no SEND_ZC (before 6.0): EINVAL")
        assert first.flags & CqeFlag.MORE
        assert is_locked(buffer)
        got = 0
        while got < first.res:
            got += len(server.recv(1 << 20))
        (last,) = wait_cqes(ring, 1)
        assert last.flags & CqeFlag.NOTIF
        assert not is_locked(buffer)


def test_an_operation_that_ends_silently_keeps_its_buffer_until_close() -> None:
    """CQE_SKIP_SUCCESS: nobody sees it end, so it is kept for ever; close does not wait for it."""
    buffer = bytearray(b"x")
    kept = len(_queue._kept_for_ever)
    with open_ring(4) as ring, a_pipe() as (reader, writer):
        ring.write(7, writer, buffer, 0).flags |= SqeFlag.CQE_SKIP_SUCCESS
        ring.submit()
        if cqes := ring.copy_cqes(1):
            assert cqes == [Cqe(7, -errno.EINVAL, 0)]
            pytest.skip("this kernel has no CQE_SKIP_SUCCESS (before 5.17): EINVAL")
        assert os.read(reader, 1) == b"x"
        ring.nop(8)
        assert run_one(ring) == Cqe(8, 0, 0)
        assert is_locked(buffer)
        entered = ring._ring.entered
        assert ring.close() == []
        assert ring._ring.entered == entered
    assert is_locked(buffer)
    assert len(_queue._kept_for_ever) == kept + 1


def test_a_failure_of_a_silent_operation_ends_it() -> None:
    """CQE_SKIP_SUCCESS hides success only: the failure's CQE lets the buffer go."""
    buffer = bytearray(b"x")
    with open_ring(4) as ring:
        ring.write(7, 1 << 20, buffer, 0).flags |= SqeFlag.CQE_SKIP_SUCCESS
        assert run_one(ring).res in (-errno.EBADF, -errno.EINVAL)
        assert not is_locked(buffer)


# -- messages and updates: CQEs that are not the operation's own -----------------------------------


def test_a_message_with_an_operations_user_data_does_not_end_it() -> None:
    """MSG_RING from another ring: the CQE looks like the operation's, and its buffer stays."""
    buffer = bytearray(8)
    with open_ring(4) as ring, open_ring(4) as sender, a_socketpair() as (left, _):
        ring.recv(7, left.fileno(), buffer)
        ring.submit()
        sender.msg_ring(1, ring.fd, 99, 7)
        if run_one(sender).res == -errno.EINVAL:
            pytest.skip("this kernel has no MSG_RING (before 5.18): EINVAL")
        assert wait_cqes(ring, 1) == [Cqe(7, 99, 0)]
        assert is_locked(buffer)
        ring.close()
    assert is_locked(buffer), "nobody saw it end"


def test_a_poll_that_takes_an_operations_user_data_does_not_end_it() -> None:
    """POLL_UPDATE_USER_DATA: the poll's CQE comes under a number that it was not given."""
    buffer = bytearray(8)
    with open_ring(4) as ring, a_socketpair() as (left, _), a_pipe() as (reader, writer):
        ring.recv(7, left.fileno(), buffer)
        ring.poll_add(8, reader, select.POLLIN)
        ring.submit()
        ring.poll_update(9, 8, 7, 0, PollFlag.UPDATE_USER_DATA)
        if run_one(ring).res == -errno.EINVAL:
            pytest.skip("this kernel updates no polls (before 5.13): EINVAL")
        os.write(writer, b"x")
        assert wait_cqes(ring, 1)[0].user_data == 7
        assert is_locked(buffer)


# -- row 2: close ----------------------------------------------------------------------------------


def test_close_cancels_and_drains_and_returns_what_nobody_copied() -> None:
    """Row 2: buffers are free afterwards, because their operations have ended."""
    buffers = [Buffer(SIZE) for _ in range(4)]
    alive = [weakref.ref(buffer) for buffer in buffers]
    with a_socketpair() as (left, right):
        ring = open_ring(8)
        ring.nop(1)
        for number, buffer in enumerate(buffers):
            ring.recv(U64_MAX - number, left.fileno(), buffer)
        ring.submit()
        del buffers, buffer
        cqes = ring.close()
        assert sorted((cqe.user_data, cqe.res) for cqe in cqes) == [
            (1, 0),
            *((U64_MAX - number, -errno.ECANCELED) for number in (3, 2, 1, 0)),
        ]
        memory = churn()
        assert [reference() for reference in alive] == [None] * 4
        right.send(b"K" * SIZE)
        assert untouched(memory)
        assert left.recv(SIZE) == b"K" * SIZE


def test_close_goes_on_while_cancelled_operations_start_others() -> None:
    """Hard links and drains: each cancelled receive starts the next, which must be found too."""
    buffer = bytearray(64)
    with a_socketpair() as (left, _):
        ring = open_ring(8)
        for number in range(3):
            ring.recv(number, left.fileno(), buffer).hardlink_with_next()
        ring.nop(3)
        if can_cancel_behind_a_drain(ring):
            ring.recv(4, left.fileno(), buffer).drain_previous()
        ring.submit()
        cqes = ring.close()
    assert sorted(cqe.user_data for cqe in cqes) == [*range(len(cqes))]
    assert len(cqes) >= 4
    assert not is_locked(buffer)


def can_cancel_behind_a_drain(ring: Ring) -> bool:
    """SYNC_CANCEL (6.0) is no entry, and does not wait behind one."""
    if not ring.features & Feature.LINKED_FILE:
        return False
    try:
        ring.sync_cancel(1 << 40)
    except OSError as exc:
        return exc.errno == errno.ENOENT
    raise AssertionError("nothing has this user_data")


def test_close_cancels_what_runs_in_a_worker() -> None:
    """IOSQE_ASYNC: a worker thread blocks in the read of an empty pipe until it is told to stop."""
    buffer = bytearray(64)
    with a_pipe() as (reader, _):
        ring = open_ring(8)
        ring.read(7, reader, buffer, -1).flags |= SqeFlag.ASYNC
        ring.submit()
        (cqe,) = ring.close()
    assert (cqe.user_data, cqe.res) in [(7, -errno.ECANCELED), (7, -errno.EINTR)]
    assert not is_locked(buffer)


def test_close_cancels_one_by_one_where_the_kernel_knows_no_flags(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before 5.19 a request ends one operation of one user_data: there are as many as needed."""

    class Unknown:
        ALL, ANY = 1 << 30, 1 << 29

    monkeypatch.setattr(_queue_close, "CancelFlag", Unknown)
    buffer = bytearray(64)
    with a_socketpair() as (left, _):
        ring = open_ring(2, cq_entries=16)
        for user_data in (0, 1, 1, 2, 2, 2, U64_MAX):
            ring.recv(user_data, left.fileno(), buffer)
            ring.submit()
        cqes = ring.close()
    assert sorted(cqe.user_data for cqe in cqes) == [0, 1, 1, 2, 2, 2, U64_MAX]
    assert {cqe.res for cqe in cqes} == {-errno.ECANCELED}
    assert not is_locked(buffer)


def test_close_finds_completions_that_overflowed() -> None:
    """More are left than the queue holds: all of them are returned, in order."""
    ring = open_ring(4, cq_entries=4)
    for number in range(12):
        ring.nop(number)
        with contextlib.suppress(BlockingIOError):  # EBUSY has no class of its own
            if number % 4 == 3:
                _submit_unless_busy(ring)
    left = ring.in_flight
    assert [cqe.user_data for cqe in ring.close()] == [*range(left)]


def _submit_unless_busy(ring: Ring) -> None:
    try:
        ring.submit()
    except OSError as exc:  # kernels before 5.19 take nothing more once the queue overflows
        if exc.errno != errno.EBUSY:
            raise


@pytest.fixture
def uncancellable() -> Iterator[Ring]:
    """A ring that may not cancel: it was restricted to reads."""
    try:
        ring = open_ring(4, SetupFlag.R_DISABLED)
    except OSError as exc:
        pytest.skip(f"this kernel has no restrictions (before 5.10): {exc}")
    with ring:
        ring.register_restrictions(
            [
                Restriction.allow_op(Op.READ),
                Restriction.allow_op(Op.NOP),
                Restriction.allow_register(RegisterOp.ENABLE_RINGS),
                Restriction.allow_register(RegisterOp.BUFFERS),
            ]
        )
        ring.enable_rings()
        yield ring


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_what_does_not_end_in_time_is_kept_for_ever(uncancellable: Ring, timeout: float) -> None:
    """Row 2: better a leak than memory that the kernel writes to after it was freed."""
    ring, kept = uncancellable, len(_queue._kept_for_ever)
    with a_pipe() as (reader, writer):
        buffer = Buffer(SIZE)
        alive = weakref.ref(buffer)
        ring.read(7, reader, buffer, -1)
        ring.submit()
        del buffer
        assert ring.close(timeout) == []
        assert ring.fd == -1
        memory = churn()
        os.write(writer, b"K" * SIZE)
        assert untouched(memory)
    assert len(_queue._kept_for_ever) == kept + 1
    owned = alive()
    assert owned is not None
    assert is_locked(owned)


def test_a_registered_buffer_is_kept_with_what_does_not_end(uncancellable: Ring) -> None:
    """The kernel has its pages: they are not given back while something is in flight."""
    ring = uncancellable
    buffer = bytearray(4096)
    with a_pipe() as (reader, _):
        ring.register_buffers([buffer])
        ring.read(7, reader, bytearray(8), -1)
        ring.submit()
        ring.close(timeout=0)
    assert is_locked(buffer)


def test_a_registered_buffer_is_free_after_close() -> None:
    """With nothing in flight the kernel has no use for it any more."""
    buffer = bytearray(4096)
    with open_ring(2) as ring:
        ring.register_buffers([buffer])
        assert is_locked(buffer)
    assert not is_locked(buffer)


def test_a_forgotten_ring_drains_too() -> None:
    """Without close: what ends at once is freed, by the garbage collector's way through close."""
    buffer = bytearray(SIZE)
    with a_socketpair() as (left, _):
        rings = [open_ring(2)]
        rings[0].recv(7, left.fileno(), buffer)
        rings[0].submit()
        with pytest.warns(ResourceWarning, match="unclosed"):
            rings.clear()
    assert not is_locked(buffer)


# -- exceptions ------------------------------------------------------------------------------------


@contextlib.contextmanager
def interrupted_soon() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("call", ["submit_and_wait", "submit_and_copy_cqes"])
def test_an_interrupted_submit_keeps_what_it_submitted(call: str) -> None:
    """Row 68: KeyboardInterrupt out of the wait; the buffer stays until the CQE, and no longer."""
    buffer = bytearray(8)
    with open_ring(4) as ring, a_socketpair() as (left, right):
        ring.recv(7, left.fileno(), buffer)
        ring.submit()
        args = (1,) if call == "submit_and_wait" else (1, 1)
        with pytest.raises(KeyboardInterrupt), interrupted_soon():
            getattr(ring, call)(*args)
        assert is_locked(buffer)
        right.send(b"x")
        assert wait_cqes(ring, 1) == [Cqe(7, 1, 0)]
        assert not is_locked(buffer)


def test_an_interrupted_close_closes_and_keeps_what_is_in_flight(uncancellable: Ring) -> None:
    """KeyboardInterrupt while it drains: the ring is closed, the buffer is not freed."""
    ring, buffer = uncancellable, bytearray(8)
    with a_pipe() as (reader, _):
        ring.read(7, reader, buffer, -1)
        ring.submit()
        with pytest.raises(KeyboardInterrupt), interrupted_soon():
            ring.close(timeout=WAIT_S)
    assert ring.fd == -1
    assert is_locked(buffer)


def test_a_submit_that_the_kernel_refuses_keeps_the_buffer() -> None:
    """Row 7: the entry is still in the queue, and will be submitted by the next call."""
    buffer = bytearray(8)
    try:
        ring = open_ring(4, SetupFlag.R_DISABLED)
    except OSError as exc:
        pytest.skip(f"this kernel starts no ring disabled (before 5.10): {exc}")
    with ring, a_socketpair() as (left, right):
        ring.recv(7, left.fileno(), buffer)
        with pytest.raises(OSError, match="io_uring_enter"):
            ring.submit()
        assert is_locked(buffer)
        ring.enable_rings()
        assert ring.submit() == 1
        assert is_locked(buffer)
        right.send(b"x")
        assert wait_cqes(ring, 1) == [Cqe(7, 1, 0)]
        assert not is_locked(buffer)


def test_a_loop_over_entries_in_turn_keeps_what_was_submitted_beside_it() -> None:
    """submit_in_turn: an operation that its loop submits keeps its buffer, whatever ended last."""
    first, second = bytearray(8), bytearray(8)
    with open_ring(4) as ring, a_socketpair() as (left, right):
        right.send(b"x")
        ring.recv(7, left.fileno(), first)
        for res in ring.submit_in_turn():
            assert res == 1
            ring.recv(7, left.fileno(), second)
            ring.submit()
        assert is_locked(second)
        right.send(b"y")
        assert wait_cqes(ring, 1) == [Cqe(7, 1, 0)]
        assert not is_locked(second)
        assert not is_locked(first)
