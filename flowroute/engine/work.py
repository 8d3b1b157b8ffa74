"""The unit of work of one turn: the step's own writes and the dispatcher's, on one connection."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Self

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from flowroute.engine.database import REFUSE_COMMIT, Database
from flowroute.engine.schema import run_table


class Work:
    """The session of one turn, opened when something first needs it.

    While nothing has used the session, the dispatcher's statements take a plain connection, which
    is faster, and is kept from one short step to the next. As soon as the step has used the
    session, they join its transaction, and one COMMIT stores both.

    Parameters:
        database: Where sessions come from.
    """

    __slots__ = ("_connection", "_database", "_refuse", "_session")

    def __init__(self, database: Database) -> None:
        self._database = database
        self._refuse: str | None = None
        self._connection: Connection | None = None
        # The application's session may hold its writes already: they join from the start.
        self._session: Session | None = database.open_session() if database.shared else None

    def session(self) -> Session:
        """The session, opened at the first call."""
        if self._session is None:
            self.let_go()  # a turn takes one connection of the pool at a time
            self._session = self._database.open_session()
            self._session.info[REFUSE_COMMIT] = self._refuse
        return self._session

    @contextmanager
    def step(self, name: str, *, commits: bool) -> Generator[None]:
        """While a step runs, refuse ``commit()`` on the session, unless it was declared."""
        self._refuse = None if commits else name
        if self._session is not None:
            self._session.info[REFUSE_COMMIT] = self._refuse
        try:
            yield
        finally:
            self._refuse = None
            if self._session is not None:
                self._session.info[REFUSE_COMMIT] = None

    def transaction(self, *, single: bool = False) -> AbstractContextManager[Connection]:
        """A connection to write with; what the session holds is flushed and committed with it.

        Parameters:
            single: It is for one statement that changes anything: where no session has joined, that
                needs no transaction around it.
        """
        session = self._session
        if session is not None and session.in_transaction():
            return _joined(session)
        if not single and self._database.commits_alone:
            self.let_go()
            return self._database.engine.begin()
        return Alone(self, self._database)

    @contextmanager
    def reading(self) -> Generator[Connection]:
        """A connection to read with."""
        session = self._session
        if session is not None and session.in_transaction():
            yield session.connection(bind_arguments={"clause": run_table})
            return
        connection = self.plain()
        try:
            yield connection
            connection.rollback()
        except BaseException:
            self.let_go()  # it may be broken
            raise
        self.settle_plain()

    def settle(self) -> None:
        """End a transaction that only read, and keep what was read.

        A worker step may be slow: no transaction is open while it works, until it writes or reads
        itself. The rows among its arguments were read together, and need not be read again one by
        one, as they would after a COMMIT that also wrote.
        """
        session = self._session
        if session is None or not session.in_transaction():
            return
        expire = session.expire_on_commit
        session.expire_on_commit = False
        try:
            session.commit()
        finally:
            session.expire_on_commit = expire

    def let_go(self) -> None:
        """Give the plain connection back: what follows may take long."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()

    def rollback(self) -> None:
        """Undo what the step wrote."""
        if self._session is not None:
            self._session.rollback()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.let_go()
        if self._session is not None and not self._database.shared:
            self._session.close()

    def plain(self) -> Connection:
        """The plain connection, taken from the pool at the first call."""
        connection = self._connection
        if connection is None:
            connection = self._connection = self._database.connect()
        return connection

    def settle_plain(self) -> None:
        """After each use of the plain connection: a session takes its own."""
        if self._session is not None:
            self.let_go()


class Alone:
    """A transaction on the plain connection; a class, as a generator would cost more.

    Parameters:
        work: Whose connection it is.
        database: Begins the transaction.
    """

    __slots__ = ("_database", "_transaction", "_work")

    def __init__(self, work: Work, database: Database) -> None:
        self._work = work
        self._database = database

    def __enter__(self) -> Connection:
        connection = self._work.plain()
        self._transaction = self._database.writing(connection)
        try:
            self._transaction.__enter__()
        except BaseException:
            self._work.let_go()  # it may be broken
            raise
        return connection

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._transaction.__exit__(kind, error, traceback)
        except BaseException:
            self._work.let_go()
            raise
        if error is None:
            self._work.settle_plain()
        else:
            self._work.let_go()


@contextmanager
def _joined(session: Session) -> Generator[Connection]:
    """The session's own transaction."""
    try:
        yield session.connection(bind_arguments={"clause": run_table})
        session.commit()
    except BaseException:
        session.rollback()
        raise
