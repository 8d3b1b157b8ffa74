"""One thread a process: it extends the leases of the attempts running here, or interrupts them."""

from __future__ import annotations

import ctypes
import logging
import math
import queue
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

from sqlalchemy.exc import SQLAlchemyError

from flowroute.engine import schema
from flowroute.engine.database import Database
from flowroute.engine.records import Guard
from flowroute.engine.statements import DEADLINE_GRACE_SECONDS
from flowroute.engine.store import Store
from flowroute.errors import Interruption, LeaseLost, StepTimeout

logger = logging.getLogger("flowroute.heartbeat")

PROGRESS_SECONDS = 0.1
"""Progress of one attempt is stored at most once in this time."""

AGAIN_SECONDS = 0.5
"""When the database did not take an extension, it is tried again after this time."""

BEATS_PER_LEASE = 3
"""A lease is extended this often before it would end, so that a slow moment of the database is
survived."""


@dataclass(slots=True, eq=False)
class Pulse:
    """One attempt that runs in this process."""

    guard: Guard
    """The run as the attempt owns it."""
    step: str
    deadline: float | None
    """When its timeout is over, by this process's monotonic clock; None: never."""
    next_beat: float
    """When its lease is extended next."""
    thread_id: int = field(default_factory=threading.get_ident)
    progress: dict[str, Any] | None = None
    """What the step reported last; only its own thread writes this."""
    stored: dict[str, Any] | None = None
    """The progress that was stored last; only the heartbeat's thread writes this."""
    failing: bool = False
    """The last try to extend its lease failed."""
    interrupted: type[Interruption] | None = None
    """What was raised in it."""
    again_at: float = math.inf
    """When it is raised again, should the attempt go on all the same."""
    by_signal: bool = False
    """It runs in the main thread with the signal handler below."""

    @property
    def leased(self) -> bool:
        """Whether there is a lease to extend: a page that is only looked at holds none."""
        return self.guard.state == schema.RUNNING


