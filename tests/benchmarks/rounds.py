# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs the variants of a row in turn, each in its own process, and throws noisy windows away.

A machine has slow and fast phases, and other programs. So every round measures each variant once,
the ratios are taken within a round, and a window in which the measured thread waited for a CPU
longer than `Row.noise_limit` of the time does not count: it is measured again, a few times.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rows import Row, Variant

WORKER = Path(__file__).with_name("worker.py")
ATTEMPTS = 4
MEMORY_ROUNDS = 3
FIRST_COUNT = 256
CALIBRATION_NS = 20_000_000

Window = dict[str, float]


class Unusable(Exception):
    """A variant cannot run here, and why."""


@dataclass
class Bench:
    """Where things are, and how long a window is."""

    programs: Path
    files: Path
    seconds: float = 0.25
    rounds: int = 7
    noise: float | None = None
    connections_idle: int = 10_000
    attempts: int = ATTEMPTS
    progress: Callable[[str], None] = lambda text: None

    def __post_init__(self) -> None:
        cpus = sorted(os.sched_getaffinity(0))
        self.server_cpu, self.load_cpu = cpus[0], cpus[-1]


@dataclass
class Measured:
    """What the rounds of one variant gave; a round without a quiet window is None."""

    variant: str
    windows: list[Window | None] = field(default_factory=list)
    thrown_away: int = 0
    missing: str = ""


class Process:
    """A variant, running. It answers each line with a line, or serves connections."""

    def __init__(self, bench: Bench, row: Row, variant: Variant) -> None:
        self.bench = bench
        self.row = row
        self.variant = variant
        self.rate = 0.0
        cpus = {bench.server_cpu}
        if variant.threads:
            cpus |= {bench.load_cpu}
        self.process = subprocess.Popen(
            _command(bench, variant),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **variant.environment},
            preexec_fn=lambda: os.sched_setaffinity(0, cpus),
        )
        self.port = 0

    def start(self) -> None:
        """Waits until it serves, or finds out how many operations fill a window."""
        if self.row.kind == "loop":
            self._calibrate()
        elif self.row.kind == "server" or self.variant.serves:
            self.port = int(self._line())
        if self.row.pauses:
            self.process.send_signal(signal.SIGSTOP)

    def _calibrate(self) -> None:
        count = FIRST_COUNT
        while True:
            wall = (window := self._ask(count))["wall_ns"]
            if wall >= min(CALIBRATION_NS, self.bench.seconds * 1e9 / 2):
                self.rate = window["operations"] / wall
                return
            count *= 4

    def window(self) -> Window:
        """One measurement."""
        if self.row.kind == "loop":
            window = self._ask(max(1, int(self.rate * self.bench.seconds * 1e9)))
            self.rate = window["operations"] / window["wall_ns"]
            return window
        if not self.variant.serves:
            return self._ask(self.bench.connections_idle)
        if self.row.pauses:
            self.process.send_signal(signal.SIGCONT)
        try:
            return self._load()
        finally:
            if self.row.pauses:
                self.process.send_signal(signal.SIGSTOP)

    def _load(self) -> Window:
        bench, row = self.bench, self.row
        connections = row.connections or bench.connections_idle
        cpu = bench.server_cpu if row.same_cpu else bench.load_cpu
        arguments = [row.load, self.port, connections, bench.seconds, self.process.pid]
        done = subprocess.run(
            [str(bench.programs / "load"), *map(str, arguments)],
            capture_output=True,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
        )
        if done.returncode:
            raise Unusable(f"the load failed: {done.stderr.strip()}")
        window: Window = json.loads(done.stdout)
        return window

    def _ask(self, count: int) -> Window:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{count}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Unusable("it ended; see above") from None
        window: Window = json.loads(self._line())
        return window

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Unusable("it ended; see above")
        return line

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


def _command(bench: Bench, variant: Variant) -> list[str]:
    places = {"FILES": str(bench.files), "BLOCKS": str(bench.files / "blocks")}
    arguments = [places.get(str(argument), str(argument)) for argument in variant.arguments]
    if variant.program == "limit":
        return [str(bench.programs / "limit"), *arguments]
    return [sys.executable, str(WORKER), *variant.program.split(":"), *arguments]


