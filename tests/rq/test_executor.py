"""The executor: what it puts into Redis, how it repeats a hint, and how it fails."""

from __future__ import annotations

import json
import os
import time
import zlib
from typing import TYPE_CHECKING, Any, cast

import pytest
import redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from flowroute import Engine
from flowroute.engine.codec import Codec
from flowroute.engine.identity import new_run_id
from flowroute.engine.ports import Hint
from flowroute.errors import ConfigurationError, FlowrouteError, RedisUnreachable
from flowroute.rq import RQExecutor, connections, executor
from flowroute.rq.job import FUNCTION, Ticket
from tests.rq.application import SECRET
from tests.waiting import free_port, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services import RedisServer

QUEUE = "rq:queue:flowroute"
INTERMEDIATE = "rq:queue:flowroute:intermediate"


def hint(attempt: int = 0, timeout_seconds: float | None = None) -> Hint:
    return Hint(new_run_id(), 3, attempt, timeout_seconds, "Checkout", "charge")


def attached(redis_url: str | redis.Redis, directory: Path) -> RQExecutor:
    made = RQExecutor(redis_url)
    Engine(f"sqlite:///{directory / 'x.db'}", executor=made, secret_keys=[SECRET])
    return made


@pytest.fixture
def rq_executor(engine: Engine) -> RQExecutor:
    assert isinstance(engine.executor, RQExecutor)
    return engine.executor


def job_of(rq_executor: RQExecutor, given: Hint) -> Job:
    return Job.fetch(id_of(given), rq_executor.connection, JSONSerializer)


def id_of(given: Hint) -> str:
    """The id of the job for a hint."""
    ticket = Ticket(given.run_id, given.seq, given.attempt, given.timeout_seconds)
    return ticket.sign(Codec([SECRET]))


def queued(rq_executor: RQExecutor) -> list[bytes]:
    return cast("list[bytes]", rq_executor.connection.lrange(QUEUE, 0, -1))


# -- the job ---------------------------------------------------------------------------------------


def test_a_job_names_one_function_and_carries_a_signed_run_and_seq_and_nothing_else(
    engine: Engine, rq_executor: RQExecutor
) -> None:
    given = hint()

    rq_executor.submit(given)

    raw = rq_executor.connection.hget(f"rq:job:{id_of(given)}", "data")
    assert isinstance(raw, bytes)
    function, instance, (argument,), named = json.loads(zlib.decompress(raw))
    assert (function, instance, named) == ("flowroute.rq.job.advance", None, {})
    assert function == FUNCTION
    assert argument == id_of(given)
    ticket = Ticket(given.run_id, 3, given.attempt, given.timeout_seconds)
    assert Ticket.read(argument, engine.codec) == ticket


def test_a_job_id_names_run_seq_attempt_and_timeout_in_milliseconds_and_is_signed(
    rq_executor: RQExecutor,
) -> None:
    given = hint(attempt=2, timeout_seconds=20.5)

    rq_executor.submit(given)

    (job_id,) = queued(rq_executor)
    text = f"flowroute-{given.run_id}-3-2-20500-"
    assert job_id.decode().startswith(text)
    assert len(job_id) == len(text) + 43  # HMAC-SHA256, as base64


def test_a_job_leaves_no_result_is_not_retried_by_rq_and_is_forgotten_soon_when_it_fails(
    rq_executor: RQExecutor,
) -> None:
    given = hint()

    rq_executor.submit(given)

    job = job_of(rq_executor, given)
    assert job.result_ttl == 0
    assert job.retries_left is None
    assert job.failure_ttl == 600
    assert job.description == f"Checkout.charge of run {given.run_id}"


@pytest.mark.parametrize(
    ("seconds", "timeout"), [(None, -1), (0.2, 10), (10.0, 10), (10.2, 11), (300.0, 300)]
)
def test_the_timeout_of_the_step_is_the_jobs_in_whole_seconds_and_at_least_ten(
    rq_executor: RQExecutor, seconds: float | None, timeout: int
) -> None:
    given = hint(timeout_seconds=seconds)

    rq_executor.submit(given)

    assert job_of(rq_executor, given).timeout == timeout


def test_a_hint_costs_few_redis_commands_in_one_round_trip(rq_executor: RQExecutor) -> None:
    rq_executor.submit(hint())  # asks for the server's version and loads a script, once
    statistics = rq_executor.connection.info("commandstats")
    before = {name: each["calls"] for name, each in statistics.items()}

    rq_executor.submit(hint())

    after = rq_executor.connection.info("commandstats")
    used = {
        name.removeprefix("cmdstat_"): each["calls"] - before.get(name, 0)
        for name, each in after.items()
        if each["calls"] != before.get(name, 0)
    }
    del used["info"]
    # What a script calls is no round trip.
    assert used == {
        "evalsha": 1,
        "exists": 1,
        "hset": 1,
        "rpush": 1,
    }


