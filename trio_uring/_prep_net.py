# SPDX-License-Identifier: MIT OR Apache-2.0
"""Prep functions for sockets. Flags in ``flags`` are MSG_ or SOCK_; see each for other ones."""

from __future__ import annotations

from struct import error as StructError
from typing import TYPE_CHECKING

from ._abi import FILE_INDEX_ALLOC, AcceptFlag, Op, RecvSendFlag, SocketOp
from ._prep_entry import (
    fill,
    pack_accept,
    pack_command,
    pack_sendto,
    pack_sock_command,
    pack_transfer,
    put,
    refused,
    target,
    u32,
)

if TYPE_CHECKING:
    from ._sqe import Sqe

__all__ = [
    "prep_accept",
    "prep_accept_direct",
    "prep_bind",
    "prep_cmd_getsockname",
    "prep_cmd_sock",
    "prep_connect",
    "prep_listen",
    "prep_multishot_accept",
    "prep_multishot_accept_direct",
    "prep_recv",
    "prep_recv_multishot",
    "prep_recv_zc",
    "prep_recvmsg",
    "prep_recvmsg_multishot",
    "prep_send",
    "prep_send_bundle",
    "prep_send_zc",
    "prep_send_zc_fixed",
    "prep_sendmsg",
    "prep_sendmsg_zc",
    "prep_sendmsg_zc_fixed",
    "prep_sendto",
    "prep_shutdown",
    "prep_socket",
    "prep_socket_direct",
    "prep_socket_direct_alloc",
]

_ACCEPT = int(Op.ACCEPT)
_BIND = int(Op.BIND)
_CONNECT = int(Op.CONNECT)
_LISTEN = int(Op.LISTEN)
_RECV = int(Op.RECV)
_RECV_ZC = int(Op.RECV_ZC)
_RECVMSG = int(Op.RECVMSG)
_SEND = int(Op.SEND)
_SEND_ZC = int(Op.SEND_ZC)
_SENDMSG = int(Op.SENDMSG)
_SENDMSG_ZC = int(Op.SENDMSG_ZC)
_SHUTDOWN = int(Op.SHUTDOWN)
_SOCKET = int(Op.SOCKET)
_URING_CMD = int(Op.URING_CMD)
_ACCEPT_MULTISHOT = int(AcceptFlag.MULTISHOT)
_BUNDLE = int(RecvSendFlag.BUNDLE)
_FIXED_BUF = int(RecvSendFlag.FIXED_BUF)
_RECV_MULTISHOT = int(RecvSendFlag.RECV_MULTISHOT)
_GETSOCKNAME = int(SocketOp.GETSOCKNAME)

# One line for an operation's own arguments, one for those that all have.
# fmt: off


