"""Telling of what takes long, without delaying what does not."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

T = TypeVar("T")


class Bystander(Generic[T]):
    """Calls something, again and again, for what has been going on for long.

    A thread of its own looks at it now and then, so that what is over soon costs nothing.

    Parameters:
        tell: What to call, at least once.
        seconds: How long is long, and the time between two looks.
    """

    def __init__(self, tell: Callable[[T], None], seconds: float) -> None:
        self._tell = tell
        self._seconds = seconds
        self._lock = threading.Lock()
        self._seen: tuple[T, float] | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self, what: T) -> Generator[None]:
        """While this goes on. At its end nothing is being told of it any more."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, name="bystander", daemon=True)
            self._thread.start()
        self._seen = what, time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._seen = None

    def close(self) -> None:
        """End the thread."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(self._seconds):
            with self._lock:
                if self._seen is not None:
                    what, since = self._seen
                    if time.monotonic() - since >= self._seconds:
                        self._tell(what)
