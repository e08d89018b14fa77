# SPDX-License-Identifier: MIT OR Apache-2.0
"""Servers that count what a client sends as fast as it can, and tell it at the end of its stream.

Each is written as the users of its library write it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from variants_echo import (
    BUFFER,
    _run_on_ring,
    _run_trio,
    _serve_asyncio_streams,
    _serve_protocol,
    _serve_sockets,
    _serve_streams,
)
from variants_nop import run_asyncio, run_uvloop
from worker import server

if TYPE_CHECKING:
    import trio

    import trio_uring

SLOTS = 64


def told(total: int) -> bytes:
    """What the client wants to hear."""
    return total.to_bytes(8, "little")


# -- trio_uring ------------------------------------------------------------------------------------


async def _count_recv(connection: trio_uring.FixedSocket) -> None:
    total = 0
    while data := await connection.recv(BUFFER):
        total += len(data)
    await connection.send_all(told(total))


async def _count_recv_into(connection: trio_uring.FixedSocket) -> None:
    total, buffer = 0, bytearray(BUFFER)
    while count := await connection.recv_into(buffer):
        total += count
    await connection.send_all(told(total))


async def _count_chunks(connection: trio_uring.FixedSocket) -> None:
    total = 0
    async with connection.recv_multishot() as received:
        async for data in received:
            total += len(data)
    await connection.send_all(told(total))


async def _count_drained(connection: trio_uring.FixedSocket) -> None:
    total = 0
    async with connection.recv_multishot() as received:
        while chunks := await received.drain():
            total += sum(map(len, chunks))
    await connection.send_all(told(total))


@server
def trio_uring_recv() -> None:
    _run_on_ring(_count_recv, SLOTS)


@server
def trio_uring_recv_into() -> None:
    _run_on_ring(_count_recv_into, SLOTS)


@server
def trio_uring_multishot() -> None:
    _run_on_ring(_count_chunks, SLOTS)


@server
def trio_uring_drain() -> None:
    _run_on_ring(_count_drained, SLOTS)


# -- Trio ------------------------------------------------------------------------------------------


async def _count_stream(stream: trio.SocketStream) -> None:
    total = 0
    async with stream:
        async for data in stream:
            total += len(data)
        await stream.send_all(told(total))


async def _count_socket(connection: trio.socket.SocketType) -> None:
    total = 0
    with connection:
        while data := await connection.recv(BUFFER):
            total += len(data)
        await connection.send(told(total))


@server
def trio_stream() -> None:
    _run_trio(0, _serve_streams, _count_stream)


@server
def trio_socket() -> None:
    _run_trio(0, _serve_sockets, _count_socket)


# -- asyncio and uvloop ----------------------------------------------------------------------------


class Count(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.total = 0

    def data_received(self, data: bytes) -> None:
        self.total += len(data)

    def eof_received(self) -> None:
        self.transport.write(told(self.total))


async def _count_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    total = 0
    while data := await reader.read(BUFFER):
        total += len(data)
    writer.write(told(total))
    await writer.drain()
    writer.close()


@server
def asyncio_protocol() -> None:
    run_asyncio(_serve_protocol, Count)


@server
def uvloop_protocol() -> None:
    run_uvloop(_serve_protocol, Count)


@server
def asyncio_streams() -> None:
    run_asyncio(_serve_asyncio_streams, _count_streams)


@server
def uvloop_streams() -> None:
    run_uvloop(_serve_asyncio_streams, _count_streams)
