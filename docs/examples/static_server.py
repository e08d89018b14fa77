# SPDX-License-Identifier: MIT OR Apache-2.0
"""A static file server on direct descriptors: HTTP/1.1, with h11 for the protocol.

    python docs/examples/static_server.py [ROOT] [--host 127.0.0.1] [--port 8000]

The listener, the connections and the files are slots of the ring's file table. Who owns them:

* the server's nursery: the listener;
* the task of a connection: the connection, which is closed when the task ends, however it ends;
* the scope of a request: the file that it asks for, closed before the next request is read.

So there is nothing to clean up when a client hangs up, is too slow, or when Ctrl-C is pressed. What
does no I/O, the meaning of headers and file names, is in static_responses.py.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import socket
import stat
import sys
from contextlib import asynccontextmanager
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import h11
import trio
from static_responses import (
    Response,
    directory_response,
    error_response,
    file_response,
    path_of,
    redirection,
    text_response,
)

import trio_uring

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHUNK_BYTES = 128 * 1024
REQUEST_TIMEOUT_S = 15  # for a request to arrive; so long may a connection be idle
SEND_TIMEOUT_S = 30  # for the client to take one chunk
LINGER_TIMEOUT_S = 2  # for the client to hang up after the last response


# -- The server: a listener, and a task for each connection ------------------------------------


async def serve(root: Path, host: str, port: int, connections_max: int) -> None:
    """Listens and serves until Ctrl-C."""
    async with trio_uring.open_nursery() as nursery:
        nursery.start_soon(cancel_on_signal, nursery.cancel_scope)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = await nursery.socket_direct(family, socket.SOCK_STREAM)
        await listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it: the end of a response does not wait until its beginning arrived.
        await listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await listener.bind((host, port))
        await listener.listen()
        host, port = (await listener.getsockname())[:2]
        print(f"{root} is at http://{f'[{host}]' if ':' in host else host}:{port}/", flush=True)

        room = trio.Semaphore(connections_max)
        async with listener.accept_direct_multishot() as connections:
            async for connection in connections:
                await room.acquire()
                nursery.start_soon_with(connection, serve_connection, root, room)


async def cancel_on_signal(scope: trio.CancelScope) -> None:
    """Ctrl-C ends the program in order: everything is cancelled, and everything is closed."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()


# -- A connection: its requests, one after the other -------------------------------------------


async def serve_connection(
    connection: trio_uring.FixedSocket, root: Path, room: trio.Semaphore
) -> None:
    """Answers the requests of one client."""
    http = h11.Connection(h11.SERVER)
    try:
        while await serve_request(connection, http, root):
            http.start_next_cycle()
        await linger(connection)
    except (trio.BrokenResourceError, trio.TooSlowError):
        pass  # The client hung up, or might as well have.
    except OSError as exc:
        print(f"a connection was closed: {exc}", file=sys.stderr)
    finally:
        room.release()


async def serve_request(
    connection: trio_uring.FixedSocket, http: h11.Connection, root: Path
) -> bool:
    """Answers one request; returns whether there may be another one."""
    async with trio_uring.open_file_scope() as files:
        try:
            with trio.fail_after(REQUEST_TIMEOUT_S):
                request = await next_event(connection, http)
            if not isinstance(request, h11.Request):
                return False  # The client hung up between two requests, as it may.
            # The body of a request is not read: the connection ends after the response.
            is_last = not isinstance(http.next_event(), h11.EndOfMessage)
            with trio.fail_after(REQUEST_TIMEOUT_S):
                response = await respond(root, request, files)
        except h11.RemoteProtocolError as exc:
            is_last = True
            response = text_response(HTTPStatus(exc.error_status_hint))
        await send_response(connection, http, response, is_last)
    return http.our_state is h11.DONE


async def next_event(connection: trio_uring.FixedSocket, http: h11.Connection) -> object:
    """What the client says next."""
    while (event := http.next_event()) is h11.NEED_DATA:
        http.receive_data(await connection.recv(65536))
    return event


