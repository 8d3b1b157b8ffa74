"""What an executor and a notifier must do.

Both only ever carry hints: losing one costs delay, never work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from flowroute.engine.engine import Engine


@dataclass(frozen=True, slots=True)
class Hint:
    """*Look at this run*: all that an executor is given. It holds ids, never a pickle."""

    run_id: str
    """The run to look at."""
    seq: int
    """The checkpoint it stood at; a run that has moved on since makes the hint void."""
    attempt: int
    """How many attempts of the step had begun."""
    timeout_seconds: float | None
    """How long one attempt of the step may take; None: any time."""
    flow: str
    """The flow's name, for people."""
    step: str
    """The step's name, for people."""


class Move(NamedTuple):
    """A run moved: what a notifier tells browsers."""

    run_id: str
    seq: int
    """The run's bookmark after the move."""
    state: str
    waiting_for: str | None
    step: str | None
    """The step at the bookmark; None once the run ended with a result."""
    progress: dict[str, Any] | None
    """``{"done": float, "total": float, "message": str}`` while a step reports progress."""


class Executor(Protocol):
    """Runs worker steps: this process's threads, RQ, or the caller itself."""

    name: str
    """A short word, written into the checkpoints of the steps it ran."""

    def attach(self, engine: Engine) -> None:
        """Called once, by the engine that it belongs to."""

    def start(self) -> None:
        """Start what works in the background, unless it runs already in this process."""

    def submit(self, hint: Hint) -> None:
        """Have some process call ``engine.advance`` soon with the hint's run, seq and timeout.

        May raise `OSError` or any `Exception` of its library: the engine logs it, and recovery
        submits again.
        """

    def close(self) -> None:
        """Stop what works in the background. What is not finished is found by recovery."""


class Notifier(Protocol):
    """Tells whoever watches that a run moved."""

    def moved(self, move: Move) -> None:
        """Called after the commit. May raise: the engine logs it and goes on."""


class Silence:
    """A notifier for when nobody watches."""

    def moved(self, move: Move) -> None:
        """Tell nobody."""
