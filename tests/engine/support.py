"""What the tests of the running engine share: rows, executors that wait, counted statements."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flowroute import Continuation, Flow, done, step, worker_step
from flowroute.engine.clock import Clock, FakeClock
from flowroute.engine.engine import Engine
from flowroute.engine.ports import Hint, Move
from flowroute.engine.records import guard_of
from flowroute.engine.run import Run
from flowroute.engine.schema import checkpoint_table, run_table
from flowroute.engine.step import Place, Step, StepOptions
from flowroute.engine.store import Store
from tests.waiting import wait_until

KEYS = ["a secret key of the tests, long enough to be one"]
"""What the checkpoints of the tests are signed with."""

LEASE_SECONDS = 30.0
"""The lease of a claim that `crash` makes."""


class Base(DeclarativeBase):
    """The application's own tables."""


class Note(Base):
    """A row that steps write."""

    __tablename__ = "note"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


class Writing(Flow):
    """Writes in a plain, a worker and again a plain step."""

    @step(start=True)
    def one(self) -> Continuation[list[str]]:
        self.session.add(Note(text="one"))
        return self.two()

    @worker_step
    def two(self) -> Continuation[list[str]]:
        self.session.execute(sa.insert(Note).values(text="two"))
        self.session.add(Note(text="two again"))
        return self.three()

    @step
    def three(self) -> Continuation[list[str]]:
        found = list(self.session.scalars(sa.select(Note.text).order_by(Note.id)))
        return done(found)


def page(**options: Any) -> Callable[[Callable[..., Any]], Step]:
    """A step that needs a request, as a web framework's leaf makes them."""
    return lambda function: Step(function, Place.REQUEST, StepOptions(**options))


class Shelf:
    """An executor that keeps its hints until a test has it work them off."""

    name = "shelf"

    def __init__(self) -> None:
        self.hints: list[Hint] = []
        self._engine: Engine | None = None

    def attach(self, engine: Engine) -> None:
        """Remember the engine."""
        self._engine = engine

    def start(self) -> None:
        """Nothing works in the background."""

    def submit(self, hint: Hint) -> None:
        """Keep the hint."""
        self.hints.append(hint)

    def close(self) -> None:
        """Nothing works in the background."""

    def work(self) -> list[bool]:
        """Work off the hints kept so far; returns for each whether there was anything to do."""
        assert self._engine is not None
        hints, self.hints = self.hints, []
        return [self._engine.advance(hint.run_id, hint.seq, hint.timeout_seconds) for hint in hints]


class Broken(Shelf):
    """An executor whose queue is down."""

    name = "broken"

    def submit(self, hint: Hint) -> None:
        """Refuse, but remember that it was asked."""
        super().submit(hint)
        raise ConnectionError("the queue is down")


class Moves:
    """A notifier that remembers what it was told."""

    def __init__(self) -> None:
        self.heard: list[Move] = []

    def moved(self, move: Move) -> None:
        """Remember."""
        self.heard.append(move)

    def progress(self) -> list[dict[str, Any]]:
        """The progress that was announced, in order."""
        return [move.progress for move in self.heard if move.progress is not None]


def crash(engine: Engine, run: Run[Any], clock: Clock | None = None, **lease: Any) -> int:
    """Claim a run as an executor does, and never come back: what a killed process leaves behind.

    Returns:
        The epoch of the claim.
    """
    options: dict[str, Any] = {
        "owner": "gone:1",
        "lease_seconds": LEASE_SECONDS,
        "timeout_seconds": None,
    } | lease
    record = engine.lookup.read(run.id)
    with engine.database.engine.begin() as connection:
        assert Store(clock).claim(connection, guard_of(record), **options)
    return record.epoch + 1


def recovered(engine: Engine, clock: FakeClock, run: Run[Any], *, passes: int = 20) -> int:
    """Let recovery look each second of a fake clock until the run is at rest.

    Returns:
        How many seconds that took.
    """
    for second in range(passes):
        if run.at_rest:
            return second
        clock.advance(1)
        engine.recover()
    message = f"{run.record} is not at rest after {passes} s"
    raise AssertionError(message)


def notes(engine: Engine) -> list[str]:
    """The committed notes, oldest first."""
    with engine.database.engine.connect() as connection:
        return list(connection.execute(sa.select(Note.text).order_by(Note.id)).scalars())


