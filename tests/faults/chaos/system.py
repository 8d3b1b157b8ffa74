"""The real processes under chaos, and a supervisor that starts again what was killed."""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import requests
import sqlalchemy as sa

from flowroute import Engine
from flowroute.engine import schema
from flowroute.rq import RQExecutor
from tests.faults.chaos.flows import SHAPES, Base
from tests.faults.chaos.processes import ROOT, children, send
from tests.processes import Process, Processes
from tests.services import PostgresServer, RedisServer
from tests.waiting import free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

REFUSED: Final = re.compile(r"refused: run (\S+) epoch (\d+)")
"""What a process prints that found its run in other hands; see `variants`."""
ACCEPTED: Final = re.compile(r"accepted: (\S+) (\S+) (\S+)")
"""What the script prints of each run that it started: key, shape and id."""
HARNESS: Final = "chaos harness"
START_SECONDS: Final = 90.0


@dataclass(frozen=True, slots=True)
class Parts:
    """Which processes there are."""

    workers: int = 4
    web: bool = True
    script: bool = True


WHOLE: Final = Parts()
TWO_WORKERS: Final = Parts(workers=2, web=False, script=False)


def taken_over(output: str, ends: Mapping[str, tuple[str, int]]) -> int:
    """Count the refused writes whose run another process had taken over.

    What a cancel had refused is not counted: it ended the run by the very next epoch.

    Args:
        output: what the processes printed.
        ends: state and epoch of each run at its end.
    """
    count = 0
    for run_id, text in REFUSED.findall(output):
        state, epoch = ends[run_id]
        held = int(text)
        count += epoch > held and not (state == schema.CANCELLED and epoch == held + 1)
    return count


