"""One clock decides leases and timers: the database's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from sqlalchemy import DateTime, Dialect, String, bindparam
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine


class Instant(TypeDecorator[datetime]):
    """A timezone-aware UTC instant.

    ``timestamptz`` on PostgreSQL. On SQLite, which has no such type, text such as
    ``2026-11-23 17:20:00.123``: it sorts and compares as an instant does, SQLite's own date
    functions take it, and people can read it.
    """

    impl = String(26)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The column type of the database at hand."""
        if dialect.name == "sqlite":
            return dialect.type_descriptor(String(26))
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """An aware datetime to what the column holds."""
        if value is None:
            return None
        value = value.astimezone(UTC)
        if dialect.name == "sqlite":
            return value.strftime("%Y-%m-%d %H:%M:%S.") + f"{value.microsecond // 1000:03d}"
        return value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """What the column holds to an aware datetime."""
        if value is None:
            return None
        if dialect.name == "sqlite":
            return datetime.fromisoformat(value).replace(tzinfo=UTC)
        aware: datetime = value
        return aware.astimezone(UTC)


class database_now(FunctionElement[datetime]):  # noqa: N801  # SQL functions are lower case
    """The instant this statement runs by the database's clock, not that of its transaction."""

    type = Instant()
    inherit_cache = True


class later(FunctionElement[datetime]):  # noqa: N801
    """``later(instant, seconds)``: an instant moved by seconds; null if either is null."""

    type = Instant()
    inherit_cache = True


@compiles(database_now)
def _(_element: database_now, _compiler: SQLCompiler, **_: Any) -> str:
    return "clock_timestamp()"


@compiles(database_now, "sqlite")
def _(_element: database_now, _compiler: SQLCompiler, **_: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f', 'now')"


@compiles(later)
def _(element: later, compiler: SQLCompiler, **kw: Any) -> str:
    instant, seconds = element.clauses
    return (
        f"({compiler.process(instant, **kw)} + "
        f"make_interval(secs => CAST({compiler.process(seconds, **kw)} AS double precision)))"
    )


@compiles(later, "sqlite")
def _(element: later, compiler: SQLCompiler, **kw: Any) -> str:
    instant, seconds = element.clauses
    return (
        f"strftime('%Y-%m-%d %H:%M:%f', {compiler.process(instant, **kw)}, "
        f"{compiler.process(seconds, **kw)} || ' seconds')"
    )


class Clock(Protocol):
    """Where statements take the present instant from."""

    now: ColumnElement[datetime]
    """The present instant as an SQL expression."""


class DatabaseClock:
    """The database's own clock: the only one every process agrees on."""

    now: ColumnElement[datetime] = database_now()


class FakeClock:
    """A clock for tests: it stands still until it is moved.

    Parameters:
        start: The first instant; default 2026-01-01 00:00 UTC.
    """

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self.instant = start
        self.now: ColumnElement[datetime] = bindparam(
            None, callable_=lambda: self.instant, type_=Instant(), unique=True
        )

    def advance(self, seconds: float) -> None:
        """Move the clock forward by `seconds`."""
        self.instant += timedelta(seconds=seconds)
