"""Negative controls: deliberate mistakes in the protocol, each of which the harness must notice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import bindparam, update

from flowroute import Engine
from flowroute.engine import statements
from flowroute.engine.records import Guard
from flowroute.engine.recovery import Recovered
from flowroute.engine.schema import run_table
from flowroute.engine.work import Work
from tests.faults.ambiguity import ambiguous_commits
from tests.faults.contention import contention
from tests.faults.crashes import (
    Mutation,
    crash_points,
    zombies,
)
from tests.faults.delivery import deliveries
from tests.faults.forms import simultaneous_posts
from tests.faults.report import Report
from tests.faults.shapes import SHAPES, Shape
from tests.faults.slips import (
    any_form,
    conflicts_not_tried_again,
    dropped_connection_used_again,
    failed_commit_overlooked,
    failed_write_overlooked,
    hint_believed,
    look_before_claims,
    taken_for_failed,
    taken_for_stored,
)
from tests.faults.storage import storage


def _some(*names: str) -> tuple[Shape, ...]:
    return tuple(shape for shape in SHAPES if shape.name in names)


def _parts(engine: Engine) -> tuple[Any, Any, Any]:
    """The store, the dispatcher and the recovery of an engine, to be spoilt."""
    whole: Any = engine
    return whole._store, whole.dispatcher, whole._recovery  # noqa: SLF001


def no_guard(engine: Engine) -> None:
    """UPDATEs name the run, and neither its bookmark nor its epoch nor its state."""
    store, _, _ = _parts(engine)

    def unguarded(columns: Mapping[str, Any]) -> Any:
        return update(run_table).where(run_table.c.id == bindparam("seen_id")).values(columns)

    statements._seen = unguarded  # noqa: SLF001  # in this child only
    statements._hinted = lambda: run_table.c.id == bindparam("seen_id")  # noqa: SLF001
    store._transitions = statements.TransitionStatements(store.clock.now)  # noqa: SLF001
    store._leases = statements.LeaseStatements(store.clock.now)  # noqa: SLF001


def unguarded_claim(engine: Engine) -> None:
    """Of two that follow one hint at the same time, both claim the run."""
    no_guard(engine)
    look_before_claims(engine)


def two_commits(engine: Engine) -> None:
    """What a step wrote commits before its checkpoint does."""
    _, dispatcher, _ = _parts(engine)
    store = dispatcher._advances.store  # noqa: SLF001

    def early(work: Any, *arguments: Any) -> Any:
        if work._session is not None:  # noqa: SLF001
            work._session.commit()  # noqa: SLF001
        return store(work, *arguments)

    dispatcher._advances.store = early  # noqa: SLF001


def no_recovery(engine: Engine) -> None:
    """Nobody looks for what a crash left behind."""
    engine.recover = Recovered  # type: ignore[method-assign]


def submit_before_commit(engine: Engine) -> None:
    """The executor is given a worker step before its checkpoint is committed."""
    store, dispatcher, _ = _parts(engine)
    advance = store.advance

    def hasty(connection: Any, guard: Guard, new: Any, target: Any) -> bool:
        if target.waiting_for == "worker":
            record = engine.lookup.read(guard.run_id)
            dispatcher._messenger.hint(  # noqa: SLF001
                replace(record, seq=guard.seq + len(new), step=new[-1].step), None
            )
        stored: bool = advance(connection, guard, new, target)
        return stored

    store.advance = hasty


def endless_lease(engine: Engine) -> None:
    """A lease never ends."""
    _, dispatcher, _ = _parts(engine)
    dispatcher._claims._lease_seconds = 1e8  # noqa: SLF001
    dispatcher._transitions._lease_seconds = 1e8  # noqa: SLF001


def lost_hints(engine: Engine) -> None:
    """Hints are lost, and never given again."""
    _, dispatcher, recovery = _parts(engine)
    dispatcher._messenger.submit = lambda _hint: None  # noqa: SLF001
    recovery._hint_again = lambda *_: 0  # noqa: SLF001


def lost_again(engine: Engine) -> None:
    """What recovery has to give again, it does not."""
    _, _, recovery = _parts(engine)
    recovery._hint_again = lambda *_: 0  # noqa: SLF001


def no_checkpoint(engine: Engine) -> None:
    """The run moves on, and every third checkpoint on the way is not stored."""
    store, _, _ = _parts(engine)
    advance = store.advance
    calls = [0]

    def forgetful(connection: Any, guard: Guard, new: Any, target: Any) -> bool:
        calls[0] += 1
        if calls[0] % 3 or target.state != "running":
            stored: bool = advance(connection, guard, new, target)
            return stored
        changed: bool = (
            store._transitions.advance.execute(  # noqa: SLF001
                connection,
                {
                    **guard.parameters(),
                    "next_seq": guard.seq + 1,
                    "next_step": new[-1].step,
                    "state": target.state,
                    "waiting_for": target.waiting_for,
                    "attempt": target.attempt,
                    "lease_owner": target.lease_owner,
                    "lease_seconds": target.lease_seconds,
                    "timeout_seconds": None,
                    "wake_seconds": target.wake_seconds,
                    "wake_instant": None,
                    "finished": 0,
                },
            )
            == 1
        )
        return changed

    store.advance = forgetful


def deaf_to_loss(engine: Engine) -> None:
    """A process whose run was taken over takes its write for stored, and commits the rest."""
    store, _, _ = _parts(engine)
    advance = store.advance

    def deaf(*arguments: Any) -> bool:
        advance(*arguments)
        return True

    store.advance = deaf


def silent_end(engine: Engine) -> None:
    """The end of a sub-flow does not make the run ready that waits for it."""
    store, _, _ = _parts(engine)
    store._wake = lambda *_: None  # noqa: SLF001


def forgotten_steps(engine: Engine) -> None:
    """A flow that commits at its suspension stores its last checkpoint only."""
    store, _, _ = _parts(engine)
    advance = store.advance

    def lazy(connection: Any, guard: Guard, new: Any, target: Any) -> bool:
        stored: bool = advance(connection, guard, new[-1:], target)
        return stored

    store.advance = lazy


def no_rollback(_engine: Engine) -> None:
    """What a failed attempt wrote stays, and commits with the next one."""

    def keep(work: Any) -> None:
        if work._session is not None:  # noqa: SLF001
            work._session.commit()  # noqa: SLF001

    Work.rollback = keep  # type: ignore[method-assign, assignment]


@dataclass(frozen=True)
class Control:
    """A mistake, and the smallest campaign that has to notice it."""

    name: str
    mutation: Mutation
    campaign: Callable[..., Report]
    shapes: tuple[Shape, ...]
    share: float
    """How many of the campaign's points are enough."""
    reason: str = ""
    """What one of the findings has to say, so that it is this mistake that was noticed."""
    databases: tuple[str, ...] = ("sqlite", "postgresql")
    """Where it can be made."""

    def caught(self, report: Report) -> bool:
        """Whether a campaign noticed it, and for the reason that is meant."""
        found = [*report.lost, *report.doubled, *report.stuck, *report.broken]
        return any(self.reason in each for each in found)


