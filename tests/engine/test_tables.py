"""The tables: made by the engine, by the application's own metadata, or missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, OperationalError

from flowroute import Continuation, Engine, Flow, done, step
from flowroute.engine import schema
from flowroute.errors import TablesMissing
from tests.engine.support import KEYS


class Small(Flow):
    """One step."""

    @step(start=True)
    def work(self) -> Continuation[int]:
        return done(1)


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
        {"waiting_for": "page"},
        {"state": "running"},
        {"state": "ready"},
        {"finished_at": None},
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


def test_every_column_says_what_it_means() -> None:
    for table in schema.TABLES:
        assert table.comment
        for column in table.columns:
            assert column.comment or table is schema.schema_table, f"{table.name}.{column.name}"
