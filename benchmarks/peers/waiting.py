"""flowroute's process beside very many waiting runs, and resuming some of them."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from benchmarks.crowd import Reason, crowd
from benchmarks.peers.resuming import Idle
from benchmarks.peers.settings import SECRET, use_pragmas
from flowroute import Engine


class Waiting:
    """An engine and a crowd.

    Parameters:
        engine: The engine.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ids: list[str] = []

    def add(
        self, count: int, waiting_for: Reason, due_in_seconds: float | None, real: int = 0
    ) -> None:
        """Put runs into the tables."""
        due_in = None if due_in_seconds is None else timedelta(seconds=due_in_seconds)
        self._ids += crowd(
            self._engine.database.engine,
            count,
            waiting_for=waiting_for,
            due_in=due_in,
            real=real,
        )

    def look(self, passes: int) -> dict[str, float]:
        """Recover so many times; returns how much memory and how many threads there are."""
        for _ in range(passes):
            self._engine.recover()
        gc.collect()
        return {"bytes": _resident_bytes(), "threads": threading.active_count()}

    def resume(self, count: int) -> list[float]:
        """Seconds that each of so many runs took to be claimed, read and finished."""
        took: list[float] = []
        for _ in range(count):
            run_id = self._ids.pop()
            began = time.perf_counter()
            if not self._engine.advance(run_id, 1):
                raise AssertionError(f"run {run_id} was not advanced")
            took.append(time.perf_counter() - began)
        return took


def _resident_bytes() -> int:
    """What of this process is in memory and its own: anonymous pages, no files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon in /proc/self/status")


@contextmanager
def waiting(url: str, synchronous: str) -> Iterator[Waiting]:
    """An engine on an empty database, with no thread of its own."""
    use_pragmas(synchronous)
    with Engine(url, secret_keys=[SECRET], executor=Idle()) as engine:
        engine.create_all()
        yield Waiting(engine)


@contextmanager
def threaded(url: str, synchronous: str) -> Iterator[Waiting]:
    """The same with the executor that engines have by default, its threads running."""
    use_pragmas(synchronous)
    with Engine(url, secret_keys=[SECRET]) as engine:
        engine.create_all()
        engine.executor.start()
        yield Waiting(engine)
