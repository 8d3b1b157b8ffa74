"""results.json: every result of the last time its figure was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.contest import ROOT

PATH = ROOT / "benchmarks" / "results.json"

Stored = list[dict[str, Any]]


def read(path: Path = PATH) -> Stored:
    """The results that are stored."""
    if not path.exists():
        return []
    stored: Stored = json.loads(path.read_text(encoding="utf-8"))
    return stored


def store(measured: Stored, order: Sequence[str], path: Path = PATH) -> None:
    """Put the results of some figures in the place of their older ones.

    Parameters:
        measured: The new results.
        order: The names of all figures; what is stored of any other is dropped.
        path: The file.
    """
    anew = {each["figure"] for each in measured}
    kept = [each for each in read(path) if each["figure"] not in anew and each["figure"] in order]
    both = sorted(kept + measured, key=lambda each: order.index(each["figure"]))
    path.write_text(json.dumps(both, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
