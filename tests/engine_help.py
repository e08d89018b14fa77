# SPDX-License-Identifier: MIT OR Apache-2.0
"""For tests of the engine: peers outside of the ring, runs in other processes, slow operations."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

import trio_uring
from trio_uring import _native
from trio_uring._buffers import iovecs
from trio_uring._current import current_engine
from trio_uring._engine_ring import EngineRing
from trio_uring._lib import CORE_CALLS, address_of, ffi, lib
from trio_uring._prep import prep_readv
from trio_uring.lowlevel import SqeFlag

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from trio_uring._engine import Engine

# An emulated machine is 5 to 20 times slower.
EMULATED = "KMATRIX_KERNEL" in os.environ
# Longer than anything here takes: only a hang gets there.
WAIT_S = float(os.environ.get("TRIO_URING_WAIT_S", "120" if EMULATED else "30"))
LONG = os.environ.get("TRIO_URING_LONG") == "1"
LOOPBACK = ("127.0.0.1", 0)
_addressof: Any = ffi.addressof


def rounds(usual: int = 300, long: int = 10_000) -> int:
    """How often to repeat a race; ``TRIO_URING_LONG=1`` asks for the long form."""
    return long if LONG else usual // 5 if EMULATED else usual


def engine() -> Engine:
    """The engine of the current run."""
    return current_engine()


async def passes(count: int) -> None:
    """Lets the loop make ``count`` passes."""
    for _ in range(count):
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def socket_pair() -> AsyncIterator[tuple[trio_uring.FixedSocket, socket.socket]]:
    """One end of a stream in a slot, the other an ordinary non-blocking socket."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        with ours:
            handle = await trio_uring.register(ours)
        assert isinstance(handle, trio_uring.FixedSocket)
        async with handle:
            yield handle, theirs


async def listen(
    backlog: int = 4096, address: tuple[str, int] = LOOPBACK
) -> tuple[trio_uring.FixedSocket, tuple[str, int]]:
    """A TCP listener in a slot, and its address."""
    listener = await trio_uring.socket_direct(socket.AF_INET, socket.SOCK_STREAM)
    await listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    await listener.bind(address)
    await listener.listen(backlog)
    return listener, await listener.getsockname()


@asynccontextmanager
async def unix_listener() -> AsyncIterator[tuple[trio_uring.FixedSocket, bytes]]:
    """A listener to which clients connect without waiting, and its abstract address."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind("")
        sock.listen(4096)
        name = sock.getsockname()
        handle = await trio_uring.register(sock)
    assert isinstance(handle, trio_uring.FixedSocket)
    async with handle:
        yield handle, name


def connect(address: bytes | tuple[str, int]) -> socket.socket:
    """A client that is connected, or on its way."""
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    client = socket.socket(family, socket.SOCK_STREAM)
    client.setblocking(family == socket.AF_UNIX)
    client.connect_ex(address)
    client.setblocking(False)
    return client


def can_bind(address: tuple[str, int]) -> bool:
    """Whether nobody listens on the port; connections that are ending do not count."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
        except OSError:
            return False
        return True


@contextmanager
def big_file(mebibytes: int = 2048) -> Iterator[int]:
    """A descriptor of a file of zeroes that take no memory."""
    fd = os.memfd_create("zeroes", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, mebibytes << 20)
        yield fd
    finally:
        os.close(fd)


class SlowRead:
    """A read by a kernel thread, all into one buffer, that takes some time.

    Once it has begun the kernel will not cancel it; it ends by itself.
    """

    def __init__(self, file: trio_uring.FixedFile, mebibytes: int = 512) -> None:
        self._file = file
        self.nbytes = mebibytes << 20
        self.buffer = bytearray(b"\xff") * (1 << 20)
        self._iovecs = iovecs([self.buffer] * mebibytes, to_kernel=False)

    async def run(self) -> int:
        """Performs it."""
        pins, address, count = self._iovecs
        del self._iovecs
        return await engine().perform_on(
            self._file, prep_readv, address, count, 0, pins=pins, flags=SqeFlag.ASYNC
        )

    async def runs(self) -> bool:
        """Waits until it has begun; whether it still runs, which on a busy machine is not sure."""
        while self.buffer[0]:
            await trio.lowlevel.checkpoint()
        return engine().in_flight > 0


async def a_running_read(
    file: trio_uring.FixedFile, start: Callable[[Callable[[], Awaitable[object]]], object]
) -> SlowRead:
    """Starts reads, until one is seen to run."""
    for _ in range(50):
        read = SlowRead(file)
        start(read.run)
        if await read.runs():
            return read
    raise AssertionError("all reads ended before anybody saw that they ran")


@contextmanager
def core_turn(turn: Callable[[Any, int, int, int, Any, int], int]) -> Iterator[None]:
    """Passes of the loop call ``turn`` in place of tu_submit_and_copy, in C as well."""
    calls: list[Any] = [_addressof(lib, name) for name in CORE_CALLS]
    place = CORE_CALLS.index("tu_submit_and_copy")
    usual, bound = EngineRing.turn, list(map(address_of, calls))
    callback: Any = ffi.callback(ffi.typeof(calls[place]), turn)
    bound[place] = address_of(callback)

    def python_turn(ring: EngineRing, wait_nr: int, timeout_ns: int) -> int:
        args = (ring._ring, ring._tail, wait_nr, timeout_ns, ring._copied, ring._copy_max)
        return turn(*args)

    EngineRing.turn = python_turn  # type: ignore[method-assign, assignment]
    _native.bind(*bound)
    try:
        yield
    finally:
        EngineRing.turn = usual  # type: ignore[method-assign]
        _native.bind(*map(address_of, calls))


class Asleep(trio.abc.Instrument):
    """Knows when the loop is about to sleep."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def before_io_wait(self, timeout: float) -> None:
        """Trio's word that it waits."""
        if timeout > 0:
            self.event.set()


def python_command(program: str, *args: str) -> list[str]:
    """The command that runs a program in a fresh interpreter."""
    # On the first line, so that the lines of the program keep their numbers.
    run_mode = "import run_modes; run_modes.install(); "
    return [sys.executable, "-X", "faulthandler", "-c", run_mode + program, *args]


def python_env() -> dict[str, str]:
    """An environment in which the modules of these tests can be imported."""
    here = Path(__file__).parent
    return dict(os.environ, PYTHONPATH=os.pathsep.join([str(here), str(here.parent)]))


def run_python(
    program: str, *args: str, timeout: float = 2 * WAIT_S, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Runs a program in a fresh interpreter, with the modules of these tests at hand."""
    done = subprocess.run(
        python_command(program, *args),
        env=python_env(),
        timeout=timeout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not check or done.returncode == 0, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done
