"""A worker dies in the middle of a step while another one lives: how long until the run goes on."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import rq

from tests.faults.chaos.processes import ROOT, children, send
from tests.faults.chaos.situations import kill_worker_and_horse
from tests.faults.chaos.system import TWO_WORKERS, System
from tests.faults.page import RAW, RAW_BOUND
from tests.faults.report import Report
from tests.processes import Processes
from tests.services import RedisServer
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.processes import Process

LEASES: Final = (2.0, 30.0)
"""The lease of the campaigns, and the one that users have who set none."""
MARGIN_SECONDS: Final = 5.0
"""How long after its lease a dead worker's run may take to go on."""
RAW_SECONDS: Final = 120.0
"""How long RQ alone is waited for."""


def dead_worker(database: str, *, lease_seconds: float, system: System | None = None) -> Report:
    """Kill a worker and its work-horse in a worker step; a run that goes on too late is `broken`.

    Args:
        database: sqlite or postgresql.
        lease_seconds: how long a silent process keeps its runs.
        system: one that runs already, with this lease and two workers or more; None: a new one.
    """
    report = Report("dead worker", database, 0, points=1, injected=1)
    with ExitStack() as exits:
        if system is None:
            system = exits.enter_context(System(database, TWO_WORKERS, lease_seconds=lease_seconds))
        goes_on = kill_worker_and_horse(system, f"dead worker {time.monotonic()}")
        seconds = _seconds_until_done(goes_on, lease_seconds + 60)
    report.notes["lease seconds"] = lease_seconds
    if seconds is None:
        report.stuck.append(f"the run did not go on within {lease_seconds + 60:g} s")
        return report
    report.heal_seconds.append(seconds)
    report.notes["goes on after seconds"] = round(seconds, 2)
    if seconds > lease_seconds + MARGIN_SECONDS:
        report.broken.append(f"the run went on after {seconds:.1f} s, lease {lease_seconds:g} s")
    return report


def dead_workers(database: str, *, raw: bool) -> list[Report]:
    """The same with each of `LEASES`.

    Args:
        database: sqlite or postgresql.
        raw: also do it to RQ alone; its figure goes to the notes of the longest lease.
    """
    with ThreadPoolExecutor() as pool:  # they do little but wait
        alone = pool.submit(raw_rq_heals) if raw else None
        # One after another, for they start processes.
        reports = [dead_worker(database, lease_seconds=lease) for lease in LEASES]
        if alone is not None:
            seconds = alone.result()
            reports[-1].notes[RAW] = None if seconds is None else round(seconds, 2)
            reports[-1].notes[RAW_BOUND] = RAW_SECONDS
    return reports


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
        return _seconds_until_done(lambda: times() > 1, RAW_SECONDS)


def _seconds_until_done(done: Callable[[], bool], most: float) -> float | None:
    began = time.monotonic()
    try:
        wait_until(done, most, poll_seconds=0.05)
    except AssertionError:
        return None
    return time.monotonic() - began


def _kill_busy(workers: list[Process]) -> None:
    """SIGKILL the worker of RQ alone that has a work-horse, with it."""
    (busy,) = [each.pid for each in workers if children(each.pid)]
    for pid in (busy, *children(busy)):
        send(pid, signal.SIGKILL)
