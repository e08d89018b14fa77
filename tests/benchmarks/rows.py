# SPDX-License-Identifier: MIT OR Apache-2.0
"""The table of the benchmark: its rows, and who takes part in each."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from importlib.util import find_spec

LIMIT = "C limit"
RING = "trio_uring"
HOSTED = "trio_uring hosted"
STOCK = "Trio"
ON_RING = "Trio on the ring"


@dataclass(frozen=True)
class Variant:
    """One way to do the work of a row."""

    name: str
    program: str
    """``limit``, or ``module:function`` for worker.py."""
    arguments: tuple[object, ...] = ()
    needs: str = ""
    """A package."""
    threads: bool = False
    """Its threads wait for each other: it may use both CPUs, and no window of it is noisy."""
    environment: dict[str, str] = field(default_factory=dict)
    serves: bool = False

    def missing(self) -> str:
        """Why it cannot take part."""
        if self.needs and find_spec(self.needs) is None:
            return f"{self.needs} is not installed"
        return ""


@dataclass(frozen=True)
class Row:
    """Work of one kind, and who does it. Ratios are to the first variant."""

    name: str
    title: str
    variants: tuple[Variant, ...]
    kind: str = "loop"
    """``loop``, ``server`` or ``memory``."""
    measure: str = "cpu"
    """What ratios are of: ``cpu`` per operation, ``rate`` of operations, ``bytes`` for each."""
    load: str = ""
    connections: int = 0
    same_cpu: bool = False
    noise_limit: float = 0.02
    pauses: bool = False
    """Its servers compute all the time, and are stopped while others are measured."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Further ratios: of the first of each to the second."""


def _python(name: str, program: str, *arguments: object, **more: object) -> Variant:
    return Variant(name, program, arguments, **more)  # type: ignore[arg-type]


def _both_drivers(program: str, *arguments: object, serves: bool = False) -> tuple[Variant, ...]:
    hosted = {"TRIO_URING_DRIVER": "hosted"}
    return (
        _python(RING, program, *arguments, serves=serves),
        _python(HOSTED, program, *arguments, serves=serves, environment=hosted),
    )


def _nop_row(tasks: int) -> Row:
    return Row(
        f"nop-{tasks}",
        f"awaited NOP, {_tasks(tasks)}",
        (
            Variant(LIMIT, "limit", ("nop", tasks)),
            *_both_drivers("variants_nop:trio_uring_nop", tasks),
            _python("trio_uring as on a file", "variants_nop:trio_uring_nop", tasks, 1),
            _python("trio_uring by prep_nop", "variants_nop:trio_uring_prep_nop", tasks),
            _python("Trio checkpoint()", "variants_nop:trio_checkpoint", tasks),
            _python("asyncio sleep(0)", "variants_nop:asyncio_sleep", tasks),
            _python("uvloop sleep(0)", "variants_nop:uvloop_sleep", tasks, needs="uvloop"),
            _python("liburing", "variants_nop:liburing_nop", tasks, needs="liburing"),
        ),
        pairs=((RING, "Trio checkpoint()"), (HOSTED, RING)),
    )


def _tasks(count: int) -> str:
    return "1 task" if count == 1 else f"{count} tasks"


def _read_row(tasks: int) -> Row:
    many = _python(
        "trio_uring read_many",
        "variants_files:trio_uring_read_many",
        "BLOCKS",
        tasks,
    )

    def thread(name: str, function: str, needs: str = "") -> Variant:
        program = f"variants_files:{function}"
        return _python(name, program, "BLOCKS", tasks, needs=needs, threads=True)

    return Row(
        f"read-{tasks}",
        f"cached read of 4 KiB, {_tasks(tasks)}",
        (
            Variant(LIMIT, "limit", ("read", "BLOCKS", tasks)),
            *_both_drivers("variants_files:trio_uring_read", "BLOCKS", tasks),
            *((many,) if tasks > 1 else ()),
            _python("liburing", "variants_files:liburing_read", "BLOCKS", tasks, needs="liburing"),
            thread("Trio to_thread", "trio_thread_read"),
            thread("Trio open_file", "trio_open_file"),
            thread("asyncio executor", "asyncio_read"),
            thread("uvloop executor", "uvloop_read", "uvloop"),
            thread("aiofiles", "aiofiles_read", "aiofiles"),
            thread("anyio open_file", "anyio_read", "anyio"),
        ),
        pairs=((HOSTED, RING),),
    )