class System:
    """gunicorn, flow workers, a script, Redis, a database.

    Args:
        database: sqlite or postgresql.
        parts: which processes there are.
        lease_seconds: how long a silent process keeps its runs.
        variant: how the application breaks the protocol; empty: not at all.
    """

    def __init__(
        self,
        database: str,
        parts: Parts = WHOLE,
        *,
        lease_seconds: float = 2.0,
        variant: str = "",
    ) -> None:
        self.database = database
        self.lease_seconds = lease_seconds
        self.postgres: PostgresServer | None = None
        self.name = ""
        self.gunicorn: Process | None = None
        self.script: Process | None = None
        self.workers: list[Process] = []
        self._parts = parts
        self._variant = variant
        self._exits = ExitStack()
        self._processes = Processes()
        self._all: list[Process] = []
        self._closed = threading.Event()
        self._supervising = threading.Lock()
        self.port = free_port()
        self.restarts = 0
        self.broken: list[str] = []
        """What only the harness sees: a process that ended by itself, a supervisor that failed."""

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

    def fenced(self) -> int:
        """How often a write was refused because another process had taken the run over."""
        table = schema.run_table.c
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(table.id, table.state, table.epoch))
            return taken_over(self.output, {row.id: (row.state, row.epoch) for row in rows})

    def started_by_script(self) -> list[tuple[str, str, str]]:
        """Key, shape and id of each run that the script was told to have started."""
        return [(key, shape, run_id) for key, shape, run_id in ACCEPTED.findall(self.output)]

    def web_workers(self) -> list[int]:
        """The worker processes of gunicorn."""
        return [] if self.gunicorn is None else children(self.gunicorn.pid)

    def horses(self) -> list[int]:
        """The work-horses that there are: at work, and those that wait for the next job."""
        return [pid for worker in self.workers for pid in children(worker.pid)]

    def holder(self, run_id: str) -> int:
        """The process that holds the lease of a run; 0: none does."""
        table = schema.run_table.c
        owner = sa.select(table.lease_owner).where(
            table.id == run_id, table.state == schema.RUNNING
        )
        with self.engine.connect() as connection:
            name = connection.execute(owner).scalar_one_or_none()
        return int(name.rpartition(":")[2]) if name else 0

    def leases(self) -> Counter[int]:
        """How many runs each process holds a lease of."""
        owners = sa.select(schema.run_table.c.lease_owner).where(
            schema.run_table.c.state == schema.RUNNING
        )
        with self.engine.connect() as connection:
            return Counter(
                int(owner.rpartition(":")[2]) for owner in connection.execute(owners).scalars()
            )

    def start_run(self, shape: str, key: str) -> str:
        """Start a run from here; its first step is a worker step, which this process leaves alone.

        Returns:
            Its id.
        """
        flow: Any = SHAPES[shape]()
        return self._starter.start(flow.begin(), key=key).id

    def supervise(self) -> None:
        """From now on, start again what ended."""
        thread = threading.Thread(target=self._supervise, daemon=True)
        thread.start()

        def end() -> None:
            self._closed.set()
            thread.join()

        self._exits.callback(end)

    def restart_everything(self) -> None:
        """Kill every process and server at once, then start them all again."""
        with self._supervising:
            for process in self._everybody():
                for pid in (process.pid, *children(process.pid)):
                    send(pid, signal.SIGKILL)
            if self.redis.running:
                self.redis.kill()
            if self.postgres is not None:
                self.postgres.stop_at_once()
                self.postgres.start()
            self.redis.start()
            for process in self._everybody():
                process.wait()
            self._start_processes()
            self.restarts += 1

    def terminate_connections(self, most: int | None = None) -> int:
        """Terminate connections of the processes to PostgreSQL, all or some at random.

        Returns:
            How many.
        """
        if self.postgres is None:
            return 0
        query = (
            "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity "
            "WHERE datname = %s AND application_name <> %s ORDER BY random() LIMIT %s) AS chosen"
        )
        with self.postgres.connect() as connection:
            row = connection.execute(query, [self.name, HARNESS, most]).fetchone()
        return 0 if row is None else int(row[0])

    def let_script_start_nothing(self) -> None:
        """The script only works on from now on."""
        self._script_may.unlink(missing_ok=True)

    def _start(self) -> None:
        directory = Path(tempfile.mkdtemp(prefix="flowroute-chaos-"))
        self._exits.callback(shutil.rmtree, directory)
        self.redis = RedisServer(directory)
        self.redis.start()
        self._exits.callback(self.redis.stop)
        location = self._make_database(directory)
        place = directory / "script"
        place.touch()
        self._script_may = place.with_suffix(".go")
        self._script_may.touch()
        secret = secrets.token_hex()
        self._environment = {
            "CHAOS_DATABASE": location,
            "CHAOS_REDIS": self.redis.url,
            "CHAOS_SECRET": secret,
            "CHAOS_LEASE": str(self.lease_seconds),
            "CHAOS_VARIANT": self._variant,
            "CHAOS_SCRIPT": str(place),
        }
        self._starter = Engine(
            self.engine, executor=RQExecutor(self.redis.url), secret_keys=[secret]
        )
        self._exits.callback(self._starter.close)
        self._exits.callback(self._processes.kill_all)
        self._start_processes()
        if self._parts.web:
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
        self.engine = sa.create_engine(location, connect_args=options, pool_pre_ping=True)
        self._exits.callback(self.engine.dispose)
        schema.add_tables(Base.metadata)
        Base.metadata.create_all(self.engine)
        return location

    def _everybody(self) -> list[Process]:
        singles = [each for each in (self.gunicorn, self.script) if each is not None]
        return [*singles, *self.workers]

    def _start_processes(self) -> None:
        if self._parts.web:
            self.gunicorn = self._web()
        self.workers = [self._worker() for _ in range(self._parts.workers)]
        if self._parts.script:
            self.script = self._run(["tests.faults.chaos.script"])

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

    # -- the supervisor ----------------------------------------------------------------------------

    def _supervise(self) -> None:
        try:
            while not self._closed.wait(0.1):
                with self._supervising:
                    self._replace_what_ended()
        except Exception as error:  # noqa: BLE001 - without it, faults would find nothing to break
            self.broken.append(f"the supervisor gave up: {error!r}")

    def _replace_what_ended(self) -> None:
        for number, worker in enumerate(self.workers):
            if self._has_ended(worker, "Listening"):
                self.workers[number] = self._worker()
        if self.gunicorn is not None and self._has_ended(self.gunicorn, "Booting worker"):
            self.gunicorn = self._web()
        if self.script is not None and self._has_ended(self.script, "accepted"):
            self.script = self._run(["tests.faults.chaos.script"])

    def _has_ended(self, process: Process, up: str) -> bool:
        """Whether it has; one that was up, and was not killed, has no reason to."""
        code = process.returncode
        if code is None:
            return False
        self.restarts += 1
        if code != -signal.SIGKILL and up in process.output:
            last = process.output.strip().rpartition("\n")[2]
            self.broken.append(f"{process.command[2]} ended by itself with {code}: {last}")
        return True