async def send_response(
    connection: trio_uring.FixedSocket, http: h11.Connection, response: Response, is_last: bool
) -> None:
    """Sends the head with the text or the first chunk of the file, then the other chunks."""
    headers = [("Date", formatdate(usegmt=True)), *response.headers.items()]
    if is_last:
        headers.append(("Connection", "close"))
    status = response.status
    head = h11.Response(status_code=status, headers=headers, reason=status.phrase)
    data = encode(http, head, h11.Data(data=response.text))
    offset, end = response.part.start, response.part.stop
    while response.file is not None and offset < end:
        chunk = await response.file.read_at(min(end - offset, CHUNK_BYTES), offset)
        if not chunk:
            raise OSError(errno.EIO, "a file became shorter while it was sent")
        offset += len(chunk)
        data += encode(http, h11.Data(data=chunk))
        with trio.fail_after(SEND_TIMEOUT_S):
            await connection.send_all(data)
        data = b""
    data += encode(http, h11.EndOfMessage())
    with trio.fail_after(SEND_TIMEOUT_S):
        await connection.send_all(data)


def encode(http: h11.Connection, *events: h11.Event) -> bytes:
    """The bytes that say these events."""
    return b"".join(http.send(event) or b"" for event in events)


async def linger(connection: trio_uring.FixedSocket) -> None:
    """Waits until the client hangs up.

    A connection that is closed with data unread is reset, and its last response may be lost.
    """
    await connection.shutdown(socket.SHUT_WR)
    with trio.move_on_after(LINGER_TIMEOUT_S):
        while await connection.recv(65536):
            pass


# -- A request: the file that it asks for ------------------------------------------------------


async def respond(root: Path, request: h11.Request, files: trio_uring.FileScope) -> Response:
    """The response to a request; the file that is to be sent is one of ``files``."""
    if request.method not in {b"GET", b"HEAD"}:
        return text_response(HTTPStatus.METHOD_NOT_ALLOWED, Allow="GET, HEAD")
    try:
        response = await find(root, request, files)
    except (OSError, ValueError) as exc:
        response = error_response(exc)
    return response.without_body() if request.method == b"HEAD" else response


async def find(root: Path, request: h11.Request, files: trio_uring.FileScope) -> Response:
    """A file, the index of a directory, or a hint where the directory is."""
    path = path_of(request.target)
    name = f"{path}index.html" if path.endswith("/") else path
    try:
        file, status = await open_below(root, name, files)
    except FileNotFoundError:
        if name == path:
            raise
        directory, _ = await open_below(root, path, files)
        async with ordinary_fd(directory) as fd:
            # io_uring has no getdents(2).
            return directory_response(path, await trio.to_thread.run_sync(list_names, fd))
    if stat.S_ISDIR(status.st_mode):
        return redirection(f"{name}/")
    if not stat.S_ISREG(status.st_mode):
        raise PermissionError(errno.EACCES, "not a file")
    return file_response(request, name, file, status)


async def open_below(
    root: Path, path: str, files: trio_uring.FileScope
) -> tuple[trio_uring.FixedFile, os.stat_result]:
    """Opens a file or a directory, if it is below the root."""
    # O_NONBLOCK: to open a FIFO does not wait for somebody who writes to it.
    file = await files.open_direct(f"{root}{path}", os.O_RDONLY | os.O_NONBLOCK)
    async with ordinary_fd(file) as fd:
        # Not where the name should lead, but what was opened: there are symlinks, and they change.
        place = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if not place.is_relative_to(root):
            raise PermissionError(errno.EACCES, "outside of the root")
        return file, os.fstat(fd)


@asynccontextmanager
async def ordinary_fd(file: trio_uring.FixedFile) -> AsyncIterator[int]:
    """A descriptor of the process, for calls that io_uring does not have."""
    fd = await file.install_fd()
    try:
        yield fd
    finally:
        os.close(fd)


def list_names(fd: int) -> list[str]:
    """The names in a directory; those of directories end with a slash."""
    with os.scandir(fd) as entries:
        return sorted(e.name + "/" * e.is_dir(follow_symlinks=False) for e in entries)


def main() -> None:
    """Reads the command line and serves."""
    parser = argparse.ArgumentParser(description="A static file server on direct descriptors.")
    docs = Path(__file__).parent.parent
    parser.add_argument("root", nargs="?", type=Path, default=docs, help="default: these docs")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one")
    parser.add_argument("--slots", type=int, default=1024, help="size of the file table, from 4 on")
    arguments = parser.parse_args()
    root = arguments.root.resolve(strict=True)
    # A connection has a slot and needs one more for a file. If the connections had all the slots,
    # they would wait for each other for ever.
    connections_max = arguments.slots // 2 - 1
    options = trio_uring.RingOptions(slots_max=arguments.slots)
    trio_uring.run(serve, root, arguments.host, arguments.port, connections_max, ring=options)


if __name__ == "__main__":
    main()
