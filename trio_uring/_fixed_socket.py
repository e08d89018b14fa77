# SPDX-License-Identifier: MIT OR Apache-2.0
"""`FixedSocket`: a handle on a socket in the ring's table."""

from __future__ import annotations

import errno
import socket as stdlib_socket
from socket import SOCK_CLOEXEC
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import enable_ki_protection

from ._abi import Op
from ._accept import AcceptedConnections
from ._buffers import PinnedBuffer, readable, writable
from ._capabilities import capabilities
from ._engine import SCRATCH
from ._fixed_file import _length, new_buffer, unpack
from ._lib import address_of, ffi
from ._msghdr import Msghdr
from ._operation import BUFFER_SELECT, F_BUFFER
from ._prep import (
    prep_accept,
    prep_accept_direct,
    prep_recvmsg,
    prep_send_zc,
    prep_sendmsg,
    prep_shutdown,
)
from ._recv_multishot import ReceivedData
from ._slots import fill_slot, reserve
from ._socket_setup import _STREAMS, SocketSetup

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._buffers import ReadableBuffer, WritableBuffer
    from ._operation import Operation


# As plain numbers: the hot path packs them.
_RECV, _SEND = int(Op.RECV), int(Op.SEND)
_NO_SIGNAL = int(stdlib_socket.MSG_NOSIGNAL)
# What one receive takes at the most; a shared buffer is shorter.
_SHARED_BYTES_MAX = 1 << 30
# Up to here a copy costs less than lending the memory to the kernel.
_COPIED_BYTES = 4096
memmove: Any = ffi.memmove


