"""flowroute: entering the next step of a run that has many behind it."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from benchmarks.flows import TEXT
from benchmarks.peers.settings import SECRET, use_pragmas
from flowroute import Continuation, Engine, Flow, Retry, step, worker_step
from flowroute.engine.schema import run_table

if TYPE_CHECKING:
    from flowroute.engine.ports import Hint

entered: list[float] = []
"""When the step after the restart was entered."""


class Long(Flow):
    """So many trivial steps, and then one on a worker."""

    @step(start=True)
    def work(self, left: int, text: str) -> Continuation[None]:
        """One of many."""
        return self.work(left - 1, text) if left > 1 else self.rest(left)

    @worker_step(retry=Retry(1000), to=["done"])
    def rest(self, left: int) -> Continuation[None]:
        """The one that a restart enters."""
        entered.append(time.perf_counter())
        raise Entered(left)


class Entered(Exception):
    """The step was entered: what it does is not measured."""


class Idle:
    """An executor that leaves worker steps to whoever calls `Engine.advance`."""

    name = "idle"

    def attach(self, engine: Engine) -> None:
        """Nothing to remember."""

    def start(self) -> None:
        """Nothing works in the background."""

    def submit(self, hint: Hint) -> None:
        """Nothing is done."""

    def close(self) -> None:
        """Nothing works in the background."""


class Resuming:
    """Runs that wait for a worker step.

    Parameters:
        url: Their database.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine: Engine | None = None

    def prepare(self, steps: int) -> dict[str, Any]:
        """Start a run and bring it so far; returns its id and where it stands."""
        with self._open() as engine:
            engine.create_all()
            run = engine.start(Long().work(steps, TEXT))
            return {"run_id": run.id, "seq": run.record.seq}

    def restart(self, run_id: str, seq: int) -> float:
        """Seconds from making the engine to the step, as after a restart; in a new process."""
        row = self._row(run_id)
        gc.collect()
        began = time.perf_counter()
        with self._open() as engine:
            engine.advance(run_id, seq)
            took = entered.pop() - began
            self._put_back(engine, row)
        return took

    def again(self, run_id: str, seq: int, times: int) -> list[float]:
        """Seconds to the step in a process that is warm, so many times."""
        row = self._row(run_id)
        took: list[float] = []
        if self._engine is None:
            self._engine = self._open()
        for _ in range(times):
            gc.collect()
            began = time.perf_counter()
            self._engine.advance(run_id, seq)
            took.append(entered.pop() - began)
            self._put_back(self._engine, row)
        return took

    def _open(self) -> Engine:
        return Engine(self._url, secret_keys=[SECRET], executor=Idle())

    def _row(self, run_id: str) -> dict[str, Any]:
        engine = sa.create_engine(self._url)
        with engine.connect() as connection:
            found = connection.execute(sa.select(run_table).where(run_table.c.id == run_id))
            row = dict(found.mappings().one())
        engine.dispose()
        return row

    def _put_back(self, engine: Engine, row: dict[str, Any]) -> None:
        """Let the run wait as before: only entering the step is measured, again and again."""
        statement = sa.update(run_table).where(run_table.c.id == row["id"]).values(row)
        with engine.database.engine.begin() as connection:
            connection.execute(statement)


@contextmanager
def resuming(url: str, synchronous: str) -> Iterator[Resuming]:
    """On one database."""
    logging.getLogger("flowroute").setLevel(logging.CRITICAL)  # a step that raises is what happens
    use_pragmas(synchronous)
    yield Resuming(url)
