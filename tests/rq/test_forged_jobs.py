"""Jobs that somebody else wrote into Redis do nothing, and the worker goes on."""

from __future__ import annotations

import json
import pickle
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flowroute.engine.codec import Codec
from flowroute.engine.identity import new_run_id
from flowroute.rq import RQExecutor
from flowroute.rq.job import FUNCTION, Ticket
from tests.rq.application import SECRET, Greeting, Held
from tests.rq.test_admission import Touch
from tests.waiting import wait_until

if TYPE_CHECKING:
    import redis

    from flowroute import Engine
    from tests.processes import Process
    from tests.rq.conftest import Workers

KINDS = ["FlowWorker", "InlineFlowWorker"]


def connection_of(engine: Engine) -> redis.Redis:
    assert isinstance(engine.executor, RQExecutor)
    return engine.executor.connection


def push(engine: Engine, job_id: str | bytes, data: bytes, **fields: str) -> None:
    """Write a job as RQ does."""
    if isinstance(job_id, str):
        job_id = job_id.encode()
    connection = connection_of(engine)
    written = {"status": "queued", "origin": "flowroute", "timeout": "60", **fields}
    connection.hset(b"rq:job:" + job_id, "data", data)
    for name, value in written.items():
        connection.hset(b"rq:job:" + job_id, name, value)
    connection.rpush("rq:queue:flowroute", job_id)


def waiting(connection: redis.Redis) -> bytes:
    """The only job that waits."""
    (job_id,) = connection.lrange("rq:queue:flowroute", 0, -1)
    assert isinstance(job_id, bytes)
    return job_id


def packed(function: str, *arguments: object) -> bytes:
    return zlib.compress(json.dumps([function, None, arguments, {}]).encode())


def a_job_id() -> str:
    """Of the form of flowroute's own, but for the signature."""
    return f"{Ticket(new_run_id(), 1).text}-{'A' * 43}"


def serves(engine: Engine, worker: Process) -> None:
    """The worker has come to the end of the queue, and works as before."""
    run = engine.start(Greeting(name="after").begin()).wait(timeout_seconds=20)
    assert run.result[0] == "hello after"
    assert worker.returncode is None
    assert "Traceback" not in worker.output
    connection = connection_of(engine)
    wait_until(lambda: not list(connection.scan_iter("rq:job:*")), what="no job is left")
    assert not connection.llen("rq:queue:flowroute")
    assert not connection.llen("rq:queue:flowroute:intermediate")


@pytest.mark.parametrize("kind", KINDS)
def test_jobs_that_are_not_flowroutes_do_nothing_and_are_removed(
    engine: Engine, workers: Workers, tmp_path: Path, kind: str
) -> None:
    touched = tmp_path / "touched"
    touch = f"touch {touched}"
    genuine = Ticket(new_run_id(), 1).sign(Codec([SECRET]))
    forged = Ticket(new_run_id(), 1).sign(Codec(["a guess"]))
    altered = genuine.replace("-1-0-0-", "-2-0-0-")
    hostile: list[tuple[str | bytes, bytes]] = [
        (a_job_id(), pickle.dumps(("os.system", None, (touch,), {}))),
        (a_job_id(), zlib.compress(pickle.dumps(("os.system", None, (touch,), {})))),
        (a_job_id(), pickle.dumps(Touch(touched))),
        (a_job_id(), packed("os.system", touch)),
        ("some-other-job", packed("os.system", touch)),
        (b"\xff\x00", packed("os.system", touch)),
        (forged, packed(FUNCTION, forged)),
        (altered, packed(FUNCTION, altered)),
        (a_job_id(), packed(FUNCTION, genuine)),
        (a_job_id(), packed(FUNCTION, touch)),
        (a_job_id(), packed("flowroute.rq.job.serve", touch)),
        (a_job_id(), b"\x00"),
    ]
    for job_id, data in hostile:
        push(engine, job_id, data)

    worker = workers.start(kind)

    serves(engine, worker)
    assert not touched.exists()
    assert worker.output.count("refused job") == len(hostile)


