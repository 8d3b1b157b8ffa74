"""Progress: stored beside the run, told to whoever watches, and never in the step's way."""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import Any

import pytest

from flowroute import Continuation, Engine, Flow, done, step, worker_step
from flowroute.errors import ArgumentError
from tests.engine.conftest import MakeEngine
from tests.engine.support import Moves, Note, Shelf, in_thread, notes
from tests.waiting import wait_until


class Progressing(Flow):
    """Reports progress, then waits until it was stored."""

    @worker_step(start=True)
    def work(self) -> Continuation[Any]:
        self.run.progress(1, 3, "one")
        self.run.progress(2, 3, "two")
        for _ in range(500):
            if self.run.id in seen:
                break
            time.sleep(0.01)
        return done(dict(seen))


seen: dict[str, Any] = {}


def test_progress_is_stored_and_announced_while_the_step_runs(make_engine: MakeEngine) -> None:
    class Watching(Moves):
        def moved(self, move: Any) -> None:
            super().moved(move)
            if move.progress is not None and move.progress["done"] == 2:
                seen[move.run_id] = engine.lookup.read(move.run_id).progress

    engine = make_engine(Shelf(), notifier=(moves := Watching()))
    run = engine.start(Progressing().work())
    thread = in_thread(engine.advance, run.id, 0)
    thread.join(20)
    stored = {"done": 2, "total": 3, "message": "two"}
    assert run.result[run.id] == stored
    told = [move for move in moves.heard if move.progress == stored]
    assert [(m.run_id, m.seq, m.state, m.step) for m in told] == [(run.id, 0, "running", "work")]
    assert run.progress is None  # it was of the step that has ended


def test_progress_that_comes_faster_than_it_is_stored_is_merged(make_engine: MakeEngine) -> None:
    class Counting(Flow):
        @worker_step(start=True)
        def work(self) -> Continuation[float]:
            began = time.monotonic()
            for number in range(3000):
                self.run.progress(number, 3000)
            took = time.monotonic() - began
            wait_until(lambda: moves.progress()[-1:] == [expected], what="the newest is stored")
            return done(took)

    expected = {"done": 2999, "total": 3000, "message": ""}
    engine = make_engine(Shelf(), notifier=(moves := Moves()))
    run = engine.start(Counting().work())
    in_thread(engine.advance, run.id, 0).join(20)
    assert run.state == "done"
    assert len(moves.progress()) <= 20
    numbers = [progress["done"] for progress in moves.progress()]
    assert numbers == sorted(set(numbers))


def test_progress_does_not_block_while_the_step_holds_the_write_lock(
    make_engine: MakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    class Locking(Flow):
        @worker_step(start=True)
        def work(self) -> Continuation[float]:
            self.session.add(Note(text="held"))
            self.session.flush()
            longest = 0.0
            for number in range(200):
                began = time.monotonic()
                self.run.progress(number, 200)
                longest = max(longest, time.monotonic() - began)
                time.sleep(0.002)
            return done(longest)

    engine = make_engine(Shelf())
    run = engine.start(Locking().work())
    in_thread(engine.advance, run.id, 0).join(20)
    assert run.result < 0.1
    assert notes(engine) == ["held"]
    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) <= 1  # once, not at each try


def test_progress_of_a_step_does_not_show_at_the_next(make_engine: MakeEngine) -> None:
    """The heartbeat has taken the progress, and stores it only when the run has moved on."""

    class Moving(Flow):
        @worker_step(start=True)
        def one(self) -> Continuation[Any]:
            self.run.progress(1, 2, "of the first step")
            assert taken.wait(10)
            return self.two()

        @step
        def two(self) -> Continuation[Any]:
            moved_on.set()
            assert stored.wait(10)
            return done(engine.lookup.read(self.run.id).progress)

    taken, moved_on, stored = threading.Event(), threading.Event(), threading.Event()
    engine = make_engine(Shelf(), notifier=(moves := Moves()))
    pulse = engine._store.pulse  # noqa: SLF001

    def late(*arguments: Any, **options: Any) -> bool:
        taken.set()
        assert moved_on.wait(10)
        held = pulse(*arguments, **options)
        stored.set()
        return held

    engine._store.pulse = late  # type: ignore[method-assign]  # noqa: SLF001
    run = engine.start(Moving().one())
    in_thread(engine.advance, run.id, 0).join(20)
    assert run.result is None
    assert run.state == "done"
    assert moves.progress() == []


@pytest.mark.parametrize(
    ("done_", "total"),
    [(-1, 2), (3, 2), (0, 0), (1, -1), (math.nan, 1), (0, math.nan), (0, math.inf)],
)
def test_progress_that_makes_no_sense_is_refused(
    engine: Engine, done_: float, total: float
) -> None:
    class Senseless(Flow):
        @step(start=True)
        def work(self) -> Continuation[str]:
            with pytest.raises(ArgumentError, match="progress"):
                self.run.progress(done_, total)
            return done("refused")

    assert engine.start(Senseless().work()).result == "refused"


def test_odd_progress_neither_stops_the_heartbeat_nor_is_lost(make_engine: MakeEngine) -> None:
    class Odd(Flow):
        @worker_step(start=True)
        def work(self) -> Continuation[Any]:
            self.run.progress(True, 2, ValueError("nul \x00, \udc80, " + "long " * 1000))  # type: ignore[arg-type]  # noqa: FBT003
            wait_until(lambda: engine.lookup.read(self.run.id).progress, what="it is stored")
            return done(engine.lookup.read(self.run.id).progress)

    engine = make_engine(Shelf(), lease_seconds=1)
    run = engine.start(Odd().work())
    in_thread(engine.advance, run.id, 0).join(20)
    assert run.result["done"] == 1.0
    assert run.result["message"].startswith("nul \ufffd, ?, long")
    assert len(run.result["message"]) == 200
