# SPDX-License-Identifier: MIT OR Apache-2.0
"""Other projects' tests, unchanged, on stock Trio and on the ring: the same result is wanted.

    python tests/peers/run.py                          # all suites, on each Python that is there
    python tests/peers/run.py --quick                  # a few minutes
    python tests/peers/run.py --work DIR anyio         # one suite; its environment stays in DIR
    python tests/peers/run.py --repeat 20 trio-core    # on the ring 20 times in a row
    python tests/peers/run.py --table docs/peers.csv   # writes the results down

Each suite gets a virtual environment with the project at the version that ``catalogue.py`` names,
its tests' needs, and this checkout. A suite in which something differs is run again, up to three
times on both.
The status is 1 if a test that ends in one way on stock Trio always ends in another on the ring, or
if no run of a suite had a ring.
"""

from __future__ import annotations

import argparse
import functools
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import table
from catalogue import BY_NAME, PYTHONS, QUICK, SUITES
from environments import Workshop, newest_of
from sessions import Command, Comparison, compare, differences

if TYPE_CHECKING:
    from catalogue import Suite
    from environments import Environment
    from sessions import Session

say = functools.partial(print, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Other projects' tests on stock Trio and on the ring."
    )
    parser.add_argument("suites", nargs="*", metavar="suite", help=", ".join(BY_NAME))
    parser.add_argument("--quick", action="store_true", help=" and ".join(QUICK))
    parser.add_argument("--python", nargs="+", choices=PYTHONS, help="instead of the suite's own")
    parser.add_argument("--work", type=Path, help="keeps the environments there for the next time")
    parser.add_argument("--repeat", type=int, default=1, help="how often on the ring")
    parser.add_argument("--driver", default="adopted", choices=("adopted", "hosted"))
    parser.add_argument("--table", type=Path, help="the CSV file that gets the results")
    arguments = parser.parse_args()
    unknown = set(arguments.suites) - set(BY_NAME)
    if unknown:
        parser.error(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(BY_NAME)}")
    return arguments


def _compared(suite: Suite, where: Environment, driver: str, repeat: int) -> Comparison:
    command = Command(where.python, where.cwd, suite.options, suite.targets)

    def run(ring: bool) -> Session:
        began = time.monotonic()
        session = command.run(ring=ring, driver=driver)
        side = "ring" if ring else "stock"
        say(f"  {side}: {session.line} ({time.monotonic() - began:.0f} s)")
        if session.complaint:
            say(session.output[-5000:])
        return session

    found = compare(run)
    for _ in range(repeat - 1):
        again = run(True)
        for test in differences(found.ring.outcomes, again.outcomes):
            found.differing[test] = (
                f"{found.ring.outcomes.get(test)}, then {again.outcomes.get(test)}"
            )
    return found


def _row(suite: Suite, python: str, found: Comparison, driver: str, repeat: int) -> table.Row:
    parts = [suite.peer.replace("==", " ")]
    parts += [suite.name] if suite.name == "trio-core" else []
    parts += [driver] if driver == "hosted" else []
    return {
        "Tests": ", ".join(parts),
        "Trio": suite.trio.partition("==")[2],
        "Python": python,
        "Stock Trio": found.stock.line,
        "On the ring": found.ring.line + (f" ({repeat} times)" if repeat > 1 else ""),
        "Runs with a ring": str(found.ring.runs_with_a_ring),
        "Differing": str(len(found.differing)),
        "Flaky": str(len(found.flaky)),
        "Date": datetime.now(timezone.utc).date().isoformat(),
    }


def main() -> int:
    """Runs what the command line says."""
    arguments = _arguments()
    # A shell without job control starts what runs in the background with SIGINT ignored, which the
    # sessions would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    names = arguments.suites or (QUICK if arguments.quick else [s.name for s in SUITES if s.once])
    results = []
    with ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workshop = Workshop(work)
        for suite in (BY_NAME[name] for name in names):
            for version in arguments.python or suite.pythons or [newest_of(PYTHONS)]:
                say(f"{suite.name}: {suite.peer} on {suite.trio}, Python {version}")
                where = workshop.environment(suite, version)
                if where is None:
                    say(f"  skipped: there is no Python {version} here")
                    continue
                found = _compared(suite, where, arguments.driver, arguments.repeat)
                results.append(_is_the_same(found))
                if arguments.table:
                    row = _row(suite, where.version, found, arguments.driver, arguments.repeat)
                    table.update(arguments.table, [row])
    return 0 if results and all(results) else 1


def _is_the_same(found: Comparison) -> bool:
    """Says what was found."""
    for test, how in found.flaky.items():
        say(f"  flaky: {test}: {how}")
    for complaint in found.complaints:
        say(f"  DIFFERS: {complaint}")
    if not found.complaints:
        say(f"  the same; {found.ring.runs_with_a_ring} runs had a ring")
    return not found.complaints


if __name__ == "__main__":
    sys.exit(main())
