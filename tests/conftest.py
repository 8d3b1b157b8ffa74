"""The fixtures of all tests: servers, databases, a browser, subprocesses.

A service that this machine lacks skips the tests that need it, unless CI=true: then they fail.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, NoReturn

import hypothesis
import pytest
from playwright.sync_api import sync_playwright

from flowroute.engine import flow
from tests import waiting
from tests.chromium import Problems, launch_chromium
from tests.processes import Processes
from tests.services import PostgresServer, RedisServer, ServiceMissingError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

    from playwright.sync_api import Browser, Page

#: The marker that a test gets for using a fixture.
MARKERS = {
    "chromium": "browser",
    "redis_server": "redis",
    "redis_url": "redis",
    "postgres_url": "postgres",
    "postgres_server": "postgres",
}

# How long an example takes says nothing on a busy machine; pytest-timeout bounds the test.
hypothesis.settings.register_profile("flowroute", deadline=None, print_blob=True)
hypothesis.settings.load_profile("flowroute")


def pytest_configure() -> None:
    """Let a SIGTERM end the tests as Ctrl-C does: with the servers stopped."""
    tests = os.getpid()

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        if os.getpid() == tests:
            raise KeyboardInterrupt
        # A child that a test forked: it dies of the signal, as it would without this handler.
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
        raise SystemExit

    signal.signal(signal.SIGTERM, end)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the services that its fixtures start."""
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in MARKERS:
                item.add_marker(MARKERS[fixture])


def lacking(error: ServiceMissingError) -> NoReturn:
    """Skip the test, or fail it where nothing may be skipped."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI=true and {error}", pytrace=False)
    pytest.skip(str(error))


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The Redis behind `redis_url`; tests use that."""
    try:
        server = RedisServer(tmp_path_factory.mktemp("redis"))
    except ServiceMissingError as error:
        lacking(error)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(shared_redis: RedisServer) -> str:
    """The URL of an empty Redis, for tests that leave the server itself alone."""
    shared_redis.flush()
    return shared_redis.url


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A running Redis of the test's own, to stop, kill, freeze, flush and start again."""
    directory = tmp_path / "redis"
    directory.mkdir()
    try:
        server = RedisServer(directory)
    except ServiceMissingError as error:
        lacking(error)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The PostgreSQL of this test run; a test that stops it starts it again."""
    try:
        server = PostgresServer()
    except ServiceMissingError as error:
        lacking(error)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The SQLAlchemy URL of an empty PostgreSQL database, dropped after the test."""
    name = postgres_server.create_database()
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The SQLAlchemy URL of an SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'flowroute.db'}"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> str:
    """The SQLAlchemy URL of an empty database: the test runs on SQLite and on PostgreSQL."""
    fixture = {"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param]
    url: str = request.getfixturevalue(fixture)
    return url


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A headless Chromium that reaches loopback only; make a context, or use `page`."""
    with sync_playwright() as playwright:
        try:
            browser = launch_chromium(playwright)
        except ServiceMissingError as error:
            lacking(error)
        yield browser
        browser.close()


@pytest.fixture
def problems() -> Problems:
    """What the `page` of this test reported; `allow` what the test provokes."""
    return Problems()


@pytest.fixture
def page(chromium: Browser, problems: Problems) -> Iterator[Page]:
    """A page in a browser context of its own; problems that nobody allowed fail the test."""
    context = chromium.new_context()
    context.set_default_timeout(15_000)
    problems.watch(context)
    yield context.new_page()
    context.close()
    unexpected = problems.unexpected()
    assert not unexpected, "the browser reported:\n" + "\n".join(unexpected)


@pytest.fixture
def process() -> Iterator[Processes]:
    """Call it to start a subprocess; all of them, and all that they started, end with the test."""
    processes = Processes()
    yield processes
    processes.kill_all()


@pytest.fixture
def free_port() -> int:
    """A TCP port on loopback that nothing listens on."""
    return waiting.free_port()


@pytest.fixture(autouse=True)
def own_flows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test knows the flows of its module and its package: others may be called the same."""
    here: str = request.module.__name__

    def known_here(module: str) -> bool:
        package, _, name = module.rpartition(".")
        shared = not name.startswith("test_") and here.startswith(f"{package}.")
        return not module.startswith("tests.") or module == here or shared

    known = {
        name: cls
        for name, cls in flow._flows.items()  # noqa: SLF001
        if known_here(cls.__module__)
    }
    monkeypatch.setattr(flow, "_flows", known)
