"""Where connections and sessions come from, and what SQLite is set to."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.orm import Session, scoped_session

from flowroute import Engine
from flowroute.engine import database
from flowroute.engine.database import Database
from flowroute.errors import ConfigurationError
from tests.engine.conftest import MakeEngine
from tests.engine.support import Note


def test_an_engine_asks_for_something_that_makes_sessions(bind: sa.Engine) -> None:
    with Session(bind) as session, pytest.raises(ConfigurationError, match="can not be shared"):
        Engine(session, secret_keys=["k"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "memory", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"]
)
def test_sqlite_in_memory_is_refused(memory: str) -> None:
    bind = sa.create_engine(memory, poolclass=sa.StaticPool)
    with pytest.raises(ConfigurationError, match="SQLite in memory does not: use a file"):
        Engine(bind, secret_keys=["k"])


def test_a_session_in_use_survives_the_making_of_an_engine(
    make_engine: MakeEngine, registry: scoped_session[Session]
) -> None:
    make_engine()  # makes the tables
    registry.add(note := Note(text="of a request"))
    make_engine(database=registry)
    assert note in registry
    registry.commit()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_sqlite_writes_ahead_and_waits_for_other_writers(
    make_engine: MakeEngine, bind: sa.Engine
) -> None:
    engine = make_engine(database=bind)
    with engine.database.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 10_000
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # as it was: FULL


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_longer_busy_timeout_of_the_application_is_kept(
    make_engine: MakeEngine, url: str
) -> None:
    patient = sa.create_engine(url, connect_args={"timeout": 60})
    engine = make_engine(database=patient)
    for _ in range(2):  # the second connection meets a file that is in WAL mode already
        with engine.database.engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 60_000
        patient.dispose()


@pytest.mark.parametrize(("url", "at_once"), [("sqlite", 1), ("postgresql", 2)], indirect=["url"])
def test_threads_of_a_process_take_turns_to_write_on_sqlite_and_there_only(
    make_engine: MakeEngine, at_once: int
) -> None:
    database = make_engine().database
    inside: list[int] = []
    most: list[int] = []
    both = threading.Barrier(2)

    def write() -> None:
        with database.engine.connect() as connection:
            both.wait(20)
            with database.writing(connection):
                inside.append(1)
                if at_once > 1:
                    both.wait(20)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=write, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert max(most) == at_once


# -- SQLite's write lock ---------------------------------------------------------------------------


class Asked:
    """`time`, for a writer that asks again: at the third pause, another one lets go of the lock."""

    def __init__(self, let_go: Callable[[], None], *, patient: bool = True) -> None:
        self.pauses: list[float] = []
        self._let_go = let_go
        self._patient = patient

    def monotonic(self) -> float:
        """Each pause takes a tenth of a second here; if impatient, an hour."""
        return len(self.pauses) * (0.1 if self._patient else 3600.0)

    def sleep(self, seconds: float) -> None:
        """Write the pause down."""
        self.pauses.append(seconds)
        if len(self.pauses) == 3:
            self._let_go()


@pytest.fixture
def other(sqlite_url: str) -> Iterator[sqlite3.Connection]:
    """A connection of somebody else, to a file with a table."""
    path = str(sa.make_url(sqlite_url).database)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE note (text TEXT)")
        yield connection


def test_a_writer_asks_again_soon_for_a_lock_that_another_process_holds(
    sqlite_url: str, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Database(sqlite_url)
    with base.connect() as connection:
        other.execute("BEGIN IMMEDIATE")
        asked = Asked(other.rollback)
        monkeypatch.setattr(database, "time", asked)
        with base.writing(connection):
            connection.exec_driver_sql("INSERT INTO note VALUES ('at last')")
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one() == 10_000
    base.close()
    assert other.execute("SELECT text FROM note").fetchall() == [("at last",)]
    assert len(asked.pauses) == 3
    assert max(asked.pauses) <= 2 * database.ASK_AGAIN_SECONDS
    assert len(set(asked.pauses)) == 3  # or several would ask in step


def test_a_writer_gives_up_when_the_time_of_its_connection_is_over(
    sqlite_url: str, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Database(sqlite_url)
    with base.connect() as connection:
        other.execute("BEGIN IMMEDIATE")
        asked = Asked(other.rollback, patient=False)
        monkeypatch.setattr(database, "time", asked)
        locked = pytest.raises(OperationalError, match="database is locked")
        with locked, base.writing(connection):
            pass
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one() == 10_000
    base.close()
    assert len(asked.pauses) == 1


def test_a_writer_does_not_wait_where_no_lock_is_in_the_way(
    sqlite_url: str, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(action: int, *_: object) -> int:
        return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_TRANSACTION else sqlite3.SQLITE_OK

    base = Database(sqlite_url)
    asked = Asked(other.rollback)
    monkeypatch.setattr(database, "time", asked)
    with base.connect() as connection:
        raw = connection.connection.dbapi_connection
        assert isinstance(raw, sqlite3.Connection)
        raw.set_authorizer(refuse)
        refused = pytest.raises(DatabaseError, match="not authorized")
        with refused, base.writing(connection):
            pass
        raw.set_authorizer(None)
    base.close()
    assert asked.pauses == []


def test_a_transaction_that_the_application_begins_itself_is_left_as_it_is(sqlite_url: str) -> None:
    bind = sa.create_engine(sqlite_url)
    base = Database(bind)
    event.listen(bind, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    with base.connect() as connection, base.writing(connection):
        connection.exec_driver_sql("CREATE TABLE note (text TEXT)")
    with bind.connect() as connection:
        assert sa.inspect(connection).has_table("note")
    bind.dispose()
