"""How often a worker tries again what fails: recovery without the database, jobs without Redis."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowroute.engine.engine import Engine

#: The longest pause between two recoveries while they fail, in seconds. A database that is back is
#: noticed within it, and until then nobody looks for what its end left behind.
LONGEST_RECOVERY_PAUSE_SECONDS = 5.0

#: How often the pause is doubled at most: after some hours the number would not fit a float.
MOST_DOUBLINGS = 16

#: The pauses between two tries to reach a Redis that is away, in seconds: from the first, doubled,
#: to the longest.
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0

_logger = logging.getLogger("flowroute.rq")


class RecoveryBeat:
    """Runs an engine's recovery at a steady beat, and less often while it fails.

    Parameters:
        engine: Whose runs to recover.
        every_seconds: The beat, in seconds.
    """

    def __init__(self, engine: Engine, every_seconds: float) -> None:
        self._engine = engine
        self._every_seconds = every_seconds
        self._due_at = 0.0
        self._failures = 0

    def run_if_due(self) -> None:
        """Recover, if the last recovery was long enough ago. What goes wrong is logged."""
        if time.monotonic() < self._due_at:
            return
        pause = self._every_seconds
        try:
            self._engine.recover()
        except Exception as error:  # be it the database or a fault in one run: the worker stays
            self._failures += 1
            longest = max(pause, LONGEST_RECOVERY_PAUSE_SECONDS)
            doubled = min(self._failures - 1, MOST_DOUBLINGS)
            pause = min(pause * 2**doubled, longest)
            _logger.error(  # noqa: TRY400 - with a traceback the first time
                "Recovery failed (%s: %s); the next try is in %g s",
                type(error).__name__,
                error,
                pause,
                exc_info=self._failures == 1,  # the same again each time says nothing new
            )
        else:
            if self._failures:
                _logger.info("Recovery works again after %d failures", self._failures)
            self._failures = 0
        self._due_at = time.monotonic() + pause


class Outage:
    """A time without Redis: told when it begins and when it ends, however often it is tried."""

    def __init__(self) -> None:
        self._began_at = 0.0
        self._pause_seconds = 0.0

    def pause(self, error: Exception) -> None:
        """Wait a moment before the next try."""
        if not self._pause_seconds:
            self._began_at = time.monotonic()
            self._pause_seconds = FIRST_PAUSE_SECONDS
            _logger.error("Redis is away (%s); the worker goes on when it is back", error)
        time.sleep(self._pause_seconds)
        self._pause_seconds = min(self._pause_seconds * 2, LONGEST_PAUSE_SECONDS)

    def over(self) -> None:
        """Redis answered."""
        if self._pause_seconds:
            _logger.info("Redis is back after %.1f s", time.monotonic() - self._began_at)
            self._pause_seconds = 0.0
