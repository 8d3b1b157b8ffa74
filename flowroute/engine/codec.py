"""The bytes of a checkpoint: values, signed.

    1 byte    format version
    1 byte    flags: holds code, holds rows
    32 bytes  HMAC-SHA256 over version, flags, run id, seq, python tag and stream
    the rest  the stream: a pickle, before it a pickled list of row identities where there are rows

The MAC ties the bytes to one place: those of another run, or of another checkpoint of the same run,
do not verify. It is verified before anything is unpickled, since unpickling can run any code. A
stream without rows is what ``dill.loads`` reads.
"""

from __future__ import annotations

import io
import logging
import math
import sys
from collections.abc import Sequence
from typing import Any, Final, TypeAlias, cast

from sqlalchemy.exc import DBAPIError, NoInspectionAvailable

from flowroute.engine.pickling import HOLDS_CODE, HOLDS_ROWS, Reader, TooLarge, write
from flowroute.engine.reductions import Missing
from flowroute.engine.refusals import name_of
from flowroute.engine.rows import SessionSource, are_identities, fetch
from flowroute.engine.signing import MAC_SIZE, Signatures
from flowroute.errors import (
    CheckpointTampered,
    CheckpointUnreadable,
    ForeignPython,
    PayloadTooLarge,
    RowDeleted,
    UnstorableValue,
)

__all__ = ["PYTHON_TAG", "Codec", "SessionSource"]

log = logging.getLogger(__name__)

_IMPLEMENTATION: Final = sys.implementation.name

PYTHON_TAG: Final = "{}{}{}".format(
    {"cpython": "cp", "pypy": "pp"}.get(_IMPLEMENTATION, _IMPLEMENTATION), *sys.version_info[:2]
)
"""The interpreter whose bytecode this process understands, such as ``cp311``."""

VERSION: Final = 1
HEAD_SIZE: Final = 2
STREAM_AT: Final = HEAD_SIZE + MAC_SIZE

KILOBYTE: Final = 1_000
MEGABYTE: Final = 1_000_000
LONGEST_REASON: Final = 300
"""Characters of an exception's message that are quoted."""

_Value: TypeAlias = tuple[str, dict[str, Any], dict[str, Any]]


