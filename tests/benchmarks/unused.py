# SPDX-License-Identifier: MIT OR Apache-2.0
"""What trio_uring costs a program that does not use it, or not yet.

    python tests/benchmarks/unused.py [--rounds N]

Imports: whole commands in turn, medians. A run: `trio.run` and `trio_uring.run` of nothing in turn.
Memory: what a process has more once its run has a ring of the default `RingOptions`, from proc(5).
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
MEMORY = """
import gc
import trio
import trio_uring
import trio_uring._current

def proc():
    with open("/proc/self/status") as lines:
        status = dict(line.split(":", 1) for line in lines)
    found = {name: int(status[name].split()[0]) for name in ("VmRSS", "VmLck", "VmPin", "VmSize")}
    ours = False
    found["ring"] = 0
    with open("/proc/self/smaps") as lines:
        for line in lines:
            if line.split()[0].endswith(":"):
                found["ring"] += int(line.split()[1]) if ours and line.startswith("Size:") else 0
            else:
                ours = "io_uring" in line
    return found

async def main():
    gc.collect()
    proc()
    before = proc()
    trio_uring.current_statistics()
    await trio.sleep(0)
    after = proc()
    print(*(after[name] - before[name] for name in before))

trio.run(main)
"""


async def nothing() -> None:
    """A run's least."""


def in_turn(rounds: int, actions: dict[str, Callable[[], object]]) -> dict[str, float]:
    """How long each takes, in seconds: the median."""
    took: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            began = time.perf_counter()
            action()
            took[name].append(time.perf_counter() - began)
    return {name: median(times) for name, times in took.items()}


def _python(program: str) -> Callable[[], object]:
    command = [sys.executable, "-c", program]
    return lambda: subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _imports(rounds: int) -> None:
    actions = {name: _python(program) for name, program in IMPORTS.items()}
    found = in_turn(rounds, actions)
    for name, seconds in found.items():
        more = seconds - found["import trio"]
        print(f"{name:26} {seconds * 1e3:7.1f} ms  ({more * 1e3:+.1f})")


def _runs(rounds: int) -> None:
    small = trio_uring.RingOptions(sq_entries=16, cq_entries=32)
    found = in_turn(
        rounds,
        {
            "trio.run": lambda: trio.run(nothing),
            "trio_uring.run": lambda: trio_uring.run(nothing),
            "with a small ring": lambda: trio_uring.run(nothing, ring=small),
        },
    )
    for name, seconds in found.items():
        more = seconds - found["trio.run"]
        print(f"{name:26} {seconds * 1e6:7.0f} us  ({more * 1e6:+.0f})")


def _memory(rounds: int) -> None:
    measure = _python(MEMORY)
    found = [[int(number) for number in str(measure()).split()] for _ in range(rounds)]
    names = ("VmRSS", "VmLck", "VmPin", "VmSize", "queues")
    for name, numbers in zip(names, zip(*found, strict=True), strict=True):
        print(f"{name:26} {median(numbers):+7.0f} KiB")


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
