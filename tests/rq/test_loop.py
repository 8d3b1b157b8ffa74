"""The workers' loop, inside the tests' process: its limits, and what goes wrong around a job."""

from __future__ import annotations

import gc
import logging
import os
import sqlite3
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from redis.connection import Connection
from rq import Worker
from rq.job import Job
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer
from sqlalchemy.exc import OperationalError

from flowroute import Engine
from flowroute.engine.ports import Hint
from flowroute.errors import ConfigurationError, RedisUnreachable, TablesMissing
from flowroute.rq import FlowWorker, InlineFlowWorker, RQExecutor, job
from tests.rq.application import SECRET, Greeting, Held, Relay, make_engine
from tests.waiting import free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowroute.rq.loop import FlowLoop

KINDS: list[type[FlowLoop]] = [FlowWorker, InlineFlowWorker]

pytestmark = pytest.mark.usefixtures("keep_signals")


@pytest.fixture(autouse=True)
def thaw() -> Iterator[None]:
    """Undo what a worker does to its process."""
    yield
    gc.unfreeze()
    job._engine = None  # noqa: SLF001 - there is no way back in a worker


def connection_of(engine: Engine) -> redis.Redis:
    assert isinstance(engine.executor, RQExecutor)
    return engine.executor.connection


def failed_jobs(engine: Engine) -> list[Job]:
    assert isinstance(engine.executor, RQExecutor)
    queue = engine.executor.queue
    ids = FailedJobRegistry(queue=queue).get_job_ids()
    return [Job.fetch(each, queue.connection, JSONSerializer) for each in ids]


def open_pipes() -> set[str]:
    links = [each.readlink().name for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    return {name for name in links if name.startswith("pipe:")}


# -- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_burst_does_all_that_is_queued_and_ends(engine: Engine, kind: type[FlowLoop]) -> None:
    runs = [engine.start(Relay().first()) for _ in range(3)]

    assert kind(engine).work(burst=True) is True

    assert [run.state for run in runs] == ["done"] * 3
    assert kind(engine).work(burst=True) is False


def test_a_burst_recovers_first(engine: Engine) -> None:
    run = engine.start(Greeting(name="ada").begin())
    connection_of(engine).flushall()

    # Recovery repeats a hint when the run has waited for a second.
    wait_until(lambda: InlineFlowWorker(engine).work(burst=True), what="a burst found the run")

    assert run.state == "done"


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_ends_after_as_many_jobs_as_it_may_do(
    engine: Engine, kind: type[FlowLoop]
) -> None:
    runs = [engine.start(Greeting(name=str(n)).begin()) for n in range(3)]

    kind(engine).work(max_jobs=2)

    assert [run.state for run in runs] == ["done", "done", "waiting"]


def test_a_worker_ends_when_it_has_been_idle_for_as_long_as_it_may(engine: Engine) -> None:
    assert InlineFlowWorker(engine, recover_seconds=0.1).work(max_idle_time=1) is False


def test_rqs_scheduler_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="leave out RQ's scheduler"):
        FlowWorker(engine).work(with_scheduler=True)


def test_a_worker_is_listed_while_it_works_and_has_no_thread_beside_its_fork(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = InlineFlowWorker(engine, name="the-worker")
    listed: list[str] = []

    def look(run_id: str, seq: int, _timeout_seconds: float | None) -> bool:
        assert run_id
        assert seq == 1
        listed.extend(each.name for each in Worker.all(connection_of(engine)))
        return True

    monkeypatch.setattr(engine, "advance", look)
    engine.start(Greeting(name="ada").begin())
    worker.work(burst=True)

    assert listed == ["the-worker"]
    assert worker.pubsub_thread is None
    assert Worker.all(connection_of(engine)) == []
    assert "the-worker" not in {each["name"] for each in connection_of(engine).client_list()}


# -- the start -------------------------------------------------------------------------------------


def test_a_worker_for_an_engine_without_rq_says_what_to_do(sqlite_url: str) -> None:
    with (
        Engine(sqlite_url, secret_keys=[SECRET]) as engine,
        pytest.raises(ConfigurationError, match=r"go to the 'thread' executor.*RQExecutor"),
    ):
        FlowWorker(engine)


def test_a_worker_whose_redis_does_not_answer_says_so(sqlite_url: str) -> None:
    with (
        make_engine(sqlite_url, f"redis://:hunter2@127.0.0.1:{free_port()}") as engine,
        pytest.raises(RedisUnreachable, match="does not answer") as caught,
    ):
        FlowWorker(engine)

    assert "hunter2" not in str(caught.value)


def test_a_worker_without_tables_says_so(sqlite_url: str, redis_url: str) -> None:
    with make_engine(sqlite_url, redis_url) as engine, pytest.raises(TablesMissing):
        FlowWorker(engine).work()


def test_a_worker_has_a_connection_of_its_own_with_timeouts_of_its_own(engine: Engine) -> None:
    worker = FlowWorker(engine)

    mine = worker.connection.connection_pool.connection_kwargs
    executors = connection_of(engine).connection_pool.connection_kwargs
    assert worker.connection is not connection_of(engine)
    assert mine["socket_timeout"] == 6
    assert executors["socket_timeout"] == 1
    assert mine["port"] == executors["port"]


# -- what goes wrong around a job ------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_that_the_engine_can_not_do_is_logged_kept_for_people_and_done_later(
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: type[FlowLoop],
) -> None:
    def broken(run_id: str, seq: int, _timeout_seconds: float | None) -> bool:
        raise OperationalError(f"advance {run_id} {seq}", {}, sqlite3.OperationalError("no disk"))

    run = engine.start(Greeting(name="ada").begin())
    with monkeypatch.context() as patch:
        patch.setattr(engine, "advance", broken)
        kind(engine).work(burst=True)

    assert run.state == "waiting"
    (kept,) = failed_jobs(engine)
    reason = kept.latest_result()
    assert reason is not None
    assert reason.exc_string is not None
    if kind is InlineFlowWorker:
        assert "no disk" in caplog.text
        assert "no disk" in reason.exc_string
    else:  # what a forked process logs does not come here
        assert "ended with exit code 1; its log says why" in reason.exc_string
    engine.executor.submit(Hint(run.id, 1, 0, None, "Greeting", "work"))
    kind(engine).work(burst=True)
    assert run.state == "done"


