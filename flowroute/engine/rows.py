"""Database rows in checkpoints: by identity, never by value.

A pickle stream names a row by its place in a list of identities that stands before it: of classes
and primary keys. Reading fetches the listed rows first, those of one class together, and then hands
out these objects: attached to the session, with current values, one object for one row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

from sqlalchemy import ColumnElement, inspect, select, tuple_
from sqlalchemy.orm import InstanceState, Mapper, Session, object_session

from flowroute.engine.refusals import Refusal, Refused

SessionSource: TypeAlias = Callable[[], Session]
"""Gives the session of the run; called only if a row is met."""

Identity: TypeAlias = tuple[type, tuple[Any, ...]]
"""The class of a row and its primary key."""

ROWS_AT_ONCE = 200
"""Rows that one SELECT fetches. Keys may have several columns, and SQLite allows 999 parameters."""

_DELETED = Refusal(
    "a database row that is deleted",
    "Pass the values that later steps need instead of the row.",
)
_ELSEWHERE = Refusal(
    "a new database row of another session",
    "Commit that session first, or add the row to the run's own session.",
)
_LOCAL = Refusal(
    "a database row whose class can not be imported by name",
    "Define the class at the top level of a module.",
)


def is_mapped(cls: type) -> bool:
    """Whether instances of a class are database rows."""
    return isinstance(inspect(cls, raiseerr=False), Mapper)


class RowWriter:
    """The rows of one value that is being written.

    Parameters:
        source: Gives the session of the run.
        importable: Whether a class can be found again by its name.
    """

    def __init__(self, source: SessionSource, importable: Callable[[type], bool]) -> None:
        self.failure: Exception | None = None
        """What the flush of the session raised: the step's own error, to be raised as it is."""
        self._source = source
        self._importable = importable
        self._session: Session | None = None
        self._places: dict[InstanceState[Any], int] = {}
        self.rows: list[object] = []
        """The rows met so far, in the order of their places."""

    def place(self, row: object) -> int:
        """The place of a row in the list of identities.

        Pending changes are flushed first: a new row gets its key, a deleted one shows.

        Raises:
            Refused: The row is deleted, is a new one of another session, or has a class that can
                not be imported.
        """
        state: InstanceState[Any] = inspect(row)
        place = self._places.get(state)
        if place is None:
            if not self._importable(type(row)):
                raise Refused(_LOCAL)
            self._settle(row, state)
            place = self._places[state] = len(self._places)
            self.rows.append(row)
        return place

    def identities(self) -> list[Identity]:
        """The rows met so far, in the order of their places."""
        return [(type(row), _key_of(row)) for row in self.rows]

    def _settle(self, row: object, state: InstanceState[Any]) -> None:
        if self._session is None:
            self._session = self._source()
            self._flush(self._session)
        if state.transient:
            self._session.add(row)
        if state.pending and row in self._session:
            self._flush(self._session)
        if state.key is None:
            raise Refused(_ELSEWHERE)
        owner = object_session(row)
        if state.deleted or state.was_deleted or (owner is not None and row in owner.deleted):
            raise Refused(_DELETED)

    def _flush(self, session: Session) -> None:
        try:
            session.flush()
        except Exception as error:  # whatever the database, an event or a validator raises
            self.failure = error
            raise


def are_identities(listed: object) -> bool:
    """Whether something is a list of identities, and each fits its class as it is mapped now.

    Raises:
        sqlalchemy.exc.NoInspectionAvailable: A class is no longer mapped.
    """
    if not isinstance(listed, list):
        return False
    for each in cast("list[object]", listed):
        parts = cast("tuple[object, ...]", each) if isinstance(each, tuple) else ()
        if len(parts) != 2 or not isinstance(parts[0], type):  # noqa: PLR2004  # class and key
            return False
        mapper: Mapper[Any] = inspect(parts[0])
        key = cast("tuple[object, ...]", parts[1]) if isinstance(parts[1], tuple) else ()
        if len(key) != len(mapper.primary_key):
            return False
    return True


def fetch(identities: Sequence[Identity], session: Session) -> list[Any]:
    """The rows with these identities.

    Parameters:
        identities: As `RowWriter.identities` gave them.
        session: Where the rows will live.

    Returns:
        The rows in the order of their identities; None for each that no longer exists.

    Raises:
        sqlalchemy.exc.NoInspectionAvailable: A class is no longer mapped.
        sqlalchemy.exc.SQLAlchemyError: The database could not be asked.
    """
    wanted: dict[type, dict[tuple[Any, ...], None]] = {}
    for cls, key in identities:
        wanted.setdefault(cls, {})[key] = None
    # The session holds rows weakly: these references keep them until get() has found them.
    held = [_fetch_together(cls, list(keys), session) for cls, keys in wanted.items()]
    rows: list[Any] = [session.get(cls, key) for cls, key in identities]
    del held
    return rows


def _fetch_together(cls: type, keys: list[tuple[Any, ...]], session: Session) -> list[Any]:
    """Bring rows of one class into the session with as few statements as it takes."""
    mapper: Mapper[Any] = inspect(cls)
    missing = [key for key in keys if not _is_fresh(mapper, key, session)]
    if len(missing) == 1:  # get() does as well
        return []
    found: list[Any] = []
    for start in range(0, len(missing), ROWS_AT_ONCE):
        chunk = missing[start : start + ROWS_AT_ONCE]
        found += session.scalars(select(mapper).where(_among(mapper, chunk))).unique()
    return found


def _is_fresh(mapper: Mapper[Any], key: tuple[Any, ...], session: Session) -> bool:
    """Whether the session holds a row with its values, so that nothing needs to be fetched."""
    row = session.identity_map.get(mapper.identity_key_from_primary_key(key))
    return row is not None and not inspect(row).expired


def _among(mapper: Mapper[Any], keys: Sequence[tuple[Any, ...]]) -> ColumnElement[bool]:
    columns = mapper.primary_key
    if len(columns) == 1:
        return columns[0].in_([key[0] for key in keys])
    return tuple_(*columns).in_(keys)


def _key_of(row: object) -> tuple[Any, ...]:
    identity: tuple[Any, ...] = inspect(row, raiseerr=True).identity
    return identity
