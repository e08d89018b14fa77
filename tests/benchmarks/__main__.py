# SPDX-License-Identifier: MIT OR Apache-2.0
"""What trio_uring costs, beside its peers and beside the least that io_uring costs.

Every variant is a process of its own; rounds go through all of them in turn, and ratios are taken
within a round. Windows in which other programs had the CPU are thrown away and counted.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import chart
import report
from rounds import Bench, Unusable, build, make_files, measure
from rows import ROWS, Row, Variant

QUICK = {"rounds": 1, "seconds": 0.01, "noise": 100.0, "attempts": 20}
# Beside the connections: what an interpreter has open.
SPARE_DESCRIPTORS = 100


def main() -> int:
    options = _parser().parse_args()
    if options.list:
        for row in ROWS:
            names = ", ".join(variant.name for variant in row.variants)
            print(f"{row.name:20}{row.title}: {names}")
        return 0
    if options.read:
        summaries = json.loads(options.read.read_text())["rows"]
        for summary in summaries:
            print(report.table(summary) + "\n")
        return _draw(options, summaries)
    rows = [row for row in ROWS if _chosen(row.name, options.rows)]
    if not rows:
        print(f"no row is called {options.rows}; see --list", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        try:
            summaries = _measure_all(_bench(options, Path(directory)), rows, options)
        except Unusable as why:
            print(why, file=sys.stderr)
            return 1
    return _draw(options, summaries)


def _draw(options: argparse.Namespace, summaries: list[dict[str, Any]]) -> int:
    if options.csv:
        options.csv.write_text(report.csv_of(summaries))
    for file in options.chart:
        try:
            chart.draw(summaries, file)
        except ImportError:
            print("a chart needs matplotlib: pip install --group bench", file=sys.stderr)
            return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trio_uring bench", description=__doc__)
    add = parser.add_argument
    add("--list", action="store_true", help="the rows and their variants")
    add("--rows", metavar="NAMES", help="only these, with commas between; * stands for anything")
    add("--variants", metavar="NAMES", help="only these, and what ratios are taken to")
    add("--rounds", type=int, default=7)
    add("--seconds", type=float, default=0.25, help="length of a window")
    add("--noise", type=float, help="the share of a window that others may have; 0.02 or 0.04")
    add("--connections", type=int, default=10_000, help="in the rows about memory")
    add("--directory", help="where the files that are read shall be, for a while")
    add("--json", type=Path, metavar="FILE")
    add("--read", type=Path, metavar="FILE", help="what --json wrote, instead of measuring")
    add("--csv", type=Path, metavar="FILE", help="medians and ratios as a table for documents")
    add("--chart", type=Path, metavar="FILE", action="append", default=[], help=".svg or .png")
    add("--quick", action="store_true", help="shows that everything runs; the figures are useless")
    return parser


def _bench(options: argparse.Namespace, directory: Path) -> Bench:
    programs, files = directory / "programs", directory / "files"
    programs.mkdir()
    files.mkdir()
    build(programs)
    make_files(files, *((64, 40) if options.quick else ()))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    bench = Bench(
        programs,
        files,
        seconds=options.seconds,
        rounds=options.rounds,
        noise=options.noise,
        connections_idle=min(options.connections, hard - SPARE_DESCRIPTORS),
        progress=lambda text: print(text, file=sys.stderr, flush=True),
    )
    if options.quick:
        for name, value in QUICK.items():
            setattr(bench, name, value)
        bench.connections_idle = min(bench.connections_idle, 200)
    return bench


def _measure_all(
    bench: Bench, rows: list[Row], options: argparse.Namespace
) -> list[dict[str, Any]]:
    summaries: list[dict[str, Any]] = []
    print(report.headline(report.machine(bench)) + "\n", flush=True)
    for row in rows:
        results = measure(bench, row, _variants(row, options.variants))
        summaries.append(report.summary(row, results))
        print(report.table(summaries[-1]) + "\n", flush=True)
        if options.json:  # after each row: whoever interrupts keeps what was measured
            found = {**report.machine(bench), "rows": summaries}
            options.json.write_text(json.dumps(found, indent=1) + "\n")
    return summaries


def _variants(row: Row, chosen: str | None) -> list[Variant]:
    first, *others = row.variants
    return [first, *(variant for variant in others if _chosen(variant.name, chosen))]


def _chosen(name: str, patterns: str | None) -> bool:
    return patterns is None or any(fnmatch(name, pattern) for pattern in patterns.split(","))


if __name__ == "__main__":
    sys.exit(main())
