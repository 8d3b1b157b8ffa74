"""A gate: what one inline transition costs in counted work may fall, and never rise unnoticed.

Whoever makes it cheaper lowers the limits here; whoever makes it dearer has to say why.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from benchmarks.relay import Relay
from flowroute import Continuation, Engine, Flow, done, step
from tests.engine.conftest import MakeEngine
from tests.engine.support import KEYS, counting

STATEMENTS = 2  # one on PostgreSQL
COMMITS = 1
#: BEGIN is one of them where the driver sends it alone.
ROUND_TRIPS = 3
#: Functions of Python and of C, SQLAlchemy and the driver included; a little more than counted.
CALLS = {"sqlite": 310, "postgresql": 331}
#: Bytes that are allocated at the same time while one transition is made, beyond what stays.
PEAK_BYTES = 12_000
#: Memory blocks that some hundred transitions may leave behind: caches have been filled before.
LEFT_BLOCKS = 100

FEW, MANY = 20, 120


class Costing(Flow):
    """Trivial steps with two arguments."""

    @step(start=True)
    def work(self, left: int, text: str) -> Continuation[None]:
        return self.work(left - 1, text) if left else done()


class Peaks(Flow):
    """Trivial steps; each notes the peak of the memory since the step before it."""

    @step(start=True)
    def work(self, left: int, text: str) -> Continuation[None]:
        now, peak = tracemalloc.get_traced_memory()
        seen.append(peak - now)
        tracemalloc.reset_peak()
        return self.work(left - 1, text) if left else done()


seen: list[int] = []


def run(engine: Engine, steps: int) -> None:
    assert engine.start(Costing().work(steps, "x")).state == "done"


@pytest.fixture
def engine(make_engine: MakeEngine) -> Engine:
    """An engine that has compiled its statements and opened its connection."""
    made = make_engine()
    run(made, FEW)
    return made


@contextmanager
def counted_calls() -> Iterator[list[int]]:
    """Count the calls of functions in this thread; the one number in the list."""
    calls = [0]

    def called(_frame: Any, event: str, _argument: Any) -> None:
        if event in {"call", "c_call"}:
            calls[0] += 1

    # A collection in between would call whatever finalizes.
    gc.collect()
    gc.disable()
    before = sys.getprofile()
    sys.setprofile(called)
    try:
        yield calls
    finally:
        sys.setprofile(before)
        gc.enable()


def calls_of(engine: Engine, steps: int) -> int:
    with counted_calls() as calls:
        run(engine, steps)
    return calls[0]


def test_a_transition_keeps_to_its_statements_and_its_commit(engine: Engine) -> None:
    counts: list[tuple[int, int]] = []
    for steps in (FEW, MANY):
        with counting(engine) as counted:
            run(engine, steps)
        counts.append((len(counted.statements), counted.commits))
    (few_statements, few_commits), (many_statements, many_commits) = counts
    assert many_statements - few_statements <= STATEMENTS * (MANY - FEW)
    assert many_commits - few_commits == COMMITS * (MANY - FEW)


@pytest.mark.postgres
def test_a_transition_keeps_to_its_round_trips(shared_postgres_url: str) -> None:
    address = sa.make_url(shared_postgres_url)
    with Relay(address.port or 0) as relay:
        url = address.set(port=relay.port)
        with Engine(url, secret_keys=KEYS, executor="inline") as engine:
            run(engine, FEW)
            trips: list[int] = []
            for steps in (FEW, MANY):
                before = relay.round_trips
                run(engine, steps)
                trips.append(relay.round_trips - before)
    assert (trips[1] - trips[0]) / (MANY - FEW) <= ROUND_TRIPS


def test_a_transition_keeps_to_its_function_calls(engine: Engine) -> None:
    calls = (calls_of(engine, MANY) - calls_of(engine, FEW)) / (MANY - FEW)
    assert calls <= CALLS[engine.database.engine.dialect.name]


def test_a_transition_keeps_to_its_memory(make_engine: MakeEngine) -> None:
    engine = make_engine()
    run(engine, FEW)
    seen.clear()
    tracemalloc.start()
    try:
        engine.start(Peaks().work(MANY, "x"))
    finally:
        tracemalloc.stop()
    peaks = sorted(seen[FEW:])  # the first fill caches
    assert peaks[len(peaks) // 2] <= PEAK_BYTES


def test_transitions_leave_no_memory_behind(engine: Engine) -> None:
    run(engine, 3 * MANY)
    gc.collect()
    before = sys.getallocatedblocks()
    run(engine, 3 * MANY)
    gc.collect()
    assert sys.getallocatedblocks() - before <= LEFT_BLOCKS
