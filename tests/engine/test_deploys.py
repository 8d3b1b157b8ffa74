"""A deploy that changes where a step runs: the runs that wait at it go there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowroute import Continuation, Engine, Flow, done, step, worker_step
from flowroute.engine import flow as flows
from flowroute.engine.clock import FakeClock
from flowroute.engine.turn import REQUEST
from tests.engine.conftest import MakeEngine
from tests.engine.support import Moves, Shelf, page


def as_worker_step() -> type[Any]:
    """The flow with a worker step."""

    class Deployed(Flow):
        @worker_step(start=True)
        def ask(self) -> Continuation[str]:
            return done("of a worker")

    return Deployed


def as_page() -> type[Any]:
    """The flow with a page in its place."""

    class Deployed(Flow):
        @page(start=True, to=("done",))
        def ask(self) -> Any:
            return "of a page"

    return Deployed


def as_step() -> type[Any]:
    """The flow with a plain step in its place."""

    class Deployed(Flow):
        @step(start=True)
        def ask(self) -> Continuation[str]:
            return done("of a plain step")

    return Deployed


def deploy(define: Callable[[], type[Any]]) -> Any:
    """Replace the flow by another version of it, as a new process would know it."""
    flows._flows.pop("Deployed", None)  # noqa: SLF001
    return define()


@pytest.fixture
def shelf() -> Shelf:
    """The executor of `engine`."""
    return Shelf()


@pytest.fixture
def moves() -> Moves:
    """The notifier of `engine`."""
    return Moves()


@pytest.fixture
def engine(make_engine: MakeEngine, shelf: Shelf, moves: Moves, clock: FakeClock) -> Engine:
    """An engine whose hints wait and whose time stands still."""
    return make_engine(shelf, clock=clock, notifier=moves)


def test_a_worker_step_that_became_a_page_waits_for_a_request(
    engine: Engine, shelf: Shelf, moves: Moves
) -> None:
    run = engine.start(deploy(as_worker_step)().ask())
    deploy(as_page)
    assert shelf.work() == [False]
    assert (run.state, run.waiting_for, run.at_rest) == ("waiting", "page", True)
    assert moves.heard[-1].waiting_for == "page"
    assert engine.visit(run.id, REQUEST).answer == "of a page"


def test_a_page_that_became_a_worker_step_is_left_to_an_executor(
    engine: Engine, shelf: Shelf, clock: FakeClock
) -> None:
    run = engine.start(deploy(as_page)().ask())
    deploy(as_worker_step)
    assert engine.visit(run.id, REQUEST).answered is False
    assert (run.state, run.waiting_for) == ("waiting", "worker")
    [hint] = shelf.hints
    assert (hint.run_id, hint.seq, hint.step) == (run.id, 0, "ask")
    shelf.hints.clear()  # and should it be lost, it is given again
    clock.advance(1)
    engine.recover()
    assert shelf.work() == [True]
    assert run.result == "of a worker"


@pytest.mark.parametrize("before", [as_worker_step, as_page])
def test_a_step_that_became_a_plain_one_runs_where_it_is_met(
    engine: Engine, shelf: Shelf, before: Callable[[], type[Any]]
) -> None:
    run = engine.start(deploy(before)().ask())
    deploy(as_step)
    if before is as_page:
        assert engine.visit(run.id, REQUEST).advanced
    else:
        assert shelf.work() == [True]
    assert run.result == "of a plain step"
