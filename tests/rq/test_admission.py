"""What a worker accepts from Redis, and what it never even reads."""

from __future__ import annotations

import json
import os
import pickle
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rq.exceptions import NoSuchJobError

from flowroute.engine.identity import new_run_id
from flowroute.engine.ports import Hint
from flowroute.rq import RQExecutor
from flowroute.rq.admission import FlowJob, ForeignJobError, admit
from flowroute.rq.job import FUNCTION, Ticket

if TYPE_CHECKING:
    from flowroute import Engine

RUN = new_run_id()
JOB_ID = f"flowroute-{RUN}-3-0"
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


def call(token: object, function: str = FUNCTION) -> bytes:
    return zlib.compress(json.dumps([function, None, [token], {}]).encode())


def admitted(engine: Engine, raw_id: bytes = JOB_ID.encode()) -> FlowJob:
    assert isinstance(engine.executor, RQExecutor)
    return admit(raw_id, engine.executor.queue, engine.codec)


def test_a_genuine_job_is_admitted(engine: Engine, rq_executor: RQExecutor) -> None:
    job = admitted(engine)

    assert job.ticket == Ticket(RUN, 3)
    assert job.id == JOB_ID
    assert job.timeout == 20
    assert job.origin == rq_executor.queue.name


def test_a_job_that_is_gone_is_told_from_one_that_is_forged(engine: Engine) -> None:
    with pytest.raises(NoSuchJobError) as caught:
        admitted(engine)

    assert not isinstance(caught.value, ForeignJobError)


def test_a_remnant_of_a_job_counts_as_gone(engine: Engine, rq_executor: RQExecutor) -> None:
    rq_executor.connection.hdel(KEY, "data")

    with pytest.raises(NoSuchJobError) as caught:
        admitted(engine)

    assert not isinstance(caught.value, ForeignJobError)


@pytest.mark.parametrize(
    "raw_id",
    [
        b"",
        b"x",
        b"os.system",
        b"\xff\xfe",
        JOB_ID.encode() + b":1",
        JOB_ID.encode() + b"\n",
        JOB_ID.encode().upper(),
        b"flowroute-" + b"1" * 1000,
    ],
)
@pytest.mark.usefixtures("rq_executor")
def test_an_id_that_is_not_flowroutes_is_refused(engine: Engine, raw_id: bytes) -> None:
    with pytest.raises(ForeignJobError, match="its id"):
        admitted(engine, raw_id)


def test_a_pickle_is_refused_without_being_unpickled(
    engine: Engine, rq_executor: RQExecutor, tmp_path: Path
) -> None:
    file = tmp_path / "touched"
    bombs: list[object] = [Touch(file), (FUNCTION, None, (Touch(file),), {})]
    for bomb in [*bombs, ("os.system", None, (f"touch {file}",), {})]:
        stream = pickle.dumps(bomb)
        for data in (stream, zlib.compress(stream)):
            rq_executor.connection.hset(KEY, "data", data)
            with pytest.raises(ForeignJobError):
                admitted(engine)
    assert not file.exists()


def test_a_call_of_another_function_is_refused(engine: Engine, rq_executor: RQExecutor) -> None:
    for function in ("os.system", "flowroute.rq.job.serve", FUNCTION + " ", ""):
        rq_executor.connection.hset(KEY, "data", call(Ticket(RUN, 3).sign(engine.codec), function))
        with pytest.raises(ForeignJobError, match="does not call"):
            admitted(engine)


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
def test_a_call_of_another_form_is_refused(
    engine: Engine, rq_executor: RQExecutor, written: object
) -> None:
    token = Ticket(RUN, 3).sign(engine.codec)
    text = json.dumps(written).replace("TOKEN", token)
    rq_executor.connection.hset(KEY, "data", zlib.compress(text.encode()))

    with pytest.raises(ForeignJobError, match="does not call"):
        admitted(engine)


def test_a_forged_token_is_refused(engine: Engine, rq_executor: RQExecutor) -> None:
    token = Ticket(RUN, 3).sign(engine.codec)
    for forged in ("", token[:-1], token + "A", token.replace("/3.", "/4."), f"{RUN}/3.", 7, None):
        rq_executor.connection.hset(KEY, "data", call(forged))
        with pytest.raises(ForeignJobError):
            admitted(engine)


def test_a_token_replayed_in_a_job_for_something_else_is_refused(
    engine: Engine, rq_executor: RQExecutor
) -> None:
    rq_executor.connection.hset(KEY, "data", call(Ticket(RUN, 2).sign(engine.codec)))

    with pytest.raises(ForeignJobError, match="made for another job"):
        admitted(engine)


def test_a_call_that_unpacks_to_gigabytes_is_not_unpacked(
    engine: Engine, rq_executor: RQExecutor
) -> None:
    packer = zlib.compressobj()
    bomb = b"".join(packer.compress(b"[" * 1_000_000) for _ in range(64)) + packer.flush()
    rq_executor.connection.hset(KEY, "data", bomb)

    with pytest.raises(ForeignJobError, match="longer than any"):
        admitted(engine)


def test_callbacks_hooks_retries_and_the_like_are_not_read(
    engine: Engine, rq_executor: RQExecutor
) -> None:
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

    job = admitted(engine)

    assert job.success_callback is None
    assert job.failure_callback is None
    assert job.stopped_callback is None
    assert job.webhooks == []
    assert (job.retries_left, job.repeats_left, job.group_id) == (None, None, None)
    assert not job.has_rate_limit
    assert not job.dependency_ids
    assert (job.meta, job.description, job.failure_ttl) == ({}, None, 600)
    assert job.origin == rq_executor.queue.name


def test_something_else_under_the_key_of_a_job_is_refused(
    engine: Engine, rq_executor: RQExecutor
) -> None:
    rq_executor.connection.delete(KEY)
    rq_executor.connection.set(KEY, "text")

    with pytest.raises(ForeignJobError, match="is no job"):
        admitted(engine)


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
    engine: Engine, rq_executor: RQExecutor, fields: dict[str, bytes]
) -> None:
    for name, value in fields.items():
        rq_executor.connection.hset(KEY, name, value)
    try:
        job = admitted(engine)
    except ForeignJobError:
        pass
    else:
        assert "data" not in fields
        assert job.ticket == Ticket(RUN, 3)
    finally:
        rq_executor.connection.delete(KEY)
        rq_executor.submit(Hint(RUN, 3, 0, 20.0, "Checkout", "charge"))
