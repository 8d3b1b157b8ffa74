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

from sqlalchemy.exc import DBAPIError

from flowroute.engine import schema
from flowroute.engine.advance import Advance, Advances
from flowroute.engine.attempt import attempt
from flowroute.engine.continuation import Continuation, is_continuation
from flowroute.engine.database import Database, is_transient
from flowroute.engine.failure import Failures, failure_of
from flowroute.engine.flow import definition_of
from flowroute.engine.heartbeat import Heartbeat, Pulse
from flowroute.engine.identity import new_run_id, process_name
from flowroute.engine.messenger import Messenger
from flowroute.engine.ports import Move
from flowroute.engine.records import Bookmark, RunRecord, Target, guard_of
from flowroute.engine.step import END, Place, Step, StepFailure
from flowroute.engine.store import Store
from flowroute.engine.transition import Transitions, parked, startable
from flowroute.engine.turn import ADVANCED, NOTHING, SCRIPT, Caller, Outcome, Turn, Upcoming
from flowroute.engine.work import Work
from flowroute.errors import (
    ArgumentError,
    CheckpointUnreadable,
    LeaseLost,
    RunFailed,
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
        self._lease_seconds = lease_seconds
        self._failures = failures
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
    ) -> Outcome:
        """Claim a run at its bookmark and advance it as far as `caller` can.

        With it a sub-flow that it calls, and the run that waited for its end.

        Parameters:
            run_id: The run.
            caller: Who asks, and what may run there.
            seq: Only if the bookmark is this checkpoint; None: whichever it is.
            bookmark: The run's, if it was read a moment ago.

        Returns:
            Whether anything was there to do, and what a page answered.

        Raises:
            RunNotFound: There is no such run.
        """
        outcome = self._advance(run_id, caller, seq, bookmark)
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
        self, run_id: str, caller: Caller, seq: int | None = None, bookmark: Bookmark | None = None
    ) -> Outcome:
        with Work(self._database) as work:
            if bookmark is None:
                bookmark = self._bookmark(work, run_id)
            if bookmark is None:
                raise RunNotFound(f"There is no run {run_id!r}.", run_id=run_id)
            record = bookmark.record
            if (seq is not None and seq != record.seq) or not caller.wants(record):
                return Outcome(advanced=False, bookmark=bookmark)
            loaded = self._load(work, bookmark, caller)
            if loaded is None:
                return NOTHING
            step = loaded.step
            if step.final:
                return self._end(work, record, loaded, caller=caller)
            if step.place not in caller.places:
                return self._park(record, step)
            if step.place is Place.EXECUTOR:
                work.settle()
            turn = self._claim(work, record, step, caller)
            if turn is None:
                return NOTHING
            return self._drive(work, turn, loaded)

    def _bookmark(self, work: Work, run_id: str) -> Bookmark | None:
        """Where a run stands; None if there is none."""
        try:
            with work.reading() as connection:
                return self._store.bookmark(connection, run_id)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
        # A connection that waited in a pool may have been closed by its server: with a new one, ask
        # once again.
        with work.reading() as connection:
            return self._store.bookmark(connection, run_id)

    def _load(self, work: Work, bookmark: Bookmark, caller: Caller) -> Upcoming | None:
        """What to call at a bookmark; None, and recorded, if it can not be called."""
        record = bookmark.record
        try:
            return self._transitions.load(work, bookmark)
        except (CheckpointUnreadable, ArgumentError) as error:
            work.rollback()
            self._failures.block(guard_of(record), record.step, record.attempt, error)
        except RunFailed as error:  # the sub-flow did
            work.rollback()
            failure = StepFailure(
                record.step or END, type(error).__name__, str(error), record.attempt
            )
            turn = Turn.at(record, caller, attempt=record.attempt)
            self._failures.give_up(work, turn, record.flow, failure)
        return None

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
        if advance.target.state == schema.DONE:
            return replace(ADVANCED, onward=turn.parent_id)
        return ADVANCED

    def _tell(self, turn: Turn, flow: str, onward: Continuation[Any], target: Target) -> None:
        self._messenger.tell(turn.run_id, turn.seq, flow, onward.step, target)

    def _progressed(self, pulse: Pulse, progress: dict[str, Any]) -> None:
        run_id, seq = pulse.guard.run_id, pulse.guard.seq
        self._messenger.announce(Move(run_id, seq, schema.RUNNING, None, pulse.step, progress))

    # -- the beginning of a turn -------------------------------------------------------------------

    def _claim(
        self, work: Work, record: RunRecord, step: Step[Any, Any], caller: Caller
    ) -> Turn | None:
        if step.place is Place.REQUEST and not caller.submits:
            # Whoever only looks at a page takes no lease: two tabs may look at once.
            return Turn.at(record, caller, attempt=1)
        with work.transaction(single=True) as connection:
            claimed = self._store.claim(
                connection,
                guard_of(record),
                owner=process_name(),
                lease_seconds=self._lease_seconds,
                timeout_seconds=step.timeout_seconds,
            )
        if not claimed:
            return None
        turn = Turn.at(record, caller, attempt=record.attempt + 1)
        turn.epoch, turn.state = record.epoch + 1, schema.RUNNING
        self._messenger.announce(Move(record.id, record.seq, schema.RUNNING, None, step.name, None))
        return turn

    def _park(self, record: RunRecord, step: Step[Any, Any]) -> Outcome:
        """A run is at a step that this caller can not run: say what it waits for."""
        if step.place is not Place.EXECUTOR or record.state == schema.WAITING:
            # It was ready for a page, or a deploy made a page of a worker step, or the reverse.
            self._failures.change(guard_of(record), record.step, parked(step))
        if step.place is Place.EXECUTOR:
            self._messenger.hint(record, step)
        return NOTHING

    def _end(
        self,
        work: Work,
        record: RunRecord,
        upcoming: Upcoming,
        *,
        caller: Caller,
    ) -> Outcome:
        """A run is at its final page: getting there ends it, and a request shows the page."""
        step = upcoming.step
        if record.state != schema.DONE:  # it waited before the page, or the page was gone
            self._failures.change(guard_of(record), record.step, Target(schema.DONE))
        if Place.REQUEST not in caller.places or caller.submits:
            return NOTHING  # an answer comes too late for a page that is only there to be looked at
        turn = Turn.at(record, caller, attempt=1)
        turn.state = schema.DONE
        try:
            returned = attempt(self.heartbeat, work, turn, upcoming)
        finally:
            work.rollback()  # the run has ended: there is no checkpoint for a write to commit with
        if is_continuation(returned):
            raise TransitionError(
                f"The final page {step.flow_name}.{step.name} returned a continuation, but run "
                f"{record.id} has ended with it: leave out final=True, or answer with a response.",
                run_id=record.id,
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
