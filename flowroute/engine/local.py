"""The executors that need nothing else: the caller itself, and threads of this process."""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING

from flowroute.engine.context import current_run
from flowroute.engine.ports import Hint
from flowroute.errors import ConfigurationError

if TYPE_CHECKING:
    from flowroute.engine.engine import Engine

logger = logging.getLogger("flowroute.local")

RECOVERY_SECONDS = 1.0
"""How often a process that executes steps looks for what a crash left behind."""


class InlineExecutor:
    """Runs a worker step at once, in the thread that submitted it. For tests and scripts.

    A timer or a backoff is not waited for: call ``engine.recover()`` when it is due.
    """

    name = "inline"

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._local = threading.local()

    def attach(self, engine: Engine) -> None:
        """Remember the engine."""
        self._engine = engine

    def start(self) -> None:
        """Nothing works in the background."""

    def submit(self, hint: Hint) -> None:
        """Advance the run now; a worker step after a worker step does so when that has returned."""
        following: list[Hint] | None = getattr(self._local, "following", None)
        if following is not None and current_run.get() is None:
            following.append(hint)  # a flow of a thousand worker steps is a loop, no recursion
            return
        self._local.following = hints = [hint]
        try:
            while hints and self._engine is not None:
                each = hints.pop(0)
                self._engine.advance(each.run_id, each.seq, each.timeout_seconds)
        finally:
            self._local.following = following

    def close(self) -> None:
        """Nothing works in the background."""


class ThreadExecutor:
    """Runs worker steps in threads of this process.

    Durable all the same: the database knows what is waiting, and the next process with this
    executor finishes what this one could not. One more thread looks for such runs once a second.

    Parameters:
        threads: How many steps run at the same time, at least 1.

    Raises:
        ConfigurationError: `threads` is less than 1.
    """

    name = "thread"

    def __init__(self, threads: int = 4) -> None:
        if threads < 1:
            raise ConfigurationError(
                f"ThreadExecutor(threads={threads}): give it at least one thread."
            )
        self._count = threads
        self._engine: Engine | None = None
        self.reset()

    def reset(self) -> None:
        """Forget the threads: in a forked child they are the parent's."""
        self._lock = threading.Lock()
        self._hints: queue.SimpleQueue[Hint | None] = queue.SimpleQueue()
        self._queued: set[Hint] = set()
        self._threads: list[threading.Thread] = []
        self._closed = threading.Event()

    def attach(self, engine: Engine) -> None:
        """Remember the engine."""
        self._engine = engine

    def start(self) -> None:
        """Start the threads, unless they run already."""
        with self._lock:
            if self._threads or self._closed.is_set():
                return
            self._threads = [
                threading.Thread(target=self._work, name=f"flowroute-{number}", daemon=True)
                for number in range(1, self._count + 1)
            ]
            self._threads.append(
                threading.Thread(target=self._recover, name="flowroute-recovery", daemon=True)
            )
            for thread in self._threads:
                thread.start()

    def submit(self, hint: Hint) -> None:
        """Queue a hint; one that is queued already is not queued again."""
        with self._lock:
            if hint in self._queued:
                return
            self._queued.add(hint)
        self._hints.put(hint)

    def close(self) -> None:
        """Let the steps that run finish, and stop the threads."""
        self._closed.set()
        for _ in range(self._count):
            self._hints.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _work(self) -> None:
        while (hint := self._hints.get()) is not None:
            with self._lock:
                self._queued.discard(hint)
            if self._engine is None or self._closed.is_set():
                return
            try:
                self._engine.advance(hint.run_id, hint.seq, hint.timeout_seconds)
            except BaseException:  # the thread must outlive a database that is down, and sys.exit()
                logger.exception(
                    "run %s: could not be advanced; recovery will try again", hint.run_id
                )

    def _recover(self) -> None:
        while self._engine is not None:
            try:
                self._engine.recover()
            except Exception:  # as above
                logger.exception("recovery failed; it will look again in %s s", RECOVERY_SECONDS)
            if self._closed.wait(RECOVERY_SECONDS):
                return
