# SPDX-License-Identifier: MIT OR Apache-2.0
"""Messages with addresses and ancillary data, sent and received by operations on real sockets."""

from __future__ import annotations

import array
import os
import socket
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from kernel_help import completes, skip_unknown
from ring_help import a_pipe, open_ring, run_one, wait_cqes

from trio_uring.lowlevel import (
    CQE_BUFFER_SHIFT,
    BufferSelection,
    CqeFlag,
    Msghdr,
    Op,
    RecvmsgOut,
    SockAddr,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_uring.lowlevel import Ring

RIGHTS = socket.SOL_SOCKET, socket.SCM_RIGHTS


@contextmanager
def udp() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two sockets with a name each, not connected."""
    with (
        socket.socket(type=socket.SOCK_DGRAM) as first,
        socket.socket(type=socket.SOCK_DGRAM) as second,
    ):
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        yield first, second


def _fds(message: Msghdr | RecvmsgOut) -> list[int]:
    (level, kind, data), *others = message.ancdata
    assert (level, kind, others) == (*RIGHTS, [])
    return array.array("i", data).tolist()


def test_a_message_goes_to_its_address_and_says_where_it_is_from() -> None:
    """sendmsg with an address, recvmsg with room for one, several buffers each."""
    with udp() as (first, second), open_ring(1) as ring:
        message = Msghdr([b"da", b"ta"], second.getsockname())
        assert completes(ring, ring.sendmsg(1, first.fileno(), message)).res == 4
        head, rest = bytearray(1), bytearray(8)
        received = Msghdr.receive([head, rest], with_address=True)
        assert completes(ring, ring.recvmsg(1, second.fileno(), received)).res == 4
        assert bytes(head + rest[:3]) == b"data"
        assert (received.address, received.flags) == (first.getsockname(), 0)
        assert received.ancdata == []


def test_a_message_can_be_used_again() -> None:
    """The kernel counts down the room that it is told of: each operation starts anew."""
    with udp() as (first, second), open_ring(1) as ring:
        message = Msghdr([b"data"], SockAddr.of(second.getsockname()))
        received = Msghdr.receive([bytearray(2)], ancbufsize=64, with_address=True)
        for _ in range(2):
            completes(ring, ring.sendmsg(1, first.fileno(), message))
            completes(ring, ring.recvmsg(1, second.fileno(), received))
            assert received.address == first.getsockname()
            assert received.flags == socket.MSG_TRUNC


def test_descriptors_travel_in_a_message() -> None:
    """SCM_RIGHTS: what arrives is a new descriptor of the same file."""
    first, second = socket.socketpair()
    with first, second, a_pipe() as (reader, writer), open_ring(1) as ring:
        rights = array.array("i", [reader, writer])
        message = Msghdr([b"x"], ancdata=[(*RIGHTS, rights)])
        assert completes(ring, ring.sendmsg(1, first.fileno(), message)).res == 1
        received = Msghdr.receive([bytearray(1)], socket.CMSG_SPACE(8))
        flags = socket.MSG_CMSG_CLOEXEC
        assert completes(ring, ring.recvmsg(1, second.fileno(), received, flags)).res == 1
        fds = _fds(received)
        for fd, original in zip(fds, rights, strict=True):
            assert fd != original
            assert os.path.samestat(os.fstat(fd), os.fstat(original))
            os.close(fd)


def test_ancillary_data_is_encoded_and_decoded_as_in_the_socket_module() -> None:
    """What socket.sendmsg sends a Msghdr receives, and the other way round."""
    first, second = socket.socketpair()
    with first, second, open_ring(1) as ring:
        second.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        credentials = struct.pack("=iii", os.getpid(), os.getuid(), os.getgid())
        ancdata = [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials)]
        space = 2 * socket.CMSG_SPACE(64)
        first.sendmsg([b"x"], ancdata)
        received = Msghdr.receive([bytearray(1)], space)
        completes(ring, ring.recvmsg(1, second.fileno(), received))
        assert received.ancdata == ancdata
        completes(ring, ring.sendmsg(1, first.fileno(), Msghdr([b"x"], ancdata=ancdata)))
        assert second.recvmsg(1, space) == (b"x", ancdata, received.flags, received.address)


def test_ancillary_data_that_does_not_fit_is_cut_off_and_said_so() -> None:
    """MSG_CTRUNC, and of the data what there was room for."""
    first, second = socket.socketpair()
    with first, second, open_ring(1) as ring:
        second.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        first.send(b"x")
        received = Msghdr.receive([bytearray(1)], socket.CMSG_LEN(4))
        completes(ring, ring.recvmsg(1, second.fileno(), received))
        assert received.flags & socket.MSG_CTRUNC
        ((_, _, data),) = received.ancdata
        assert data == struct.pack("=i", os.getpid())


def test_a_zero_copy_message_completes_and_then_notifies() -> None:
    """sendmsg_zc: two completions, as of a zero-copy send."""
    with udp() as (first, second), open_ring(1) as ring:
        message = Msghdr([b"da", b"ta"], second.getsockname())
        cqe = completes(ring, ring.sendmsg_zc(1, first.fileno(), message))
        assert (cqe.res, cqe.flags & CqeFlag.MORE) == (4, CqeFlag.MORE)
        assert wait_cqes(ring, 1)[0].flags & CqeFlag.NOTIF
        assert second.recv(8) == b"data"


def _provide(ring: Ring, count: int, size: int) -> bytearray:
    memory = bytearray(count * size)
    assert completes(ring, ring.provide_buffers(1, memory, size, count, 0)).res >= 0
    return memory


@pytest.mark.parametrize("nbytes", [0, 3])
def test_a_message_is_received_into_a_buffer_that_the_kernel_selects(nbytes: int) -> None:
    """All of the buffer, or as much of it as the selection says."""
    with udp() as (first, second), open_ring(1) as ring:
        memory = _provide(ring, 2, 8)
        first.sendto(b"some data", second.getsockname())
        received = Msghdr.receive(BufferSelection(0, nbytes), with_address=True)
        cqe = completes(ring, ring.recvmsg(1, second.fileno(), received))
        assert cqe.res == (nbytes or 8)
        start = 8 * (cqe.flags >> CQE_BUFFER_SHIFT)
        assert bytes(memory[start : start + cqe.res]) == b"some data"[: cqe.res]
        assert (received.address, received.flags) == (first.getsockname(), socket.MSG_TRUNC)


def test_multishot_messages_bring_address_and_ancillary_data_in_their_buffer() -> None:
    """Each provided buffer has the header, the name, the control data and the payload."""
    first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with first, second, a_pipe() as (reader, _), open_ring(2) as ring:
        first.bind(b"\0trio_uring sender")
        memory = _provide(ring, 2, 256)
        layout = Msghdr.receive(BufferSelection(0), socket.CMSG_SPACE(4), with_address=True)
        ring.recvmsg_multishot(1, second.fileno(), layout)
        ring.submit()
        rights = [(*RIGHTS, array.array("i", [reader]))]
        for data, ancdata in ((b"data", rights), (b"x" * 1000, [])):
            first.sendmsg([data], ancdata)
            cqe = wait_cqes(ring, 1)[0]
            skip_unknown(Op.RECVMSG, cqe.res, "6.0")
            if not cqe.flags & CqeFlag.MORE:
                pytest.skip("this kernel takes a multishot recvmsg, of Linux 6.0, for a single one")
            start = 256 * (cqe.flags >> CQE_BUFFER_SHIFT)
            out = RecvmsgOut.parse(memoryview(memory)[start : start + cqe.res], layout)
            assert bytes(out.payload) == data[: len(out.payload)]
            assert out.address == b"\0trio_uring sender"
            if ancdata:
                assert (len(out.payload), out.payload_nbytes) == (4, 4)
                (fd,) = _fds(out)
                assert os.path.samestat(os.fstat(fd), os.fstat(reader))
                os.close(fd)
            else:
                assert (out.flags, out.ancdata) == (socket.MSG_TRUNC, [])


def test_a_buffer_without_a_header_is_no_message() -> None:
    """Too short to be one: the wrong buffer, or an error for a result."""
    with pytest.raises(ValueError, match="header"):
        RecvmsgOut.parse(bytes(16), Msghdr.receive(BufferSelection(0), with_address=True))


def test_a_message_over_a_bad_descriptor_fails_alone() -> None:
    """The errors of sendmsg and recvmsg come in the completion."""
    with open_ring(1) as ring:
        ring.sendmsg(1, -1, Msghdr([b"x"]))
        assert run_one(ring).res < 0