class Heartbeat:
    """Watches the attempts of one engine in one process.

    Parameters:
        store: For the statement that extends a lease.
        database: For a connection beside those of the steps.
        lease_seconds: How long a lease lasts.
        on_progress: Called with the attempt once its progress is stored.
    """

    def __init__(
        self,
        store: Store,
        database: Database,
        lease_seconds: float,
        on_progress: Callable[[Pulse, dict[str, Any]], None],
    ) -> None:
        self._store = store
        self._database = database
        self._lease_seconds = lease_seconds
        self._on_progress = on_progress
        self.reset()

    def reset(self) -> None:
        """Forget everything: in a forked child, the attempts and the thread are the parent's."""
        self._pulses: set[Pulse] = set()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        # Steps take this lock and ring this bell, and may be interrupted while they do. A Condition
        # or an Event could then stay locked for ever; these two are one C call each.
        self._lock = threading.Lock()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()

    def close(self) -> None:
        """Stop the thread."""
        self._closed.set()
        self._bell.put(None)
        if self._thread is not None:
            self._thread.join()

    @contextmanager
    def watch(self, guard: Guard, step: str, *, timeout_seconds: float | None) -> Generator[Pulse]:
        """While an attempt runs: extend its lease, carry its progress, end it at its deadline.

        Raises:
            LeaseLost: Inside the block, when somebody else owns the run.
            StepTimeout: Inside the block, `timeout_seconds` after it began.
        """
        now = time.monotonic()
        deadline = None if timeout_seconds is None else now + timeout_seconds
        pulse = Pulse(guard, step, deadline, next_beat=now + self._beat_seconds)
        if not pulse.leased:
            pulse.next_beat = math.inf
        restore = _listen_in_main_thread(pulse) if deadline is not None else None
        try:
            self._add(pulse)
            yield pulse
        finally:
            try:
                self._remove(pulse)
            except Interruption:  # raised after the step had ended
                self._remove(pulse)
            if restore is not None:
                signal.signal(signal.SIGALRM, restore)
        if pulse.interrupted is not None:  # the step swallowed it, or had returned already
            raise pulse.interrupted

    def report(self, pulse: Pulse, progress: dict[str, Any]) -> None:
        """Take progress of an attempt; the thread stores it. Never blocks."""
        if pulse.leased:
            pulse.progress = progress
            self._ring()

    @property
    def _beat_seconds(self) -> float:
        return self._lease_seconds / BEATS_PER_LEASE

    def _ring(self) -> None:
        if self._bell.empty():  # else the thread is about to look anyway
            self._bell.put(None)

    def _add(self, pulse: Pulse) -> None:
        with self._lock:
            self._pulses.add(pulse)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._beat_until_closed, name="flowroute-heartbeat", daemon=True
                )
                self._thread.start()
        if pulse.deadline is not None:
            self._ring()  # it may be nearer than what the thread waits for

    def _remove(self, pulse: Pulse) -> None:
        with self._lock:
            self._pulses.discard(pulse)
        # From here on none is set any more. One that was set, and not raised yet, is raised by the
        # next jump back; to take it back instead would leave CPython looking for it for ever.
        for _ in range(2):
            pass

    # -- in the thread -----------------------------------------------------------------------------

    def _beat_until_closed(self) -> None:
        while not self._closed.is_set():
            with self._lock:
                seconds = self._seconds_to_next()
            with suppress(queue.Empty):
                self._bell.get(timeout=seconds)
            now = time.monotonic()
            with self._lock:
                for pulse in self._pulses:
                    if pulse.deadline is not None and now >= pulse.deadline:
                        self._interrupt(pulse, StepTimeout)
                    if now >= pulse.again_at:
                        self._raise_in(pulse)
                due = [p for p in self._pulses if p.progress is not p.stored or now >= p.next_beat]
            for pulse in due:
                if not self._beat(pulse):
                    break  # what holds up one holds up the others, and their deadlines count
            if due:
                self._closed.wait(PROGRESS_SECONDS)  # what is reported meanwhile is merged

    def _seconds_to_next(self) -> float:
        if any(p.progress is not p.stored for p in self._pulses):
            return 0.0
        now = time.monotonic()
        instants = [now + self._beat_seconds]
        instants += [min(p.next_beat, p.again_at) for p in self._pulses]
        instants += [
            p.deadline for p in self._pulses if p.deadline is not None and p.interrupted is None
        ]
        return max(0.0, min(instants) - now)

    def _beat(self, pulse: Pulse) -> bool:
        """Extend one lease and store progress; False if the database did not take it now."""
        progress = pulse.progress
        news = progress if progress is not pulse.stored else None
        try:
            with self._database.impatient() as connection:
                held = self._store.pulse(
                    connection, pulse.guard, lease_seconds=self._lease_seconds, progress=news
                )
        except SQLAlchemyError as error:
            # On SQLite this is what happens while the step itself holds the write lock; nobody else
            # can claim the run then either. Were the lease lost all the same, the guard of the next
            # write would tell.
            level = logging.DEBUG if pulse.failing else logging.WARNING
            logger.log(
                level, "run %s: lease not extended, will try again: %s", pulse.guard.run_id, error
            )
            pulse.failing = True
            pulse.next_beat = time.monotonic() + min(AGAIN_SECONDS, self._beat_seconds)
            return False
        pulse.failing = False
        pulse.stored = progress
        pulse.next_beat = time.monotonic() + self._beat_seconds
        if not held:
            with self._lock:
                self._interrupt(pulse, LeaseLost)
        elif news is not None:
            self._on_progress(pulse, news)
        return True

    def _interrupt(self, pulse: Pulse, kind: type[Interruption]) -> None:
        """Raise in the attempt's thread; with the lock held, so that it can not end meanwhile."""
        if pulse.interrupted is not None or pulse not in self._pulses:
            return
        pulse.interrupted = kind
        # A step that goes on all the same is reported when its grace is over; see `Store.pulse`.
        if pulse.leased:
            pulse.next_beat = min(pulse.next_beat, time.monotonic() + DEADLINE_GRACE_SECONDS)
        self._raise_in(pulse)

    def _raise_in(self, pulse: Pulse) -> None:
        # Once may not be enough: what is raised in a finalizer or a callback of CPython's is lost.
        pulse.again_at = time.monotonic() + DEADLINE_GRACE_SECONDS
        if pulse.by_signal:
            # A signal also ends a system call, which an asynchronous exception has to wait for.
            signal.pthread_kill(pulse.thread_id, signal.SIGALRM)
        else:
            _set_async_exception(pulse.thread_id, cast("type[Interruption]", pulse.interrupted))


def _listen_in_main_thread(pulse: Pulse) -> Any:
    """Raise `pulse.interrupted` on SIGALRM.

    Returns:
        The handler to restore, or None in another thread than the main one.
    """
    if threading.current_thread() is not threading.main_thread():
        return None

    def handler(_signal: int, _frame: object) -> None:
        # RQ's own alarm for the job, set to the same timeout, may ring first.
        pulse.interrupted = pulse.interrupted or StepTimeout
        raise pulse.interrupted

    pulse.by_signal = True
    return signal.signal(signal.SIGALRM, handler)


def _set_async_exception(thread_id: int, kind: type[BaseException]) -> None:
    # The C API's own way to stop a thread.
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), ctypes.py_object(kind))
