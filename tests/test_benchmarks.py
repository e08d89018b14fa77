# SPDX-License-Identifier: MIT OR Apache-2.0
"""The benchmarks run; what they measure is not asserted."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import trio_uring

BENCHMARKS = Path(__file__).parent / "benchmarks"


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
