# SPDX-License-Identifier: MIT OR Apache-2.0
"""The comparison of other projects' tests finds what differs, and does not cry wolf."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sessions import Command, Comparison, Session, compare
from table import COLUMNS, update

if TYPE_CHECKING:
    import trio_uring

pytestmark = pytest.mark.slow

BEGINNING = """
import os
import trio
import pytest


def has_ring():
    links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
    return any("io_uring" in os.readlink(link) for link in links if os.path.lexists(link))


async def ask():
    return has_ring()


def test_passes_on_both():
    trio.run(trio.sleep, 0)
"""
EVERY_OUTCOME = """
@pytest.fixture
def bad_end():
    yield
    assert 0


def test_fails():
    assert 0


def test_skips():
    pytest.skip("so")


@pytest.mark.xfail
def test_fails_as_expected():
    assert 0


def test_ends_badly(bad_end):
    pass
"""


@pytest.fixture(scope="module", autouse=True)
def _needs_io_uring(probed: trio_uring.Probe) -> None:
    if not probed.usable:
        pytest.skip(probed.reason or "io_uring is unusable")


def _compared(where: Path, tests: str, beginning: str = BEGINNING) -> Comparison:
    (where / "test_suite.py").write_text(beginning + tests)
    command = Command(Path(sys.executable), where, (), (".",))

    def run(ring: bool) -> Session:
        return command.run(ring=ring)

    return compare(run)


def _id(test: str) -> str:
    return f"test_suite.py::{test}"


def test_a_suite_that_ends_as_on_stock_trio_is_the_same(tmp_path: Path) -> None:
    """Whatever the outcomes are: also what fails on both is no difference."""
    found = _compared(tmp_path, EVERY_OUTCOME)

    assert found.complaints == []
    assert found.ring.runs_with_a_ring == 1
    assert found.ring.outcomes == {
        _id("test_passes_on_both"): "passed",
        _id("test_fails"): "failed",
        _id("test_skips"): "skipped",
        _id("test_fails_as_expected"): "xfailed",
        _id("test_ends_badly"): "passed and error at teardown",
    }
    assert found.stock.line == (
        "1 passed, 1 failed, 1 skipped, 1 passed and error at teardown, 1 xfailed"
    )


def test_a_test_that_fails_on_the_ring_only_is_named(tmp_path: Path) -> None:
    """All is run again, three times on both, and it is named with all its outcomes."""
    found = _compared(tmp_path, "\ndef test_no_ring():\n    assert not trio.run(ask)\n")

    assert found.differing == {
        _id(
            "test_no_ring"
        ): "stock passed, passed, passed, passed; ring failed, failed, failed, failed"
    }
    assert found.flaky == {}
    assert len(found.complaints) == 1


def test_a_test_that_failed_once_is_called_flaky(tmp_path: Path) -> None:
    """The next time it ends as on stock Trio."""
    flag = tmp_path / "failed before"
    found = _compared(
        tmp_path,
        f"""
def test_first_time():
    if trio.run(ask) and not os.path.exists({str(flag)!r}):
        open({str(flag)!r}, "w").close()
        assert 0
""",
    )

    assert found.complaints == []
    assert found.flaky == {_id("test_first_time"): "stock passed, passed; ring failed, passed"}


def test_a_crash_on_the_ring_is_a_difference_that_names_the_test(tmp_path: Path) -> None:
    """What had ended before it is still known."""
    found = _compared(tmp_path, "\ndef test_dies():\n    if trio.run(ask):\n        os.abort()\n")

    assert found.ring.outcomes[_id("test_passes_on_both")] == "passed"
    assert found.ring.outcomes[_id("test_dies")] == "crashed"
    assert _id("test_dies") in found.differing


def test_a_suite_without_a_run_of_trio_is_no_success(tmp_path: Path) -> None:
    """It would be the same whatever the ring does."""
    found = _compared(tmp_path, "def test_nothing():\n    pass\n", beginning="")

    assert "no run had a ring" in found.complaints


def test_a_suite_that_has_no_tests_is_no_success(tmp_path: Path) -> None:
    """As when the project has moved them."""
    assert len(_compared(tmp_path, "", beginning="").complaints) > 1


def test_a_run_of_one_suite_leaves_the_results_of_the_others(tmp_path: Path) -> None:
    """A row is replaced by one for the same tests, Trio and Python."""
    file = tmp_path / "table.csv"

    def row(**values: str) -> dict[str, str]:
        return dict(dict.fromkeys(COLUMNS, ""), **values)

    update(file, [row(Tests="a", Python="3.12", Date="1"), row(Tests="b", Date="1")])
    update(file, [row(Tests="a", Python="3.13", Date="2"), row(Tests="b", Date="2")])

    rows = file.read_text().splitlines()[1:]
    assert [(line[0], line[-1]) for line in rows] == [("a", "1"), ("b", "2"), ("a", "2")]
