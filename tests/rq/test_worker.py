"""Workers in processes of their own: what they run, and what they survive."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from rq import Worker

from flowroute import Engine, Run
from flowroute.rq import RQExecutor
from tests.rq.application import (
    Deaf,
    Exiting,
    Failing,
    Greeting,
    Held,
    Patient,
    Relay,
    Stuck,
    make_engine,
)
from tests.rq.conftest import Workers
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.processes import Processes
    from tests.services import RedisServer

KINDS = ["FlowWorker", "InlineFlowWorker"]

#: Kill a stuck job this long after its timeout in RQ, which is 10 s: 1.5 s after it began.
KILL_SOON = "-8.5"


def connection_of(engine: Engine) -> redis.Redis:
    assert isinstance(engine.executor, RQExecutor)
    return engine.executor.connection


def keys(engine: Engine, pattern: str) -> list[bytes]:
    return sorted(connection_of(engine).scan_iter(pattern))


def started(gate: Path, attempt: int = 1) -> int:
    """Wait until an attempt of `Held` holds; its process id."""
    file = Path(f"{gate}.{attempt}.started")
    wait_until(lambda: file.exists() and file.read_text(), 20, what=f"attempt {attempt} holds")
    return int(file.read_text())


def alive(pid: int) -> bool:
    """Whether a process lives; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# -- what they run ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_one_process_suspends_is_finished_by_a_worker(
    engine: Engine, workers: Workers, kind: str
) -> None:
    worker = workers.start(kind)

    run = engine.start(Greeting(name="ada").begin()).wait(timeout_seconds=20)

    text, pid = run.result
    assert text == "hello ada"
    assert pid != os.getpid()
    assert (pid == worker.pid) == (kind == "InlineFlowWorker")
    assert [each.executor for each in run.checkpoints] == ["script", "rq", "rq", None]


