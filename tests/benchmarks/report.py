# SPDX-License-Identifier: MIT OR Apache-2.0
"""Medians and paired ratios of what was measured, as text and as JSON."""

from __future__ import annotations

import csv
import io
import os
import platform
import statistics
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rounds import Bench, Measured, Window
    from rows import Row

PACKAGES = ("trio_uring", "trio", "uvloop", "aiofiles", "anyio", "liburing")


def value(row: Row, window: Window) -> float:
    """What the ratios are of."""
    if row.measure == "bytes":
        return window["bytes"] / window["operations"]
    if row.measure == "rate":
        return 1e9 * window["operations"] / window["wall_ns"]
    return window["cpu_ns"] / window["operations"] / 1000


def ratios(row: Row, one: Measured, other: Measured) -> list[float]:
    """Of the rounds in which both had a quiet window."""
    # One may have ended early.
    pairs = zip(one.windows, other.windows, strict=False)
    return [value(row, a) / value(row, b) for a, b in pairs if a and b and value(row, b) > 0]


def spread(numbers: Sequence[float]) -> dict[str, float] | None:
    """Median and quartiles."""
    if not numbers:
        return None
    if len(numbers) == 1:
        low = middle = high = numbers[0]
    else:
        low, middle, high = statistics.quantiles(numbers, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high, "rounds": len(numbers)}


def summary(row: Row, results: Sequence[Measured]) -> dict[str, Any]:
    """A row as it goes into the table, the chart and the JSON."""
    by_name = {result.variant: result for result in results}
    reference = results[0]
    entries = [
        {
            "variant": result.variant,
            "missing": result.missing,
            "value": spread([value(row, window) for window in result.windows if window]),
            "per_second": spread(
                [
                    1e9 * window["operations"] / window["wall_ns"]
                    for window in result.windows
                    if window and "wall_ns" in window
                ]
            ),
            "ratio": spread(ratios(row, result, reference)),
            "noisy_windows": result.thrown_away,
            "windows": result.windows,
        }
        for result in results
    ]
    return {
        "name": row.name,
        "title": row.title,
        "measure": row.measure,
        "reference": reference.variant,
        "variants": entries,
        "pairs": [
            {"of": one, "to": other, **(spread(ratios(row, by_name[one], by_name[other])) or {})}
            for one, other in row.pairs
            if one in by_name and other in by_name
        ],
    }


def machine(bench: Bench) -> dict[str, Any]:
    """Where it was measured."""
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "python": sys.version.split()[0],
        "packages": found,
        "rounds": bench.rounds,
        "seconds": bench.seconds,
        "noise_limit": bench.noise,
    }


# -- text ------------------------------------------------------------------------------------------


def headline(found: dict[str, Any]) -> str:
    """Where it is measured, in one line."""
    packages = ", ".join(
        f"{name} {number or 'missing'}" for name, number in found["packages"].items()
    )
    return (
        f"Linux {found['kernel']}, {found['machine']}, {found['cpus']} CPUs, Python "
        f"{found['python']}, {packages}; {found['rounds']} rounds of {found['seconds']} s"
    )


_UNITS = {"cpu": "us", "rate": "/s", "bytes": "B"}
_HEADS = {"cpu": "CPU us", "rate": "per second", "bytes": "bytes"}


def table(row: dict[str, Any]) -> str:
    """One row of the benchmark as lines of text."""
    head = f"{row['title']} ({row['name']}): ratio to {row['reference']}, median (quartiles)"
    columns = f"  {'':28}{_HEADS[row['measure']]:>11}{'per second':>12}{'ratio':>9}"
    lines = [head, columns + f"{'':19}{'rounds':>7}{'noisy':>7}"]
    lines += [_line(row, entry) for entry in row["variants"]]
    lines += [
        f"  {pair['of']} / {pair['to']}: {_ratio(pair).strip()}"
        for pair in row["pairs"]
        if "median" in pair
    ]
    return "\n".join(lines)


def csv_of(summaries: Sequence[dict[str, Any]]) -> str:
    """What was measured, without what was not, as comma-separated values."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "variant", "measured", "ratio", "quartiles"])
    for row in summaries:
        title, digits = row["title"], 3 if row["measure"] == "cpu" else 0
        for entry in row["variants"]:
            value, ratio = entry["value"], entry["ratio"]
            if value is not None and ratio is not None:
                between = f"{ratio['low']:.2f} to {ratio['high']:.2f}"
                measured = f"{value['median']:.{digits}f} {_UNITS[row['measure']]}"
                writer.writerow(
                    [title, entry["variant"], measured, f"{ratio['median']:.2f}", between]
                )
                title = ""
    return text.getvalue()


def _line(row: dict[str, Any], entry: dict[str, Any]) -> str:
    if entry["missing"]:
        return f"  {entry['variant']:28}{'missing: ' + entry['missing']}"
    if entry["value"] is None:
        return f"  {entry['variant']:28}no quiet window ({entry['noisy_windows']} noisy)"
    digits = 3 if row["measure"] == "cpu" else 0
    rate = f"{entry['per_second']['median']:12.0f}" if entry["per_second"] else f"{'-':>12}"
    return (
        f"  {entry['variant']:28}{entry['value']['median']:11.{digits}f}{rate}"
        f"{_ratio(entry['ratio'])}{entry['value']['rounds']:7}{entry['noisy_windows']:7}"
    )


def _ratio(found: dict[str, float] | None) -> str:
    if found is None:
        return f"{'-':>9}{'':19}"
    between = f" ({found['low']:.2f} to {found['high']:.2f})"
    return f"{found['median']:9.2f}{between:19}"
