# SPDX-License-Identifier: MIT OR Apache-2.0
"""Messages with addresses and ancillary data, as sendmsg(2) and recvmsg(2) want them."""

from __future__ import annotations

import socket
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

from ._buffers import iovecs, struct_memory
from ._lib import ffi
from ._sockaddr import ADDRESS_BYTES_MAX, decode_address, sockaddr
from ._structs import BufferSelection

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeAlias

    from typing_extensions import Buffer

    from ._buffers import Pin, ReadableBuffer, WritableBuffer
    from ._sockaddr import Address, SockAddr

    Ancillary: TypeAlias = "tuple[int, int, Buffer]"

# name, namelen, iov, iovlen, control, controllen, flags
_MSGHDR = Struct("@PIPNPNi0P")
# cmsg_len, level, type
_CMSGHDR = Struct("@Nii")
# struct io_uring_recvmsg_out: namelen, controllen, payloadlen, flags
_RECVMSG_OUT = Struct("=IIII")


class Msghdr:
    """A message to send: ``struct msghdr`` with all that it points to.

    ``buffers`` are sent one after another, to ``address`` if one is given; ``ancdata`` is as in
    `socket.socket.sendmsg`: (level, type, data). `Msghdr.receive` makes one to receive into. A
    message may be used again, by one operation at a time.
    """

    __slots__ = ("_control_at", "_fresh", "_name_at", "_view", "pins", "pointer", "selection")

    def __init__(
        self,
        buffers: Iterable[ReadableBuffer],
        address: Address | SockAddr | None = None,
        ancdata: Iterable[Ancillary] = (),
    ) -> None:
        name = b"" if address is None else bytes(sockaddr(address))
        self._build(iovecs(buffers, to_kernel=True), name, _encode_ancillary(ancdata))

    @classmethod
    def receive(
        cls,
        buffers: Iterable[WritableBuffer] | BufferSelection,
        ancbufsize: int = 0,
        with_address: bool = False,
    ) -> Msghdr:
        """A message to be received into ``buffers``, or into one that the kernel selects.

        ``ancbufsize`` is the room for ancillary data in bytes, a sum of `socket.CMSG_SPACE`.
        ``with_address``: who sent it shall be told.
        """
        made = cls.__new__(cls)
        name, control = bytes(ADDRESS_BYTES_MAX * with_address), bytes(ancbufsize)
        if isinstance(buffers, BufferSelection):
            # Of the one iovec the kernel takes the length only.
            limit, address = struct_memory("uint64_t[]", [0, buffers.limit])
            made._build(((limit,), address, 1), name, control)
            made.selection = buffers
        else:
            made._build(iovecs(buffers, to_kernel=False), name, control)
        return made

    def _build(
        self, vectors: tuple[tuple[Pin, ...], int, int], name: bytes, control: bytes
    ) -> None:
        pins, iov, iov_count = vectors
        self._name_at = _aligned(_MSGHDR.size)
        self._control_at = self._name_at + _aligned(len(name))
        nbytes = self._control_at + len(control)
        memory, self.pointer = struct_memory("uint64_t[]", -(-nbytes // 8))
        self._view = ffi.buffer(memory, nbytes)
        self._view[self._name_at : self._name_at + len(name)] = name
        self._view[self._control_at :] = control
        self._fresh = _MSGHDR.pack(
            self.pointer + self._name_at if name else 0,
            len(name),
            iov,
            iov_count,
            self.pointer + self._control_at if control else 0,
            len(control),
            0,
        )
        self.pins = (memory, *pins)
        self.selection: BufferSelection | None = None
        self.make_room()

    def make_room(self) -> None:
        """Says how much room there is: the kernel writes over it what it needed."""
        self._view[: _MSGHDR.size] = self._fresh

    @property
    def name_room(self) -> int:
        """Room for an address, in bytes."""
        return int(_MSGHDR.unpack(self._fresh)[1])

    @property
    def control_room(self) -> int:
        """Room for ancillary data, in bytes."""
        return int(_MSGHDR.unpack(self._fresh)[5])

    def _now(self) -> tuple[int, ...]:
        return _MSGHDR.unpack_from(self._view)

    @property
    def flags(self) -> int:
        """What recvmsg(2) said of the message: ``MSG_TRUNC``, ``MSG_CTRUNC``, ..."""
        return self._now()[6]

    @property
    def address(self) -> Any:
        """Who sent it, as Python has it; None if there is no address."""
        nbytes = min(self._now()[1], self.name_room)
        return decode_address(self._view[self._name_at : self._name_at + nbytes])

    @property
    def ancdata(self) -> list[tuple[int, int, bytes]]:
        """The ancillary data that came, as in `socket.socket.recvmsg`.

        Descriptors that came with it (``SCM_RIGHTS``) are open and are the caller's to close.
        """
        nbytes = min(self._now()[5], self.control_room)
        return _decode_ancillary(self._view[self._control_at : self._control_at + nbytes])


class RecvmsgOut(NamedTuple):
    """One message of ``recvmsg_multishot``, out of the provided buffer that it is in.

    The fields are those of `socket.socket.recvmsg`; ``payload`` is a view of the buffer.
    ``payload_nbytes`` is larger than it if the message was cut off (``MSG_TRUNC``).
    """

    payload: memoryview
    ancdata: list[tuple[int, int, bytes]]
    flags: int
    address: Any
    payload_nbytes: int

    @classmethod
    def parse(cls, buffer: Buffer, msg: Msghdr) -> RecvmsgOut:
        """``buffer``: as many bytes of the provided buffer as the completion says.

        ``msg`` is the message that the operation was given.

        Raises:
            ValueError: the buffer is too short to be one.
        """
        view = memoryview(buffer).cast("B")
        name_at = _RECVMSG_OUT.size
        control_at = name_at + msg.name_room
        payload_at = control_at + msg.control_room
        if len(view) < payload_at:
            raise ValueError(f"{len(view)} bytes are no message with {payload_at} bytes of header")
        name, control, payload_nbytes, flags = _RECVMSG_OUT.unpack_from(view)
        return cls(
            payload=view[payload_at:],
            ancdata=_decode_ancillary(bytes(view[control_at:payload_at][:control])),
            flags=flags,
            address=decode_address(bytes(view[name_at:control_at][:name])),
            payload_nbytes=payload_nbytes,
        )


def _aligned(nbytes: int) -> int:
    return -(-nbytes // 8) * 8


def _encode_ancillary(ancdata: Iterable[Ancillary]) -> bytes:
    encoded = bytearray()
    for level, kind, data in ancdata:
        raw = bytes(memoryview(data).cast("B"))
        item = bytearray(socket.CMSG_SPACE(len(raw)))
        _CMSGHDR.pack_into(item, 0, socket.CMSG_LEN(len(raw)), level, kind)
        item[socket.CMSG_LEN(0) : socket.CMSG_LEN(len(raw))] = raw
        encoded += item
    return bytes(encoded)


def _decode_ancillary(control: bytes) -> list[tuple[int, int, bytes]]:
    found = []
    at, header = 0, socket.CMSG_LEN(0)
    while at + header <= len(control):
        nbytes, level, kind = _CMSGHDR.unpack_from(control, at)
        if nbytes < header:
            break
        found.append((level, kind, control[at + header : at + nbytes]))
        at += socket.CMSG_SPACE(nbytes - header)
    return found
