"""How many connections a PostgreSQL database has, watched from a connection of its own."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

EVERY_SECONDS = 0.05

COUNT = sa.text(
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


class Connections:
    """Counts until the end of a `with` block.

    Parameters:
        url: The database.
    """

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url, poolclass=NullPool)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.most = 0
        """The most that were seen."""
        self.allowed = 0
        """How many the server allows."""

    def _watch(self) -> None:
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            shown = connection.exec_driver_sql("SHOW max_connections").scalar_one()
            self.allowed = int(shown)
            while not self._over.wait(EVERY_SECONDS):
                self.most = max(self.most, int(connection.execute(COUNT).scalar_one()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._engine.dispose()
