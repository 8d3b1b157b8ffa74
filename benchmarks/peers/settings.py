"""What all contestants set alike: the PRAGMAs of SQLite, for whichever library connects."""

from __future__ import annotations

import sqlite3
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

SECRET = "a secret of the benchmarks"  # noqa: S105 - nothing is protected by it


def use_pragmas(synchronous: str) -> None:
    """Have every SQLAlchemy connection of this process to SQLite use WAL and this setting.

    Parameters:
        synchronous: ``FULL`` or ``NORMAL``.
    """

    def connected(connection: Any, _record: Any) -> None:
        raw = getattr(connection, "driver_connection", connection)
        if isinstance(raw, sqlite3.Connection):
            set_pragmas(raw, synchronous)

    event.listen(sa.Engine, "connect", connected)


def set_pragmas(connection: sqlite3.Connection, synchronous: str) -> None:
    """Set them on one connection."""
    connection.execute("PRAGMA journal_mode=WAL").close()
    connection.execute(f"PRAGMA synchronous={synchronous}").close()


def pragmas(engine: sa.Engine) -> dict[str, Any]:
    """What a connection of an engine has: the PRAGMAs of SQLite, the settings of PostgreSQL."""
    names: tuple[str, ...]
    if engine.dialect.name == "sqlite":
        names = ("journal_mode", "synchronous", "busy_timeout", "wal_autocheckpoint", "page_size")
        query = "PRAGMA {}"
    else:
        names = ("fsync", "synchronous_commit", "wal_sync_method", "shared_buffers")
        query = "SHOW {}"
    with engine.connect() as connection:
        return {name: connection.exec_driver_sql(query.format(name)).scalar_one() for name in names}