def noise_of(bench: Bench, row: Row, window: Window) -> float:
    """The share of the window that others had on the CPU of what is measured."""
    if "wall_ns" not in window:
        return 0.0
    if row.same_cpu or (row.load and bench.server_cpu == bench.load_cpu):
        # Here server and client wait for each other; what neither of them used, others had.
        return 1 - (window["cpu_ns"] + window["load_cpu_ns"]) / window["wall_ns"]
    # A load that is late changes how many requests come at once, but not whose time it is.
    delay = max(window["delay_ns"], window.get("load_delay_ns", 0) / 2)
    return delay / window["wall_ns"]


def measure(bench: Bench, row: Row, variants: Sequence[Variant]) -> list[Measured]:
    """All rounds of one row."""
    if row.kind == "memory":
        return [_measure_memory(bench, row, variant) for variant in variants]
    results = [Measured(variant.name, missing=variant.missing()) for variant in variants]
    running: list[tuple[Process, Measured]] = []
    try:
        for variant, result in zip(variants, results, strict=True):
            if not result.missing:
                process = Process(bench, row, variant)
                running.append((process, result))
                _try(result, process.start)
        for number in range(bench.rounds):
            bench.progress(f"{row.name}, round {number + 1} of {bench.rounds}")
            turn = number % max(1, len(running))
            for process, result in running[turn:] + running[:turn]:
                if not result.missing:
                    _try(result, functools.partial(_quiet_window, bench, row, process, result))
    finally:
        for process, _ in running:
            process.stop()
    return results


def _measure_memory(bench: Bench, row: Row, variant: Variant) -> Measured:
    """Each round in a new process: one that has grown does not grow again."""
    result = Measured(variant.name, missing=variant.missing())
    for number in range(min(bench.rounds, MEMORY_ROUNDS)):
        if result.missing:
            break
        bench.progress(f"{row.name}: {variant.name}, round {number + 1} of {MEMORY_ROUNDS}")
        process = Process(bench, row, variant)
        try:
            process.start()
            result.windows.append(process.window())
        except Unusable as why:
            result.missing = str(why)
        finally:
            process.stop()
    return result


def _try(result: Measured, step: Callable[[], None]) -> None:
    try:
        step()
    except Unusable as why:
        result.missing = str(why)


def _quiet_window(bench: Bench, row: Row, process: Process, result: Measured) -> None:
    limit = row.noise_limit if bench.noise is None else bench.noise
    for window in _windows(bench, process):
        quiet = process.variant.threads or noise_of(bench, row, window) <= limit
        if quiet and window["operations"]:
            result.windows.append(window)
            return
        result.thrown_away += 1
    result.windows.append(None)


def _windows(bench: Bench, process: Process) -> Iterator[Window]:
    for _ in range(bench.attempts):
        yield process.window()


def build(directory: Path) -> None:
    """Compiles the C programs.

    Raises:
        Unusable: there is no C compiler.
    """
    here = Path(__file__).parent
    include = here.parent.parent / "trio_uring" / "_csrc"
    sources = {"limit": ("limit.c", "limit_net.c"), "load": ("load.c",)}
    for program, names in sources.items():
        command: list[Any] = [os.environ.get("CC", "cc"), "-O2", "-std=gnu11", f"-I{include}"]
        command += [*(here / name for name in names), "-o", directory / program]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Unusable(f"a C compiler is needed: {error}") from None


def make_files(directory: Path, blocks: int = 65536, files: int = 10000) -> None:
    """A file of 4 KiB blocks that start with their numbers, and many files of 16 KiB."""
    with (directory / "blocks").open("wb") as file:
        for number in range(blocks):
            file.write(number.to_bytes(8, "little") * 512)
        os.fsync(file.fileno())
    for number in range(files):
        (directory / f"{number:04}").write_bytes(number.to_bytes(8, "little") * 2048)
