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
from typing import TYPE_CHECKING, Any

import chart
import report
from rounds import Bench, Unusable, build, make_files, measure
from rows import ROWS, Row, Variant

if TYPE_CHECKING:
    from collections.abc import Callable

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
    if unknown := _unknown(options):
        print(f"no row or variant is called {', '.join(unknown)}; see --list", file=sys.stderr)
        return 2
    rows = [row for row in ROWS if _chosen(row.name, options.rows)]
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        try:
            summaries = _measure_all(_bench(options, Path(directory)), rows, options)
        except Unusable as why:
            print(why, file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    return _draw(options, summaries)


def _unknown(options: argparse.Namespace) -> list[str]:
    """Names that were given and mean nothing."""
    known = (
        (options.rows, {row.name for row in ROWS}),
        (options.variants, {variant.name for row in ROWS for variant in row.variants}),
    )
    return [
        pattern
        for patterns, names in known
        for pattern in (patterns or "*").split(",")
        if not any(fnmatch(name, pattern) for name in names)
    ]


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
    add("--rounds", type=_above_zero(int), default=7)
    add("--seconds", type=_above_zero(float), default=0.25, help="length of a window")
    noise = (
        "the share of a window that others may have; 0.02 to 0.08 by row, more on a busy machine"
    )
    add("--noise", type=float, help=noise)
    add("--connections", type=_above_zero(int), default=10_000, help="in the rows about memory")
    add("--directory", type=_directory, help="where the files that are read shall be, for a while")
    add("--json", type=_output, metavar="FILE")
    add("--read", type=Path, metavar="FILE", help="what --json wrote, instead of measuring")
    add("--csv", type=_output, metavar="FILE", help="medians and ratios as a table for documents")
    add("--chart", type=_picture, metavar="FILE", action="append", default=[], help=".svg or .png")
    add("--quick", action="store_true", help="shows that everything runs; the figures are useless")
    return parser


def _above_zero(kind: Callable[[str], float]) -> Callable[[str], float]:
    def checked(text: str) -> float:
        if (value := kind(text)) <= 0:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return checked


def _directory(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no directory")
    return path


def _output(text: str) -> Path:
    """What cannot be written shall be known before hours of measuring."""
    _directory(str(Path(text).parent))
    return Path(text)


def _picture(text: str) -> Path:
    if Path(text).suffix not in (".svg", ".png"):
        raise argparse.ArgumentTypeError(f"{text} is neither .svg nor .png")
    return _output(text)


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
