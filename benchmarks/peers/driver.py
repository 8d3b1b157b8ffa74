"""The bare driver: what the database itself takes, without SQLAlchemy."""

from __future__ import annotations

import gc
import json
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
import sqlalchemy as sa

from benchmarks.flows import TEXT
from benchmarks.peers.core import payload_of
from benchmarks.peers.settings import set_pragmas
from benchmarks.peers.timing import timed
from flowroute.engine.codec import PYTHON_TAG
from flowroute.engine.identity import new_run_id
from flowroute.engine.schema import metadata

START = (
    "INSERT INTO flowroute_run (id, flow, flow_version, state, step, seq, epoch, attempt, "
    "lease_owner, lease_until, created_at, updated_at) "
    "VALUES (?, 'Chain', 1, 'running', 'work', 0, 1, 1, 'host:1', ?, ?, ?)"
)
MOVE = (
    "UPDATE flowroute_run SET seq = ?, step = ?, updated_at = ? "
    "WHERE id = ? AND seq = ? AND epoch = 1 AND state = 'running'"
)
STORE = (
    "INSERT INTO flowroute_checkpoint (run_id, seq, epoch, step, payload, arguments, python, "
    "created_at, duration, attempt, executor) VALUES (?, ?, 1, ?, ?, ?, ?, ?, ?, 1, 'script')"
)


class Bare:
    """The statements of a transition through the driver's own calls.

    Parameters:
        connect: Opens a connection.
        marker: How the driver writes a parameter.
    """

    def __init__(self, connect: Callable[[], Any], marker: str) -> None:
        self._connect = connect
        self._statements = [text.replace("?", marker) for text in (START, MOVE, STORE)]
        self._sqlite = marker == "?"
        self._payload = payload_of(new_run_id(), 1, 1000)

    def run(self, steps: int, threads: int = 1) -> dict[str, float]:
        """So many transitions in each thread."""
        gc.collect()
        return timed(lambda: self._transitions(steps), threads)

    def _transitions(self, steps: int) -> None:
        start, move, store = self._statements
        run_id: Any = uuid.UUID(new_run_id())
        if self._sqlite:
            run_id = run_id.hex
        connection = self._connect()
        cursor = connection.cursor()
        cursor.execute(start, (run_id, self._now(), self._now(), self._now()))
        connection.commit()
        for seq in range(steps):
            now = self._now()
            cursor.execute(move, (seq + 1, "work", now, run_id, seq))
            arguments = json.dumps({"left": steps - seq, "text": TEXT})
            stored = (run_id, seq + 1, "work", self._payload, arguments, PYTHON_TAG, now, 0.000012)
            cursor.execute(store, stored)
            connection.commit()
        connection.close()

    def _now(self) -> Any:
        now = datetime.now(UTC)
        return str(now)[:23] if self._sqlite else now


@contextmanager
def chain(url: str, synchronous: str) -> Iterator[Bare]:
    """The driver on a database of its own."""
    engine = sa.create_engine(url)
    metadata.create_all(engine)
    engine.dispose()
    parts = sa.make_url(url)
    if parts.get_backend_name() == "sqlite":
        name = str(parts.database)

        def connect() -> Any:
            connection = sqlite3.connect(name, timeout=30)
            set_pragmas(connection, synchronous)
            return connection

        yield Bare(connect, "?")
        return
    plain = parts.set(drivername="postgresql").render_as_string(hide_password=False)
    yield Bare(lambda: psycopg.connect(plain), "%s")
