"""What a worker accepts from Redis, and what it never even reads."""

from __future__ import annotations

import json
import os
import pickle
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis import Redis
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.serializers import JSONSerializer

from flowroute.engine.codec import Codec
from flowroute.engine.identity import new_run_id
from flowroute.engine.ports import Hint
from flowroute.rq import RQExecutor
from flowroute.rq.admission import Admission, FlowJob, ForeignJobError
from flowroute.rq.job import FUNCTION, Ticket
from tests.rq.application import SECRET

if TYPE_CHECKING:
    from flowroute import Engine

RUN = new_run_id()
TICKET = Ticket(RUN, 3, 0, 20.0)
JOB_ID = TICKET.sign(Codec([SECRET]))
KEY = f"rq:job:{JOB_ID}"


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.path}",))


@pytest.fixture
def rq_executor(engine: Engine) -> RQExecutor:
    assert isinstance(engine.executor, RQExecutor)
    engine.executor.submit(Hint(RUN, 3, 0, 20.0, "Checkout", "charge"))
    return engine.executor


def call(argument: object, function: str = FUNCTION) -> bytes:
    return zlib.compress(json.dumps([function, None, [argument], {}]).encode())


def admitted(engine: Engine, raw_id: bytes = JOB_ID.encode()) -> FlowJob:
    """A job whose id a worker has popped."""
    assert isinstance(engine.executor, RQExecutor)
    return Admission(engine.executor.queue, engine.codec).admit(raw_id)


def looked_up(rq_executor: RQExecutor) -> FlowJob:
    """A job that RQ's maintenance looks at."""
    return cast("FlowJob", FlowJob.fetch(JOB_ID, rq_executor.connection, JSONSerializer))


# -- what a worker takes ---------------------------------------------------------------------------


def test_a_genuine_job_is_admitted(engine: Engine, rq_executor: RQExecutor) -> None:
    job = admitted(engine)

    assert job.ticket == TICKET
    assert job.id == JOB_ID
    assert job.timeout == 20
    assert job.failure_ttl == 600
    assert job.origin == rq_executor.queue.name


def test_a_job_is_admitted_by_its_id_without_asking_redis(
    engine: Engine, rq_executor: RQExecutor
) -> None:
    before = rq_executor.connection.info("stats")["total_commands_processed"]

    admitted(engine)

    assert rq_executor.connection.info("stats")["total_commands_processed"] == before + 1


@pytest.mark.parametrize(
    "raw_id",
    [
        b"",
        b"x",
        b"os.system",
        b"\xff\xfe",
        JOB_ID.encode() + b":1",
        JOB_ID.encode() + b"\n",
        JOB_ID.encode()[:-1],
        JOB_ID.encode().upper(),
        JOB_ID.encode().replace(b"-3-0-", b"-4-0-"),
        JOB_ID.encode().replace(b"-3-0-", b"-3-1-"),
        JOB_ID.encode().replace(b"-20000-", b"-90000-"),
        TICKET.text.encode(),
        Ticket(RUN, 3).sign(Codec(["a guess"])).encode(),
        b"flowroute-" + b"1" * 1000,
    ],
)
def test_an_id_that_is_not_flowroutes_or_was_altered_is_refused(
    engine: Engine, raw_id: bytes
) -> None:
    with pytest.raises(ForeignJobError):
        admitted(engine, raw_id)


@given(st.binary(max_size=300))
def test_no_bytes_make_admitting_a_job_fail_in_any_other_way(raw_id: bytes) -> None:
    queue = Queue(connection=Redis())  # which is not asked
    with pytest.raises(ForeignJobError):
        Admission(queue, Codec([SECRET])).admit(raw_id)


# -- what RQ's maintenance may read ----------------------------------------------------------------


def test_a_genuine_job_can_be_looked_up(rq_executor: RQExecutor) -> None:
    job = looked_up(rq_executor)

    assert (job.id, job.timeout, job.failure_ttl) == (JOB_ID, 20, 600)


def test_a_job_that_is_gone_is_told_from_one_that_is_forged(rq_executor: RQExecutor) -> None:
    rq_executor.connection.delete(KEY)

    with pytest.raises(NoSuchJobError) as caught:
        looked_up(rq_executor)

    assert not isinstance(caught.value, ForeignJobError)


def test_a_remnant_of_a_job_counts_as_gone(rq_executor: RQExecutor) -> None:
    rq_executor.connection.hdel(KEY, "data")

    with pytest.raises(NoSuchJobError) as caught:
        looked_up(rq_executor)

    assert not isinstance(caught.value, ForeignJobError)


