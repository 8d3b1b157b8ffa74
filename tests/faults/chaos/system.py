"""The real processes under chaos, and a supervisor that starts again what was killed."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import requests
import sqlalchemy as sa

from flowroute.engine import schema
from tests.faults.chaos.application import Base
from tests.processes import Process, Processes
from tests.services import PostgresServer, RedisServer
from tests.waiting import free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

ROOT: Final = Path(__file__).parents[3]
FENCED: Final = "another process owns the run now"
"""What the dispatcher logs when a process finds that its lease is lost."""
HARNESS: Final = "chaos harness"
WORKERS: Final = 2
START_SECONDS: Final = 90.0


def children(pid: int) -> list[int]:
    """The living children of a process, zombies of the system's kind left out."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(each) for each in listed if _state(int(each)) not in ("Z", "")]


def _state(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return stat.rpartition(")")[2].split()[0]


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal; False if there is no such process any more."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


class System:
    """gunicorn, two flow workers, Redis, a database.

    Args:
        database: sqlite or postgresql.
        lease_seconds: how long a silent process keeps its runs.
        variant: how the application breaks the protocol; empty: not at all.
    """

    def __init__(self, database: str, *, lease_seconds: float = 2.0, variant: str = "") -> None:
        self.database = database
        self.postgres: PostgresServer | None = None
        self.name = ""
        self._lease_seconds = lease_seconds
        self._variant = variant
        self._exits = ExitStack()
        self._processes = Processes()
        self._all: list[Process] = []
        self._closed = threading.Event()
        self.port = free_port()
        self.restarts = 0

    def __enter__(self) -> Self:
        """Start everything."""
        try:
            self._start()
        except BaseException:
            self._exits.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End everything."""
        self._exits.close()

    @property
    def url(self) -> str:
        """Where gunicorn listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        """What all processes printed so far."""
        return "\n".join(each.output for each in self._all)

    @property
    def fenced(self) -> int:
        """How often a process found that another one owns its run."""
        return self.output.count(FENCED)

    def web_workers(self) -> list[int]:
        """The worker processes of gunicorn."""
        return children(self.gunicorn.pid)

    def horses(self) -> list[int]:
        """The work-horses that run now."""
        return [pid for worker in self.workers for pid in children(worker.pid)]

    def leases(self) -> Counter[int]:
        """How many runs each process holds a lease of."""
        owners = sa.select(schema.run_table.c.lease_owner).where(
            schema.run_table.c.state == schema.RUNNING
        )
        with self.engine.connect() as connection:
            return Counter(
                int(owner.rpartition(":")[2]) for owner in connection.execute(owners).scalars()
            )

    def supervise(self) -> None:
        """From now on, start again what ended."""
        thread = threading.Thread(target=self._supervise, daemon=True)
        thread.start()

        def end() -> None:
            self._closed.set()
            thread.join()

        self._exits.callback(end)

    def _start(self) -> None:
        directory = Path(tempfile.mkdtemp(prefix="flowroute-chaos-"))
        self._exits.callback(shutil.rmtree, directory)
        self.redis = RedisServer(directory)
        self.redis.start()
        self._exits.callback(self.redis.stop)
        location = self._make_database(directory)
        self._environment = {
            "CHAOS_DATABASE": location,
            "CHAOS_REDIS": self.redis.url,
            "CHAOS_SECRET": secrets.token_hex(),
            "CHAOS_LEASE": str(self._lease_seconds),
            "CHAOS_VARIANT": self._variant,
        }
        self._exits.callback(self._processes.kill_all)
        self.gunicorn = self._web()
        self.workers = [self._worker() for _ in range(WORKERS)]
        wait_until(self._answers, START_SECONDS, what="gunicorn answers", poll_seconds=0.1)
        for worker in self.workers:
            worker.wait_for_line("Listening", START_SECONDS)

    def _make_database(self, directory: Path) -> str:
        if self.database == "sqlite":
            location = f"sqlite:///{directory}/chaos.db"
        else:
            self.postgres = PostgresServer()
            self._exits.callback(self.postgres.remove)
            self.postgres.create()
            self.postgres.start()
            self.name = self.postgres.create_database()
            location = self.postgres.url(self.name)
        # The harness's own connections are not the application's, and are spared.
        options = {"application_name": HARNESS} if self.postgres else {}
        self.engine = sa.create_engine(location, connect_args=options)
        self._exits.callback(self.engine.dispose)
        schema.add_tables(Base.metadata)
        Base.metadata.create_all(self.engine)
        return location

    def _run(self, command: Sequence[str]) -> Process:
        process = self._processes([sys.executable, "-m", *command], env=self._environment, cwd=ROOT)
        self._all.append(process)
        return process

    def _web(self) -> Process:
        options = ["--workers", "2", "--worker-class", "gthread", "--threads", "8"]
        options += ["--bind", f"127.0.0.1:{self.port}", "--timeout", "30", "--keep-alive", "0"]
        options += ["--preload"]  # so that one that was killed is soon replaced
        return self._run(["gunicorn", *options, "tests.faults.chaos.application:create_app()"])

    def _worker(self) -> Process:
        return self._run(["flask", "--app", "tests.faults.chaos.application", "flow", "worker"])

    def _answers(self) -> bool:
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{self.url}/nothing", timeout=2).status_code == 404
        return False

    def _supervise(self) -> None:
        while not self._closed.wait(0.1):
            for number, worker in enumerate(self.workers):
                if worker.returncode is not None:
                    self.workers[number] = self._worker()
                    self.restarts += 1
            if self.gunicorn.returncode is not None:
                self.gunicorn = self._web()
                self.restarts += 1
