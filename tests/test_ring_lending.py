# SPDX-License-Identifier: MIT OR Apache-2.0
"""What an operation borrows stays where it is until its final CQE was copied, and no longer."""

from __future__ import annotations

import gc
import socket
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from kernel_help import completes
from ring_help import a_pipe, open_ring, wait_cqes

from trio_uring.lowlevel import (
    CqeFlag,
    FutexWaiter,
    Msghdr,
    Op,
    PinnedBuffer,
    Ring,
    RingClosedError,
    SetupFlag,
    Sqe,
    SubmissionQueueFull,
    WrongThreadError,
)

if TYPE_CHECKING:
    from pathlib import Path

Prepare = Callable[[Ring, Any], object]

FILLED: dict[str, Prepare] = {
    "read": lambda ring, buffer: ring.read(1, -1, buffer, 0),
    "read of a list": lambda ring, buffer: ring.read(1, -1, [bytearray(1), buffer], 0),
    "readv": lambda ring, buffer: ring.readv(1, -1, [buffer], 0),
    "readv_fixed": lambda ring, buffer: ring.readv_fixed(1, -1, [buffer], 0, 0),
    "read_many": lambda ring, buffer: ring.read_many([1, 2], -1, buffer, 4, [0, 0]),
    "recv": lambda ring, buffer: ring.recv(1, -1, buffer),
    "recvmsg": lambda ring, buffer: ring.recvmsg(1, -1, Msghdr.receive([buffer])),
    "getxattr": lambda ring, buffer: ring.getxattr(1, "user.a", buffer, "/"),
    "fgetxattr": lambda ring, buffer: ring.fgetxattr(1, -1, "user.a", buffer),
    "getsockopt": lambda ring, buffer: ring.getsockopt(1, -1, 0, 0, buffer),
    "pipe_direct": lambda ring, buffer: ring.pipe_direct(1, buffer, 0, 1),
}
TAKEN: dict[str, Prepare] = {
    "write": lambda ring, buffer: ring.write(1, -1, buffer, 0),
    "write_many": lambda ring, buffer: ring.write_many([1, 2], -1, buffer, 4, [0, 0]),
    "writev": lambda ring, buffer: ring.writev(1, -1, [b"", buffer], 0),
    "writev_fixed": lambda ring, buffer: ring.writev_fixed(1, -1, [buffer], 0, 0),
    "send": lambda ring, buffer: ring.send(1, -1, buffer),
    "sendto": lambda ring, buffer: ring.sendto(1, -1, buffer, 0, ("127.0.0.1", 1)),
    "send_zc": lambda ring, buffer: ring.send_zc(1, -1, buffer),
    "send_zc_fixed": lambda ring, buffer: ring.send_zc_fixed(1, -1, buffer, 0, 0, 0),
    "sendmsg": lambda ring, buffer: ring.sendmsg(1, -1, Msghdr([buffer])),
    "sendmsg_zc": lambda ring, buffer: ring.sendmsg_zc(1, -1, Msghdr([buffer])),
    "setxattr": lambda ring, buffer: ring.setxattr(1, "user.a", buffer, "/no/such/path"),
    "fsetxattr": lambda ring, buffer: ring.fsetxattr(1, -1, "user.a", buffer),
    "setsockopt": lambda ring, buffer: ring.setsockopt(1, -1, 0, 0, buffer),
    "futex_wait": lambda ring, buffer: ring.futex_wait(1, memoryview(buffer)[:4], 1, 1),
    "futex_wake": lambda ring, buffer: ring.futex_wake(1, memoryview(buffer)[4:], 1, 1),
    "futex_waitv": lambda ring, buffer: ring.futex_waitv(
        1, [FutexWaiter(memoryview(buffer)[:4], 1)]
    ),
    "uring_cmd": lambda ring, buffer: ring.uring_cmd(1, 0, -1, b"", [PinnedBuffer(buffer)]),
    "files_update": lambda ring, buffer: ring.files_update(1, buffer, 0),
}
# Two arguments that the C core does not get to see: what is in the entry must not be submitted.
UNFIT: dict[str, Prepare] = {
    "user_data": lambda ring, buffer: ring.read(1 << 64, -1, buffer, 0),
    "negative user_data": lambda ring, buffer: ring.send(-1, -1, buffer),
    "fd": lambda ring, buffer: ring.recv(1, 1 << 31, buffer),
    "fd of a close": lambda ring, _: ring.close(1, 1 << 40),
    "offset": lambda ring, buffer: ring.write(1, -1, buffer, 1 << 64),
    "no number": lambda ring, _: ring.nop("1"),  # type: ignore[arg-type]
    "slot": lambda ring, _: ring.openat_direct(1, -100, "/", 0, 0, -1),
}


