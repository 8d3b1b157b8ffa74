"""What the tests of RQ share: an engine on a real Redis, and workers that serve it."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.rq.application import DATABASE, REDIS, make_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from flowroute import Engine
    from tests.processes import Process, Processes
    from tests.services import RedisServer


class Workers:
    """Starts workers that serve one database and one Redis."""

    def __init__(self, process: Processes, root: Path, database: str, redis_url: str) -> None:
        self._process = process
        self._root = root
        self._redis_url = redis_url
        self._environment = {DATABASE: database, REDIS: redis_url}

    def start(self, kind: str = "FlowWorker", *arguments: str, buffered: bool = False) -> Process:
        """Start one of flowroute's workers, and wait until it takes jobs.

        Args:
            kind: the name of its class.
            arguments: more of `tests.rq.run_worker`.
            buffered: let Python buffer what is printed, as it does when nobody asks otherwise.
        """
        unbuffered = {"PYTHONUNBUFFERED": ""} if buffered else {}
        worker = self._process(
            [sys.executable, "-m", "tests.rq.run_worker", kind, *arguments],
            env={**self._environment, **unbuffered},
            cwd=self._root,
        )
        worker.wait_for_line(r"Listening on flowroute")
        return worker

    def start_stock(self, *arguments: str) -> Process:
        """Start RQ's own worker by its own command, and wait until it takes jobs."""
        worker = self._process(
            [
                *(sys.executable, "-m", "rq.cli", "worker", "--url", self._redis_url),
                *("--serializer", "json", *arguments, "flowroute"),
            ],
            env={**self._environment, "FLOWROUTE_ENGINE": "tests.rq.application:make_engine"},
            cwd=self._root,
        )
        worker.wait_for_line(r"Listening on")
        return worker


@pytest.fixture
def engine(sqlite_url: str, redis_url: str) -> Iterator[Engine]:
    """The engine of this process: it starts runs and has no worker."""
    with make_engine(sqlite_url, redis_url) as engine:
        engine.create_all()
        yield engine


@pytest.fixture
def workers(
    process: Processes,
    pytestconfig: pytest.Config,
    engine: Engine,
    sqlite_url: str,
    redis_url: str,
) -> Workers:
    """Workers for `engine`."""
    del engine  # it makes the tables
    return Workers(process, pytestconfig.rootpath, sqlite_url, redis_url)


@pytest.fixture
def own_engine(sqlite_url: str, redis_server: RedisServer) -> Iterator[Engine]:
    """As `engine`, on a Redis that the test may stop, freeze or empty."""
    with make_engine(sqlite_url, redis_server.url) as engine:
        engine.create_all()
        yield engine


@pytest.fixture
def own_workers(
    process: Processes,
    pytestconfig: pytest.Config,
    own_engine: Engine,
    sqlite_url: str,
    redis_server: RedisServer,
) -> Workers:
    """Workers for `own_engine`."""
    del own_engine  # it makes the tables
    return Workers(process, pytestconfig.rootpath, sqlite_url, redis_server.url)


@pytest.fixture
def keep_signals() -> Iterator[None]:
    """Put back the signal handlers that a worker inside this process replaces."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before: list[Callable[..., Any] | int | None] = [signal.getsignal(each) for each in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
