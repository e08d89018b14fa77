# SPDX-License-Identifier: MIT OR Apache-2.0
"""A pytest plugin that writes what became of each test, line by line: a crash loses nothing."""

from __future__ import annotations

import gc
import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CRASHED = "crashed"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-outcomes", metavar="FILE")
    # What a test leaves to the garbage collector fails some later test, where warnings are errors:
    # which one depends on how much others allocate.
    parser.addoption("--collect-garbage", action="store_true")


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("--record-outcomes")
    if file is not None:
        config.pluginmanager.register(_Recorder(file))
    if config.getoption("--collect-garbage"):
        config.pluginmanager.register(_Collector())


class _Collector:
    def pytest_collection_finish(self) -> None:
        gc.collect()
        gc.freeze()  # all that is there before the tests need not be looked through after each

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self) -> Iterator[None]:
        yield
        gc.collect()


class _Recorder:
    def __init__(self, file: str) -> None:
        self._lines = open(file, "w", buffering=1)  # noqa: SIM115  # closed at the end
        self._seen: list[str] = []

    def _write(self, test: str, outcome: str) -> None:
        print(json.dumps([test, outcome]), file=self._lines)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.outcome != "passed":
            self._write(report.nodeid, f"{report.outcome} at collection")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._seen = []
        self._write(nodeid, CRASHED)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome = str(report.outcome)
        if hasattr(report, "wasxfail"):
            outcome = "xpassed" if outcome == "passed" else "xfailed"
        elif outcome == "failed" and report.when != "call":
            outcome = f"error at {report.when}"
        if outcome != "passed" or report.when == "call":
            self._seen.append(outcome)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._write(nodeid, " and ".join(self._seen))

    def pytest_unconfigure(self) -> None:
        self._lines.close()


def read(file: Path) -> dict[str, str]:
    """The outcome of each test."""
    return dict(json.loads(line) for line in file.read_text().splitlines())
