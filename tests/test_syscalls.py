# SPDX-License-Identifier: MIT OR Apache-2.0
"""System calls, counted by strace: what an idle program makes, a request, a pass of the loop."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest
from engine_help import EMULATED, WAIT_S, python_env

from trio_uring.testing import requires_direct_descriptors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONNECTIONS = 100
ROUNDS = 20 if EMULATED else 100
# What the interpreter asks for whenever it has need.
MEMORY = ("brk", "madvise", "mmap", "mremap", "munmap")


def strace_refusal() -> str:
    """Why strace cannot be used here."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(
        ["strace", "-f", "-o", os.devnull, "true"], capture_output=True, text=True
    )
    return f"strace cannot be used here: {tried.stderr}" if tried.returncode else ""


pytestmark = [
    requires_direct_descriptors(),
    pytest.mark.skipif(bool(refusal := strace_refusal()), reason=refusal),
]


class Traced:
    """A program under strace; what it calls between ``mark("begin")`` and ``mark("end")``."""

    PRELUDE = """
import os, socket, sys, trio, trio_uring
def mark(name):
    os.access("/a mark of test_syscalls: " + name, 0)
"""

    def __init__(self, log: Path, program: str, *args: str) -> None:
        self._log = log
        command = ["strace", "-f", "-qq", "-o", str(log), sys.executable, "-c"]
        self.process = subprocess.Popen(
            [*command, self.PRELUDE + program, *args],
            env=python_env() | {"TRIO_URING_DRIVER": "adopted", "TRIO_URING_TEST_RUN": "adopted"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """What the program prints next."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def is_marked(self, name: str) -> bool:
        """Whether the program has got there."""
        return f"test_syscalls: {name}" in self._log.read_text()

    def calls(self) -> Counter[str]:
        """The calls between the marks, of all threads."""
        assert self.process.wait(WAIT_S) == 0
        lines = self._log.read_text().splitlines()
        [begin] = [i for i, line in enumerate(lines) if "test_syscalls: begin" in line]
        [end] = [i for i, line in enumerate(lines) if "test_syscalls: end" in line]
        # "123 name(arguments) = 0"; also lines on signals, and the second halves of calls.
        names = (line.split(maxsplit=1)[1].partition("(")[0] for line in lines[begin + 1 : end])
        return Counter(name for name in names if name.isidentifier())


@contextmanager
def traced(log: Path, program: str, *args: str) -> Iterator[Traced]:
    """Runs it to its end."""
    program_run = Traced(log, program, *args)
    with program_run.process as process:
        try:
            yield program_run
        finally:
            process.kill()


# -- nothing to do -----------------------------------------------------------------------------


IDLE = """
async def main():
    ours, theirs = socket.socketpair()
    async with await trio_uring.register(ours) as sock, trio.open_nursery() as nursery:
        async with await trio_uring.register(0) as stdin:
            nursery.start_soon(trio.sleep, 3600)
            nursery.start_soon(trio.lowlevel.wait_readable, theirs)
            nursery.start_soon(sock.recv, 10)
            await trio.testing.wait_all_tasks_blocked()
            print("ready", flush=True)
            mark("begin")
            await stdin.read(1)
            mark("end")
            nursery.cancel_scope.cancel()
import trio.testing
trio_uring.run(main)
"""


def test_an_idle_program_makes_no_system_calls(tmp_path: Path) -> None:
    """A loop with a receive, a deadline and a readiness to wait for sleeps in one call."""
    with traced(tmp_path / "log", IDLE) as program:
        assert program.line() == "ready"
        while not program.is_marked("begin"):
            time.sleep(0.01)
        time.sleep(0.3)  # no event to wait for: it is in this time that it must do nothing
        assert program.process.stdin is not None
        program.process.stdin.write("x")
        program.process.stdin.flush()
        calls = program.calls()
    # It submits the read and sleeps; what wakes it may be worked off in a second one.
    assert calls.keys() == {"io_uring_enter"}, calls
    assert calls.total() <= 2, calls


# -- a server ----------------------------------------------------------------------------------


ECHO = """
async def echo(connection):
    global served
    while data := await connection.recv(4096):
        served += 1
        if served == connections:
            mark("begin")
        if served == requests:
            mark("end")
        await connection.send_all(data)
async def main():
    async with trio_uring.open_nursery() as nursery:
        listener = await nursery.socket_direct(socket.AF_INET, socket.SOCK_STREAM)
        await listener.bind(("127.0.0.1", 0))
        await listener.listen(connections)
        print((await listener.getsockname())[1], flush=True)
        for _ in range(connections):
            nursery.start_soon_with(await listener.accept_direct(), echo)
connections, requests = int(sys.argv[1]), int(sys.argv[2])
served = 0
trio_uring.run(main)
"""


def test_a_hundred_echo_connections_cost_a_tenth_of_a_system_call_per_request(
    tmp_path: Path,
) -> None:
    """Receives and sends of a hundred tasks are submitted and completed together."""
    requests = CONNECTIONS * (ROUNDS + 1)
    with traced(tmp_path / "log", ECHO, str(CONNECTIONS), str(requests)) as program:
        ask_in_rounds(int(program.line()))
        calls = program.calls()
    per_request = calls.total() / (requests - CONNECTIONS)
    print(f"{per_request:.3f} system calls per request: {calls}")
    assert per_request < 0.1, f"{per_request:.3f} system calls per request: {calls}"


def ask_in_rounds(port: int) -> None:
    """All connections send, then all receive, again and again."""
    with ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            for _ in range(CONNECTIONS)
        ]
        for _ in range(ROUNDS + 1):
            for client in clients:
                client.send(bytes(64))
            for client in clients:
                assert client.recv(64, socket.MSG_WAITALL) == bytes(64)


# -- a program that knows nothing of rings -----------------------------------------------------


UNMODIFIED = """
class Passes(trio.abc.Instrument):
    count = 0
    def before_io_wait(self, timeout):
        self.count += 1
async def answer(stream):
    async for data in stream:
        await stream.send_all(data)
async def ask(address):
    stream = await trio.open_tcp_stream(*address)
    for _ in range(rounds):
        await stream.send_all(bytes(64))
        assert await stream.receive_some(64) == bytes(64)
async def main():
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = listener.socket.getsockname()
    async with trio.open_nursery() as server:
        server.start_soon(trio.serve_listeners, answer, [listener])
        await trio.lowlevel.checkpoint()
        mark("begin")
        begun = passes.count
        async with trio.open_nursery() as clients:
            for _ in range(10):
                clients.start_soon(ask, address)
        mark("end")
        print(passes.count - begun, flush=True)
        server.cancel_scope.cancel()
passes, rounds = Passes(), int(sys.argv[2])
trio._core._run._r.seed(1)  # the order of tasks decides how often a stream is asked in vain
run = trio_uring.run if sys.argv[1] == "uring" else trio.run
run(main, instruments=[passes])
"""


def test_an_unmodified_program_makes_one_enter_a_pass_and_nothing_else_more(
    tmp_path: Path,
) -> None:
    """Trio's own streams on trio_uring.run: the system calls of stock Trio, and the enters."""
    found = {}
    for kind in ("stock", "uring"):
        with traced(tmp_path / kind, UNMODIFIED, kind, str(ROUNDS)) as program:
            passes = int(program.line())
            found[kind] = passes, program.calls()
    passes, calls = found["uring"]
    stock_passes, stock = found["stock"]
    message = f"{stock_passes} passes {stock}, on the ring {passes} passes {calls}"
    print(message)
    assert calls["io_uring_enter"] <= passes, message
    more = calls - stock
    for name in ("io_uring_enter", *MEMORY):
        del more[name]
    assert not more, message
