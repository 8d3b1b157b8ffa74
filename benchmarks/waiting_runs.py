"""What waiting runs cost: nothing in the process, and little when one among many is resumed."""

from __future__ import annotations

import random

from benchmarks.contest import Contestant
from benchmarks.figure import Figure
from benchmarks.laboratory import Laboratory
from benchmarks.measuring import Measures, Result, at_most, exactly, percentile

YEAR_SECONDS = 365 * 86400.0
#: What half of the runs each wait for, and when recovery looks at them.
KINDS = (("timer", YEAR_SECONDS), ("page", None))


def measure(lab: Laboratory) -> Measures:
    """Memory and threads on SQLite; resuming among few and among many on both."""
    yield from memory(lab)
    for kind in lab.choose(("sqlite", "postgresql"), ("sqlite",)):
        yield from resume(lab, kind)


def memory(lab: Laboratory) -> Measures:
    """The same process before and after more runs came, half of them timers and half at pages."""
    count = lab.choose(100_000, 2_000)
    passes = lab.choose(20, 3)
    url = lab.database_url("sqlite")
    with (
        lab.contestant("waiting:threaded", url=url, synchronous="FULL") as engine,
        lab.contestant("waiting:waiting", url=url, synchronous="OFF") as writer,
    ):
        # Many are there from the start, so that the database's page cache is what it will be.
        for waiting_for, due_in in KINDS:
            writer.ask("add", count=count // 2, waiting_for=waiting_for, due_in_seconds=due_in)
        engine.ask("look", passes=passes)
        before = engine.ask("look", passes=passes)
        for waiting_for, due_in in KINDS:
            writer.ask("add", count=count // 2, waiting_for=waiting_for, due_in_seconds=due_in)
        after = engine.ask("look", passes=passes)
    threads = after["threads"] - before["threads"]
    yield Result(
        FIGURE.name, f"threads for {count} more waiting runs", threads, "threads", exactly(0)
    )
    each = round((after["bytes"] - before["bytes"]) / count)
    yield Result(
        FIGURE.name,
        f"memory for each of {count} more waiting runs",
        max(each, 0),
        "bytes",
        exactly(0),
        {"before, MB": before["bytes"] / 1e6, "after, MB": after["bytes"] / 1e6},
    )


def resume(lab: Laboratory, kind: str) -> Measures:
    """A worker step among few runs and among many, in turn."""
    few, many = lab.choose((1_000, 1_000_000), (100, 1_000))
    rounds = lab.choose(20, 2)
    each = lab.choose(15, 3)
    url_few, url_many = lab.database_url(kind), lab.database_url(kind)
    with (
        lab.contestant("waiting:waiting", url=url_few, synchronous="FULL") as among_few,
        lab.contestant("waiting:waiting", url=url_many, synchronous="FULL") as among_many,
    ):
        real = (rounds + 1) * each
        for contestant, count in ((among_few, few), (among_many, many)):
            contestant.ask(
                "add", count=count, waiting_for="worker", due_in_seconds=YEAR_SECONDS, real=real
            )
        took: dict[Contestant, list[float]] = {among_few: [], among_many: []}
        for number in range(rounds + 1):
            order = list(took)
            random.shuffle(order)
            for contestant in order:
                found = contestant.ask("resume", count=each)
                if number:  # the first opens connections and compiles
                    took[contestant] += found
    words = "SQLite WAL FULL" if kind == "sqlite" else "PostgreSQL"
    p95 = {"few": percentile(took[among_few], 95), "many": percentile(took[among_many], 95)}
    p50 = {"few": percentile(took[among_few], 50), "many": percentile(took[among_many], 50)}
    yield Result(
        FIGURE.name,
        f"{words}, resume p95 among {many} rows / among {few}",
        p95["many"] / p95["few"],
        "ratio",
        at_most(1.5),
        {
            f"among {few}, p95 ms": p95["few"] * 1000,
            f"among {many}, p95 ms": p95["many"] * 1000,
            f"among {few}, p50 ms": p50["few"] * 1000,
            f"among {many}, p50 ms": p50["many"] * 1000,
        },
        rounds * each,
    )


FIGURE = Figure("waiting-runs", "What waiting runs cost, and resuming one among many", measure)
