"""A worker dies in the middle of a step while another one lives: how long until the run goes on."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import requests
import rq
import sqlalchemy as sa

from flowroute.engine.schema import RUNNING, run_table
from tests.faults.chaos.load import JSON
from tests.faults.chaos.system import ROOT, System, children, send
from tests.faults.report import Report
from tests.processes import Processes
from tests.services import RedisServer
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.processes import Process

MARGIN_SECONDS: Final = 5.0
"""How long after its lease a dead worker's run may take to go on."""
RAW_SECONDS: Final = 120.0
"""How long RQ alone is waited for."""


def dead_worker_heals(database: str, *, lease_seconds: float) -> float:
    """Kill a worker and its work-horse in the middle of a worker step.

    Args:
        database: sqlite or postgresql.
        lease_seconds: how long a silent process keeps its runs.

    Returns:
        Seconds from the kill until another worker has begun the step again.

    Raises:
        AssertionError: none did within the lease and 60 s.
    """
    with System(database, lease_seconds=lease_seconds) as system:
        answer = requests.post(f"{system.url}/start/Slow/directed", headers=JSON, timeout=30)
        run_id = answer.json()["id"]

        def reached(attempt: int) -> bool:
            with system.engine.connect() as connection:
                row = connection.execute(sa.select(run_table).where(run_table.c.id == run_id)).one()
            return bool(row.attempt == attempt and row.state == RUNNING)

        wait_until(lambda: reached(1), 30, what="a worker has begun the step", poll_seconds=0.02)
        _kill_busy(system.workers)
        began = time.monotonic()
        wait_until(
            lambda: reached(2),
            lease_seconds + 60,
            what="another worker has begun the step again",
            poll_seconds=0.02,
        )
        return time.monotonic() - began


def dead_worker(database: str, *, lease_seconds: float) -> Report:
    """The same as a report, in which a run that goes on too late is among `broken`.

    Args:
        database: sqlite or postgresql.
        lease_seconds: how long a silent process keeps its runs.
    """
    seconds = dead_worker_heals(database, lease_seconds=lease_seconds)
    report = Report("dead worker", database, 0, points=1, injected=1, heal_seconds=[seconds])
    report.notes |= {"lease seconds": lease_seconds, "goes on after seconds": seconds}
    if seconds > lease_seconds + MARGIN_SECONDS:
        report.broken.append(f"the run went on after {seconds:.1f} s, lease {lease_seconds:g} s")
    return report


def slow_job(path: str) -> None:
    """A job for RQ alone: says that it has begun, and takes its time."""
    with Path(path).open("a", encoding="ascii") as file:
        file.write("begun\n")
    time.sleep(5)


def raw_rq_heals() -> float | None:
    """Do the same to a stock RQ worker, whose job may be tried again.

    Returns:
        Seconds from the kill until the job has begun again; None: not within `RAW_SECONDS`.
    """
    with ExitStack() as exits:
        directory = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="flowroute-rq-")))
        server = RedisServer(directory)
        server.start()
        exits.callback(server.stop)
        processes = Processes()
        exits.callback(processes.kill_all)
        command = [sys.executable, "-m", "rq.cli", "worker", "--url", server.url]
        workers = [processes(command, cwd=ROOT) for _ in range(2)]
        for worker in workers:
            worker.wait_for_line("Listening on", 60)
        begun = directory / "begun"
        begun.touch()
        with server.client() as client:
            queue = rq.Queue(connection=client)
            queue.enqueue(slow_job, str(begun), retry=rq.Retry(max=3))

        def times() -> int:
            return begun.read_text(encoding="ascii").count("begun")

        wait_until(lambda: times() == 1, 30, what="the job has begun", poll_seconds=0.02)
        _kill_busy(workers)
        began = time.monotonic()
        while time.monotonic() - began < RAW_SECONDS:
            if times() > 1:
                return time.monotonic() - began
            time.sleep(0.1)
    return None


def _kill_busy(workers: list[Process]) -> None:
    """SIGKILL the worker that has a work-horse, with it."""
    (busy,) = [each.pid for each in workers if children(each.pid)]
    for pid in (busy, *children(busy)):
        send(pid, signal.SIGKILL)
