"""What one transition asks of the database: counted, never timed."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import sqlalchemy as sa

from benchmarks.figure import Figure
from benchmarks.laboratory import Laboratory
from benchmarks.measuring import Measures, Result, at_most, exactly
from benchmarks.relay import Relay

FEW, MANY = 10, 110


def measure(lab: Laboratory) -> Measures:
    """The difference of a long and a short run, so that starting and ending drop out."""
    for kind in ("sqlite", "postgresql"):
        with ExitStack() as stack:
            url = sa.make_url(lab.database_url(kind))
            relay = None
            if kind == "postgresql":
                relay = stack.enter_context(Relay(int(url.port or 0)))
                url = url.set(port=relay.port)
            address = url.render_as_string(hide_password=False)
            contestant = stack.enter_context(
                lab.contestant("counted:counted", url=address, synchronous="FULL")
            )
            counts: list[dict[str, Any]] = []
            for steps in (FEW, FEW, MANY):  # the first opens connections and compiles
                before = relay.round_trips if relay else 0
                counted = contestant.ask("run", steps=steps)
                counted["round trips"] = relay.round_trips - before if relay else 0
                counts.append(counted)
        _, short, long = counts
        each = {name: (long[name] - short[name]) / (MANY - FEW) for name in long}
        words = "SQLite" if kind == "sqlite" else "PostgreSQL"
        yield Result(FIGURE.name, f"{words}, commits", each["commits"], "count", exactly(1))
        yield Result(FIGURE.name, f"{words}, statements", each["statements"], "count", at_most(2))
        if relay:
            trips = each["round trips"]
            yield Result(FIGURE.name, f"{words}, round trips", trips, "count", at_most(3))


FIGURE = Figure("database-work", "Database work of one inline transition", measure)
