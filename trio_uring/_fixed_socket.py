# SPDX-License-Identifier: MIT OR Apache-2.0
"""`FixedSocket`: a handle on a socket in the ring's table."""

from __future__ import annotations

import errno
import os
import socket as stdlib_socket
from operator import index
from socket import SOCK_CLOEXEC
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import enable_ki_protection

from ._abi import Op
from ._accept import AcceptedConnections
from ._buffers import PinnedBuffer, readable
from ._capabilities import capabilities
from ._engine_slots import begin_accept, take_slot
from ._fixed_file import _length
from ._msghdr import Msghdr
from ._operation import BringsFd
from ._prep import (
    prep_accept,
    prep_send_zc,
    prep_sendmsg,
    prep_shutdown,
)
from ._slots import fill_slot, reserve
from ._socket_receive import SocketReceive

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._buffers import ReadableBuffer
    from ._handle import Place
    from ._operation import Operation


# As plain numbers: the hot path packs them.
_SEND = int(Op.SEND)
_NO_SIGNAL = int(stdlib_socket.MSG_NOSIGNAL)


def _pinned(data: ReadableBuffer) -> bytes | PinnedBuffer:
    """What does not change its size between two sends."""
    return data if isinstance(data, (bytes, PinnedBuffer)) else PinnedBuffer(data)


