"""flowroute under a load of orders: started at a rate or all at once, and what they left."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from benchmarks.flows import TEXT, Order
from benchmarks.peers.hinted import engine_on
from flowroute import Engine
from flowroute.engine.schema import checkpoint_table, run_table
from tests.waiting import wait_until

#: Longest wait for anything, in seconds.
PATIENCE = 120.0


class Ordering:
    """Starts orders.

    Parameters:
        engine: Where.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def start(self, count: int, before: int, after: int, rate: float = 0.0) -> float:
        """Start so many orders; returns the seconds that took.

        Parameters:
            count: How many.
            before: Plain steps before the worker step.
            after: Plain steps after it.
            rate: How many a second, at random instants; 0: as fast as they can be started.
        """
        chance = random.Random(7)  # noqa: S311 - the same arrivals each time
        began = due = time.monotonic()
        for _ in range(count):
            if rate:
                due += chance.expovariate(rate)
                time.sleep(max(0.0, due - time.monotonic()))
            self._engine.start(Order(before=before, after=after).begin(before, TEXT))
        return time.monotonic() - began

    def until_done(self, total: int) -> float:
        """Seconds until so many runs are done."""
        began = time.monotonic()
        query = sa.select(sa.func.count()).where(run_table.c.state == "done")
        bind = self._engine.database.engine

        def done() -> bool:
            with bind.connect() as connection:
                return int(connection.execute(query).scalar_one()) >= total

        wait_until(done, PATIENCE, what=f"{total} runs are done", poll_seconds=0.05)
        return time.monotonic() - began

    def mean_seconds(self, newest: int) -> float:
        """The mean of how long the newest runs took from their start to their end."""
        columns = (run_table.c.created_at, run_table.c.finished_at)
        query = sa.select(*columns).order_by(run_table.c.created_at.desc()).limit(newest)
        with self._engine.database.engine.connect() as connection:
            rows = connection.execute(query).all()
        return statistics.fmean((end - begin).total_seconds() for begin, end in rows)

    def totals(self) -> dict[str, Any]:
        """Rows, bytes with indexes, and commits so far."""
        with self._engine.database.engine.connect() as connection:

            def count(table: sa.Table) -> int:
                query = sa.select(sa.func.count()).select_from(table)
                return int(connection.execute(query).scalar_one())

            found: dict[str, Any] = {
                "runs": count(run_table),
                "checkpoints": count(checkpoint_table),
            }
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
                pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
                size = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
                return found | {"bytes": pages * size}
            sizes = sa.text(
                "SELECT pg_total_relation_size('flowroute_run') "
                "+ pg_total_relation_size('flowroute_checkpoint')"
            )
            found["bytes"] = int(connection.execute(sizes).scalar_one())
        return found


@contextmanager
def ordering(url: str, redis_url: str) -> Iterator[Ordering]:
    """Whoever starts orders."""
    with engine_on(url, redis_url) as engine:
        engine.create_all()
        yield Ordering(engine)
