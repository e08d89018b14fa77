# SPDX-License-Identifier: MIT OR Apache-2.0
"""A socket before it carries data: addresses, options, and what is known of its state."""

from __future__ import annotations

import errno
import functools
import socket as stdlib_socket
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import trio

from ._abi import Op, SocketOp, SqeFlag
from ._buffers import readable
from ._capabilities import capabilities
from ._fixed_file import FixedFile
from ._prep import (
    prep_bind,
    prep_cmd_sock,
    prep_connect,
    prep_listen,
    prep_shutdown,
)
from ._sockaddr import SockAddr
from ._structs import int_array

if TYPE_CHECKING:
    from typing import TypeAlias

    from ._buffers import ReadableBuffer
    from ._engine import Engine
    from ._handle import Place

    SocketKind: TypeAlias = tuple[stdlib_socket.AddressFamily, stdlib_socket.SocketKind, int]

# The connection is gone; a later receive would answer 0, which looks like an orderly end.
_BROKEN = frozenset(
    {
        errno.ECONNABORTED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EPIPE,
        errno.ETIMEDOUT,
    }
)
_STREAM = stdlib_socket.SOCK_STREAM
_STREAMS = (stdlib_socket.SOCK_STREAM, stdlib_socket.SOCK_SEQPACKET)


_NameT = TypeVar("_NameT", stdlib_socket.AddressFamily, stdlib_socket.SocketKind)