class FixedSocket(SocketReceive):
    """A socket in the ring's table; from `socket_direct`, `accept_direct` or `register`.

    The methods are those of `trio.socket.SocketType`, with the arguments of the standard library's.
    All that ask the kernel are async. It has no ordinary descriptor: what the kernel cannot do on a
    slot is done through a temporary one. It is no `trio.abc.Stream`.

    Raises:
        trio.BrokenResourceError: the connection is gone; so says every later call.
        trio.BusyResourceError: another task is receiving (or sending) on this socket.
    """

    # -- accept --------------------------------------------------------------------------------

    @enable_ki_protection
    async def accept_direct(self, *, slot: int | None = None, wait: bool = True) -> FixedSocket:
        """Takes one connection from this listener into a slot: accept(2).

        The slot is reserved before the kernel is asked: with no free slot the client waits in the
        backlog, and no connection is taken and dropped. See `open_direct` for slots.
        """
        engine = self._engine
        self._checked_slot()
        engine.check_run()
        taken = take_slot(engine) if slot is None else -1
        if taken < 0:
            waits = (self._slot_waits(),)
            [taken] = await reserve(engine, slot=slot, wait=wait, until_closed=waits)
        try:
            if capabilities().install:
                await engine.wait(begin_accept(engine, self, taken))
                return self._accepted(taken)
            fd = await engine.perform_on(
                self, prep_accept, 0, 0, SOCK_CLOEXEC, pins=BringsFd(), bounded=False
            )
            return self._accepted(taken, fd)
        except BaseException:
            engine.release_slot(taken)
            raise

    def _accepted(self, slot: int, fd: int = -1, opened_at: Place | None = None) -> FixedSocket:
        """The handle of a connection that is in its slot, or has come as an ordinary descriptor."""
        companion = fill_slot(self._engine, slot, fd) if fd >= 0 else -1
        return FixedSocket(self._engine, slot, companion, self._kind, opened_at)

    def accept_direct_multishot(self) -> AcceptedConnections:
        """``async with ... as connections``, then ``async for connection in connections``.

        Connections are taken ahead of the loop while slots are free; with none, clients wait in the
        backlog. A connection belongs to whoever got it from the loop; those that nobody got are
        closed at the end of the block.

        Connections that come together are handed out together: of up to 16 that are there only the
        first lets other tasks run. Each is a point of cancellation.
        """
        return AcceptedConnections(self)

    # -- send ----------------------------------------------------------------------------------

    @enable_ki_protection
    async def send(self, data: ReadableBuffer, flags: int = 0) -> int:
        """Sends; returns how many bytes the kernel took, maybe not all. send(2)."""
        engine = self._engine
        self._start_sending()
        try:
            return await engine.wait(self._begin_sending(data, flags), True)
        except OSError as exc:
            self._send_failed(exc)
        finally:
            self._sending = False

    def _begin_sending(self, data: ReadableBuffer, flags: int, start: int = 0) -> Operation:
        """Sends ``data`` from byte ``start`` on."""
        pin, address, nbytes = readable(data)
        return self._engine.begin_transfer(
            self, _SEND, 0, address + start, _length(nbytes - start), 0, flags | _NO_SIGNAL, pin
        )

    @enable_ki_protection
    async def exchange(self, data: ReadableBuffer, bufsize: int) -> bytes:
        """`send_all`, then `recv`: a reply and the next request, for the price of one await.

        Returns what `recv` would, ``b""`` at the end of the stream. Cancelled, it has received
        nothing; of ``data`` nobody knows how much was sent, as with `send_all`. Until it returns
        the socket is both sending and receiving: another send raises `trio.BusyResourceError`.
        """
        exchanging = self._begin_exchange(data, bufsize)
        if exchanging is None:
            return await self._exchange_in_turn(data, index(bufsize))
        try:
            received: bytes = await exchanging
            return received
        except OSError as exc:
            sent = self._engine.sent
            if exc.errno not in (errno.ECANCELED, errno.ENOBUFS):
                self._receive_failed(exc)
        finally:
            self._sending = self._receiving = False
        return await self._exchange_rest(_pinned(data), sent, bufsize)

    async def _exchange_rest(self, data: bytes | PinnedBuffer, sent: int, bufsize: int) -> bytes:
        """The send failed or was cut short, or there was no shared buffer for the receive."""
        if sent < 0:
            self._send_failed(OSError(-sent, os.strerror(-sent)))
        if sent < len(data):
            rest = PinnedBuffer(data) if isinstance(data, bytes) else data
            return await self._exchange_in_turn(rest[sent:], bufsize)
        return await self._recv_alone(bufsize)

    async def _exchange_in_turn(self, data: ReadableBuffer, bufsize: int) -> bytes:
        """`exchange`, where something is unusual: in two steps."""
        bufsize = _length(bufsize)
        self._start_receiving()  # nobody else may, meanwhile
        try:
            await self.send_all(data)
        finally:
            self._receiving = False
        return await self._recv_alone(bufsize)

    async def _recv_alone(self, bufsize: int) -> bytes:
        """Nobody else may send, meanwhile."""
        self._sending = True
        try:
            return await self.recv(bufsize)
        finally:
            self._sending = False

    async def write(self, data: ReadableBuffer) -> int:
        """The same as `send`."""
        return await self.send(data)

    @enable_ki_protection
    async def send_all(self, data: ReadableBuffer) -> None:
        """Sends all of ``data``. As `trio.abc.SendStream.send_all`: after an error or a
        cancellation nobody knows how much was sent.
        """
        sending = self._begin_send(data)
        if sending is None:
            await self._send_anyhow(data)
            return
        try:
            sent: int | None = await sending
            if sent is not None:
                await self._send_from(_pinned(data), sent)
        except OSError as exc:
            self._send_failed(exc)
        finally:
            self._sending = False

    async def _send_anyhow(self, data: ReadableBuffer) -> None:
        """`send_all`, where something is unusual."""
        data = _pinned(data)
        self._start_sending()
        try:
            if len(data):
                await self._send_from(data, 0)
            else:
                await trio.lowlevel.checkpoint()
        except OSError as exc:
            self._send_failed(exc)
        finally:
            self._sending = False

    async def _send_from(self, data: bytes | PinnedBuffer, sent: int) -> None:
        while sent < len(data):
            sent += await self._engine.wait(self._begin_sending(data, 0, sent), True)

    async def send_zc(self, data: ReadableBuffer, flags: int = 0) -> int:
        """`send` without copying ``data``, which stays locked until the peer has it (6.0).

        It pays for large data only. Returns how many bytes were sent.
        """
        pin, address, nbytes = readable(data)
        self._start_sending()
        try:
            return await self._engine.perform_on(
                self,
                prep_send_zc,
                address,
                _length(nbytes),
                flags | stdlib_socket.MSG_NOSIGNAL,
                0,
                pins=pin,
                bounded=False,
            )
        except OSError as exc:
            self._send_failed(exc)
        finally:
            self._sending = False

    async def sendto(self, data: ReadableBuffer, *args: Any) -> int:
        """``sendto(data, address)`` or ``sendto(data, flags, address)``, as in the standard
        library.
        """
        if not 1 <= len(args) <= 2:
            raise TypeError(f"sendto() takes 2 or 3 arguments, not {len(args) + 1}")
        flags = args[0] if len(args) == 2 else 0
        where = await self._resolve(args[-1])
        return await self._sendmsg(Msghdr([data], where), flags)

    async def sendmsg(
        self,
        buffers: Iterable[ReadableBuffer],
        ancdata: Iterable[tuple[int, int, Any]] = (),
        flags: int = 0,
        address: Any = None,
    ) -> int:
        """As `socket.socket.sendmsg`; returns how many bytes were sent."""
        where = None if address is None else await self._resolve(address)
        return await self._sendmsg(Msghdr(buffers, where, ancdata), flags)

    async def _sendmsg(self, message: Msghdr, flags: int) -> int:
        self._start_sending()
        try:
            return await self._engine.perform_on(
                self,
                prep_sendmsg,
                message.pointer,
                flags | stdlib_socket.MSG_NOSIGNAL,
                pins=message,
                bounded=False,
            )
        except OSError as exc:
            self._send_failed(exc)
        finally:
            self._sending = False

    def _start_sending(self) -> None:
        self._checked_slot()
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this socket")
        self._check_broken(self._send_lost)
        self._sending = True

    async def shutdown(self, how: int) -> None:
        """Ends sending (``SHUT_WR``), receiving, or both. shutdown(2); 5.11."""
        try:
            await self._engine.perform_on(self, prep_shutdown, how)
        except OSError as exc:
            self._send_failed(exc)
