"""The beginning of a turn: finding a run, taking it, and loading what comes next."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy.exc import DBAPIError

from flowroute.engine import schema
from flowroute.engine.database import Database
from flowroute.engine.failure import Failures
from flowroute.engine.identity import process_name
from flowroute.engine.messenger import Messenger
from flowroute.engine.ports import Move
from flowroute.engine.records import Bookmark, RunRecord, Target, guard_of
from flowroute.engine.step import END, Place, Step, StepFailure
from flowroute.engine.store import Store
from flowroute.engine.transition import Transitions, parked
from flowroute.engine.turn import NOTHING, Caller, Outcome, Turn, Upcoming
from flowroute.engine.work import Work
from flowroute.errors import ArgumentError, CheckpointUnreadable, RunFailed, RunNotFound


class Begun(NamedTuple):
    """A turn that can go on."""

    turn: Turn
    upcoming: Upcoming
    """What the run has come to: a step that the caller can run, or the final page."""


class Claims:
    """Begins turns.

    Parameters:
        store: The statements.
        database: The connections.
        transitions: Checkpoints to continuations.
        failures: Records what can not be called.
        messenger: Whom to tell.
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
        self._failures = failures
        self._messenger = messenger
        self._lease_seconds = lease_seconds

    def begin(
        self,
        work: Work,
        run_id: str,
        caller: Caller,
        *,
        seq: int | None,
        bookmark: Bookmark | None,
        timeout_seconds: float | None,
    ) -> Begun | Outcome:
        """Take a run at its bookmark, if the caller can do anything with it.

        Parameters:
            work: Gives the rows among the arguments their session.
            run_id: The run.
            caller: Who asks, and what may run there.
            seq: Only if the bookmark is this checkpoint; None: whichever it is.
            bookmark: The run's, if it was read a moment ago.
            timeout_seconds: How long an attempt of the step may take, as far as the caller knows.

        Returns:
            The turn, or why there is none.

        Raises:
            RunNotFound: There is no such run.
        """
        if seq is not None and Place.EXECUTOR in caller.places and self._database.commits_alone:
            taken = self._take(work, run_id, seq, timeout_seconds)
            if taken is not None:
                return self._begin_taken(work, taken, caller, timeout_seconds)
        bookmark = bookmark or self._bookmark(work, run_id)
        if bookmark is None:
            raise RunNotFound(f"There is no run {run_id!r}.", run_id=run_id)
        record = bookmark.record
        if (seq is not None and seq != record.seq) or not caller.wants(record):
            return Outcome(advanced=False, bookmark=bookmark)
        upcoming = self._upcoming(work, bookmark, caller, record.attempt)
        if upcoming is None:
            return NOTHING
        step = upcoming.step
        if step.final:
            return self._last(record, caller, upcoming)
        turn = self._claim(work, record, step, caller)
        return NOTHING if turn is None else Begun(turn, upcoming)

    # -- a run that a hint names -------------------------------------------------------------------

    def _take(
        self, work: Work, run_id: str, seq: int, timeout_seconds: float | None
    ) -> Bookmark | None:
        """Read and claim a run that waits for an executor at once, before its step is known."""
        try:
            with work.transaction(single=True) as connection:
                return self._store.take(
                    connection,
                    run_id,
                    seq,
                    owner=process_name(),
                    lease_seconds=self._lease_seconds,
                    timeout_seconds=timeout_seconds,
                )
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
        return None  # the server had closed a connection that waited in a pool: ask with a new one

    def _begin_taken(
        self, work: Work, taken: Bookmark, caller: Caller, timeout_seconds: float | None
    ) -> Begun | Outcome:
        record = taken.record
        turn = Turn.at(record, caller, attempt=record.attempt)
        try:
            upcoming = self._upcoming(work, taken, caller, record.attempt - 1)
            if upcoming is None:
                return NOTHING
            step = upcoming.step
            if step.final:
                return self._last(record, caller, upcoming)
            if step.timeout_seconds != timeout_seconds and not self._limit(work, turn, step):
                return NOTHING
        except BaseException:  # let another process try
            work.rollback()
            self._failures.release(turn)
            raise
        self._announce(turn, step)
        return Begun(turn, upcoming)

    def _limit(self, work: Work, turn: Turn, step: Step[Any, Any]) -> bool:
        """Correct the deadline: the code that gave the hint had another timeout for the step."""
        with work.transaction(single=True) as connection:
            return self._store.limit(connection, turn.guard, step.timeout_seconds)

    # -- a run that was read first -----------------------------------------------------------------

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
        self._announce(turn, step)
        return turn

    # -- both --------------------------------------------------------------------------------------

    def _upcoming(
        self, work: Work, bookmark: Bookmark, caller: Caller, attempts: int
    ) -> Upcoming | None:
        """What to call at a bookmark; None, and recorded, if it can not be called, or not here.

        Parameters:
            work: Gives the rows among the arguments their session.
            bookmark: The run's.
            caller: What may run there.
            attempts: How many attempts of the step began before.
        """
        record = bookmark.record
        try:
            upcoming = self._transitions.load(work, bookmark)
        except (CheckpointUnreadable, ArgumentError) as error:
            work.rollback()
            self._failures.block(guard_of(record), record.step, attempts, error)
            return None
        except RunFailed as error:  # the sub-flow did
            work.rollback()
            failure = StepFailure(record.step or END, type(error).__name__, str(error), attempts)
            turn = Turn.at(record, caller, attempt=attempts)
            self._failures.give_up(work, turn, record.flow, failure)
            return None
        if not upcoming.step.final and upcoming.step.place not in caller.places:
            self._park(record, upcoming.step)
            return None
        if upcoming.step.place is Place.EXECUTOR:
            work.settle()
        return upcoming

    def _park(self, record: RunRecord, step: Step[Any, Any]) -> None:
        """A run is at a step that this caller can not run: say what it waits for."""
        if step.place is not Place.EXECUTOR or record.state == schema.WAITING:
            # It was ready for a page, or a deploy made a page of a worker step, or the reverse.
            self._failures.change(guard_of(record), record.step, parked(step))
        if step.place is Place.EXECUTOR:
            self._messenger.hint(record, step)

    def _last(self, record: RunRecord, caller: Caller, upcoming: Upcoming) -> Begun | Outcome:
        """A run is at its final page: getting there ends it, and a request shows the page."""
        if record.state != schema.DONE:  # it waited before the page, or the page was gone
            self._failures.change(guard_of(record), record.step, Target(schema.DONE))
        if Place.REQUEST not in caller.places or caller.submits:
            return NOTHING  # an answer comes too late for a page that is only there to be looked at
        turn = Turn.at(record, caller, attempt=1)
        turn.state = schema.DONE
        return Begun(turn, upcoming)

    def _announce(self, turn: Turn, step: Step[Any, Any]) -> None:
        self._messenger.announce(Move(turn.run_id, turn.seq, schema.RUNNING, None, step.name, None))