class FixedSocket(SocketSetup):
    """A socket in the ring's table; from `socket_direct`, `accept_direct` or `register`.

    The methods are those of `trio.socket.SocketType`, with the arguments of the standard library's.
    All that ask the kernel are async. It has no ordinary descriptor: what the kernel cannot do on a
    slot is done through a temporary one.

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
        [taken] = await reserve(
            engine, slot=slot, wait=wait, until_closed=(self._waiting_for_slot,)
        )
        try:
            if capabilities().install:
                await engine.perform_on(self, prep_accept_direct, 0, 0, 0, taken, bounded=False)
                return self._accepted(taken)
            fd = await engine.perform_on(self, prep_accept, 0, 0, SOCK_CLOEXEC, bounded=False)
            return self._accepted(taken, fd)
        except BaseException:
            engine.release_slot(taken)
            raise

    def _accepted(self, slot: int, fd: int = -1) -> FixedSocket:
        """The handle of a connection that is in its slot, or has come as an ordinary descriptor."""
        companion = fill_slot(self._engine, slot, fd) if fd >= 0 else -1
        return FixedSocket(
            self._engine, slot, companion, family=self.family, type=self.type, proto=self.proto
        )

    def accept_direct_multishot(self) -> AcceptedConnections:
        """``async with ... as connections``, then ``async for connection in connections``.

        Connections are taken ahead of the loop while slots are free; with none, clients wait in the
        backlog. A connection belongs to whoever got it from the loop; those that nobody got are
        closed at the end of the block.
        """
        return AcceptedConnections(self)

    # -- receive -------------------------------------------------------------------------------

    # Ctrl-C waits for the next checkpoint: between the completion and the return, bytes would be
    # lost.
    @enable_ki_protection
    async def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Up to ``bufsize`` bytes; ``b""`` at the end of the stream, and only there. recv(2).

        On a stream it may return fewer than are there: at most one of the run's shared buffers.
        """
        engine = self._engine
        buffers = engine.buffers
        if not self._may_share or flags or buffers is None or not 0 < bufsize < _SHARED_BYTES_MAX:
            return await self._recv_anyhow(bufsize, flags)
        if self._receiving or self._received or self._receive_lost is not None:
            return await self._recv_anyhow(bufsize, flags)
        operation = engine.begin_transfer(self, _RECV, BUFFER_SELECT, 0, bufsize, 0)
        self._receiving = True
        try:
            count = await engine.wait(operation)
            if operation.flags & F_BUFFER:
                return buffers.take(operation.flags, count)
            return b""
        except OSError as exc:
            if exc.errno != errno.ENOBUFS:
                self._receive_failed(exc)
        finally:
            self._receiving = False
        return await self._recv_anyhow(bufsize, flags, share=False)

    async def _recv_anyhow(self, bufsize: int, flags: int, share: bool = True) -> bytes:
        """`recv` in memory of its own, or of what was received already."""
        bufsize = _length(bufsize)
        engine = self._engine
        if share and self._may_share and not flags and bufsize and not engine._buffers_tried:
            engine.shared_buffers()
            return await self.recv(bufsize)
        self._start_receiving()
        try:
            if self._received:
                return await self._take_received(bufsize, flags)
            if not bufsize and self.type in _STREAMS:
                await trio.lowlevel.checkpoint()
                return b""
            memory = new_buffer("char[]", max(bufsize, 1))
            count = await engine.wait(
                engine.begin_transfer(self, _RECV, 0, address_of(memory), bufsize, 0, flags, memory)
            )
            return unpack(memory, min(count, bufsize))
        except OSError as exc:
            self._receive_failed(exc)
        finally:
            self._receiving = False

    def _start_receiving(self) -> None:
        self._checked_slot()
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving on this socket")
        if not self._received:
            self._check_broken(self._receive_lost)
        self._receiving = True

    async def _take_received(self, bufsize: int, flags: int) -> bytes:
        await trio.lowlevel.checkpoint()
        data = self._received.popleft()
        if len(data) > bufsize or flags & stdlib_socket.MSG_PEEK:
            rest = data if flags & stdlib_socket.MSG_PEEK else data[bufsize:]
            self._received.appendleft(rest)
        return data[:bufsize]

    @enable_ki_protection
    async def recv_into(self, buffer: WritableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """Receives into ``buffer``, up to ``nbytes`` bytes of it (0: all); returns how many."""
        pin, address, size = writable(buffer)
        size = min(_length(nbytes) or size, size)
        self._start_receiving()
        try:
            if not size and self.type in _STREAMS:
                await trio.lowlevel.checkpoint()
                return 0
            if self._received:
                data = await self._take_received(size, flags)
                ffi.memmove(ffi.cast("char *", address), data, len(data))
                return len(data)
            engine = self._engine
            return await engine.wait(
                engine.begin_transfer(self, _RECV, 0, address, size, 0, flags, pin)
            )
        except OSError as exc:
            self._receive_failed(exc)
        finally:
            self._receiving = False

    async def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, Any]:
        """As `socket.socket.recvfrom`: the data, and who sent them."""
        data, _, _, address = await self._recvmsg(bufsize, 0, flags, True)
        return data, address

    async def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        """As `socket.socket.recvmsg`: data, ancillary data, flags, and who sent them."""
        return await self._recvmsg(bufsize, ancbufsize, flags, self.type not in _STREAMS)

    @enable_ki_protection
    async def _recvmsg(
        self, bufsize: int, ancbufsize: int, flags: int, with_address: bool
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        buffer = bytearray(_length(bufsize))
        message = Msghdr.receive([buffer], ancbufsize, with_address)
        self._start_receiving()
        try:
            if self._received:
                return await self._take_received(bufsize, flags), [], 0, None
            count = await self._engine.perform_on(
                self, prep_recvmsg, message.pointer, flags, pins=message, bounded=False
            )
        except OSError as exc:
            self._receive_failed(exc)
        finally:
            self._receiving = False
        return bytes(buffer[:count]), message.ancdata, message.flags, message.address

    async def read(self, nbytes: int) -> bytes:
        """The same as `recv`."""
        return await self.recv(nbytes)

    async def readinto(self, buffer: WritableBuffer) -> int:
        """The same as `recv_into`."""
        return await self.recv_into(buffer)

    def recv_multishot(self) -> ReceivedData:
        """``async with ... as received``, then ``async for data in received``: chunks as they come.

        One operation receives many times, into the run's shared buffers (6.0; before it, one
        operation for each chunk). A bounded number of chunks is taken ahead of the loop. What was
        taken and not looked at is not lost: the next receive returns it.

        For streams only (``SOCK_STREAM``): chunks have no boundaries.
        """
        if self.type is not stdlib_socket.SOCK_STREAM:
            raise ValueError("recv_multishot is for SOCK_STREAM")
        return ReceivedData(self)

    # -- send ----------------------------------------------------------------------------------

    @enable_ki_protection
    async def send(self, data: ReadableBuffer, flags: int = 0) -> int:
        """Sends; returns how many bytes the kernel took, maybe not all. send(2)."""
        engine = self._engine
        self._start_sending()
        try:
            return await engine.wait_prompt(self._begin_send(data, flags))
        except OSError as exc:
            self._send_failed(exc)
        finally:
            self._sending = False

    def _begin_send(self, data: ReadableBuffer, flags: int, start: int = 0) -> Operation:
        """Sends ``data`` from byte ``start`` on; a short message is copied, for that costs less."""
        begin, flags = self._engine.begin_transfer, flags | _NO_SIGNAL
        if type(data) is bytes and not start and len(data) <= _COPIED_BYTES:
            operation = begin(self, _SEND, 0, SCRATCH, len(data), 0, flags)
            memmove(operation.scratch, data, len(data))
            return operation
        pin, address, nbytes = readable(data)
        return begin(self, _SEND, 0, address + start, _length(nbytes - start), 0, flags, pin)

    async def write(self, data: ReadableBuffer) -> int:
        """The same as `send`."""
        return await self.send(data)

    async def send_all(self, data: ReadableBuffer) -> None:
        """Sends all of ``data``. As `trio.abc.SendStream.send_all`: after an error or a
        cancellation nobody knows how much was sent.
        """
        engine = self._engine
        if type(data) is not bytes and not isinstance(data, PinnedBuffer):
            data = PinnedBuffer(data)  # it must not change its size between two sends
        if self._sending or self._send_lost is not None:
            self._start_sending()  # raises
        self._sending = True
        try:
            nbytes = len(data)
            if type(data) is bytes and 0 < nbytes <= _COPIED_BYTES:
                operation = engine.begin_transfer(self, _SEND, 0, SCRATCH, nbytes, 0, _NO_SIGNAL)
                memmove(operation.scratch, data, nbytes)
            elif nbytes:
                operation = self._begin_send(data, 0)
            else:
                self._checked_slot()
                await trio.lowlevel.checkpoint()
                return
            sent = await engine.wait_prompt(operation)
            while sent < nbytes:
                sent += await engine.wait(self._begin_send(data, 0, sent))
        except OSError as exc:
            self._send_failed(exc)
        finally:
            self._sending = False

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
