"""Where connections and sessions come from, and what SQLite needs to be set to."""

from __future__ import annotations

import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from flowroute.engine.inherited import Connections
from flowroute.engine.schema import run_table
from flowroute.errors import CommitRefused, ConfigurationError

logger = logging.getLogger("flowroute.database")

BUSY_TIMEOUT_SECONDS = 10
"""How long a writer on SQLite waits for another before it gives up."""

IMPATIENT_MILLISECONDS = 50
"""How long the heartbeat waits for a writer on SQLite before it looks after its other attempts."""

ASK_AGAIN_SECONDS = 0.0003
"""How long a writer on SQLite waits on average before it asks again for the write lock."""

REFUSE_COMMIT = "flowroute.refuse_commit"
"""Key of ``Session.info``: the step that is running, while its session must not be committed by
it."""

TRANSIENT_SQLSTATES = frozenset({"40001", "40P01", "55P03"})
"""PostgreSQL's serialization failure, deadlock and lock timeout: the same work may succeed right
away."""

Source = str | sa.URL | sa.Engine | sessionmaker[Session] | scoped_session[Any]


class Database:
    """The database of one engine.

    Parameters:
        source: A URL, an SQLAlchemy engine, a `sessionmaker`, or a `scoped_session` such as
            Flask-SQLAlchemy's ``db.session``: then steps write through the application's own
            session.

    Raises:
        ConfigurationError: The database can not keep runs, such as SQLite in memory.
    """

    def __init__(self, source: Source) -> None:
        self.shared = isinstance(source, scoped_session)
        """Whether sessions belong to the application, which then closes them."""
        self._owned = isinstance(source, (str, sa.URL))
        self.open_session: Callable[[], Session]
        if isinstance(source, (str, sa.URL)):
            source = sa.create_engine(source)
        if isinstance(source, sa.Engine):
            source = sessionmaker(source)
        if not isinstance(source, (sessionmaker, scoped_session)):  # pyright: ignore[reportUnnecessaryIsInstance]  # not all check types
            raise ConfigurationError(
                f"An Engine keeps its runs in a database, and {source!r} is none: give it a URL, "
                "an SQLAlchemy Engine, a sessionmaker or a scoped_session. A single Session can "
                "not be shared between threads."
            )
        self.open_session = source
        self.engine = _bound_engine(source)
        event.listen(source, "before_commit", _refuse_commit)
        self._connections: Connections | None = None
        self.commits_alone = self.engine.dialect.name == "postgresql"
        """Whether a single statement of `connect` is a transaction by itself."""
        self._turns: AbstractContextManager[Any] = nullcontext()
        self._locks = self.engine.dialect.name == "sqlite"
        if self._locks:
            _prepare_sqlite(self.engine)
            self._connections = Connections(self.engine)
            self._turns = threading.Lock()

    def connect(self) -> sa.Connection:
        """A connection for statements that need no transaction around them.

        On PostgreSQL each statement then is one round trip, without BEGIN and COMMIT; SQLite has no
        round trips to save.
        """
        connection = self.engine.connect()
        if self.commits_alone:
            connection.execution_options(isolation_level="AUTOCOMMIT")
        return connection

    @contextmanager
    def writing(self, connection: sa.Connection) -> Generator[None]:
        """A transaction that writes, on a connection that is in none.

        On SQLite, threads of one process take turns, and processes ask again soon for each other's
        write lock: SQLite itself would sleep for longer than the other writes.
        """
        with self._turns, connection.begin():
            if self._locks:
                _take_write_lock(connection)
            yield

    @contextmanager
    def impatient(self) -> Generator[sa.Connection]:
        """A transaction that does not wait for SQLite's write lock, for threads others wait for."""
        with self.engine.begin() as connection:
            if self.engine.dialect.name != "sqlite":
                yield connection
                return
            timeout = connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one()
            connection.exec_driver_sql(f"PRAGMA busy_timeout={IMPATIENT_MILLISECONDS}")
            try:
                yield connection
            finally:
                connection.exec_driver_sql(f"PRAGMA busy_timeout={timeout}")

    def close(self) -> None:
        """Close the connections, if this object opened them."""
        if self._owned:
            self.engine.dispose()

    def forget_connections(self) -> None:
        """In a forked child: part with the connections of the parent, which still uses them."""
        if self._connections is not None:
            self._connections.after_fork()
        self.engine.dispose(close=False)


