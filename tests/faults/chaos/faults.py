"""Seeded faults: which, where and when is decided by one random generator."""

from __future__ import annotations

import heapq
import random
import signal
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import redis

from tests.faults.chaos.system import HARNESS, children, send

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.chaos.system import System

STOPPED_SECONDS: Final = (3.3, 4.2)
"""How long a process is stopped: past its lease of 2 s and a beat of recovery."""


class Faults:
    """Breaks a running system until its time is over.

    Args:
        system: what to break.
        seed: decides kinds, targets and moments.
    """

    def __init__(self, system: System, seed: int) -> None:
        self._system = system
        self._roll = random.Random(seed)  # noqa: S311  # repeatable, guards nothing
        self._stopped: list[tuple[float, int]] = []
        self._redis_back_at: float | None = None
        self.injected: Counter[str] = Counter()
        self._kinds: dict[str, tuple[float, Callable[[], bool]]] = {
            "stop work-horse": (0.8, self._stop_horse),
            "stop web worker": (0.8, self._stop_web_worker),
            "kill work-horse": (6, self._kill_horse),
            "kill flow worker": (20, self._kill_worker),
            "kill flow worker and work-horse": (20, self._kill_both),
            "kill web worker": (12, self._kill_web_worker),
            "flush Redis": (10, self._flush),
            "restart Redis": (15, self._restart_redis),
        }
        """How many seconds pass between two of a kind, on average, and what it does if it can."""
        if system.postgres is not None:
            self._kinds["terminate connection"] = (2, self._terminate)

    def run(self, seconds: float, over: threading.Event) -> None:
        """Inject faults for so many seconds, then undo what can be undone."""
        until = time.monotonic() + seconds
        due = {name: self._next(name) for name in self._kinds}
        try:
            while (now := time.monotonic()) < until and not over.wait(0.02):
                self._undo(now)
                # One that is not possible yet is tried again until it is.
                for name in [each for each, at in due.items() if at <= now]:
                    if self._kinds[name][1]():
                        self.injected[name] += 1
                        due[name] = self._next(name)
        finally:
            self._undo(float("inf"))

    def _next(self, name: str) -> float:
        return time.monotonic() + self._roll.expovariate(1 / self._kinds[name][0])

    def _undo(self, now: float) -> None:
        while self._stopped and self._stopped[0][0] <= now:
            send(heapq.heappop(self._stopped)[1], signal.SIGCONT)
        if self._redis_back_at is not None and self._redis_back_at <= now:
            self._redis_back_at = None
            self._system.redis.start()

    def _running(self, pids: list[int]) -> list[int]:
        stopped = {pid for _, pid in self._stopped}
        return [pid for pid in pids if pid not in stopped]

    def _stop(self, pids: list[int]) -> bool:
        if not pids:
            return False
        pid = self._roll.choice(pids)
        if not send(pid, signal.SIGSTOP):
            return False
        heapq.heappush(
            self._stopped, (time.monotonic() + self._roll.uniform(*STOPPED_SECONDS), pid)
        )
        return True

    def _kill(self, pids: list[int]) -> bool:
        return bool(pids) and send(self._roll.choice(pids), signal.SIGKILL)

    def _stop_horse(self) -> bool:
        leases = self._system.leases()
        return self._stop([each for each in self._running(self._system.horses()) if leases[each]])

    def _stop_web_worker(self) -> bool:
        workers = self._running(self._system.web_workers())
        if len(workers) < 2:  # one stays for the visitors
            return False
        leases = self._system.leases()
        return self._stop([each for each in workers if leases[each] >= 3])

    def _kill_horse(self) -> bool:
        return self._kill(self._running(self._system.horses()))

    def _kill_worker(self) -> bool:
        return self._kill([each.pid for each in self._system.workers if each.returncode is None])

    def _kill_both(self) -> bool:
        busy = [each.pid for each in self._system.workers if children(each.pid)]
        if not busy:
            return False
        worker = self._roll.choice(busy)
        horses = children(worker)
        for pid in (worker, *horses):
            send(pid, signal.SIGKILL)
        return True

    def _kill_web_worker(self) -> bool:
        return self._kill(self._running(self._system.web_workers()))

    def _flush(self) -> bool:
        try:
            self._system.redis.flush()
        except redis.ConnectionError:  # it is away just now
            return False
        return True

    def _restart_redis(self) -> bool:
        if self._redis_back_at is not None:
            return False
        self._system.redis.kill()
        self._redis_back_at = time.monotonic() + self._roll.uniform(0.2, 1.5)
        return True

    def _terminate(self) -> bool:
        server = self._system.postgres
        if server is None:
            return False
        query = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND application_name <> %s"
        with server.connect() as connection:
            pids = [row[0] for row in connection.execute(query, [self._system.name, HARNESS])]
            if not pids:
                return False
            ended = connection.execute(
                "SELECT pg_terminate_backend(%s)", [self._roll.choice(pids)]
            ).fetchone()
        return bool(ended and ended[0])
