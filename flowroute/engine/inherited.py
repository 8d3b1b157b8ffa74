"""SQLite connections across a fork.

SQLite keeps its locks on a file by process and by file, not by connection. A forked child that
still has a connection of its parent believes to hold the parent's locks: it takes none of its own,
and once the parent closes the file, what the child commits goes to a log that was deleted. So a
child closes what it inherited before it opens anything. A connection that was in use at that moment
can not be closed without harm to the parent: then the child does without the file.
"""

from __future__ import annotations

from typing import NoReturn

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from flowroute.errors import ConfigurationError


class Connections:
    """The open connections to one SQLite file.

    Parameters:
        engine: Opens them. Those that are idle by now are closed, so that all are known.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._open: dict[ConnectionPoolEntry, DBAPIConnection] = {}
        self._in_use: set[ConnectionPoolEntry] = set()
        event.listen(engine, "connect", self._connected)
        event.listen(engine, "close", self._closed)
        event.listen(engine, "checkout", self._taken)
        event.listen(engine, "checkin", self._returned)
        engine.dispose()

    def after_fork(self) -> None:
        """In a forked child: part with the connections of the parent."""
        for entry, connection in self._open.items():
            if entry not in self._in_use:
                connection.close()
        if self._in_use:
            event.listen(self._engine, "do_connect", _refuse)
        self._open.clear()
        self._in_use.clear()

    def _connected(self, connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        self._open[entry] = connection

    def _closed(self, _connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        self._open.pop(entry, None)

    def _taken(
        self,
        _connection: DBAPIConnection,
        entry: ConnectionPoolEntry,
        _proxy: PoolProxiedConnection,
    ) -> None:
        self._in_use.add(entry)

    def _returned(self, _connection: DBAPIConnection | None, entry: ConnectionPoolEntry) -> None:
        self._in_use.discard(entry)


def _refuse(*_: object) -> NoReturn:
    raise ConfigurationError(
        "This process was forked while its parent was using the SQLite file, and can not use it "
        "without losing what it commits: fork before the first run is started, use the start "
        "method 'spawn' of multiprocessing, or use PostgreSQL."
    )