def prep_accept(
    sqe: Sqe, fd: int, address: int, addrlen_address: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """accept4(2): the peer's name goes to ``address``, or nowhere if both addresses are 0; 5.5."""
    try:
        pack_accept(
            sqe.memory, sqe.at, _ACCEPT, sqe_flags, fd, addrlen_address, address, flags, user_data,
        )
    except StructError as error:
        raise refused(sqe, error) from None


def prep_accept_direct(
    sqe: Sqe, fd: int, address: int, addrlen_address: int, flags: int, file_index: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """`prep_accept` into slot ``file_index`` (5.15) or any free one, `FILE_INDEX_ALLOC` (5.19).

    ``flags`` without SOCK_CLOEXEC: EINVAL otherwise. If no slot is free, the connection is taken
    and dropped, and the result is ENFILE.
    """
    fill(
        sqe, _ACCEPT, sqe_flags, user_data, fd=fd, off=addrlen_address, addr=address,
        op_flags=flags, file_index=target(sqe, file_index),
    )


def prep_multishot_accept(
    sqe: Sqe, fd: int, address: int, addrlen_address: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """Accepts until an error or a cancel; 5.19. All peers' names go to the same ``address``."""
    fill(
        sqe, _ACCEPT, sqe_flags, user_data, fd=fd, off=addrlen_address, addr=address,
        op_flags=flags, ioprio=_ACCEPT_MULTISHOT,
    )


def prep_multishot_accept_direct(
    sqe: Sqe, fd: int, address: int, addrlen_address: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """`prep_multishot_accept`, each connection into a free slot that the kernel picks; 5.19.

    When no slot is free, it drops the connection and ends with ENFILE.
    """
    fill(
        sqe, _ACCEPT, sqe_flags, user_data, fd=fd, off=addrlen_address, addr=address,
        op_flags=flags, ioprio=_ACCEPT_MULTISHOT, file_index=FILE_INDEX_ALLOC,
    )


def prep_connect(
    sqe: Sqe, fd: int, address: int, addrlen: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """connect(2); 5.5."""
    fill(sqe, _CONNECT, sqe_flags, user_data, fd=fd, off=addrlen, addr=address)


def prep_bind(
    sqe: Sqe, fd: int, address: int, addrlen: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """bind(2); 6.11."""
    fill(sqe, _BIND, sqe_flags, user_data, fd=fd, off=addrlen, addr=address)


def prep_listen(sqe: Sqe, fd: int, backlog: int, user_data: int = 0, sqe_flags: int = 0) -> None:
    """listen(2); 6.11. A ``backlog`` of -1 is the largest that the system allows."""
    fill(sqe, _LISTEN, sqe_flags, user_data, fd=fd, length=u32(backlog))


def prep_shutdown(sqe: Sqe, fd: int, how: int, user_data: int = 0, sqe_flags: int = 0) -> None:
    """shutdown(2); 5.11."""
    fill(sqe, _SHUTDOWN, sqe_flags, user_data, fd=fd, length=how)


def prep_socket(
    sqe: Sqe, domain: int, socket_type: int, protocol: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """socket(2); 5.19. ``flags`` is 0: SOCK_NONBLOCK and SOCK_CLOEXEC belong to ``socket_type``."""
    fill(
        sqe, _SOCKET, sqe_flags, user_data, fd=domain, off=socket_type, length=protocol,
        op_flags=flags,
    )


def prep_socket_direct(
    sqe: Sqe, domain: int, socket_type: int, protocol: int, flags: int, file_index: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """`prep_socket` into slot ``file_index`` or any free one, `FILE_INDEX_ALLOC`; 5.19.

    The last two are in the order of Zig; liburing has ``file_index`` before ``flags``.
    """
    fill(
        sqe, _SOCKET, sqe_flags, user_data, fd=domain, off=socket_type, length=protocol,
        op_flags=flags, file_index=target(sqe, file_index),
    )


def prep_socket_direct_alloc(
    sqe: Sqe, domain: int, socket_type: int, protocol: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """`prep_socket` into a free slot that the kernel picks: the result is the slot; 5.19."""
    fill(
        sqe, _SOCKET, sqe_flags, user_data, fd=domain, off=socket_type, length=protocol,
        op_flags=flags, file_index=FILE_INDEX_ALLOC,
    )


def prep_send(
    sqe: Sqe, fd: int, address: int, nbytes: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """send(2); 5.6. `RecvSendFlag` bits go to ``sqe.ioprio``."""
    try:
        pack_transfer(sqe.memory, sqe.at, _SEND, sqe_flags, fd, address, nbytes, flags, user_data)
    except StructError as error:
        raise refused(sqe, error) from None


def prep_send_bundle(
    sqe: Sqe, fd: int, nbytes: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """Sends as many provided buffers as there are, at most ``nbytes`` unless that is 0; 6.10.

    Needs `SqeFlag.BUFFER_SELECT` and ``sqe.buf_group``.
    """
    fill(sqe, _SEND, sqe_flags, user_data, fd=fd, length=nbytes, op_flags=flags, ioprio=_BUNDLE)


def prep_sendto(
    sqe: Sqe, fd: int, address: int, nbytes: int, flags: int, dest_address: int, dest_addrlen: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """sendto(2); 6.1. Older kernels answer EINVAL: `prep_sendmsg` works there."""
    put(
        pack_sendto, sqe, _SEND, sqe_flags, fd, dest_address, address, nbytes, flags, user_data,
        dest_addrlen,
    )


def prep_send_zc(
    sqe: Sqe, fd: int, address: int, nbytes: int, flags: int, zc_flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """send(2) without a copy; 6.0. ``zc_flags`` are `RecvSendFlag`.

    A second completion with `CqeFlag.NOTIF` says that the kernel let go of the memory.
    """
    fill(
        sqe, _SEND_ZC, sqe_flags, user_data, fd=fd, addr=address, length=nbytes, op_flags=flags,
        ioprio=zc_flags,
    )


def prep_send_zc_fixed(
    sqe: Sqe, fd: int, address: int, nbytes: int, flags: int, zc_flags: int, buffer_index: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """`prep_send_zc` from memory inside the registered buffer ``buffer_index``; 6.0."""
    fill(
        sqe, _SEND_ZC, sqe_flags, user_data, fd=fd, addr=address, length=nbytes, op_flags=flags,
        ioprio=zc_flags | _FIXED_BUF, buf_index=buffer_index,
    )


def prep_sendmsg(
    sqe: Sqe, fd: int, msghdr_address: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """sendmsg(2); 5.3."""
    fill(sqe, _SENDMSG, sqe_flags, user_data, fd=fd, addr=msghdr_address, length=1, op_flags=flags)


def prep_sendmsg_zc(
    sqe: Sqe, fd: int, msghdr_address: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """sendmsg(2) without a copy, with two completions as `prep_send_zc`; 6.1."""
    fill(
        sqe, _SENDMSG_ZC, sqe_flags, user_data, fd=fd, addr=msghdr_address, length=1,
        op_flags=flags,
    )


def prep_sendmsg_zc_fixed(
    sqe: Sqe, fd: int, msghdr_address: int, flags: int, buffer_index: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """`prep_sendmsg_zc` from parts of the registered buffer ``buffer_index``; 6.15."""
    fill(
        sqe, _SENDMSG_ZC, sqe_flags, user_data, fd=fd, addr=msghdr_address, length=1,
        op_flags=flags, ioprio=_FIXED_BUF, buf_index=buffer_index,
    )


def prep_recv(
    sqe: Sqe, fd: int, address: int, nbytes: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """recv(2); 5.6. `RecvSendFlag` bits go to ``sqe.ioprio``."""
    try:
        pack_transfer(sqe.memory, sqe.at, _RECV, sqe_flags, fd, address, nbytes, flags, user_data)
    except StructError as error:
        raise refused(sqe, error) from None


def prep_recv_multishot(
    sqe: Sqe, fd: int, address: int, nbytes: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """Receives until the end, an error, a cancel or a lack of buffers; 6.0.

    Needs `SqeFlag.BUFFER_SELECT` and ``sqe.buf_group``; ``address`` is 0.
    """
    fill(
        sqe, _RECV, sqe_flags, user_data, fd=fd, addr=address, length=nbytes, op_flags=flags,
        ioprio=_RECV_MULTISHOT,
    )


def prep_recvmsg(
    sqe: Sqe, fd: int, msghdr_address: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """recvmsg(2); 5.3."""
    fill(sqe, _RECVMSG, sqe_flags, user_data, fd=fd, addr=msghdr_address, length=1, op_flags=flags)


def prep_recvmsg_multishot(
    sqe: Sqe, fd: int, msghdr_address: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """`prep_recv_multishot` with names and ancillary data in front of each payload; 6.0."""
    fill(
        sqe, _RECVMSG, sqe_flags, user_data, fd=fd, addr=msghdr_address, length=1, op_flags=flags,
        ioprio=_RECV_MULTISHOT,
    )


def prep_recv_zc(
    sqe: Sqe, fd: int, nbytes: int, zcrx_ifq_index: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """Receives without a copy to a registered interface queue, multishot, ``nbytes`` or 0; 6.15."""
    fill(
        sqe, _RECV_ZC, sqe_flags, user_data, fd=fd, length=nbytes, ioprio=_RECV_MULTISHOT,
        file_index=zcrx_ifq_index,
    )


def prep_cmd_sock(
    sqe: Sqe, cmd_op: int, fd: int, level: int, optname: int, optval_address: int, optlen: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """`SocketOp` ``cmd_op`` on a socket: getsockopt(2), setsockopt(2), SIOCINQ, SIOCOUTQ; 6.7."""
    put(
        pack_sock_command, sqe, _URING_CMD, sqe_flags, fd, cmd_op, level, optname, user_data,
        optlen, optval_address,
    )


def prep_cmd_getsockname(
    sqe: Sqe, fd: int, address: int, addrlen_address: int, peer: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """getsockname(2), or getpeername(2) if ``peer`` is 1; 6.19."""
    put(
        pack_command, sqe, _URING_CMD, sqe_flags, fd, _GETSOCKNAME, address, user_data, peer,
        addrlen_address,
    )
