"""What people do to a run by hand: resume, retry, cancel and reset it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeAlias

from sqlalchemy import Connection

from flowroute.engine import schema
from flowroute.engine.database import Database
from flowroute.engine.dispatcher import Dispatcher
from flowroute.engine.failure import Failures, step_or_none
from flowroute.engine.messenger import Messenger
from flowroute.engine.ports import Move
from flowroute.engine.records import Guard, RunRecord, Target, guard_of
from flowroute.engine.recovery import Recovery
from flowroute.engine.statements import FIRST_HINT_SECONDS
from flowroute.engine.step import END
from flowroute.engine.store import Store
from flowroute.engine.turn import SCRIPT
from flowroute.errors import RunNotFound, RunStateError


@dataclass(frozen=True, slots=True)
class Change:
    """A run on its way to another state."""

    record: RunRecord
    """As it was read."""
    guard: Guard
    target: Target


Plan: TypeAlias = Callable[[Connection, RunRecord], list[Change]]
"""What to change, a run and the sub-flow that it waits for; the sub-flow first, as where it ends by
itself, so that two who change both do not wait for each other."""


class Interventions:
    """Changes runs because somebody asked for it.

    Parameters:
        store: The statements.
        database: The connections.
        dispatcher: Goes on with a run here.
        recovery: Does what is due before.
        failures: Passes on that a sub-flow has ended.
        messenger: Whom to tell.
    """

    def __init__(
        self,
        *,
        store: Store,
        database: Database,
        dispatcher: Dispatcher,
        recovery: Recovery,
        failures: Failures,
        messenger: Messenger,
    ) -> None:
        self._store = store
        self._database = database
        self._dispatcher = dispatcher
        self._recovery = recovery
        self._failures = failures
        self._messenger = messenger

    def resume(self, run_id: str) -> None:
        """See `Run.resume`."""
        record = self._read(run_id)
        if self._recovery.heal(record):
            record = self._read(run_id)
        if record.waiting_for == schema.FOR_WORKER:
            self._hint(record)
        elif record.waiting_for == schema.FOR_CHILDREN:
            with self._database.connect() as connection:
                child = self._store.child(connection, record.id, record.seq)
            if child is not None:
                self.resume(child.id)
        else:
            self._dispatcher.advance(run_id, SCRIPT)

    def retry(self, run_id: str) -> None:
        """See `Run.retry`."""
        self._carry_out(run_id, self._retried)

    def cancel(self, run_id: str) -> None:
        """See `Run.cancel`."""
        self._carry_out(run_id, self._cancelled)

    def reset(self, run_id: str) -> None:
        """See `Run.reset`."""
        with self._database.engine.begin() as connection:
            self._store.release_key(connection, run_id)
        if not self._read(run_id).finished:
            with suppress(RunStateError):  # it finished just now, which is as good
                self.cancel(run_id)

    # -- plans -------------------------------------------------------------------------------------

    def _retried(self, connection: Connection, record: RunRecord) -> list[Change]:
        if record.state not in (schema.FAILED, schema.BLOCKED):
            raise _refused(record, "retried: only a failed or blocked run can be")
        child = self._store.child(connection, record.id, record.seq)
        if child is None or child.state in (schema.DONE, schema.CANCELLED):
            ready = Target(schema.READY, wake_seconds=FIRST_HINT_SECONDS)
            return [Change(record, guard_of(record), ready)]
        before = self._retried(connection, child) if child.state == schema.FAILED else []
        waiting = Target(schema.WAITING, schema.FOR_CHILDREN)
        return [*before, Change(record, guard_of(record), waiting)]

    def _cancelled(self, connection: Connection, record: RunRecord) -> list[Change]:
        if record.finished:
            raise _refused(record, "cancelled: it has finished")
        before: list[Change] = []
        if record.waiting_for == schema.FOR_CHILDREN:
            child = self._store.child(connection, record.id, record.seq)
            if child is not None and not child.finished:
                *below, last = self._cancelled(connection, child)
                # Its end wakes nobody: who waited for it ends as well.
                before = [*below, replace(last, guard=last.guard._replace(parent_id=None))]
        return [*before, Change(record, guard_of(record), Target(schema.CANCELLED))]

    # -- inside ------------------------------------------------------------------------------------

    def _carry_out(self, run_id: str, plan: Plan) -> None:
        """Change everything or nothing, as often as it takes: a run may move meanwhile."""
        changes: list[Change] = []
        changed = False
        while not changed:
            record = self._read(run_id)
            with self._database.connect() as connection:
                changes = plan(connection, record)
            with self._database.engine.connect() as connection, connection.begin() as transaction:
                changed = all(
                    self._store.change_state(connection, each.guard, each.target)
                    for each in changes
                )
                if not changed:
                    transaction.rollback()
        for each in changes:
            record, target = each.record, each.target
            self._messenger.announce(
                Move(record.id, record.seq, target.state, target.waiting_for, record.step, None)
            )
            if target.state == schema.READY:
                self._hint(record)
            self._failures.pass_on(each.guard, target)

    def _hint(self, record: RunRecord) -> None:
        self._messenger.hint(record, step_or_none(record.flow, record.step or END))

    def _read(self, run_id: str) -> RunRecord:
        with self._database.connect() as connection:
            record = self._store.read(connection, run_id)
        if record is None:
            raise RunNotFound(f"There is no run {run_id!r}.", run_id=run_id)
        return record


def _refused(record: RunRecord, refusal: str) -> RunStateError:
    return RunStateError(
        f"Run {record.id} of {record.flow} is {record.state} and can not be {refusal}.",
        run_id=record.id,
        step=record.step,
    )
