"""CPU time of one transition in flowroute's process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from benchmarks import transitions
from benchmarks.contest import Contestant
from benchmarks.figure import Figure
from benchmarks.laboratory import Laboratory
from benchmarks.measuring import Bar, Measures, Result, at_most, interleave
from benchmarks.transitions import OWN

BARS: dict[str, Bar | None] = {
    "SQLite WAL FULL": at_most(0.30),
    "SQLite WAL NORMAL": None,
    "PostgreSQL": at_most(0.45),
}


def measure(lab: Laboratory) -> Measures:
    """A run in one thread; the process's CPU time over its steps."""
    steps = lab.choose(1000, 20)
    repetitions = lab.choose(7, 2)
    for name in lab.choose(tuple(BARS), ("SQLite WAL FULL",)):
        bar = BARS[name]
        kind, synchronous, _ = transitions.SETTINGS[name]
        with ExitStack() as stack:
            sides = transitions.contestants(lab, stack, kind, synchronous, dbos=False)
            conditions = sides[OWN].ask("settings")
            once = {side: milliseconds(contestant, steps) for side, contestant in sides.items()}
            samples = interleave(once, repetitions)
        peers = {f"{side}, ms": value for side, value in samples.medians(but=OWN).items()}
        common: dict[str, Any] = {"repetitions": repetitions, "conditions": conditions}
        yield Result(FIGURE.name, name, samples.median(OWN), "ms", bar, peers, **common)


def milliseconds(contestant: Contestant, steps: int) -> Callable[[], float]:
    """What measures one side."""
    return lambda: float(contestant.ask("run", steps=steps)["cpu_seconds"] / steps * 1000)


FIGURE = Figure("cpu", "CPU time of one inline transition", measure)
