"""The numbers of docs/reliability.md, from what the campaigns found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "reliability.md"
KEPT = DOCS / "reliability.json"
BEGIN = "<!-- numbers: written by make faults -->\n"
HEADS = (
    "campaign",
    "database",
    "points",
    "faults",
    "fenced",
    "lost",
    "doubled",
    "stuck",
    "heals, p50 / p99",
)
RAW = "RQ alone, seconds"
RAW_BOUND = "RQ alone was waited for, seconds"
END = "<!-- end of numbers -->\n"


def write(results: dict[str, Any]) -> None:
    """Keep results beside the page, and draw them into it."""
    KEPT.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{drawn(results)}\n{END}{after}", encoding="utf-8")


def drawn(results: dict[str, Any]) -> str:
    """The tables of a run."""
    lines = [
        f"Seed {results['seed']}, {results['seconds']} seconds on {results['machine']}.",
        "",
        f"| {' | '.join(HEADS)} |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for each in results["reports"]:
        heal = each["heal_p50_seconds"]
        healed = "" if heal is None else f"{heal:.2f} / {each['heal_p99_seconds']:.2f} s"
        lines.append(
            f"| {each['campaign']} | {each['database']} | {each['points']:,} | "
            f"{each['injected']:,} | {each['fenced']} | {len(each['lost'])} | "
            f"{len(each['doubled'])} | {len(each['stuck'])} | {healed} |"
        )
    lines += _dead_workers(results["reports"])
    if results["controls"]:
        lines += ["", "| deliberate mistake | noticed |", "|---|---|"]
    lines += [
        f"| {name} | {'yes' if caught else 'no'} |" for name, caught in results["controls"].items()
    ]
    return "\n".join(lines) + "\n"


def _dead_workers(reports: list[dict[str, Any]]) -> list[str]:
    """How long a run waits whose worker died in the middle of a step, and RQ's job beside it."""
    found = [each for each in reports if each["campaign"] == "dead worker"]
    if not found:
        return []
    lines = ["", "| a worker dies in a step | database | lease | goes on after |"]
    lines.append("|---|---|---:|---:|")
    for each in found:
        notes = each["notes"]
        lines.append(
            f"| flowroute | {each['database']} | {notes['lease seconds']:g} s | "
            f"{notes['goes on after seconds']} s |"
        )
    for notes in (each["notes"] for each in found if RAW in each["notes"]):
        after = f"not within {notes[RAW_BOUND]:g}" if notes[RAW] is None else notes[RAW]
        lines.append(f"| RQ alone, `Retry(max=3)` | | | {after} s |")
    return lines
