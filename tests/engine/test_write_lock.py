"""SQLite's one write lock, and who waits how for it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DatabaseError, OperationalError

from flowroute.engine import write_lock
from flowroute.engine.database import Database
from flowroute.engine.work import Work
from flowroute.engine.write_lock import WriteLock
from tests.engine.conftest import MakeEngine


class Watch:
    """`time` for a lock: a look at it may take a while, and so may a pause.

    Parameters:
        look_seconds: How long a look takes.
        pause_seconds: How long a pause takes.
        let_go: Called at the third pause.
    """

    def __init__(
        self,
        look_seconds: float = 0.0,
        pause_seconds: float = 0.1,
        let_go: Callable[[], None] = lambda: None,
    ) -> None:
        self.now = 100.0
        self.pauses: list[float] = []
        self._look_seconds = look_seconds
        self._pause_seconds = pause_seconds
        self._let_go = let_go

    def monotonic(self) -> float:
        """The present instant, in seconds."""
        self.now += self._look_seconds
        return self.now

    def sleep(self, seconds: float) -> None:
        """Write the pause down."""
        self.pauses.append(seconds)
        self.now += self._pause_seconds
        if len(self.pauses) == 3:
            self._let_go()


SLOW = write_lock.NOTICED_SECONDS
"""A look at the watch that takes so long makes it seem as if one had waited for the lock."""


@pytest.fixture
def other(sqlite_url: str) -> Iterator[sqlite3.Connection]:
    """A connection of another process, to a file with a table."""
    path = str(sa.make_url(sqlite_url).database)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE note (text TEXT)")
        yield connection


@pytest.fixture
def connection(sqlite_url: str, other: sqlite3.Connection) -> Iterator[sa.Connection]:
    """A connection of this process to the same file, with a busy timeout of ten seconds."""
    del other  # which has made the table
    base = Database(sqlite_url)
    with base.connect() as connection:
        yield connection
    base.close()


def statements(connection: sa.Connection) -> list[str]:
    """What SQLite executes from now on."""
    raw = connection.connection.dbapi_connection
    assert isinstance(raw, sqlite3.Connection)
    found: list[str] = []
    raw.set_trace_callback(found.append)
    return found


def set_watch(monkeypatch: pytest.MonkeyPatch, watch: Watch) -> Watch:
    monkeypatch.setattr(write_lock, "time", watch)
    return watch


def test_a_writer_that_is_alone_takes_the_lock_by_one_statement(
    connection: sa.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = WriteLock()
    set_watch(monkeypatch, Watch())
    with lock.held(connection):
        pass
    executed = statements(connection)
    with lock.held(connection):
        connection.exec_driver_sql("INSERT INTO note VALUES ('alone')")
    assert executed == ["BEGIN IMMEDIATE", "INSERT INTO note VALUES ('alone')", "COMMIT"]


def test_a_writer_that_had_to_wait_asks_again_soon_by_itself(
    connection: sa.Connection, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = WriteLock()
    watch = set_watch(monkeypatch, Watch(SLOW, let_go=other.rollback))
    with lock.held(connection):
        pass
    other.execute("BEGIN IMMEDIATE")
    with lock.held(connection):
        connection.exec_driver_sql("INSERT INTO note VALUES ('at last')")
    assert other.execute("SELECT text FROM note").fetchall() == [("at last",)]
    assert len(watch.pauses) == 3
    assert max(watch.pauses) <= 2 * write_lock.ASK_AGAIN_SECONDS
    assert len(set(watch.pauses)) == 3  # or several would ask in step
    assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one() == 10_000


def test_a_writer_asks_by_itself_until_it_has_met_nobody_for_long(
    connection: sa.Connection, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take(times: int) -> None:
        for _ in range(times):
            with lock.held(connection):
                pass

    lock = WriteLock()
    set_watch(monkeypatch, Watch(SLOW))
    take(1)
    for _ in range(2):
        watch = set_watch(monkeypatch, Watch(let_go=other.rollback))
        take(write_lock.REMEMBERED - 1)
        other.execute("BEGIN IMMEDIATE")
        take(1)
        assert len(watch.pauses) == 3
    take(write_lock.REMEMBERED)
    executed = statements(connection)
    take(1)
    assert executed == ["BEGIN IMMEDIATE", "COMMIT"]  # it is alone again


def test_what_fails_inside_is_rolled_back_and_the_next_one_gets_the_lock(
    connection: sa.Connection,
) -> None:
    def fail() -> None:
        with lock.held(connection):
            connection.exec_driver_sql("INSERT INTO note VALUES ('undone')")
            raise LookupError

    lock = WriteLock()
    with pytest.raises(LookupError):
        fail()
    with lock.held(connection):
        assert connection.exec_driver_sql("SELECT count(*) FROM note").scalar_one() == 0


@pytest.mark.parametrize("alone", [True, False])
def test_a_writer_gives_up_when_the_time_of_its_connection_is_over(
    sqlite_url: str, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, *, alone: bool
) -> None:
    lock = WriteLock()
    bind = sa.create_engine(sqlite_url, connect_args={"timeout": 0.02})
    with bind.connect() as connection:
        watch = set_watch(monkeypatch, Watch(0.0 if alone else SLOW, pause_seconds=3600.0))
        with lock.held(connection):
            pass
        other.execute("BEGIN IMMEDIATE")
        locked = pytest.raises(OperationalError, match="database is locked")
        with locked, lock.held(connection):
            pass
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one() == 20
    bind.dispose()
    assert len(watch.pauses) == (0 if alone else 1)


@pytest.mark.parametrize("alone", [True, False])
def test_a_writer_does_not_wait_where_no_lock_is_in_the_way(
    connection: sa.Connection, monkeypatch: pytest.MonkeyPatch, *, alone: bool
) -> None:
    def refuse(action: int, *_: object) -> int:
        return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_TRANSACTION else sqlite3.SQLITE_OK

    lock = WriteLock()
    watch = set_watch(monkeypatch, Watch(0.0 if alone else SLOW))
    with lock.held(connection):
        pass
    raw = connection.connection.dbapi_connection
    assert isinstance(raw, sqlite3.Connection)
    raw.set_authorizer(refuse)
    refused = pytest.raises(DatabaseError, match="not authorized")
    with refused, lock.held(connection):
        pass
    raw.set_authorizer(None)
    assert watch.pauses == []


def test_a_transaction_that_the_application_begins_itself_is_left_as_it_is(sqlite_url: str) -> None:
    bind = sa.create_engine(sqlite_url)
    base = Database(bind)
    event.listen(bind, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    with base.connect() as connection, base.writing(connection):
        connection.exec_driver_sql("CREATE TABLE note (text TEXT)")
    with bind.connect() as connection:
        assert sa.inspect(connection).has_table("note")
    bind.dispose()


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


def test_a_connection_that_could_not_begin_is_given_back(
    sqlite_url: str, other: sqlite3.Connection
) -> None:
    bind = sa.create_engine(sqlite_url, connect_args={"timeout": 0.02})
    base = Database(bind)
    with base.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=20")
    locked = pytest.raises(OperationalError, match="database is locked")
    with Work(base) as work:
        other.execute("BEGIN IMMEDIATE")
        with locked, work.transaction():
            pass
        assert bind.pool.checkedout() == 0  # type: ignore[attr-defined]  # of a QueuePool
    bind.dispose()