_DIRECT = Row(
    "direct-32",
    "O_DIRECT read of 4 KiB, 32 tasks",
    (
        Variant(LIMIT, "limit", ("direct", "BLOCKS", 32)),
        *_both_drivers("variants_files:trio_uring_direct", "BLOCKS", 32),
        _python(
            "trio_uring read_many",
            "variants_files:trio_uring_read_many",
            "BLOCKS",
            32,
            os.O_DIRECT,
        ),
        _python("Trio to_thread", "variants_files:trio_thread_direct", "BLOCKS", 32, threads=True),
    ),
)


def _open_variant(name: str, function: str, needs: str = "") -> Variant:
    program = f"variants_files:{function}"
    return _python(name, program, "FILES", 32, needs=needs, threads=True)


_OPEN = Row(
    "open-32",
    "open, read and close of 16 KiB, 32 tasks",
    (
        Variant(LIMIT, "limit", ("open", "FILES", 32)),
        *_both_drivers("variants_files:trio_uring_open", "FILES", 32),
        _python(
            "trio_uring read_files",
            "variants_files:trio_uring_read_files",
            "FILES",
            32,
        ),
        _open_variant("Trio Path.read_bytes", "trio_path_open"),
        _open_variant("Trio open_file", "trio_open_file_open"),
        _open_variant("asyncio executor", "asyncio_open"),
        _open_variant("uvloop executor", "uvloop_open", "uvloop"),
        _open_variant("aiofiles", "aiofiles_open", "aiofiles"),
        _open_variant("anyio Path.read_bytes", "anyio_open", "anyio"),
    ),
)


def _server(name: str, function: str, *arguments: object, needs: str = "") -> Variant:
    return _python(name, f"variants_echo:{function}", *arguments, needs=needs, serves=True)


def _peers(*arguments: object) -> tuple[Variant, ...]:
    return (
        _server("asyncio protocol", "asyncio_protocol", *arguments),
        _server("asyncio streams", "asyncio_streams", *arguments),
        _server("uvloop protocol", "uvloop_protocol", *arguments, needs="uvloop"),
        _server("uvloop streams", "uvloop_streams", *arguments, needs="uvloop"),
    )


def _echo_row(name: str, title: str, connections: int, same_cpu: bool = False) -> Row:
    return Row(
        name,
        title,
        (
            Variant(LIMIT, "limit", ("echo",), serves=True),
            *_both_drivers("variants_echo:trio_uring_echo", serves=True),
            _server("trio_uring exchange", "trio_uring_exchange"),
            _server("trio_uring recv_multishot", "trio_uring_multishot"),
            _server("Trio socket", "trio_socket_echo"),
            _server("Trio SocketStream", "trio_stream_echo"),
            *_peers(),
            _server("anyio", "anyio_echo", needs="anyio"),
            _server("liburing", "liburing_echo", needs="liburing"),
        ),
        kind="server",
        load="echo",
        connections=connections,
        same_cpu=same_cpu,
        noise_limit=0.04,
        pairs=((RING, "Trio SocketStream"), (RING, "uvloop protocol"), (HOSTED, RING)),
    )


_SHORT = Row(
    "short-64",
    "short connections, 64 clients",
    (
        Variant(LIMIT, "limit", ("short",), serves=True),
        *_both_drivers("variants_echo:trio_uring_once", serves=True),
        _server("Trio socket", "trio_socket_once"),
        _server("Trio SocketStream", "trio_stream_once"),
        *_peers(0, 1),
        _server("anyio", "anyio_echo", 1, needs="anyio"),
    ),
    kind="server",
    load="short",
    connections=64,
    noise_limit=0.08,  # the server sleeps and is woken ten thousand times a second
)

_BUSY = Row(
    "busy-100",
    "echo, 100 connections, beside a thread that computes",
    (
        _server("Trio SocketStream", "trio_stream_echo", 1),
        _server("Trio socket", "trio_socket_echo", 1),
        _server(RING, "trio_uring_echo", 1),
        _server("trio_uring exchange", "trio_uring_exchange", 1),
        _server("trio_uring recv_multishot", "trio_uring_multishot", 1),
        *_peers(1),
    ),
    kind="server",
    measure="rate",
    load="echo",
    connections=100,
    noise_limit=float("inf"),
    pauses=True,
)


