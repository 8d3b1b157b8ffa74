"""What a continuation is in the tables: the row it moves a run to, its checkpoint, and back."""

from __future__ import annotations

from typing import Any, cast

from flowroute.engine import schema
from flowroute.engine.codec import PYTHON_TAG, Codec
from flowroute.engine.continuation import Continuation, is_continuation
from flowroute.engine.description import describe
from flowroute.engine.flow import Flow, definition_of, flow_named, restore
from flowroute.engine.identity import process_name
from flowroute.engine.records import Bookmark, NewCheckpoint, NewRun, Target
from flowroute.engine.statements import FIRST_HINT_SECONDS
from flowroute.engine.step import END, Place, Step
from flowroute.engine.store import Store
from flowroute.engine.turn import Turn, Upcoming
from flowroute.engine.work import Work
from flowroute.errors import CheckpointUnreadable, RunFailed, TransitionError


class ResultOf:
    """Stands in a checkpoint for the result of the sub-flow that the checkpoint waits for.

    Parameters:
        run_id: The sub-flow's run.
    """

    __slots__ = ("run_id",)

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id

    def __repr__(self) -> str:
        return f"result of run {self.run_id}"


class Transitions:
    """Continuations to rows, and rows to continuations.

    Parameters:
        codec: Values to signed bytes and back.
        store: Finds the sub-flow that a checkpoint waits for.
        lease_seconds: How long a lease lasts without a heartbeat.
    """

    def __init__(self, codec: Codec, store: Store, lease_seconds: float) -> None:
        self._codec = codec
        self._store = store
        self._lease_seconds = lease_seconds

    def check(
        self, turn: Turn, flow: Flow, step: Step[Any, Any], returned: object
    ) -> Continuation[Any]:
        """What a step returned, as a continuation with its flow.

        Raises:
            TransitionError: It is none, the step graph does not allow it, or it calls what is no
                start of a flow.
        """
        where = f"The step {step.flow_name}.{step.name} of run {turn.run_id}"
        if not is_continuation(returned):
            raise TransitionError(
                f"{where} returned {returned!r}, which is no continuation: return self.<step>(…) "
                "to go on, or done(value) to end the run.",
                run_id=turn.run_id,
                step=step.name,
            )
        if returned.flow is not None and type(returned.flow) is not type(flow):
            raise TransitionError(
                f"{where} returned a continuation of {type(returned.flow).__name__}: a step hands "
                "over to a step of its own flow.",
                run_id=turn.run_id,
                step=step.name,
            )
        target = END if returned.step is None else returned.step.name
        if not type(flow).__flow__.graph.allows(step.name, target):
            raise TransitionError(
                f"{where} handed over to {target!r}, which is not among its successors in the step "
                f"graph: name it, @step(to=[…, {target!r}]).",
                run_id=turn.run_id,
                step=step.name,
            )
        if returned.child is not None and startable(returned.child)[1].final:
            raise TransitionError(
                f"{where} called a sub-flow that starts with a final page, and so ends before it "
                "begins: call one with more steps.",
                run_id=turn.run_id,
                step=step.name,
            )
        return (
            returned if returned.flow is not None else Continuation(None, flow, returned.arguments)
        )

    def target(self, continuation: Continuation[Any]) -> Target:
        """Where a run goes with this continuation: the columns of its row."""
        step = continuation.step
        if continuation.child is not None:
            return Target(schema.WAITING, schema.FOR_CHILDREN)
        if continuation.delay is not None or continuation.due_at is not None:
            seconds = None if continuation.delay is None else continuation.delay.total_seconds()
            return Target(
                schema.WAITING, schema.FOR_TIMER, wake_seconds=seconds, wake_at=continuation.due_at
            )
        if step is None or step.final:
            return Target(schema.DONE)
        if step.place is not Place.ANYWHERE:
            return parked(step)
        return Target(
            schema.RUNNING,
            attempt=1,
            lease_owner=process_name(),
            lease_seconds=self._lease_seconds,
            timeout_seconds=step.timeout_seconds,
        )

    def new_run(
        self, work: Work, turn: Turn, continuation: Continuation[Any], target: Target
    ) -> NewRun:
        """Write the start of a run.

        Parameters:
            work: Its session flushes rows that have no identity yet.
            turn: The new run's first.
            continuation: A start step, called.
            target: Where the run goes.

        Raises:
            UnstorableValue: A value in it can not be part of a checkpoint.
        """
        definition = definition_of(type(cast("Flow", continuation.flow)))
        return NewRun(
            id=turn.run_id,
            flow=definition.name,
            flow_version=definition.version,
            key=turn.key,
            owner=turn.owner,
            parent_id=turn.parent_id,
            parent_seq=turn.parent_seq,
            target=target,
            checkpoint=self.checkpoint(work, turn, continuation, seq=0),
        )

    def checkpoint(
        self,
        work: Work,
        turn: Turn,
        continuation: Continuation[Any],
        *,
        seq: int,
        duration: float | None = None,
        child_id: str | None = None,
    ) -> NewCheckpoint:
        """Write a continuation as a checkpoint.

        Parameters:
            work: Its session flushes rows that have no identity yet.
            turn: Whose attempt returned the continuation.
            continuation: With its flow.
            seq: The checkpoint's number.
            duration: Seconds that the attempt took; None at the start of a run.
            child_id: The run whose result becomes the first argument; None: there is none.

        Raises:
            UnstorableValue: A value in it can not be part of a checkpoint.
        """
        flow = cast("Flow", continuation.flow)
        step = continuation.step
        state = type(flow).__flow__.state_of(flow)
        arguments = continuation.arguments
        if step is not None and child_id is not None:
            arguments = {step.signature.parameters[0].name: ResultOf(child_id), **arguments}
        value = ("" if step is None else step.name, state, arguments)
        first = duration is None
        return NewCheckpoint(
            step=None if step is None else step.name,
            payload=self._codec.encode(value, run_id=turn.run_id, seq=seq, session=work.session),
            arguments=describe(arguments),
            python=PYTHON_TAG,
            duration=duration,
            attempt=None if first else turn.attempt_now,
            executor=None if first else turn.caller.name,
        )

    def load(self, work: Work, bookmark: Bookmark) -> Upcoming:
        """The flow, the step and the arguments at a bookmark, validated against the code of today.

        Raises:
            CheckpointUnreadable: This code can not use the bookmark.
            ArgumentError: State or arguments no longer fit.
            RunFailed: The sub-flow whose result it waits for ended without one.
        """
        record = bookmark.record
        cls = flow_named(record.flow)
        name, state, arguments = self._decode(work, bookmark)
        step = definition_of(cls).steps.get(name)
        if step is None:
            raise CheckpointUnreadable(
                f"The flow {record.flow} has no step called {name!r} any more: bring it back, or "
                "cancel the run.",
                run_id=record.id,
                step=name,
            )
        for parameter, value in arguments.items():
            if type(value) is ResultOf:
                arguments = arguments | {parameter: self._result_of(work, value.run_id)}
                break
        return Upcoming(restore(cls, state), step, step.signature.validate(arguments))

    def flow_at(self, work: Work, bookmark: Bookmark) -> Flow:
        """The flow at a bookmark with its state, whichever step comes next, and also at the end.

        Raises:
            CheckpointUnreadable: This code can not use the bookmark.
            ArgumentError: The state no longer fits.
        """
        cls = flow_named(bookmark.record.flow)
        _, state, _ = self._decode(work, bookmark)
        return restore(cls, state)

    def result(self, work: Work, bookmark: Bookmark) -> Any:
        """What a run ended with that is done; None if it ended at a final page.

        Raises:
            CheckpointUnreadable: This code can not use the bookmark.
        """
        if bookmark.record.step is not None:
            return None
        record = bookmark.record
        _, _, arguments = self._decode(work, bookmark)
        if "result" not in arguments:
            raise CheckpointUnreadable(
                f"Checkpoint {record.seq} of run {record.id} ends it without a result. flowroute "
                "wrote no such checkpoint: restore its bytes.",
                run_id=record.id,
            )
        return arguments["result"]

    def _result_of(self, work: Work, run_id: str) -> Any:
        with work.reading() as connection:
            bookmark = self._store.bookmark(connection, run_id)
        if bookmark is None:
            raise CheckpointUnreadable(
                f"The sub-flow's run {run_id} was deleted: cancel the run that waits for its "
                "result.",
                run_id=run_id,
            )
        record = bookmark.record
        if record.state != schema.DONE:
            error = record.error or {}
            raise RunFailed(
                f"Run {run_id} of {record.flow}, the sub-flow whose result it waits for, is "
                f"{record.state} at step {record.step}"
                + (f": {error.get('type')}: {error.get('message')}" if error else "."),
                run_id=run_id,
                step=record.step,
            )
        return self.result(work, bookmark)

    def _decode(self, work: Work, bookmark: Bookmark) -> tuple[str, dict[str, Any], dict[str, Any]]:
        record = bookmark.record
        value: tuple[str, dict[str, Any], dict[str, Any]] = self._codec.decode(
            bookmark.payload,
            run_id=record.id,
            seq=record.seq,
            python=bookmark.python,
            session=work.session,
        )
        return value


