"""Worker steps per second from a full queue, against raw RQ."""

from __future__ import annotations

from functools import partial

from benchmarks.figure import Figure
from benchmarks.laboratory import Laboratory
from benchmarks.measuring import Measures, Result, at_least, interleave
from benchmarks.workers import BARRED, CLASSES, OWN, RAW, crews

BAR = at_least(0.8)


def measure(lab: Laboratory) -> Measures:
    """The workers stand still while the queue is filled, and start together."""
    repetitions = lab.choose(3, 1)
    databases = lab.choose(("sqlite", "postgresql"), ("sqlite",))
    for database in databases:
        for kind in lab.choose(tuple(CLASSES), ("inline",)):
            words = CLASSES[kind]
            count = lab.choose(150 if kind == "each" else 400, 5)
            for workers in lab.choose((1, 2), (2,)):
                celery = database == databases[0] and workers == 1 and kind in BARRED
                with crews(lab, database, kind, workers, celery=celery) as sides:
                    conditions = sides[OWN].asks.ask("settings")
                    drains = {side: partial(crew.drain, count) for side, crew in sides.items()}
                    samples = interleave(drains, repetitions, warm_up=False)
                name = "SQLite WAL FULL" if database == "sqlite" else "PostgreSQL"
                some = f"{workers} worker{'s' if workers > 1 else ''}"
                yield Result(
                    FIGURE.name,
                    f"{name}, {words}, {some} / raw RQ",
                    samples.ratio(OWN, RAW),
                    "ratio",
                    BAR if kind in BARRED else None,
                    {f"{side}, per second": each for side, each in samples.medians().items()},
                    repetitions,
                    conditions,
                )


FIGURE = Figure("drain", "Worker steps per second from a full queue, against raw RQ", measure)
