"""Very many runs, written into the tables at once: valid where they will be resumed."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Literal

import sqlalchemy as sa

from benchmarks.flows import TEXT
from benchmarks.peers.settings import SECRET
from flowroute.engine.codec import PYTHON_TAG, Codec
from flowroute.engine.schema import checkpoint_table, run_table

BATCH = 5000
Reason = Literal["worker", "timer", "page"]
_NO_PAYLOAD = bytes(300)


def crowd(
    engine: sa.Engine,
    count: int,
    *,
    waiting_for: Reason,
    due_in: timedelta | None = None,
    real: int = 0,
) -> list[str]:
    """Insert runs of `benchmarks.flows.Crowded` that wait at its second step.

    Parameters:
        engine: The database; its tables exist.
        count: How many.
        waiting_for: What they wait for.
        due_in: When recovery looks at them, from now; None: never.
        real: So many of them, spread evenly, have a bookmark that can be read; all if equal to
            `count`.

    Returns:
        The ids of those.
    """
    codec = Codec([SECRET])
    now = datetime.now(UTC)
    wake_at = None if due_in is None else now + due_in
    step = {"worker": "work", "timer": "rest", "page": "rest"}[waiting_for]
    every = count // real if real else count + 1
    found: list[str] = []
    rows = _rows(count)
    with engine.begin() as connection:
        # Time-ordered ids are appended at the right edge of the tree, as they are in life.
        while batch := list(islice(rows, BATCH)):
            runs: list[dict[str, Any]] = []
            checkpoints: list[dict[str, Any]] = []
            for number, run_id in batch:
                payload = _NO_PAYLOAD
                if number % every == 0 and len(found) < real:
                    found.append(run_id)
                    arguments = {"number": number, "text": TEXT}
                    payload = codec.encode(
                        (step, {}, arguments), run_id=run_id, seq=1, session=_no_session
                    )
                runs.append(_run(run_id, step, waiting_for, now, wake_at))
                checkpoints.append(_checkpoint(run_id, step, payload, number, now))
            connection.execute(sa.insert(run_table), runs)
            connection.execute(sa.insert(checkpoint_table), checkpoints)
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    else:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE flowroute_run, flowroute_checkpoint")
    return found


def _rows(count: int) -> Iterator[tuple[int, str]]:
    began = int(time.time() * 1000) - count
    for number in range(count):
        tail = random.getrandbits(62)
        yield number, _uuid7(began + number, tail)


def _uuid7(milliseconds: int, tail: int) -> str:
    text = f"{milliseconds:012x}7{random.getrandbits(12):03x}{tail | 1 << 63:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _run(
    run_id: str, step: str, waiting_for: str, now: datetime, wake_at: datetime | None
) -> dict[str, Any]:
    return {
        "id": run_id,
        "flow": "benchmarks.Crowded",
        "flow_version": 1,
        "key": f"key {run_id}",
        "owner": None,
        "state": "waiting",
        "waiting_for": waiting_for,
        "step": step,
        "seq": 1,
        "epoch": 1,
        "attempt": 0,
        "wake_at": wake_at,
        "created_at": now,
        "updated_at": now,
    }


def _checkpoint(
    run_id: str, step: str, payload: bytes, number: int, now: datetime
) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "seq": 1,
        "epoch": 1,
        "step": step,
        "payload": payload,
        "arguments": {"number": number, "text": TEXT},
        "python": PYTHON_TAG,
        "created_at": now,
        "duration": 0.000123,
        "attempt": 1,
        "executor": "script",
    }


def _no_session() -> Any:
    raise AssertionError("no row is among these values")
