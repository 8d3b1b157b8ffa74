"""The loop that runs steps and stores continuations.

One *turn* is one go at a run: from its claim to where it suspends, ends or is lost. Each round of a
turn is a short pipeline: call the step at the bookmark, look at what it returned, store that as the
next checkpoint together with the step's writes, and tell whoever has to know.
"""

from __future__ import annotations

import logging
import random
import time
from dataclasses import replace
from typing import Any, cast

from flowroute.engine import schema
from flowroute.engine.advance import Advance, Advances
from flowroute.engine.attempt import attempt
from flowroute.engine.claim import Claims
from flowroute.engine.continuation import Continuation, is_continuation
from flowroute.engine.database import Database, is_transient
from flowroute.engine.failure import Failures, failure_of
from flowroute.engine.flow import definition_of
from flowroute.engine.heartbeat import Heartbeat, Pulse
from flowroute.engine.identity import new_run_id
from flowroute.engine.messenger import Messenger
from flowroute.engine.ports import Move
from flowroute.engine.records import Bookmark, RunRecord, Target
from flowroute.engine.step import Place, Step, StepFailure
from flowroute.engine.store import Store
from flowroute.engine.transition import Transitions, startable
from flowroute.engine.turn import ADVANCED, NOTHING, SCRIPT, Caller, Outcome, Turn, Upcoming
from flowroute.engine.work import Work
from flowroute.errors import (
    LeaseLost,
    RunNotFound,
    StepTimeout,
    TransitionError,
)

logger = logging.getLogger("flowroute.dispatcher")

TRANSIENT_TRIES = 5
"""How often an attempt is begun anew when the database asked for another try."""