# -- the same hint again ---------------------------------------------------------------------------


def test_a_repeated_hint_for_a_job_that_still_waits_adds_nothing(rq_executor: RQExecutor) -> None:
    given = hint()
    rq_executor.submit(given)
    before = job_of(rq_executor, given).enqueued_at
    rq_executor.submit(hint())

    rq_executor.submit(given)

    assert len(queued(rq_executor)) == 2
    assert job_of(rq_executor, given).enqueued_at == before


def test_the_next_attempt_is_another_job(rq_executor: RQExecutor) -> None:
    first = hint(attempt=0)
    rq_executor.submit(first)

    rq_executor.submit(Hint(first.run_id, 3, 1, None, "Checkout", "charge"))

    assert len(queued(rq_executor)) == 2


def test_a_repeated_hint_replaces_a_job_that_a_dead_worker_had_popped(
    rq_executor: RQExecutor,
) -> None:
    given = hint()
    rq_executor.submit(given)
    popped = rq_executor.connection.lmove(QUEUE, INTERMEDIATE)

    rq_executor.submit(given)

    assert queued(rq_executor) == [popped]
    assert not rq_executor.connection.exists(INTERMEDIATE)
    assert job_of(rq_executor, given).get_status() == JobStatus.QUEUED


@pytest.mark.parametrize(
    "status", [JobStatus.STARTED, JobStatus.FAILED, JobStatus.FINISHED, JobStatus.STOPPED]
)
def test_a_repeated_hint_replaces_a_job_that_is_no_longer_queued(
    rq_executor: RQExecutor, status: JobStatus
) -> None:
    given = hint()
    rq_executor.submit(given)
    rq_executor.connection.delete(QUEUE)
    job_of(rq_executor, given).set_status(status)

    rq_executor.submit(given)

    assert len(queued(rq_executor)) == 1
    assert job_of(rq_executor, given).get_status() == JobStatus.QUEUED


def test_a_repeated_hint_is_queued_when_the_queue_was_lost_and_the_job_was_not(
    rq_executor: RQExecutor,
) -> None:
    given = hint()
    rq_executor.submit(given)
    rq_executor.connection.delete(QUEUE)

    rq_executor.submit(given)

    assert len(queued(rq_executor)) == 1


def test_something_else_under_the_id_of_a_job_does_not_block_it(rq_executor: RQExecutor) -> None:
    given = hint()
    rq_executor.connection.set(f"rq:job:flowroute-{given.run_id}-3-0", "in the way")

    rq_executor.submit(given)

    assert len(queued(rq_executor)) == 1
    assert job_of(rq_executor, given).get_status() == JobStatus.QUEUED


# -- a Redis that is not there ---------------------------------------------------------------------


def test_a_refused_connection_fails_at_once_and_shows_no_password(tmp_path: Path) -> None:
    port = free_port()
    down = attached(f"redis://user:hunter2@127.0.0.1:{port}/4?client_name=x", tmp_path)
    began = time.monotonic()

    with pytest.raises(RedisUnreachable) as caught:
        down.submit(hint())

    assert time.monotonic() - began < 0.5
    assert f"redis://127.0.0.1:{port}/4 does not answer" in str(caught.value)
    assert "Start it, or correct the Redis URL." in str(caught.value)
    assert "hunter2" not in str(caught.value) + str(caught.value.__cause__) + repr(down)


def test_a_redis_that_hangs_is_given_up_within_two_seconds_and_then_not_asked_for_a_while(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "SILENCE_SECONDS", 0.5)
    hanging = attached(redis_server.url, tmp_path)
    hanging.submit(hint())
    redis_server.freeze()

    began = time.monotonic()
    with pytest.raises(RedisUnreachable):
        hanging.submit(hint())
    assert time.monotonic() - began < 1.8

    began = time.monotonic()
    with pytest.raises(RedisUnreachable, match="a moment ago"):
        hanging.submit(hint())
    assert time.monotonic() - began < 0.1

    redis_server.resume()
    given = hint()

    def taken() -> bool:
        try:
            hanging.submit(given)
        except RedisUnreachable:
            return False
        return True

    wait_until(taken, 5, what="the hint is taken again")


