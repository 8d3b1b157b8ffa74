"""Deliberate mistakes in an application under chaos: each has to be noticed for its own reason.

Each control is one directed fault, so that it is certain to be hit; the application without a
mistake gets the same faults and the same time, and has to be found clean.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.faults.chaos import situations, variants
from tests.faults.chaos.audit import audit, unfinished
from tests.faults.chaos.flows import TWO_COMMITS
from tests.faults.chaos.system import TWO_WORKERS, System
from tests.faults.report import Report
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.faults.chaos.situations import Situation

CORRECT: Final = ""
"""The variant without a mistake."""
END_SECONDS: Final = 12.0
"""How long after the fault the run may take to come to its end: a lease of 2 s, and much more."""
AT_ONCE: Final = 2
"""How many systems run at the same time: they mostly wait."""


@dataclass(frozen=True, slots=True)
class Control:
    """A mistake, what makes it show, and as what."""

    variant: str
    situation: Situation
    shows: str
    """The list of the report in which it has to be found; nothing else counts."""


CONTROLS: Final = (
    Control(TWO_COMMITS, situations.kill_between_effect_and_checkpoint, "doubled"),
    Control(variants.NO_RECOVERY, situations.kill_between_effect_and_checkpoint, "stuck"),
    Control(variants.ENDLESS_LEASE, situations.kill_between_effect_and_checkpoint, "stuck"),
    Control(variants.LOST_HINTS, situations.lose_the_hint, "stuck"),
    Control(variants.NO_HEARTBEAT, situations.outlast_the_lease, "broken"),
    Control(variants.DEAF, situations.freeze_between_effect_and_checkpoint, "doubled"),
)


def run_chaos_controls(database: str) -> dict[str, str]:
    """Run every control, and the application without a mistake.

    Args:
        database: sqlite or postgresql.

    Returns:
        By the name of each, what is wrong with it; nothing if it was noticed, or found clean.
    """
    tried: dict[str, list[Situation]] = {CORRECT: []}
    for control in CONTROLS:
        tried[control.variant] = [control.situation]
        if control.situation not in tried[CORRECT]:
            tried[CORRECT].append(control.situation)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(lambda each: break_once(database, each, tried[each]), tried)
        reports = dict(zip(tried, found, strict=True))
    correct = reports[CORRECT]
    wrong = {"no mistake, and found clean": "" if correct.clean else f"is not clean: {correct}"}
    return wrong | {each.variant: missed(each, reports[each.variant]) for each in CONTROLS}


def missed(control: Control, report: Report) -> str:
    """Why a control was not noticed, or not for its own reason; empty: it was."""
    if getattr(report, control.shows):
        return ""
    return f"shows nothing {control.shows}: {report}"


def break_once(database: str, variant: str, faults: list[Situation]) -> Report:
    """Break a system with a mistake by each of some faults, and count the damage.

    Args:
        database: sqlite or postgresql.
        variant: The mistake.
        faults: What to do, one after another.
    """
    report = Report("chaos control", database, 0, points=len(faults))
    with System(database, TWO_WORKERS, variant=variant) as system:
        for fault in faults:
            report.broken += fault(system)
            report.injected += 1
        try:
            wait_until(lambda: not unfinished(system.engine), END_SECONDS, poll_seconds=0.1)
        except AssertionError:
            report.notes["ended"] = False  # the audit names what is stuck
        audit(system.engine, [], report)
        report.fenced = system.fenced()
        report.broken += system.broken
    return report
