"""DBOS, which re-runs a workflow's function and looks each finished step up."""

# pyright: reportMissingImports=false
# The peers are no part of the environment in which types are checked.

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dbos import DBOS

from benchmarks.flows import TEXT
from benchmarks.peers.settings import use_pragmas
from benchmarks.peers.timing import timed


@DBOS.step()  # type: ignore[untyped-decorator]  # not installed where types are checked
def work(left: int, text: str) -> int:
    """One trivial step with two arguments."""
    del text
    return left - 1


@DBOS.workflow()  # type: ignore[untyped-decorator]  # as above
def chain_of_steps(steps: int) -> int:
    """So many steps."""
    return chain_loop(steps)


reached = threading.Event()
entered: list[float] = []


@DBOS.step()  # type: ignore[untyped-decorator]  # not installed where types are checked
def rest(left: int) -> int:
    """The step that a restart enters. It is never done."""
    entered.append(time.perf_counter())
    reached.set()
    threading.Event().wait()
    return left


@DBOS.workflow()  # type: ignore[untyped-decorator]  # as above
def long_workflow(steps: int) -> int:
    """So many trivial steps, and then the one that is never done."""
    left: int = rest(chain_loop(steps))
    return left


def chain_loop(steps: int) -> int:
    """So many steps."""
    left = steps
    while left:
        left = work(left, TEXT)
    return left


class Chains:
    """Workflows of trivial steps."""

    def run(self, steps: int, threads: int = 1) -> dict[str, float]:
        """One workflow of so many steps in each thread."""
        gc.collect()
        return timed(lambda: chain_of_steps(steps), threads)

    def short(self, steps: int, runs: int) -> dict[str, float]:
        """So many short workflows, one after another."""

        def many() -> None:
            for _ in range(runs):
                chain_of_steps(steps)

        gc.collect()
        return timed(many)


def launch(url: str, **settings: Any) -> None:
    """Start DBOS on a database."""
    config: Any = {
        "name": "bench",
        "system_database_url": url,
        "log_level": "ERROR",
        "application_version": "1",
        "executor_id": "bench",
        **settings,
    }
    DBOS(config=config)
    DBOS.launch()


@contextmanager
def chain(url: str, synchronous: str) -> Iterator[Chains]:
    """DBOS as it comes, with the same PRAGMAs."""
    use_pragmas(synchronous)
    launch(url)
    yield Chains()
    DBOS.destroy()


class Resuming:
    """A workflow that many steps lie behind; the process is killed afterwards."""

    def __init__(self, url: str) -> None:
        self._url = url

    def prepare(self, steps: int) -> None:
        """Start a workflow and bring it so far."""
        launch(self._url)
        DBOS.start_workflow(long_workflow, steps)
        reached.wait()

    def restart(self) -> float:
        """Seconds from recovery to the step: launching DBOS before it is not counted."""
        launch(self._url, executor_id="another")
        gc.collect()
        began = time.perf_counter()
        DBOS._recover_pending_workflows(["bench"])  # noqa: SLF001 - what launching calls
        reached.wait()
        return entered.pop() - began


@contextmanager
def resuming(url: str, synchronous: str) -> Iterator[Resuming]:
    """On one database."""
    use_pragmas(synchronous)
    yield Resuming(url)
