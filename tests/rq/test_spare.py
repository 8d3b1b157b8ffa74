"""The process that a worker forks ahead of its jobs, and keeps for many of them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

from flowroute.errors import ConfigurationError
from flowroute.rq import FlowWorker
from tests.rq.application import Greeting, Held, make_engine
from tests.rq.conftest import Workers
from tests.waiting import wait_until

if TYPE_CHECKING:
    from typing import LiteralString

    from flowroute import Engine
    from tests.processes import Process, Processes
    from tests.services import PostgresServer


def spare_of(worker: Process) -> int:
    """The one process that the worker has forked, once it is there."""
    found = wait_until(worker.descendants, 10, what="the worker has forked ahead")
    assert len(found) == 1
    return found[0]


def pid_of_greeting(engine: Engine) -> int:
    """Run a job; the process that it ran in."""
    pid: int = engine.start(Greeting(name="ada").begin()).wait(timeout_seconds=20).result[1]
    return pid


def test_a_job_runs_in_a_process_that_waited_for_it(engine: Engine, workers: Workers) -> None:
    worker = workers.start()
    spare = spare_of(worker)

    assert pid_of_greeting(engine) == spare


def test_a_process_does_one_job_after_another(engine: Engine, workers: Workers) -> None:
    worker = workers.start()
    spare = spare_of(worker)

    assert {pid_of_greeting(engine) for _ in range(4)} == {spare}


def test_each_job_has_a_process_of_its_own_if_one_is_asked_for(
    engine: Engine, workers: Workers
) -> None:
    workers.start("FlowWorker", "60", "1")

    assert len({pid_of_greeting(engine) for _ in range(4)}) == 4


def test_a_process_that_has_done_its_jobs_makes_way_for_a_fresh_one(
    engine: Engine, workers: Workers
) -> None:
    worker = workers.start("FlowWorker", "60", "2")

    first, second, third, fourth = [pid_of_greeting(engine) for _ in range(4)]

    assert first == second != third == fourth
    wait_until(lambda: first not in worker.descendants(), 10, what="the first has ended")


def test_a_job_that_kills_its_process_leaves_the_next_one_a_fresh_one(
    engine: Engine, workers: Workers, tmp_path: Path
) -> None:
    worker = workers.start()
    before = pid_of_greeting(engine)
    gate = tmp_path / "gate"
    run = engine.start(Held(gate=str(gate)).hold())
    wait_until(Path(f"{gate}.1.started").exists, 20, what="the step holds")
    os.kill(before, signal.SIGKILL)

    after = pid_of_greeting(engine)

    assert after != before
    worker.wait_for_line("it was killed by SIGKILL")
    engine.get(run.id).cancel()


def test_a_process_does_at_least_one_job(engine: Engine) -> None:
    with pytest.raises(ConfigurationError, match="jobs_per_process=0"):
        FlowWorker(engine, jobs_per_process=0)


def test_a_waiting_process_that_was_killed_is_replaced(engine: Engine, workers: Workers) -> None:
    worker = workers.start()
    spare = spare_of(worker)
    os.kill(spare, signal.SIGKILL)

    assert pid_of_greeting(engine) != spare

    assert worker.returncode is None


def test_a_waiting_process_ends_with_its_worker_that_was_killed(workers: Workers) -> None:
    worker = workers.start()
    spare_of(worker)

    worker.kill()

    wait_until(lambda: not worker.descendants(), 10, what="the waiting process has ended too")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_waiting_process_ends_with_its_worker_that_was_asked_to(
    workers: Workers, number: signal.Signals
) -> None:
    worker = workers.start()
    spare = spare_of(worker)
    for pid in (worker.pid, spare):  # as service managers do
        os.kill(pid, number)

    assert worker.wait(5) == 0
    assert not worker.descendants()


def test_a_worker_that_ends_after_its_job_forks_no_further(
    engine: Engine, workers: Workers, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    worker = workers.start()
    run = engine.start(Held(gate=str(gate)).hold())
    wait_until(Path(f"{gate}.1.started").exists, 20, what="the step holds")
    worker.terminate()
    worker.wait_for_line("ends after its current job")
    gate.touch()

    assert worker.wait() == 0

    assert run.result == 1
    assert not worker.descendants()


@pytest.mark.postgres
def test_a_connection_that_the_server_closed_while_it_waited_fails_no_job(
    postgres_server: PostgresServer,
    postgres_url: str,
    redis_url: str,
    process: Processes,
    pytestconfig: pytest.Config,
) -> None:
    with make_engine(postgres_url, redis_url) as engine:
        engine.create_all()
        worker = Workers(process, pytestconfig.rootpath, postgres_url, redis_url).start()
        engine.database.engine.dispose()
        name = postgres_url.rpartition("/")[2].partition("?")[0]
        administrator = postgres_server.url("postgres").replace("+psycopg", "")
        with psycopg.connect(administrator, autocommit=True) as server:

            def count(what: LiteralString) -> int:
                """Count the connections to the database, or what is done to each."""
                query = sql.SQL("SELECT count({}) FROM pg_stat_activity WHERE datname = {}")
                row = server.execute(query.format(sql.SQL(what), name)).fetchone()
                assert row is not None
                return int(row[0])

            # The worker's own, with which it recovers, and the one of the process that waits.
            wait_until(lambda: count("*") == 2, 10, what="both are connected")
            assert count("pg_terminate_backend(pid)") == 2
            spare = spare_of(worker)

            assert pid_of_greeting(engine) == spare

    assert "the job of run" not in worker.output  # failed
