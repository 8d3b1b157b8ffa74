"""Statements that every transition sends: compiled once, then handed to the driver as they are.

SQLAlchemy caches what it compiled too, but looks the statement up and prepares its parameters anew
each time it is executed, which takes longer than SQLite takes to carry it out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import BindParameter, Connection, CursorResult, Dialect
from sqlalchemy.sql.dml import UpdateBase

Make: TypeAlias = Callable[[Dialect], UpdateBase]
"""Builds the statement for one kind of database."""


class Prepared:
    """One INSERT, UPDATE or DELETE.

    Parameters:
        make: Builds the statement. Each parameter without a value of its own is given to `execute`.
    """

    __slots__ = ("_make", "_sendable")

    def __init__(self, make: Make) -> None:
        self._make = make
        self._sendable: dict[Dialect, _Sendable] = {}

    def execute(self, connection: Connection, values: Mapping[str, Any]) -> CursorResult[Any]:
        """Execute it.

        Parameters:
            connection: Of the caller's transaction.
            values: Of its parameters, by name.

        Returns:
            SQLAlchemy's result, for its row count.

        Raises:
            KeyError: A parameter has no value.
        """
        sendable = self._sendable.get(connection.dialect) or self.compile(connection.dialect)
        return connection.exec_driver_sql(sendable.text, sendable.parameters(values))

    def execute_many(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Execute it once for each of some values, by as few round trips as the driver needs."""
        sendable = self._sendable.get(connection.dialect) or self.compile(connection.dialect)
        connection.exec_driver_sql(sendable.text, [sendable.parameters(row) for row in rows])

    def compile(self, dialect: Dialect) -> _Sendable:
        """Compile it for a database whose connections were opened before."""
        sendable = self._sendable[dialect] = _Sendable(self._make(dialect), dialect)
        return sendable


class _Sendable:
    """A statement as one driver takes it."""

    __slots__ = ("_parameters", "_positional", "text")

    def __init__(self, statement: UpdateBase, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        self.text = str(compiled)
        # The compiler knows the parameters by the names that it gave them.
        binds: dict[str, BindParameter[Any]] = {
            name: bind for bind, name in compiled.bind_names.items()
        }
        order: list[str] | None = compiled.positiontup
        self._positional = order is not None
        self._parameters = [
            (
                name,
                None if binds[name].required else binds[name],
                binds[name].type.dialect_impl(dialect).bind_processor(dialect),
            )
            for name in (binds if order is None else order)
        ]

    def parameters(self, values: Mapping[str, Any]) -> Any:
        """Values as the driver takes them: in order, or by name."""
        sent = [
            (values[name] if own is None else own.effective_value)
            if process is None
            else process(values[name] if own is None else own.effective_value)
            for name, own, process in self._parameters
        ]
        if self._positional:
            return tuple(sent)
        return {name: value for (name, *_), value in zip(self._parameters, sent, strict=True)}
