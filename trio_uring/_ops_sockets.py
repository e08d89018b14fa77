# SPDX-License-Identifier: MIT OR Apache-2.0
"""Operations on sockets.

``fd`` is a slot of the file table if `Sqe.use_registered_fd` of the returned entry is called. The
result of every operation is a negative errno if it failed. ``flags`` of sends and receives are
``MSG_`` ones; `RecvSendFlag` bits go to ``sqe.ioprio``.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from . import _prep as prep
from ._abi import FILE_INDEX_ALLOC, SocketOp
from ._buffers import TRANSFER_BYTES_MAX, readable, writable
from ._ops_common import Operations
from ._prep import prep_recv, prep_send
from ._sockaddr import SockAddr, sockaddr
from ._structs import BufferSelection

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from ._buffers import Pin, ReadableBuffer, WritableBuffer
    from ._msghdr import Msghdr
    from ._sockaddr import Address
    from ._sqe import Sqe

    Name: TypeAlias = "tuple[tuple[Pin, ...], int, int]"


class SocketOperations(Operations):
    """The part of `Ring` that works on sockets."""

    # -- make and connect ----------------------------------------------------------------------

    def socket(
        self, user_data: int, domain: int, socket_type: int, protocol: int = 0, flags: int = 0
    ) -> Sqe:
        """``socket(2)`` (5.19). Result: the descriptor.

        ``flags`` is 0: ``SOCK_NONBLOCK`` and ``SOCK_CLOEXEC`` belong to ``socket_type``.
        """
        return self._fill((), prep.prep_socket, domain, socket_type, protocol, flags, user_data)

    def socket_direct(
        self,
        user_data: int,
        domain: int,
        socket_type: int,
        protocol: int,
        flags: int,
        file_index: int,
    ) -> Sqe:
        """A socket in slot ``file_index``, or in a free one: `FILE_INDEX_ALLOC` (5.19).

        Result: 0, or the slot that the kernel chose. A file that is in the slot is replaced.
        """
        return self._fill(
            (),
            prep.prep_socket_direct,
            domain,
            socket_type,
            protocol,
            flags,
            file_index,
            user_data,
        )

    def socket_direct_alloc(
        self, user_data: int, domain: int, socket_type: int, protocol: int = 0, flags: int = 0
    ) -> Sqe:
        """A socket in a slot that the kernel chooses (5.19). Result: the slot, or ENFILE."""
        return self._fill(
            (), prep.prep_socket_direct_alloc, domain, socket_type, protocol, flags, user_data
        )

    def connect(self, user_data: int, fd: int, address: Address | SockAddr) -> Sqe:
        """``connect(2)`` (5.5) to a literal address: no name is looked up."""
        name = sockaddr(address)
        return self._fill(
            (name.memory,), prep.prep_connect, fd, name.pointer, name.length, user_data
        )

    def bind(self, user_data: int, fd: int, address: Address | SockAddr) -> Sqe:
        """``bind(2)`` (6.11) to a literal address."""
        name = sockaddr(address)
        return self._fill((name.memory,), prep.prep_bind, fd, name.pointer, name.length, user_data)

    def listen(self, user_data: int, fd: int, backlog: int) -> Sqe:
        """``listen(2)`` (6.11)."""
        return self._fill((), prep.prep_listen, fd, backlog, user_data)

    def shutdown(self, user_data: int, fd: int, how: int) -> Sqe:
        """``shutdown(2)`` (5.11). Receives that wait end with 0."""
        return self._fill((), prep.prep_shutdown, fd, how, user_data)

    # -- accept --------------------------------------------------------------------------------

    def accept(self, user_data: int, fd: int, addr: SockAddr | None = None, flags: int = 0) -> Sqe:
        """``accept4(2)`` (5.5): the peer's name comes in ``addr``. Result: the descriptor."""
        pins, address, length = _to_fill(addr)
        return self._fill(pins, prep.prep_accept, fd, address, length, flags, user_data)

    def accept_multishot(
        self, user_data: int, fd: int, addr: SockAddr | None = None, flags: int = 0
    ) -> Sqe:
        """Accepts until an error or a cancel (5.19), one completion for each connection.

        As long as they have ``CqeFlag.MORE`` there will be others. All peers' names come in the
        same ``addr``, the last one stays.
        """
        pins, address, length = _to_fill(addr)
        return self._fill(pins, prep.prep_multishot_accept, fd, address, length, flags, user_data)

    def accept_direct(
        self,
        user_data: int,
        fd: int,
        addr: SockAddr | None = None,
        flags: int = 0,
        file_index: int = FILE_INDEX_ALLOC,
    ) -> Sqe:
        """`accept` into a slot that the kernel chooses (5.19), or into a given one (5.15).

        Result: the slot, or 0 for a given one. ENFILE if none is free: the connection is lost then.
        ``flags`` without ``SOCK_CLOEXEC``, which the kernel refuses.
        """
        pins, address, length = _to_fill(addr)
        return self._fill(
            pins, prep.prep_accept_direct, fd, address, length, flags, file_index, user_data
        )

    def accept_multishot_direct(
        self, user_data: int, fd: int, addr: SockAddr | None = None, flags: int = 0
    ) -> Sqe:
        """`accept_multishot`, each connection into a slot that the kernel chooses (5.19).

        Without a free slot the connection is lost, and the operation ends with ENFILE.
        """
        pins, address, length = _to_fill(addr)
        return self._fill(
            pins, prep.prep_multishot_accept_direct, fd, address, length, flags, user_data
        )

    # -- send ----------------------------------------------------------------------------------

    def send(
        self, user_data: int, fd: int, buffer: ReadableBuffer | BufferSelection, flags: int = 0
    ) -> Sqe:
        """``send(2)`` (5.6); of a provided buffer since 6.10.

        Result: bytes sent, possibly fewer than there are unless ``MSG_WAITALL`` is given.
        """
        if isinstance(buffer, BufferSelection):
            return self._select(buffer, (), prep_send, fd, 0, buffer.nbytes, flags, user_data)
        pin, address, nbytes = readable(buffer)
        if nbytes > TRANSFER_BYTES_MAX:
            nbytes = TRANSFER_BYTES_MAX
        tail = self._tail
        try:
            sqe = self.get_sqe()
            prep_send(sqe, fd, address, nbytes, flags, user_data)
            return self._lend(sqe, pin)
        except BaseException:
            self._tail = tail
            raise

    def send_bundle(
        self, user_data: int, fd: int, selection: BufferSelection, flags: int = 0
    ) -> Sqe:
        """Sends as many buffers of the group as there are (6.10), at most ``selection.nbytes``."""
        return self._select(
            selection, (), prep.prep_send_bundle, fd, selection.nbytes, flags, user_data
        )

    def sendto(
        self,
        user_data: int,
        fd: int,
        buffer: ReadableBuffer,
        flags: int,
        address: Address | SockAddr,
    ) -> Sqe:
        """``sendto(2)`` to a literal address (6.1). On older kernels use `sendmsg`."""
        (pin, at, nbytes), name = readable(buffer), sockaddr(address)
        return self._fill(
            (pin, name.memory),
            prep.prep_sendto,
            fd,
            at,
            nbytes,
            flags,
            name.pointer,
            name.length,
            user_data,
        )

    def send_zc(
        self,
        user_data: int,
        fd: int,
        buffer: ReadableBuffer,
        send_flags: int = 0,
        zc_flags: int = 0,
    ) -> Sqe:
        """`send` without a copy (6.0); ``zc_flags`` are `RecvSendFlag` bits.

        If the first completion has ``CqeFlag.MORE``, a second one with ``CqeFlag.NOTIF`` tells that
        the kernel let go of the buffer.
        """
        pin, address, nbytes = readable(buffer)
        return self._fill(
            (pin,), prep.prep_send_zc, fd, address, nbytes, send_flags, zc_flags, user_data
        )

    def send_zc_fixed(
        self,
        user_data: int,
        fd: int,
        buffer: ReadableBuffer,
        send_flags: int,
        zc_flags: int,
        buffer_index: int,
    ) -> Sqe:
        """`send_zc` of a part of the registered buffer ``buffer_index`` (6.0)."""
        pin, address, nbytes = readable(buffer)
        return self._fill(
            (pin,),
            prep.prep_send_zc_fixed,
            fd,
            address,
            nbytes,
            send_flags,
            zc_flags,
            buffer_index,
            user_data,
        )

    def sendmsg(self, user_data: int, fd: int, msg: Msghdr, flags: int = 0) -> Sqe:
        """``sendmsg(2)`` (5.3). Result: bytes sent."""
        msg.make_room()
        return self._fill(msg.pins, prep.prep_sendmsg, fd, msg.pointer, flags, user_data)

    def sendmsg_zc(self, user_data: int, fd: int, msg: Msghdr, flags: int = 0) -> Sqe:
        """`sendmsg` without a copy (6.1), with two completions as `send_zc`."""
        msg.make_room()
        return self._fill(msg.pins, prep.prep_sendmsg_zc, fd, msg.pointer, flags, user_data)

    # -- receive -------------------------------------------------------------------------------

    def recv(
        self, user_data: int, fd: int, buffer: WritableBuffer | BufferSelection, flags: int = 0
    ) -> Sqe:
        """``recv(2)`` (5.6). Result: bytes received, 0 at the end of a stream."""
        if isinstance(buffer, BufferSelection):
            return self._select(buffer, (), prep_recv, fd, 0, buffer.limit, flags, user_data)
        pin, address, nbytes = writable(buffer)
        if nbytes > TRANSFER_BYTES_MAX:
            nbytes = TRANSFER_BYTES_MAX
        tail = self._tail
        try:
            sqe = self.get_sqe()
            prep_recv(sqe, fd, address, nbytes, flags, user_data)
            return self._lend(sqe, pin)
        except BaseException:
            self._tail = tail
            raise

    def recv_multishot(
        self, user_data: int, fd: int, selection: BufferSelection, flags: int = 0
    ) -> Sqe:
        """Receives into a buffer of the group whenever there is data (6.0).

        One completion each, with ``CqeFlag.MORE`` until the last: the end of the stream, an error,
        or ENOBUFS when the group is empty. Older kernels want ``selection.nbytes`` to be 0.
        """
        return self._select(
            selection, (), prep.prep_recv_multishot, fd, 0, selection.nbytes, flags, user_data
        )

    def recvmsg(self, user_data: int, fd: int, msg: Msghdr, flags: int = 0) -> Sqe:
        """``recvmsg(2)`` (5.3) into a `Msghdr.receive`. Result: bytes received."""
        return self._receive(prep.prep_recvmsg, user_data, fd, msg, flags)

    def recvmsg_multishot(self, user_data: int, fd: int, msg: Msghdr, flags: int = 0) -> Sqe:
        """Receives a message into a buffer of the group whenever there is one (6.0).

        ``msg`` is a `Msghdr.receive` with a `BufferSelection`; it stays as it is, each message is
        in its buffer, for `RecvmsgOut.parse`. Completions as in `recv_multishot`.
        """
        return self._receive(prep.prep_recvmsg_multishot, user_data, fd, msg, flags)

    def _receive(
        self,
        prep_receive: Callable[[Sqe, int, int, int, int], None],
        user_data: int,
        fd: int,
        msg: Msghdr,
        flags: int,
    ) -> Sqe:
        msg.make_room()
        if msg.selection is None:
            return self._fill(msg.pins, prep_receive, fd, msg.pointer, flags, user_data)
        return self._select(
            msg.selection, msg.pins, prep_receive, fd, msg.pointer, flags, user_data
        )

    def recv_zc(self, user_data: int, fd: int, nbytes: int, zcrx_ifq_index: int) -> Sqe:
        """Receives without a copy through a registered interface queue, multishot (6.15)."""
        return self._fill((), prep.prep_recv_zc, fd, nbytes, zcrx_ifq_index, user_data)

    # -- commands ------------------------------------------------------------------------------

    def cmd_sock(
        self,
        user_data: int,
        cmd_op: int,
        fd: int,
        level: int = 0,
        optname: int = 0,
        optval: ReadableBuffer | None = None,
    ) -> Sqe:
        """A command to a socket, as `SocketOp` says (6.7)."""
        if optval is None:
            return self._fill((), prep.prep_cmd_sock, cmd_op, fd, level, optname, 0, 0, user_data)
        take = readable if cmd_op == SocketOp.SETSOCKOPT else writable
        pin, at, nbytes = take(optval)
        return self._fill(
            (pin,), prep.prep_cmd_sock, cmd_op, fd, level, optname, at, nbytes, user_data
        )

    def getsockopt(
        self, user_data: int, fd: int, level: int, optname: int, opt: WritableBuffer
    ) -> Sqe:
        """``getsockopt(2)`` (6.7), of level ``SOL_SOCKET`` only. Result: the size of the value."""
        return self.cmd_sock(user_data, SocketOp.GETSOCKOPT, fd, level, optname, opt)

    def setsockopt(
        self, user_data: int, fd: int, level: int, optname: int, opt: ReadableBuffer | int
    ) -> Sqe:
        """``setsockopt(2)`` (6.7) of any level, with a number or with bytes."""
        if isinstance(opt, int):
            opt = opt.to_bytes(4, sys.byteorder, signed=True)
        return self.cmd_sock(user_data, SocketOp.SETSOCKOPT, fd, level, optname, opt)

    def siocinq(self, user_data: int, fd: int) -> Sqe:
        """Result: how many bytes there are to receive (6.7)."""
        return self.cmd_sock(user_data, SocketOp.SIOCINQ, fd)

    def siocoutq(self, user_data: int, fd: int) -> Sqe:
        """Result: how many bytes were not yet sent, or not acknowledged by the peer (6.7)."""
        return self.cmd_sock(user_data, SocketOp.SIOCOUTQ, fd)

    def getsockname(self, user_data: int, fd: int, addr: SockAddr, peer: bool = False) -> Sqe:
        """``getsockname(2)``, or ``getpeername(2)`` of the ``peer``, into ``addr`` (6.19)."""
        pins, address, length = _to_fill(addr)
        return self._fill(
            pins, prep.prep_cmd_getsockname, fd, address, length, int(peer), user_data
        )


def _to_fill(addr: SockAddr | None) -> Name:
    if addr is None:
        return (), 0, 0
    addr.make_room()
    return (addr.memory,), addr.pointer, addr.length_pointer
