"""Runs that worker steps go on with, and the same for raw RQ and Celery: who asks, who works."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from redis import Redis
from rq import Queue

from benchmarks.flows import TEXT, RoundTrip
from benchmarks.peers.settings import SECRET, pragmas, use_pragmas
from flowroute import Engine
from flowroute.engine.schema import run_table
from flowroute.rq import RQExecutor
from tests.waiting import wait_until

#: Longest wait for anything, in seconds.
PATIENCE = 60.0


def engine_on(url: str, redis_url: str) -> Engine:
    """The engine of whoever starts runs, and of the worker."""
    use_pragmas("FULL")
    return Engine(url, executor=RQExecutor(redis_url), secret_keys=[SECRET])


def seconds_until(condition: Callable[[], bool], what: str) -> float:
    """Seconds until something is so."""
    began = time.monotonic()
    wait_until(condition, PATIENCE, what=what, poll_seconds=0.02)
    return time.monotonic() - began


class Own:
    """Starts runs that have a worker step.

    Parameters:
        engine: Where.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def round_trip(self) -> float:
        """Seconds from where a step suspends a run to the step after the worker step."""
        run = self._engine.start(RoundTrip().begin(1, TEXT))
        wait_until(lambda: run.state == "done", PATIENCE, what="the run is done", poll_seconds=0.02)
        return float(run.result)

    def fill(self, count: int) -> None:
        """Start so many runs, which then wait for a worker."""
        for _ in range(count):
            self._engine.start(RoundTrip().work(1, TEXT))

    def done(self) -> int:
        """How many runs are done."""
        query = sa.select(sa.func.count()).where(run_table.c.state == "done")
        with self._engine.database.engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def until(self, total: int) -> float:
        """Seconds until so many runs are done."""
        return seconds_until(lambda: self.done() >= total, f"{total} runs are done")

    def settings(self) -> dict[str, Any]:
        """What the connections are set to."""
        return pragmas(self._engine.database.engine)


@contextmanager
def own(url: str, redis_url: str) -> Iterator[Own]:
    """Whoever starts flowroute's runs."""
    with engine_on(url, redis_url) as engine:
        engine.create_all()
        yield Own(engine)


class Raw:
    """Enqueues jobs of raw RQ.

    Parameters:
        connection: Its Redis.
    """

    def __init__(self, connection: Redis) -> None:
        self._queue = Queue("raw", connection=connection)

    def round_trip(self) -> float:
        """Seconds from enqueueing a job to its result."""
        began = time.monotonic()
        job = self._queue.enqueue("benchmarks.peers.jobs.work", 1, TEXT)
        if job.latest_result(timeout=int(PATIENCE)) is None:
            raise AssertionError(job.get_status())
        return time.monotonic() - began

    def fill(self, count: int) -> None:
        """Enqueue so many jobs."""
        for _ in range(count):
            self._queue.enqueue("benchmarks.peers.jobs.work", 1, TEXT)

    def done(self) -> int:
        """How many jobs are done."""
        return int(self._queue.finished_job_registry.get_job_count(cleanup=False))

    def until(self, total: int) -> float:
        """Seconds until so many jobs are done."""
        return seconds_until(lambda: self.done() >= total, f"{total} jobs are done")


@contextmanager
def raw(redis_url: str) -> Iterator[Raw]:
    """Whoever enqueues raw RQ's jobs."""
    with Redis.from_url(redis_url) as connection:
        yield Raw(connection)
