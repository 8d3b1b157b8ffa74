"""The plots of docs/performance.md, drawn from the results."""

# pyright: reportMissingImports=false
# Matplotlib is no part of the environment in which types are checked.

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas

from benchmarks.contest import ROOT
from benchmarks.results import Stored

PLOTS = ROOT / "docs" / "performance"

#: One colour for one contestant, on every plot; legible for the colour-blind.
COLOURS = {
    "flowroute": "#0072b2",
    "flowroute, checkpoint at suspension": "#56b4e9",
    "Core": "#999999",
    "driver": "#cccccc",
    "DBOS": "#d55e00",
    "LangGraph": "#009e73",
    "raw RQ": "#e69f00",
    "Celery": "#cc79a7",
}
#: Figures whose contestants are drawn as bars: which unit of their peers.
BARS = {
    "transitions": ("per second", "transitions per second"),
    "short-runs": ("per second", "runs per second"),
    "round-trip": ("ms", "milliseconds, less is better"),
    "drain": ("per second", "worker steps per second"),
}


def write(stored: Stored) -> list[Path]:
    """Draw every plot whose figure was measured; returns the files."""
    mpl.rcParams.update({"svg.hashsalt": "flowroute", "svg.fonttype": "none", "font.size": 9})
    PLOTS.mkdir(exist_ok=True)
    written: list[Path] = []
    for figure, (unit, label) in BARS.items():
        groups = {
            each["setting"].rpartition(" / ")[0]: _of_unit(each["peers"], unit)
            for each in stored
            if each["figure"] == figure and each["peers"]
        }
        if groups:
            written.append(_save(_bars(groups, label), figure))
    lines = [each for each in stored if each["figure"] == "resume"]
    if lines:
        written.append(_save(_resume(lines), "resume"))
    return written


def _of_unit(peers: Mapping[str, float], unit: str) -> dict[str, float]:
    """The peers that were measured in a unit, without it in their names."""
    ending = f", {unit}"
    return {
        name.removesuffix(ending): value for name, value in peers.items() if name.endswith(ending)
    }


def _bars(groups: Mapping[str, Mapping[str, float]], label: str) -> Canvas:
    names = list(dict.fromkeys(name for peers in groups.values() for name in peers))
    canvas = Canvas(figsize=(8, 0.6 + 0.16 * len(groups) * (len(names) + 1)), layout="constrained")
    axes = canvas.subplots()
    high = 0.85 / len(names)
    for index, name in enumerate(names):
        places = [row + index * high for row, peers in enumerate(groups.values()) if name in peers]
        values = [peers[name] for peers in groups.values() if name in peers]
        axes.barh(places, values, high, label=name, color=COLOURS.get(name, "#000000"))
    axes.set_yticks([row + 0.85 / 2 - high / 2 for row in range(len(groups))], list(groups))
    axes.invert_yaxis()
    axes.set_xlabel(label)
    _finish(axes)
    return canvas


def _resume(stored: Stored) -> Canvas:
    canvas = Canvas(figsize=(8, 3.6), layout="constrained")
    axes = canvas.subplots()
    for each in stored:
        name = each["setting"].rpartition(", ")[0]
        contestant = next((peer for peer in ("DBOS", "LangGraph") if peer in name), "flowroute")
        counts = [int(peer.split()[0]) for peer in each["peers"]]
        style = {"SQLite": "-", "PostgreSQL": "--"}[
            "PostgreSQL" if "PostgreSQL" in name else "SQLite"
        ]
        axes.plot(
            counts,
            list(each["peers"].values()),
            style,
            marker="o" if "warm" not in name else "s",
            color=COLOURS[contestant],
            label=name if contestant != "flowroute" else f"flowroute, {name}",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("steps that lie behind the run")
    axes.set_ylabel("ms to the next step")
    _finish(axes)
    return canvas


def _finish(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)


def _save(canvas: Canvas, name: str) -> Path:
    path = PLOTS / f"{name}.svg"
    canvas.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    # Matplotlib leaves blanks at the ends of lines.
    lines = [line.rstrip() for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
