"""Values to pickle streams and back.

Two picklers write the same format. `pickle.Pickler`, in C, writes nearly everything, some ten
times faster than dill. What it can not write goes to dill, the whole value: a lambda, a nested
function, an object of a class that a function made. Both follow the table of `reductions`.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
import types
from collections.abc import Sequence
from typing import Any, Final, cast

import dill  # pyright: ignore[reportMissingTypeStubs]  # it has none
from sqlalchemy.exc import DBAPIError

from flowroute.engine.reductions import (
    PROTOCOL,
    REDUCERS,
    Missing,
    RowMet,
    as_usual,
    find,
    is_importable,
    meet_row,
    module_variables,
    reduce_class,
    restore_function,
    truthful_copy,
)
from flowroute.engine.refusals import Refusal, Refused, class_of, cut_to_class, is_class, path_of
from flowroute.engine.rows import RowWriter, SessionSource
from flowroute.errors import UnstorableValue

HOLDS_CODE: Final = 1
"""A flag: the stream contains bytecode, which only the same minor version of Python can run."""
HOLDS_ROWS: Final = 2
"""A flag: a list of row identities stands before the value."""

_SINGLETONS: Final[dict[type, object]] = {type(each): each for each in (None, NotImplemented, ...)}
_CachedFunction: Final = type(functools.cache(len))


class TooLarge(Exception):
    """A stream grew beyond its limit; writing it was given up there."""


class Buffer:
    """A file in memory that ends in `TooLarge`, and not in an exhausted memory.

    Parameters:
        limit: Bytes it takes at most; `left` tells how many of them are left.
    """

    __slots__ = ("_parts", "left")

    def __init__(self, limit: int) -> None:
        self.left = limit
        self._parts: list[bytes] = []

    def write(self, data: bytes | memoryview) -> int:
        """Append, as a file does."""
        length = len(data)
        self.left -= length
        if self.left < 0:
            raise TooLarge
        self._parts.append(bytes(data))  # a view would keep its pickler's own buffer
        return length

    def content(self) -> bytes:
        """All that was written."""
        return b"".join(self._parts)


class FastPickler(pickle.Pickler):
    """Writes what holds no rows and no code."""

    dispatch_table = REDUCERS


class RowPickler(FastPickler):
    """Writes rows too, and is asked about every object for that."""

    def __init__(self, file: Buffer, rows: RowWriter) -> None:
        super().__init__(file, PROTOCOL)
        self._rows = rows

    def persistent_id(self, obj: Any) -> int | None:
        """The place of a row; None for anything else."""
        return self._rows.place(obj) if REDUCERS[type(obj)] is meet_row else None


class SlowPickler(dill.Pickler):  # type: ignore[misc]  # dill has no annotations
    """Writes what needs dill, and knows the way to what it is writing."""

    def __init__(self, file: Buffer, rows: RowWriter) -> None:
        super().__init__(  # pyright: ignore[reportUnknownMemberType]  # dill has no annotations
            file, PROTOCOL, byref=False, recurse=False
        )
        self.holds_code = False
        self.trail: list[object] = []
        self._rows = rows
        self._copies: dict[int, types.FunctionType] = {}
        self._copy_ids: set[int] = set()

    # The signature is pickle's.
    def save(self, obj: object, save_persistent_id: bool = True) -> None:  # noqa: FBT001, FBT002
        """Write one object. An exception leaves the trail as it is."""
        self.trail.append(obj)
        super().save(obj, save_persistent_id)  # pyright: ignore[reportUnknownMemberType]  # nor here
        self.trail.pop()

    def persistent_id(self, obj: Any) -> int | None:
        """The place of a row; None for anything else."""
        return self._rows.place(obj) if REDUCERS[type(obj)] is meet_row else None

    def reducer_override(self, obj: Any) -> Any:
        """How an object is written; NotImplemented where dill may choose."""
        kind = cast("type[object]", type(obj))
        if issubclass(kind, type):
            return self._reduce_class(obj)
        reducer = REDUCERS[kind]
        if reducer is not as_usual:
            return reducer(obj)
        if kind is types.FunctionType:
            return self._reduce_function(obj)
        if kind is types.CodeType:
            self.holds_code = True
        elif kind is _CachedFunction and is_importable(obj):
            return obj.__qualname__
        return NotImplemented

    def _reduce_class(self, cls: type) -> Any:
        """By name, in ``__main__`` too; by value where a function or a call of type() made it."""
        reduction = reduce_class(cls)
        if not isinstance(reduction, str) or is_importable(cls):
            return reduction
        if cls in _SINGLETONS:
            return type, (_SINGLETONS[cls],)
        if isinstance(find(cls.__module__, cls.__qualname__), type):
            # By value it would come back as a third class, and isinstance() would never hold.
            raise Refused(
                Refusal(
                    f"of an outdated class (the module {cls.__module__!r} has another "
                    f"{cls.__qualname__} by now)",
                    "Make the value anew, from the class that the module has.",
                )
            )
        return NotImplemented

    def _reduce_function(self, function: types.FunctionType) -> Any:
        """By name, in ``__main__`` too; by value where a function made it."""
        if id(function) in self._copy_ids:
            return NotImplemented
        if is_importable(function):
            return function.__qualname__
        copy = self._copies.get(id(function))
        if copy is None:
            copy = self._copies[id(function)] = truthful_copy(function)
            self._copy_ids.add(id(copy))
        return restore_function, (copy, function.__module__, module_variables(function))


class Reader(pickle.Unpickler):
    """Reads what either pickler wrote, from a file that stands at the beginning of a pickle."""

    rows: Sequence[Any] = ()
    """What the places of rows stand for."""

    def find_class(self, module: str, name: str) -> Any:
        """What a name stands for.

        Raises:
            Missing: It is not there, or its module can not be imported.
        """
        # Nearly always it is there, and finding it so is faster than the machinery of imports.
        try:
            return getattr(sys.modules[module], name)
        except (KeyError, AttributeError):
            pass  # not imported yet, nested in something, or gone
        try:
            return super().find_class(module, name)
        except (Exception, SystemExit) as error:  # importing runs the user's module
            raise Missing(module, name) from error

    def persistent_load(self, pid: Any) -> Any:
        """The row at a place."""
        return self.rows[pid]


def write(value: Sequence[Any], session: SessionSource, limit: int) -> tuple[bytes, int]:
    """Pickle a value.

    Parameters:
        value: ``(step, state, arguments)``.
        session: Gives the session that flushes pending rows; called only if a row is met.
        limit: Bytes that the stream may have.

    Returns:
        The stream and its flags.

    Raises:
        TooLarge: The stream would be longer.
        UnstorableValue: Something in the value can not be stored; the path tells where.
        Exception: Whatever the flush of the session raises.
    """
    REDUCERS.refresh()
    buffer = Buffer(limit)
    try:
        FastPickler(buffer, PROTOCOL).dump(value)
    except TooLarge:
        raise
    except RowMet:
        return _write_rows(value, RowWriter(session, is_importable), limit)
    except Exception:  # noqa: BLE001  # whatever it is, dill writes it or fails on it with a path
        return _write_slowly(value, RowWriter(session, is_importable), limit)
    return buffer.content(), 0


def _write_rows(value: Sequence[Any], rows: RowWriter, limit: int) -> tuple[bytes, int]:
    buffer = Buffer(limit)
    try:
        RowPickler(buffer, rows).dump(value)
        return _identities(rows, buffer.left) + buffer.content(), HOLDS_ROWS
    except (TooLarge, DBAPIError):
        raise
    except Exception as error:  # as in write()
        if error is rows.failure:
            raise
        return _write_slowly(value, rows, limit)


def _write_slowly(value: Sequence[Any], rows: RowWriter, limit: int) -> tuple[bytes, int]:
    buffer = Buffer(limit)
    pickler = SlowPickler(buffer, rows)
    try:
        pickler.dump(value)
        stream, identities = buffer.content(), _identities(rows, buffer.left)
    except (TooLarge, DBAPIError):
        raise
    except Exception as error:  # dill and the objects' own methods raise what they like
        if error is rows.failure:
            raise
        raise _unstorable(error, pickler.trail) from error
    flags = HOLDS_ROWS if identities else 0
    if pickler.holds_code:
        flags |= HOLDS_CODE
        _try_reading(stream, rows)
    return identities + stream, flags


def _try_reading(stream: bytes, rows: RowWriter) -> None:
    """Read a stream with code: dill writes things that it can not read.

    It is better to fail here, where the value was made, than to block the run later.
    """
    reader = Reader(io.BytesIO(stream))
    reader.rows = rows.rows
    try:
        reader.load()
    except DBAPIError:
        raise
    except Exception as error:  # as in _write_slowly()
        raise UnstorableValue(
            "The arguments hold code by value, such as a lambda or a nested function, that dill "
            f"writes but can not read again: {type(error).__name__}: {error}. Define functions and "
            "classes at the top level of a module: those are stored by name.",
            path="the arguments",
        ) from error


def _identities(rows: RowWriter, limit: int) -> bytes:
    identities = rows.identities()
    if not identities:
        return b""
    buffer = Buffer(limit)
    FastPickler(buffer, PROTOCOL).dump(identities)
    return buffer.content()


def _unstorable(error: Exception, trail: Sequence[object]) -> UnstorableValue:
    if isinstance(error, Refused):
        # A class is refused on account of what was made from it.
        path = path_of(cut_to_class(trail) if is_class(trail[-1]) else trail)
        what, advice = error.refusal
        message = f"{path} is {what}, and no checkpoint can carry it. {advice}"
        return UnstorableValue(message, path=path)
    trail = cut_to_class(trail)
    path = path_of(trail)
    cls = class_of(trail[-1])
    if isinstance(error, RecursionError):
        reason = "it is nested too deeply. Pass a flat list, or keep it in a table of your own."
    elif "<locals>" in cls.__qualname__:
        reason = (
            "its class is defined inside a function, and is none that dill can take apart. Define "
            "the class at the top level of a module."
        )
    else:
        reason = (
            f"{type(error).__name__}: {error}. Pass plain values instead, or give the class a "
            "__reduce__ method."
        )
    name = f"{cls.__module__}.{cls.__qualname__}"
    return UnstorableValue(f"{path} ({name}) can not be stored: {reason}", path=path)
