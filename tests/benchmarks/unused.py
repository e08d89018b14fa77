# SPDX-License-Identifier: MIT OR Apache-2.0
"""What trio_uring costs a program that does not use it, or not yet.

    python -I tests/benchmarks/unused.py [--rounds N]    # where trio_uring is installed

Imports: whole commands in turn, medians. A run: `trio.run` and `trio_uring.run` of nothing in turn.
Memory: what a process has more once its run has a ring of the default `RingOptions`, then once it
has opened a file and received from a socket; from proc(5). What the kernel keeps for itself is not
in these numbers.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from statistics import median
from typing import TYPE_CHECKING

import trio

import trio_uring

if TYPE_CHECKING:
    from collections.abc import Callable

IMPORTS = {
    "import trio": "import trio",
    "import trio, trio_uring": "import trio, trio_uring",
    "and trio_uring.run": "import trio, trio_uring; trio_uring.run",
    "and its handles": "import trio, trio_uring; trio_uring.run, trio_uring.open_direct",
}
MEMORY_FIELDS = ("VmRSS", "VmLck", "VmPin")
MEMORY = """
import gc
import socket
import sys
import trio
import trio_uring
import trio_uring._current
from trio_uring import open_direct, register

def memory():
    gc.collect()
    with open("/proc/self/status") as lines:
        status = dict(line.split(":", 1) for line in lines)
    return [int(status[name].split()[0]) for name in sys.argv[1:]]

async def main():
    memory()
    found = [memory()]
    trio_uring.current_statistics()
    await trio.lowlevel.checkpoint()
    found.append(memory())
    async with await open_direct("/dev/null"):
        found.append(memory())
    ours, theirs = socket.socketpair()
    theirs.send(b"x")
    async with await register(ours) as conn:
        await conn.recv(1)
        found.append(memory())
    for after in found[1:]:
        print(*(now - before for now, before in zip(after, found[0])))

trio.run(main)
"""


async def nothing() -> None:
    """A run's least."""


def in_turn(rounds: int, actions: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """How long each took each time, in seconds."""
    took: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            began = time.perf_counter()
            action()
            took[name].append(time.perf_counter() - began)
    return took


def show(took: dict[str, list[float]], unit: str) -> None:
    """Medians and minima, and what each has more than the first."""
    factor = {"ms": 1e3, "us": 1e6}[unit]
    first = next(iter(took.values()))
    for name, times in took.items():
        figures = (
            f"{what} {how(times) * factor:7.1f} ({(how(times) - how(first)) * factor:+7.1f}) {unit}"
            for what, how in (("median", median), ("least", min))
        )
        print(f"{name:26}", *figures, sep="  ")


def _python(program: str, *arguments: str) -> Callable[[], object]:
    command = [sys.executable, "-I", "-c", program, *arguments]
    return lambda: subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _imports(rounds: int) -> None:
    show(in_turn(rounds, {name: _python(program) for name, program in IMPORTS.items()}), "ms")


def _runs(rounds: int) -> None:
    small = trio_uring.RingOptions(sq_entries=16, cq_entries=32)
    actions: dict[str, Callable[[], object]] = {
        "trio.run": lambda: trio.run(nothing),
        "trio_uring.run": lambda: trio_uring.run(nothing),
        "with a small ring": lambda: trio_uring.run(nothing, ring=small),
    }
    show(in_turn(rounds, actions), "us")


def _memory(rounds: int) -> None:
    measure = _python(MEMORY, *MEMORY_FIELDS)
    found = [[line.split() for line in str(measure()).splitlines()] for _ in range(rounds)]
    for what, lines in zip(
        ("a ring", "and a file", "and a receive"), zip(*found, strict=True), strict=True
    ):
        figures = (
            f"{name} {median(int(line[column]) for line in lines):+5.0f} KiB"
            for column, name in enumerate(MEMORY_FIELDS)
        )
        print(f"{what:26}", *figures, sep="  ")


def main() -> None:
    """Measures all three."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15, help="of whole commands (%(default)s)")
    rounds = parser.parse_args().rounds
    _imports(rounds)
    _runs(rounds * 100)
    _memory(rounds)


if __name__ == "__main__":
    main()