def count(engine: Engine, table: sa.Table) -> int:
    """How many rows a table has."""
    with engine.database.engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def stored(engine: Engine) -> tuple[int, int]:
    """How many runs and how many checkpoints the database has."""
    return count(engine, run_table), count(engine, checkpoint_table)


def set_column(engine: Engine, run: Run[Any], **columns: Any) -> None:
    """Change a run's row behind the engine's back."""
    with engine.database.engine.begin() as connection:
        connection.execute(sa.update(run_table).where(run_table.c.id == run.id).values(columns))


def payload(engine: Engine, run: Run[Any], seq: int = 0) -> bytes:
    """The stored bytes of a checkpoint."""
    at = (checkpoint_table.c.run_id == run.id) & (checkpoint_table.c.seq == seq)
    with engine.database.engine.connect() as connection:
        return bytes(
            connection.execute(sa.select(checkpoint_table.c.payload).where(at)).scalar_one()
        )


def set_payload(engine: Engine, run: Run[Any], content: bytes, seq: int = 0) -> None:
    """Change the bytes of a checkpoint behind the engine's back."""
    at = (checkpoint_table.c.run_id == run.id) & (checkpoint_table.c.seq == seq)
    with engine.database.engine.begin() as connection:
        connection.execute(sa.update(checkpoint_table).where(at).values(payload=content))


class Counted:
    """What went to the database inside `counting`."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.commits = 0

    @property
    def writes(self) -> list[str]:
        """The statements that write, by their first words."""
        return [
            " ".join(s.split()[:3]).replace('"', "")
            for s in self.statements
            if not s.lstrip().upper().startswith(("SELECT", "PRAGMA"))
        ]


@contextmanager
def counting(engine: Engine) -> Iterator[Counted]:
    """Count the statements and commits of the calling thread's database work."""
    counted = Counted()
    thread = threading.get_ident()

    def executed(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if threading.get_ident() == thread:
            counted.statements.append(statement)

    def committed(_c: Any) -> None:
        if threading.get_ident() == thread:
            counted.commits += 1

    bind = engine.database.engine
    event.listen(bind, "before_cursor_execute", executed)
    event.listen(bind, "commit", committed)
    try:
        yield counted
    finally:
        event.remove(bind, "before_cursor_execute", executed)
        event.remove(bind, "commit", committed)


@contextmanager
def failing_commit(engine: Engine, *, happens: bool, number: int = 1) -> Iterator[None]:
    """Have one COMMIT report an error: the `number`-th, whether it happens or not.

    A statement that commits by itself, as single ones do on PostgreSQL, is one too.
    """
    dialect = engine.database.engine.dialect
    commit, execute = dialect.do_commit, dialect.do_execute
    left = [number]

    def fail_at(last: Callable[[], None]) -> None:
        left[0] -= 1
        if left[0] != 0 or happens:
            last()
        if left[0] == 0:
            assert dialect.dbapi is not None
            raise dialect.dbapi.OperationalError("the answer to COMMIT was lost")

    def committing(connection: Any) -> None:
        fail_at(lambda: commit(connection))

    def executing(cursor: Any, statement: str, *arguments: Any) -> None:
        changes = not statement.lstrip().startswith(("SELECT", "PRAGMA"))
        if changes and getattr(cursor.connection, "autocommit", False) is True:
            fail_at(lambda: execute(cursor, statement, *arguments))
        else:
            execute(cursor, statement, *arguments)

    dialect.do_commit = committing  # type: ignore[method-assign, assignment]
    dialect.do_execute = executing  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        dialect.do_commit = commit  # type: ignore[method-assign]
        dialect.do_execute = execute  # type: ignore[method-assign]
    assert left[0] <= 0, "that COMMIT never came"


def seconds_until(instant: datetime | None, clock: FakeClock) -> float:
    """How far an instant lies ahead of a fake clock, in seconds."""
    assert instant is not None
    return (instant - clock.instant).total_seconds()


def in_thread(function: Any, *arguments: Any) -> threading.Thread:
    """Start a thread; join it with a bound."""
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


def wait_for_state(run: Run[Any], *states: str, timeout_seconds: float = 10.0) -> None:
    """Wait until a run is in one of some states."""
    wait_until(lambda: run.state in states, timeout_seconds, what=f"{run} is {' or '.join(states)}")
