"""What a framework's leaf asks of an engine: bookmarks, and starts in place of another run."""

from __future__ import annotations

import pytest

from flowroute import Continuation, Engine, Flow, done, step
from flowroute.engine.turn import REQUEST
from flowroute.errors import ArgumentError, RunNotFinished, RunNotFound, TransitionError
from tests.engine.conftest import MakeEngine
from tests.engine.support import Shelf, Writing, counting, page


class Visited(Flow):
    """Counts, then shows a page or ends."""

    visits: int = 0

    @step(start=True)
    def count(self, *, end: bool) -> Continuation[int]:
        self.visits += 1
        return done(self.visits) if end else self.show()

    @page(final=True, to=())
    def show(self) -> str:
        return f"{self.visits} visits"


def test_a_bookmark_is_read_by_one_statement_and_is_all_that_a_visit_reads(engine: Engine) -> None:
    run = engine.start(Visited().count(end=False))
    with counting(engine) as counted:
        bookmark = engine.lookup.bookmark(run.id)
        assert engine.visit(bookmark, REQUEST).answer == "1 visits"
    assert len(counted.statements) == 1
    with pytest.raises(RunNotFound):
        engine.lookup.bookmark("nobody")


def test_a_visit_tells_the_bookmark_that_the_run_is_at(make_engine: MakeEngine) -> None:
    engine = make_engine(shelf := Shelf())
    run = engine.start(Writing().one())
    outcome = engine.visit(run.id, REQUEST)
    assert outcome.bookmark is not None
    assert outcome.bookmark.record.waiting_for == "worker"
    with pytest.raises(RunNotFinished):
        engine.lookup.result_of(outcome.bookmark)
    shelf.work()
    assert engine.lookup.result_of(engine.lookup.bookmark(run.id)) == ["one", "two", "two again"]


def test_the_state_of_a_run_can_be_looked_at_anywhere_in_it(engine: Engine) -> None:
    for end in (True, False):
        run = engine.start(Visited().count(end=end))
        flow = engine.lookup.flow_of(engine.lookup.bookmark(run.id))
        assert isinstance(flow, Visited)
        assert flow.visits == 1


def test_who_holds_a_key_is_known_before_a_start(engine: Engine) -> None:
    continuation = Visited().count(end=True)
    assert engine.held_bookmark(continuation, "k") is None
    run = engine.start(continuation, key="k")
    held = engine.held_bookmark(continuation, "k")
    assert held is not None
    assert held.record.id == run.id
    assert engine.held_bookmark(Writing().one(), "k") is None
    with pytest.raises(ArgumentError):
        engine.held_bookmark(continuation, "")
    with pytest.raises(TransitionError):
        engine.held_bookmark(done(), "k")


def test_a_start_in_place_of_a_finished_run_takes_over_its_key(engine: Engine) -> None:
    old = engine.start(Visited().count(end=True), key="k")
    new = engine.start(Visited(visits=5).count(end=True), key="k", instead_of=old.id)
    assert new.id != old.id
    assert (old.key, new.key) == (None, "k")
    assert (old.result, new.result) == (1, 6)
    late = engine.start(Visited().count(end=True), key="k", instead_of=old.id)
    assert late.id == new.id


def test_a_start_in_place_of_another_that_can_not_be_stored_leaves_the_key_where_it_is(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the disk is full")

    old = engine.start(Visited().count(end=True), key="k")
    monkeypatch.setattr(engine._store, "insert_run", fail)  # noqa: SLF001
    with pytest.raises(RuntimeError):
        engine.start(Visited().count(end=True), key="k", instead_of=old.id)
    assert old.key == "k"
    assert [run.id for run in engine.runs()] == [old.id]
