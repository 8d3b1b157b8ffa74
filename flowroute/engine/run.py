"""`Run`: the handle that people hold on one run."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, Self, cast

from typing_extensions import TypeVar

from flowroute.engine import schema
from flowroute.engine.records import RunRecord
from flowroute.engine.step import StepFailure
from flowroute.errors import WaitTimeout

if TYPE_CHECKING:
    from flowroute.engine.engine import Engine

T_co = TypeVar("T_co", covariant=True, default=Any)

POLL_SECONDS = 0.25
"""How often `Run.wait` looks when no move of the run is heard of in this process."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One point a run can be resumed from, and how the step there went."""

    seq: int
    """0 for the start, then without a gap."""
    step: str | None
    """The step that is called from here; None: the run ended with a result."""
    arguments: dict[str, Any]
    """The step's arguments for people: secrets left out, long values cut."""
    created_at: datetime
    """When it was stored, UTC."""
    duration: timedelta | None
    """How long the attempt took that led on from here; None: none has yet."""
    attempt: int | None
    """Which attempt led on from here, from 1; None: none has yet."""
    executor: str | None
    """Where that attempt ran: request, script, inline, thread or rq; None: none has led on yet."""


class Bell:
    """Wakes whoever waits in this process when a run moves."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget who waits: in a forked child, they and the lock they hold are the parent's."""
        self._rung = threading.Condition()
        self._count = 0

    def ring(self) -> None:
        """A run moved."""
        with self._rung:
            self._count += 1
            self._rung.notify_all()

    def wait(self, heard: int, timeout_seconds: float) -> int:
        """Wait until it has not rung `heard` times but more, or the time is over.

        Returns:
            How often it has rung.
        """
        with self._rung:
            self._rung.wait_for(lambda: self._count != heard, timeout_seconds)
            return self._count


class Run(Generic[T_co]):
    """One run of a flow. Each look reads its row as it is now.

    Obtained from ``engine.start``, ``engine.get``, ``engine.find`` and ``engine.runs``.

    Example:
        >>> run = engine.start(Checkout(customer_id=7).reserve(cart))  # doctest: +SKIP
        >>> run.wait(timeout_seconds=30).result  # doctest: +SKIP
    """

    def __init__(self, engine: Engine, run_id: str) -> None:
        self._engine = engine
        self.id = run_id
        """The run's id, a UUID."""

    # -- looking -----------------------------------------------------------------------------------

    @property
    def record(self) -> RunRecord:
        """Every column of the run's row, read at this moment.

        Raises:
            RunNotFound: The run was deleted.
        """
        return self._engine.lookup.read(self.id)

    @property
    def flow(self) -> str:
        """The flow's name."""
        return self.record.flow

    @property
    def key(self) -> str | None:
        """The key that the run holds, or None."""
        return self.record.key

    @property
    def state(self) -> str:
        """ready, running, waiting, done, failed, cancelled or blocked."""
        return self.record.state

    @property
    def waiting_for(self) -> str | None:
        """What a waiting run waits for: worker, timer, page or children; else None."""
        return self.record.waiting_for

    @property
    def step(self) -> str | None:
        """The step at the bookmark; None once the run ended with a result."""
        return self.record.step

    @property
    def progress(self) -> dict[str, Any] | None:
        """What the running step said last: ``{"done": …, "total": …, "message": …}``, or None."""
        return self.record.progress

    @property
    def error(self) -> StepFailure | None:
        """Why the bookmark's step failed, or why the run is blocked; None if neither."""
        error = self.record.error
        return None if error is None else StepFailure(**error)

    @property
    def result(self) -> T_co:
        """What the run ended with: the value given to `done`.

        Raises:
            RunFailed: The run failed; the message says where and why.
            RunNotFinished: The run is not done.
        """
        return cast("T_co", self._engine.lookup.result_of(self.id))

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """Every checkpoint, oldest first; the last is the bookmark."""
        return self._engine.lookup.checkpoints_of(self.id)

    @property
    def child(self) -> Run[Any] | None:
        """The sub-flow's run that this one waits for at its bookmark, or waited for; or None."""
        child = self._engine.lookup.child_of(self.record)
        return None if child is None else Run(self._engine, child.id)

    @property
    def at_rest(self) -> bool:
        """Whether nothing goes on by itself: finished, blocked, or waiting for a page.

        Of a run that waits for a sub-flow: whether the sub-flow is at rest.
        """
        return is_at_rest(self._engine.lookup.current(self.id))

    def wait(self, *, timeout_seconds: float | None = None) -> Self:
        """Wait until the run is at rest: finished, blocked, or waiting for a page.

        Also if it is a sub-flow's page that it waits for.

        Parameters:
            timeout_seconds: How long at most; None: as long as it takes.

        Returns:
            This run.

        Raises:
            WaitTimeout: The time was over. The run goes on.
        """
        self._engine.executor.start()
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        heard = 0
        while not is_at_rest(record := self._engine.lookup.current(self.id)):
            left = POLL_SECONDS if end is None else min(POLL_SECONDS, end - time.monotonic())
            if left <= 0:
                raise WaitTimeout(
                    f"Run {self.id} of {record.flow} was still {record.state} at step "
                    f"{record.step} after {timeout_seconds} s. It goes on: wait again, or look at "
                    "what it waits for.",
                    run_id=self.id,
                    step=record.step,
                )
            heard = self._engine.bell.wait(heard, left)
        return self

    # -- acting ------------------------------------------------------------------------------------

    def resume(self) -> Self:
        """Go on with the run here and now if it can: through plain steps, up to where it suspends.

        Does for this run what recovery would: a lease that is over, a timer that is due, a lost
        hint.

        Returns:
            This run.
        """
        self._engine.resume(self.id)
        return self

    def retry(self) -> Self:
        """Let a failed or blocked run go on from its bookmark, with all its attempts again.

        If it failed because a sub-flow did, the sub-flow goes on.

        Returns:
            This run.

        Raises:
            RunStateError: The run is neither failed nor blocked.
        """
        self._engine.retry(self.id)
        return self

    def cancel(self) -> Self:
        """End the run, and a sub-flow it waits for. What their steps still write is not stored.

        Returns:
            This run.

        Raises:
            RunStateError: The run has finished.
        """
        self._engine.cancel(self.id)
        return self

    def reset(self) -> Self:
        """Let go of the run's key, so that the next start with it makes a new run.

        A run that has not finished is cancelled.

        Returns:
            This run, which stays readable.
        """
        self._engine.reset(self.id)
        return self

    def __repr__(self) -> str:
        return f"<Run {self.id}>"


def is_at_rest(record: RunRecord) -> bool:
    """Whether a run does nothing by itself any more: it ended, or needs a person or a deploy."""
    return (
        record.finished or record.state == schema.BLOCKED or record.waiting_for == schema.FOR_PAGE
    )
