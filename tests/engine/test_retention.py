"""Finished runs are deleted when their retention is over, and no others."""

from __future__ import annotations

from datetime import timedelta

import pytest

from flowroute import Continuation, Engine, Flow, done, worker_step
from flowroute.engine import recovery
from flowroute.engine.clock import FakeClock
from flowroute.engine.schema import checkpoint_table, run_table
from tests.engine.conftest import MakeEngine
from tests.engine.support import Shelf, count, stored


class Kept(Flow):
    """One worker step."""

    @worker_step(start=True)
    def work(self) -> Continuation[None]:
        return done()


@pytest.fixture
def shelf() -> Shelf:
    """The executor of `engine`."""
    return Shelf()


@pytest.fixture
def engine(make_engine: MakeEngine, shelf: Shelf, clock: FakeClock) -> Engine:
    """An engine whose hints wait and whose time stands still."""
    return make_engine(shelf, clock=clock)


def test_finished_runs_are_deleted_with_their_checkpoints_when_their_retention_is_over(
    make_engine: MakeEngine, clock: FakeClock
) -> None:
    engine = make_engine(shelf := Shelf(), clock=clock, retention=timedelta(days=7))
    old = engine.start(Kept().work(), key="old")
    shelf.work()
    cancelled = engine.start(Kept().work()).cancel()
    waiting = engine.start(Kept().work())
    clock.advance(timedelta(days=6).total_seconds())
    young = engine.start(Kept().work())
    engine.advance(young.id, 0)
    engine.recover()
    assert {run.id for run in engine.runs()} == {old.id, cancelled.id, waiting.id, young.id}
    clock.advance(timedelta(days=1).total_seconds())
    assert engine.recover().deleted == 2
    assert {run.id for run in engine.runs()} == {waiting.id, young.id}
    assert stored(engine) == (2, 3)
    assert engine.find(Kept, "old") is None
    assert not engine.recover().deleted


def test_without_retention_runs_are_kept(engine: Engine, shelf: Shelf, clock: FakeClock) -> None:
    engine.start(Kept().work())
    shelf.work()
    clock.advance(timedelta(days=10_000).total_seconds())
    engine.recover()
    assert count(engine, run_table) == 1
    assert count(engine, checkpoint_table) == 2


def test_old_runs_are_deleted_a_bounded_number_at_a_time(
    make_engine: MakeEngine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "PASS_LIMIT", 2)
    engine = make_engine(Shelf(), clock=clock, retention=timedelta(0))
    runs = [engine.start(Kept().work()) for _ in range(3)]
    for run in runs:
        clock.advance(1)
        run.cancel()
    assert engine.recover().deleted == 2
    assert [run.id for run in engine.runs()] == [runs[2].id]
    assert engine.recover().deleted == 1
