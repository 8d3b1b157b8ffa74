"""Break everything: ``python -m tests.faults [--only NAME]... [--database D] [--seed N]``.

Both databases are broken at the same time, each by a process of its own. What was found goes to
build/faults.json, and, if everything was run, into docs/reliability.md. Ends with 1 if anything was
lost, doubled or stuck, if a control passed, or if fewer faults were injected than promised.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.engine.conftest import make_tables
from tests.faults import (
    ambiguity,
    contention,
    crashes,
    delivery,
    doors,
    forms,
    mutants,
    odd,
    storage,
)
from tests.faults.chaos import campaign as chaos
from tests.faults.chaos.controls import run_chaos_controls
from tests.faults.chaos.directed import dead_workers
from tests.faults.controls import run_controls
from tests.faults.databases import databases
from tests.faults.page import write
from tests.faults.report import Report

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "build" / "faults.json"
KINDS = ("sqlite", "postgresql")
CHAOS_RUNS = 3
CHAOS_SECONDS = 60.0
LEAST = {"crash points": 2_000, "double crashes": 1_000}
LEAST_FENCED = 200

NewUrl = Callable[[], str]


def with_tables(new_url: NewUrl) -> str:
    """A database with flowroute's tables."""
    url = new_url()
    make_tables(url)
    return url


CAMPAIGNS: dict[str, Callable[[str, NewUrl, int], list[Report]]] = {
    "crash-points": lambda kind, new, seed: [crashes.crash_points(kind, new(), seed=seed)],
    "double-crashes": lambda kind, new, seed: [
        crashes.double_crashes(kind, new(), seed=seed, count=500)
    ],
    "zombies": lambda kind, new, seed: [crashes.zombies(kind, new(), seed=seed)],
    "ambiguous-commits": lambda kind, new, seed: [
        ambiguity.ambiguous_commits(kind, new(), seed=seed, pairs=4)
    ],
    "delivery": lambda kind, new, seed: [
        delivery.deliveries(kind, new(), seed=seed),
        forms.simultaneous_posts(kind, new(), seed=seed),
    ],
    "storage": lambda kind, new, seed: (
        [storage.storage(kind, new(), seed=seed)] if kind == "sqlite" else []
    ),
    "contention": lambda kind, new, seed: [contention.contention(kind, new(), seed=seed)],
    "chaos": lambda kind, _new, seed: [
        chaos.campaign(kind, seed=seed + run, seconds=CHAOS_SECONDS, floors=True)
        for run in range(CHAOS_RUNS)
    ],
    "dead-worker": lambda kind, _new, _seed: dead_workers(kind, raw=kind == KINDS[0]),
    "odd": lambda _kind, new, seed: [odd.campaign(with_tables(new), seed=seed)],
    # What reads bytes or answers requests is the same whatever the database.
    "mutants": lambda kind, new, seed: (
        [mutants.campaign(with_tables(new), seed=seed, processes=1)] if kind == "sqlite" else []
    ),
    "doors": lambda kind, new, seed: [doors.campaign(new(), seed=seed)] if kind == "sqlite" else [],
}


def say(kind: str, text: str) -> None:
    """Print a line at once: two processes share the output."""
    sys.stdout.write(f"{kind:10}  {text}\n")
    sys.stdout.flush()


def one_database(kind: str, names: list[str], seed: int, output: Path) -> None:
    """Run campaigns, and the controls, against one database."""
    found: dict[str, Any] = {"reports": [], "controls": {}}
    with databases(kind) as new_url:
        for name in names:
            began = time.monotonic()
            if name == "controls":
                for title, caught in run_controls(kind, new_url, seed=seed).items():
                    found["controls"][f"{title} ({kind})"] = caught
                    say(kind, f"control: {title}: {'caught' if caught else 'PASSED'}")
                continue
            for report in CAMPAIGNS[name](kind, new_url, seed):
                found["reports"].append(report.as_json())
                say(kind, f"{line(report.as_json())}  ({time.monotonic() - began:.0f} s)")
        if "chaos" in names and kind == KINDS[0]:
            for title, wrong in run_chaos_controls(kind).items():
                found["controls"][f"chaos: {title}"] = not wrong
                say(kind, f"control: chaos: {title}: {wrong or 'caught'}")
    output.write_text(json.dumps(found, default=str), encoding="utf-8")


