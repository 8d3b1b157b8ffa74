"""Contestants that have workers: who asks, and the workers, which can be held still."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from benchmarks.contest import Contestant
from benchmarks.laboratory import Laboratory, installed
from benchmarks.peers.environment import REDIS
from tests.processes import Process

OWN, RAW, CELERY = "flowroute", "raw RQ", "Celery"
CLASSES = {
    "fork": "jobs in forked processes",
    "each": "flowroute with jobs_per_process=1",
    "inline": "jobs in the worker's process",
}
BARRED = ("fork", "inline")
"""The workers as they come."""


@dataclass
class Crew:
    """One side.

    Parameters:
        asks: Who starts the work.
        workers: Who does it.
    """

    asks: Contestant
    workers: list[Process] = field(default_factory=list)

    def round_trip(self) -> float:
        """Seconds of one round trip."""
        return float(self.asks.ask("round_trip"))

    def drain(self, count: int) -> float:
        """Jobs per second of workers that find so many queued."""
        before = int(self.asks.ask("done"))
        self._signal(signal.SIGSTOP)
        try:
            self.asks.ask("fill", count=count)
        finally:
            self._signal(signal.SIGCONT)
        return count / float(self.asks.ask("until", total=before + count))

    def _signal(self, number: signal.Signals) -> None:
        for worker in self.workers:
            for pid in (worker.pid, *worker.descendants()):
                os.kill(pid, number)


@contextmanager
def crews(
    lab: Laboratory, database: str, kind: str, workers: int = 1, *, celery: bool = True
) -> Iterator[dict[str, Crew]]:
    """Put flowroute beside raw RQ, with workers of the same class on the same Redis, and Celery.

    Parameters:
        lab: Where.
        database: ``sqlite`` or ``postgresql``, for flowroute.
        kind: One of `CLASSES`.
        workers: How many each side has.
        celery: Whether Celery takes part, if it is installed.
    """
    lab.redis.flush()
    redis_url = lab.redis.url
    url = lab.database_url(database)
    with ExitStack() as stack:
        sides = {
            OWN: Crew(
                stack.enter_context(lab.contestant("hinted:own", url=url, redis_url=redis_url))
            ),
            RAW: Crew(stack.enter_context(lab.contestant("hinted:raw", redis_url=redis_url))),
        }
        for _ in range(workers):
            for side, more in (
                (OWN, ("own", kind, redis_url, url)),
                (RAW, ("raw", kind, redis_url)),
            ):
                program = lab.program("benchmarks.worker", *more)
                sides[side].workers.append(stack.enter_context(program))
        for crew in sides.values():
            for worker in crew.workers:
                worker.wait_for_line("Listening on", 60)
        if celery and installed(["celery"]):
            sides[CELERY] = _celery(lab, stack, kind, workers)
        yield sides


def _celery(lab: Laboratory, stack: ExitStack, kind: str, workers: int) -> Crew:
    environment = {REDIS: lab.redis.url.removesuffix("0") + "1"}  # a database of its own
    asks = stack.enter_context(lab.contestant("with_celery:asking", environment=environment))
    pool = {"fork": "prefork", "inline": "solo"}[kind]
    arguments = ["-A", "benchmarks.peers.with_celery", "worker", "-P", pool, "-c", "1"]
    arguments += ["-l", "INFO", "--without-gossip", "--without-mingle"]
    crew = Crew(asks)
    for number in range(workers):
        program = lab.program(
            "celery", *arguments, "-n", f"{number}@bench", environment=environment
        )
        crew.workers.append(stack.enter_context(program))
    for worker in crew.workers:
        worker.wait_for_line("ready", 60)
    return crew
