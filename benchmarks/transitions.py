"""Inline transitions per second, against the limit, the bare driver and DBOS."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from typing import Any

from benchmarks.contest import Contestant
from benchmarks.figure import Figure
from benchmarks.flows import tuned_chain
from benchmarks.laboratory import Laboratory, installed
from benchmarks.measuring import Bar, Measures, Result, at_least, interleave

SETTINGS = {
    "SQLite WAL FULL": ("sqlite", "FULL", at_least(0.75)),
    "SQLite WAL NORMAL": ("sqlite", "NORMAL", at_least(0.4)),
    "PostgreSQL": ("postgresql", "FULL", at_least(0.75)),
}
TIMES_DBOS = at_least(3.5)
OWN, SUSPENSION, CORE, DRIVER, DBOS = (
    "flowroute",
    "flowroute, checkpoint at suspension",
    "Core",
    "driver",
    "DBOS",
)


def measure(lab: Laboratory) -> Measures:
    """Each setting with one thread and with eight, a run in each."""
    names = lab.choose(tuple(SETTINGS), ("SQLite WAL FULL", "PostgreSQL"))
    for name in names:
        kind, synchronous, bar = SETTINGS[name]
        with ExitStack() as stack:
            sides = contestants(lab, stack, kind, synchronous)
            conditions = sides[OWN].ask("settings")
            for threads in (1, 8):
                steps = lab.choose(1000, 20)
                yield from compare(lab, sides, (name, threads, steps), bar, conditions)


def contestants(
    lab: Laboratory, stack: ExitStack, kind: str, synchronous: str, *, dbos: bool = True
) -> dict[str, Contestant]:
    """Everybody on a database of its own, of the same kind and with the same PRAGMAs."""
    references: dict[str, tuple[str, dict[str, Any]]] = {
        OWN: ("own:chain", {}),
        CORE: ("core:chain", {}),
        DRIVER: ("driver:chain", {}),
    }
    if accepts_suspension():
        options = {"options": {"checkpoint": "suspension"}}
        references[SUSPENSION] = ("own:chain", options)
    if dbos and installed(["dbos"]):
        references[DBOS] = ("with_dbos:chain", {})
    return {
        side: stack.enter_context(
            lab.contestant(
                reference, url=lab.database_url(kind), synchronous=synchronous, **arguments
            )
        )
        for side, (reference, arguments) in references.items()
    }


def compare(
    lab: Laboratory,
    sides: dict[str, Contestant],
    setting: tuple[str, int, int],
    bar: Bar,
    conditions: dict[str, Any],
) -> Measures:
    """One setting."""
    name, threads, steps = setting

    def rate(side: str) -> Callable[[], float]:
        # DBOS is an order slower: with eight threads a quarter of the steps shows as much.
        count = steps // 4 if side == DBOS and threads > 1 else steps

        def once() -> float:
            took = sides[side].ask("run", steps=count, threads=threads)
            return float(threads * count / took["seconds"])

        return once

    repetitions = lab.choose(7 if threads == 1 else 3, 2)
    for side in sides.values():
        side.ask("run", steps=lab.choose(100, 5), threads=threads)
    samples = interleave({side: rate(side) for side in sides}, repetitions, warm_up=False)
    words = f"{name}, {threads} thread{'s' if threads > 1 else ''}"
    peers = {f"{side}, per second": value for side, value in samples.medians().items()}
    common: dict[str, Any] = {"repetitions": repetitions, "conditions": conditions}
    ratio = samples.ratio(OWN, CORE)
    yield Result(FIGURE.name, f"{words} / Core", ratio, "ratio", bar, peers, **common)
    if DBOS in sides:
        ratio = samples.ratio(OWN, DBOS)
        yield Result(FIGURE.name, f"{words} / DBOS", ratio, "ratio", TIMES_DBOS, peers, **common)
    if SUSPENSION in sides:
        ratio = samples.ratio(SUSPENSION, CORE)
        words += ", checkpoint at suspension / Core"
        yield Result(FIGURE.name, words, ratio, "ratio", None, peers, **common)


@cache
def accepts_suspension() -> bool:
    """Whether a flow may ask to be stored only where it leaves the process."""
    try:
        tuned_chain(checkpoint="suspension")
    except TypeError:
        return False
    return True


FIGURE = Figure("transitions", "Inline transitions per second, against the limit and DBOS", measure)