def test_it_works_on_both_databases(
    database_url: str, redis_url: str, process: Processes, pytestconfig: pytest.Config
) -> None:
    with make_engine(database_url, redis_url) as engine:
        engine.create_all()
        Workers(process, pytestconfig.rootpath, database_url, redis_url).start()
        runs = [engine.start(Greeting(name=str(n)).begin()) for n in range(5)]

        results = [run.wait(timeout_seconds=20).result for run in runs]

        assert [text for text, _ in results] == [f"hello {n}" for n in range(5)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_step_after_a_worker_step_is_a_job_of_its_own(
    engine: Engine, workers: Workers, kind: str
) -> None:
    workers.start(kind, *(["60", "1"] if kind == "FlowWorker" else []))

    first, second = engine.start(Relay().first()).wait(timeout_seconds=20).result

    assert (first == second) == (kind == "InlineFlowWorker")


def test_the_application_is_loaded_once_for_all_jobs(engine: Engine, workers: Workers) -> None:
    worker = workers.start()

    for name in ("ada", "grace", "mary"):
        engine.start(Greeting(name=name).begin()).wait(timeout_seconds=20)

    assert worker.output.count("application loaded") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_step_prints_is_not_lost_when_its_process_ends(
    engine: Engine, workers: Workers, kind: str
) -> None:
    worker = workers.start(kind, buffered=True)

    run = engine.start(Greeting(name="ada").begin()).wait(timeout_seconds=20)

    worker.wait_for_line(rf"greeting ada in {run.result[1]}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_that_ended_leaves_nothing_in_redis(
    engine: Engine, workers: Workers, kind: str
) -> None:
    workers.start(kind)
    engine.start(Greeting(name="ada").begin()).wait(timeout_seconds=20)

    wait_until(lambda: not keys(engine, "rq:job:*"), what="the job is gone")

    assert {key.decode().rpartition(":")[0] for key in keys(engine, "*")} <= {
        "rq",  # rq:queues, rq:workers
        "rq:worker",  # the worker itself
        "rq:workers",  # the workers of the queue
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_that_takes_long_is_in_rqs_registry(
    engine: Engine, workers: Workers, tmp_path: Path, kind: str
) -> None:
    gate = tmp_path / "gate"
    worker = workers.start(kind)
    run = engine.start(Held(gate=str(gate)).hold())
    started(gate)

    wait_until(lambda: keys(engine, "rq:wip:*"), what="the job is listed")

    (listed,) = Worker.all(connection_of(engine))
    assert (listed.pid, listed.get_state()) == (worker.pid, "busy")
    gate.touch()
    assert run.wait(timeout_seconds=20).result == 1
    wait_until(lambda: not keys(engine, "rq:wip:*"), what="the job is listed no more")
    wait_until(
        lambda: [each.get_state() for each in Worker.all(connection_of(engine))] == ["idle"],
        what="the worker is idle",
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_raises_fails_its_run_and_not_its_job(
    engine: Engine, workers: Workers, kind: str
) -> None:
    workers.start(kind)

    run = engine.start(Failing(reason="the bank said no").fail()).wait(timeout_seconds=20)

    assert run.state == "failed"
    assert run.error is not None
    assert run.error.message == "the bank said no"
    wait_until(lambda: not keys(engine, "rq:job:*"), what="the job is gone")
    assert not keys(engine, "rq:failed:*")


@pytest.mark.parametrize("worker_class", ["rq.Worker", "rq.SimpleWorker", "rq.worker.SpawnWorker"])
def test_a_stock_worker_works_too(engine: Engine, workers: Workers, worker_class: str) -> None:
    workers.start_stock("--worker-class", worker_class)

    run = engine.start(Greeting(name="ada").begin()).wait(timeout_seconds=30)

    assert run.result[0] == "hello ada"
    wait_until(lambda: not keys(engine, "rq:job:*"), what="the job is gone")


def test_a_suspended_worker_takes_no_job_until_it_is_resumed(
    engine: Engine, workers: Workers
) -> None:
    connection = connection_of(engine)
    connection.set("rq:suspended", 1)
    worker = workers.start()
    run = engine.start(Greeting(name="ada").begin())
    began = time.monotonic()
    # Several times the second within which recovery repeats the hint.
    wait_until(lambda: time.monotonic() - began > 1.5, what="time passes")
    assert run.state == "waiting"
    assert worker.returncode is None

    connection.delete("rq:suspended")

    assert run.wait(timeout_seconds=20).result[0] == "hello ada"


# -- timeouts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, "rq.Worker", "rq.SimpleWorker"])
def test_a_step_that_swallows_every_exception_still_times_out(
    engine: Engine, workers: Workers, kind: str
) -> None:
    if kind.startswith("rq."):
        worker = workers.start_stock("--worker-class", kind)
    else:
        worker = workers.start(kind)

    run = engine.start(Deaf().sleep()).wait(timeout_seconds=20)

    assert run.state == "failed"
    assert run.error is not None
    assert run.error.type == "StepTimeout"
    assert "swallowed" not in worker.output


@pytest.mark.parametrize("kind", [*KINDS, "rq.Worker", "rq.SimpleWorker"])
def test_the_timeout_of_a_step_does_not_hit_a_later_step_of_the_same_job(
    engine: Engine, workers: Workers, kind: str
) -> None:
    if kind.startswith("rq."):
        workers.start_stock("--worker-class", kind)
    else:
        workers.start(kind, KILL_SOON)

    run = engine.start(Patient(seconds=2.5).quick()).wait(timeout_seconds=20)

    assert run.state == "done", run.error
    assert run.result >= 2.5
    assert run.checkpoints[1].attempt == 1


def test_a_job_that_nothing_can_interrupt_is_killed_by_its_worker(
    engine: Engine, workers: Workers
) -> None:
    worker = workers.start("FlowWorker", KILL_SOON)
    run: Run[str] = engine.start(Stuck().hang())
    pid = int(worker.wait_for_line(r"stuck in (\d+)").group(1))

    worker.wait_for_line("is stuck, killing it")
    worker.wait_for_line("SIGKILL")

    assert not alive(pid)
    assert run.wait(timeout_seconds=20).state == "failed"
    assert engine.start(Greeting(name="ada").begin()).wait(timeout_seconds=20).state == "done"


# -- crashes ---------------------------------------------------------------------------------------


def test_a_job_whose_process_is_killed_is_done_again(
    engine: Engine, workers: Workers, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    worker = workers.start()
    run = engine.start(Held(gate=str(gate)).hold())

    os.kill(started(gate), signal.SIGKILL)
    gate.touch()

    assert run.wait(timeout_seconds=20).result == 2
    worker.wait_for_line("killed by SIGKILL")
    assert worker.returncode is None


def test_a_worker_recovers_other_runs_while_its_job_runs(
    engine: Engine, workers: Workers, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    workers.start()
    held = engine.start(Held(gate=str(gate)).hold())
    started(gate)
    lost = engine.start(Greeting(name="ada").begin())
    connection = connection_of(engine)
    (job_id,) = connection.lrange("rq:queue:flowroute", 0, -1)
    assert isinstance(job_id, bytes)
    connection.delete("rq:queue:flowroute", b"rq:job:" + job_id)

    wait_until(lambda: connection.llen("rq:queue:flowroute"), what="its hint is given again")
    assert held.state == "running"
    gate.touch()

    assert lost.wait(timeout_seconds=20).result[0] == "hello ada"


def test_a_process_that_exits_by_itself_counts_as_crashed(engine: Engine, workers: Workers) -> None:
    worker = workers.start()

    run = engine.start(Exiting().leave()).wait(timeout_seconds=20)

    assert run.result == 2
    worker.wait_for_line("exit code 3")


def test_a_job_whose_worker_is_killed_finishes_once(
    engine: Engine, workers: Workers, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    worker = workers.start()
    run = engine.start(Held(gate=str(gate)).hold())
    started(gate)

    worker.kill()
    workers.start()
    gate.touch()

    assert run.wait(timeout_seconds=20).result == 1
    assert not Path(f"{gate}.2.started").exists()


def test_a_job_is_done_again_when_worker_and_process_are_killed(
    engine: Engine, workers: Workers, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    worker = workers.start()
    run = engine.start(Held(gate=str(gate)).hold())
    started(gate)

    worker.kill_all()
    gate.touch()
    workers.start()

    assert run.wait(timeout_seconds=20).result == 2


def test_a_job_that_a_dying_worker_had_just_popped_is_done(
    engine: Engine, workers: Workers
) -> None:
    run = engine.start(Greeting(name="ada").begin())
    moved = connection_of(engine).lmove("rq:queue:flowroute", "rq:queue:flowroute:intermediate")
    assert moved

    workers.start()

    assert run.wait(timeout_seconds=20).result[0] == "hello ada"
    assert not connection_of(engine).lrange("rq:queue:flowroute:intermediate", 0, -1)


@pytest.mark.parametrize("kind", KINDS)
def test_jobs_that_redis_forgets_are_done(
    own_engine: Engine, own_workers: Workers, redis_server: RedisServer, kind: str
) -> None:
    runs = [own_engine.start(Greeting(name=str(n)).begin()) for n in range(3)]
    redis_server.flush()

    worker = own_workers.start(kind)
    redis_server.flush()

    for number, run in enumerate(runs):
        assert run.wait(timeout_seconds=20).result[0] == f"hello {number}"
    assert worker.returncode is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_survives_a_redis_that_restarts_empty_while_it_is_idle(
    own_engine: Engine, own_workers: Workers, redis_server: RedisServer, kind: str
) -> None:
    worker = own_workers.start(kind)
    redis_server.kill()
    worker.wait_for_line("Redis is away")
    run = own_engine.start(Greeting(name="ada").begin())
    assert run.state == "waiting"

    redis_server.start()
    worker.wait_for_line("Redis is back")

    assert run.wait(timeout_seconds=20).result[0] == "hello ada"
    assert worker.returncode is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_survives_a_redis_that_is_away_while_a_job_runs(
    own_engine: Engine, own_workers: Workers, redis_server: RedisServer, tmp_path: Path, kind: str
) -> None:
    gate = tmp_path / "gate"
    worker = own_workers.start(kind)
    run = own_engine.start(Held(gate=str(gate)).hold())
    started(gate)

    redis_server.kill()
    gate.touch()
    assert run.wait(timeout_seconds=20).result == 1
    worker.wait_for_line("end of job .* not recorded")
    redis_server.start()

    assert own_engine.start(Greeting(name="ada").begin()).wait(timeout_seconds=20).state == "done"
    assert worker.returncode is None


def test_a_worker_survives_a_redis_that_hangs(
    own_engine: Engine, own_workers: Workers, redis_server: RedisServer
) -> None:
    worker = own_workers.start()
    redis_server.freeze()
    worker.wait_for_line("Redis is away")
    redis_server.resume()
    worker.wait_for_line("Redis is back")

    assert own_engine.start(Greeting(name="ada").begin()).wait(timeout_seconds=20).state == "done"
    assert worker.returncode is None


def test_a_worker_that_redis_forgot_is_in_its_list_again(
    own_engine: Engine, own_workers: Workers, redis_server: RedisServer
) -> None:
    worker = own_workers.start()
    wait_until(
        lambda: [each.get_state() for each in Worker.all(connection_of(own_engine))] == ["idle"],
        what="the worker has announced itself",
    )
    redis_server.kill()
    worker.wait_for_line("Redis is away")
    redis_server.start()
    worker.wait_for_line("Redis is back")

    listed = wait_until(lambda: Worker.all(connection_of(own_engine)), what="the worker is listed")

    assert [each.pid for each in listed] == [worker.pid]


# -- the end of a worker ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to_all", [False, True], ids=["worker", "all"])
def test_a_worker_lets_its_job_finish_before_it_ends(
    engine: Engine, workers: Workers, tmp_path: Path, kind: str, *, to_all: bool
) -> None:
    gate = tmp_path / "gate"
    worker = workers.start(kind)
    run = engine.start(Held(gate=str(gate)).hold())
    job_pid = started(gate)

    for pid in {worker.pid, job_pid} if to_all else {worker.pid}:
        os.kill(pid, signal.SIGTERM)  # to all: as service managers do
    worker.wait_for_line("ends after its current job")
    assert worker.returncode is None
    gate.touch()

    assert worker.wait() == 0
    assert run.result == 1
    assert not Worker.all(connection_of(engine))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_worker_ends_soon(workers: Workers, kind: str, number: signal.Signals) -> None:
    worker = workers.start(kind)

    worker.send_signal(number)

    assert worker.wait(5) == 0
    assert "Traceback" not in worker.output


def test_a_worker_ends_while_redis_is_away(own_workers: Workers, redis_server: RedisServer) -> None:
    worker = own_workers.start()
    redis_server.stop()
    worker.wait_for_line("Redis is away")

    worker.terminate()

    assert worker.wait(10) == 0
    assert "its end was not recorded" in worker.output


def test_a_second_signal_takes_the_job_down_and_another_worker_goes_on(
    engine: Engine, workers: Workers, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    worker = workers.start()
    run = engine.start(Held(gate=str(gate)).hold())
    pid = started(gate)
    worker.terminate()
    worker.wait_for_line("ends after its current job")

    def ended() -> bool:
        if worker.returncode is None:
            worker.terminate()  # RQ takes what comes within a second for the same signal
        return worker.returncode is not None

    wait_until(ended, 30, poll_seconds=0.2, what="the worker ends")

    assert not alive(pid)
    gate.touch()
    workers.start()
    assert run.wait(timeout_seconds=20).result == 2
