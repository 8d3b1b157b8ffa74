"""The tables of docs/performance.md and docs/scaling.md, drawn from the results.

No number is typed by hand. The pages hold the prose. Between the comments `<!-- results: NAME -->`
and `<!-- end -->` stands what this module draws.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.contest import ROOT
from benchmarks.results import Stored

PAGES = [ROOT / "docs" / name for name in ("performance.md", "scaling.md")]
#: The profile of a transition before it was made quicker, at the commit that it names.
BEFORE = ROOT / "benchmarks" / "before.json"

#: From here on a number has no fraction.
THOUSAND = 1000

BLOCK = re.compile(r"(<!-- results: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def drawn(text: str, stored: Stored, before: Stored) -> str:
    """The page with every block drawn from the results.

    Parameters:
        text: The page as it is.
        stored: The results.
        before: Those from before.
    """

    def block(match: re.Match[str]) -> str:
        name = match[2]
        if name == "summary":
            lines = summary(stored)
        elif name == "conditions":
            lines = machine(stored)
        elif name == "profile":
            lines = profile(stored, before)
        else:
            lines = table([each for each in stored if each["figure"] == name])
        return f"{match[1]}\n" + "\n".join(lines) + f"\n\n{match[3]}"

    return BLOCK.sub(block, text)


def table(stored: Stored) -> list[str]:
    """A row for each result of one figure."""
    if not stored:
        return ["Not measured yet."]
    lines = ["| setting | measured | bar | | beside it |", "|---|---|---|---|---|"]
    for each in stored:
        beside = "; ".join(f"{name}: {number(value)}" for name, value in each["peers"].items())
        unit = "" if each["unit"] in {"ratio", "count"} else f" {each['unit']}"
        bar = (each["bar"] or "").replace("<=", "≤").replace(">=", "≥")
        cells = (each["setting"], f"{number(each['value'])}{unit}", bar, verdict(each), beside)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def summary(stored: Stored) -> list[str]:
    """How many bars hold, and each that does not."""
    judged = [each for each in stored if each["bar"]]
    missed = [each for each in judged if not each["holds"]]
    lines = [f"{len(judged) - len(missed)} of {len(judged)} bars hold."]
    if missed:
        lines += ["Missed:", "", "| figure | setting | measured | bar |", "|---|---|---|---|"]
        for each in missed:
            bar = each["bar"].replace("<=", "≤").replace(">=", "≥")
            cells = (each["figure"], each["setting"], number(each["value"]), bar)
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def machine(stored: Stored) -> list[str]:
    """On what was measured; figures measured apart may have been elsewhere."""
    seen: dict[str, list[str]] = {}
    for each in stored:
        conditions = each["conditions"]
        versions = ", ".join(
            f"{name} {version}" for name, version in conditions["versions"].items()
        )
        text = (
            f"{conditions['cpu']}, {conditions['cores']} cores, load {conditions['load']} at the "
            f"beginning; {conditions['system']}; fdatasync of 4 KiB "
            f"{conditions['fdatasync_microseconds']} µs; Python {conditions['python']}, SQLite "
            f"{conditions['sqlite']}; {versions}; commit {conditions['commit']}, "
            f"{conditions['measured_at']}"
        )
        figures = seen.setdefault(text, [])
        if each["figure"] not in figures:
            figures.append(each["figure"])
    return [f"* {', '.join(figures)}: {text}" for text, figures in seen.items()]


def profile(stored: Stored, before: Stored) -> list[str]:
    """Each part of a transition before and now."""
    now = {each["setting"]: each for each in stored if each["figure"] == "profile"}
    lines = [
        "| part | µs before | µs now | calls before | calls now |",
        "|---|---|---|---|---|",
    ]
    for each in before:
        name = each["setting"]
        pair = (each, now.get(name))
        times = [number(one["value"]) if one else "-" for one in pair]
        calls = [number(one["peers"]["function calls"]) if one else "-" for one in pair]
        lines.append(f"| {' | '.join((name, *times, *calls))} |")
    return lines


def verdict(result: dict[str, Any]) -> str:
    """Whether a bar is reached, in a word."""
    return {None: "", True: "holds", False: "**missed**"}[result["holds"]]


def number(value: float) -> str:
    """A number as people read it."""
    if value == int(value) or abs(value) >= THOUSAND:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def write(pages: Sequence[Path] = PAGES) -> None:
    """Draw the pages anew."""
    before: Stored = json.loads(BEFORE.read_text(encoding="utf-8"))
    for page in pages:
        text = drawn(page.read_text(encoding="utf-8"), results.read(), before)
        page.write_text(text, encoding="utf-8")
