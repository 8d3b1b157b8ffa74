"""What a crash left behind, and what is due: found in the tables, by whichever process looks.

Stateless: each action is one guarded UPDATE, so any number of processes may look at the same time,
and one that dies while it recovers leaves nothing half done.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from datetime import timedelta

from flowroute.engine import schema
from flowroute.engine.database import Database
from flowroute.engine.dispatcher import Dispatcher
from flowroute.engine.failure import step_or_none
from flowroute.engine.messenger import Messenger
from flowroute.engine.records import RunRecord, Target, guard_of
from flowroute.engine.statements import BLOCKED_SECONDS, FIRST_HINT_SECONDS, HINT_SECONDS
from flowroute.engine.step import END, StepFailure
from flowroute.engine.store import Store

logger = logging.getLogger("flowroute.recovery")

PASS_LIMIT = 100
"""Most runs looked at in one pass, so that a herd of due runs neither floods the queue nor holds up
the pass."""


@dataclass(slots=True)
class Recovered:
    """What one pass of recovery did. True if it did anything."""

    resubmitted: int = 0
    """Hints given again."""
    expired: int = 0
    """Runs whose process died or stalled past its lease, or whose step passed its deadline."""
    timers: int = 0
    """Runs whose delay or backoff was over."""
    blocked: int = 0
    """Blocked runs given to an executor to try with today's code."""
    deleted: int = 0
    """Finished runs deleted because their retention was over."""

    def __bool__(self) -> bool:
        return any(getattr(self, each.name) for each in fields(self))


class Recovery:
    """Looks for runs that nobody advances.

    Parameters:
        store: The statements.
        database: The connections.
        dispatcher: Records failures in place of processes that died.
        messenger: Gives hints.
        retention: How long finished runs are kept; None: for ever.
    """

    def __init__(
        self,
        store: Store,
        database: Database,
        dispatcher: Dispatcher,
        messenger: Messenger,
        retention: timedelta | None,
    ) -> None:
        self._store = store
        self._database = database
        self._dispatcher = dispatcher
        self._messenger = messenger
        self._retention = retention

    def recover(self) -> Recovered:
        """One pass: at most `PASS_LIMIT` runs of each kind.

        Returns:
            What was done.
        """
        did = Recovered()
        with self._database.connect() as connection:
            due = self._store.due(connection, PASS_LIMIT)
        for record in due:
            try:
                self.heal(record, did)
            except Exception:  # a run that can not be healed keeps recovery from no other
                logger.exception("run %s: not recovered; will try again", record.id)
        if self._retention is not None:
            with self._database.engine.begin() as connection:
                did.deleted = self._store.delete_finished(
                    connection, self._retention.total_seconds(), PASS_LIMIT
                )
        if did:
            logger.info("recovered: %s", did)
        return did

    def heal(self, record: RunRecord, did: Recovered | None = None) -> bool:
        """Do for one run, as it was just read, what is due.

        Returns:
            Whether anything was.
        """
        did = Recovered() if did is None else did
        if record.state == schema.RUNNING and record.lease_over:
            did.expired += 1
            self._expire(record)
        elif not record.due:
            return False
        elif record.waiting_for == schema.FOR_TIMER:
            did.timers += self._wake(record)
        elif record.state == schema.BLOCKED:
            did.blocked += self._hint_again(record, BLOCKED_SECONDS)
        else:
            # The longer it has waited, the less often: executors that are merely busy need no
            # reminder.
            waited = (record.now - record.updated_at).total_seconds()
            did.resubmitted += self._hint_again(
                record, min(max(waited, FIRST_HINT_SECONDS), HINT_SECONDS)
            )
        return True

    def _expire(self, record: RunRecord) -> None:
        step = step_or_none(record.flow, record.step or END)
        if record.overran:
            seconds = None if step is None else step.timeout_seconds
            failure = StepFailure(
                record.step or END,
                "StepTimeout",
                f"{record.flow}.{record.step} ran for longer than its timeout"
                + (f" of {seconds:g} seconds." if seconds else "."),
                record.attempt,
            )
            self._dispatcher.fail(record, failure, crashed=False)
            return
        failure = StepFailure(
            record.step or END,
            "ProcessDied",
            f"The process {record.lease_owner} died or stalled while it ran "
            f"{record.flow}.{record.step}, attempt {record.attempt}.",
            record.attempt,
        )
        logger.warning("run %s: %s", record.id, failure.message)
        self._dispatcher.fail(record, failure, crashed=True)

    def _wake(self, record: RunRecord) -> int:
        ready = Target(
            schema.READY,
            attempt=record.attempt,
            wake_seconds=FIRST_HINT_SECONDS,
            error=record.error,
        )
        with self._database.engine.begin() as connection:
            woken = self._store.change_state(connection, guard_of(record), ready)
        if woken:
            self._messenger.hint(record, step_or_none(record.flow, record.step or END))
        return int(woken)

    def _hint_again(self, record: RunRecord, wake_seconds: float) -> int:
        with self._database.engine.begin() as connection:
            mine = self._store.postpone(connection, guard_of(record), wake_seconds)
        if mine:
            self._messenger.hint(record, step_or_none(record.flow, record.step or END))
        return int(mine)
