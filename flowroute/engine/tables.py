"""Whether the tables are there."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError

from flowroute.engine import schema
from flowroute.engine.database import Database, is_transient
from flowroute.engine.store import Store


class Tables:
    """The tables of one database, made and looked for once.

    Parameters:
        store: The statements.
        database: The connections.
    """

    def __init__(self, store: Store, database: Database) -> None:
        self._store = store
        self._database = database
        self._checked = False

    def create(self) -> None:
        """Create those that do not exist yet."""
        schema.metadata.create_all(self._database.engine)
        self.check()

    def check(self) -> None:
        """Make sure, once, that they are there and of this version.

        Raises:
            TablesMissing: They are not; the message says how to make them.
        """
        if self._checked:
            return
        with self._database.connect() as connection:
            self._checked = self._store.check_tables(connection)
        if self._checked:
            return
        try:
            with self._database.impatient() as connection:
                self._store.record_version(connection)
        except DBAPIError as error:
            if not is_transient(error):
                raise
            return  # this very thread may hold SQLite's write lock: another time
        self._checked = True