class SocketSetup(FixedFile):
    """The part of `FixedSocket` that sets up and asks."""

    _kind: SocketKind

    def __init__(
        self,
        engine: Engine,
        slot: int,
        companion: int,
        kind: SocketKind,
        opened_at: Place | None = None,
    ) -> None:
        FixedFile.__init__(self, engine, slot, companion, opened_at)
        self._kind = kind
        # Receives may take the run's shared buffers: without boundaries, less is as good.
        self._may_share = kind[1] is _STREAM

    @property
    def family(self) -> stdlib_socket.AddressFamily:
        """As `socket.socket.family`."""
        return self._kind[0]

    @property
    def type(self) -> stdlib_socket.SocketKind:
        """As `socket.socket.type`, without ``SOCK_NONBLOCK`` and ``SOCK_CLOEXEC``."""
        return self._kind[1]

    @property
    def proto(self) -> int:
        """As `socket.socket.proto`."""
        return self._kind[2]

    def _closes_plainly(self) -> bool:
        return self._companion < 0 and not (self._sole_owner and capabilities().lets_go_late)

    async def _empty(self, slot: int) -> None:
        if self._sole_owner and self._companion < 0:
            # Else the peer sees the end when the kernel lets go of the file, which can be late.
            try:
                await self._engine.perform(
                    prep_shutdown, slot, stdlib_socket.SHUT_RDWR, flags=SqeFlag.FIXED_FILE
                )
            except OSError:
                pass  # not connected, or gone
        await super()._empty(slot)

    def _check_broken(self, lost: OSError | None) -> None:
        if lost is not None:
            raise trio.BrokenResourceError(f"the connection is broken: {lost}") from lost

    def _receive_failed(self, exc: OSError) -> NoReturn:
        """Remembers a lost connection: a later receive would answer 0, like an orderly end."""
        if exc.errno in _BROKEN and self.type in _STREAMS:
            self._receive_lost = exc
            self._check_broken(exc)
        raise exc

    def _at_end(self) -> None:
        """A receive has answered 0. Raises if that is no orderly end: the kernel tells of a lost
        connection once, and it was a send that was told.
        """
        lost = self._send_lost
        if lost is not None and lost.errno != errno.EPIPE:
            self._receive_lost = lost
            self._check_broken(lost)

    def _send_failed(self, exc: OSError) -> NoReturn:
        """Remembers that nothing more can be sent; what the peer had sent can still be received."""
        if exc.errno in _BROKEN and self.type in _STREAMS:
            self._send_lost = exc
            self._check_broken(exc)
        raise exc

    # -- set-up --------------------------------------------------------------------------------

    async def bind(self, address: Any) -> None:
        """Gives the socket a local address. bind(2); an operation since 6.11."""
        where = await self._resolve(address, passive=True)
        if Op.BIND in capabilities().ops and self._companion < 0:
            await self._engine.perform_on(self, prep_bind, where.pointer, where.length, pins=where)
            return
        async with self._ordinary_fd() as fd:
            with self._python_socket(fd) as sock:
                sock.bind(where.address)

    async def listen(self, backlog: int | None = None) -> None:
        """Lets clients connect; at most ``backlog`` wait to be accepted. listen(2); 6.11."""
        # As trio.open_tcp_listeners: None is as many as the kernel allows.
        backlog = 0xFFFF if backlog is None else min(backlog, 0xFFFF)
        if Op.LISTEN in capabilities().ops and self._companion < 0:
            await self._engine.perform_on(self, prep_listen, backlog)
        else:
            async with self._ordinary_fd() as fd:
                with self._python_socket(fd) as sock:
                    sock.listen(backlog)

    async def connect(self, address: Any) -> None:
        """Connects to ``address``; a host name is looked up. connect(2).

        A socket whose connect was cancelled is of no use any more, and is closed.
        """
        where = await self._resolve(address)
        try:
            await self._engine.perform_on(
                self, prep_connect, where.pointer, where.length, pins=where, bounded=False
            )
        except trio.Cancelled:
            await trio.aclose_forcefully(self)
            raise

    async def _resolve(self, address: Any, *, passive: bool = False) -> SockAddr:
        if isinstance(address, SockAddr):
            return address
        if self.family not in (stdlib_socket.AF_INET, stdlib_socket.AF_INET6):
            return SockAddr.of(address, self.family)
        try:
            return SockAddr.of(address, self.family)
        except (ValueError, TypeError):
            if not isinstance(address, tuple) or not 2 <= len(address) <= 4:
                raise
        host = {"": None, "<broadcast>": "255.255.255.255"}.get(address[0], address[0])
        found = await trio.socket.getaddrinfo(
            host,
            address[1],
            self.family,
            self.type,
            self.proto,
            stdlib_socket.AI_PASSIVE if passive or host is None else 0,
        )
        resolved = found[0][4]
        return SockAddr.of((*resolved[:2], *address[2:]), self.family)

    def _python_socket(self, fd: int) -> _BorrowedSocket:
        return _BorrowedSocket(self.family, self.type, self.proto, fd)

    async def setsockopt(
        self,
        level: int,
        optname: int,
        value: int | ReadableBuffer | None,
        optlen: int | None = None,
    ) -> None:
        """As `socket.socket.setsockopt`; an operation since 6.7."""
        if self._companion >= 0 or value is None:
            async with self._ordinary_fd() as fd:
                with self._python_socket(fd) as sock:
                    if value is None:
                        sock.setsockopt(level, optname, None, optlen or 0)
                    else:
                        sock.setsockopt(level, optname, value)  # type: ignore[arg-type]
            return
        if isinstance(value, int):
            pin, address, count = int_array([value])
            nbytes = 4 * count
        else:
            pin, address, nbytes = readable(value)
        await self._engine.perform_on(
            self, _prep_sockopt, level, optname, address, nbytes, pins=pin
        )

    async def getsockopt(self, level: int, optname: int, buflen: int = 0) -> int | bytes:
        """As `socket.socket.getsockopt`. The ring knows too few options."""
        async with self._ordinary_fd() as fd:
            with self._python_socket(fd) as sock:
                return (
                    sock.getsockopt(level, optname, buflen)
                    if buflen
                    else sock.getsockopt(level, optname)
                )

    async def getsockname(self) -> Any:
        """The local address, as `socket.socket.getsockname` has it."""
        async with self._ordinary_fd() as fd:
            with self._python_socket(fd) as sock:
                return sock.getsockname()

    async def getpeername(self) -> Any:
        """The remote address, as `socket.socket.getpeername` has it."""
        async with self._ordinary_fd() as fd:
            with self._python_socket(fd) as sock:
                return sock.getpeername()


@functools.lru_cache
def socket_kind(family: int, type: int, proto: int) -> SocketKind:
    """As in the standard library: a plain number where its enums have no name."""
    return (
        _named(stdlib_socket.AddressFamily, family),
        _named(stdlib_socket.SocketKind, type),
        proto,
    )


def _named(names: type[_NameT], value: int) -> _NameT:
    try:
        return names(value)
    except ValueError:
        return cast("_NameT", value)


def _prep_sockopt(
    sqe: Any,
    slot: int,
    level: int,
    optname: int,
    address: int,
    nbytes: int,
    user_data: int,
    sqe_flags: int,
) -> None:
    prep_cmd_sock(
        sqe, SocketOp.SETSOCKOPT, slot, level, optname, address, nbytes, user_data, sqe_flags
    )


class _BorrowedSocket:
    """A Python socket on a descriptor that somebody else closes."""

    def __init__(self, family: int, type: int, proto: int, fd: int) -> None:
        self._socket = stdlib_socket.socket(family, type, proto, fileno=fd)

    def __enter__(self) -> stdlib_socket.socket:
        # A Python socket with a default timeout would make the descriptor non-blocking.
        self._socket.settimeout(None)
        return self._socket

    def __exit__(self, *exc_info: object) -> None:
        self._socket.detach()
