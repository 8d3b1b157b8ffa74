"""SQLite's one write lock: taken by turns within a process, and asked for again soon elsewhere."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError

from flowroute.engine.prepared import changed, send

BEGIN = "BEGIN IMMEDIATE"

ASK_AGAIN_SECONDS = 0.0003
"""How long a writer waits on average before it asks again for the lock."""

NOTICED_SECONDS = 0.001
"""The shortest wait for the lock, by which a writer notices that other processes write too: SQLite
sleeps for as long before it asks for the second time."""

REMEMBERED_SECONDS = 10.0
"""For how long it then asks again by itself."""


class WriteLock:
    """The write lock of one database file."""

    def __init__(self) -> None:
        self._turns = threading.Lock()
        self._others_until = -1.0

    @contextmanager
    def held(self, connection: Connection) -> Generator[None]:
        """A transaction that has the lock from its beginning.

        Threads of this process take turns. Of another process's lock SQLite knows nothing but to
        ask again, after sleeping for longer than the other one writes, and longer each time; so as
        soon as others are there, this asks again by itself.

        Raises:
            sqlalchemy.exc.OperationalError: Another one held the lock for all of the connection's
                busy timeout, or the file can not be written.
        """
        with self._turns, connection.begin():
            self._take(connection)
            yield

    def _take(self, connection: Connection) -> None:
        raw: Any = connection.connection.dbapi_connection
        if raw.in_transaction:  # one without autocommit always is
            return
        began = time.monotonic()
        if began < self._others_until:
            if _ask_again(connection, raw):
                self._others_until = time.monotonic() + REMEMBERED_SECONDS
            return
        try:
            send(connection, BEGIN, (), changed)
        finally:
            ended = time.monotonic()
            if ended - began >= NOTICED_SECONDS:
                self._others_until = ended + REMEMBERED_SECONDS


def _ask_again(connection: Connection, raw: Any) -> bool:
    """Take the lock; whether another process had it."""
    (milliseconds,) = raw.execute("PRAGMA busy_timeout").fetchone()
    until = time.monotonic() + milliseconds / 1000
    raw.execute("PRAGMA busy_timeout=0")
    try:
        had = False
        while True:
            try:
                send(connection, BEGIN, (), changed)
            except DatabaseError as error:
                if not _is_busy(error) or time.monotonic() >= until:
                    raise
            else:
                return had
            had = True
            time.sleep(random.uniform(0, 2 * ASK_AGAIN_SECONDS))  # noqa: S311  # jitter
    finally:
        raw.execute(f"PRAGMA busy_timeout={milliseconds}")


def _is_busy(error: DatabaseError) -> bool:
    code: int = getattr(error.orig, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_BUSY
