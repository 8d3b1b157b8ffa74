"""The loop that runs steps and stores continuations.

One *turn* is one go at a run: from its claim to where it suspends, ends or is lost. Each round of a turn is
a short pipeline: call the step at the bookmark, look at what it returned, store that as the next checkpoint
together with the step's writes, and tell whoever has to know.
"""

from __future__ import annotations

import logging
import random
import time
from typing import Any, cast

from sqlalchemy.exc import DBAPIError

from flowroute.engine import schema
from flowroute.engine.context import RunContext
from flowroute.engine.continuation import Continuation
from flowroute.engine.database import Database, is_transient
from flowroute.engine.failure import Failures, failure_of
from flowroute.engine.flow import Flow, definition_of
from flowroute.engine.heartbeat import Heartbeat, Pulse
from flowroute.engine.identity import new_run_id, process_name
from flowroute.engine.messenger import Messenger
from flowroute.engine.ports import Hint, Move
from flowroute.engine.step import Place, Step, StepFailure
from flowroute.engine.store import RunRecord, Store, Target, guard_of
from flowroute.engine.transition import Transitions, startable
from flowroute.engine.turn import ADVANCED, NOTHING, SCRIPT, Caller, Outcome, Turn
from flowroute.engine.work import Work
from flowroute.errors import (
    ArgumentError,
    CheckpointUnreadable,
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
        messenger: Whom to tell after a commit.
        lease_seconds: How long a lease lasts without a heartbeat.
    """

    def __init__(
        self,
        *,
        store: Store,
        database: Database,
        transitions: Transitions,
        messenger: Messenger,
        lease_seconds: float,
    ) -> None:
        self._store = store
        self._database = database
        self._transitions = transitions
        self._messenger = messenger
        self._lease_seconds = lease_seconds
        self._failures = Failures(store, database, transitions, messenger)
        self.heartbeat = Heartbeat(store, database, lease_seconds, self._progressed)

    # -- what others ask for ----------------------------------------------------------------------------

    def start(
        self, continuation: Continuation[Any], caller: Caller, *, key: str | None, owner: str | None
    ) -> str:
        """Store a new run, and advance it as far as `caller` can.

        Returns:
            The run's id; the id of the run that holds `key`, if there is one.

        Raises:
            TransitionError: The flow can not start with this step.
            UnstorableValue: An argument can not be part of a checkpoint. Nothing was stored.
        """
        flow, step = startable(continuation)
        definition = definition_of(type(flow))
        turn = Turn(caller, new_run_id(), key, 0, 1, 1, schema.RUNNING)
        with Work(self._database) as work:
            target = self._transitions.target(continuation)
            new = self._transitions.checkpoint(work, turn, continuation, seq=0)
            with work.transaction() as connection:
                stored = self._store.insert_run(
                    connection,
                    run_id=turn.run_id,
                    flow=definition.name,
                    flow_version=definition.version,
                    key=key,
                    owner=owner,
                    step=step.name,
                    target=target,
                )
                if stored:
                    self._store.insert_checkpoint(connection, turn.run_id, 0, 1, new)
            if not stored:
                return self._holder_of(definition.name, cast("str", key))
            turn.state = target.state
            self._tell(turn, definition.name, continuation, target)
            if target.state == schema.RUNNING:
                self._drive(work, turn, flow, step, continuation.arguments)
        return turn.run_id

    def advance(self, run_id: str, caller: Caller, *, seq: int | None = None) -> Outcome:
        """Claim a run at its bookmark and advance it as far as `caller` can.

        Parameters:
            run_id: The run.
            caller: Who asks, and what may run there.
            seq: Only if the bookmark is this checkpoint; None: whichever it is.

        Returns:
            Whether anything was there to do, and what a page answered.

        Raises:
            RunNotFound: There is no such run.
        """
        with Work(self._database) as work:
            with work.reading() as connection:
                bookmark = self._store.bookmark(connection, run_id)
            if bookmark is None:
                raise RunNotFound(f"There is no run {run_id!r}.", run_id=run_id)
            record = bookmark.record
            if (seq is not None and seq != record.seq) or not _wants(record, caller):
                return NOTHING
            try:
                flow, step, arguments = self._transitions.load(work, bookmark)
            except (CheckpointUnreadable, ArgumentError) as error:
                work.rollback()
                self._failures.block(record, error)
                return NOTHING
            if record.state == schema.DONE:
                return self._render(work, record, flow, step, arguments)
            if step.place not in caller.places:
                return self._park(record, step)
            turn = self._claim(work, record, step, caller)
            if turn is None:
                return NOTHING
            if step.place is Place.EXECUTOR:
                work.settle()
            return self._drive(work, turn, flow, step, arguments)

    def fail(self, record: RunRecord, failure: StepFailure, *, crashed: bool) -> None:
        """Record that the attempt under way failed, in place of the process that ran it.

        Parameters:
            record: The run, running; its attempt is the one that failed.
            failure: Why.
            crashed: The process died, or stalled past its lease.
        """
        turn = Turn(
            SCRIPT, record.id, record.key, record.seq, record.epoch, record.attempt, record.state
        )
        with Work(self._database) as work:
            self._failures.settle(work, turn, record.flow, failure, crashed=crashed)

    # -- a turn -----------------------------------------------------------------------------------------

    def _drive(
        self, work: Work, turn: Turn, flow: Flow, step: Step[Any, Any], arguments: dict[str, Any]
    ) -> Outcome:
        name = definition_of(type(flow)).name
        while True:
            try:
                began = time.perf_counter()
                returned = self._call(work, turn, flow, step, arguments)
                duration = time.perf_counter() - began
                if step.place is Place.REQUEST and not isinstance(returned, Continuation):
                    self._stay(work, turn)
                    return Outcome(advanced=False, answered=True, answer=returned)
                onward = self._transitions.check(turn, flow, step, returned)
                target = self._store_advance(work, turn, onward, duration)
            except LeaseLost:
                work.rollback()
                logger.info(
                    "run %s: another process owns the run now; step %s undone", turn.run_id, step.name
                )
                return NOTHING
            except (Exception, StepTimeout) as error:  # noqa: BLE001  # whatever a step raises is recorded
                work.rollback()
                if is_transient(error) and turn.transient < TRANSIENT_TRIES:
                    flow, step, arguments = self._again(work, turn, error)
                    continue
                if step.place is Place.REQUEST:
                    self._stay(work, turn)
                    raise
                return self._failed(work, turn, name, step, error)
            except BaseException:  # the process is asked to end: let another go on at once
                work.rollback()
                self._failures.release(turn)
                raise
            turn.seq, turn.attempt, turn.transient, turn.state = turn.seq + 1, 1, 0, target.state
            self._tell(turn, name, onward, target)
            if target.state != schema.RUNNING:
                return ADVANCED
            flow, step, arguments = onward.flow or flow, cast("Step[Any, Any]", onward.step), onward.arguments

    def _call(
        self, work: Work, turn: Turn, flow: Flow, step: Step[Any, Any], arguments: dict[str, Any]
    ) -> Any:
        title = f"{step.flow_name}.{step.name}"
        with (
            self.heartbeat.watch(
                turn.run_id, turn.seq, turn.epoch, step.name, timeout_seconds=step.timeout_seconds
            ) as pulse,
            work.step(title, commits=step.commits),
        ):
            flow.__dict__["__run__"] = RunContext(
                run_id=turn.run_id,
                key=turn.key,
                flow=step.flow_name,
                step=step.name,
                seq=turn.seq,
                attempt=turn.attempt,
                open_session=work.session,
                report=lambda progress: self.heartbeat.report(pulse, progress),
            )
            try:
                return step.signature.call(step.function, flow, arguments)
            finally:
                flow.__dict__.pop("__run__", None)

    def _store_advance(
        self, work: Work, turn: Turn, onward: Continuation[Any], duration: float
    ) -> Target:
        target = self._transitions.target(onward)
        new = self._transitions.checkpoint(work, turn, onward, seq=turn.seq + 1, duration=duration)
        try:
            with work.transaction() as connection:
                if not self._store.advance(connection, turn.guard, new, target):
                    raise LeaseLost
        except DBAPIError:
            # A COMMIT may have happened although it reported an error: the checkpoint tells.
            if not self._stored(turn):
                raise
            logger.warning(
                "run %s: COMMIT of checkpoint %s reported an error, but happened", turn.run_id, turn.seq + 1
            )
        return target

    def _stored(self, turn: Turn) -> bool:
        with self._database.engine.connect() as connection:
            epoch = self._store.checkpoint_epoch(connection, turn.run_id, turn.seq + 1)
        return epoch == turn.epoch

    def _tell(self, turn: Turn, flow: str, onward: Continuation[Any], target: Target) -> None:
        step = onward.step
        if target.waiting_for == schema.FOR_WORKER and step is not None:
            self._messenger.submit(Hint(turn.run_id, turn.seq, 0, step.timeout_seconds, flow, step.name))
        name = None if step is None else step.name
        self._messenger.announce(Move(turn.run_id, turn.seq, target.state, target.waiting_for, name, None))

    def _progressed(self, pulse: Pulse, progress: dict[str, Any]) -> None:
        self._messenger.announce(Move(pulse.run_id, pulse.seq, schema.RUNNING, None, pulse.step, progress))

    # -- the beginning of a turn ------------------------------------------------------------------------

    def _claim(
        self, work: Work, record: RunRecord, step: Step[Any, Any], caller: Caller
    ) -> Turn | None:
        if step.place is Place.REQUEST and not caller.submits:
            # Whoever only looks at a page takes no lease: two tabs may look at once.
            return Turn(
                caller, record.id, record.key, record.seq, record.epoch, 1, schema.WAITING
            )
        with work.transaction() as connection:
            claimed = self._store.claim(
                connection,
                guard_of(record),
                owner=process_name(),
                lease_seconds=self._lease_seconds,
                timeout_seconds=step.timeout_seconds,
            )
        if not claimed:
            return None
        turn = Turn(
            caller, record.id, record.key, record.seq, record.epoch + 1, record.attempt + 1, schema.RUNNING
        )
        self._messenger.announce(Move(record.id, record.seq, schema.RUNNING, None, step.name, None))
        return turn

    def _park(self, record: RunRecord, step: Step[Any, Any]) -> Outcome:
        """A run is ready, but not for this caller: say what it waits for."""
        if record.state == schema.WAITING:
            return NOTHING
        if step.place is Place.EXECUTOR:
            self._messenger.hint(record, step)
            return NOTHING
        target = Target(schema.DONE) if step.final else Target(schema.WAITING, schema.FOR_PAGE)
        self._failures.change(record, target)
        return NOTHING

    def _render(
        self,
        work: Work,
        record: RunRecord,
        flow: Flow,
        step: Step[Any, Any],
        arguments: dict[str, Any],
    ) -> Outcome:
        turn = Turn(SCRIPT, record.id, record.key, record.seq, record.epoch, 1, schema.DONE)
        try:
            returned = self._call(work, turn, flow, step, arguments)
        finally:
            work.rollback()  # the run has ended: there is no checkpoint for a write to commit with
        if isinstance(returned, Continuation):
            raise TransitionError(
                f"The final page {step.flow_name}.{step.name} returned a continuation, but run {record.id} has ended "
                "with it: leave out final=True, or answer with a response.",
                run_id=record.id,
                step=step.name,
            )
        return Outcome(advanced=False, answered=True, answer=returned)

    # -- the end of an attempt that did not succeed -------------------------------------------------------

    def _stay(self, work: Work, turn: Turn) -> None:
        """A page answered and stays. Its writes are undone: they commit with a checkpoint or not at all."""
        work.rollback()
        if turn.state == schema.RUNNING:
            self._failures.release(turn, Target(schema.WAITING, schema.FOR_PAGE))

    def _again(
        self, work: Work, turn: Turn, error: BaseException
    ) -> tuple[Flow, Step[Any, Any], dict[str, Any]]:
        turn.transient += 1
        logger.info("run %s: the database asked for another try: %s", turn.run_id, error)
        time.sleep(random.uniform(0.01, 0.05) * 2**turn.transient)  # noqa: S311  # jitter
        return self._failures.reload(work, turn)

    def _failed(
        self, work: Work, turn: Turn, flow: str, step: Step[Any, Any], error: BaseException
    ) -> Outcome:
        failure = failure_of(error, step, turn.attempt)
        logger.error(
            "run %s: attempt %s of %s.%s failed", turn.run_id, turn.attempt, flow, step.name, exc_info=error
        )
        self._failures.settle(work, turn, flow, failure, crashed=False)
        return ADVANCED

    def _holder_of(self, flow: str, key: str) -> str:
        with self._database.engine.connect() as connection:
            record = self._store.find(connection, flow, key)
        if record is None:
            raise RunNotFound(
                f"The run that held the key {key!r} of {flow} let go of it at this moment: start again."
            )
        return record.id


def _wants(record: RunRecord, caller: Caller) -> bool:
    """Whether this caller can do anything with a run in this state."""
    if record.state in (schema.READY, schema.BLOCKED):
        return True
    if record.state == schema.DONE:
        return record.step is not None and Place.REQUEST in caller.places
    if record.state != schema.WAITING:
        return False
    if record.waiting_for == schema.FOR_WORKER:
        return Place.EXECUTOR in caller.places
    return record.waiting_for == schema.FOR_PAGE and Place.REQUEST in caller.places
