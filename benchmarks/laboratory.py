"""The place where figures are measured: databases, Redis, processes, and how long it may take."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from benchmarks.contest import ROOT, Contestant
from tests.processes import COMPILED, Process
from tests.services import PostgresServer, RedisServer

T = TypeVar("T")


class Laboratory:
    """A directory, and servers that start when a figure first asks for them.

    Parameters:
        quick: Whether all is measured in seconds, to see that it works and for nothing else.
        log: The file that contestants' output goes to.
    """

    def __init__(self, *, quick: bool, log: Path) -> None:
        self.quick = quick
        self.log = log
        # On the disk of the checkout: the system's temporary directory may be memory, where a
        # commit costs nothing.
        (ROOT / "build").mkdir(exist_ok=True)
        self.directory = Path(tempfile.mkdtemp(prefix="bench-", dir=ROOT / "build"))
        self._stack = ExitStack()
        self._stack.callback(shutil.rmtree, self.directory)
        self._files = 0

    def choose(self, thorough: T, quick: T) -> T:
        """What a measurement takes: one thing, or another where seconds must do."""
        return quick if self.quick else thorough

    # -- servers -----------------------------------------------------------------------------------

    @cached_property
    def redis(self) -> RedisServer:
        """A Redis that keeps nothing on disk."""
        directory = self.directory / "redis"
        directory.mkdir()
        server = RedisServer(directory)
        server.start()
        self._stack.callback(server.stop)
        return server

    @cached_property
    def postgres(self) -> PostgresServer:
        """A PostgreSQL with the durability settings that it ships with."""
        server = PostgresServer()
        self._stack.callback(server.remove)
        server.create()
        server.start()
        return server

    def sqlite_url(self) -> str:
        """The URL of an SQLite file that does not exist yet."""
        return f"sqlite:///{self.path('.db')}"

    def postgres_url(self) -> str:
        """The URL of an empty PostgreSQL database."""
        return self.postgres.url(self.postgres.create_database())

    def database_url(self, kind: str) -> str:
        """The URL of an empty database: ``sqlite`` or ``postgresql``."""
        return self.sqlite_url() if kind == "sqlite" else self.postgres_url()

    def path(self, suffix: str = "") -> Path:
        """The path of a file that does not exist yet."""
        self._files += 1
        return self.directory / f"{self._files}{suffix}"

    # -- processes ---------------------------------------------------------------------------------

    def contestant(
        self, reference: str, *, environment: dict[str, str] | None = None, **arguments: Any
    ) -> Contestant:
        """A contestant; use it in a `with`."""
        return Contestant(f"benchmarks.peers.{reference}", self.log, environment, **arguments)

    @contextmanager
    def program(
        self, module: str, *arguments: str, environment: dict[str, str] | None = None
    ) -> Iterator[Process]:
        """A program of this checkout that runs beside, and is killed in the end."""
        command = [sys.executable, "-m", module, *arguments]
        process = Process(command, env=environment, cwd=ROOT)
        try:
            yield process
        finally:
            with self.log.open("a") as log:
                log.write(process.output)
            process.kill_all()

    def python(self, *arguments: str) -> str:
        """What a Python process printed that has ended."""
        outcome: subprocess.CompletedProcess[str] = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env={**os.environ, **COMPILED, "PYTHONPATH": str(ROOT)},
        )
        return outcome.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()


def installed(names: Sequence[str]) -> list[str]:
    """Which of some packages this environment has: the peers come with `make bench`."""
    return [name for name in names if find_spec(name) is not None]
