"""Celery on the same Redis: its application, and who asks."""

# pyright: reportMissingImports=false, reportFunctionMemberAccess=false
# The peers are no part of the environment in which types are checked.

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery

from benchmarks.flows import TEXT
from benchmarks.peers.environment import REDIS

app = Celery("bench", broker=os.environ.get(REDIS), backend=os.environ.get(REDIS))


@app.task(name="work")  # type: ignore[untyped-decorator]  # celery is untyped
def work(number: int, text: str) -> int:
    """Return at once."""
    del text
    return number


class Asking:
    """Sends tasks."""

    def __init__(self) -> None:
        self._sent: list[Any] = []

    def round_trip(self) -> float:
        """Seconds from sending a task to its result."""
        began = time.monotonic()
        work.delay(1, TEXT).get(timeout=60)
        return time.monotonic() - began

    def fill(self, count: int) -> None:
        """Send so many tasks."""
        self._sent = [work.delay(1, TEXT) for _ in range(count)]

    def done(self) -> int:
        """How many tasks of an earlier round are done: they are forgotten."""
        return 0

    def until(self, total: int) -> float:
        """Seconds until so many tasks are done."""
        began = time.monotonic()
        for task in self._sent[:total]:
            task.get(timeout=60)
        return time.monotonic() - began


@contextmanager
def asking() -> Iterator[Asking]:
    """Whoever sends tasks; the environment says to which Redis."""
    yield Asking()
