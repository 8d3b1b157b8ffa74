"""The tables, and the whole life of a run in them.

A **run** is one row of ``flowroute_run``. It is born ``running`` in the process that started it,
under a *lease*: a timed, exclusive right to advance it. Every step it takes appends one row to
``flowroute_checkpoint``: which step comes next, with which arguments. The newest of them, the one
whose ``seq`` the run row names, is the run's *bookmark*. Whoever holds the lease calls the step at
the bookmark, and stores the continuation it returned: the step's own writes, the new checkpoint and
the run row commit as one transaction.

Then the run goes on in the same process, or it stops holding a lease::

    start ──► running ──► waiting (worker)   a worker step comes next; an executor will claim the
                  run │  ▲──► waiting (timer)    a delay or a backoff; recovery makes it ready when
                  it is due │  ▲──► waiting (page)     a page comes next; a request will go on with
                  it │  │ │  └─── ready              anyone who can run its step may claim it now │
                     │  │ └──── waiting (children)   a sub-flow runs; its end makes this run ready │
                  └─────► done | failed | cancelled          the ends; failed can be retried └─────►
                  blocked            the deployed code can not use the bookmark; a deploy can

Each *claim* raises ``epoch`` by one, and every later write of the claimer carries ``WHERE id AND
seq AND epoch AND state``. A process that stalled past its lease finds that its row count is 0, and
all it wrote rolls back with it: it can neither advance the run nor leave anything behind. A run
whose lease is over is made ready again by recovery, in whichever process notices.

Nothing else decides. Redis, sockets and threads only say *look now*.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Uuid,
    text,
)
from sqlalchemy.dialects import postgresql

from flowroute.engine.clock import Instant
from flowroute.engine.constraints import words

SCHEMA_VERSION = 2

TEXT_LENGTH = 200
"""Longest name, key and owner, in characters."""

# -- states and what a waiting run waits for; the same words in code, tables, CLI and pages --------
READY = "ready"
RUNNING = "running"
WAITING = "waiting"
DONE = "done"
FAILED = "failed"
CANCELLED = "cancelled"
BLOCKED = "blocked"
STATES = (READY, RUNNING, WAITING, DONE, FAILED, CANCELLED, BLOCKED)
FINISHED = (DONE, FAILED, CANCELLED)

FOR_WORKER = "worker"
FOR_TIMER = "timer"
FOR_PAGE = "page"
FOR_CHILDREN = "children"
REASONS = (FOR_WORKER, FOR_TIMER, FOR_PAGE, FOR_CHILDREN)

metadata = MetaData()

# A connection plans a statement once. On a table that is known to be tiny PostgreSQL plans to read
# all of it, and sticks to that however fast the table grows, until autovacuum comes again, a minute
# later. So it is not to look at a table before that has pages enough to prefer the primary key.
_GROWN = {"autovacuum_vacuum_threshold": 1000, "autovacuum_analyze_threshold": 1000}

_json = JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


run_table = Table(
    "flowroute_run",
    metadata,
    Column(
        "id",
        Uuid(as_uuid=False),
        primary_key=True,
        comment="UUIDv7: time-ordered, 74 random bits. Never changes.",
    ),
    Column(
        "flow",
        String(TEXT_LENGTH),
        nullable=False,
        comment="Name of the flow class, or the name= it was given. Never changes.",
    ),
    Column(
        "flow_version",
        Integer,
        nullable=False,
        comment="The class's version= when the run started; for people. Never changes.",
    ),
    Column(
        "key",
        String(TEXT_LENGTH),
        comment=(
            "Makes a start idempotent: unique within the flow. Null if none was given, or once "
            "reset() let go of it."
        ),
    ),
    Column(
        "owner",
        String(TEXT_LENGTH),
        comment="Who started it, as the application names people. Null if unknown. Never changes.",
    ),
    Column(
        "parent_id",
        Uuid(as_uuid=False),
        ForeignKey("flowroute_run.id", ondelete="CASCADE"),
        comment="The run that called this one as a sub-flow. Null for all others. Never changes.",
    ),
    Column(
        "parent_seq",
        Integer,
        comment="The parent's checkpoint that waits for this run's end. Null without a parent.",
    ),
    Column("state", String(10), nullable=False, comment="Where in its life the run is."),
    Column(
        "waiting_for",
        String(10),
        comment=(
            "What a waiting run waits for: worker, timer, page or children. Null in every other "
            "state."
        ),
    ),
    Column(
        "step",
        String(TEXT_LENGTH),
        comment=(
            "The step at the bookmark. Null once a run ended with done(…). Set by whoever advances."
        ),
    ),
    Column(
        "seq",
        Integer,
        nullable=False,
        comment="Number of the bookmark: the newest checkpoint. Rises by 1 with each; never falls.",
    ),
    Column(
        "epoch",
        Integer,
        nullable=False,
        comment="Fencing number: rises with each claim, and as recovery, cancel or retry step in.",
    ),
    Column(
        "attempt",
        SmallInteger,
        nullable=False,
        comment="Attempts begun of the step at the bookmark; 0 before the first. Set by claims.",
    ),
    Column(
        "lease_owner",
        String(TEXT_LENGTH),
        comment="Host and process that hold the lease, for people. Null while nobody does.",
    ),
    Column(
        "lease_until",
        Instant,
        comment=(
            "When the lease ends unless it is extended. Null unless running. By the database's "
            "clock."
        ),
    ),
    Column(
        "deadline_at",
        Instant,
        comment="When the attempt's timeout is over. Null without one, and while not running.",
    ),
    Column(
        "wake_at",
        Instant,
        comment="When recovery looks at this run next: end of a timer, hint again. Null: never.",
    ),
    Column(
        "progress",
        _json,
        comment="What the attempt said last: {done, total, message}. Null if nothing.",
    ),
    Column(
        "error",
        _json,
        comment=(
            "The last failed attempt: {step, type, message, attempt, traceback}, or why the run "
            "is blocked. Null if the bookmark's step has not failed."
        ),
    ),
    Column("created_at", Instant, nullable=False, comment="When the run started."),
    Column(
        "updated_at",
        Instant,
        nullable=False,
        comment="When this row changed last, heartbeats aside.",
    ),
    Column(
        "finished_at", Instant, comment="When the run was done, failed or cancelled; else null."
    ),
    CheckConstraint(words("state {}", STATES), name="flowroute_run_state"),
    CheckConstraint(
        # What is null is in no list, and passes.
        words("(state = 'waiting') = (waiting_for IS NOT NULL) AND waiting_for {}", REASONS),
        name="flowroute_run_waiting_for",
    ),
    CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="flowroute_run_lease"),
    CheckConstraint("(parent_id IS NULL) = (parent_seq IS NULL)", name="flowroute_run_parent"),
    CheckConstraint(
        words("(state {}) = (finished_at IS NOT NULL)", FINISHED), name="flowroute_run_finished"
    ),
    Index(
        "flowroute_run_key",
        "flow",
        "key",
        unique=True,
        postgresql_where=text("key IS NOT NULL"),
        sqlite_where=text("key IS NOT NULL"),
    ),
    # Recovery asks these two once a second: they hold only the runs that it may have to act on.
    Index(
        "flowroute_run_wake",
        "wake_at",
        postgresql_where=text("wake_at IS NOT NULL"),
        sqlite_where=text("wake_at IS NOT NULL"),
    ),
    Index(
        "flowroute_run_lease",
        "lease_until",
        postgresql_where=text("lease_until IS NOT NULL"),
        sqlite_where=text("lease_until IS NOT NULL"),
    ),
    Index(
        "flowroute_run_parent_id",
        "parent_id",
        postgresql_where=text("parent_id IS NOT NULL"),
        sqlite_where=text("parent_id IS NOT NULL"),
    ),
    # People list runs by flow or state, newest first.
    Index("flowroute_run_state_created", "state", "created_at"),
    Index("flowroute_run_flow_created", "flow", "created_at"),
    comment="One row a run: where it is, who may advance it, what it waits for.",
    postgresql_with=_GROWN,
)

checkpoint_table = Table(
    "flowroute_checkpoint",
    metadata,
    Column(
        "run_id",
        Uuid(as_uuid=False),
        ForeignKey("flowroute_run.id", ondelete="CASCADE"),
        primary_key=True,
        comment="The run.",
    ),
    Column(
        "seq",
        Integer,
        primary_key=True,
        autoincrement=False,
        comment="0 for the start, then without a gap.",
    ),
    Column(
        "epoch",
        Integer,
        nullable=False,
        comment=(
            "The epoch it was written under: tells the writer whether an uncertain COMMIT was its "
            "own."
        ),
    ),
    Column(
        "step",
        String(TEXT_LENGTH),
        comment=(
            "The step that comes next. Null: the run ended with done(…), and the payload holds "
            "the result."
        ),
    ),
    Column(
        "payload",
        LargeBinary,
        nullable=False,
        comment="Signed bytes: step, state and arguments (engine/codec.py). Never changes.",
    ),
    Column(
        "arguments",
        _json,
        comment=(
            "The arguments for people and for SQL: secrets left out, long values cut. Never read "
            "back."
        ),
    ),
    Column(
        "python",
        String(20),
        nullable=False,
        comment="Tag of the interpreter that wrote the payload, such as cp311.",
    ),
    Column("created_at", Instant, nullable=False, comment="When it was stored."),
    Column(
        "duration",
        Double,
        comment="Seconds that the step before it ran, in its last attempt. Null for seq 0.",
    ),
    Column(
        "attempt",
        SmallInteger,
        comment="Which attempt of the step before it returned. Null for seq 0.",
    ),
    Column(
        "executor",
        String(20),
        comment="Where the step before it ran: request, script, inline, … Null for seq 0.",
    ),
    comment="Append-only: one row each time a run moved on.",
    postgresql_with=_GROWN,
)

schema_table = Table(
    "flowroute_schema",
    metadata,
    Column(
        "version",
        Integer,
        primary_key=True,
        autoincrement=False,
        comment="The version of these tables; an engine of another version refuses to start.",
    ),
    Column("created_at", Instant, nullable=False, comment="When the tables were made."),
    comment="One row: which version of flowroute's tables this database has.",
)

TABLES = (run_table, checkpoint_table, schema_table)


def add_tables(target: MetaData) -> None:
    """Put the tables into an application's metadata, where `create_all` and migrations see them.

    Parameters:
        target: Such as ``db.metadata`` of Flask-SQLAlchemy. Tables that are there already are left
            alone.
    """
    for table in TABLES:
        if table.key not in target.tables:
            table.to_metadata(target)
