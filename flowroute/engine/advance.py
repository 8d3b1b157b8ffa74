"""Storing what a step returned, together with what it wrote."""

from __future__ import annotations

from typing import Any, NamedTuple

from flowroute.engine import schema
from flowroute.engine.continuation import Continuation
from flowroute.engine.failure import Failures
from flowroute.engine.flow import definition_of
from flowroute.engine.identity import new_run_id
from flowroute.engine.records import NewRun, Target
from flowroute.engine.step import Place
from flowroute.engine.store import Store
from flowroute.engine.transition import Transitions, unleased
from flowroute.engine.turn import Turn, Upcoming
from flowroute.engine.work import Work
from flowroute.errors import LeaseLost

POSTPONED_LIMIT = 1_000
"""Most checkpoints that wait for one commit: they are kept in memory."""


class Advance(NamedTuple):
    """Where a run went."""

    target: Target
    child: NewRun | None = None
    """The sub-flow that was called, stored by the same commit."""
    postponed: bool = False
    """Whether it is only in memory: a later step's commit stores it too."""


class Advances:
    """Moves runs to their next checkpoint.

    Parameters:
        store: The statements.
        transitions: Continuations to rows.
        failures: Finds out what became of a COMMIT that reported an error.
    """

    def __init__(self, store: Store, transitions: Transitions, failures: Failures) -> None:
        self._store = store
        self._transitions = transitions
        self._failures = failures

    def store(
        self,
        work: Work,
        turn: Turn,
        called: Upcoming,
        onward: Continuation[Any],
        duration: float,
    ) -> Advance:
        """Store a continuation, with what the step wrote, by one commit.

        Parameters:
            work: Holds what the step wrote.
            turn: Whose attempt returned the continuation. It is at the new checkpoint afterwards.
            called: The step that returned it.
            onward: The continuation, checked.
            duration: Seconds that the attempt took.

        Raises:
            LeaseLost: Somebody else owns the run: nothing was stored.
            UnstorableValue: A value in it can not be part of a checkpoint.
            sqlalchemy.exc.DBAPIError: The database refused what the step wrote, or is away.
        """
        target = self._transitions.target(onward)
        child = self._child(work, turn, onward)
        new = self._transitions.checkpoint(
            work,
            turn,
            onward,
            seq=turn.seq_now + 1,
            duration=duration,
            child_id=None if child is None else child.id,
        )
        if self._may_wait(turn, called, onward, target):
            turn.postponed.append(new)
            return Advance(target, postponed=True)
        seq, checkpoints = turn.seq_now + 1, [*turn.postponed, new]
        single = child is None and self._store.is_single(turn.guard, checkpoints, target)
        with self._failures.certain(turn, seq), work.transaction(single=single) as connection:
            if not self._store.advance(connection, turn.guard, checkpoints, target):
                raise LeaseLost
            if child is not None:
                self._store.insert_run(connection, child)
        turn.arrived(seq, target.state)
        return Advance(target, child)

    def _child(self, work: Work, turn: Turn, onward: Continuation[Any]) -> NewRun | None:
        if onward.child is None:
            return None
        first = turn.of_child(new_run_id())
        target = unleased(self._transitions.target(onward.child))
        return self._transitions.new_run(work, first, onward.child, target)

    def _may_wait(
        self,
        turn: Turn,
        called: Upcoming,
        onward: Continuation[Any],
        target: Target,
    ) -> bool:
        """Whether a checkpoint may be stored by the commit of a later one.

        Not after a worker step or a page, whose work is not to be done again because a later step
        fails; and the row must know the deadline of a step that has one.
        """
        return (
            definition_of(type(called.flow)).checkpoint == "suspension"
            and not turn.commits_each
            and target.state == schema.RUNNING
            and called.step.place is Place.ANYWHERE
            and called.step.timeout_seconds is None
            and onward.step is not None
            and onward.step.timeout_seconds is None
            and len(turn.postponed) < POSTPONED_LIMIT
        )
