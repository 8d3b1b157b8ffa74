"""The flows that are measured."""

from __future__ import annotations

import time
from typing import Any

from flowroute import Continuation, Flow, done, step, worker_step

TEXT = "a short text"


class Chain(Flow, name="benchmarks.Chain"):
    """So many trivial steps with two arguments."""

    @step(start=True)
    def work(self, left: int, text: str) -> Continuation[int]:
        """One step; the last of them ends the run."""
        return self.work(left - 1, text) if left > 1 else done(left)


def tuned_chain(**options: Any) -> type[Any]:
    """The same flow with class keywords.

    Raises:
        TypeError: This flowroute knows no such keyword.
    """

    class Tuned(Flow, name="benchmarks.Tuned", **options):
        """As `Chain`."""

        @step(start=True)
        def work(self, left: int, text: str) -> Continuation[int]:
            """One step; the last of them ends the run."""
            return self.work(left - 1, text) if left > 1 else done(left)

    return Tuned


class RoundTrip(Flow, name="benchmarks.RoundTrip"):
    """A worker step between two plain ones: from where it suspends to where it goes on."""

    suspended_at: float = 0.0

    @step(start=True)
    def begin(self, number: int, text: str) -> Continuation[float]:
        """Suspend the run."""
        self.suspended_at = time.monotonic()
        return self.work(number, text)

    @worker_step(start=True)
    def work(self, number: int, text: str) -> Continuation[float]:
        """Return at once; runs that are drained start here."""
        del text
        return self.resumed(number)

    @step
    def resumed(self, number: int) -> Continuation[float]:
        """The run goes on: how long that took, in seconds."""
        del number
        # The clock is the system's, so two processes read the same one.
        return done(time.monotonic() - self.suspended_at)


class Crowded(Flow, name="benchmarks.Crowded"):
    """A run among very many: at a worker step, or at a plain one."""

    @step(start=True)
    def begin(self, number: int, text: str) -> Continuation[int]:
        """Before the wait."""
        return self.work(number, text)

    @worker_step
    def work(self, number: int, text: str) -> Continuation[int]:
        """What a worker does."""
        return self.rest(number, text)

    @step
    def rest(self, number: int, text: str) -> Continuation[int]:
        """What comes last."""
        del text
        return done(number)


class Order(Flow, name="benchmarks.Order"):
    """What a shop does: some plain steps, a worker step, some plain steps."""

    before: int
    after: int

    @step(start=True)
    def begin(self, left: int, text: str) -> Continuation[int]:
        """Before the worker step."""
        return self.begin(left - 1, text) if left > 1 else self.work(text)

    @worker_step
    def work(self, text: str) -> Continuation[int]:
        """On a worker."""
        return self.end(self.after, text)

    @step
    def end(self, left: int, text: str) -> Continuation[int]:
        """After it."""
        return self.end(left - 1, text) if left > 1 else done(left)
