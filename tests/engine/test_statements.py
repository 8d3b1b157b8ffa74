"""What a run costs the database: counted statements and commits, never seconds."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from flowroute import Continuation, Engine, Flow, done, step, worker_step
from flowroute.engine.turn import REQUEST
from tests.engine.conftest import MakeEngine
from tests.engine.support import Note, Shelf, counting, page

TRANSITION = ["UPDATE flowroute_run SET", "INSERT INTO flowroute_checkpoint"]
BOTH = ["WITH moved AS"]
"""The same on PostgreSQL, and a start as well: one statement for both tables."""
START = ["INSERT INTO flowroute_run", "INSERT INTO flowroute_checkpoint"]


TAKING = ["SELECT", "UPDATE flowroute_run SET"]
TAKING_AT_ONCE = ["WITH claimed AS"]
"""The same on PostgreSQL."""


class Chain(Flow):
    """So many plain steps, then a worker step."""

    total: int = 0

    @step(start=True)
    def work(self, left: int, text: str) -> Continuation[int]:
        self.total += 1
        return self.work(left - 1, text) if left else self.rest()

    @worker_step
    def rest(self) -> Continuation[int]:
        return done(self.total)


@pytest.fixture
def shelf() -> Shelf:
    """The executor of `engine`."""
    return Shelf()


@pytest.fixture
def engine(make_engine: MakeEngine, shelf: Shelf) -> Engine:
    """An engine whose hints wait and whose tables were checked."""
    made = make_engine(shelf)
    made.check_tables()
    return made


@pytest.fixture
def transition(engine: Engine) -> list[str]:
    """What moves a run to its next checkpoint."""
    return BOTH if engine.database.engine.dialect.name == "postgresql" else TRANSITION


@pytest.fixture
def taking(engine: Engine) -> list[str]:
    """What reads and claims a run that a hint names."""
    return TAKING_AT_ONCE if engine.database.engine.dialect.name == "postgresql" else TAKING


@pytest.fixture
def start(engine: Engine) -> list[str]:
    """What stores a new run."""
    return BOTH if engine.database.engine.dialect.name == "postgresql" else START


def test_a_transition_is_at_most_two_statements_and_one_commit(
    engine: Engine, start: list[str], transition: list[str]
) -> None:
    with counting(engine) as counted:
        engine.start(Chain().work(9, "x"))
    assert counted.writes == start + transition * 10
    assert len(counted.statements) == len(counted.writes)
    assert counted.commits == 11


def test_a_transition_with_a_write_of_the_step_is_one_statement_more(
    engine: Engine, start: list[str], transition: list[str]
) -> None:
    class Noting(Flow):
        @step(start=True)
        def work(self) -> Continuation[None]:
            self.session.add(Note(text="a note"))
            return done()

    with counting(engine) as counted:
        engine.start(Noting().work())
    assert sorted(counted.writes) == sorted([*start, *transition, "INSERT INTO note"])
    assert counted.commits == 2


def test_a_worker_step_is_read_claimed_and_advanced(
    engine: Engine, shelf: Shelf, taking: list[str], transition: list[str]
) -> None:
    class Timed(Flow):
        @worker_step(start=True, timeout=timedelta(minutes=1))
        def work(self) -> Continuation[None]:
            return done()

    for start in (Chain().work(0, "x"), Timed().work()):
        engine.start(start)
        with counting(engine) as counted:
            shelf.work()
        assert len(counted.statements) == len(taking) + len(transition)
        assert counted.writes == [taking[-1], *transition]
        assert counted.commits == 2


def test_a_key_is_one_look_more(engine: Engine, start: list[str], transition: list[str]) -> None:
    with counting(engine) as counted:
        engine.start(Chain().work(0, "x"), key="k")
    assert len(counted.statements) == 1 + len(start) + len(transition)
    with counting(engine) as counted:
        engine.start(Chain().work(0, "x"), key="k")
    assert len(counted.statements) == 1
    assert counted.commits == 0


def test_resuming_costs_the_same_after_three_and_after_three_hundred_steps(
    engine: Engine, shelf: Shelf, taking: list[str], transition: list[str]
) -> None:
    costs: list[list[str]] = []
    read: list[int] = []
    for steps in (3, 300):
        shelf.hints.clear()
        run = engine.start(Chain().work(steps, "x"))
        with counting(engine) as counted:
            assert shelf.work() == [True]
        costs.append(counted.statements)
        read.append(len(run.checkpoints))
        assert run.result == steps + 1
    assert costs[0] == costs[1]
    assert len(costs[0]) == len(taking) + len(transition)
    assert read == [6, 303]


def test_the_rows_among_a_worker_steps_arguments_are_read_once_and_together(
    engine: Engine, shelf: Shelf
) -> None:
    class Reading(Flow):
        @step(start=True)
        def begin(self) -> Continuation[str]:
            return self.read([Note(text=str(number)) for number in range(10)])

        @worker_step
        def read(self, noted: list[Note]) -> Continuation[str]:
            return done("".join(note.text for note in noted))

    run = engine.start(Reading().begin())
    with counting(engine) as counted:
        assert shelf.work() == [True]
    assert run.result == "0123456789"
    assert len([s for s in counted.statements if "FROM note" in s]) == 1


def test_a_visit_to_a_waiting_page_is_one_statement(engine: Engine) -> None:
    class Shown(Flow):
        @page(start=True, to=("done",))
        def show(self) -> Any:
            return "shown"

    run = engine.start(Shown().show())
    with counting(engine) as counted:
        assert engine.visit(run.id, REQUEST).answer == "shown"
    assert [s.split()[0] for s in counted.statements] == ["SELECT"]
    assert counted.commits == 0


def test_statements_are_compiled_once(engine: Engine) -> None:
    """However many runs there are, the cache of compiled statements does not grow with them."""
    engine.start(Chain().work(3, "x"), key="first")
    cache: Any = engine.database.engine._compiled_cache  # noqa: SLF001
    before = len(cache)
    for number in range(5):
        engine.start(Chain().work(3, "x" * number), key=str(number))
    assert len(cache) == before
