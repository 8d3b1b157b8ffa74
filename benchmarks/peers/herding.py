"""flowroute's recovery in front of very many runs that are due."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from benchmarks.crowd import crowd
from benchmarks.peers.resuming import Idle
from benchmarks.peers.settings import SECRET
from flowroute import Engine
from flowroute.engine.ports import Executor
from flowroute.engine.recovery import PASS_LIMIT
from flowroute.engine.schema import run_table
from flowroute.rq import RQExecutor


class Herding:
    """An engine and a herd.

    Parameters:
        engine: The engine.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._statements = 0
        event.listen(engine.database.engine, "before_cursor_execute", self._executed)

    def _executed(self, *_: Any) -> None:
        self._statements += 1

    def limit(self) -> int:
        """How many runs one pass looks at."""
        return PASS_LIMIT

    def due(self, count: int) -> None:
        """Put so many runs into the tables whose timer is over."""
        crowd(
            self._engine.database.engine,
            count,
            waiting_for="timer",
            due_in=timedelta(seconds=-1),
            real=count,
        )

    def first_pass(self, due: int) -> dict[str, int]:
        """Let recovery look once at so many."""
        self.due(due)
        self._engine.check_tables()
        before = self._statements
        recovered = self._engine.recover()
        return {"statements": self._statements - before, "timers": recovered.timers}

    def wait_until_done(self, count: int, seconds: float) -> int:
        """Wait until so many are done, at most so long; returns how many are not."""
        query = sa.select(sa.func.count()).where(run_table.c.state == "done")
        deadline = time.monotonic() + seconds
        while True:
            with self._engine.database.engine.connect() as connection:
                left = count - int(connection.execute(query).scalar_one())
            if left <= 0 or time.monotonic() >= deadline:
                return left
            time.sleep(0.1)


@contextmanager
def herding(url: str, redis_url: str | None = None) -> Iterator[Herding]:
    """On an empty database; hints go to a Redis, or nowhere."""
    executor: Executor = Idle() if redis_url is None else RQExecutor(redis_url)
    with Engine(url, secret_keys=[SECRET], executor=executor) as engine:
        engine.create_all()
        yield Herding(engine)
