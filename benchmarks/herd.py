"""Two thousand runs that are due at the same moment."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack

from benchmarks.figure import Figure
from benchmarks.laboratory import Laboratory
from benchmarks.measuring import Measures, Result, at_most, exactly
from benchmarks.watch import Connections

WORKERS = 2
#: Longest wait for all of them, in seconds.
PATIENCE = 300.0


def measure(lab: Laboratory) -> Measures:
    """Timers that are over, on PostgreSQL, and workers that find them."""
    count = lab.choose(2000, 60)
    few = lab.choose(200, 30)
    with lab.contestant("herding:herding", url=lab.database_url("postgresql")) as contestant:
        small = contestant.ask("first_pass", due=few)
    url = lab.database_url("postgresql")
    with lab.contestant("herding:herding", url=url) as contestant:
        large = contestant.ask("first_pass", due=count)
        limit = contestant.ask("limit")
    yield Result(
        FIGURE.name,
        f"statements of one recovery pass, {count} due / {few} due",
        large["statements"] / small["statements"],
        "ratio",
        at_most(1.1) if few >= limit else None,
        {
            f"statements, {count} due": large["statements"],
            f"statements, {few} due": small["statements"],
            "runs handled in a pass": limit,
        },
    )
    yield from work_off(lab, count)


def work_off(lab: Laboratory, count: int) -> Measures:
    """Two workers; each recovers once a second and works in between."""
    url = lab.database_url("postgresql")
    lab.redis.flush()
    with ExitStack() as stack:
        contestant = stack.enter_context(
            lab.contestant("herding:herding", url=url, redis_url=lab.redis.url)
        )
        contestant.ask("due", count=count)
        connections = stack.enter_context(Connections(url))
        began = time.monotonic()
        workers = [
            stack.enter_context(
                lab.program("benchmarks.worker", "own", "inline", lab.redis.url, url)
            )
            for _ in range(WORKERS)
        ]
        undone = contestant.ask("wait_until_done", count=count, seconds=PATIENCE)
        seconds = time.monotonic() - began
        # What a pool that is exhausted, or a server that is, would have been logged as.
        refused = sum(
            len(re.findall("QueuePool limit|too many clients", each.output)) for each in workers
        )
    yield Result(
        FIGURE.name,
        f"of {count} due runs, not done",
        undone,
        "runs",
        exactly(0),
        {"seconds until all were done, workers' start included": seconds},
    )
    yield Result(
        FIGURE.name,
        f"connections refused by a pool or by PostgreSQL, {WORKERS} workers",
        refused,
        "times",
        exactly(0),
        {
            "most connections at once": connections.most,
            "connections that PostgreSQL allows": connections.allowed,
        },
    )


FIGURE = Figure("herd", "Two thousand runs due at once, two workers", measure)
