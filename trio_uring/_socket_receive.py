# SPDX-License-Identifier: MIT OR Apache-2.0
"""What a `FixedSocket` receives."""

from __future__ import annotations

import errno
import socket as stdlib_socket
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import enable_ki_protection

from ._abi import Op
from ._buffers import writable
from ._fixed_file import _length
from ._lib import ffi
from ._msghdr import Msghdr
from ._native import address_of_bytes, new_bytes
from ._prep import prep_recvmsg
from ._recv_multishot import ReceivedData
from ._socket_setup import _STREAMS, SocketSetup

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Buffer

    from ._buffers import WritableBuffer

_RECV = int(Op.RECV)  # as a plain number: the hot path packs it
_WAIT_OR_PEEK = stdlib_socket.MSG_WAITALL | stdlib_socket.MSG_PEEK
# What one takes at the most in memory of its own, of a stream.
_OWN_BYTES_MAX = 1 << 18


class SocketReceive(SocketSetup):
    """The part of `FixedSocket` that receives."""

    # Ctrl-C waits for the next checkpoint: between the completion and the return, bytes would be
    # lost.
    @enable_ki_protection
    async def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Up to ``bufsize`` bytes; ``b""`` at the end of the stream, and only there. recv(2).

        On a stream it may return fewer than are there: at most one of the run's shared buffers, or,
        when that was full the last time, 256 KiB.
        """
        # In C, and so is what a stream that flows is told by: a shared buffer that is full.
        receiving = None if flags else self._begin_receive(bufsize)
        if receiving is None:
            return await self._recv_anyhow(bufsize, flags)
        try:
            data: bytes = await receiving
            return data
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
            if self._received and not flags & stdlib_socket.MSG_OOB:
                data = await self._take_received(bufsize, flags)
                if flags & _WAIT_OR_PEEK != stdlib_socket.MSG_WAITALL or len(data) == bufsize:
                    return data
                return await self._recv_rest(data, bufsize, flags)
            if not bufsize and self.type in _STREAMS:
                await trio.lowlevel.checkpoint()
                return b""
            if self.type is stdlib_socket.SOCK_STREAM and not flags:
                bufsize = min(bufsize, _OWN_BYTES_MAX)
            memory = new_bytes(bufsize)
            address = address_of_bytes(memory)
            count = await engine.wait(
                engine.begin_transfer(self, _RECV, 0, address, bufsize, 0, flags, memory)
            )
            self._may_share = (
                self.type is stdlib_socket.SOCK_STREAM and count <= engine.options.recv_buffer_bytes
            )
            if not count and bufsize and self._send_lost is not None:
                self._at_end()
            return memory[:count]  # MSG_TRUNC: how many there were, maybe more than asked for
        except OSError as exc:
            self._receive_failed(exc)
        finally:
            self._receiving = False

    async def _recv_rest(self, data: bytes, bufsize: int, flags: int) -> bytes:
        """What MSG_WAITALL waits for, when a multishot had left the beginning."""
        self._receiving = False
        try:
            return data + await self._recv_anyhow(bufsize - len(data), flags, share=False)
        except BaseException:
            self._received.insert(0, data)
            raise

    def _start_receiving(self) -> None:
        self._checked_slot()
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving on this socket")
        if not self._received:
            self._check_broken(self._receive_lost)
        self._receiving = True

    async def _take_received(self, bufsize: int, flags: int) -> bytes:
        await trio.lowlevel.checkpoint()
        data = self._received.pop(0)
        if flags & stdlib_socket.MSG_PEEK:
            self._received.insert(0, data)
        elif len(data) > bufsize:
            # A view: a chunk may be long, and be taken in small pieces.
            self._received.insert(0, memoryview(data)[bufsize:])
        return bytes(data[:bufsize])

    @enable_ki_protection
    async def recv_into(self, buffer: WritableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """Receives into ``buffer``, up to ``nbytes`` bytes of it (0: all); returns how many."""
        receiving = None if nbytes or flags else self._begin_receive_into(buffer)
        if receiving is None:
            return await self._recv_into_anyhow(buffer, nbytes, flags)
        try:
            count: int = await receiving
            if not count and self._send_lost is not None:
                self._at_end()
            return count
        except OSError as exc:
            self._receive_failed(exc)
        finally:
            self._receiving = False

    async def _recv_into_anyhow(self, buffer: WritableBuffer, nbytes: int, flags: int) -> int:
        """`recv_into`, where something is unusual."""
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
            count = await engine.wait(
                engine.begin_transfer(self, _RECV, 0, address, size, 0, flags, pin)
            )
            if not count and self._send_lost is not None:
                self._at_end()
            return count
        except OSError as exc:
            self._receive_failed(exc)
        finally:
            self._receiving = False

    async def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, Any]:
        """As `socket.socket.recvfrom`: the data, and who sent them."""
        buffer = bytearray(_length(bufsize))
        count, address = await self.recvfrom_into(buffer, 0, flags)
        return bytes(buffer[:count]), address

    async def recvfrom_into(
        self, buffer: Buffer, nbytes: int = 0, flags: int = 0
    ) -> tuple[int, Any]:
        """As `socket.socket.recvfrom_into`; ``nbytes`` 0 is all of the buffer."""
        memory = memoryview(buffer).cast("B")
        part = memory[:nbytes] if nbytes else memory
        count, _, _, address = await self._recvmsg([part], 0, flags, True)
        return count, address

    async def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        """As `socket.socket.recvmsg`: data, ancillary data, flags, and who sent them."""
        buffer = bytearray(_length(bufsize))
        count, ancdata, said, address = await self.recvmsg_into([buffer], ancbufsize, flags)
        return bytes(buffer[:count]), ancdata, said, address

    async def recvmsg_into(
        self, buffers: Iterable[Buffer], ancbufsize: int = 0, flags: int = 0
    ) -> tuple[int, list[tuple[int, int, bytes]], int, Any]:
        """As `socket.socket.recvmsg_into`: bytes, ancillary data, flags, and who sent them."""
        parts = [memoryview(buffer).cast("B") for buffer in buffers]
        return await self._recvmsg(parts, ancbufsize, flags, self.type not in _STREAMS)

    @enable_ki_protection
    async def _recvmsg(
        self, parts: list[memoryview], ancbufsize: int, flags: int, with_address: bool
    ) -> tuple[int, list[tuple[int, int, bytes]], int, Any]:
        message = Msghdr.receive(parts, ancbufsize, with_address)
        self._start_receiving()
        try:
            if self._received:
                return await self._scatter_received(parts, flags), [], 0, None
            count = await self._engine.perform_on(
                self, prep_recvmsg, message.pointer, flags, pins=message, bounded=False
            )
        except OSError as exc:
            self._receive_failed(exc)
        finally:
            self._receiving = False
        return count, message.ancdata, message.flags, message.address

    async def _scatter_received(self, parts: list[memoryview], flags: int) -> int:
        data = await self._take_received(sum(map(len, parts)), flags)
        at = 0
        for part in parts:
            some = data[at : at + len(part)]
            part[: len(some)] = some
            at += len(some)
        return len(data)

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
