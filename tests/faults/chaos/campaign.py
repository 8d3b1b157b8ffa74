"""One run of chaos: load and faults for some time, then healing, then the audit."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Final

from tests.faults.chaos.application import VARIANTS
from tests.faults.chaos.audit import audit, unfinished
from tests.faults.chaos.faults import Faults
from tests.faults.chaos.load import Load
from tests.faults.chaos.system import System
from tests.faults.report import Report

HEAL_SECONDS: Final = 120.0
"""How long the runs may take to come to their ends once the faults are over."""


def campaign(database: str, *, seed: int, seconds: float, output: Path | None = None) -> Report:
    """Break a running system under load, let it heal, and count the damage.

    Args:
        database: sqlite or postgresql.
        seed: decides the faults and the load.
        seconds: how long there are faults.
        output: where to keep what the processes printed; None: it is dropped.

    Returns:
        The report; `points` are the runs that were accepted.
    """
    return _campaign(database, seed=seed, seconds=seconds, output=output)


def controls(*, seed: int) -> dict[str, Report]:
    """The same with an application that breaks the protocol: none of these may be clean.

    Args:
        seed: decides the faults and the load.

    Returns:
        A report for each variant.
    """
    return {
        variant: _campaign("sqlite", seed=seed, seconds=8, heal_seconds=6, variant=variant)
        for variant in VARIANTS
    }


def _campaign(
    database: str,
    *,
    seed: int,
    seconds: float,
    heal_seconds: float = HEAL_SECONDS,
    variant: str = "",
    output: Path | None = None,
) -> Report:
    report = Report("chaos", database, seed)
    with System(database, variant=variant) as system:
        system.supervise()
        load, faults = Load(system.url, seed), Faults(system, seed)
        load.begin()
        try:
            faults.run(seconds, threading.Event())
            load.start_nothing_more()
            _heal(system, load, heal_seconds, report)
        finally:
            load.end()
        accepted = [each for visitor in load.visitors for each in visitor.accepted]
        audit(system.engine, accepted, report)
        report.doubled += [each for visitor in load.visitors for each in visitor.broken]
        report.points = len(accepted)
        report.injected = faults.injected.total()
        report.fenced = system.fenced
        report.notes |= {
            "faults": dict(faults.injected),
            "pages answered": sum(visitor.answers for visitor in load.visitors),
            "cancelled": sum(visitor.cancels for visitor in load.visitors),
            "requests without an answer": sum(visitor.unanswered for visitor in load.visitors),
            "restarts": system.restarts,
        }
        if output is not None:
            output.write_text(system.output, encoding="utf-8")
    return report


def _heal(system: System, load: Load, heal_seconds: float, report: Report) -> None:
    """Wait until every run is at its end, and note how long each took."""
    began = time.monotonic()
    healing = unfinished(system.engine)
    while (passed := time.monotonic() - began) < heal_seconds:
        still = unfinished(system.engine)
        report.heal_seconds += [passed] * len(healing - still)
        healing = still
        if not still and load.settled:
            break
        time.sleep(0.1)