CONTROLS = (
    Control("no guard at all", no_guard, zombies, _some("worker"), 0.5),
    Control("a lost lease is not noticed", deaf_to_loss, zombies, _some("worker"), 1.0),
    Control(
        "effect and checkpoint in two commits", two_commits, crash_points, _some("inline"), 0.4
    ),
    Control("no recovery", no_recovery, crash_points, _some("worker"), 0.1),
    Control("submit before commit", submit_before_commit, crash_points, _some("worker"), 0.1),
    Control("a lease never ends", endless_lease, crash_points, _some("inline"), 0.1),
    Control("hints lost and not given again", lost_hints, crash_points, _some("worker"), 0.01),
    Control(
        "a checkpoint is left out", no_checkpoint, crash_points, _some("many plain steps"), 0.05
    ),
    Control("a sub-flow ends silently", silent_end, crash_points, _some("sub-flow"), 0.01),
    Control(
        "postponed checkpoints are forgotten",
        forgotten_steps,
        crash_points,
        _some("suspension"),
        0.005,
    ),
    Control("a failed attempt is not rolled back", no_rollback, crash_points, _some("retry"), 0.2),
    Control(
        "an ambiguous COMMIT is taken for failed",
        taken_for_failed,
        ambiguous_commits,
        _some("worker"),
        1.0,
        "effect 'begin': 2 times",
    ),
    Control(
        "a COMMIT that failed is taken for stored",
        taken_for_stored,
        ambiguous_commits,
        _some("worker"),
        1.0,
        "a start was accepted",
    ),
    Control(
        "a hint is believed, not the row", hint_believed, deliveries, _some("worker"), 1.0, "began"
    ),
    Control(
        "a claim without a guard", unguarded_claim, deliveries, _some("workers"), 0.3, "steps began"
    ),
    Control(
        "a lost hint is not given again", lost_again, deliveries, _some("worker"), 1.0, "it is wai"
    ),
    Control(
        "nobody looks whether a COMMIT failed",
        failed_commit_overlooked,
        storage,
        _some("worker"),
        0.5,
        "instead of",
        ("sqlite",),
    ),
    Control(
        "a write that the disk refused is left out",
        failed_write_overlooked,
        storage,
        _some("worker"),
        1.0,
        "instead of",
        ("sqlite",),
    ),
    Control(
        "a write that failed is left out",
        failed_write_overlooked,
        contention,
        _some("worker"),
        0.5,
        "There is no run",
        ("postgresql",),
    ),
    Control(
        "conflicts are not tried again",
        conflicts_not_tried_again,
        contention,
        _some("worker"),
        0.5,
        "another try would have done",
    ),
    Control(
        "a dropped connection is used again",
        dropped_connection_used_again,
        contention,
        _some("inline"),
        0.5,
        "another try would have done",
        ("postgresql",),
    ),
    Control(
        "a form answers any page", any_form, simultaneous_posts, (), 0.2, "the page after its own"
    ),
)


def run_controls(database: str, new_url: Callable[[], str], *, seed: int) -> dict[str, bool]:
    """Run every control.

    Parameters:
        database: sqlite or postgresql.
        new_url: Gives an empty database for each.
        seed: Of the campaigns.

    Returns:
        Whether each was caught, by its name; one that was not is a failure.
    """
    return {
        control.name: control.caught(
            control.campaign(
                database,
                new_url(),
                seed=seed,
                share=control.share,
                shapes=control.shapes,
                mutation=control.mutation,
            )
        )
        for control in CONTROLS
        if database in control.databases
    }
