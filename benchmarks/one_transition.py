"""Where the time of one transition goes."""

from __future__ import annotations

import statistics

from benchmarks.figure import Figure
from benchmarks.laboratory import Laboratory
from benchmarks.measuring import Measures, Result


def measure(lab: Laboratory) -> Measures:
    """Under Python's profiler, grouped by the part of the program."""
    steps = lab.choose(1000, 20)
    repetitions = lab.choose(5, 1)
    for kind, words in (("sqlite", "SQLite WAL FULL"), ("postgresql", "PostgreSQL")):
        url = lab.database_url(kind)
        with lab.contestant("profiled:profiled", url=url, synchronous="FULL") as contestant:
            found = [contestant.ask("run", steps=steps) for _ in range(repetitions)]
        for part in found[0]:
            microseconds = statistics.median(each[part]["microseconds"] for each in found)
            calls = statistics.median(each[part]["calls"] for each in found)
            yield Result(
                FIGURE.name,
                f"{words}, {part}",
                microseconds,
                "µs",
                None,
                {"function calls": calls},
                repetitions,
            )


FIGURE = Figure("profile", "Where the time of one inline transition goes", measure)