def test_a_pickle_is_refused_without_being_unpickled(
    rq_executor: RQExecutor, tmp_path: Path
) -> None:
    file = tmp_path / "touched"
    bombs: list[object] = [Touch(file), (FUNCTION, None, (Touch(file),), {})]
    for bomb in [*bombs, ("os.system", None, (f"touch {file}",), {})]:
        stream = pickle.dumps(bomb)
        for data in (stream, zlib.compress(stream)):
            rq_executor.connection.hset(KEY, "data", data)
            with pytest.raises(ForeignJobError):
                looked_up(rq_executor)
    assert not file.exists()


def test_a_call_of_another_function_is_refused(rq_executor: RQExecutor) -> None:
    for function in ("os.system", "flowroute.rq.job.serve", FUNCTION + " ", ""):
        rq_executor.connection.hset(KEY, "data", call(JOB_ID, function))
        with pytest.raises(ForeignJobError, match="does not call"):
            looked_up(rq_executor)


@pytest.mark.parametrize(
    "written",
    [
        [FUNCTION, None, ["TOKEN", "TOKEN"], {}],
        [FUNCTION, None, [], {}],
        [FUNCTION, None, ["TOKEN"], {"x": 1}],
        [FUNCTION, "instance", ["TOKEN"], {}],
        [FUNCTION, None, {"0": "TOKEN"}, {}],
        [FUNCTION, None, ["TOKEN"], []],
        [FUNCTION, None, ["TOKEN"], {}, 1],
        {"function": FUNCTION},
        "TOKEN",
        None,
    ],
)
def test_a_call_of_another_form_is_refused(rq_executor: RQExecutor, written: object) -> None:
    text = json.dumps(written).replace("TOKEN", JOB_ID)
    rq_executor.connection.hset(KEY, "data", zlib.compress(text.encode()))

    with pytest.raises(ForeignJobError, match="does not call"):
        looked_up(rq_executor)


def test_a_call_that_unpacks_to_gigabytes_is_not_unpacked(rq_executor: RQExecutor) -> None:
    packer = zlib.compressobj()
    bomb = b"".join(packer.compress(b"[" * 1_000_000) for _ in range(64)) + packer.flush()
    rq_executor.connection.hset(KEY, "data", bomb)

    with pytest.raises(ForeignJobError, match="longer than any"):
        looked_up(rq_executor)


def test_callbacks_hooks_retries_and_the_like_are_not_read(rq_executor: RQExecutor) -> None:
    rq_executor.connection.hset(
        KEY,
        mapping={
            "success_callback_name": "os.system",
            "failure_callback_name": "os.system",
            "stopped_callback_name": "os.system",
            "webhooks": '[{"url": "http://127.0.0.1/", "events": ["finished"]}]',
            "retries_left": "9",
            "repeats_left": "9",
            "repeat_intervals": "[0]",
            "group_id": "g",
            "rate_limit_key": "k",
            "rate_limit_concurrency": "1",
            "dependency_ids": '["x"]',
            "meta": pickle.dumps({}),
            "result": pickle.dumps({}),
            "result_ttl": "-1",
            "failure_ttl": "-1",
            "origin": "another",
            "description": "\x1b[2J",
        },
    )

    job = looked_up(rq_executor)

    assert job.success_callback is None
    assert job.failure_callback is None
    assert job.stopped_callback is None
    assert job.webhooks == []
    assert (job.retries_left, job.repeats_left, job.group_id) == (None, None, None)
    assert not job.has_rate_limit
    assert not job.dependency_ids
    assert (job.meta, job.description, job.failure_ttl) == ({}, None, 600)
    assert job.origin == "another"  # it is only text


FIELDS = ["data", "status", "timeout", "created_at", "enqueued_at", "origin", "worker_name"]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(FIELDS), st.binary(max_size=40), min_size=1))
@example({"timeout": b"9" * 5000})
@example({"timeout": b"soon"})
@example({"status": b"eaten"})
@example({"created_at": b"yesterday"})
@example({"origin": b"\xff"})
@example({"data": zlib.compress(b"[" * 900)})
@example({"data": b""})
def test_no_field_makes_reading_a_job_fail_in_any_other_way(
    rq_executor: RQExecutor, fields: dict[str, bytes]
) -> None:
    for name, value in fields.items():
        rq_executor.connection.hset(KEY, name, value)
    try:
        job = looked_up(rq_executor)
    except ForeignJobError:
        pass
    else:
        assert "data" not in fields
        assert job.id == JOB_ID
    finally:
        rq_executor.connection.delete(KEY)
        rq_executor.submit(Hint(RUN, 3, 0, 20.0, "Checkout", "charge"))
