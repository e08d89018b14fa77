# SPDX-License-Identifier: MIT OR Apache-2.0
"""The table of the parity checklist in README.md is complete, and names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
SIZES = {"A": 46, "B": 35, "C": 32}
ROWS = [f"{letter}{n}" for letter, size in SIZES.items() for n in range(1, size + 1)]

# The rows that a test stands for are the first words of its docstring: "A42: ...", "B3, B11: ...".
CLAIMED = re.compile(r"((?:[ABC]\d+, )*[ABC]\d+): ")
TABLE_ROW = re.compile(r"^\| ([ABC]\d+) \| (.+) \|$", re.MULTILINE)


def rows_of_tests() -> dict[str, list[str]]:
    """The rows that each test claims, by its name; names of all test functions are in it."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.glob("**/test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                claim = CLAIMED.match(ast.get_docstring(node) or "")
                rows = claim[1].split(", ") if claim else []
                found.setdefault(node.name, []).extend(rows)
    return {name: rows for name, rows in found.items() if name.startswith("test_")}


def table() -> list[tuple[str, str]]:
    """Row and what README.md says of it, in the order of the table."""
    return TABLE_ROW.findall((TESTS / "README.md").read_text())


def test_every_row_of_the_checklist_is_in_the_table_once() -> None:
    """README.md lists the 113 rows of the three sources in their order."""
    assert len(ROWS) == 113
    assert [row for row, _ in table()] == ROWS


def test_every_row_names_tests_or_says_why_there_is_none() -> None:
    """A row without a test has "not testable: " and the reason."""
    silent = [row for row, text in table() if "`test_" not in text and len(text.split()) < 5]
    assert silent == []
    untested = {row: text for row, text in table() if "`test_" not in text}
    assert [row for row, text in untested.items() if not text.startswith("not testable: ")] == []


def test_each_test_that_the_table_names_exists_and_claims_the_row() -> None:
    """The row is among the first words of the docstring of each test that is named for it."""
    claims = rows_of_tests()
    named = [(row, name) for row, text in table() for name in re.findall(r"`(test_\w+)`", text)]
    assert [pair for pair in named if pair[0] not in claims.get(pair[1], [])] == []