def resized(buffer: bytearray) -> bool:
    """Whether nobody else uses the memory of ``buffer``."""
    try:
        buffer.append(0)
    except BufferError:
        return False
    return True


def _submit_all(ring: Ring) -> int:
    count = ring.sq_ready()
    # One that the kernel refuses at once ends the submission.
    while ring.sq_ready():
        ring.submit()
    return count


@pytest.mark.parametrize("name", [*FILLED, *TAKEN])
def test_a_buffer_cannot_be_resized_until_the_final_cqe_was_copied(name: str) -> None:
    """From the preparation to the copied completion, also when the kernel has long posted it."""
    with open_ring(2) as ring:
        buffer = bytearray(8)
        (FILLED | TAKEN)[name](ring, buffer)
        assert not resized(buffer)
        in_flight = _submit_all(ring)
        while in_flight:
            assert not resized(buffer)
            # A zero-copy send that failed is notified as well.
            in_flight -= not wait_cqes(ring, 1)[0].flags & CqeFlag.MORE
        assert resized(buffer)


@pytest.mark.parametrize("name", FILLED)
def test_what_the_kernel_would_fill_must_be_writable_and_in_one_piece(name: str) -> None:
    """A read-only or strided buffer raises before an entry is taken."""
    with open_ring(2) as ring:
        for buffer in (bytes(8), memoryview(bytearray(16))[::2]):
            with pytest.raises(BufferError):
                FILLED[name](ring, buffer)
        with pytest.raises(TypeError):
            FILLED[name](ring, "text")
        assert ring.sq_ready() == 0


@pytest.mark.parametrize("name", UNFIT)
def test_an_argument_that_does_not_fit_leaves_no_entry_and_no_loan(name: str) -> None:
    """Half an entry is an operation that nobody asked for: it is not submitted."""
    with open_ring(1) as ring:
        buffer = bytearray(8)
        with pytest.raises((ValueError, OverflowError)):
            UNFIT[name](ring, buffer)
        assert resized(buffer)
        assert ring.submit() == 0
        assert completes(ring, ring.nop(1)) == (1, 0, 0)


def test_an_exception_between_taking_and_filling_leaves_no_entry() -> None:
    """What a signal handler raises there may not leave an old operation in the queue."""

    def interrupted(sqe: Sqe) -> None:
        sqe.opcode = Op.CLOSE
        raise KeyboardInterrupt

    with open_ring(1) as ring:
        with pytest.raises(KeyboardInterrupt):
            ring._fill((), interrupted)
        assert ring.submit() == 0


@pytest.mark.parametrize("name", [*FILLED, *TAKEN])
def test_no_operation_is_prepared_on_a_closed_ring(name: str) -> None:
    """RingClosedError, and the buffer is free."""
    ring, buffer = open_ring(2), bytearray(8)
    ring.close()
    with pytest.raises(RingClosedError):
        (FILLED | TAKEN)[name](ring, buffer)
    assert resized(buffer)


def test_another_thread_prepares_nothing_in_a_ring_with_one_issuer() -> None:
    """Neither one operation nor many at once, though there is room."""
    try:
        ring = open_ring(4, SetupFlag.SINGLE_ISSUER)
    except OSError as exc:
        pytest.skip(f"no SINGLE_ISSUER, of Linux 6.0: {exc}")
    refused: list[Exception] = []

    def work() -> None:
        for prepare in (lambda: ring.nop(1), lambda: ring.nop_many([1, 2])):
            try:
                prepare()
            except WrongThreadError as exc:
                refused.append(exc)

    with ring:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert (len(refused), ring.sq_ready()) == (2, 0)


def test_a_full_queue_borrows_nothing() -> None:
    """The buffer of an operation that found no entry is free."""
    with open_ring(1) as ring:
        buffer = bytearray(1)
        ring.nop(1)
        with pytest.raises(SubmissionQueueFull):
            ring.read(2, 0, buffer, 0)
        assert resized(buffer)


