# SPDX-License-Identifier: MIT OR Apache-2.0
"""Bars of the ratios, by matplotlib: for each row a panel, for each variant a bar."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

OURS = "#2a6f97"
LIMIT = "#6c757d"
OTHERS = "#c9ada7"
PANELS_ACROSS = 2
ON_RING = "Trio on the ring"
WHAT = {"cpu": "CPU per operation", "rate": "operations per second", "bytes": "bytes for each"}


def draw(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """As SVG or PNG or what else matplotlib knows, by the ending of the name.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "trio_uring"  # the same picture is the same file
    from matplotlib import pyplot

    rows = _gathered([row for row in rows if any(entry["ratio"] for entry in row["variants"])])
    down = math.ceil(len(rows) / PANELS_ACROSS)
    tallest = max(len(row["variants"]) for row in rows)
    figure, axes = pyplot.subplots(
        down,
        PANELS_ACROSS,
        figsize=(6.5 * PANELS_ACROSS, (0.9 + 0.26 * tallest) * down),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(rows) :]:
        axis.set_visible(False)
    for axis, row in zip(axes.flat[: len(rows)], rows, strict=True):
        _panel(axis, row)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    pyplot.close(figure)


def _gathered(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """All unmodified programs in one panel, a bar for each."""
    panels, bars, start = [], [], None
    for row in rows:
        last = row["variants"][-1]
        if last["variant"] != ON_RING or not last["ratio"]:
            panels.append(row)
            continue
        start = len(panels) if start is None else start
        bars.append({"variant": row["title"].partition(": ")[2], "ratio": last["ratio"]})
    if start is not None:
        title = "Trio programs that know nothing of the ring"
        panels.insert(
            start, {"title": title, "measure": "cpu", "reference": "plain Trio", "variants": bars}
        )
    return panels


def _panel(axis: Any, row: dict[str, Any]) -> None:
    shown = [entry for entry in row["variants"] if entry["ratio"]][::-1]
    middles = [entry["ratio"]["median"] for entry in shown]
    errors = [
        [entry["ratio"]["median"] - entry["ratio"]["low"] for entry in shown],
        [entry["ratio"]["high"] - entry["ratio"]["median"] for entry in shown],
    ]
    names = [entry["variant"] for entry in shown]
    colors = [OURS if row["reference"] == "plain Trio" else _color(name) for name in names]
    bars = axis.barh(names, middles, xerr=errors, color=colors, ecolor="#444444", capsize=2)
    axis.bar_label(bars, [f" {middle:.3g}" for middle in middles], fontsize=8)
    if max(middles) > 20 * min(middles) > 0:
        axis.set_xscale("log")
    axis.margins(x=0.15)
    axis.set_title(row["title"], fontsize=10, loc="left")
    axis.set_xlabel(f"{WHAT[row['measure']]}, {row['reference']} = 1", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _color(name: str) -> str:
    if name.startswith("trio_uring"):
        return OURS
    return LIMIT if name == "C limit" else OTHERS