class Codec(Signatures):
    """Turns values into signed bytes and back; signs and verifies tokens.

    Parameters:
        keys: Secret keys, the newest first: it signs, all of them verify.
        max_bytes: A checkpoint with more bytes is refused.
        warn_bytes: A checkpoint with more bytes is logged as a warning.

    Raises:
        SecretKeyMissing: No key, or an empty one.
        ConfigurationError: `keys` is a text and not a list of them.

    Example:
        >>> from sqlalchemy.orm import Session
        >>> codec = Codec(["newest key", "older key"])
        >>> value = ("pay", {}, {"total": 3})
        >>> payload = codec.encode(value, run_id="r", seq=0, session=Session)
        >>> codec.decode(payload, run_id="r", seq=0, python=PYTHON_TAG, session=Session)
        ('pay', {}, {'total': 3})
    """

    def __init__(
        self, keys: Sequence[str | bytes], *, max_bytes: int = 2_000_000, warn_bytes: int = 512_000
    ) -> None:
        super().__init__(keys)
        self._max_bytes = max_bytes
        self._warn_bytes = warn_bytes

    def encode(self, value: _Value, *, run_id: str, seq: int, session: SessionSource) -> bytes:
        """Write a checkpoint.

        Database rows in `value`, at any depth, are written as their class and primary key; new ones
        are added to the session and flushed first.

        Parameters:
            value: ``(step, state, arguments)``; at the end of a run ``("", {}, {"result": ...})``.
            run_id: The run that the checkpoint belongs to.
            seq: Its number in the run.
            session: Gives the run's session; called only if a row is met.

        Returns:
            The signed bytes.

        Raises:
            UnstorableValue: Something in it can not be stored; ``path`` says where.
            PayloadTooLarge: It has more bytes than allowed; ``path`` names the largest part.
            Exception: Whatever the flush of the session raises.
        """
        try:
            stream, flags = write(value, session, self._max_bytes - STREAM_AT)
            head = bytes((VERSION, flags))
            mac = self.mac(place_of(head, run_id, seq, PYTHON_TAG), stream)
            payload = b"".join((head, mac, stream))
            if len(payload) > self._warn_bytes:
                self._warn(len(payload), value, session, f"{run_id}/{seq}")
        except TooLarge:
            raise self._too_large(value, session, run_id) from None
        except UnstorableValue as error:
            error.run_id, error.step = run_id, value[0] or None
            raise
        return payload

    def decode(
        self, payload: bytes, *, run_id: str, seq: int, python: str, session: SessionSource
    ) -> Any:
        """Read a checkpoint.

        Database rows come from the session: with current values, and one object for a row however
        often the value holds it.

        Parameters:
            payload: The bytes that `encode` gave.
            run_id: The run that the checkpoint belongs to.
            seq: Its number in the run.
            python: The `PYTHON_TAG` of the process that wrote it.
            session: Gives the run's session; called only if there are rows.

        Returns:
            The value that was written.

        Raises:
            CheckpointTampered: The signature does not fit the bytes, the run, the number and the
                tag. Nothing was unpickled.
            ForeignPython: It holds code by value, written by another minor version of Python.
            RowDeleted: It holds a row that no longer exists.
            CheckpointUnreadable: It needs something that the deployed code no longer has.
            sqlalchemy.exc.SQLAlchemyError: Rows could not be fetched. That says nothing about the
                checkpoint: try again.
        """
        head, mac = payload[:HEAD_SIZE], payload[HEAD_SIZE:STREAM_AT]
        if not self.verify(mac, place_of(head, run_id, seq, python), payload[STREAM_AT:]):
            raise CheckpointTampered(
                f"Checkpoint {seq} of run {run_id} has no valid signature: its bytes were altered "
                "or belong elsewhere, or the secret key that signed it is no longer configured. If "
                "the key was replaced, put the old one back, behind the new one in the list.",
                run_id=run_id,
            )
        version, flags = head
        reading = _Reading(f"Checkpoint {seq} of run {run_id}", run_id)
        if version != VERSION:
            raise reading.refused(
                f"it has format {version}, and this version of flowroute reads format {VERSION}. "
                "Deploy the version that wrote it, or a newer one."
            )
        if flags & HOLDS_CODE and python != PYTHON_TAG:
            raise reading.refused(
                f"it holds code by value, such as a lambda or a nested function, that {python} "
                f"wrote, and this process is {PYTHON_TAG}. Let a process on {python} finish the "
                "run, and define functions at the top level of a module: those are stored by name.",
                ForeignPython,
            )
        file = io.BytesIO(payload)
        file.seek(STREAM_AT)
        rows = reading.fetch(reading.load(file, ()), session) if flags & HOLDS_ROWS else ()
        return reading.checked(reading.load(file, rows))

    # -- sizes -------------------------------------------------------------------------------------

    def _too_large(self, value: _Value, session: SessionSource, run_id: str) -> PayloadTooLarge:
        path, size = self._largest(value, session)
        return PayloadTooLarge(
            f"The checkpoint would have more than {_in_words(self._max_bytes)}, which is the "
            f"limit; its largest part is {path} with {size}. Store that in a file or a table of "
            "your own, and pass its path or its id.",
            path=path,
            run_id=run_id,
            step=value[0] or None,
        )

    def _warn(self, size: int, value: _Value, session: SessionSource, checkpoint: str) -> None:
        path, largest = self._largest(value, session)
        log.warning(
            "Checkpoint %s has %s; its largest part is %s with %s. Every transition of the run "
            "writes it anew: store large values in a file or a table of your own, and pass a path "
            "or an id.",
            checkpoint,
            _in_words(size),
            path,
            largest,
        )

    def _largest(self, value: _Value, session: SessionSource) -> tuple[str, str]:
        """The path of the largest part of a value, and its size in words."""
        sizes: dict[str, float] = {}
        step, state, arguments = value
        alone: dict[str, _Value] = {}
        for name, part in state.items():
            alone[name_of(value, state, name)] = (step, {name: part}, {})
        for name, part in arguments.items():
            alone[name_of(value, arguments, name)] = (step, {}, {name: part})
        for path, part_alone in alone.items():
            try:
                stream, _ = write(part_alone, session, self._max_bytes)
                sizes[path] = len(stream)
            except TooLarge:
                sizes[path] = math.inf
        path = max(sizes, key=sizes.__getitem__)
        if sizes[path] == math.inf:
            return path, f"more than {_in_words(self._max_bytes)}"
        return path, _in_words(int(sizes[path]))


