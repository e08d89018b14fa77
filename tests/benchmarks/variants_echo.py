# SPDX-License-Identifier: MIT OR Apache-2.0
"""Servers: echo until the client stops, or one message (``once``) and close.

Each is written as the users of its library write it. ``busy`` starts a thread that computes.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import threading
from typing import TYPE_CHECKING, Any

import trio
from variants_nop import run_asyncio, run_uvloop
from worker import announce, server

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio_uring

HOST = "127.0.0.1"
BUFFER = 65536
BACKLOG = 1024


def start_busy_thread(busy: int) -> None:
    """A thread that never lets go of the interpreter by itself."""

    def compute() -> None:
        number = 0
        while True:
            number += 1

    if busy:
        threading.Thread(target=compute, daemon=True).start()


# -- trio_uring ------------------------------------------------------------------------------------


async def _echo_on_ring(connection: trio_uring.FixedSocket) -> None:
    while data := await connection.recv(BUFFER):
        await connection.send_all(data)


async def _reply_on_ring(connection: trio_uring.FixedSocket) -> None:
    await connection.send_all(await connection.recv(BUFFER))


async def _echo_chunks_on_ring(connection: trio_uring.FixedSocket) -> None:
    async with connection.recv_multishot() as received:
        async for data in received:
            await connection.send_all(data)


async def _exchange_on_ring(connection: trio_uring.FixedSocket) -> None:
    data = await connection.recv(BUFFER)
    while data:
        data = await connection.exchange(data, BUFFER)


async def _serve_on_ring(handler: Callable[..., Any]) -> None:
    import trio_uring

    async with trio_uring.open_nursery() as nursery:
        listener = await nursery.socket_direct(socket.AF_INET, socket.SOCK_STREAM)
        await listener.bind((HOST, 0))
        await listener.listen(BACKLOG)
        announce((await listener.getsockname())[1])
        async with listener.accept_direct_multishot() as connections:
            async for connection in connections:
                nursery.start_soon_with(connection, handler)


def _run_on_ring(handler: Callable[..., Any], slots: int) -> None:
    import trio_uring

    trio_uring.run(_serve_on_ring, handler, ring=trio_uring.RingOptions(slots_max=slots))


@server
def trio_uring_echo(busy: int = 0, slots: int = 1024) -> None:
    start_busy_thread(busy)
    _run_on_ring(_echo_on_ring, slots)


@server
def trio_uring_exchange(busy: int = 0) -> None:
    start_busy_thread(busy)
    _run_on_ring(_exchange_on_ring, 1024)


@server
def trio_uring_multishot(busy: int = 0) -> None:
    start_busy_thread(busy)
    _run_on_ring(_echo_chunks_on_ring, 1024)


@server
def trio_uring_once() -> None:
    _run_on_ring(_reply_on_ring, 1024)


# -- Trio ------------------------------------------------------------------------------------------


async def _echo_stream(stream: trio.SocketStream) -> None:
    async with stream:
        async for data in stream:
            await stream.send_all(data)


async def _reply_stream(stream: trio.SocketStream) -> None:
    async with stream:
        await stream.send_all(await stream.receive_some())


async def _serve_streams(handler: Callable[..., Any]) -> None:
    async with trio.open_nursery() as nursery:
        serve = functools.partial(trio.serve_tcp, handler, 0, host=HOST, backlog=BACKLOG)
        [listener] = await nursery.start(serve)
        announce(listener.socket.getsockname()[1])


async def _echo_socket(connection: trio.socket.SocketType) -> None:
    with connection:
        while data := await connection.recv(BUFFER):
            sent = await connection.send(data)
            while sent < len(data):
                sent += await connection.send(memoryview(data)[sent:])


async def _reply_socket(connection: trio.socket.SocketType) -> None:
    with connection:
        await connection.send(await connection.recv(BUFFER))


async def _serve_sockets(handler: Callable[..., Any]) -> None:
    with trio.socket.socket() as listener:
        await listener.bind((HOST, 0))
        listener.listen(BACKLOG)
        announce(listener.getsockname()[1])
        async with trio.open_nursery() as nursery:
            while True:
                connection, _ = await listener.accept()
                nursery.start_soon(handler, connection)


def _run_trio(on_ring: int, serve: Callable[..., Any], handler: Callable[..., Any]) -> None:
    if on_ring:
        import trio_uring

        trio_uring.run(serve, handler)
    else:
        trio.run(serve, handler)


@server
def trio_stream_echo(busy: int = 0, on_ring: int = 0) -> None:
    start_busy_thread(busy)
    _run_trio(on_ring, _serve_streams, _echo_stream)


@server
def trio_stream_once() -> None:
    _run_trio(0, _serve_streams, _reply_stream)


@server
def trio_socket_echo(busy: int = 0, on_ring: int = 0) -> None:
    start_busy_thread(busy)
    _run_trio(on_ring, _serve_sockets, _echo_socket)


@server
def trio_socket_once() -> None:
    _run_trio(0, _serve_sockets, _reply_socket)


# -- asyncio and uvloop ----------------------------------------------------------------------------


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Once(Echo):
    def data_received(self, data: bytes) -> None:
        self.transport.write(data)
        self.transport.close()


async def _echo_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(BUFFER):
        writer.write(data)
        await writer.drain()
    writer.close()


async def _reply_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read(BUFFER))
    await writer.drain()
    writer.close()


async def _serve_protocol(protocol: type[Echo]) -> None:
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(protocol, HOST, 0, backlog=BACKLOG)
    announce(listening.sockets[0].getsockname()[1])
    await listening.serve_forever()


async def _serve_asyncio_streams(handler: Callable[..., Any]) -> None:
    listening = await asyncio.start_server(handler, HOST, 0, backlog=BACKLOG)
    announce(listening.sockets[0].getsockname()[1])
    await listening.serve_forever()


@server
def asyncio_protocol(busy: int = 0, once: int = 0) -> None:
    start_busy_thread(busy)
    run_asyncio(_serve_protocol, Once if once else Echo)


@server
def uvloop_protocol(busy: int = 0, once: int = 0) -> None:
    start_busy_thread(busy)
    run_uvloop(_serve_protocol, Once if once else Echo)


@server
def asyncio_streams(busy: int = 0, once: int = 0) -> None:
    start_busy_thread(busy)
    run_asyncio(_serve_asyncio_streams, _reply_streams if once else _echo_streams)


@server
def uvloop_streams(busy: int = 0, once: int = 0) -> None:
    start_busy_thread(busy)
    run_uvloop(_serve_asyncio_streams, _reply_streams if once else _echo_streams)


# -- anyio -----------------------------------------------------------------------------------------


async def _serve_anyio(once: int) -> None:
    import anyio

    async def handle(stream: Any) -> None:
        async with stream:
            async for data in stream:
                await stream.send(data)
                if once:
                    break

    listener: Any = await anyio.create_tcp_listener(local_host=HOST, backlog=BACKLOG)
    announce(listener.extra(anyio.abc.SocketAttribute.local_port))
    await listener.serve(handle)


@server
def anyio_echo(once: int = 0) -> None:
    run_asyncio(_serve_anyio, once)


# -- the PyPI package liburing ---------------------------------------------------------------------

_ACCEPT, _RECV, _SEND = range(3)


@server
def liburing_echo() -> None:
    """One loop over completions; ordinary descriptors."""
    import liburing

    lib: Any = liburing
    listening = socket.create_server((HOST, 0), backlog=BACKLOG)
    announce(listening.getsockname()[1])
    ring, cqe = lib.Ring(), lib.Cqe()
    flags = lib.IORING_SETUP_SINGLE_ISSUER | lib.IORING_SETUP_DEFER_TASKRUN
    lib.io_uring_queue_init(1024, ring, flags)
    buffers: dict[int, bytearray] = {}
    replies: dict[int, bytes] = {}

    def prepare(prep: Callable[..., None], fd: int, kind: int, *arguments: Any) -> None:
        sqe = lib.io_uring_get_sqe(ring)
        prep(sqe, fd, *arguments)
        sqe.user_data = fd << 8 | kind

    def receive(fd: int) -> None:
        prepare(lib.io_uring_prep_recv, fd, _RECV, buffers[fd])

    prepare(lib.io_uring_prep_accept, listening.fileno(), _ACCEPT)
    while True:
        lib.io_uring_submit_and_wait(ring, 1)
        ready = 0
        for _ in lib.CqeIter(ring, cqe):
            ready += 1
            res, user_data = cqe[0].res, cqe[0].user_data
            fd, kind = user_data >> 8, user_data & 0xFF
            if kind == _ACCEPT:
                buffers[res] = bytearray(4096)
                receive(res)
                prepare(lib.io_uring_prep_accept, fd, _ACCEPT)
            elif res <= 0:
                socket.close(fd)
            elif kind == _RECV:
                replies[fd] = bytes(buffers[fd][:res])
                prepare(lib.io_uring_prep_send, fd, _SEND, replies[fd])
            else:
                receive(fd)
        lib.io_uring_cq_advance(ring, ready)
