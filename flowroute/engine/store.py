"""Every SQL statement of the engine.

Each UPDATE of a run names the run as its writer last saw it: ``WHERE id AND seq AND epoch AND
state``. A row count other than 1 means that somebody else owns the run now. The methods return
whether they matched; none commits: the caller owns the transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

from sqlalchemy import (
    Connection,
    delete,
    inspect,
    literal,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from flowroute.engine import schema
from flowroute.engine.clock import Clock, DatabaseClock, later
from flowroute.engine.identity import new_run_id
from flowroute.engine.records import (
    Bookmark,
    CheckpointRecord,
    Guard,
    NewCheckpoint,
    NewRun,
    RunRecord,
    Target,
)
from flowroute.engine.schema import checkpoint_table as checkpoint
from flowroute.engine.schema import run_table as run
from flowroute.engine.schema import schema_table
from flowroute.engine.statements import (
    BookmarkStatements,
    LeaseStatements,
    TransitionStatements,
    records,
)
from flowroute.errors import TablesMissing

IDS_AT_ONCE = 500
"""Rows that one DELETE names: SQLite allows 999 parameters."""


class Store:
    """The tables of one database.

    Parameters:
        clock: Where statements take the present instant from.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or DatabaseClock()
        now = self.clock.now
        self._records = records(run, now)
        self._bookmarks = BookmarkStatements(now)
        self._transitions = TransitionStatements(now)
        self._leases = LeaseStatements(now)

    def prepare(self, connection: Connection) -> None:
        """Compile what advances runs, so that processes forked from here need not."""
        for statements in (self._bookmarks, self._transitions, self._leases):
            statements.compile(connection.dialect)
        self.bookmark(connection, new_run_id())

    # -- reading -----------------------------------------------------------------------------------

    def read(self, connection: Connection, run_id: str) -> RunRecord | None:
        """One run, or None."""
        row = connection.execute(self._records.where(run.c.id == run_id)).one_or_none()
        return None if row is None else RunRecord(*row)

    def find(self, connection: Connection, flow: str, key: str) -> RunRecord | None:
        """The run that holds this key of this flow, or None."""
        query = self._records.where(run.c.flow == flow, run.c.key == key)
        row = connection.execute(query).one_or_none()
        return None if row is None else RunRecord(*row)

    def bookmark(self, connection: Connection, run_id: str) -> Bookmark | None:
        """A run with the payload of its newest checkpoint, by one statement; or None."""
        return _bookmark(self._bookmarks.bookmark.fetch(connection, {"run_id": run_id}))

    def held_bookmark(self, connection: Connection, flow: str, key: str) -> Bookmark | None:
        """As `bookmark`, of the run that holds this key of this flow."""
        values = {"flow": flow, "key": key}
        return _bookmark(self._bookmarks.held_bookmark.fetch(connection, values))

    def checkpoints(self, connection: Connection, run_id: str) -> list[CheckpointRecord]:
        """Every checkpoint of a run, oldest first."""
        columns = [checkpoint.c[name] for name in CheckpointRecord.__dataclass_fields__]
        query = select(*columns).where(checkpoint.c.run_id == run_id).order_by(checkpoint.c.seq)
        return [CheckpointRecord(*row) for row in connection.execute(query)]

    def checkpoint_epoch(self, connection: Connection, run_id: str, seq: int) -> int | None:
        """The epoch under which a checkpoint was written; None if there is no such checkpoint."""
        query = select(checkpoint.c.epoch).where(
            checkpoint.c.run_id == run_id, checkpoint.c.seq == seq
        )
        return cast("int | None", connection.execute(query).scalar_one_or_none())

    def child(self, connection: Connection, parent_id: str, seq: int) -> RunRecord | None:
        """The run that a checkpoint of another run waits for, or None."""
        query = self._records.where(run.c.parent_id == parent_id, run.c.parent_seq == seq)
        row = connection.execute(query).one_or_none()
        return None if row is None else RunRecord(*row)

    def runs(
        self,
        connection: Connection,
        *,
        flow: str | None,
        states: Iterable[str],
        owner: str | None,
        limit: int,
    ) -> list[RunRecord]:
        """Runs, newest first."""
        query = self._records.order_by(run.c.created_at.desc(), run.c.id.desc()).limit(limit)
        if flow is not None:
            query = query.where(run.c.flow == flow)
        if wanted := list(states):
            query = query.where(run.c.state.in_(wanted))
        if owner is not None:
            query = query.where(run.c.owner == owner)
        return [RunRecord(*row) for row in connection.execute(query)]

    def due(self, connection: Connection, limit: int) -> list[RunRecord]:
        """Runs that recovery has to look at, the longest overdue first."""
        now = self.clock.now
        found: list[RunRecord] = []
        for instant in (run.c.lease_until, run.c.wake_at):
            # Two queries, each along its own index; one with OR would read the whole table.
            query = self._records.where(instant <= now).order_by(instant).limit(limit)
            found += [RunRecord(*row) for row in connection.execute(query)]
        return found

    # -- writing -----------------------------------------------------------------------------------

    def insert_run(self, connection: Connection, new: NewRun) -> bool:
        """Store a new run with its checkpoint 0.

        Returns:
            False, with nothing written, if another run of the flow holds the key.
        """
        statements, checkpoint = self._transitions, new.checkpoint
        values = {
            "id": new.id,
            "flow": new.flow,
            "flow_version": new.flow_version,
            "key": new.key,
            "owner": new.owner,
            "parent_id": new.parent_id,
            "parent_seq": new.parent_seq,
            "step": checkpoint.step,
            **new.target.parameters(),
            **checkpoint.parameters(new.id, 0, 1),
        }
        if _at_once(connection):
            stored = statements.insert_run_with_checkpoint.execute(connection, values)
            return stored == 1
        if statements.insert_run.execute(connection, values) != 1:
            return False
        statements.checkpoint.execute(connection, values)
        return True

    def is_single(self, guard: Guard, new: Sequence[NewCheckpoint], target: Target) -> bool:
        """Whether `advance` is one statement, where the database can."""
        return len(new) == 1 and not _wakes(guard, target)

    def advance(
        self,
        connection: Connection,
        guard: Guard,
        new: Sequence[NewCheckpoint],
        target: Target,
    ) -> bool:
        """Append checkpoints ``seq + 1`` and so on, and move the run to the last of them.

        Returns:
            False, with nothing written, if somebody else owns the run.
        """
        statements = self._transitions
        values = {
            **guard.parameters(),
            **target.parameters(),
            **new[-1].parameters(guard.run_id, guard.seq + len(new), guard.epoch),
        }
        at_once = _at_once(connection)
        advance = statements.advance_with_checkpoint if at_once else statements.advance
        go_on = statements.go_on_with_checkpoint if at_once else statements.go_on
        stays = guard.state == target.state == schema.RUNNING
        if (stays and go_on.execute(connection, values) == 1) or advance.execute(
            connection, values
        ) == 1:
            if not at_once:
                statements.checkpoint.execute(connection, values)
            if len(new) > 1:
                statements.checkpoint.execute_many(
                    connection,
                    [
                        each.parameters(guard.run_id, seq, guard.epoch)
                        for seq, each in enumerate(new[:-1], guard.seq + 1)
                    ],
                )
            self._wake(connection, guard, target)
            return True
        return False

    def claim(
        self,
        connection: Connection,
        guard: Guard,
        *,
        owner: str,
        lease_seconds: float,
        timeout_seconds: float | None,
    ) -> bool:
        """Take the run: epoch and attempt rise by one, the lease begins."""
        values = {
            **guard.parameters(),
            "lease_owner": owner,
            "lease_seconds": lease_seconds,
            "timeout_seconds": timeout_seconds,
        }
        return self._leases.claim.execute(connection, values) == 1

    def take(
        self,
        connection: Connection,
        run_id: str,
        seq: int,
        *,
        owner: str,
        lease_seconds: float,
        timeout_seconds: float | None,
    ) -> Bookmark | None:
        """Claim and read a run, if it is at this checkpoint and waits for an executor.

        Only where one statement can do both: on PostgreSQL.

        Returns:
            The run as it is after the claim; None, with nothing written, if it is elsewhere.
        """
        values = {
            "seen_id": run_id,
            "seen_seq": seq,
            "lease_owner": owner,
            "lease_seconds": lease_seconds,
            "timeout_seconds": timeout_seconds,
        }
        return _bookmark(self._leases.take.fetch(connection, values))

    def limit(self, connection: Connection, guard: Guard, timeout_seconds: float | None) -> bool:
        """Give the attempt under way another deadline; False if the lease is lost."""
        values = {**guard.parameters(), "timeout_seconds": timeout_seconds}
        return self._leases.limit.execute(connection, values) == 1

    def pulse(
        self,
        connection: Connection,
        guard: Guard,
        *,
        lease_seconds: float,
        progress: dict[str, Any] | None,
    ) -> bool:
        """Extend a lease and store the newest progress; False if the lease is lost."""
        statements = self._leases
        statement = statements.pulse if progress is None else statements.pulse_with_progress
        values = {**guard.parameters(), "lease_seconds": lease_seconds, "progress": progress}
        return statement.execute(connection, values) == 1

    def change_state(self, connection: Connection, guard: Guard, target: Target) -> bool:
        """Move a run to another state at the same bookmark.

        The epoch rises, so whoever ran it is fenced.
        """
        values = {**guard.parameters(), **target.parameters(), "error": target.error}
        changed = self._leases.change_state.execute(connection, values) == 1
        if changed:
            self._wake(connection, guard, target)
        return changed

    def postpone(self, connection: Connection, guard: Guard, wake_seconds: float) -> bool:
        """Look at a run again after `wake_seconds`; nothing else about it changes."""
        values = {**guard.parameters(), "wake_seconds": wake_seconds}
        return self._leases.postpone.execute(connection, values) == 1

    def release_key(self, connection: Connection, run_id: str) -> bool:
        """Let go of a run's key, so that the next start with it makes a new run."""
        statement = (
            update(run)
            .where(run.c.id == run_id, run.c.key.is_not(None))
            .values(key=None, updated_at=self.clock.now)
        )
        return connection.execute(statement).rowcount == 1

    def delete_finished(self, connection: Connection, older_than_seconds: float, limit: int) -> int:
        """Delete finished runs, oldest first, with their checkpoints and their sub-flows' runs.

        Returns:
            How many runs were deleted.
        """
        horizon = later(self.clock.now, literal(-older_than_seconds))
        old = (
            select(run.c.id)
            .where(run.c.state.in_(schema.FINISHED), run.c.finished_at <= horizon)
            .where(run.c.parent_id.is_(None))
            .order_by(run.c.finished_at)
            .limit(limit)
        )
        roots = list(connection.execute(old).scalars())
        # A sub-flow's run is kept as long as the run that called it.
        tree = select(run.c.id).where(run.c.id.in_(roots)).cte("tree", recursive=True)
        tree = tree.union_all(select(run.c.id).join(tree, run.c.parent_id == tree.c.id))
        ids = list(connection.execute(select(tree.c.id)).scalars())
        # Named, not left to ON DELETE CASCADE: SQLite enforces foreign keys only where it was told
        # to.
        for at in range(0, len(ids), IDS_AT_ONCE):
            some = ids[at : at + IDS_AT_ONCE]
            connection.execute(delete(checkpoint).where(checkpoint.c.run_id.in_(some)))
            connection.execute(delete(run).where(run.c.id.in_(some)))
        return len(ids)

    # -- the tables themselves ---------------------------------------------------------------------

    def check_tables(self, connection: Connection) -> bool:
        """Make sure that the tables are there and of this version.

        Returns:
            Whether they say so themselves: False if their version is not recorded yet.

        Raises:
            TablesMissing: They are not.
        """
        if not inspect(connection).has_table(schema_table.name):
            raise TablesMissing(
                f"The database {connection.engine.url.render_as_string()} has no flowroute tables: "
                "create them with engine.create_all(), db.create_all() or a migration (flask db "
                "migrate, flask db upgrade)."
            )
        versions = list(connection.execute(select(schema_table.c.version)).scalars())
        if versions and max(versions) != schema.SCHEMA_VERSION:
            raise TablesMissing(
                f"The flowroute tables in {connection.engine.url.render_as_string()} are of "
                f"version {max(versions)}, this flowroute works with version "
                f"{schema.SCHEMA_VERSION}: run your migrations, or install the flowroute that made "
                "them."
            )
        return bool(versions)

    def record_version(self, connection: Connection) -> None:
        """Write down the version of new tables: create_all() and migrations write no rows."""
        row = {"version": schema.SCHEMA_VERSION, "created_at": self.clock.now}
        connection.execute(  # several processes may be first
            _dialect(connection).insert(schema_table).values(row).on_conflict_do_nothing()
        )

    def _wake(self, connection: Connection, guard: Guard, target: Target) -> None:
        """Where a run has ended: make the run ready that waits for it."""
        if _wakes(guard, target):
            values = {"parent_id": guard.parent_id, "parent_seq": guard.parent_seq}
            self._transitions.wake_parent.execute(connection, values)


def _at_once(connection: Connection) -> bool:
    """Whether a statement of this database can change both tables."""
    return connection.dialect.name == "postgresql"


def _wakes(guard: Guard, target: Target) -> bool:
    """Whether a run waits for this one to get where it goes."""
    return guard.parent_id is not None and target.state in schema.FINISHED


def _dialect(connection: Connection) -> Any:
    """The module whose INSERT knows ON CONFLICT for this database."""
    return postgresql if connection.dialect.name == "postgresql" else sqlite


def _bookmark(row: tuple[Any, ...] | None) -> Bookmark | None:
    return None if row is None else Bookmark(RunRecord(*row[:-2]), row[-2], row[-1])
