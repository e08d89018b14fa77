# SPDX-License-Identifier: MIT OR Apache-2.0
"""One variant of the benchmark in its own process: ``worker.py MODULE FUNCTION ARGUMENTS``.

A loop gets a `Window` for every number of operations that comes in on the standard input, and the
time of its ``with`` block goes out as a line of JSON. A server calls `announce` and serves.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType


def announce(port: int) -> None:
    """The server listens."""
    print(port, flush=True)


def delay_ns() -> int:
    """What this thread has waited for a CPU; 0 on kernels that do not count it."""
    try:
        with open("/proc/thread-self/schedstat") as file:
            return int(file.read().split()[1])
    except OSError:
        return 0


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


class Window:
    """``with window:`` around the operations that are measured."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.result: dict[str, Any] = {"operations": count}

    def share(self, tasks: int) -> int:
        """How many operations each task does."""
        each = max(1, self.count // tasks)
        self.result["operations"] = each * tasks
        return each

    def __enter__(self) -> None:
        self._delay = delay_ns()
        self._wall = time.perf_counter_ns()
        self._cpu = time.process_time_ns()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.result["cpu_ns"] = time.process_time_ns() - self._cpu
        self.result["wall_ns"] = time.perf_counter_ns() - self._wall
        self.result["delay_ns"] = delay_ns() - self._delay


def main(module: str, function: str, *arguments: str) -> None:
    sys.modules["worker"] = sys.modules["__main__"]
    program = getattr(import_module(module), function)
    values = [int(text) if text.isdigit() else text for text in arguments]
    if getattr(program, "is_server", False):
        program(*values)
        return
    for line in sys.stdin:
        window = Window(int(line))
        program(window, *values)
        print(json.dumps(window.result), flush=True)


def server(function: Any) -> Any:
    """Marks a program that serves connections until it is killed."""
    function.is_server = True
    return function


if __name__ == "__main__":
    main(*sys.argv[1:])
