"""The tables: made by the engine, by the application's own metadata, or missing."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError, OperationalError

from flowroute import Continuation, Engine, Flow, done, step, worker_step
from flowroute.engine import schema
from flowroute.engine.clock import database_now
from flowroute.errors import TablesMissing
from tests.engine.support import KEYS


class Small(Flow):
    """One step."""

    @step(start=True)
    def work(self) -> Continuation[int]:
        return done(1)

    @step(start=True)
    def later(self, more: int = 1) -> Continuation[int]:
        return self.later(more - 1) if more else self.wrong()

    @worker_step
    def wrong(self) -> Continuation[int]:
        return done(1 // 0)


@pytest.fixture
def engine(database_url: str) -> Any:
    """An engine on a database without any table."""
    with Engine(database_url, secret_keys=KEYS, executor="inline") as made:
        yield made


def test_missing_tables_are_one_sentence_that_says_what_to_do(engine: Engine) -> None:
    asked: list[Callable[[], object]] = [
        lambda: engine.start(Small().work()),
        lambda: engine.start(Small().work(), key="k"),
        lambda: engine.get("01900000-0000-7000-8000-000000000000"),
        lambda: engine.find(Small, "k"),
        engine.runs,
        engine.recover,
    ]
    for ask in asked:
        with pytest.raises(TablesMissing) as missing:
            ask()
        message = str(missing.value)
        assert "has no flowroute tables: create them with engine.create_all()" in message
        assert "flask db migrate" in message
        assert message.count(". ") == 0
        password = engine.database.engine.url.password
        assert password is None or password not in message


def test_created_tables_hold_their_version(engine: Engine) -> None:
    engine.create_all()
    engine.create_all()
    assert engine.start(Small().work()).result == 1
    with engine.database.engine.connect() as connection:
        rows = connection.execute(sa.select(schema.schema_table)).all()
    assert [row.version for row in rows] == [schema.SCHEMA_VERSION]
    assert rows[0].created_at.tzinfo is not None


def test_tables_that_a_migration_made_get_their_version(engine: Engine) -> None:
    metadata = sa.MetaData()
    schema.add_tables(metadata)
    schema.add_tables(metadata)
    assert set(metadata.tables) == {"flowroute_run", "flowroute_checkpoint", "flowroute_schema"}
    metadata.create_all(engine.database.engine)
    with engine.database.engine.begin() as connection:
        connection.execute(sa.delete(schema.schema_table))
    assert engine.start(Small().work()).result == 1
    with engine.database.engine.connect() as connection:
        assert connection.execute(sa.select(schema.schema_table.c.version)).scalars().all() == [
            schema.SCHEMA_VERSION
        ]


def test_tables_of_another_version_are_refused(engine: Engine) -> None:
    schema.metadata.create_all(engine.database.engine)
    with engine.database.engine.begin() as connection:
        connection.execute(sa.delete(schema.schema_table))
        connection.execute(
            sa.insert(schema.schema_table).values(
                version=schema.SCHEMA_VERSION + 1, created_at=sa.func.current_timestamp()
            )
            if connection.dialect.name == "postgresql"
            else sa.text("INSERT INTO flowroute_schema VALUES (3, '2026-01-01 00:00:00.000')")
        )
    with pytest.raises(TablesMissing, match=r"version 3, this flowroute works with version 2"):
        engine.start(Small().work())
    with pytest.raises(TablesMissing):
        engine.runs()


def test_a_version_that_can_not_be_stored_now_is_stored_another_time(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema.metadata.create_all(engine.database.engine)
    record = engine._store.record_version  # noqa: SLF001
    errors = [
        OperationalError("INSERT", {}, Exception("database is locked")),
        OperationalError("INSERT", {}, Exception("disk I/O error")),
    ]

    def fail(connection: sa.Connection) -> None:
        if errors:
            raise errors.pop(0)
        record(connection)

    monkeypatch.setattr(engine._store, "record_version", fail)  # noqa: SLF001
    engine.check_tables()  # this very thread may hold the lock
    with pytest.raises(OperationalError, match="disk I/O error"):
        engine.check_tables()
    assert engine.runs() == []
    with engine.database.engine.connect() as connection:
        stored = connection.execute(sa.select(schema.schema_table.c.version)).scalar_one()
    assert stored == schema.SCHEMA_VERSION


def test_the_tables_are_looked_at_once(engine: Engine) -> None:
    engine.create_all()
    engine.start(Small().work())
    schema.schema_table.drop(engine.database.engine)
    assert engine.start(Small().work()).result == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"state": "finished"},
        {"state": "waiting"},
        {"state": "waiting", "waiting_for": "nobody", "finished_at": None},
        {"waiting_for": "page"},
        {"state": "running"},
        {"state": "ready"},
        {"finished_at": None},
        {"parent_seq": 1},
    ],
    ids=str,
)
def test_the_database_refuses_rows_that_make_no_sense(engine: Engine, wrong: Any) -> None:
    engine.create_all()
    run = engine.start(Small().work())
    with pytest.raises(IntegrityError), engine.database.engine.begin() as connection:
        connection.execute(
            sa.update(schema.run_table).where(schema.run_table.c.id == run.id).values(wrong)
        )


def test_the_database_takes_each_state_with_what_belongs_to_it_and_no_other(
    engine: Engine,
) -> None:
    engine.create_all()
    run = engine.start(Small().work())
    refused = []
    with engine.database.engine.begin() as connection:
        for state, waiting_for in product(schema.STATES, (*schema.REASONS, None)):
            values = {
                "state": state,
                "waiting_for": waiting_for,
                "lease_until": database_now() if state == schema.RUNNING else None,
                "finished_at": database_now() if state in schema.FINISHED else None,
            }
            change = sa.update(schema.run_table).where(schema.run_table.c.id == run.id)
            try:
                with connection.begin_nested():
                    connection.execute(change.values(values))
            except IntegrityError:
                refused.append((state, waiting_for))
    assert refused == [
        (state, waiting_for)
        for state, waiting_for in product(schema.STATES, (*schema.REASONS, None))
        if (state == schema.WAITING) == (waiting_for is None)
    ]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("known", [False, True], ids=["new", "analyzed"])
def test_a_run_is_found_by_its_id_whatever_the_database_knows_of_the_table(
    engine: Engine, *, known: bool
) -> None:
    engine.create_all()
    if known:
        for _ in range(300):  # with fewer it reads the whole table, and rightly
            engine.start(Small().work())
        with engine.database.connect() as connection:
            connection.exec_driver_sql("VACUUM ANALYZE flowroute_run")
    plans: list[str] = []

    def explain(_c: sa.Connection, cursor: Any, text: Any, values: Any, *_: Any) -> None:
        if "UPDATE flowroute_run" in text:
            with psycopg.ClientCursor(cursor.connection) as explaining:
                explaining.execute("EXPLAIN " + text, values)
                plans.append("\n".join(line for (line,) in explaining))

    event.listen(engine.database.engine, "before_cursor_execute", explain)
    engine.start(Small().later()).retry()
    assert len(plans) >= 4
    for plan in plans:
        assert re.findall(
            "Scan(?: using (?:flowroute_run_)?([a-z_]+))? on flowroute_run", plan
        ) == ["pkey"]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_tables_ask_autovacuum_not_to_come_while_they_are_tiny(engine: Engine) -> None:
    engine.create_all()
    options = sa.text("SELECT reloptions FROM pg_class WHERE relname = :name")
    with engine.database.connect() as connection:
        for table in (schema.run_table, schema.checkpoint_table):
            assert connection.execute(options, {"name": table.name}).scalar_one() == [
                "autovacuum_vacuum_threshold=1000",
                "autovacuum_analyze_threshold=1000",
            ]


def test_every_column_says_what_it_means() -> None:
    for table in schema.TABLES:
        assert table.comment
        for column in table.columns:
            assert column.comment or table is schema.schema_table, f"{table.name}.{column.name}"