class Dispatcher:
    """Starts and advances the runs of one engine.

    Parameters:
        store: The statements.
        database: The connections and sessions.
        transitions: Continuations to rows and back.
        failures: Records what goes wrong.
        messenger: Whom to tell after a commit.
        lease_seconds: How long a lease lasts without a heartbeat.
    """

    def __init__(
        self,
        *,
        store: Store,
        database: Database,
        transitions: Transitions,
        failures: Failures,
        messenger: Messenger,
        lease_seconds: float,
    ) -> None:
        self._store = store
        self._database = database
        self._transitions = transitions
        self._messenger = messenger
        self._failures = failures
        self._claims = Claims(
            store=store,
            database=database,
            transitions=transitions,
            failures=failures,
            messenger=messenger,
            lease_seconds=lease_seconds,
        )
        self._advances = Advances(store, transitions, failures)
        self.heartbeat = Heartbeat(store, database, lease_seconds, self._progressed)

    # -- what others ask for -----------------------------------------------------------------------

    def start(
        self,
        continuation: Continuation[Any],
        caller: Caller,
        *,
        key: str | None,
        owner: str | None,
        instead_of: str | None = None,
    ) -> str:
        """Store a new run, and advance it as far as `caller` can.

        Parameters:
            continuation: A start step, called.
            caller: Who starts it, and what may run there.
            key: What at most one run of the flow holds.
            owner: Who starts it, as the application names people.
            instead_of: The run that gives up the key to this one, by the same commit.

        Returns:
            The run's id; the id of the run that holds `key`, if there is one.

        Raises:
            TransitionError: The flow can not start with this step.
            UnstorableValue: An argument can not be part of a checkpoint. Nothing was stored.
        """
        flow, step = startable(continuation)
        name = definition_of(type(flow)).name
        outcome = ADVANCED
        with Work(self._database) as work:
            turn = Turn(caller, new_run_id(), key, 0, 1, 1, schema.RUNNING, owner)
            target = self._transitions.target(continuation)
            new = self._transitions.new_run(work, turn, continuation, target)
            try:
                single = instead_of is None
                with (
                    self._failures.certain(turn, 0),
                    work.transaction(single=single) as connection,
                ):
                    if instead_of is not None:
                        self._store.release_key(connection, instead_of)
                    if not self._store.insert_run(connection, new):
                        # And roll back: the session's writes belong to this start.
                        raise _KeyHeld  # noqa: TRY301
            except _KeyHeld:
                return self._holder_of(name, cast("str", key))
            turn.state = target.state
            self._tell(turn, name, continuation, target)
            if target.state == schema.RUNNING:
                outcome = self._drive(work, turn, Upcoming(flow, step, continuation.arguments))
        self._go_on(outcome, caller)
        return turn.run_id

    def advance(
        self,
        run_id: str,
        caller: Caller,
        *,
        seq: int | None = None,
        bookmark: Bookmark | None = None,
        timeout_seconds: float | None = None,
    ) -> Outcome:
        """Claim a run at its bookmark and advance it as far as `caller` can.

        With it a sub-flow that it calls, and the run that waited for its end.

        Parameters:
            run_id: The run.
            caller: Who asks, and what may run there.
            seq: Only if the bookmark is this checkpoint; None: whichever it is.
            bookmark: The run's, if it was read a moment ago.
            timeout_seconds: How long an attempt of the step may take, as far as the caller knows.

        Returns:
            Whether anything was there to do, and what a page answered.

        Raises:
            RunNotFound: There is no such run.
        """
        outcome = self._advance(
            run_id, caller, seq=seq, bookmark=bookmark, timeout_seconds=timeout_seconds
        )
        self._go_on(outcome, caller)
        return outcome

    def fail(self, record: RunRecord, failure: StepFailure, *, crashed: bool) -> None:
        """Record that the attempt under way failed, in place of the process that ran it.

        Parameters:
            record: The run, running; its attempt is the one that failed.
            failure: Why.
            crashed: The process died, or stalled past its lease.
        """
        turn = Turn.at(record, SCRIPT, attempt=record.attempt)
        with Work(self._database) as work:
            self._failures.settle(work, turn, record.flow, failure, crashed=crashed)

    # -- a turn ------------------------------------------------------------------------------------

    def _advance(
        self,
        run_id: str,
        caller: Caller,
        *,
        seq: int | None = None,
        bookmark: Bookmark | None = None,
        timeout_seconds: float | None = None,
    ) -> Outcome:
        # Most requests only look at a run that waits: they open no unit of work.
        if bookmark is not None and not caller.wants(bookmark.record):
            return Outcome(advanced=False, bookmark=bookmark)
        with Work(self._database) as work:
            begun = self._claims.begin(
                work, run_id, caller, seq=seq, bookmark=bookmark, timeout_seconds=timeout_seconds
            )
            if isinstance(begun, Outcome):
                return begun
            if begun.upcoming.step.final:
                return self._show(work, *begun)
            return self._drive(work, *begun)

    def _go_on(self, outcome: Outcome, caller: Caller) -> None:
        """Go on with the runs that an advance concerns besides the one it was asked for."""
        # A loop: of a thousand sub-flows, one after another, each is called by the one before.
        while outcome.onward is not None:
            outcome = self._advance(outcome.onward, caller.onward)

    def _drive(  # noqa: C901  # one round of a turn, with all that may become of it, in one place
        self, work: Work, turn: Turn, upcoming: Upcoming
    ) -> Outcome:
        name = definition_of(type(upcoming.flow)).name
        while True:
            step = upcoming.step
            try:
                if turn.stale:
                    upcoming = self._failures.reload(work, turn)
                    step, turn.stale = upcoming.step, False
                began = time.perf_counter()
                returned = attempt(self.heartbeat, work, turn, upcoming)
                duration = time.perf_counter() - began
                if step.place is Place.REQUEST and not is_continuation(returned):
                    self._stay(work, turn)
                    return Outcome(advanced=False, answered=True, answer=returned)
                onward = self._transitions.check(turn, upcoming.flow, step, returned)
                advance = self._advances.store(work, turn, upcoming, onward, duration)
            except LeaseLost:
                work.rollback()
                logger.info(
                    "run %s: another process owns the run now; step %s undone",
                    turn.run_id,
                    step.name,
                    extra={"run_id": turn.run_id, "epoch": turn.epoch},
                )
                return NOTHING
            except (Exception, StepTimeout) as error:  # whatever a step raises is recorded
                work.rollback()
                if is_transient(error) and turn.transient < TRANSIENT_TRIES:
                    _pause(turn, error)
                    turn.start_over()
                    continue
                if turn.postponed:  # what failed is told apart once each step has its checkpoint
                    turn.commits_each = True
                    turn.start_over()
                    continue
                if step.place is Place.REQUEST:
                    self._stay(work, turn)
                    raise
                return self._failed(work, turn, name, step, error)
            except BaseException:  # the process is asked to end: let another go on at once
                work.rollback()
                if turn.state == schema.RUNNING:
                    self._failures.release(turn)
                raise
            if not advance.postponed:
                self._tell(turn, name, onward, advance.target)
                if advance.target.state != schema.RUNNING:
                    return self._left(turn, onward, advance)
            upcoming = Upcoming(
                onward.flow or upcoming.flow,
                cast("Step[Any, Any]", onward.step),
                onward.arguments,
            )

    def _left(self, turn: Turn, onward: Continuation[Any], advance: Advance) -> Outcome:
        """A run left this process: say whether it goes on with another one."""
        child = advance.child
        if child is not None:
            start = cast("Continuation[Any]", onward.child)
            self._messenger.tell(child.id, 0, child.flow, start.step, child.target)
            ready = child.target.state == schema.READY
            return replace(ADVANCED, onward=child.id if ready else None)
        if advance.target.state == schema.DONE and turn.parent_id is not None:
            return replace(ADVANCED, onward=turn.parent_id)
        return ADVANCED

    def _tell(self, turn: Turn, flow: str, onward: Continuation[Any], target: Target) -> None:
        self._messenger.tell(turn.run_id, turn.seq, flow, onward.step, target)

    def _progressed(self, pulse: Pulse, progress: dict[str, Any]) -> None:
        run_id, seq = pulse.guard.run_id, pulse.guard.seq
        self._messenger.announce(Move(run_id, seq, schema.RUNNING, None, pulse.step, progress))

    def _show(self, work: Work, turn: Turn, upcoming: Upcoming) -> Outcome:
        """Show the final page of a run that has ended."""
        step = upcoming.step
        try:
            returned = attempt(self.heartbeat, work, turn, upcoming)
        finally:
            work.rollback()  # the run has ended: there is no checkpoint for a write to commit with
        if is_continuation(returned):
            raise TransitionError(
                f"The final page {step.flow_name}.{step.name} returned a continuation, but run "
                f"{turn.run_id} has ended with it: leave out final=True, or answer with a "
                "response.",
                run_id=turn.run_id,
                step=step.name,
            )
        return Outcome(advanced=False, answered=True, answer=returned, ended=True)

    # -- the end of an attempt that did not succeed ------------------------------------------------

    def _stay(self, work: Work, turn: Turn) -> None:
        """A page answered and stays: its writes are undone, as there is no checkpoint for them."""
        work.rollback()
        if turn.state == schema.RUNNING:
            self._failures.release(turn, Target(schema.WAITING, schema.FOR_PAGE))

    def _failed(
        self, work: Work, turn: Turn, flow: str, step: Step[Any, Any], error: BaseException
    ) -> Outcome:
        failure = failure_of(error, step, turn.attempt)
        logger.error(
            "run %s: attempt %s of %s.%s failed",
            turn.run_id,
            turn.attempt,
            flow,
            step.name,
            exc_info=error,
        )
        self._failures.settle(work, turn, flow, failure, crashed=False)
        return ADVANCED

    def _holder_of(self, flow: str, key: str) -> str:
        with self._database.connect() as connection:
            record = self._store.find(connection, flow, key)
        if record is None:
            raise RunNotFound(
                f"The run that held the key {key!r} of {flow} let go of it at this moment: start "
                "again."
            )
        return record.id


def _pause(turn: Turn, error: BaseException) -> None:
    """Wait a little before an attempt is begun anew."""
    turn.transient += 1
    logger.info("run %s: the database asked for another try: %s", turn.run_id, error)
    time.sleep(random.uniform(0.01, 0.05) * 2**turn.transient)  # noqa: S311  # jitter


class _KeyHeld(Exception):
    """Another run holds the key; never leaves this module."""
