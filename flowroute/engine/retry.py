"""How often a step is tried, and how soon again."""

# Not everybody has a type checker: what it would refuse is refused when it runs, too.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import timedelta

from flowroute.errors import ArgumentError

CRASHES = 3
"""How often a step without `retry=` is tried when the process under it dies: an error fails it."""


@dataclass(frozen=True, slots=True, init=False)
class Retry:
    """How often, and how soon, a step is tried again.

    The wait before attempt *n + 1* is ``backoff * 2 ** (n - 1)``, at most `max_backoff`, of which a
    random part of up to `jitter` is taken off, so that runs which failed together do not come back
    together.

    Parameters:
        attempts: How often the step is tried in all, at least 1. ``Retry(1)`` means at most once,
            even when the process dies under it. A step without `retry=` fails at its first error,
            and is tried 3 times when its process dies.
        backoff: The wait after the first attempt.
        max_backoff: The longest wait.
        jitter: From 0 (none) to 1 (all of the wait may be taken off).

    Raises:
        ArgumentError: A value is out of its range.

    Example:
        >>> Retry(5, backoff=timedelta(seconds=2)).wait_seconds(3, roll=0.0)
        8.0
    """

    attempts: int
    backoff: timedelta
    max_backoff: timedelta
    jitter: float

    def __init__(
        self,
        attempts: int,
        *,
        backoff: timedelta = timedelta(seconds=1),
        max_backoff: timedelta = timedelta(hours=1),
        jitter: float = 0.25,
    ) -> None:
        if not isinstance(attempts, int) or attempts < 1:
            raise ArgumentError(
                f"Retry(attempts={attempts!r}): a step is tried at least once, a whole number of "
                "times."
            )
        for name, value in (("backoff", backoff), ("max_backoff", max_backoff)):
            if not isinstance(value, timedelta):
                raise ArgumentError(
                    f"Retry({name}={value!r}): give a timedelta, such as timedelta(seconds=2)."
                )
        if backoff < timedelta(0) or max_backoff < backoff:
            raise ArgumentError(
                f"Retry(backoff={backoff}, max_backoff={max_backoff}): the first wait is not "
                "negative and not longer than the longest."
            )
        if not 0 <= jitter <= 1:
            raise ArgumentError(f"Retry(jitter={jitter}): give a part from 0 to 1.")
        object.__setattr__(self, "attempts", attempts)
        object.__setattr__(self, "backoff", backoff)
        object.__setattr__(self, "max_backoff", max_backoff)
        object.__setattr__(self, "jitter", jitter)

    def wait_seconds(self, attempt: int, *, roll: float | None = None) -> float:
        """How long to wait after a failed attempt.

        Parameters:
            attempt: The attempt that failed, from 1.
            roll: From 0 to 1 in place of a random number.

        Returns:
            Seconds.
        """
        longest = self.max_backoff.total_seconds()
        # 2 ** 1000 would overflow a float long after the longest wait is reached.
        wait = min(self.backoff.total_seconds() * 2.0 ** min(attempt - 1, 60), longest)
        part = random.random() if roll is None else roll  # noqa: S311  # spreads load, guards nothing
        return wait * (1 - self.jitter * part)
