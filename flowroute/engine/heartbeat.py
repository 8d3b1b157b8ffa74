"""One thread a process that extends the leases of the attempts running in it, and interrupts them."""

from __future__ import annotations

import ctypes
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from flowroute.engine.database import Database
from flowroute.engine.store import Store
from flowroute.errors import Interruption, LeaseLost, StepTimeout

logger = logging.getLogger("flowroute.heartbeat")

PROGRESS_SECONDS = 0.1
"""Progress of one attempt is stored at most once in this time."""

BEATS_PER_LEASE = 3
"""A lease is extended this often before it would end, so that a slow moment of the database is survived."""


@dataclass(slots=True, eq=False)
class Pulse:
    """One attempt that runs in this process."""

    run_id: str
    seq: int
    epoch: int
    step: str
    deadline: float | None
    """When its timeout is over, by this process's monotonic clock; None: never."""
    next_beat: float
    """When its lease is extended next."""
    thread_id: int = field(default_factory=threading.get_ident)
    progress: dict[str, Any] | None = None
    """Progress not stored yet."""
    interrupted: type[Interruption] | None = None
    """What was raised in it."""
    by_signal: bool = False
    """It runs in the main thread with the signal handler below."""


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
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def close(self) -> None:
        """Stop the thread."""
        with self._wake:
            self._closed = True
            thread = self._thread
            self._wake.notify()
        if thread is not None:
            thread.join()

    @contextmanager
    def watch(
        self, run_id: str, seq: int, epoch: int, step: str, *, timeout_seconds: float | None
    ) -> Iterator[Pulse]:
        """While an attempt runs: extend its lease, carry its progress, end it at its deadline.

        Raises:
            LeaseLost: Inside the block, when somebody else owns the run.
            StepTimeout: Inside the block, `timeout_seconds` after it began.
        """
        now = time.monotonic()
        deadline = None if timeout_seconds is None else now + timeout_seconds
        pulse = Pulse(
            run_id, seq, epoch, step, deadline, next_beat=now + self._lease_seconds / BEATS_PER_LEASE
        )
        restore = _listen_in_main_thread(pulse) if deadline is not None else None
        self._add(pulse)
        try:
            yield pulse
        finally:
            self._remove(pulse)
            if restore is not None:
                signal.signal(signal.SIGALRM, restore)
        if pulse.interrupted is not None:  # set, but the step returned before it was raised
            raise pulse.interrupted

    def report(self, pulse: Pulse, progress: dict[str, Any]) -> None:
        """Take progress of an attempt; the thread stores it. Never blocks."""
        with self._wake:
            pulse.progress = progress
            self._wake.notify()

    def _add(self, pulse: Pulse) -> None:
        with self._wake:
            self._pulses.add(pulse)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._beat_until_closed, name="flowroute-heartbeat", daemon=True
                )
                self._thread.start()
            elif pulse.deadline is not None:
                self._wake.notify()  # it may be nearer than what the thread waits for

    def _remove(self, pulse: Pulse) -> None:
        with self._wake:
            self._pulses.discard(pulse)
            if pulse.interrupted is not None and not pulse.by_signal:
                _set_async_exception(pulse.thread_id, None)

    # -- in the thread --------------------------------------------------------------------------------

    def _beat_until_closed(self) -> None:
        while True:
            with self._wake:
                if self._closed:
                    return
                self._wake.wait(self._seconds_to_next())
                now = time.monotonic()
                for pulse in self._pulses:
                    if pulse.deadline is not None and now >= pulse.deadline:
                        self._interrupt(pulse, StepTimeout)
                due = [p for p in self._pulses if p.progress is not None or now >= p.next_beat]
            for pulse in due:
                self._beat(pulse)
            if due:
                with self._wake:  # reports that come meanwhile are merged into the next beat
                    self._wake.wait_for(lambda: self._closed, PROGRESS_SECONDS)

    def _seconds_to_next(self) -> float | None:
        if not self._pulses:
            return self._lease_seconds / BEATS_PER_LEASE
        instants = [p.next_beat for p in self._pulses]
        instants += [
            p.deadline for p in self._pulses if p.deadline is not None and p.interrupted is None
        ]
        if any(p.progress is not None for p in self._pulses):
            return 0.0
        return max(0.0, min(instants) - time.monotonic())

    def _beat(self, pulse: Pulse) -> None:
        progress, pulse.progress = pulse.progress, None
        pulse.next_beat = time.monotonic() + self._lease_seconds / BEATS_PER_LEASE
        try:
            with self._database.engine.begin() as connection:
                held = self._store.pulse(
                    connection,
                    pulse.run_id,
                    pulse.epoch,
                    lease_seconds=self._lease_seconds,
                    progress=progress,
                )
        except SQLAlchemyError as error:
            # On SQLite this is what happens while the step itself holds the write lock; nobody else can claim
            # the run then either. Were the lease lost all the same, the guard of the next write would tell.
            logger.warning("run %s: lease not extended, will try again: %s", pulse.run_id, error)
            with self._wake:
                pulse.progress = pulse.progress or progress
            return
        if not held:
            with self._wake:
                self._interrupt(pulse, LeaseLost)
        elif progress is not None:
            self._on_progress(pulse, progress)

    def _interrupt(self, pulse: Pulse, kind: type[Interruption]) -> None:
        """Raise in the attempt's thread; called with the lock held, so the attempt can not end meanwhile."""
        if pulse.interrupted is not None or pulse not in self._pulses:
            return
        pulse.interrupted = kind
        if pulse.by_signal:
            # A signal also ends a system call, which an asynchronous exception has to wait for.
            signal.pthread_kill(pulse.thread_id, signal.SIGALRM)
        else:
            _set_async_exception(pulse.thread_id, kind)


def _listen_in_main_thread(pulse: Pulse) -> Any:
    """Raise `pulse.interrupted` on SIGALRM; returns the handler to restore, or None in another thread."""
    if threading.current_thread() is not threading.main_thread():
        return None

    def handler(_signal: int, _frame: object) -> None:
        # RQ's own alarm for the job, set to the same timeout, may ring first.
        pulse.interrupted = pulse.interrupted or StepTimeout
        raise pulse.interrupted

    pulse.by_signal = True
    return signal.signal(signal.SIGALRM, handler)


def _set_async_exception(thread_id: int, kind: type[BaseException] | None) -> None:
    # The C API's own way to stop a thread; None takes back what was not raised yet.
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread_id), ctypes.py_object(kind) if kind is not None else None
    )
