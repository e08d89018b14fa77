# SPDX-License-Identifier: MIT OR Apache-2.0
"""Addresses and small structs in memory are what the kernel and Python's socket module have."""

from __future__ import annotations

import os
import pathlib
import socket
import struct
from typing import Any

import pytest

from trio_uring.lowlevel import (
    EpollEvents,
    FutexWaiter,
    OpenHow,
    SockAddr,
    Timespec,
)

ADDRESSES = [
    (("127.0.0.1", 80), socket.AF_INET),
    (("::1", 65535), socket.AF_INET6),
    (("fe80::1", 1, 7, 3), socket.AF_INET6),
    (("::ffff:1.2.3.4", 0, 0xFFFFF, 0xFFFFFFFF), socket.AF_INET6),
    ("/some/path", socket.AF_UNIX),
    (b"\0abstract", socket.AF_UNIX),
    ("", socket.AF_UNIX),
]


@pytest.mark.parametrize(("address", "family"), ADDRESSES)
def test_an_address_survives_encoding_and_decoding(address: Any, family: int) -> None:
    """In the form in which getsockname() gives it: four fields for IPv6."""
    made = SockAddr.of(address)
    whole = (*address, 0, 0)[:4] if family == socket.AF_INET6 else address
    assert (made.address, made.family) == (whole, family)
    assert SockAddr.of(address, family).address == whole


@pytest.mark.parametrize(
    ("address", "encoded"),
    [
        (("1.2.3.4", 0x1234), struct.pack("=H", socket.AF_INET) + b"\x12\x34\1\2\3\4" + bytes(8)),
        (
            ("::1", 1, 2, 3),
            struct.pack("=H", socket.AF_INET6)
            + b"\0\1\0\0\0\2"
            + bytes(15)
            + b"\1"
            + struct.pack("=I", 3),
        ),
        ("ab", struct.pack("=H", socket.AF_UNIX) + b"ab\0"),
        ("\0ab", struct.pack("=H", socket.AF_UNIX) + b"\0ab"),
    ],
)
def test_an_address_has_the_bytes_of_its_struct(address: Any, encoded: bytes) -> None:
    """The family in the machine's order, ports and flow labels in the network's."""
    made = SockAddr.of(address)
    assert (bytes(made), made.length) == (encoded, len(encoded))


def test_special_hosts_are_those_of_the_socket_module() -> None:
    """An empty host is any address of the family, <broadcast> the IPv4 one for all."""
    assert SockAddr.of(("", 1)).address == ("0.0.0.0", 1)
    assert SockAddr.of(("", 1), socket.AF_INET6).address == ("::", 1, 0, 0)
    assert SockAddr.of(("", 1, 0, 0)).address == ("::", 1, 0, 0)
    assert SockAddr.of(("<broadcast>", 1)).address == ("255.255.255.255", 1)


def test_a_zone_of_an_ipv6_host_is_its_scope() -> None:
    """As a number or as the name of an interface."""
    index, name = socket.if_nameindex()[0]
    for zone in (name, str(index)):
        assert SockAddr.of((f"fe80::1%{zone}", 1)).address == ("fe80::1", 1, 0, index)


def test_other_families_need_their_name() -> None:
    """vsock and netlink addresses are pairs of numbers."""
    assert SockAddr.of((3, 1000), socket.AF_VSOCK).address == (3, 1000)
    assert SockAddr.of((0, 5), socket.AF_NETLINK).address == (0, 5)


def test_an_unknown_family_is_a_number_and_bytes() -> None:
    """As the socket module gives addresses that it does not know."""
    made = SockAddr()
    made._view[:4] = struct.pack("=HH", 77, 1)
    made.length = 4
    assert (made.family, made.address) == (77, (77, struct.pack("=H", 1)))


def test_an_address_that_nobody_filled_in_is_none() -> None:
    """So is one of length 0, which a connected socket's recvfrom gives."""
    made = SockAddr()
    assert (made.address, made.family, made.length) == (None, socket.AF_UNSPEC, 128)
    made.length = 0
    assert (made.address, bytes(made)) == (None, b"")
    assert repr(made) == "<SockAddr None>"


def test_a_length_beyond_the_room_is_the_room() -> None:
    """The kernel says how long an address would have been, also when it was cut off."""
    made = SockAddr()
    made.length = 1000
    assert made.length == len(bytes(made)) == 128


@pytest.mark.parametrize(
    ("address", "family", "error"),
    [
        (("localhost", 1), None, ValueError),
        (("1.2.3.4", 1), socket.AF_INET6, ValueError),
        (("::1", 1), socket.AF_INET, ValueError),
        (("1.2.3.4", 1, 0, 0), None, ValueError),
        (("1.2.3.4", 65536), None, OverflowError),
        (("1.2.3.4", -1), None, OverflowError),
        (("::1", 1, 1 << 20), None, OverflowError),
        (("::1", 1, 0, 1 << 32), None, OverflowError),
        (("::1%nosuchinterface", 1), None, OSError),
        (("1.2.3.4",), None, TypeError),
        ((1, 2), None, TypeError),
        (5, None, TypeError),
        ("/path", socket.AF_INET, TypeError),
        (("1.2.3.4", 1), socket.AF_PACKET, ValueError),
        ("/" + "x" * 107, None, ValueError),
        (b"\0" + b"x" * 108, None, ValueError),
        (b"/a\0b", None, ValueError),
    ],
)
def test_what_is_no_address_is_refused(
    address: Any, family: int | None, error: type[Exception]
) -> None:
    """No name is looked up, nothing is cut off, no number wraps."""
    with pytest.raises(error):
        SockAddr.of(address, family)


def test_the_longest_paths_fit() -> None:
    """107 bytes and the NUL, or 108 bytes of an abstract name."""
    path = "/" + "x" * 106
    assert SockAddr.of(path).address == path
    assert SockAddr.of(pathlib.Path(path)).address == path
    name = b"\0" + b"x" * 107
    assert SockAddr.of(name).address == name
    assert os.fsencode(path) in bytes(SockAddr.of(path))


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (3, (3, 0)),
        (1.5, (1, 500_000_000)),
        (0.9999999999, (1, 0)),
        (-0.25, (-1, 750_000_000)),
        ((1, 2), (1, 2)),
        (Timespec(4, 5), (4, 5)),
        (Timespec(6), (6, 0)),
    ],
)
def test_a_time_is_given_in_seconds_or_in_two_numbers(time: Any, expected: tuple[int, int]) -> None:
    """Whole seconds exactly, others to the nanosecond."""
    assert Timespec.of(time) == expected


@pytest.mark.parametrize("time", [float("inf"), float("nan"), "1"])
def test_what_is_no_time_is_refused(time: Any) -> None:
    """There is no timespec for infinity: a wait without an end has no timeout."""
    with pytest.raises((ValueError, OverflowError, TypeError)):
        Timespec.of(time)


def test_the_rest_has_defaults_and_limits() -> None:
    """No mode and no resolve flags; futexes of 32 bits; room for at least one event."""
    assert OpenHow(os.O_RDONLY) == (os.O_RDONLY, 0, 0)
    assert FutexWaiter(b"1234", 5).flags == 2
    with pytest.raises(ValueError, match="max_events"):
        EpollEvents(0)
