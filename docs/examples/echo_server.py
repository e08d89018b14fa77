# SPDX-License-Identifier: MIT OR Apache-2.0
"""An echo server on direct descriptors.

    python docs/examples/echo_server.py [--host 127.0.0.1] [--port 8007]

The listener and the connections are slots of the ring's file table; the process has no descriptor
of any of them. None can be forgotten: the nursery closes the listener, each task its connection.
"""

from __future__ import annotations

import argparse
import signal
import socket

import trio

import trio_uring


async def echo(connection: trio_uring.FixedSocket) -> None:
    """Sends back what comes in, until the client stops sending."""
    try:
        while data := await connection.recv(65536):
            await connection.send_all(data)
    except trio.BrokenResourceError:
        pass  # The client hung up. That is its right, and no reason to end the others.


async def serve(host: str, port: int) -> None:
    """Listens and echoes until Ctrl-C."""
    async with trio_uring.open_nursery() as nursery:
        nursery.start_soon(cancel_on_signal, nursery.cancel_scope)
        listener = await nursery.socket_direct(socket.AF_INET, socket.SOCK_STREAM)
        await listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        await listener.bind((host, port))
        await listener.listen()
        host, port = await listener.getsockname()
        print(f"echoing on {host}:{port}", flush=True)
        async with listener.accept_direct_multishot() as connections:
            async for connection in connections:
                # From here on the child task owns the connection: it is closed when echo() ends.
                nursery.start_soon_with(connection, echo)


async def cancel_on_signal(scope: trio.CancelScope) -> None:
    """Ctrl-C ends the program in order: everything is cancelled, and everything is closed."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()


def main() -> None:
    """Reads the command line and serves."""
    parser = argparse.ArgumentParser(description="An echo server on direct descriptors.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8007, help="0: any free port")
    arguments = parser.parse_args()
    trio_uring.run(serve, arguments.host, arguments.port)


if __name__ == "__main__":
    main()