def line(report: dict[str, Any]) -> str:
    """One report as a line."""
    wrong = [f"{len(report[kind])} {kind}" for kind in ("lost", "doubled", "stuck", "broken")]
    heal = report["heal_p50_seconds"]
    healed = "" if heal is None else f", heals in {heal:.2f}/{report['heal_p99_seconds']:.2f} s"
    return (
        f"{report['campaign']}: {report['points']} points, {report['injected']} faults, "
        f"{report['fenced']} fenced, {', '.join(wrong)}{healed}, seed {report['seed']}"
    )


def failures(reports: list[dict[str, Any]], controls: dict[str, bool], *, full: bool) -> list[str]:
    """Why this is no success, in words."""
    found = [
        f"{report['campaign']} on {report['database']}: {kind}: {each}"
        for report in reports
        for kind in ("lost", "doubled", "stuck", "broken")
        for each in report[kind][:3]
    ]
    found += [f"the control {name!r} passed" for name, caught in controls.items() if not caught]
    if full:
        for name, least in LEAST.items():
            tried = sum(each["points"] for each in reports if each["campaign"] == name)
            if tried < least:
                found.append(f"{tried} {name} were tried, fewer than {least}")
        fenced = sum(each["fenced"] for each in reports)
        if fenced < LEAST_FENCED:
            found.append(f"{fenced} zombies were fenced, fewer than {LEAST_FENCED}")
    return found


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", action="append", choices=[*CAMPAIGNS, "controls"])
    parser.add_argument("--database", choices=KINDS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--part", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = arguments.only or [*CAMPAIGNS, "controls"]
    # So that all that was started is ended too, in the parts as in here.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if arguments.part is not None:
        logging.disable(logging.CRITICAL)  # thousands of steps fail, as they are meant to
        one_database(arguments.database, names, arguments.seed, arguments.part)
        return 0
    began = time.monotonic()
    kinds = (arguments.database,) if arguments.database else KINDS
    full = arguments.only is None and arguments.database is None
    RESULTS.parent.mkdir(exist_ok=True)
    parts = {kind: RESULTS.with_name(f"faults.{kind}.json") for kind in kinds}
    only = [word for name in names for word in ("--only", name)]
    command = [sys.executable, "-m", "tests.faults", "--seed", str(arguments.seed), *only]
    running = [
        subprocess.Popen([*command, "--database", kind, "--part", str(part)], cwd=ROOT)
        for kind, part in parts.items()
    ]
    try:
        codes = [process.wait() for process in running]
    finally:
        for process in running:
            process.terminate()  # nothing, if it has ended
    found = [json.loads(part.read_text("utf-8")) for part in parts.values() if part.exists()]
    for part in parts.values():
        part.unlink(missing_ok=True)
    reports = [report for each in found for report in each["reports"]]
    controls = {name: caught for each in found for name, caught in each["controls"].items()}
    wrong = failures(reports, controls, full=full)
    wrong += [
        f"the campaigns on {k} did not end" for k, code in zip(kinds, codes, strict=True) if code
    ]
    results = {
        "seed": arguments.seed,
        "seconds": round(time.monotonic() - began),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), "sqlalchemy": sa.__version__},
        "reports": reports,
        "controls": controls,
    }
    RESULTS.write_text(json.dumps(results, indent=1), encoding="utf-8")
    if full and not wrong:
        write(results)
    say("all", f"{results['seconds']} s; " + ("; ".join(wrong) or "nothing lost, nothing twice"))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
