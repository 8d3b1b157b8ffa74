"""Watchmen who tell whether anything was unpickled in this process.

The doors to an unpickler (the codec's own reader, `pickle`, `dill`) count who comes, CPython's
audit event ``pickle.find_class`` is heard from its own unpicklers, and a value may hold a `Canary`,
which sings when it is made anew, by whatever.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from unittest import mock

import dill

from flowroute.engine import codec as codec_module
from flowroute.engine.pickling import Reader

STOCK: Final = pickle.Unpickler
"""Python's own, before anybody watches it."""


@dataclass(slots=True)
class Watch:
    """What the watchmen noticed."""

    doors: int = 0
    """Calls of something that unpickles."""
    classes: int = 0
    """Names that an unpickler looked up."""
    songs: int = 0
    """Canaries that were made anew."""

    @property
    def reached(self) -> int:
        """How often any of them noticed something."""
        return self.doors + self.classes + self.songs


_on_watch: list[Watch] = []
_hearing: list[bool] = []


def _hear(event: str, _arguments: tuple[Any, ...]) -> None:
    if event == "pickle.find_class":
        for watch in _on_watch:
            watch.classes += 1


def sing() -> Canary:
    """Make a canary; to call this is what a stream tells an unpickler."""
    for watch in _on_watch:
        watch.songs += 1
    return Canary()


class Canary:
    """Tells the watch when it is unpickled, by whatever."""

    def __reduce__(self) -> tuple[Any, ...]:
        return sing, ()


@contextmanager
def watching() -> Iterator[Watch]:
    """Post the watchmen in this process."""
    if not _hearing:
        sys.addaudithook(_hear)  # for good: Python takes none back
        _hearing.append(True)
    watch = Watch()

    def counting(door: Any) -> Any:
        def open_door(*arguments: Any, **named: Any) -> Any:
            watch.doors += 1
            return door(*arguments, **named)

        return open_door

    doors = [(codec_module, "Reader", Reader)]
    doors += [(m, n, getattr(m, n)) for m in (pickle, dill) for n in ("load", "loads", "Unpickler")]
    _on_watch.append(watch)
    patches = [mock.patch.object(where, name, counting(door)) for where, name, door in doors]
    for patch in patches:
        patch.start()
    try:
        yield watch
    finally:
        for patch in patches:
            patch.stop()
        _on_watch.remove(watch)
