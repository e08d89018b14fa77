# SPDX-License-Identifier: MIT OR Apache-2.0
"""One suite on stock Trio and on the ring: what became of each test, and where the two differ."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import record_outcomes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

HERE = Path(__file__).parent
RERUNS = 3
# A hang is reported with the stacks of all threads, and ends the session.
TEST_S = 300
SESSION_S = 1800
_RING = re.compile(r"^trio_uring: (\w+): (\d+) of (\d+) Trio runs had a ring.*$", re.MULTILINE)
Outcomes = dict[str, str]


@dataclass(frozen=True)
class Session:
    """One run of pytest."""

    outcomes: Outcomes
    output: str
    status: int | None
    """Of the process; None if it took too long."""

    @property
    def line(self) -> str:
        """How many tests had which outcome."""
        counted = Counter(self.outcomes.values())
        first = ("passed", "failed", "skipped")
        names = [name for name in first if counted[name]] + sorted(counted.keys() - {*first})
        return ", ".join(f"{counted[name]} {name}" for name in names)

    @property
    def runs_with_a_ring(self) -> int:
        """As the plugin says."""
        found = _RING.search(self.output)
        return int(found[2]) if found else 0

    @property
    def complaint(self) -> str | None:
        """What is wrong with the session as a whole."""
        if self.status is None:
            return f"took more than {SESSION_S} s"
        if self.status not in (0, 1):
            return f"pytest ended with status {self.status}"
        return None if self.outcomes else "no tests"


@dataclass(frozen=True)
class Command:
    """How pytest is started for a suite."""

    python: Path
    cwd: Path
    options: Sequence[str]
    targets: Sequence[str]

    def run(self, *, ring: bool, driver: str = "adopted") -> Session:
        """Runs all tests."""
        on_the_ring = ("-p", "trio_uring.testing", "--every-run-on-the-ring") if ring else ()
        with tempfile.TemporaryDirectory() as directory:
            recorded = Path(directory) / "outcomes"
            options = (
                *("-q", "-p", "no:cacheprovider", f"--rootdir={self.cwd}"),
                "--continue-on-collection-errors",
                *("-o", f"faulthandler_timeout={TEST_S}"),
                *("-o", "faulthandler_exit_on_timeout=true"),
                *("-p", "record_outcomes", f"--record-outcomes={recorded}"),
            )
            status, output = _run(
                [
                    *(str(self.python), "-m", "pytest", *options, *on_the_ring, *self.options),
                    *self.targets,
                ],
                self.cwd,
                {
                    "PATH": f"{self.python.parent}{os.pathsep}{os.environ['PATH']}",
                    "PYTHONPATH": str(HERE),
                    "TRIO_URING_DRIVER": driver,
                },
            )
            outcomes = record_outcomes.read(recorded) if recorded.exists() else {}
        return Session(outcomes, output, status)


def _run(command: list[str], cwd: Path, environment: dict[str, str]) -> tuple[int | None, str]:
    with tempfile.TemporaryFile() as output:
        try:
            status: int | None = subprocess.run(
                command,
                cwd=cwd,
                env=dict(os.environ, **environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=SESSION_S,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            status = None
        output.seek(0)
        return status, output.read().decode(errors="replace")


@dataclass
class Comparison:
    """A suite on both."""

    stock: Session
    ring: Session
    differing: dict[str, str] = field(default_factory=dict)
    """Tests that end in one way on stock Trio and in another on the ring, each with both."""
    flaky: dict[str, str] = field(default_factory=dict)
    """Tests that differed, and at some time did not."""

    @property
    def complaints(self) -> list[str]:
        """Why this is not the same result."""
        found = [f"{test}: {how}" for test, how in self.differing.items()]
        found += [f"stock: {self.stock.complaint}"] if self.stock.complaint else []
        found += [f"ring: {self.ring.complaint}"] if self.ring.complaint else []
        return found if self.ring.runs_with_a_ring else [*found, "no run had a ring"]


def compare(run: Callable[[bool], Session]) -> Comparison:
    """Runs the suite on both, and where they differ again, to tell tests that always do.

    All tests again: what one of them left behind may be why another differs. ``run`` is given
    whether to use the ring.
    """
    stock, ring = run(False), run(True)
    found = Comparison(stock, ring)
    seen: dict[str, tuple[list[str], list[str]]] = {
        test: ([], []) for test in sorted(differences(stock.outcomes, ring.outcomes))
    }
    for reruns_left in reversed(range(RERUNS + 1)):
        for test, (on_stock, on_ring) in seen.items():
            on_stock.append(stock.outcomes.get(test, "absent"))
            on_ring.append(ring.outcomes.get(test, "absent"))
        if not (reruns_left and any(_differ(*outcomes) for outcomes in seen.values())):
            break
        stock, ring = run(False), run(True)
    for test, (on_stock, on_ring) in seen.items():
        both = f"stock {', '.join(on_stock)}; ring {', '.join(on_ring)}"
        (found.differing if _differ(on_stock, on_ring) else found.flaky)[test] = both
    return found


def _differ(on_stock: list[str], on_ring: list[str]) -> bool:
    return not {*on_stock} & {*on_ring}


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> set[str]:
    """Tests that only one has, or that ended differently."""
    return {test for test, _ in {*one.items()} ^ {*other.items()}}