def _streaming(name: str, function: str, needs: str = "") -> Variant:
    return _python(name, f"variants_stream:{function}", needs=needs, serves=True)


_STREAM = Row(
    "stream-1",
    "a MiB received of 1 connection that sends as fast as it can",
    (
        Variant(LIMIT, "limit", ("stream",), serves=True),
        _streaming("trio_uring recv", "trio_uring_recv"),
        _streaming("trio_uring recv_into", "trio_uring_recv_into"),
        _streaming("trio_uring recv_multishot", "trio_uring_multishot"),
        _streaming("trio_uring drain", "trio_uring_drain"),
        _streaming("Trio socket", "trio_socket"),
        _streaming("Trio SocketStream", "trio_stream"),
        _streaming("asyncio protocol", "asyncio_protocol"),
        _streaming("asyncio streams", "asyncio_streams"),
        _streaming("uvloop protocol", "uvloop_protocol", "uvloop"),
        _streaming("uvloop streams", "uvloop_streams", "uvloop"),
    ),
    kind="server",
    load="stream",
    connections=1,
    noise_limit=0.08,
)


def _unmodified(name: str, title: str, program: str, *arguments: object, **more: object) -> Row:
    """``program(*arguments, on_ring)``, on plain Trio and on the ring."""
    serves, threads = more.get("kind") == "server", bool(more.pop("threads", False))
    both = tuple(
        _python(variant, program, *arguments, on_ring, serves=serves, threads=threads)
        for on_ring, variant in enumerate((STOCK, ON_RING))
    )
    return Row(f"trio-{name}", f"unmodified: {title}", both, **more)  # type: ignore[arg-type]


def _unmodified_echo(kind: str, title: str, connections: int) -> Row:
    return _unmodified(
        f"{kind}-{connections}",
        f"{title} echo, {connections} connection{'s' if connections > 1 else ''}",
        f"variants_echo:trio_{kind}_echo",
        0,
        kind="server",
        load="echo",
        connections=connections,
        same_cpu=connections == 1,
        noise_limit=0.04,
    )


_IDLE = Row(
    "memory-connection",
    "memory of an idle connection",
    (
        _server("Trio SocketStream", "trio_stream_echo"),
        _server(RING, "trio_uring_echo", 0, 16384),
        *_peers(),
    ),
    kind="memory",
    measure="bytes",
    load="idle",
)

_HANDLES = Row(
    "memory-handle",
    "memory of an open file",
    (
        _python("Trio open_file", "variants_trio:trio_handles", "BLOCKS"),
        _python(RING, "variants_trio:trio_uring_handles", "BLOCKS"),
        _python("os.open", "variants_trio:descriptors", "BLOCKS"),
    ),
    kind="memory",
    measure="bytes",
)

ROWS: tuple[Row, ...] = (
    _nop_row(1),
    _nop_row(100),
    _read_row(1),
    _read_row(32),
    _DIRECT,
    _OPEN,
    _echo_row("echo-100", "echo of 64 bytes, 100 connections", 100),
    _echo_row("echo-1", "echo of 64 bytes, 1 connection, client on the same CPU", 1, True),
    _SHORT,
    _STREAM,
    _BUSY,
    _unmodified("checkpoint", "checkpoint(), 1 task", "variants_trio:checkpoints", 1),
    _unmodified("checkpoints", "checkpoint(), 100 tasks", "variants_trio:checkpoints", 100),
    _unmodified("timers", "1,000 timers of 1 ms", "variants_trio:timers", 1000),
    _unmodified("channels", "memory channels", "variants_trio:channels"),
    _unmodified("threads", "to_thread", "variants_trio:threads", threads=True),
    _unmodified_echo("stream", "SocketStream", 1),
    _unmodified_echo("stream", "SocketStream", 100),
    _unmodified_echo("socket", "trio.socket", 1),
    _unmodified_echo("socket", "trio.socket", 100),
    _IDLE,
    _HANDLES,
)