def test_a_fork_that_the_system_refuses_does_not_end_the_worker(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    run = engine.start(Greeting(name="ada").begin())
    worker = FlowWorker(engine)
    pipes = open_pipes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", no_room)
        assert worker.work(burst=True) is True

    assert run.state == "waiting"
    assert len(failed_jobs(engine)) == 1
    assert open_pipes() == pipes


class _Refusing:
    """Lets no pipeline through."""

    asked = 0

    def pipeline(self, *_arguments: Any, **_named: Any) -> object:
        self.asked += 1
        raise redis.ConnectionError("gone")


def test_a_job_that_redis_does_not_take_down_runs_all_the_same(
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    run = engine.start(Held(gate=str(gate)).hold())
    worker = InlineFlowWorker(engine, recover_seconds=0.01)
    worker.register_birth()  # type: ignore[no-untyped-call]  # RQ leaves it untyped
    found = worker.dequeue_job_and_maintain_ttl(None)
    assert found is not None
    refusing = _Refusing()
    monkeypatch.setattr(worker.connection, "pipeline", refusing.pipeline)

    def open_gate() -> None:
        wait_until(lambda: refusing.asked, what="Redis was told")
        gate.touch()

    opener = threading.Thread(target=open_gate)
    opener.start()

    with caplog.at_level(logging.WARNING):
        worker.execute_job(*found)

    opener.join()
    worker.teardown()
    assert run.state == "done"
    assert "start of job" in caplog.text
    assert "not recorded: gone" in caplog.text
    assert worker.executions == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_job_costs_few_redis_commands(engine: Engine, kind: type[FlowLoop]) -> None:
    def used() -> dict[str, int]:
        statistics = connection_of(engine).info("commandstats")
        return {name.removeprefix("cmdstat_"): each["calls"] for name, each in statistics.items()}

    def burst(jobs: int) -> dict[str, int]:
        for _ in range(jobs):
            engine.start(Greeting(name="ada").begin())
        before = used()
        assert kind(engine).work(burst=True) is True
        return {name: calls - before.get(name, 0) for name, calls in used().items()}

    two, five = burst(2), burst(5)

    for_each = {name: (five[name] - two.get(name, 0)) // 3 for name in five}
    assert {name: calls for name, calls in for_each.items() if calls > 0} == {
        # One round trip: what tells of the end and pops the next.
        "lmove": 1,
        "lrem": 1,
        "del": 1,
        "hincrby": 1,
        "hincrbyfloat": 1,
    }


def test_a_job_that_waits_for_another_costs_one_round_trip(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    send: Any = Connection.send_packed_command
    sent: list[object] = []

    def count(self: Any, command: Any, **named: Any) -> None:
        sent.append(command)
        send(self, command, **named)

    def burst(jobs: int) -> int:
        for _ in range(jobs):
            engine.start(Greeting(name="ada").begin())
        sent.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Connection, "send_packed_command", count)
            assert InlineFlowWorker(engine, recover_seconds=600).work(burst=True) is True
        return len(sent)

    burst(1)  # the first of all also does what is done once
    few, many = burst(3), burst(8)
    assert many - few == 5


def in_queue(engine: Engine) -> tuple[int, int]:
    """How many jobs wait in the queue, and how many are with a worker."""
    assert isinstance(engine.executor, RQExecutor)
    queue, connection = engine.executor.queue, connection_of(engine)
    return connection.llen(queue.key), connection.llen(queue.intermediate_queue_key)


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_that_ends_gives_back_the_job_that_it_took_ahead(
    engine: Engine, kind: type[FlowLoop]
) -> None:
    runs = [engine.start(Greeting(name=str(n)).begin()) for n in range(3)]

    kind(engine).work(max_jobs=1)

    assert in_queue(engine) == (2, 0)
    kind(engine).work(max_jobs=1)
    assert [run.state for run in runs] == ["done", "done", "waiting"]  # their order is kept


def test_a_worker_that_is_suspended_gives_back_the_job_that_it_took_ahead(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [engine.start(Greeting(name=str(n)).begin()) for n in range(2)]
    worker = InlineFlowWorker(engine, recover_seconds=0.001)
    advance = engine.advance

    def suspend(run_id: str, seq: int, timeout_seconds: float | None) -> bool:
        connection_of(engine).set("rq:suspended", 1)
        return advance(run_id, seq, timeout_seconds)

    monkeypatch.setattr(engine, "advance", suspend)
    assert worker.work(burst=True) is True

    assert in_queue(engine) == (1, 0)
    assert [run.state for run in runs] == ["done", "waiting"]