def is_transient(error: BaseException) -> bool:
    """Whether another try may succeed: deadlock, lock, serialization failure, lost connection."""
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:  # the server closed it, and with it the transaction
        return True
    sqlstate = getattr(error.orig, "sqlstate", None)
    return sqlstate in TRANSIENT_SQLSTATES or "database is locked" in str(error.orig)


def _bound_engine(source: sessionmaker[Session] | scoped_session[Any]) -> sa.Engine:
    held = isinstance(source, scoped_session) and source.registry.has()
    session = source()
    try:
        bind = session.get_bind(clause=run_table)
    finally:
        if not isinstance(source, scoped_session):
            session.close()
        elif not held:  # else the application is using it
            source.remove()
    return bind.engine


def _refuse_commit(session: Session) -> None:
    step = session.info.get(REFUSE_COMMIT)
    # Releasing a savepoint passes here too, and is the step's own business.
    if step is None or session.in_nested_transaction():
        return
    raise CommitRefused(
        f"The step {step} called commit() on the run's session. flowroute commits a step's writes "
        "together with the checkpoint after it, so that they happen exactly once: leave commit() "
        "out, use session.flush() to get generated keys, or, for a long import whose writes may "
        "happen twice, declare @worker_step(commits=True).",
        step=step,
    )


def _prepare_sqlite(engine: sa.Engine) -> None:
    if engine.url.database in (None, "", ":memory:") or engine.url.query.get("mode") == "memory":
        raise ConfigurationError(
            "flowroute keeps runs so that they outlive the process, and SQLite in memory does "
            "not: use a file, such as sqlite:///flows.db."
        )
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "savepoint", _begin_before_savepoint)


def _set_pragmas(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    # Readers and the one writer do not wait for each other; `synchronous` stays as the user has it.
    mode = cursor.execute("PRAGMA journal_mode").fetchone()[0]
    if mode != "wal":
        cursor.execute("PRAGMA journal_mode=WAL")
        logger.info("SQLite: set journal_mode=WAL, was %s", mode)
    timeout = cursor.execute("PRAGMA busy_timeout").fetchone()[0]
    if timeout < BUSY_TIMEOUT_SECONDS * 1000:
        cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_SECONDS * 1000}")
    cursor.close()


def _take_write_lock(connection: sa.Connection) -> None:
    """Begin SQLite's transaction with the write lock; the time to wait is the connection's own.

    Raises:
        sqlalchemy.exc.OperationalError: Another one held the lock all the time, or the file can not
            be written.
    """
    raw: Any = connection.connection.dbapi_connection
    if raw.in_transaction:  # one without autocommit always is
        return
    (milliseconds,) = raw.execute("PRAGMA busy_timeout").fetchone()
    raw.execute("PRAGMA busy_timeout=0")
    try:
        raw.execute("BEGIN IMMEDIATE")
    except sqlite3.DatabaseError as error:
        _ask_again(connection, raw, error, milliseconds / 1000)
    finally:
        raw.execute(f"PRAGMA busy_timeout={milliseconds}")


def _ask_again(
    connection: sa.Connection, raw: Any, error: sqlite3.DatabaseError, seconds: float
) -> None:
    until = time.monotonic() + seconds
    while error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY and time.monotonic() < until:
        time.sleep(random.uniform(0, 2 * ASK_AGAIN_SECONDS))  # noqa: S311  # jitter
        try:
            raw.execute("BEGIN IMMEDIATE")
        except sqlite3.DatabaseError as again:
            error = again
        else:
            return
    connection.exec_driver_sql("BEGIN IMMEDIATE")  # fails alike, and its error is SQLAlchemy's


def _begin_before_savepoint(connection: sa.Connection, _name: str | None) -> None:
    # The sqlite3 module opens a transaction at the first INSERT, UPDATE or DELETE, not at a
    # SAVEPOINT: releasing an outermost savepoint would commit half a step.
    raw = connection.connection.dbapi_connection
    if not getattr(raw, "in_transaction", True):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
