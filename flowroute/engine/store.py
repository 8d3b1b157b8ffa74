"""Every SQL statement of the engine.

Each UPDATE of a run names the run as its writer last saw it: ``WHERE id AND seq AND epoch AND
state``. A row count other than 1 means that somebody else owns the run now. The methods return
whether they matched; none commits: the caller owns the transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, TypeAlias, cast

from sqlalchemy import (
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    inspect,
    literal,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.elements import ColumnElement

from flowroute.engine import schema
from flowroute.engine.clock import Clock, DatabaseClock, Instant, later
from flowroute.engine.records import (
    Bookmark,
    CheckpointRecord,
    Guard,
    NewCheckpoint,
    RunRecord,
    Target,
)
from flowroute.engine.schema import checkpoint_table as checkpoint
from flowroute.engine.schema import run_table as run
from flowroute.engine.schema import schema_table
from flowroute.errors import TablesMissing

HINT_SECONDS = 5.0
"""Longest wait until a hint that may have been lost is given again."""

FIRST_HINT_SECONDS = 1.0
"""The wait until a fresh hint is given for the second time."""

BLOCKED_SECONDS = 30.0
"""How often a blocked run is tried with the code that is deployed then."""

DEADLINE_GRACE_SECONDS = 2.0
"""How long after its deadline an attempt keeps its lease: its process may record the timeout."""

_Rows: TypeAlias = Select[*tuple[Any, ...]]


class Store:
    """The tables of one database.

    Parameters:
        clock: Where statements take the present instant from.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or DatabaseClock()
        now = self.clock.now
        self._records: _Rows = select(*(run.c[name] for name in _RUN_COLUMNS), now.label("now"))
        bookmarks = self._records.add_columns(checkpoint.c.payload, checkpoint.c.python).join_from(
            run, checkpoint, _at_bookmark()
        )
        self._bookmark: _Rows = bookmarks.where(run.c.id == bindparam("run_id"))
        self._held_bookmark: _Rows = bookmarks.where(
            run.c.flow == bindparam("flow"), run.c.key == bindparam("key")
        )
        self._checkpoint = insert(checkpoint).values(
            {"created_at": now, **{name: bindparam(name) for name in _CHECKPOINT_COLUMNS}}
        )
        self._advance = self._move(_advanced_columns(now))
        self._pulse = self._move({"lease_until": _extended_lease(now)})

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
        return _bookmark(connection.execute(self._bookmark, {"run_id": run_id}).one_or_none())

    def held_bookmark(self, connection: Connection, flow: str, key: str) -> Bookmark | None:
        """As `bookmark`, of the run that holds this key of this flow."""
        values = {"flow": flow, "key": key}
        return _bookmark(connection.execute(self._held_bookmark, values).one_or_none())

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

    def insert_run(
        self,
        connection: Connection,
        *,
        run_id: str,
        flow: str,
        flow_version: int,
        key: str | None,
        owner: str | None,
        step: str,
        target: Target,
    ) -> bool:
        """Store a new run at checkpoint 0, epoch 1.

        Returns:
            Whether it was stored: False if another run of the flow holds the key.
        """
        now = self.clock.now
        values = {
            "id": run_id,
            "flow": flow,
            "flow_version": flow_version,
            "key": key,
            "owner": owner,
            "step": step,
            "seq": 0,
            "epoch": 1,
            "state": target.state,
            "waiting_for": target.waiting_for,
            "attempt": target.attempt,
            "lease_owner": target.lease_owner,
            "lease_until": later(now, literal(target.lease_seconds))
            if target.lease_seconds
            else None,
            "deadline_at": later(now, literal(target.timeout_seconds))
            if target.timeout_seconds
            else None,
            "wake_at": _wake(now, target),
            "created_at": now,
            "updated_at": now,
            "finished_at": now if target.state in schema.FINISHED else None,
        }
        statement = _dialect(connection).insert(run).values(values)
        if key is not None:
            statement = statement.on_conflict_do_nothing(
                index_elements=[run.c.flow, run.c.key], index_where=run.c.key.is_not(None)
            )
        # psycopg forgets the row count of an INSERT once its cursor is closed.
        statement = statement.execution_options(preserve_rowcount=True)
        return connection.execute(statement).rowcount == 1

    def insert_checkpoint(
        self, connection: Connection, run_id: str, seq: int, epoch: int, new: NewCheckpoint
    ) -> None:
        """Append a checkpoint."""
        connection.execute(
            self._checkpoint,
            {
                "run_id": run_id,
                "seq": seq,
                "epoch": epoch,
                "step": new.step,
                "payload": new.payload,
                "arguments": new.arguments,
                "python": new.python,
                "duration": new.duration,
                "attempt": new.attempt,
                "executor": new.executor,
            },
        )

    def advance(
        self,
        connection: Connection,
        guard: Guard,
        new: NewCheckpoint,
        target: Target,
    ) -> bool:
        """Append checkpoint ``seq + 1`` and move the run to it.

        Returns:
            False, with nothing written, if somebody else owns the run.
        """
        values = guard.parameters() | {
            "seq": guard.seq + 1,
            "step": new.step,
            "state": target.state,
            "waiting_for": target.waiting_for,
            "attempt": target.attempt,
            "lease_owner": target.lease_owner,
            "lease_seconds": target.lease_seconds,
            "timeout_seconds": target.timeout_seconds,
            "wake_seconds": target.wake_seconds,
            "wake_instant": target.wake_at,
            "finished": 1 if target.state in schema.FINISHED else 0,
        }
        if connection.execute(self._advance, values).rowcount != 1:
            return False
        self.insert_checkpoint(connection, guard.run_id, guard.seq + 1, guard.epoch, new)
        return True

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
        now = self.clock.now
        deadline = later(now, literal(timeout_seconds)) if timeout_seconds else None
        return self._change(
            connection,
            guard,
            state=schema.RUNNING,
            waiting_for=None,
            epoch=run.c.epoch + 1,
            attempt=run.c.attempt + 1,
            lease_owner=owner,
            lease_until=later(now, literal(lease_seconds)),
            deadline_at=deadline,
            wake_at=None,
            progress=None,
        )

    def pulse(
        self,
        connection: Connection,
        guard: Guard,
        *,
        lease_seconds: float,
        progress: dict[str, Any] | None,
    ) -> bool:
        """Extend a lease and store the newest progress; False if the lease is lost."""
        statement = self._pulse if progress is None else self._pulse.values(progress=progress)
        values = guard.parameters() | {"lease_seconds": lease_seconds}
        return connection.execute(statement, values).rowcount == 1

    def change_state(self, connection: Connection, guard: Guard, target: Target) -> bool:
        """Move a run to another state at the same bookmark.

        The epoch rises, so whoever ran it is fenced.
        """
        now = self.clock.now
        return self._change(
            connection,
            guard,
            state=target.state,
            waiting_for=target.waiting_for,
            epoch=run.c.epoch + 1,
            attempt=target.attempt,
            lease_owner=None,
            lease_until=None,
            deadline_at=None,
            wake_at=_wake(now, target),
            progress=None,
            error=target.error,
            finished_at=now if target.state in schema.FINISHED else None,
        )

    def postpone(self, connection: Connection, guard: Guard, wake_seconds: float) -> bool:
        """Look at a run again after `wake_seconds`; nothing else about it changes."""
        statement = self._move({"wake_at": later(self.clock.now, literal(wake_seconds))})
        return connection.execute(statement, guard.parameters()).rowcount == 1

    def release_key(self, connection: Connection, run_id: str) -> bool:
        """Let go of a run's key, so that the next start with it makes a new run."""
        statement = (
            update(run)
            .where(run.c.id == run_id, run.c.key.is_not(None))
            .values(key=None, updated_at=self.clock.now)
        )
        return connection.execute(statement).rowcount == 1

    def delete_finished(self, connection: Connection, older_than_seconds: float, limit: int) -> int:
        """Delete finished runs, oldest first, with their checkpoints.

        Returns:
            How many runs were deleted.
        """
        horizon = later(self.clock.now, literal(-older_than_seconds))
        old = (
            select(run.c.id)
            .where(run.c.state.in_(schema.FINISHED), run.c.finished_at <= horizon)
            .order_by(run.c.finished_at)
            .limit(limit)
        )
        ids = list(connection.execute(old).scalars())
        # Named, not left to ON DELETE CASCADE: SQLite enforces foreign keys only where it was told
        # to.
        connection.execute(delete(checkpoint).where(checkpoint.c.run_id.in_(ids)))
        return connection.execute(delete(run).where(run.c.id.in_(ids))).rowcount

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

    # -- how statements are made -------------------------------------------------------------------

    def _move(self, columns: Mapping[str, Any]) -> Any:
        return (
            update(run)
            .where(run.c.id == bindparam("b_id"), run.c.seq == bindparam("b_seq"))
            .where(run.c.epoch == bindparam("b_epoch"), run.c.state == bindparam("b_state"))
            .values(columns)
        )

    def _change(self, connection: Connection, guard: Guard, **columns: Any) -> bool:
        statement = self._move(columns | {"updated_at": self.clock.now})
        return connection.execute(statement, guard.parameters()).rowcount == 1


