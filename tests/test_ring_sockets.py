# SPDX-License-Identifier: MIT OR Apache-2.0
"""Each operation on sockets does to a real socket what the system call of its name does."""

from __future__ import annotations

import errno
import os
import socket
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from kernel_help import both_complete, completes, skip_unknown
from ring_help import open_ring, run_one, wait_cqes

from trio_uring.lowlevel import (
    CQE_BUFFER_SHIFT,
    FILE_INDEX_ALLOC,
    BufferSelection,
    CqeFlag,
    Op,
    PinnedBuffer,
    RecvSendFlag,
    SockAddr,
    SocketOp,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio_uring.lowlevel import Cqe, Ring

LOOPBACK = ("127.0.0.1", 0)


@contextmanager
def tcp() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets."""
    with (
        socket.create_server(LOOPBACK) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        server, _ = listener.accept()
        with server:
            yield client, server


@contextmanager
def unix() -> Iterator[tuple[socket.socket, socket.socket]]:
    first, second = socket.socketpair()
    with first, second:
        yield first, second


def _provide(ring: Ring, count: int, size: int, group_id: int) -> bytearray:
    memory = bytearray(count * size)
    assert completes(ring, ring.provide_buffers(1, memory, size, count, group_id)).res >= 0
    return memory


def _fill_up(sock: socket.socket) -> None:
    sock.setblocking(False)
    while True:
        try:
            sock.send(bytes(1 << 16))
        except BlockingIOError:
            return


def _received(memory: bytearray, size: int, cqe: Cqe) -> bytes:
    assert cqe.flags & CqeFlag.BUFFER
    start = size * (cqe.flags >> CQE_BUFFER_SHIFT)
    return bytes(memory[start : start + cqe.res])


# -- make and connect --------------------------------------------------------------------------


def test_a_socket_is_made_bound_connected_and_shut_down() -> None:
    """From socket(2) to shutdown(2), by operations alone."""
    with open_ring(2) as ring:
        fds = [
            completes(ring, ring.socket(1, socket.AF_INET, socket.SOCK_STREAM | kind)).res
            for kind in (socket.SOCK_CLOEXEC, socket.SOCK_NONBLOCK)
        ]
        server, client = (socket.socket(fileno=fd) for fd in fds)
        with server, client:
            assert not server.get_inheritable()
            assert completes(ring, ring.bind(1, fds[0], LOOPBACK)).res == 0
            assert completes(ring, ring.listen(1, fds[0], 5)).res == 0
            assert server.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            peer = SockAddr()
            ring.accept(1, fds[0], peer)
            ring.connect(2, fds[1], server.getsockname())
            results = both_complete(ring, Op.ACCEPT)
            assert results[2] == 0
            with socket.socket(fileno=results[1]) as accepted:
                assert peer.address == client.getsockname()
                assert completes(ring, ring.shutdown(1, fds[1], socket.SHUT_WR)).res == 0
                assert accepted.recv(1) == b""


@pytest.mark.parametrize(
    ("family", "address"),
    [(socket.AF_INET6, ("::1", 0)), (socket.AF_UNIX, b"\0trio_uring test"), (socket.AF_UNIX, "")],
)
def test_accept_tells_the_address_as_the_socket_module_does(
    family: socket.AddressFamily, address: tuple[str, int] | str | bytes
) -> None:
    """IPv6 addresses have four fields, abstract names are bytes, no name is an empty string."""
    with socket.socket(family) as listener, socket.socket(family) as client, open_ring(1) as ring:
        try:
            listener.bind(("::1", 0) if family == socket.AF_INET6 else b"\0trio_uring server")
        except OSError as exc:
            pytest.skip(f"no {family.name} here: {exc}")
        listener.listen()
        if address:
            client.bind(address)
        ring.connect(1, client.fileno(), listener.getsockname())
        assert run_one(ring).res == 0
        peer = SockAddr()
        with socket.socket(fileno=completes(ring, ring.accept(1, listener.fileno(), peer)).res):
            assert peer.address == client.getsockname()
            assert peer.family == family


def test_a_path_is_an_address(tmp_path: Path) -> None:
    """A Unix domain address is text, bytes or a path object."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener, open_ring(1) as ring:
        listener.bind(str(path))
        listener.listen()
        for address in (path, str(path), bytes(path), SockAddr.of(path)):
            with socket.socket(socket.AF_UNIX) as client:
                assert completes(ring, ring.connect(1, client.fileno(), address)).res == 0
                assert client.getpeername() == str(path)


def test_no_name_is_looked_up() -> None:
    """Connect takes literal addresses; a name is refused before an entry is taken."""
    with open_ring(1) as ring:
        with pytest.raises(ValueError, match="localhost"):
            ring.connect(1, -1, ("localhost", 80))
        assert ring.sq_ready() == 0


def test_multishot_accept_brings_each_connection() -> None:
    """One entry, a completion with MORE for each client, until it is cancelled."""
    with socket.create_server(LOOPBACK) as listener, open_ring(2) as ring:
        ring.accept_multishot(1, listener.fileno(), flags=socket.SOCK_CLOEXEC)
        ring.submit()
        for _ in range(2):
            with socket.create_connection(listener.getsockname()) as client:
                cqe = wait_cqes(ring, 1)[0]
                skip_unknown(Op.ACCEPT, cqe.res, "5.19")
                assert cqe.flags & CqeFlag.MORE
                with socket.socket(fileno=cqe.res) as accepted:
                    assert accepted.getpeername() == client.getsockname()
        ring.cancel(2, 1)
        assert both_complete_in_any_order(ring) == {1: -errno.ECANCELED, 2: 0}


def both_complete_in_any_order(ring: Ring) -> dict[int, int]:
    ring.submit()
    return {cqe.user_data: cqe.res for cqe in wait_cqes(ring, 2)}


def test_direct_accepts_fill_slots() -> None:
    """Given ones and those that the kernel chooses, once and multishot."""
    with socket.create_server(LOOPBACK) as listener, open_ring(2) as ring:
        ring.register_files([-1] * 4)
        fd = listener.fileno()
        with socket.create_connection(listener.getsockname()):
            assert completes(ring, ring.accept_direct(1, fd, file_index=2), "5.15").res == 0
        with socket.create_connection(listener.getsockname()):
            slot = completes(ring, ring.accept_direct(1, fd), "5.19").res
            assert slot in (0, 1, 3)
        ring.accept_multishot_direct(1, fd)
        ring.submit()
        with socket.create_connection(listener.getsockname()) as client:
            cqe = wait_cqes(ring, 1)[0]
            assert cqe.flags & CqeFlag.MORE
            assert cqe.res in {0, 1, 3} - {slot}
            ring.send(2, cqe.res, b"data").use_registered_fd()
            assert run_one(ring) == (2, 4, 0)
            assert client.recv(8) == b"data"


def test_sockets_are_made_in_slots() -> None:
    """A given slot is 0 in the completion, a chosen one its number."""
    with open_ring(1) as ring:
        ring.register_files([-1] * 3)
        inet = (socket.AF_INET, socket.SOCK_STREAM)
        assert completes(ring, ring.socket_direct(1, *inet, 0, 0, 1)).res == 0
        chosen = completes(ring, ring.socket_direct_alloc(1, *inet)).res
        other = completes(ring, ring.socket_direct(1, *inet, 0, 0, FILE_INDEX_ALLOC)).res
        assert {chosen, other} == {0, 2}
        ring.socket_direct_alloc(1, *inet)
        assert run_one(ring).res == -errno.ENFILE


# -- send and receive --------------------------------------------------------------------------


def test_send_and_recv_move_bytes_with_their_flags() -> None:
    """MSG_PEEK leaves the bytes there; the end of the stream is 0."""
    with unix() as (first, second), open_ring(1) as ring:
        assert completes(ring, ring.send(1, first.fileno(), b"data", socket.MSG_NOSIGNAL)).res == 4
        for flags in (socket.MSG_PEEK, 0):
            buffer = bytearray(8)
            assert completes(ring, ring.recv(1, second.fileno(), buffer, flags)).res == 4
            assert buffer[:4] == b"data"
        first.close()
        assert completes(ring, ring.recv(1, second.fileno(), bytearray(8))).res == 0


def test_recv_takes_a_buffer_that_the_kernel_selects() -> None:
    """The completion names it, and at most nbytes of it are used."""
    with unix() as (first, second), open_ring(1) as ring:
        memory = _provide(ring, 2, 4, group_id=3)
        first.send(b"abcdef")
        for selection, data in ((BufferSelection(3, 2), b"ab"), (BufferSelection(3), b"cdef")):
            cqe = completes(ring, ring.recv(1, second.fileno(), selection))
            assert _received(memory, 4, cqe) == data
        cqe = completes(ring, ring.recv(1, second.fileno(), BufferSelection(3)))
        assert cqe.res == -errno.ENOBUFS


def test_multishot_recv_brings_what_comes_until_the_end() -> None:
    """One entry, a completion with MORE for each piece, and 0 without it at the end."""
    with unix() as (first, second), open_ring(2) as ring:
        memory = _provide(ring, 4, 4, group_id=0)
        ring.recv_multishot(1, second.fileno(), BufferSelection(0))
        ring.submit()
        for data in (b"abc", b"de"):
            first.send(data)
            cqe = wait_cqes(ring, 1)[0]
            skip_unknown(Op.RECV, cqe.res, "6.0")
            if not cqe.flags & CqeFlag.MORE:
                pytest.skip("this kernel takes a multishot receive, of Linux 6.0, for a single one")
            assert _received(memory, 4, cqe) == data
        first.close()
        last = wait_cqes(ring, 1)[0]
        assert (last.res, last.flags & CqeFlag.MORE) == (0, 0)


def test_a_bundle_sends_several_provided_buffers() -> None:
    """All that the group has goes out with one entry, in order."""
    with unix() as (first, second), open_ring(1) as ring:
        try:
            group = ring.setup_buf_ring(4, group_id=1)
        except OSError as exc:
            pytest.skip(f"no buffer rings, of Linux 5.19: {exc}")
        for number, data in enumerate((b"ab", b"cde", b"f")):
            group.add(bytearray(data), number, offset=number)
        group.advance(3)
        cqe = completes(ring, ring.send_bundle(2, first.fileno(), BufferSelection(1)), "6.10")
        assert cqe.res == 6
        assert second.recv(8) == b"abcdef"


def test_sendto_names_the_receiver() -> None:
    """A datagram goes to the given address; recvfrom has ours."""
    with (
        socket.socket(type=socket.SOCK_DGRAM) as first,
        socket.socket(type=socket.SOCK_DGRAM) as second,
        open_ring(1) as ring,
    ):
        first.bind(LOOPBACK)
        second.bind(LOOPBACK)
        sqe = ring.sendto(1, first.fileno(), b"data", 0, second.getsockname())
        cqe = run_one(ring)
        if cqe.res == -errno.EDESTADDRREQ:
            pytest.skip("this kernel ignores the address of SEND, of Linux 6.1")
        skip_unknown(Op(sqe.opcode), cqe.res, "6.1")
        assert cqe.res == 4
        assert second.recvfrom(8) == (b"data", first.getsockname())


@pytest.mark.parametrize("fixed", [False, True])
def test_a_zero_copy_send_completes_and_then_notifies(fixed: bool) -> None:
    """The result comes with MORE, the notification without; a registered buffer will do."""
    with tcp() as (client, server), open_ring(1) as ring:
        data = PinnedBuffer(bytearray(b"some data"))
        ring.register_buffers([data])
        report = RecvSendFlag.SEND_ZC_REPORT_USAGE
        if fixed:
            ring.send_zc_fixed(1, client.fileno(), data[5:], 0, report, 0)
        else:
            ring.send_zc(1, client.fileno(), data[5:], socket.MSG_WAITALL, report)
        sent = run_one(ring)
        skip_unknown(Op.SEND_ZC, sent.res, "6.2")
        assert (sent.res, sent.flags & CqeFlag.MORE) == (4, CqeFlag.MORE)
        assert server.recv(8) == b"data"
        notified = wait_cqes(ring, 1)[0]
        assert notified.flags & (CqeFlag.NOTIF | CqeFlag.MORE) == CqeFlag.NOTIF
        # Loopback copies.
        assert notified.res & 0xFFFFFFFF == 1 << 31


def test_zero_copy_receive_needs_an_interface_queue() -> None:
    """The entry has the index of the queue; without one the kernel refuses it."""
    with unix() as (first, _), open_ring(1) as ring:
        sqe = ring.recv_zc(1, first.fileno(), 4096, 0)
        assert (sqe.opcode, sqe.len, sqe.file_index) == (Op.RECV_ZC, 4096, 0)
        assert sqe.ioprio == RecvSendFlag.RECV_MULTISHOT
        assert run_one(ring).res == -errno.EINVAL


# -- commands ----------------------------------------------------------------------------------


def test_socket_options_are_set_and_got() -> None:
    """Numbers and bytes of any level can be set, those of SOL_SOCKET be got."""
    with tcp() as (client, _), open_ring(1) as ring:
        fd, value = client.fileno(), bytearray(4)
        sol, tcp_level = socket.SOL_SOCKET, socket.IPPROTO_TCP
        completes(ring, ring.setsockopt(1, fd, sol, socket.SO_KEEPALIVE, 1))
        assert client.getsockopt(sol, socket.SO_KEEPALIVE) == 1
        assert completes(ring, ring.getsockopt(1, fd, sol, socket.SO_KEEPALIVE, value)).res == 4
        assert struct.unpack("=i", value) == (1,)
        assert completes(ring, ring.setsockopt(1, fd, tcp_level, socket.TCP_NODELAY, 1)).res == 0
        assert client.getsockopt(tcp_level, socket.TCP_NODELAY) == 1
        linger = struct.pack("=ii", 1, 7)
        assert completes(ring, ring.setsockopt(1, fd, sol, socket.SO_LINGER, linger)).res == 0
        assert client.getsockopt(sol, socket.SO_LINGER, 8) == linger


def test_a_socket_tells_how_much_waits_in_it() -> None:
    """siocinq counts what is to be received, siocoutq what the other end has no room for."""
    with tcp() as (client, server), open_ring(1) as ring:
        assert completes(ring, ring.siocoutq(1, client.fileno()), "6.7").res == 0
        client.send(b"data")
        server.recv(1, socket.MSG_PEEK)
        assert completes(ring, ring.siocinq(1, server.fileno()), "6.7").res == 4
        assert completes(ring, ring.cmd_sock(1, SocketOp.SIOCINQ, server.fileno())).res == 4
        _fill_up(client)
        assert completes(ring, ring.siocoutq(1, client.fileno()), "6.7").res > 0


def test_a_slot_tells_its_names() -> None:
    """getsockname with and without peer, also of a socket that has no descriptor."""
    with tcp() as (client, server), open_ring(1) as ring:
        ring.register_files([client.fileno()])
        own, peer = SockAddr(), SockAddr()
        sqe = ring.getsockname(1, 0, own).use_registered_fd()
        assert completes(ring, sqe, "6.19").res >= 0
        assert own.address == client.getsockname()
        sqe = ring.getsockname(1, 0, peer, peer=True).use_registered_fd()
        assert completes(ring, sqe, "6.19").res >= 0
        assert peer.address == server.getsockname()


def test_a_direct_socket_works_like_any_other() -> None:
    """All of it on slots: bound, connected, sent, received, closed; no descriptor is used."""
    with open_ring(2) as ring, socket.create_server(LOOPBACK) as listener:
        ring.register_files([-1, -1])
        inet = (socket.AF_INET, socket.SOCK_STREAM)
        assert completes(ring, ring.socket_direct(1, *inet, 0, 0, 0)).res == 0
        fds = set(os.listdir("/proc/self/fd"))
        ring.connect(1, 0, listener.getsockname()).use_registered_fd()
        ring.accept_direct(2, listener.fileno(), file_index=1)
        assert both_complete(ring, Op.ACCEPT) == {1: 0, 2: 0}
        buffer = bytearray(4)
        ring.send(1, 0, b"data").use_registered_fd()
        ring.recv(2, 1, buffer).use_registered_fd()
        assert both_complete(ring, Op.RECV) == {1: 4, 2: 4}
        assert bytes(buffer) == b"data"
        assert set(os.listdir("/proc/self/fd")) == fds
