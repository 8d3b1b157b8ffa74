"""flowroute with its statements and commits counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from benchmarks.flows import TEXT, Chain
from benchmarks.peers.settings import SECRET, use_pragmas
from flowroute import Engine


class Counted:
    """Runs, and what they asked of the database.

    Parameters:
        engine: Where. No thread of its own may work in the background.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._statements = self._commits = 0
        event.listen(engine.database.engine, "before_cursor_execute", self._executed)
        event.listen(engine.database.engine, "commit", self._committed)

    def _executed(self, *_: Any) -> None:
        self._statements += 1

    def _committed(self, *_: Any) -> None:
        self._commits += 1

    def run(self, steps: int) -> dict[str, int]:
        """One run of so many steps."""
        before = self._statements, self._commits
        self._engine.start(Chain().work(steps, TEXT))
        return {
            "statements": self._statements - before[0],
            "commits": self._commits - before[1],
        }


@contextmanager
def counted(url: str, synchronous: str) -> Iterator[Counted]:
    """An engine without background work, so that all that is counted is the run's."""
    use_pragmas(synchronous)
    with Engine(url, secret_keys=[SECRET], executor="inline") as engine:
        engine.create_all()
        yield Counted(engine)
