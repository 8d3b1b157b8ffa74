"""The statements that move runs, built once for an engine's clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Dialect,
    FromClause,
    Integer,
    Select,
    String,
    and_,
    bindparam,
    case,
    cast,
    func,
    insert,
    literal,
    literal_column,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import Insert, Update

from flowroute.engine import schema
from flowroute.engine.clock import Instant, later
from flowroute.engine.prepared import Prepared
from flowroute.engine.records import RunRecord
from flowroute.engine.schema import checkpoint_table as checkpoint
from flowroute.engine.schema import run_table as run

HINT_SECONDS = 5.0
"""Longest wait until a hint that may have been lost is given again."""

FIRST_HINT_SECONDS = 1.0
"""The wait until a fresh hint is given for the second time."""

BLOCKED_SECONDS = 30.0
"""How often a blocked run is tried with the code that is deployed then."""

DEADLINE_GRACE_SECONDS = 2.0
"""How long after its deadline an attempt keeps its lease: its process may record the timeout."""

Rows: TypeAlias = Select[*tuple[Any, ...]]
"""A SELECT of whole rows."""

_RUN_COLUMNS = tuple(name for name in RunRecord.__dataclass_fields__ if name != "now")

# What is always the same is part of the text: each parameter is work for the driver.
ZERO, ONE = literal_column("0", Integer), literal_column("1", Integer)

_FIRST = {
    column: bindparam(column, type_=run.c[column].type)
    for column in (
        "id",
        "flow",
        "flow_version",
        "key",
        "owner",
        "parent_id",
        "parent_seq",
        "step",
    )
}


class Statements:
    """Statements that are prepared together.

    Each UPDATE of a run names it as its writer last saw it. The parameters: of the run as it was
    seen ``seen_id``, ``seen_seq``, ``seen_epoch`` and ``seen_state``, of where it goes those of
    `Target`, of a checkpoint those of `NewCheckpoint`.
    """

    def compile(self, dialect: Dialect) -> None:
        """Compile all of them, so that processes forked from here need not."""
        for statement in vars(self).values():
            statement.compile(dialect)


class BookmarkStatements(Statements):
    """What reads a run with its bookmark.

    Parameters:
        now: The present instant as an SQL expression.
    """

    def __init__(self, now: ColumnElement[Any]) -> None:
        self.bookmark = Prepared(
            lambda _: _bookmarks(run, now).where(run.c.id == bindparam("run_id"))
        )
        """Read a run with the payload of its newest checkpoint, and the Python that wrote it."""
        self.held_bookmark = Prepared(
            lambda _: _bookmarks(run, now).where(
                run.c.flow == bindparam("flow"), run.c.key == bindparam("key")
            )
        )
        """The same of the run that holds a key."""


class TransitionStatements(Statements):
    """What stores a new run, and moves it from one checkpoint to the next.

    Parameters:
        now: The present instant as an SQL expression.
    """

    def __init__(self, now: ColumnElement[Any]) -> None:
        lease, target = _lease(now), _target(now)
        onward = {
            "seq": _given("next_seq", run.c.seq),
            "step": _given("next_step", run.c.step),
            "progress": null(),
            "error": null(),
        }
        advance = _seen({**lease, **target, **onward})
        self.advance = Prepared(lambda _: advance)
        """Move a run to its next checkpoint, which is stored by another statement."""
        # A run that stays with its process changes no column that an index holds: half the work on
        # SQLite, and PostgreSQL need not touch the indexes either.
        kept = {name: target[name] for name in ("attempt", "updated_at")}
        go_on = _seen({"deadline_at": lease["deadline_at"], **kept, **onward})
        half = later(now, bindparam("half_lease_seconds"))
        go_on = go_on.where(func.coalesce(run.c.lease_until, now) > half)
        self.go_on = Prepared(lambda _: go_on)
        """The same for a run that goes on in its process, whose lease has half its time left."""
        self.checkpoint = Prepared(lambda _: insert(checkpoint).values(_next(now)))
        """Append a checkpoint."""
        self.advance_with_checkpoint = Prepared(lambda _: _both(advance, now))
        """`advance` and `checkpoint` in one, for PostgreSQL: a round trip less."""
        self.go_on_with_checkpoint = Prepared(lambda _: _both(go_on, now))
        """`go_on` and `checkpoint` in one."""
        first = {**_FIRST, **lease, **target, "seq": ZERO, "epoch": ONE, "created_at": now}
        self.insert_run = Prepared(lambda dialect: _insert(dialect, first))
        """Store a new run, whose checkpoint is stored by another statement; not if another run of
        the flow holds the key."""
        self.insert_run_with_checkpoint = Prepared(
            lambda dialect: _both(_insert(dialect, first), now)
        )
        """`insert_run` and `checkpoint` in one."""
        self.wake_parent = Prepared(lambda _: _wake_parent(now))
        """Make a run ready whose sub-flow has ended."""


class LeaseStatements(Statements):
    """What takes a run at its bookmark, keeps it, gives it back, and says when to look again.

    Parameters:
        now: The present instant as an SQL expression.
    """

    def __init__(self, now: ColumnElement[Any]) -> None:
        lease, target = _lease(now), _target(now)
        claim = {
            **lease,
            "state": _word(schema.RUNNING),
            "waiting_for": null(),
            "epoch": run.c.epoch + ONE,
            "attempt": run.c.attempt + ONE,
            "wake_at": null(),
            "progress": null(),
            "updated_at": now,
        }
        self.claim = Prepared(lambda _: _seen(claim))
        """Take a run."""
        self.take = Prepared(lambda _: _take(claim, now))
        """Take and read a run that waits for an executor at a checkpoint, on PostgreSQL."""
        self.limit = Prepared(lambda _: _seen({"deadline_at": lease["deadline_at"]}))
        """Change the deadline of an attempt."""
        released = {**dict.fromkeys(lease, null()), "epoch": run.c.epoch + ONE, "progress": null()}
        error = {"error": _given("error", run.c.error)}
        self.change_state = Prepared(lambda _: _seen({**target, **released, **error}))
        """Move a run to another state at the same bookmark."""
        pulse = {"lease_until": _extended_lease(now)}
        progress = {"progress": _given("progress", run.c.progress)}
        self.pulse = Prepared(lambda _: _seen(pulse))
        """Extend a lease."""
        self.pulse_with_progress = Prepared(lambda _: _seen(pulse | progress))
        """The same, and store progress."""
        self.postpone = Prepared(
            lambda _: _seen({"wake_at": later(now, bindparam("wake_seconds"))})
        )
        """Look at a run later."""


def records(rows: FromClause, now: ColumnElement[Any]) -> Rows:
    """The SELECT of `RunRecord`.

    Parameters:
        rows: The table of runs, or changed rows of it.
        now: The present instant as an SQL expression.
    """
    return select(*(rows.c[name] for name in _RUN_COLUMNS), now.label("now"))


def _bookmarks(rows: FromClause, now: ColumnElement[Any]) -> Rows:
    """The SELECT of `RunRecord`, and of the payload of the newest checkpoint and its Python."""
    newest = and_(checkpoint.c.run_id == rows.c.id, checkpoint.c.seq == rows.c.seq)
    columns = (checkpoint.c.payload, checkpoint.c.python)
    return records(rows, now).add_columns(*columns).join_from(rows, checkpoint, newest)


def _word(state: str) -> ColumnElement[str]:
    """A state, or what a run waits for, as a part of the text."""
    return literal_column(f"'{state}'", String)


def _given(name: str, column: ColumnElement[Any]) -> Any:
    return bindparam(name, type_=column.type)


def _lease(now: ColumnElement[Any]) -> dict[str, Any]:
    """The columns of a lease; null without one."""
    return {
        "lease_owner": _given("lease_owner", run.c.lease_owner),
        "lease_until": later(now, bindparam("lease_seconds")),
        "deadline_at": later(now, bindparam("timeout_seconds")),
    }


def _target(now: ColumnElement[Any]) -> dict[str, Any]:
    """The columns that say where a run goes."""
    return {
        "state": _given("state", run.c.state),
        "waiting_for": _given("waiting_for", run.c.waiting_for),
        "wake_at": func.coalesce(
            bindparam("wake_instant", type_=Instant()), later(now, bindparam("wake_seconds"))
        ),
        "attempt": _given("attempt", run.c.attempt),
        "updated_at": now,
        "finished_at": case((bindparam("finished") == ONE, now), else_=null()),
    }


def _wake_parent(now: ColumnElement[Any]) -> Update:
    return (
        update(run)
        .where(run.c.id == bindparam("parent_id"), run.c.seq == bindparam("parent_seq"))
        .where(run.c.waiting_for == _word(schema.FOR_CHILDREN))
        .values(
            state=_word(schema.READY),
            waiting_for=null(),
            epoch=run.c.epoch + ONE,
            wake_at=later(now, literal(FIRST_HINT_SECONDS)),
            updated_at=now,
        )
    )


def _seen(columns: Mapping[str, Any]) -> Update:
    # Only the id is compared as a plain column that an index holds, here and with what is added:
    # PostgreSQL takes a run for the only one in its state while it knows nothing of the table, and
    # for the only one with a lease once it does, and would look along all that are.
    state = run.c.state.concat(literal_column("''", String))
    return (
        update(run)
        .where(run.c.id == bindparam("seen_id"), run.c.seq == bindparam("seen_seq"))
        .where(run.c.epoch == bindparam("seen_epoch"), state == bindparam("seen_state"))
        .values(columns)
    )


def _hinted() -> ColumnElement[bool]:
    """A run that nobody has taken since a hint for its checkpoint was given."""
    waits = and_(
        run.c.state == _word(schema.WAITING), run.c.waiting_for == _word(schema.FOR_WORKER)
    )
    return and_(
        run.c.id == bindparam("seen_id"),
        run.c.seq == bindparam("seen_seq"),
        or_(run.c.state == _word(schema.READY), waits),
    )


def _take(claim: Mapping[str, Any], now: ColumnElement[Any]) -> Rows:
    claimed = update(run).where(_hinted()).values(claim).returning(*run.c).cte("claimed")
    return _bookmarks(claimed, now)


def _next(now: ColumnElement[Any]) -> dict[str, Any]:
    """The columns of a checkpoint."""
    columns = [column for column in checkpoint.columns if column.name != "created_at"]
    return {column.name: _given(f"next_{column.name}", column) for column in columns} | {
        "created_at": now
    }


def _both(change: Insert | Update, now: ColumnElement[Any]) -> Insert:
    moved = change.returning(run.c.id, run.c.seq, run.c.epoch, run.c.step).cte("moved")
    # In a SELECT, PostgreSQL takes a parameter that is null for a text.
    columns: dict[str, ColumnElement[Any]] = {
        name: cast(value, checkpoint.c[name].type) for name, value in _next(now).items()
    }
    columns["run_id"] = moved.c.id
    columns |= {name: moved.c[name] for name in ("seq", "epoch", "step")}
    return insert(checkpoint).from_select(
        list(columns), select(*columns.values()).select_from(moved)
    )


def _insert(dialect: Dialect, columns: Mapping[str, Any]) -> Any:
    """An INSERT that does nothing where the key is held; a run without a key is in nobody's way."""
    module = postgresql if dialect.name == "postgresql" else sqlite
    statement = module.insert(run).values(columns)
    return statement.on_conflict_do_nothing(
        index_elements=[run.c.flow, run.c.key], index_where=run.c.key.is_not(None)
    )


def _extended_lease(now: Any) -> ColumnElement[Any]:
    """When a lease that is extended now ends.

    At the instant of its claim, which no other lease does, if the step overran its timeout and goes
    on all the same: recovery tells that from a process that died.
    """
    over = later(run.c.deadline_at, literal(DEADLINE_GRACE_SECONDS)) <= now
    return case((over, run.c.updated_at), else_=later(now, bindparam("lease_seconds")))
