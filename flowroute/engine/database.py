"""Where connections and sessions come from, and what SQLite needs to be set to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from flowroute.engine.inherited import Connections
from flowroute.engine.prepared import alone
from flowroute.engine.schema import run_table
from flowroute.engine.write_lock import WriteLock
from flowroute.errors import CommitRefused, ConfigurationError

logger = logging.getLogger("flowroute.database")

BUSY_TIMEOUT_SECONDS = 10
"""How long a writer on SQLite waits for another before it gives up."""

IMPATIENT_MILLISECONDS = 50
"""How long the heartbeat waits for a writer on SQLite before it looks after its other attempts."""

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
        self._write_lock: WriteLock | None = None
        if self.engine.dialect.name == "sqlite":
            _prepare_sqlite(self.engine)
            self._connections = Connections(self.engine)
            self._write_lock = WriteLock()

    def connect(self) -> sa.Connection:
        """A connection for statements that need no transaction around them.

        On PostgreSQL each statement then is one round trip, without BEGIN and COMMIT; SQLite has no
        round trips to save.
        """
        connection = self.engine.connect()
        if self.commits_alone:
            connection.execution_options(isolation_level="AUTOCOMMIT")
        return connection

    def writing(self, connection: sa.Connection) -> AbstractContextManager[Any]:
        """A transaction that writes, on a connection that is in none."""
        if self._write_lock is None:
            return alone(connection)
        return self._write_lock.held(connection)

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


def _begin_before_savepoint(connection: sa.Connection, _name: str | None) -> None:
    # The sqlite3 module opens a transaction at the first INSERT, UPDATE or DELETE, not at a
    # SAVEPOINT: releasing an outermost savepoint would commit half a step.
    raw = connection.connection.dbapi_connection
    if not getattr(raw, "in_transaction", True):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
