"""Statements that every transition sends: compiled once, then handed to the driver as they are.

SQLAlchemy caches what it compiled too, but looks the statement up, prepares its parameters and
describes its result anew each time it is executed, which takes longer than SQLite takes to carry it
out. Where nobody watches what SQLAlchemy executes, the statement therefore goes to the driver's own
cursor, as SQLAlchemy's documentation shows under *Working with Driver SQL and Raw DBAPI
Connections*.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import BindParameter, Connection, Dialect, Select
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.dml import UpdateBase

T = TypeVar("T")

Statement: TypeAlias = UpdateBase | Select[*tuple[Any, ...]]

Make: TypeAlias = Callable[[Dialect], Statement]
"""Builds the statement for one kind of database."""


def send(
    connection: Connection,
    text: str,
    parameters: Any,
    outcome: Callable[[DBAPICursor], T],
) -> T:
    """Have the driver's own cursor execute a statement; whoever watches SQLAlchemy does not see it.

    Parameters:
        connection: Of the caller's transaction.
        text: The statement as the driver takes it.
        parameters: What the driver takes for them.
        outcome: What is asked of the cursor afterwards.

    Returns:
        The outcome.

    Raises:
        sqlalchemy.exc.DBAPIError: The database refused.
    """
    if not connection.in_transaction() and not _commits_alone(connection):
        connection.begin()  # so that commit() and rollback() know that there is something
    dialect, raw = connection.dialect, connection.connection
    cursor = raw.cursor()
    try:
        dialect.do_execute(cursor, text, parameters)
        return outcome(cursor)
    except dialect.loaded_dbapi.Error as error:
        if dialect.is_disconnect(error, raw, cursor):
            # It fails again, and SQLAlchemy draws its conclusions for the pool.
            connection.exec_driver_sql(text, parameters)
        raise DBAPIError.instance(
            text, parameters, error, dialect.loaded_dbapi.Error, dialect=dialect
        ) from error
    except Exception:
        raise
    except BaseException as interruption:  # what the connection is in the middle of is not known
        connection.invalidate(interruption)
        raise
    finally:
        if not connection.invalidated:
            cursor.close()


def alone(connection: Connection) -> AbstractContextManager[Any]:
    """What is around a single statement on a connection where each commits by itself.

    SQLAlchemy's transaction does nothing there, which takes a while; it is for those who listen.
    """
    events = connection.engine.dispatch
    heard = events.begin or events.commit or events.rollback or _is_watched(connection)
    return connection.begin() if heard else nullcontext()


def _commits_alone(connection: Connection) -> bool:
    return connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"


def changed(cursor: DBAPICursor) -> int:
    """How many rows a statement changed, as an outcome of `send`."""
    return cursor.rowcount


class Prepared:
    """One statement.

    Parameters:
        make: Builds the statement. Each parameter without a value of its own is given to `execute`
            or `fetch`.
    """

    __slots__ = ("_make", "_sendable")

    def __init__(self, make: Make) -> None:
        self._make = make
        self._sendable: dict[Dialect, _Sendable] = {}

    def execute(self, connection: Connection, values: Mapping[str, Any]) -> int:
        """Execute an INSERT, UPDATE or DELETE.

        Parameters:
            connection: Of the caller's transaction.
            values: Of its parameters, by name.

        Returns:
            How many rows it changed.

        Raises:
            KeyError: A parameter has no value.
            sqlalchemy.exc.DBAPIError: The database refused.
        """
        sendable = self._for(connection)
        parameters = sendable.parameters(values)
        if _is_watched(connection):
            return connection.exec_driver_sql(sendable.text, parameters).rowcount
        return send(connection, sendable.text, parameters, changed)

    def execute_many(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Execute it once for each of some values, by as few round trips as the driver needs."""
        sendable = self._for(connection)
        connection.exec_driver_sql(sendable.text, [sendable.parameters(row) for row in rows])

    def fetch(self, connection: Connection, values: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """The one row of a SELECT, or None; parameters and errors are those of `execute`."""
        sendable = self._for(connection)
        parameters = sendable.parameters(values)
        row: Sequence[Any] | None
        if _is_watched(connection):
            row = connection.exec_driver_sql(sendable.text, parameters).one_or_none()
        else:
            row = send(connection, sendable.text, parameters, _first)
        return None if row is None else sendable.row(row)

    def compile(self, dialect: Dialect) -> _Sendable:
        """Compile it for a database whose connections were opened before."""
        sendable = self._sendable[dialect] = _Sendable(self._make(dialect), dialect)
        return sendable

    def _for(self, connection: Connection) -> _Sendable:
        return self._sendable.get(connection.dialect) or self.compile(connection.dialect)


class _Sendable:
    """A statement as one driver takes it."""

    __slots__ = (
        "_callable",
        "_fixed",
        "_given",
        "_names",
        "_positional",
        "_processed",
        "_results",
        "text",
    )

    def __init__(self, statement: Statement, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        self.text = str(compiled)
        # The compiler knows the parameters by the names that it gave them.
        binds: dict[str, BindParameter[Any]] = {
            name: bind for bind, name in compiled.bind_names.items()
        }
        order: list[str] | None = compiled.positiontup
        self._names = list(binds) if order is None else order
        self._positional = order is not None
        own = [(at, binds[name]) for at, name in enumerate(self._names) if not binds[name].required]
        # All but the values that are looked up each time, such as the instant of a clock for tests.
        self._fixed: list[Any] = [None] * len(self._names)
        for at, bind in own:
            self._fixed[at] = bind.value
        self._callable = [(at, bind.callable) for at, bind in own if bind.callable is not None]
        self._given = [(at, name) for at, name in enumerate(self._names) if binds[name].required]
        processors = [
            (at, binds[name].type.dialect_impl(dialect).bind_processor(dialect))
            for at, name in enumerate(self._names)
        ]
        self._processed = [(at, process) for at, process in processors if process is not None]
        columns = statement.selected_columns if isinstance(statement, Select) else ()
        results = [
            (at, each.type.dialect_impl(dialect).result_processor(dialect, None))
            for at, each in enumerate(columns)
        ]
        self._results = [(at, process) for at, process in results if process is not None]

    def parameters(self, values: Mapping[str, Any]) -> Any:
        """Values as the driver takes them: in order, or by name."""
        sent = self._fixed.copy()
        for at, name in self._given:
            sent[at] = values[name]
        for at, look_up in self._callable:
            sent[at] = look_up()
        for at, process in self._processed:
            if sent[at] is not None:  # null is null in every type that is used here
                sent[at] = process(sent[at])
        return tuple(sent) if self._positional else dict(zip(self._names, sent, strict=True))

    def row(self, sent: Sequence[Any]) -> tuple[Any, ...]:
        """A row as SQLAlchemy would give it."""
        values = list(sent)
        for at, process in self._results:
            if values[at] is not None:
                values[at] = process(values[at])
        return tuple(values)


def _is_watched(connection: Connection) -> bool:
    """Whether somebody listens to what SQLAlchemy executes, or has it logged."""
    engine = connection.engine
    events, dialect_events = engine.dispatch, connection.dialect.dispatch
    return bool(
        connection._has_events  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # cheap, and tested
        or events.before_cursor_execute
        or events.after_cursor_execute
        or dialect_events.do_execute
        or dialect_events.handle_error
        or engine.logger.isEnabledFor(logging.INFO)
    )


def _first(cursor: DBAPICursor) -> Sequence[Any] | None:
    row: Sequence[Any] | None = cursor.fetchone()
    return row
