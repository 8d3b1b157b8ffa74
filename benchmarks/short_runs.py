"""Short runs per second, from start to end, against DBOS."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from benchmarks.contest import Contestant
from benchmarks.figure import Figure
from benchmarks.laboratory import Laboratory, installed
from benchmarks.measuring import Measures, Result, at_least, interleave
from benchmarks.transitions import DBOS, OWN, SETTINGS


def measure(lab: Laboratory) -> Measures:
    """Runs of one, three and five steps, one after another."""
    repetitions = lab.choose(11, 1)  # a disk and a neighbour disturb one in three
    runs = lab.choose(200, 3)  # so many that each sample has its share of WAL checkpoints
    for name in lab.choose(tuple(SETTINGS), ("SQLite WAL FULL",)):
        kind, synchronous, _ = SETTINGS[name]
        with ExitStack() as stack:
            references = {OWN: "own:chain"}
            if installed(["dbos"]):
                references[DBOS] = "with_dbos:chain"
            sides = {
                side: stack.enter_context(
                    lab.contestant(reference, url=lab.database_url(kind), synchronous=synchronous)
                )
                for side, reference in references.items()
            }
            conditions = sides[OWN].ask("settings")
            for steps in (1, 3, 5):
                once = {side: rate(each, steps, runs) for side, each in sides.items()}
                samples = interleave(once, repetitions)
                words = f"{name}, {steps} step{'s' if steps > 1 else ''}"
                common: dict[str, Any] = {"repetitions": repetitions, "conditions": conditions}
                peers = {f"{side}, per second": each for side, each in samples.medians().items()}
                if DBOS not in sides:
                    value = samples.median(OWN)
                    yield Result(
                        FIGURE.name, words, value, "runs per second", None, peers, **common
                    )
                    continue
                ratio = samples.ratio(OWN, DBOS)
                words += " / DBOS"
                yield Result(FIGURE.name, words, ratio, "ratio", at_least(4), peers, **common)


def rate(contestant: Contestant, steps: int, runs: int) -> Callable[[], float]:
    """What measures one side."""
    return lambda: float(runs / contestant.ask("short", steps=steps, runs=runs)["seconds"])


FIGURE = Figure("short-runs", "Short runs per second, against DBOS", measure)
