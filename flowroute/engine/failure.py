"""Attempts that did not succeed: tried again, handed to the `on_error=` step, or the end of the run."""

from __future__ import annotations

import logging
import traceback
from dataclasses import asdict
from typing import Any

from flowroute.engine import schema
from flowroute.engine.continuation import Continuation
from flowroute.engine.database import Database
from flowroute.engine.flow import Flow, definition_of, flow_named
from flowroute.engine.messenger import Messenger
from flowroute.engine.ports import Hint, Move
from flowroute.engine.step import END, Step, StepFailure
from flowroute.engine.store import (
    BLOCKED_SECONDS,
    FIRST_HINT_SECONDS,
    RunRecord,
    Store,
    Target,
    guard_of,
)
from flowroute.engine.transition import Transitions
from flowroute.engine.turn import Turn
from flowroute.engine.work import Work
from flowroute.errors import (
    ArgumentError,
    CheckpointUnreadable,
    FlowrouteError,
    LeaseLost,
    StepTimeout,
)

logger = logging.getLogger("flowroute.failure")

TRACEBACK_LIMIT = 8_000
"""Longest traceback kept with a failure, in characters; its end is what counts."""


class Failures:
    """Records what went wrong, in transactions of its own.

    Parameters:
        store: The statements.
        database: The connections.
        transitions: Continuations to rows and back.
        messenger: Whom to tell.
    """

    def __init__(
        self, store: Store, database: Database, transitions: Transitions, messenger: Messenger
    ) -> None:
        self._store = store
        self._database = database
        self._transitions = transitions
        self._messenger = messenger

    def settle(
        self, work: Work, turn: Turn, flow: str, failure: StepFailure, *, crashed: bool
    ) -> None:
        """Record a failed attempt: retry after a backoff, or go to the `on_error=` step, or fail."""
        step = step_or_none(flow, failure.step)
        error = asdict(failure)
        if step is not None and step.may_retry(turn.attempt, crashed=crashed):
            wait = 0.0 if crashed else step.backoff_seconds(turn.attempt)
            target = Target(
                schema.WAITING, schema.FOR_TIMER, attempt=turn.attempt, wake_seconds=wait, error=error
            )
        elif step is not None and step.on_error is not None:
            if self._hand_over(work, turn, flow, step.on_error, failure):
                return
            target = Target(schema.FAILED, attempt=turn.attempt, error=error)
        else:
            target = Target(schema.FAILED, attempt=turn.attempt, error=error)
        with self._database.engine.begin() as connection:
            changed = self._store.change_state(connection, turn.guard, target)
        if changed:
            name = failure.step
            self._messenger.announce(Move(turn.run_id, turn.seq, target.state, target.waiting_for, name, None))

    def release(self, turn: Turn, target: Target | None = None) -> None:
        """Give up the lease without a result; the attempt does not count."""
        target = target or Target(
            schema.READY, attempt=turn.attempt - 1, wake_seconds=FIRST_HINT_SECONDS
        )
        with self._database.engine.begin() as connection:
            self._store.change_state(connection, turn.guard, target)

    def block(self, record: RunRecord, error: FlowrouteError) -> None:
        """The deployed code can not use a run's bookmark: keep the run until it can."""
        logger.error("run %s: blocked: %s", record.id, error)
        reason = StepFailure(record.step or END, type(error).__name__, str(error), record.attempt)
        self.change(
            record,
            Target(
                schema.BLOCKED,
                attempt=record.attempt,
                wake_seconds=BLOCKED_SECONDS,
                error=asdict(reason),
            ),
        )

    def change(self, record: RunRecord, target: Target) -> None:
        """Move a run that was just read to another state, unless it moved meanwhile."""
        with self._database.engine.begin() as connection:
            changed = self._store.change_state(connection, guard_of(record), target)
        if changed:
            self._messenger.announce(
                Move(record.id, record.seq, target.state, target.waiting_for, record.step, None)
            )

    def reload(self, work: Work, turn: Turn) -> tuple[Flow, Step[Any, Any], dict[str, Any]]:
        """The bookmark as it is stored: a failed attempt may have changed state and arguments in memory."""
        with work.reading() as connection:
            bookmark = self._store.bookmark(connection, turn.run_id)
        if bookmark is None or bookmark.record.seq != turn.seq:
            raise LeaseLost
        return self._transitions.load(work, bookmark)

    def _hand_over(
        self, work: Work, turn: Turn, flow: str, on_error: str, failure: StepFailure
    ) -> bool:
        try:
            held, _, _ = self.reload(work, turn)
            onward: Continuation[Any] = getattr(held, on_error)(failure)
            target = self._transitions.target(onward)
            if target.state == schema.RUNNING:
                # Whoever picks it up next claims it: the process that failed may be the wrong one to go on.
                target = Target(schema.READY, wake_seconds=FIRST_HINT_SECONDS)
            new = self._transitions.checkpoint(work, turn, onward, seq=turn.seq + 1, duration=0.0)
        except (CheckpointUnreadable, ArgumentError) as error:
            logger.error("run %s: on_error step %s could not be reached: %s", turn.run_id, on_error, error)
            return False
        with work.transaction() as connection:
            if not self._store.advance(connection, turn.guard, new, target):
                return True  # somebody else owns the run now, and its end
        turn.seq, turn.state = turn.seq + 1, target.state
        self._tell(turn, flow, onward, target)
        if target.state == schema.READY:
            self._submit(Hint(turn.run_id, turn.seq, 0, None, flow, on_error))
        return True


def failure_of(error: BaseException, step: Step[Any, Any], attempt: int) -> StepFailure:
    """What is stored of an exception."""
    if isinstance(error, StepTimeout):
        message = f"{step.flow_name}.{step.name} ran for longer than its timeout of {step.timeout_seconds:g} seconds."
    else:
        message = str(error)
    lines = "".join(traceback.format_exception(error))
    return StepFailure(
        step.name,
        type(error).__name__,
        _storable(message),
        attempt,
        _storable(lines[-TRACEBACK_LIMIT:]),
    )


def _storable(text: str) -> str:
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def step_or_none(flow: str, name: str) -> Step[Any, Any] | None:
    """A step that may be gone: an attempt that failed must be recorded all the same."""
    try:
        return definition_of(flow_named(flow)).steps.get(name)
    except FlowrouteError:
        return None