def test_a_redis_that_restarts_is_found_again_by_the_next_hint(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    found = attached(redis_server.url, tmp_path)
    found.submit(hint())
    redis_server.kill()
    redis_server.start()

    found.submit(hint())

    assert len(queued(found)) == 1


def test_a_redis_that_refuses_a_command_is_named(redis_server: RedisServer, tmp_path: Path) -> None:
    refused = attached(redis_server.url, tmp_path)
    with redis_server.client() as client:
        client.set(QUEUE, "not a list")

    with pytest.raises(RedisUnreachable, match=r"refused a command \(.*WRONGTYPE"):
        refused.submit(hint())


def test_the_check_names_a_redis_that_does_not_answer() -> None:
    port = free_port()

    with pytest.raises(RedisUnreachable, match=rf"redis://127\.0\.0\.1:{port}/0 does not answer"):
        RQExecutor(f"redis://:hunter2@127.0.0.1:{port}").ping()


def test_the_check_says_that_the_password_is_wrong(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.config_set("requirepass", "right")
    url = redis_server.url.replace("redis://", "redis://:wrong@")

    with pytest.raises(RedisUnreachable, match="refused user or password") as caught:
        RQExecutor(url).ping()

    assert "wrong@" not in str(caught.value)
    RQExecutor(url.replace("wrong", "right")).ping()
    with redis.Redis.from_url(url.replace("wrong", "right")) as client:
        client.config_set("requirepass", "")


def test_the_check_refuses_a_server_that_loses_popped_jobs() -> None:
    class OldRedis(redis.Redis):
        def info(self, section: str | None = None, *_: str, **__: Any) -> dict[str, Any]:
            assert section == "server"
            return {"redis_version": "6.0.16"}

    with pytest.raises(ConfigurationError, match=r"version 6\.0\.16; flowroute needs 6\.2"):
        RQExecutor(OldRedis()).ping()


# -- connections -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://localhost", "redis://localhost:6379/0"),
        ("redis://:hunter2@cache.example:6380/2", "redis://cache.example:6380/2"),
        ("redis://user:hunter2@[::1]:6380", "redis://[::1]:6380/0"),
        ("rediss://:hunter2@cache.example/1", "rediss://cache.example:6379/1"),
        ("unix:///run/redis.sock?db=3&password=hunter2", "unix:///run/redis.sock?db=3"),
        ("redis://cache.example?password=hunter2", "redis://cache.example:6379/0"),
    ],
)
def test_a_server_is_named_without_its_password(url: str, name: str) -> None:
    assert connections.describe(connections.connect(url)) == name


@pytest.mark.parametrize(
    "url",
    ["cache.example:6379", "http://:hunter2@cache.example", "redis://:hun/ter2@cache.example:1"],
)
def test_a_url_of_something_else_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="not the URL of a Redis") as caught:
        RQExecutor(url)

    assert "hun" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_client_that_decodes_is_refused(redis_url: str) -> None:
    with pytest.raises(ConfigurationError, match="without decode_responses"):
        RQExecutor(redis.Redis.from_url(redis_url, decode_responses=True))


@pytest.mark.parametrize("name", ["", " flows", "a,b"])
def test_a_queue_name_that_rq_would_read_otherwise_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="can not name a queue"):
        RQExecutor("redis://localhost", queue=name)


def test_a_client_that_was_given_is_used_and_not_closed(redis_url: str, tmp_path: Path) -> None:
    with redis.Redis.from_url(redis_url, client_name="mine") as client:
        given = attached(client, tmp_path)

        given.submit(hint())
        given.close()

        assert given.connection is client
        assert client.client_getname() in {"mine", b"mine"}
        assert client.connection_pool._in_use_connections == set()  # noqa: SLF001


def test_a_fork_shares_no_connection_with_its_parent(rq_executor: RQExecutor) -> None:
    connection = rq_executor.connection
    parents = connection.client_id()
    reading, writing = os.pipe()

    child = os.fork()
    if child == 0:
        try:
            rq_executor.submit(hint())
            os.write(writing, str(connection.client_id()).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)

    childs = int(os.read(reading, 100))
    os.close(reading)
    os.close(writing)
    assert childs != parents
    assert connection.client_id() == parents
    rq_executor.submit(hint())
    assert len(queued(rq_executor)) == 2


def test_another_queue_is_another_queue(engine: Engine, redis_url: str, tmp_path: Path) -> None:
    del engine
    other = RQExecutor(redis_url, queue="shop")
    with Engine(f"sqlite:///{tmp_path / 'y.db'}", executor=other, secret_keys=[SECRET]):
        other.submit(hint())

        assert Queue("shop", connection=other.connection).count == 1
        assert not queued(other)


# -- its engine ------------------------------------------------------------------------------------


def test_an_executor_without_an_engine_says_so(redis_url: str) -> None:
    with pytest.raises(FlowrouteError, match="has no engine yet"):
        RQExecutor(redis_url).submit(hint())


def test_an_executor_belongs_to_one_engine(rq_executor: RQExecutor, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="belongs to another engine"):
        Engine(f"sqlite:///{tmp_path / 'z.db'}", executor=rq_executor, secret_keys=[SECRET])
