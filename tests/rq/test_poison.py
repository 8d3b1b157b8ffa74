"""Steps that harm their worker: bounded attempts, and the others go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.processes import Processes
from tests.rq.application import UNGUARDED, Connected, Grasping, Greeting, Poison, make_engine
from tests.rq.conftest import Workers

if TYPE_CHECKING:
    from pathlib import Path

    from flowroute import Engine

#: Kill a stuck job this long after its timeout in RQ, which is 10 s: 1.5 s after it began.
KILL_SOON = "-8.5"


def test_a_step_that_kills_its_process_has_exactly_its_attempts_and_then_fails(
    engine: Engine, workers: Workers, tmp_path: Path
) -> None:
    tally = tmp_path / "attempts"
    worker = workers.start()
    run = engine.start(Poison(tally=str(tally)).die()).wait(timeout_seconds=40)
    assert run.state == "failed"
    assert tally.read_text().split() == ["1", "2", "3"]
    assert run.error is not None
    assert run.error.attempt == 3
    assert run.record.attempt == 3
    # The worker is none the worse, and nobody tries the step again.
    assert engine.start(Greeting(name="ada").begin()).wait(timeout_seconds=20).state == "done"
    assert worker.returncode is None
    assert tally.read_text().split() == ["1", "2", "3"]


@pytest.mark.slow
def test_a_step_that_takes_its_worker_along_has_exactly_its_attempts_too(
    engine: Engine, workers: Workers, tmp_path: Path
) -> None:
    tally = tmp_path / "attempts"
    run = engine.start(Poison(tally=str(tally)).die())
    for _ in range(3):
        assert workers.start("InlineFlowWorker").wait(30) == -9  # as `kill -9` does to both
    workers.start("InlineFlowWorker")
    assert run.wait(timeout_seconds=40).state == "failed"
    assert tally.read_text().split() == ["1", "2", "3"]


def test_a_step_that_catches_everything_in_a_loop_times_out_all_the_same(
    engine: Engine, workers: Workers, tmp_path: Path
) -> None:
    tally = tmp_path / "attempts"
    worker = workers.start("FlowWorker", KILL_SOON)
    run = engine.start(Grasping(tally=str(tally)).hold()).wait(timeout_seconds=40)
    assert run.state == "failed"
    assert tally.read_text().split() == ["1"]
    worker.wait_for_line("is stuck, killing it|killed by SIGKILL")
    assert engine.start(Greeting(name="ada").begin()).wait(timeout_seconds=20).state == "done"


# -- connections -----------------------------------------------------------------------------------


def who_opened(
    database: str, redis_url: str, process: Processes, root: Path
) -> tuple[int, int, int]:
    """The worker, its work-horse, and which of them opened the connection that the horse uses."""
    with make_engine(database, redis_url) as engine:
        engine.create_all()
        worker = Workers(process, root, database, redis_url).start()
        horse, opened_in = engine.start(Connected().look()).wait(timeout_seconds=60).result
        return worker.pid, horse, opened_in


def test_a_work_horse_does_not_use_its_workers_connections(
    database_url: str, redis_url: str, process: Processes, pytestconfig: pytest.Config
) -> None:
    worker, horse, opened_in = who_opened(database_url, redis_url, process, pytestconfig.rootpath)
    assert horse != worker
    assert opened_in == horse


def test_without_the_guard_a_work_horse_would_use_them(
    sqlite_url: str,
    redis_url: str,
    process: Processes,
    pytestconfig: pytest.Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Shows that the test above would notice. On PostgreSQL both would hang now and then."""
    monkeypatch.setenv(UNGUARDED, "1")
    worker, horse, opened_in = who_opened(sqlite_url, redis_url, process, pytestconfig.rootpath)
    assert horse != worker
    assert opened_in == worker