class _Reading:
    """One checkpoint that is being read.

    Parameters:
        where: The checkpoint in words, as a sentence begins.
        run_id: Its run.
    """

    __slots__ = ("_run_id", "_where")

    def __init__(self, where: str, run_id: str) -> None:
        self._where = where
        self._run_id = run_id

    def load(self, file: io.BytesIO, rows: Sequence[Any]) -> Any:
        """Unpickle what comes next in a file."""
        reader = Reader(file)
        reader.rows = rows
        try:
            return reader.load()
        except DBAPIError:  # an object asked the database while it was made: no fault of the bytes
            raise
        except (Exception, SystemExit) as error:  # unpickling runs the user's classes and modules
            raise self.refused(_reason(error)) from error

    def checked(self, value: object) -> _Value:
        """A value that is a step, a state and arguments; anything else is refused."""
        kind = type(value).__name__
        parts = cast("tuple[object, ...]", value) if isinstance(value, tuple) else ()
        if list(map(type, parts)) == [str, dict, dict]:
            return cast("_Value", value)
        raise self.refused(
            f"it holds a {kind} that is not a step with state and arguments by "
            "name. flowroute wrote no such checkpoint: restore its bytes and retry the run, or "
            "cancel the run."
        )

    def fetch(self, identities: Any, session: SessionSource) -> list[Any]:
        """The rows of a checkpoint, all of them."""
        try:
            if not are_identities(identities):
                raise self.refused(
                    "its list of rows does not fit: a table has another primary key by now, or it "
                    "is no such list. Deploy code in which it fits, and retry the run."
                )
            rows = fetch(identities, session())
        except NoInspectionAvailable as error:
            raise self.refused(
                f"it holds a row of a class that is no longer mapped to a table ({error}). Deploy "
                "code in which it is, and retry the run."
            ) from error
        for (cls, key), row in zip(identities, rows, strict=True):
            if row is None:
                shown = key[0] if len(key) == 1 else key
                raise self.refused(
                    f"it holds the row {cls.__name__} {shown!r}, which no longer exists. Restore "
                    "the row and retry the run, or cancel the run.",
                    RowDeleted,
                )
        return rows

    def refused(
        self, reason: str, kind: type[CheckpointUnreadable] = CheckpointUnreadable
    ) -> CheckpointUnreadable:
        """The error to raise, for a reason in sentences."""
        return kind(f"{self._where} can not be read: {reason}", run_id=self._run_id)


def place_of(head: bytes, run_id: str, seq: int, python: str) -> bytes:
    """What the MAC of a checkpoint covers besides the stream."""
    # Lengths stand before the texts, so that no two places are spelt the same way.
    return head + f"{seq} {len(run_id)} {len(python)} {run_id}{python}".encode()


def _in_words(size: int) -> str:
    if size < KILOBYTE:
        return f"{size} bytes"
    if size < MEGABYTE:
        return f"{size / KILOBYTE:.0f} kB"
    return f"{size / MEGABYTE:.1f} MB"


def _reason(error: BaseException) -> str:
    """Why a stream could not be read and what to do, in sentences."""
    if not isinstance(error, Missing):
        text = f"{type(error).__name__}: {error}"
        if len(text) > LONGEST_REASON:
            text = f"{text[:LONGEST_REASON]}…"
        return (
            f"making its values anew failed with {text}. If a class has changed since, let it "
            "still accept what was stored, and retry the run."
        )
    if error.module == "__main__":
        return (
            f"it needs {error.name!r} of the program that wrote it (its module is '__main__'), and "
            "the program that reads it has none. Move it into a module that both import. This run "
            "can only be finished by the program that began it."
        )
    advice = "Deploy code that has it, an alias under the old name will do, and retry the run."
    cause = error.__cause__
    if cause is None or isinstance(cause, AttributeError):
        return f"the module {error.module!r} no longer has {error.name!r}. {advice}"
    return (
        f"it needs {error.name!r} of the module {error.module!r}, and the import of that failed "
        f"with {type(cause).__name__}: {cause}. {advice}"
    )
