"""The limit: SQLAlchemy Core doing a transition's one INSERT and one UPDATE, and COMMIT."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from benchmarks.flows import TEXT
from benchmarks.peers.settings import SECRET, pragmas, use_pragmas
from benchmarks.peers.timing import timed
from flowroute.engine.codec import PYTHON_TAG, Codec
from flowroute.engine.identity import new_run_id
from flowroute.engine.schema import checkpoint_table, metadata, run_table

RUN = {
    "flow": "Chain",
    "flow_version": 1,
    "state": "running",
    "step": "work",
    "seq": 0,
    "epoch": 1,
    "attempt": 1,
    "lease_owner": "host:1",
}


def payload_of(run_id: str, seq: int, left: int) -> bytes:
    """The bytes that flowroute stores for such a step."""
    value: tuple[str, dict[str, Any], dict[str, Any]] = ("work", {}, {"left": left, "text": TEXT})
    return Codec([SECRET]).encode(value, run_id=run_id, seq=seq, session=_no_session)


def _no_session() -> Any:
    raise AssertionError("no row is among these values")


class Limit:
    """Rows of the same shape in the same tables, written with as little as can be.

    Parameters:
        engine: Where.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        at = sa.and_(
            run_table.c.id == sa.bindparam("run_id"),
            run_table.c.seq == sa.bindparam("seen_seq"),
            run_table.c.epoch == 1,
            run_table.c.state == "running",
        )
        self._update = (
            sa.update(run_table)
            .where(at)
            .values(
                seq=sa.bindparam("next_seq"),
                step=sa.bindparam("next_step"),
                updated_at=sa.bindparam("now"),
            )
        )
        self._insert = sa.insert(checkpoint_table)
        self._payload = payload_of(new_run_id(), 1, 1000)

    def run(self, steps: int, threads: int = 1) -> dict[str, float]:
        """So many transitions in each thread."""
        gc.collect()
        return timed(lambda: self._transitions(steps), threads)

    def _transitions(self, steps: int) -> None:
        run_id = new_run_id()
        now = datetime.now(UTC)
        with self._engine.begin() as connection:
            row = {**RUN, "id": run_id, "lease_until": now, "created_at": now, "updated_at": now}
            connection.execute(sa.insert(run_table), row)
        for seq in range(steps):
            now = datetime.now(UTC)
            with self._engine.begin() as connection:
                moved = {
                    "run_id": run_id,
                    "seen_seq": seq,
                    "next_seq": seq + 1,
                    "next_step": "work",
                    "now": now,
                }
                if connection.execute(self._update, moved).rowcount != 1:
                    raise AssertionError(moved)
                stored = {
                    "run_id": run_id,
                    "seq": seq + 1,
                    "epoch": 1,
                    "step": "work",
                    "payload": self._payload,
                    "arguments": {"left": steps - seq, "text": TEXT},
                    "python": PYTHON_TAG,
                    "created_at": now,
                    "duration": 0.000012345,
                    "attempt": 1,
                    "executor": "script",
                }
                connection.execute(self._insert, stored)

    def settings(self) -> dict[str, Any]:
        """What the connections are set to."""
        return pragmas(self._engine)


@contextmanager
def chain(url: str, synchronous: str) -> Iterator[Limit]:
    """The limit on a database of its own."""
    use_pragmas(synchronous)
    engine = sa.create_engine(url)
    metadata.create_all(engine)
    yield Limit(engine)
    engine.dispose()
