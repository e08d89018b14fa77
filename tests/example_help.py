# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs the programs of docs/examples, and talks to them."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
LIMIT_S = 300  # what hangs ends; an emulated machine takes a minute


class Example:
    """An example that runs, and the address that it printed."""

    def __init__(self, process: subprocess.Popen[bytes], stderr: Any) -> None:
        self.process = process
        self._stderr = stderr
        assert process.stdout is not None
        self.greeting = process.stdout.readline().decode()
        found = re.search(r"(\d+)/?$", self.greeting)
        assert found is not None, self.errors()
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def errors(self) -> str:
        """What it wrote to stderr so far."""
        self._stderr.seek(0)
        text: bytes = self._stderr.read()
        return text.decode()

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(LIMIT_S)

    def slots(self) -> list[str]:
        """The files in the table of its ring, as proc(5) tells them."""
        for fd in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed a moment ago
                if "[io_uring]" in os.readlink(fd):
                    break
        text = (fd.parent.parent / "fdinfo" / fd.name).read_text()
        _, _, files = text.partition("UserFiles:")
        files, _, _ = files.partition("UserBufs:")
        return [file for file in re.findall(r"^ *\d+: (.+)$", files, re.M) if file != "<none>"]

    async def only_the_listener_is_left(self) -> None:
        """Returns when the ring has one slot in use; nothing but /proc tells of that."""
        with trio.fail_after(LIMIT_S):
            while len(self.slots()) != 1:  # noqa: ASYNC110 - there is no Event
                await trio.sleep(0.01)


def command(name: str, *arguments: object) -> list[str]:
    """How to run an example, with every warning shown."""
    return [sys.executable, "-Wdefault", str(EXAMPLES / name), *map(str, arguments)]


@contextmanager
def started(name: str, *arguments: object) -> Iterator[Example]:
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(
            command(name, *arguments), stdout=subprocess.PIPE, stderr=stderr
        ) as process,
    ):
        try:
            yield Example(process, stderr)
        finally:
            process.kill()
            stderr.seek(0)
            print(stderr.read().decode())  # pytest shows it if the test fails


def reset(stream: trio.SocketStream) -> None:
    """Closes a connection with RST instead of FIN."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


class Client:
    """A keep-alive connection of a client that knows just enough of HTTP."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._data = b""

    async def ask(self, path: str) -> None:
        await self.stream.send_all(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())

    async def answer(self) -> tuple[int, bytes]:
        """The status and the body of the next response."""
        while b"\r\n\r\n" not in self._data:
            self._data += await self._more()
        head, _, rest = self._data.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.I)
        assert length is not None
        body = [rest]
        missing = int(length[1]) - len(rest)
        while missing > 0:
            body.append(await self._more())
            missing -= len(body[-1])
        whole = b"".join(body)
        self._data = whole[int(length[1]) :]
        return int(head.split()[1]), whole[: int(length[1])]

    async def _more(self) -> bytes:
        data = await self.stream.receive_some(65536)
        assert data, "the server hung up"
        return bytes(data)
