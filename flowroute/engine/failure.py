"""Attempts that failed: tried again, handed to the `on_error=` step, or the end of the run."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from sqlalchemy.exc import DBAPIError

from flowroute.engine import schema
from flowroute.engine.continuation import Continuation
from flowroute.engine.database import Database
from flowroute.engine.flow import definition_of, flow_named
from flowroute.engine.messenger import Messenger
from flowroute.engine.ports import Hint, Move
from flowroute.engine.records import Bookmark, Guard, Target, guard_of
from flowroute.engine.statements import BLOCKED_SECONDS, FIRST_HINT_SECONDS
from flowroute.engine.step import END, Step, StepFailure
from flowroute.engine.store import Store
from flowroute.engine.transition import Transitions, unleased
from flowroute.engine.turn import Turn, Upcoming
from flowroute.engine.work import Work
from flowroute.errors import (
    ArgumentError,
    CheckpointUnreadable,
    CodecError,
    FlowrouteError,
    LeaseLost,
    StepTimeout,
)

logger = logging.getLogger("flowroute.failure")

MESSAGE_LIMIT = 2_000
"""Longest message kept with a failure, in characters."""

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
        """Record a failed attempt: retry after a backoff, go to the `on_error=` step, or fail."""
        step = step_or_none(flow, failure.step)
        # A step that this process does not know is left to one that does, or blocks when claimed.
        if step is None or step.may_retry(turn.attempt, crashed=crashed):
            wait = 0.0 if crashed or step is None else step.backoff_seconds(turn.attempt)
            target = Target(
                schema.WAITING,
                schema.FOR_TIMER,
                attempt=turn.attempt,
                wake_seconds=wait,
                error=asdict(failure),
            )
            self.change(turn.guard, failure.step, target)
        else:
            self.give_up(work, turn, flow, failure)

    def give_up(self, work: Work, turn: Turn, flow: str, failure: StepFailure) -> None:
        """Record that no attempt is left: go to the `on_error=` step, or fail."""
        step = step_or_none(flow, failure.step)
        if (
            step is None
            or step.on_error is None
            or not self._hand_over(work, turn, flow, step.on_error, failure)
        ):
            target = Target(schema.FAILED, attempt=turn.attempt, error=asdict(failure))
            self.change(turn.guard, failure.step, target)

    def release(self, turn: Turn, target: Target | None = None) -> None:
        """Give up the lease without a result; the attempt does not count."""
        target = target or Target(
            schema.READY, attempt=turn.attempt - 1, wake_seconds=FIRST_HINT_SECONDS
        )
        with self._database.engine.begin() as connection:
            self._store.change_state(connection, turn.guard, target)

    def block(self, guard: Guard, step: str | None, attempt: int, error: FlowrouteError) -> None:
        """The deployed code can not use a run's bookmark: keep the run until it can."""
        logger.error("run %s: blocked: %s", guard.run_id, error)
        reason = StepFailure(step or END, type(error).__name__, _storable(str(error)), attempt)
        target = Target(
            schema.BLOCKED, attempt=attempt, wake_seconds=BLOCKED_SECONDS, error=asdict(reason)
        )
        self.change(guard, step, target)

    def change(self, guard: Guard, step: str | None, target: Target) -> None:
        """Move a run to another state at the same bookmark, unless it moved meanwhile."""
        with self._database.engine.begin() as connection:
            changed = self._store.change_state(connection, guard, target)
        if changed:
            self._messenger.announce(
                Move(guard.run_id, guard.seq, target.state, target.waiting_for, step, None)
            )
            self.pass_on(guard, target)

    def pass_on(self, guard: Guard, target: Target) -> None:
        """Where a sub-flow has ended: have the executor look at the run that waited for it."""
        if guard.parent_id is None or target.state not in schema.FINISHED:
            return
        with self._database.connect() as connection:
            parent = self._store.read(connection, guard.parent_id)
        if parent is not None and parent.state == schema.READY:
            self._messenger.hint(parent, step_or_none(parent.flow, parent.step or END))

    def reload(self, work: Work, turn: Turn) -> Upcoming:
        """The bookmark as it is stored: a failed attempt may have changed what is in memory.

        Raises:
            LeaseLost: The run is no longer this turn's, or its bookmark became unreadable and it is
                blocked.
        """
        bookmark = self._bookmark(work, turn)
        try:
            return self._transitions.load(work, bookmark)
        except (CheckpointUnreadable, ArgumentError) as error:
            work.rollback()
            self.block(turn.guard, bookmark.record.step, turn.attempt - 1, error)
            raise LeaseLost from error

    @contextmanager
    def certain(self, turn: Turn, seq: int) -> Generator[None]:
        """Around the COMMIT of a checkpoint: it may have happened although it reported an error.

        If it did, the turn is stale: the session took it for undone. New rows are none of its rows
        any more, and what the next step changed in them would be lost without a word.
        """
        try:
            yield
        except DBAPIError:
            with self._database.connect() as connection:
                epoch = self._store.checkpoint_epoch(connection, turn.run_id, seq)
            if epoch != turn.epoch:
                raise
            turn.stale = True
            logger.warning(
                "run %s: COMMIT of checkpoint %s reported an error, but happened; the run goes on",
                turn.run_id,
                seq,
            )

    def _bookmark(self, work: Work, turn: Turn) -> Bookmark:
        with work.reading() as connection:
            bookmark = self._store.bookmark(connection, turn.run_id)
        if bookmark is None or guard_of(bookmark.record) != turn.guard:
            raise LeaseLost
        return bookmark

    def _hand_over(
        self, work: Work, turn: Turn, flow: str, on_error: str, failure: StepFailure
    ) -> bool:
        try:
            held = self._transitions.flow_at(work, self._bookmark(work, turn))
            onward: Continuation[Any] = getattr(held, on_error)(failure)
            # The process that failed may be the wrong one to go on.
            target = unleased(self._transitions.target(onward))
            new = self._transitions.checkpoint(work, turn, onward, seq=turn.seq + 1, duration=0.0)
            with self.certain(turn, turn.seq + 1), work.transaction() as connection:
                if not self._store.advance(connection, turn.guard, [new], target):
                    raise LeaseLost  # noqa: TRY301  # as what the statements above may raise
        except LeaseLost:
            work.rollback()
            return True  # somebody else owns the run now, and its end
        except (CodecError, ArgumentError):
            work.rollback()
            logger.exception("run %s: on_error step %s was not reached", turn.run_id, on_error)
            return False
        turn.seq, turn.state = turn.seq + 1, target.state
        step = onward.step
        self._messenger.tell(turn.run_id, turn.seq, flow, step, target)
        if target.state == schema.READY:
            timeout = None if step is None else step.timeout_seconds
            self._messenger.submit(Hint(turn.run_id, turn.seq, 0, timeout, flow, on_error))
        return True


def failure_of(error: BaseException, step: Step[Any, Any], attempt: int) -> StepFailure:
    """What is stored of an exception."""
    if isinstance(error, StepTimeout) and step.timeout_seconds is not None:
        message = (
            f"{step.flow_name}.{step.name} ran for longer than its timeout of "
            f"{step.timeout_seconds:g} seconds."
        )
    else:
        message = _text_of(error)
    lines = "".join(traceback.format_exception(error))
    return StepFailure(
        step.name,
        type(error).__name__,
        _storable(message[:MESSAGE_LIMIT]),
        attempt,
        _storable(lines[-TRACEBACK_LIMIT:]),
    )


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001  # a user's __str__; the failure is recorded all the same
        return f"<{type(error).__name__}, whose str() raised {type(broken).__name__}>"


def _storable(text: str) -> str:
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def step_or_none(flow: str, name: str) -> Step[Any, Any] | None:
    """A step that may be gone: an attempt that failed must be recorded all the same."""
    try:
        return definition_of(flow_named(flow)).steps.get(name)
    except FlowrouteError:
        return None