@pytest.mark.parametrize("kind", KINDS)
def test_a_genuine_job_with_a_callback_added_runs_without_the_callback(
    engine: Engine, workers: Workers, tmp_path: Path, kind: str
) -> None:
    run = engine.start(Greeting(name="ada").begin())
    connection = connection_of(engine)
    job_id = waiting(connection)
    module = tmp_path / "touching.py"
    module.write_text(f"import os; os.system('touch {tmp_path}/touched')\ndef f(*a): pass\n")
    names = ("success_callback_name", "failure_callback_name", "stopped_callback_name")
    connection.hset(b"rq:job:" + job_id, mapping=dict.fromkeys(names, "touching.f"))

    worker = workers.start(kind)

    assert run.wait(timeout_seconds=20).result[0] == "hello ada"
    serves(engine, worker)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_genuine_job_whose_call_was_replaced_advances_its_run_and_nothing_else(
    engine: Engine, workers: Workers, tmp_path: Path, kind: str
) -> None:
    run = engine.start(Greeting(name="ada").begin())
    connection = connection_of(engine)
    job_id = waiting(connection)
    touched = tmp_path / "touched"
    connection.hset(b"rq:job:" + job_id, "data", pickle.dumps(Touch(touched)))

    worker = workers.start(kind)

    assert run.wait(timeout_seconds=20).result[0] == "hello ada"
    serves(engine, worker)
    assert not touched.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_replayed_job_finds_nothing_to_do(
    engine: Engine, workers: Workers, tmp_path: Path, kind: str
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    run = engine.start(Held(gate=str(gate)).hold())
    connection = connection_of(engine)
    job_id = waiting(connection)
    data = connection.hget(b"rq:job:" + job_id, "data")
    assert isinstance(data, bytes)
    worker = workers.start(kind)
    run.wait(timeout_seconds=20)
    checkpoints = run.checkpoints

    for _ in range(3):
        push(engine, job_id, data)

    serves(engine, worker)
    assert worker.output.count("attempt") == 1
    assert run.checkpoints == checkpoints


def test_a_thousand_forged_jobs_hold_nobody_up(engine: Engine, workers: Workers) -> None:
    for _ in range(1000):
        push(engine, a_job_id(), packed("os.system", "true"))

    worker = workers.start()

    serves(engine, worker)


@pytest.mark.parametrize("worker_class", ["rq.Worker", "rq.SimpleWorker"])
def test_a_stock_worker_refuses_forged_tokens_too(
    engine: Engine, workers: Workers, worker_class: str
) -> None:
    run = engine.start(Greeting(name="ada").begin())
    connection_of(engine).flushall()
    for forged in (Ticket(run.id, 1).text, Ticket(run.id, 1).sign(Codec(["a guess"])), run.id):
        push(engine, a_job_id(), packed(FUNCTION, forged), result_ttl="0")

    worker = workers.start_stock("--worker-class", worker_class)

    for _ in range(3):
        worker.wait_for_line("Refused RQ job 'flowroute-")
    # Recovery's own hint, from this process, is what brings the run on.
    run.resume()
    assert run.wait(timeout_seconds=20).result[0] == "hello ada"
    assert worker.output.count("greeting ada") == 1
    assert not list(connection_of(engine).scan_iter("rq:failed:*"))


def test_garbage_in_rqs_registries_does_not_end_the_worker(
    engine: Engine, workers: Workers
) -> None:
    connection = connection_of(engine)
    push(engine, "flowroute-x", packed("os.system", "true"), failure_callback_name="os.system")
    connection.lrem("rq:queue:flowroute", 0, "flowroute-x")
    connection.hset("rq:job:flowroute-x", "status", "started")
    for member in (b"flowroute-x:1", b"\xff", b"nothing"):
        connection.zadd("rq:wip:flowroute", {member: 1})
    connection.rpush("rq:queue:flowroute:intermediate", "flowroute-x", b"\xfe")
    connection.set("rq:finished:flowroute", "not a set")

    worker = workers.start()

    worker.wait_for_line("tidying up RQ's registries failed")
    run = engine.start(Greeting(name="after").begin()).wait(timeout_seconds=20)
    assert run.result[0] == "hello after"
    assert worker.returncode is None
