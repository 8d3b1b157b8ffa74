"""flowroute itself."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.flows import TEXT, Chain, tuned_chain
from benchmarks.peers.settings import SECRET, pragmas, use_pragmas
from benchmarks.peers.timing import timed
from flowroute import Engine


class Chains:
    """Runs of trivial steps.

    Parameters:
        engine: Where.
        flow: The flow, shaped as `Chain`.
    """

    def __init__(self, engine: Engine, flow: type[Any]) -> None:
        self._engine = engine
        self._flow = flow

    def run(self, steps: int, threads: int = 1) -> dict[str, float]:
        """One run of so many steps in each thread."""

        def work() -> None:
            run = self._engine.start(self._flow().work(steps, TEXT))
            if run.state != "done":
                raise AssertionError(run.error)

        gc.collect()
        return timed(work, threads)

    def short(self, steps: int, runs: int) -> dict[str, float]:
        """So many short runs, one after another."""

        def work() -> None:
            for _ in range(runs):
                self._engine.start(self._flow().work(steps, TEXT))

        gc.collect()
        return timed(work)

    def settings(self) -> dict[str, Any]:
        """What the connections are set to."""
        return pragmas(self._engine.database.engine)


@contextmanager
def chain(url: str, synchronous: str, options: dict[str, Any] | None = None) -> Iterator[Chains]:
    """An engine as it comes.

    Parameters:
        url: The database.
        synchronous: SQLite's setting.
        options: Class keywords of the flow.
    """
    use_pragmas(synchronous)
    flow = tuned_chain(**options) if options else Chain
    with Engine(url, secret_keys=[SECRET]) as engine:
        engine.create_all()
        yield Chains(engine, flow)