def test_a_shared_user_data_keeps_every_buffer_until_the_last_operation() -> None:
    """A CQE does not say which of them has ended: all are kept until none is in flight."""
    with a_pipe() as (reader, _), open_ring(4) as ring:
        first, second = bytearray(1), bytearray(1)
        ring.read(1, reader, first, 0)
        ring.read(1, -1, second, 0)
        ring.submit()
        assert wait_cqes(ring, 1)[0].user_data == 1
        assert not resized(first)
        assert not resized(second)


def test_a_batch_keeps_its_buffer_until_its_last_operation() -> None:
    """One buffer for many operations: the last of them lets go of it."""
    with a_pipe() as (reader, writer), open_ring(4) as ring:
        buffer = bytearray(2)
        with memoryview(b"xy") as data:
            ring.read_many([1, 2], reader, buffer, 1, [0, 0])
            ring.submit()
            for i in (0, 1):
                assert not resized(buffer)
                ring.write(3, writer, data[i : i + 1], 0)
                ring.submit()
                wait_cqes(ring, 2)
        assert sorted(buffer) == sorted(b"xy")
        assert resized(buffer)


def test_the_completion_of_an_earlier_operation_does_not_free_a_prepared_batch() -> None:
    """It has the same user_data, but the batch is not even submitted."""
    with open_ring(4) as ring:
        buffer = bytearray(2)
        ring.nop(1)
        ring.submit()
        ring.read_many([1, 1], -1, buffer, 1, [0, 0])
        assert wait_cqes(ring, 1) == [(1, 0, 0)]
        assert not resized(buffer)
        wait_cqes(ring, _submit_all(ring))
        assert resized(buffer)


def test_a_zero_copy_send_borrows_until_the_notification() -> None:
    """The first completion has MORE: the kernel still has the memory."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        open_ring(1) as ring,
    ):
        server, _ = listener.accept()
        with server:
            data = bytearray(b"data")
            cqe = completes(ring, ring.send_zc(1, client.fileno(), data))
            assert (cqe.res, cqe.flags) == (4, CqeFlag.MORE)
            assert not resized(data)
            assert server.recv(8) == b"data"
            assert wait_cqes(ring, 1)[0].flags & CqeFlag.NOTIF
            assert resized(data)


def test_provided_buffers_are_lent_until_the_ring_closes() -> None:
    """PROVIDE_BUFFERS completes at once, and the kernel writes there much later."""
    buffer = bytearray(8)
    with open_ring(1) as ring:
        completes(ring, ring.provide_buffers(1, buffer, 4, 2, 0))
        assert not resized(buffer)
        held = len(ring._held)
        for _ in range(3):
            completes(ring, ring.provide_buffers(1, buffer, 4, 2, 0))
        assert len(ring._held) == held
    assert resized(buffer)


def test_temporary_objects_are_kept_and_let_go() -> None:
    """Only the operation refers to the message: it lives as long as the operation."""
    with a_pipe() as (reader, _), open_ring(2) as ring:

        class Buffer(bytearray):
            pass

        buffer = Buffer(8)
        gone = weakref.ref(buffer)
        ring.readv(1, reader, [buffer], 0)
        del buffer
        ring.submit()
        gc.collect()
        assert gone() is not None
        ring.cancel(2, 1)
        ring.submit()
        wait_cqes(ring, 2)
        gc.collect()
        assert gone() is None


def test_a_message_from_another_ring_does_not_free_a_buffer() -> None:
    """Its CQE has the user_data of an operation that is still in flight."""
    with a_pipe() as (reader, _), open_ring(2) as ring, open_ring(2) as sender:
        buffer = bytearray(1)
        ring.read(7, reader, buffer, 0)
        ring.submit()
        completes(sender, sender.msg_ring(1, ring.fd, 5, 7))
        assert wait_cqes(ring, 1) == [(7, 5, 0)]
        assert not resized(buffer)


def test_what_could_not_be_filled_is_no_file_of_anybody(tmp_path: Path) -> None:
    """A path with a wrong flag argument opens nothing."""
    with open_ring(1) as ring:
        with pytest.raises(ValueError, match="fit"):
            ring.openat(1, -100, tmp_path / "new", 1 << 40)
        ring.submit()
    assert list(tmp_path.iterdir()) == []
