# SPDX-License-Identifier: MIT OR Apache-2.0
"""The table of results, kept as a CSV file of which a run replaces its own rows."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

COLUMNS = (
    *("Tests", "Trio", "Python", "Stock Trio", "On the ring", "Runs with a ring"),
    *("Differing", "Flaky", "Date"),
)
KEY = COLUMNS[:3]
Row = dict[str, str]


def update(file: Path, rows: Iterable[Row]) -> None:
    """Adds the rows, each in the place of the one for the same tests and versions."""
    known: dict[tuple[str, ...], Row] = {}
    if file.exists():
        with file.open(newline="") as lines:
            known = {tuple(row[k] for k in KEY): row for row in csv.DictReader(lines)}
    known.update({tuple(row[k] for k in KEY): row for row in rows})
    with file.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(known.values())
