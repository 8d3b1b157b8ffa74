"""One transition under the profiler: which part of the program takes how much of it."""

from __future__ import annotations

import cProfile
import pstats
import re
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.flows import TEXT, Chain
from benchmarks.peers.settings import SECRET, use_pragmas
from flowroute import Engine

#: The parts, each by what its functions are called or where they lie; the first that fits counts.
PARTS = {
    "COMMIT in the driver": r"'commit' of 'sqlite3|psycopg.*\(commit\)|_commit_gen",
    "database driver": r"'sqlite3\.|/psycopg|psycopg_binary",
    "SQLAlchemy": r"/sqlalchemy/",
    "the step, its call and its arguments": r"engine/(?:step|validation|continuation|context|flow|"
    r"graph)\.py|benchmarks/flows\.py|pydantic",
    "bytes of the checkpoint": r"engine/(?:codec|pickling|signing|reductions|rows|refusals)\.py|"
    r"Pickler|_hashlib|hmac|/dill/",
    "arguments as JSON": r"engine/description\.py|/json/",
    "dispatcher, transaction and lease": r"engine/(?:dispatcher|failure|heartbeat|work|turn|"
    r"records|identity|transition|inherited|database|store|clock|schema|ports|checkpoint\w*)\.py",
    "hints and notices": r"engine/(?:messenger|local|run|engine)\.py",
}
REST = "built-in functions and the standard library"


class Profiled:
    """Runs under the profiler.

    Parameters:
        engine: Where.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run(self, steps: int) -> dict[str, dict[str, float]]:
        """By part: microseconds and calls for each transition. The profiler inflates both alike."""
        self._engine.start(Chain().work(50, TEXT))
        profile = cProfile.Profile()
        profile.enable()
        self._engine.start(Chain().work(steps, TEXT))
        profile.disable()
        found = {part: {"microseconds": 0.0, "calls": 0.0} for part in (*PARTS, REST)}
        stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]  # not in its stub
        for (file, _, function), (_, calls, own_seconds, _, _) in stats.items():
            found[_part(f"{file}({function})")]["microseconds"] += own_seconds / steps * 1e6
            found[_part(f"{file}({function})")]["calls"] += calls / steps
        return found


def _part(place: str) -> str:
    return next((part for part, pattern in PARTS.items() if re.search(pattern, place)), REST)


@contextmanager
def profiled(url: str, synchronous: str) -> Iterator[Profiled]:
    """An engine without background work."""
    use_pragmas(synchronous)
    with Engine(url, secret_keys=[SECRET], executor="inline") as engine:
        engine.create_all()
        yield Profiled(engine)
