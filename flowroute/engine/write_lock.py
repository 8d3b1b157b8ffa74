"""SQLite's one write lock: taken by turns within a process, and asked for again soon elsewhere."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
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

REMEMBERED = 100
"""So many times it then asks again by itself, and as often after each time that others had it."""


class WriteLock:
    """The write lock of one database file."""

    def __init__(self) -> None:
        self._turns = threading.Lock()
        self._expects_others = 0

    def held(self, connection: Connection) -> Held:
        """A transaction that has the lock from its beginning.

        Threads of this process take turns. Of another process's lock SQLite knows nothing but to
        ask again, after sleeping for longer than the other one writes, and longer each time; so as
        soon as others are there, this asks again by itself.

        Raises:
            sqlalchemy.exc.OperationalError: On entering: another one held the lock for all of the
                connection's busy timeout, or the file can not be written.
        """
        return Held(self, self._turns, connection)

    def take(self, connection: Connection) -> None:
        """Begin SQLite's transaction; it is this thread's turn."""
        raw: Any = connection.connection.dbapi_connection
        if raw.in_transaction:  # one without autocommit always is
            return
        if self._expects_others:
            met = _ask_again(connection, raw)
            self._expects_others = REMEMBERED if met else self._expects_others - 1
            return
        began = time.monotonic()
        try:
            send(connection, BEGIN, (), changed)
        finally:
            if time.monotonic() - began >= NOTICED_SECONDS:
                self._expects_others = REMEMBERED


class Held:
    """What `WriteLock.held` returns, for `with`; a class, as a generator would cost more.

    Parameters:
        lock: The lock.
        turns: Held in between.
        connection: Of the transaction.
    """

    __slots__ = ("_connection", "_lock", "_transaction", "_turns")

    def __init__(self, lock: WriteLock, turns: threading.Lock, connection: Connection) -> None:
        self._lock = lock
        self._turns = turns
        self._connection = connection

    def __enter__(self) -> None:
        self._turns.acquire()
        try:
            self._transaction = self._connection.begin()
            try:
                self._lock.take(self._connection)
            except BaseException:
                self._transaction.rollback()
                raise
        except BaseException:
            self._turns.release()
            raise

    def __exit__(self, *error: object) -> None:
        try:
            self._transaction.__exit__(*error)
        finally:
            self._turns.release()


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