_RUN_COLUMNS = tuple(name for name in RunRecord.__dataclass_fields__ if name != "now")
_CHECKPOINT_COLUMNS = tuple(
    column.name for column in checkpoint.columns if column.name != "created_at"
)


def _dialect(connection: Connection) -> Any:
    """The module whose INSERT knows ON CONFLICT for this database."""
    return postgresql if connection.dialect.name == "postgresql" else sqlite


def _bookmark(row: Row[*tuple[Any, ...]] | None) -> Bookmark | None:
    return None if row is None else Bookmark(RunRecord(*row[:-2]), row[-2], row[-1])


def _at_bookmark() -> ColumnElement[bool]:
    return and_(checkpoint.c.run_id == run.c.id, checkpoint.c.seq == run.c.seq)


def _extended_lease(now: Any) -> ColumnElement[datetime]:
    """When a lease that is extended now ends.

    At the instant of its claim, which no other lease does, if the step overran its timeout and goes
    on all the same: recovery tells that from a process that died.
    """
    over = later(run.c.deadline_at, literal(DEADLINE_GRACE_SECONDS)) <= now
    return case((over, run.c.updated_at), else_=later(now, bindparam("lease_seconds")))


def _wake(now: Any, target: Target) -> Any:
    if target.wake_at is not None:
        return literal(target.wake_at, Instant())
    return None if target.wake_seconds is None else later(now, literal(target.wake_seconds))


def _advanced_columns(now: Any) -> dict[str, Any]:
    return {
        "seq": bindparam("seq"),
        "step": bindparam("step"),
        "state": bindparam("state"),
        "waiting_for": bindparam("waiting_for"),
        "attempt": bindparam("attempt"),
        "lease_owner": bindparam("lease_owner"),
        "lease_until": later(now, bindparam("lease_seconds")),
        "deadline_at": later(now, bindparam("timeout_seconds")),
        "wake_at": func.coalesce(
            bindparam("wake_instant", type_=Instant()), later(now, bindparam("wake_seconds"))
        ),
        "progress": None,
        "error": None,
        "updated_at": now,
        "finished_at": case((bindparam("finished") == 1, now), else_=None),
    }