def unleased(target: Target) -> Target:
    """The same without a lease: whoever can run the step next claims it."""
    if target.state != schema.RUNNING:
        return target
    return Target(schema.READY, wake_seconds=FIRST_HINT_SECONDS)


def parked(step: Step[Any, Any]) -> Target:
    """What a run waits for before a worker step or a page."""
    if step.place is Place.EXECUTOR:
        return Target(schema.WAITING, schema.FOR_WORKER, wake_seconds=FIRST_HINT_SECONDS)
    return Target(schema.WAITING, schema.FOR_PAGE)


def startable(continuation: object) -> tuple[Flow, Step[Any, Any]]:
    """The flow and the step that a run is to start with.

    Raises:
        TransitionError: It can not start with this.
    """
    if not is_continuation(continuation):
        raise TransitionError(
            f"start() takes a continuation, not {continuation!r}: call a start step, "
            "Checkout(customer_id=7).reserve(cart)."
        )
    flow, step = continuation.flow, continuation.step
    if flow is None or step is None:
        raise TransitionError("done(…) ends a run and can not start one: call a start step.")
    if continuation.child is not None:
        raise TransitionError(
            "call(…) goes on with a run and can not start one: call a start step."
        )
    if not step.start:
        starts = [s.name for s in definition_of(type(flow)).steps.values() if s.start]
        raise TransitionError(
            f"{step.flow_name}.{step.name} is no start step: start with {', '.join(starts)}, or "
            "declare it @step(start=True).",
            step=step.name,
        )
    return flow, step
