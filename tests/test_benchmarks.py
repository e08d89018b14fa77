# SPDX-License-Identifier: MIT OR Apache-2.0
"""The benchmarks run; what they measure is not asserted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import trio_uring
from trio_uring.lowlevel import Op
from trio_uring.testing import requires_kernel_feature, requires_op

BENCHMARKS = Path(__file__).parent / "benchmarks"
# What needs no package but those of the other tests.
ALWAYS_THERE = "trio_uring*,Trio*,asyncio*,os.open"

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CC", "cc")) is None, reason="the load is a C program: no cc here"
)


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trio_uring", "bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def imported(name: str) -> Any:
    """A module of the benchmark, whose directory is on the path only meanwhile."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return __import__(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


@needs_compiler
@requires_kernel_feature("accept_multishot_direct")  # which the limit uses
@pytest.mark.slow
def test_every_row_measures_every_variant_that_is_there(tmp_path: Path) -> None:
    """The servers answer, the results are what is in the files, nothing complains."""
    report = tmp_path / "report.json"
    done = bench("--quick", "--variants", ALWAYS_THERE, "--json", report, "--directory", tmp_path)
    rows = json.loads(report.read_text())["rows"]
    complaints = [line for line in done.stderr.splitlines() if ", round 1" not in line]
    assert (done.returncode, complaints) == (0, [])
    assert [row["name"] for row in rows] == [row.name for row in imported("rows").ROWS]
    for row in rows:
        assert len(row["variants"]) > 1
        for entry in row["variants"]:
            assert not entry["missing"], (row["name"], entry)
            [window] = entry["windows"]
            assert window is not None
            assert window["operations"] > 0


@needs_compiler
@requires_op(Op.NOP)
def test_a_noisy_window_is_measured_again_and_counted_and_gives_no_ratio(tmp_path: Path) -> None:
    """Up to four times in each of two rounds."""
    report = tmp_path / "report.json"
    options = ("--rows", "nop-1", "--variants", "Trio*", "--seconds", 0.01, "--noise", -1)
    done = bench(*options, "--rounds", 2, "--json", report)
    assert done.returncode == 0, done.stderr
    assert "no quiet window (8 noisy)" in done.stdout
    for entry in json.loads(report.read_text())["rows"][0]["variants"]:
        assert (entry["noisy_windows"], entry["value"], entry["ratio"]) == (8, None, None)


def test_a_ratio_is_of_two_windows_of_one_round() -> None:
    """The machine is twice as slow in the second round, and one of the third was noisy."""
    rounds, rows, report = (imported(name) for name in ("rounds", "rows", "report"))
    row = next(row for row in rows.ROWS if row.name == "nop-1")

    def window(cpu_ns: int) -> dict[str, int]:
        return {"cpu_ns": cpu_ns, "wall_ns": cpu_ns, "operations": 1}

    one = rounds.Measured("one", [window(3000), window(6000), window(9000)])
    other = rounds.Measured("other", [window(1000), window(2000), None])
    assert report.ratios(row, one, other) == [3, 3]


def test_a_peer_that_is_not_there_is_named() -> None:
    """It is missing in the table; one that is there takes part."""
    variant = imported("rows").Variant
    assert variant("a", "b:c", needs="no_such_package").missing() == (
        "no_such_package is not installed"
    )
    assert variant("a", "b:c", needs="trio").missing() == ""


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--rows", "read-1,nope"), "called nope"),
        (("--variants", "nope"), "called nope"),
        (("--rounds", 0), "not above 0"),
        (("--json", "/nowhere/x.json"), "no directory"),
        (("--chart", "x.gif"), "neither .svg nor .png"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_measured(
    options: tuple[object, ...], complaint: str
) -> None:
    """With status 2, as argparse does it."""
    done = bench(*options)
    assert done.returncode == 2
    assert complaint in done.stderr


def test_without_the_checkout_the_command_says_where_the_benchmarks_are(tmp_path: Path) -> None:
    """What is installed is the package alone."""
    (tmp_path / "trio_uring").symlink_to(Path(trio_uring.__file__).parent)
    command = [sys.executable, "-m", "trio_uring", "bench"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "source distribution" in done.stderr


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """What was measured before; of one variant and one row nothing is known: it was too noisy."""
    ratio = {"median": 2.0, "low": 1.5, "high": 2.5, "rounds": 3}
    known = {"variant": "C limit", "ratio": ratio, "value": ratio, "per_second": ratio}
    unknown = {"variant": "trio_uring", "ratio": None, "value": None, "per_second": None}
    common = {"missing": "", "noisy_windows": 7, "windows": []}
    row = {"name": "nop-1", "title": "NOP", "measure": "cpu", "reference": "C limit", "pairs": []}
    measured = {**row, "variants": [{**known, **common}, {**unknown, **common}]}
    empty = {**row, "variants": [{**unknown, **common}]}
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"rows": [measured, empty]}))
    return report


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_a_chart_is_drawn_of_what_was_measured_before(
    report: Path, tmp_path: Path, ending: str
) -> None:
    """Without the rows of which nothing is known."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    chart = tmp_path / f"chart.{ending}"
    done = bench("--read", report, "--chart", chart)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("no quiet window (7 noisy)") == 2
    start = chart.read_bytes()[:8]
    assert start == b"\x89PNG\r\n\x1a\n" if ending == "png" else start.startswith(b"<?xml")


def test_a_table_for_documents_has_what_was_measured(report: Path, tmp_path: Path) -> None:
    """A line for each variant that has a figure."""
    table = tmp_path / "table.csv"
    done = bench("--read", report, "--csv", table)
    assert (done.returncode, done.stderr) == (0, "")
    assert table.read_text().splitlines()[1:] == ["NOP,C limit,2.000 us,2.00,1.50 to 2.50"]


def test_the_rings_benchmark_runs_and_prints_a_ratio_for_each_contest() -> None:
    """Both sides do all six workloads, and the two call by call, and check their results."""
    pytest.importorskip("liburing", reason="the PyPI package liburing is not installed")
    command = [sys.executable, str(BENCHMARKS / "ring.py"), "--rounds", "1", "--operations", "128"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == -signal.SIGILL:
        pytest.skip("the binary of the PyPI package liburing wants another processor")
    assert (done.returncode, done.stderr) == (0, "")
    head, *lines = done.stdout.splitlines()
    assert head.split()[-3:] == ["trio_uring", "liburing", "ratio"]
    assert len(lines) == 8
    assert all(float(line.split()[-1]) > 0 for line in lines)


@pytest.mark.slow
def test_the_benchmark_of_what_is_unused_runs_and_prints_all_it_measures(
    probed: trio_uring.Probe,
) -> None:
    """Four imports, three kinds of run, three states of memory."""
    if not probed.can("direct_descriptors"):
        pytest.skip("this kernel has no direct descriptors")
    command = [sys.executable, str(BENCHMARKS / "unused.py"), "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [sum(unit in line for line in lines) for unit in (" ms", " us", " KiB")] == [4, 3, 3]
