# SPDX-License-Identifier: MIT OR Apache-2.0
"""Socket addresses in memory, and the same as Python has them.

Encoding asks nobody: a host is a literal, never a name. Layouts: ip(7), ipv6(7), unix(7), vsock(7),
netlink(7).
"""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from struct import Struct
from typing import TYPE_CHECKING, Any

from ._buffers import struct_memory
from ._lib import CData, ffi

if TYPE_CHECKING:
    from typing import TypeAlias

    Address: TypeAlias = "tuple[Any, ...] | str | bytes | os.PathLike[str] | os.PathLike[bytes]"

# sizeof(struct sockaddr_storage): the longest address there can be.
ADDRESS_BYTES_MAX = 128
_UNIX_PATH_BYTES_MAX = 108
_FLOWINFO_MAX = 0xFFFFF
# Some builds of the socket module do not name them.
_AF_NETLINK = 16
_AF_VSOCK = 40

_LENGTH = Struct("=I")
# Every address starts with its family in the machine's byte order; what follows it:
_FAMILY = Struct("=H")
_INET = Struct("!H4s8x")
_INET6 = Struct("!HI16s")
_SCOPE = Struct("=I")
_VSOCK = Struct("=2xII4x")
_NETLINK = Struct("=2xII")


class SockAddr:
    """Memory for one socket address and its length, as ``accept(2)`` and its kin want it.

    ``SockAddr()`` has room for an address of any family, which an operation fills in; after its
    completion `address` has it as `socket.socket.getsockname` would give it. One that was filled
    may be used again.
    """

    __slots__ = ("_view", "memory", "pointer")

    def __init__(self) -> None:
        self.memory: CData
        self.memory, self.pointer = struct_memory("uint64_t[]", ADDRESS_BYTES_MAX // 8 + 1)
        self._view = ffi.buffer(self.memory)
        self.make_room()

    @classmethod
    def of(cls, address: Address, family: int | None = None) -> SockAddr:
        """The address that Python writes as ``address``.

        ``(host, port)`` is IPv4 or IPv6 as the literal ``host`` says, ``(host, port, flowinfo,
        scope_id)`` is IPv6; text, bytes or a path is a Unix domain address: ``"\\0name"`` an
        abstract one, ``""`` none, which lets ``bind(2)`` choose. With ``family`` also
        ``(cid, port)`` of ``AF_VSOCK`` and ``(pid, groups)`` of ``AF_NETLINK``.

        Raises:
            ValueError: the host is no literal of the family, or the address is too long.
            OverflowError: the port, flow label or scope is out of range.
            TypeError: no address of a known family.
        """
        made = cls()
        encoded = _encode(address, family)
        made._view[: len(encoded)] = encoded
        made.length = len(encoded)
        return made

    def make_room(self) -> None:
        """Says that there is room for any address again: the kernel counts the room down."""
        self.length = ADDRESS_BYTES_MAX

    @property
    def length_pointer(self) -> int:
        """Where the length is: a ``socklen_t``."""
        return self.pointer + ADDRESS_BYTES_MAX

    @property
    def length(self) -> int:
        """Bytes of the address; before an operation fills it in, the room for it."""
        value: int = _LENGTH.unpack_from(self._view, ADDRESS_BYTES_MAX)[0]
        return min(value, ADDRESS_BYTES_MAX)

    @length.setter
    def length(self, value: int) -> None:
        _LENGTH.pack_into(self._view, ADDRESS_BYTES_MAX, value)

    @property
    def family(self) -> socket.AddressFamily | int:
        """The address family: ``AF_UNSPEC`` while nothing was filled in."""
        return _family_of(bytes(self))

    @property
    def address(self) -> Any:
        """The address as Python has it; None if there is none (`socket.socket.recvfrom`)."""
        return decode_address(bytes(self))

    def __bytes__(self) -> bytes:
        data: bytes = self._view[: self.length]
        return data

    def __repr__(self) -> str:
        return f"<SockAddr {self.address!r}>"


def sockaddr(address: Address | SockAddr) -> SockAddr:
    """``address`` itself if it is a `SockAddr`, else encoded."""
    return address if isinstance(address, SockAddr) else SockAddr.of(address)


def decode_address(encoded: bytes) -> Any:
    """What ``accept(2)`` and its kin wrote, as Python's `socket` module would give it."""
    family, rest = _family_of(encoded), encoded[_FAMILY.size :]
    if family == socket.AF_UNSPEC:
        return None
    if family == socket.AF_INET and len(rest) >= _INET.size:
        port, host = _INET.unpack_from(rest)
        return socket.inet_ntop(socket.AF_INET, host), port
    if family == socket.AF_INET6 and len(rest) >= _INET6.size + _SCOPE.size:
        port, flowinfo, host = _INET6.unpack_from(rest)
        (scope_id,) = _SCOPE.unpack_from(rest, _INET6.size)
        return socket.inet_ntop(socket.AF_INET6, host), port, flowinfo, scope_id
    if family == socket.AF_UNIX:
        # An abstract name is all that is there; a path ends at its NUL.
        return rest if rest[:1] == b"\0" else os.fsdecode(rest.split(b"\0", 1)[0])
    if family == _AF_VSOCK and len(rest) >= _VSOCK.size:
        port, cid = _VSOCK.unpack_from(rest)
        return cid, port
    if family == _AF_NETLINK and len(rest) >= _NETLINK.size:
        return _NETLINK.unpack_from(rest)
    return int(family), rest


def _family_of(encoded: bytes) -> socket.AddressFamily | int:
    if len(encoded) < _FAMILY.size:
        return socket.AF_UNSPEC
    family: int = _FAMILY.unpack_from(encoded)[0]
    try:
        return socket.AddressFamily(family)
    except ValueError:
        return family


def _encode(address: Address, family: int | None) -> bytes:
    if family == socket.AF_UNIX or (family is None and not isinstance(address, tuple)):
        family, rest = socket.AF_UNIX, _encode_unix(address)
    elif not isinstance(address, tuple):
        raise TypeError(f"an address is a tuple, a path or bytes, not {address!r}")
    elif family == _AF_VSOCK:
        cid, port = address
        rest = _VSOCK.pack(port, cid)
    elif family == _AF_NETLINK:
        rest = _NETLINK.pack(*address)
    else:
        family, rest = _encode_ip(address, family)
    return _FAMILY.pack(family) + rest


def _encode_unix(address: Any) -> bytes:
    path = os.fsencode(address)
    if path[:1] not in (b"", b"\0"):
        if b"\0" in path:
            raise ValueError("embedded null byte")
        path += b"\0"
    if len(path) > _UNIX_PATH_BYTES_MAX:
        raise ValueError("AF_UNIX path too long")
    return path


def _encode_ip(address: tuple[Any, ...], family: int | None) -> tuple[int, bytes]:
    if not 2 <= len(address) <= 4 or not isinstance(address[0], str):
        raise TypeError("an IP address is (host, port) or (host, port, flowinfo, scope_id)")
    host, (port, flowinfo, scope_id) = address[0], (*address[1:], 0, 0)[:3]
    literal = _literal(host, socket.AF_INET6 if len(address) > 2 else family)
    found = socket.AF_INET if isinstance(literal, IPv4Address) else socket.AF_INET6
    if family not in (None, found) or (found == socket.AF_INET and len(address) > 2):
        raise ValueError(f"{host!r} is not a host of this address family")
    if not 0 <= port <= 0xFFFF:
        raise OverflowError("port must be 0-65535")
    if isinstance(literal, IPv4Address):
        return found, _INET.pack(port, literal.packed)
    if not 0 <= flowinfo <= _FLOWINFO_MAX:
        raise OverflowError("flowinfo must be 0-1048575")
    if not 0 <= (scope_id := scope_id or _scope(literal)) <= 0xFFFFFFFF:
        raise OverflowError("scope_id must be 0-4294967295")
    return found, _INET6.pack(port, flowinfo, literal.packed) + _SCOPE.pack(scope_id)


def _literal(host: str, family: int | None) -> IPv4Address | IPv6Address:
    if not host:
        return IPv6Address(0) if family == socket.AF_INET6 else IPv4Address(0)
    if host == "<broadcast>":
        return IPv4Address(0xFFFFFFFF)
    return ip_address(host)


def _scope(host: IPv6Address) -> int:
    zone = host.scope_id
    if zone is None:
        return 0
    return int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
