"""One run of chaos: load and faults for some time, then healing, then the audit."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.faults.chaos.audit import audit, unfinished
from tests.faults.chaos.faults import EVERYTHING, Faults
from tests.faults.chaos.load import Accepted, Load
from tests.faults.chaos.situations import outlast_the_lease
from tests.faults.chaos.system import System
from tests.faults.report import Report

if TYPE_CHECKING:
    from collections.abc import Iterable

HEAL_SECONDS: Final = 30.0
"""How long the runs may take to come to their ends once the faults are over: a lease, and the line
of those that wait for a worker."""
FLOORS: Final = {
    "pages answered": 15,
    "cancelled": 8,
    "runs of the script": 8,
    "zombies fenced": 15,
    "faults": 40,
    EVERYTHING: 1,
}
"""What a full campaign has to meet, or it shows too little."""
RESTART_AT: Final = 0.4
"""At which part of its time everything is restarted at once."""
FURTHER_SECONDS: Final = 5.0
"""How much longer it goes on at a time where it has met too little."""


def campaign(
    database: str, *, seed: int, seconds: float, floors: bool = False, output: Path | None = None
) -> Report:
    """Break a running system under load, let it heal, and count the damage.

    Args:
        database: sqlite or postgresql.
        seed: decides the faults and the load.
        seconds: how long there are faults of chance; before, one of each kind is injected.
        floors: whether a campaign that meets too little goes on for longer, and then is `broken`.
        output: where to keep what the processes printed; None: it is dropped.

    Returns:
        The report; `points` are the runs that were accepted.
    """
    report = Report("chaos", database, seed)
    with System(database) as system:
        system.supervise()
        report.broken += outlast_the_lease(system)
        break_and_heal(system, report, seconds, floors=floors)
        if output is not None:
            output.write_text(system.output, encoding="utf-8")
    return report


def break_and_heal(system: System, report: Report, seconds: float, *, floors: bool = False) -> None:
    """Load and faults on a system that runs; what is found is added to the report.

    Args:
        system: The system, supervised.
        report: Has the seed.
        seconds: How long there are faults of chance.
        floors: Whether to go on for up to as long again, until the load has met enough.
    """
    load, faults = Load(system.url, report.seed), Faults(system, report.seed)
    load.begin()
    try:
        try:
            missing = faults.each_once()
            report.broken += [f"no chance for the fault {name!r}" for name in missing]
            faults.run(seconds, everything_at=RESTART_AT * seconds)
            until = time.monotonic() + seconds
            while floors and _count(report, system, load, faults) and time.monotonic() < until:
                faults.run(FURTHER_SECONDS)
        finally:
            faults.undo()
        load.start_nothing_more()
        system.let_script_start_nothing()
        _heal(system, load, report)
    finally:
        load.end()
    accepted = [each for visitor in load.visitors for each in visitor.accepted]
    script = _of_script(system)
    audit(system.engine, [*accepted, *script], report)
    report.doubled += [each for visitor in load.visitors for each in visitor.broken]
    report.doubled += _of_two_runs(script)
    report.broken += system.broken
    report.points = len(accepted) + len(script)
    too_few = _count(report, system, load, faults)
    report.broken += too_few if floors else []


def _of_script(system: System) -> list[Accepted]:
    return [Accepted(*each, "") for each in sorted(set(system.started_by_script()))]


def _count(report: Report, system: System, load: Load, faults: Faults) -> list[str]:
    """Note what was met so far.

    Returns:
        What a full campaign should meet more often.
    """
    report.injected = faults.injected.total()
    report.fenced = system.fenced()
    report.notes |= {
        "faults": dict(faults.injected),
        "pages answered": sum(visitor.answers for visitor in load.visitors),
        "cancelled": sum(visitor.cancels for visitor in load.visitors),
        "runs of the script": len(_of_script(system)),
        "requests without an answer": sum(visitor.unanswered for visitor in load.visitors),
        "restarts": system.restarts,
    }
    met = report.notes | {
        "zombies fenced": report.fenced,
        "faults": report.injected,
        EVERYTHING: faults.injected[EVERYTHING],
    }
    return [f"{name}: {met[name]}, fewer than {n}" for name, n in FLOORS.items() if met[name] < n]


def _of_two_runs(script: Iterable[Accepted]) -> list[str]:
    seen: dict[str, str] = {}
    return [
        f"key {each.key} of the script has the runs {seen[each.key]} and {each.run_id}"
        for each in script
        if seen.setdefault(each.key, each.run_id) != each.run_id
    ]


def _heal(system: System, load: Load, report: Report) -> None:
    """Wait until every run is at its end, and note how long each took."""
    began = time.monotonic()
    healing = unfinished(system.engine)
    report.notes["unfinished after the faults"] = len(healing)
    while (passed := time.monotonic() - began) < HEAL_SECONDS:
        still = unfinished(system.engine)
        report.heal_seconds += [passed] * len(healing - still)
        healing = still
        if not still and load.settled:
            break
        time.sleep(0.1)
