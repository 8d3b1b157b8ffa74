"""A worker step's round trip, against raw RQ's from enqueueing to the result."""

from __future__ import annotations

from benchmarks.figure import Figure
from benchmarks.laboratory import Laboratory
from benchmarks.measuring import Measures, Result, at_most, percentile
from benchmarks.workers import BARRED, CLASSES, OWN, RAW, crews

BAR = at_most(1.25)


def measure(lab: Laboratory) -> Measures:
    """One after another, flowroute and raw RQ in turn, with workers of the same class.

    flowroute's time begins in the step that suspends the run, and ends in the step after the worker
    step: with two checkpoints and a claim. Raw RQ's is from `enqueue` to the result.
    """
    rounds = lab.choose(100, 3)
    databases = lab.choose(("sqlite", "postgresql"), ("sqlite",))
    for database in databases:
        for kind in lab.choose(tuple(CLASSES), ("fork",)):
            words = CLASSES[kind]
            took: dict[str, list[float]] = {}
            celery = database == databases[0] and kind in BARRED
            with crews(lab, database, kind, celery=celery) as sides:
                conditions = sides[OWN].asks.ask("settings")
                for number in range(-lab.choose(10, 1), rounds):
                    for side, crew in sides.items():
                        seconds = crew.round_trip()
                        if number >= 0:
                            took.setdefault(side, []).append(seconds)
            name = "SQLite WAL FULL" if database == "sqlite" else "PostgreSQL"
            for percent in (50, 95):
                at = {side: percentile(values, percent) for side, values in took.items()}
                yield Result(
                    FIGURE.name,
                    f"{name}, {words}, p{percent} / raw RQ",
                    at[OWN] / at[RAW],
                    "ratio",
                    BAR if kind in BARRED else None,
                    {f"{side}, ms": value * 1000 for side, value in at.items()},
                    rounds,
                    conditions,
                )


FIGURE = Figure("round-trip", "A worker step's round trip, against raw RQ", measure)
