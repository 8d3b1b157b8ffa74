"""Statements that go to the driver's own cursor, unless somebody watches."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import bindparam, event
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from flowroute.engine.clock import Instant
from flowroute.engine.prepared import Prepared, changed, send

metadata = sa.MetaData()
odd = sa.Table(
    "odd",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", Instant),
    sa.Column("found", sa.JSON(none_as_null=True)),
    sa.Column("raw", sa.LargeBinary),
)
ROW = {
    "id": 7,
    "at": datetime(2026, 11, 30, 19, 21, tzinfo=UTC),
    "found": {"a": [1]},
    "raw": b"\0x",
}

INSERT = Prepared(
    lambda _: sa.insert(odd).values({c.name: bindparam(c.name, type_=c.type) for c in odd.c})
)
SELECT = Prepared(lambda _: sa.select(*odd.c).where(odd.c.id == bindparam("id")))
RAISE = Prepared(
    lambda _: sa.update(odd).where(odd.c.id >= bindparam("least")).values(id=odd.c.id + 1)
)


@pytest.fixture
def bind(url: str) -> Iterator[sa.Engine]:
    """An engine with a table, of each kind of database."""
    bind = sa.create_engine(url)
    metadata.create_all(bind)
    yield bind
    metadata.drop_all(bind)
    bind.dispose()


@pytest.fixture(params=["nobody", "a listener", "the log"])
def connection(
    bind: sa.Engine, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> Iterator[sa.Connection]:
    """A connection whose statements are watched, or not; what is watched is noted."""
    seen: list[str] = []
    if request.param == "a listener":
        event.listen(bind, "before_cursor_execute", lambda *given: seen.append(given[2]))
    if request.param == "the log":
        caplog.set_level(logging.INFO, "sqlalchemy.engine")
    with bind.connect() as connection:
        connection.info["seen"] = seen
        yield connection


def test_values_come_back_as_sqlalchemy_gives_them(connection: sa.Connection) -> None:
    assert INSERT.execute(connection, ROW) == 1
    found = SELECT.fetch(connection, {"id": 7})
    assert found == tuple(ROW.values())
    assert found == tuple(connection.execute(sa.select(odd)).one())
    assert SELECT.fetch(connection, {"id": 8}) is None


def test_nulls_come_back_as_none(connection: sa.Connection) -> None:
    INSERT.execute(connection, {"id": 1, "at": None, "found": None, "raw": None})
    assert SELECT.fetch(connection, {"id": 1}) == (1, None, None, None)
    assert connection.scalar(sa.select(sa.func.count()).where(odd.c.found.is_(None))) == 1


def test_the_rows_that_changed_are_counted(connection: sa.Connection) -> None:
    for number in (10, 20, 30):
        INSERT.execute(connection, ROW | {"id": number})
    assert RAISE.execute(connection, {"least": 20}) == 2
    assert RAISE.execute(connection, {"least": 99}) == 0


def test_a_value_that_is_missing_is_named(connection: sa.Connection) -> None:
    with pytest.raises(KeyError, match="raw"):
        INSERT.execute(connection, {"id": 1, "at": None, "found": None})


def test_what_was_not_committed_is_undone(bind: sa.Engine, connection: sa.Connection) -> None:
    INSERT.execute(connection, ROW)
    connection.close()
    with bind.connect() as other:
        assert SELECT.fetch(other, {"id": 7}) is None


def test_an_error_is_sqlalchemys_and_the_transaction_can_be_rolled_back(
    connection: sa.Connection,
) -> None:
    INSERT.execute(connection, ROW)
    connection.commit()
    with pytest.raises(IntegrityError, match="odd") as caught:
        INSERT.execute(connection, ROW)
    assert not caught.value.connection_invalidated
    assert isinstance(caught.value.orig, (sqlite3.IntegrityError, psycopg.IntegrityError))
    assert caught.value.__cause__ is caught.value.orig
    assert "INSERT INTO odd" in str(caught.value)
    connection.rollback()
    assert SELECT.fetch(connection, {"id": 7}) == tuple(ROW.values())


def test_who_listens_hears_of_each_statement(bind: sa.Engine) -> None:
    heard: dict[str, list[str]] = {"before": [], "after": [], "error": []}
    with bind.connect() as connection:
        INSERT.execute(connection, ROW | {"id": 1})
        event.listen(bind, "after_cursor_execute", lambda *it: heard["after"].append(it[2]))
        INSERT.execute(connection, ROW | {"id": 2})
        event.listen(bind, "before_cursor_execute", lambda *it: heard["before"].append(it[2]))
        SELECT.fetch(connection, {"id": 2})
    assert [text.split()[0] for text in heard["after"]] == ["INSERT", "SELECT"]
    assert [text.split()[0] for text in heard["before"]] == ["SELECT"]


def test_who_listens_to_one_connection_hears_of_its_statements(bind: sa.Engine) -> None:
    heard: list[str] = []
    with bind.connect() as connection, bind.connect() as other:
        event.listen(connection, "before_cursor_execute", lambda *it: heard.append(it[2]))
        SELECT.fetch(connection, {"id": 1})
        SELECT.fetch(other, {"id": 1})
    assert [text.split()[0] for text in heard] == ["SELECT"]


def test_who_listens_for_errors_alone_hears_of_them(bind: sa.Engine) -> None:
    heard: list[Any] = []
    event.listen(bind, "handle_error", lambda context: heard.append(context.statement))
    with bind.connect() as connection:
        INSERT.execute(connection, ROW)
        with pytest.raises(IntegrityError):
            INSERT.execute(connection, ROW)
    assert len(heard) == 1


def test_statements_are_logged_where_sqlalchemy_logs(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    bind = sa.create_engine(url, echo=True)
    with bind.connect() as connection:
        metadata.create_all(connection)
        caplog.clear()
        INSERT.execute(connection, ROW)
    bind.dispose()
    assert "INSERT INTO odd" in caplog.text


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_connection_that_the_server_closed_is_told_from_an_error_and_left(
    bind: sa.Engine,
) -> None:
    with bind.connect() as first, bind.connect() as connection:
        spare = bind.connect()  # waits in the pool meanwhile
        pids = [
            each.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
            for each in (connection, spare)
        ]
        spare.close()
        connection.rollback()
        for pid in pids:
            first.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        with pytest.raises(OperationalError) as caught:
            INSERT.execute(connection, ROW)
        assert caught.value.connection_invalidated
    with bind.connect() as one, bind.connect() as another:  # neither is the spare one
        for each in (one, another):
            assert SELECT.fetch(each, {"id": 7}) is None


def test_a_connection_that_was_interrupted_is_not_used_again(bind: sa.Engine) -> None:
    class Interrupted(BaseException):
        """As Ctrl-C is, or the end of a step's time."""

    def interrupt(_cursor: Any) -> None:
        raise Interrupted

    with bind.connect() as connection:
        raw = connection.connection.dbapi_connection
        with pytest.raises(Interrupted):
            send(connection, "SELECT 1", (), interrupt)
        assert connection.invalidated
        connection.rollback()
        assert connection.connection.dbapi_connection is not raw


def test_what_is_asked_of_the_cursor_may_fail_in_its_own_way(bind: sa.Engine) -> None:
    def fail(_cursor: Any) -> None:
        raise LookupError("not there")

    with bind.connect() as connection:
        with pytest.raises(LookupError, match="not there"):
            send(connection, "SELECT 1", (), fail)
        assert not connection.invalidated


def test_a_statement_that_is_wrong_is_shown_with_its_error(bind: sa.Engine) -> None:
    with bind.connect() as connection, pytest.raises(DBAPIError, match="SELECT FROM WHERE"):
        send(connection, "SELECT FROM WHERE", (), changed)
