"""Fixtures of the running engine: engines on an empty database of either kind."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from flowroute.engine import schema
from flowroute.engine.clock import FakeClock
from flowroute.engine.engine import Engine
from tests.engine.support import KEYS, Base
from tests.services import PostgresServer


class MakeEngine(Protocol):
    """Makes an engine on the test's database, closed after the test."""

    def __call__(self, executor: Any = "inline", **options: Any) -> Engine:
        """Make it; the options are those of `Engine`."""
        ...


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still until it is moved."""
    return FakeClock()


def make_tables(url: str) -> None:
    """Make flowroute's tables and those of the tests' application."""
    with Engine(url, secret_keys=KEYS) as engine:
        engine.create_all()
        Base.metadata.create_all(engine.database.engine)


@pytest.fixture(scope="session")
def shared_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A PostgreSQL database with tables, shared: making one takes longer than most tests."""
    name = postgres_server.create_database()
    url = postgres_server.url(name)
    make_tables(url)
    yield url
    postgres_server.drop_database(name)


@pytest.fixture
def emptied_postgres_url(shared_postgres_url: str) -> str:
    """That database without rows, and without connections of earlier tests."""
    bind = sa.create_engine(shared_postgres_url, poolclass=sa.NullPool)
    with bind.begin() as connection:
        connection.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
        for table in (schema.checkpoint_table, schema.run_table, *Base.metadata.tables.values()):
            connection.execute(sa.delete(table))
    return shared_postgres_url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with tables and no rows."""
    path = tmp_path_factory.mktemp("template") / "template.db"
    make_tables(f"sqlite:///{path}")
    return path


@pytest.fixture
def copied_sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """An SQLite file of the test's own, with tables and no rows."""
    path = shutil.copy(sqlite_template, tmp_path / "flowroute.db")
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of a database with tables and no rows: the test runs on SQLite and on PostgreSQL.

    ``@pytest.mark.parametrize("url", ["postgresql"], indirect=True)`` runs it on one of them only.
    """
    fixture = {"sqlite": "copied_sqlite_url", "postgresql": "emptied_postgres_url"}[request.param]
    found: str = request.getfixturevalue(fixture)
    return found


@pytest.fixture
def make_engine(url: str) -> Iterator[MakeEngine]:
    """Call it to make an engine on the test's database."""
    with ExitStack() as stack:

        def make(executor: Any = "inline", **options: Any) -> Engine:
            options.setdefault("secret_keys", KEYS)
            made = Engine(options.pop("database", url), executor=executor, **options)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def engine(make_engine: MakeEngine) -> Engine:
    """An engine whose worker steps run at once, in the caller."""
    return make_engine()


@pytest.fixture
def bind(url: str) -> Iterator[sa.Engine]:
    """An SQLAlchemy engine of the application's own, on the test's database."""
    made = sa.create_engine(url)
    yield made
    made.dispose()


@pytest.fixture
def registry(bind: sa.Engine) -> Iterator[scoped_session[Session]]:
    """The application's own session, as Flask-SQLAlchemy has it."""
    made = scoped_session(sessionmaker(bind))
    yield made
    made.remove()


@pytest.fixture(params=["engine", "sessionmaker", "scoped_session"])
def source(
    request: pytest.FixtureRequest, bind: sa.Engine, registry: scoped_session[Session]
) -> Any:
    """What an engine may be given for a database."""
    return {"engine": bind, "sessionmaker": sessionmaker(bind), "scoped_session": registry}[
        request.param
    ]
