"""Seeded faults: which, where and when is decided by one random generator."""

from __future__ import annotations

import heapq
import math
import random
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from tests.faults.chaos.processes import children, send
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.chaos.system import System

STOPPED_SECONDS: Final = (3.3, 4.2)
"""How long a process is stopped: past its lease of 2 s and a beat of recovery."""
POSSIBLE_SECONDS: Final = 20.0
"""How long `Faults.each_once` waits until a kind is possible."""
EVERYTHING: Final = "restart everything"


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
            "stop work-horse": (1.5, self._stop_horse),
            "stop web worker": (6, self._stop_web_worker),
            "stop script": (8, self._stop_script),
            "kill work-horse": (4, self._kill_horse),
            "kill flow worker": (20, self._kill_worker),
            "kill flow worker and work-horse": (12, self._kill_both),
            "kill web worker": (6, self._kill_web_worker),
            "kill script": (12, self._kill_script),
            "stop flow worker": (15, self._stop_worker),
            "flush Redis": (8, self._flush),
            "restart Redis": (15, self._restart_redis),
            "freeze Redis": (20, self._freeze_redis),
        }
        """How many seconds pass between two of a kind, on average, and what it does if it can."""
        if system.postgres is not None:
            self._kinds["terminate connection"] = (1, self._terminate)
            self._kinds["restart PostgreSQL"] = (25, self._restart_postgres)

    def each_once(self) -> list[str]:
        """Inject a fault of each kind, in an order of chance.

        Returns:
            The kinds that were not possible.
        """
        names = list(self._kinds)
        self._roll.shuffle(names)
        missing: list[str] = []
        for name in names:
            try:
                wait_until(lambda name=name: self._inject(name), POSSIBLE_SECONDS)  # type: ignore[misc]
            except AssertionError:
                missing.append(name)
        return missing

    def run(self, seconds: float, *, everything_at: float = math.inf) -> None:
        """Inject faults.

        Args:
            seconds: For so long.
            everything_at: When everything is restarted at once, in seconds from now.
        """
        until = time.monotonic() + seconds
        everything_at += time.monotonic()
        due = {name: self._next(name) for name in self._kinds}
        while (now := time.monotonic()) < until:
            if now >= everything_at:
                self._restart_everything()
                everything_at = math.inf
            # One that is not possible yet is tried again until it is.
            for name in [each for each, at in due.items() if at <= now]:
                if self._inject(name):
                    due[name] = self._next(name)
            time.sleep(0.02)

    def undo(self) -> None:
        """Let go on what was stopped, and start what is away."""
        self._undo(math.inf)

    def _inject(self, name: str) -> bool:
        self._undo(time.monotonic())
        happened = self._kinds[name][1]()
        self.injected[name] += happened
        return happened

    def _next(self, name: str) -> float:
        return time.monotonic() + self._roll.expovariate(1 / self._kinds[name][0])

    def _undo(self, now: float) -> None:
        while self._stopped and self._stopped[0][0] <= now:
            send(heapq.heappop(self._stopped)[1], signal.SIGCONT)
        if self._redis_back_at is not None and self._redis_back_at <= now:
            self._redis_back_at = None
            if self._system.redis.running:
                self._system.redis.resume()
            else:
                self._system.redis.start()

    def _restart_everything(self) -> None:
        self._stopped.clear()
        self._redis_back_at = None
        self._system.restart_everything()
        self.injected[EVERYTHING] += 1

    def _running(self, pids: list[int]) -> list[int]:
        stopped = {pid for _, pid in self._stopped}
        return [pid for pid in pids if pid not in stopped]

    def _stop(self, pids: list[int], least: int = 1) -> bool:
        """Stop a process that holds so many leases or more, for longer than these last."""
        leases = self._system.leases() if least else Counter[int]()
        pids = [pid for pid in self._running(pids) if leases[pid] >= least]
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
        horses = self._system.horses()
        if len(self._running(horses)) < len(horses) - 1:  # most of them go on
            return False
        return self._stop(horses)

    def _stop_web_worker(self) -> bool:
        workers = self._running(self._system.web_workers())
        return len(workers) > 1 and self._stop(workers, least=2)  # one stays for the visitors

    def _stop_script(self) -> bool:
        script = self._system.script
        return script is not None and self._stop([script.pid])

    def _stop_worker(self) -> bool:
        workers = [each.pid for each in self._system.workers if each.returncode is None]
        return len(self._running(workers)) == len(workers) and self._stop(workers, least=0)

    def _kill_horse(self) -> bool:
        waiting_too = self._roll.random() < 0.2
        return self._kill(
            self._running(self._system.horses()) if waiting_too else self._horses_at_work()
        )

    def _horses_at_work(self) -> list[int]:
        """Those that have a run, and do not only wait for one."""
        leases = self._system.leases()
        return [pid for pid in self._running(self._system.horses()) if leases[pid]]

    def _kill_worker(self) -> bool:
        return self._kill([each.pid for each in self._system.workers if each.returncode is None])

    def _kill_both(self) -> bool:
        at_work = set(self._horses_at_work())
        busy = [each.pid for each in self._system.workers if at_work & set(children(each.pid))]
        if not busy:
            return False
        worker = self._roll.choice(busy)
        horses = children(worker)
        for pid in (worker, *horses):
            send(pid, signal.SIGKILL)
        return True

    def _kill_web_worker(self) -> bool:
        return self._kill(self._running(self._system.web_workers()))

    def _kill_script(self) -> bool:
        script = self._system.script
        leases = self._system.leases()
        return script is not None and leases[script.pid] > 0 and self._kill([script.pid])

    def _flush(self) -> bool:
        if self._redis_back_at is not None:
            return False
        self._system.redis.flush()
        return True

    def _restart_redis(self) -> bool:
        if self._redis_back_at is not None:
            return False
        self._system.redis.kill()
        self._redis_back_at = time.monotonic() + self._roll.uniform(0.2, 1.5)
        return True

    def _freeze_redis(self) -> bool:
        if self._redis_back_at is not None:
            return False
        self._system.redis.freeze()
        self._redis_back_at = time.monotonic() + self._roll.uniform(0.5, 2.5)
        return True

    def _restart_postgres(self) -> bool:
        server = self._system.postgres
        if server is None:
            return False
        server.stop_at_once()
        server.start()
        return True

    def _terminate(self) -> bool:
        return self._system.terminate_connections(1) > 0
