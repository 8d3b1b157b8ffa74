"""Where connections and sessions come from, and what SQLite is set to."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session, scoped_session

from flowroute import Engine
from flowroute.engine.prepared import Prepared
from flowroute.errors import ConfigurationError
from tests.engine.conftest import MakeEngine
from tests.engine.support import Note

SELECT_ONE = Prepared(lambda _: sa.select(sa.literal_column("1", sa.Integer)))


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


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_statement_that_commits_alone_has_no_transaction_around_it(
    make_engine: MakeEngine,
) -> None:
    database = make_engine().database
    with database.connect() as connection, database.writing(connection):
        assert not connection.in_transaction()
        assert SELECT_ONE.fetch(connection, {}) == (1,)
        assert not connection.in_transaction()


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("heard", ["begin", "commit", "before_cursor_execute"])
def test_who_listens_hears_of_a_transaction_around_each_statement(
    make_engine: MakeEngine, heard: str
) -> None:
    database = make_engine().database
    seen: list[str] = []
    event.listen(database.engine, heard, lambda *_: seen.append(heard))
    with database.connect() as connection, database.writing(connection):
        assert connection.in_transaction()
        assert SELECT_ONE.fetch(connection, {}) == (1,)
    assert seen == [heard]
