"""checkpoint="suspension": plain steps that follow one another commit together."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from flowroute import (
    Continuation,
    Engine,
    Flow,
    Retry,
    StepFailure,
    call,
    done,
    step,
    worker_step,
)
from flowroute.engine import advance
from flowroute.engine.clock import FakeClock
from flowroute.errors import DefinitionError
from flowroute.testing import assert_done, assert_failed, assert_path, drain
from tests.engine.conftest import MakeEngine
from tests.engine.support import Note, Shelf, counting, crash, failing_commit, notes

fail_at: list[int] = []
"""At which steps `Together` raises, each once."""

exits_at: list[int] = []
"""At which steps `Together` asks the process to end, each once."""

keys: list[str] = []
"""The idempotency keys that steps had, in order."""


@pytest.fixture(autouse=True)
def _as_new() -> None:
    fail_at.clear()
    exits_at.clear()
    keys.clear()


class Together(Flow, checkpoint="suspension"):
    """Five plain steps, a worker step, and five plain steps again."""

    @step(start=True, retry=Retry(2))
    def plain(self, number: int = 1) -> Continuation[str]:
        keys.append(self.run.idempotency_key)
        self.session.add(Note(text=f"{number}"))
        if number in fail_at:
            fail_at.remove(number)
            message = f"no {number}"
            raise ValueError(message)
        if number in exits_at:
            exits_at.remove(number)
            raise SystemExit
        if number == 5:
            return self.work()
        return self.plain(number + 1) if number < 10 else done("together")

    @worker_step
    def work(self) -> Continuation[str]:
        self.session.add(Note(text="work"))
        return self.plain(6)


NUMBERS = ["1", "2", "3", "4", "5", "work", "6", "7", "8", "9", "10"]


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


def test_steps_up_to_the_suspension_are_one_commit(engine: Engine, shelf: Shelf) -> None:
    with counting(engine) as counted:
        run = engine.start(Together().plain())
    assert counted.commits == 2  # the start, and all five steps
    assert notes(engine) == NUMBERS[:5]
    with counting(engine) as counted:
        shelf.work()
    assert counted.commits == 3  # the claim, the worker step, and all steps after it
    assert_done(run, "together")
    assert notes(engine) == NUMBERS


def test_each_step_has_its_checkpoint_all_the_same(engine: Engine, shelf: Shelf) -> None:
    run = engine.start(Together().plain())
    shelf.work()
    assert_path(run, ["plain"] * 5 + ["work"] + ["plain"] * 5)
    assert [each.seq for each in run.checkpoints] == list(range(12))
    assert {each.attempt for each in run.checkpoints[:-1]} == {1}
    assert all(each.duration is not None for each in run.checkpoints[:-1])
    assert keys == [f"{run.id}-{seq}" for seq in (0, 1, 2, 3, 4, 6, 7, 8, 9, 10)]


@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_process_that_ends_in_between_leaves_the_start_and_the_steps_run_again(
    engine: Engine, shelf: Shelf, number: int
) -> None:
    exits_at.append(number)
    with pytest.raises(SystemExit):
        engine.start(Together().plain())
    (run,) = engine.runs()
    assert (run.state, run.record.seq, run.record.attempt) == ("ready", 0, 0)
    assert notes(engine) == []
    run.resume()
    shelf.work()
    assert_done(run, "together")
    assert notes(engine) == NUMBERS
    assert keys[number : number + 5] == [f"{run.id}-{seq}" for seq in range(5)]


@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_step_that_fails_is_tried_again_and_the_others_are_not(
    make_engine: MakeEngine, clock: FakeClock, number: int
) -> None:
    engine = make_engine(clock=clock)
    # Once where it is met first; once more when each step has its checkpoint.
    fail_at.extend([number] if number == 1 else [number, number])
    run = engine.start(Together().plain())
    assert (run.waiting_for, run.record.seq, run.record.attempt) == ("timer", number - 1, 1)
    assert notes(engine) == NUMBERS[: number - 1]
    drain(engine, clock)
    assert_done(run, "together")
    assert notes(engine) == NUMBERS
    assert [each.attempt for each in run.checkpoints[:-1]][number - 1] == 2


def test_a_step_that_fails_once_only_when_met_first_fails_nothing(
    make_engine: MakeEngine,
) -> None:
    fail_at.append(3)
    engine = make_engine()
    assert_done(engine.start(Together().plain()), "together")
    assert notes(engine) == NUMBERS


def test_a_step_that_fails_for_good_hands_over_from_its_own_checkpoint(
    make_engine: MakeEngine,
) -> None:
    class Careless(Flow, checkpoint="suspension"):
        @step(start=True)
        def first(self) -> Continuation[str]:
            self.session.add(Note(text="first"))
            return self.second()

        @step(on_error="sorry")
        def second(self) -> Continuation[str]:
            self.session.add(Note(text="second"))
            if self.run.attempt:
                raise ValueError
            return done("")

        @step
        def sorry(self, failure: StepFailure) -> Continuation[str]:
            return done(failure.step)

    engine = make_engine()
    run = engine.start(Careless().first())
    run.wait(timeout_seconds=5)
    assert_done(run, "second")
    assert notes(engine) == ["first"]
    assert_path(run, ["first", "second", "sorry"])


def test_a_fenced_process_stores_none_of_its_steps(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Flow, checkpoint="suspension"):
        @step(start=True)
        def first(self) -> Continuation[str]:
            self.session.add(Note(text="first"))
            self.session.flush()
            return self.second()

        @step
        def second(self) -> Continuation[str]:
            return done("late")

    store = engine._store  # noqa: SLF001
    original = store.advance

    def fenced(connection: Any, guard: Any, new: Any, target: Any) -> bool:
        assert len(new) == 2
        other = guard.__class__(guard.run_id, guard.seq, guard.epoch + 1, guard.state)
        return original(connection, other, new, target)

    monkeypatch.setattr(store, "advance", fenced)
    run = engine.start(Slow().first())
    assert run.state == "running"  # as the other process has it
    assert notes(engine) == []
    assert len(run.checkpoints) == 1


def test_an_uncertain_commit_of_many_steps_is_found_to_have_happened(
    engine: Engine, shelf: Shelf
) -> None:
    run = engine.start(Together().plain())
    with failing_commit(engine, happens=True, number=3):  # the claim, the worker step, the five
        shelf.work()
    assert_done(run, "together")
    assert notes(engine) == NUMBERS


def test_a_step_with_a_timeout_begins_and_ends_with_a_commit(engine: Engine) -> None:
    class Timed(Flow, checkpoint="suspension"):
        @step(start=True)
        def first(self) -> Continuation[None]:
            return self.second()

        @step
        def second(self) -> Continuation[None]:
            return self.third()

        @step(timeout=timedelta(minutes=1))
        def third(self) -> Continuation[None]:
            return self.fourth()

        @step
        def fourth(self) -> Continuation[None]:
            return self.fifth()

        @step
        def fifth(self) -> Continuation[None]:
            return done()

    with counting(engine) as counted:
        engine.start(Timed().first())
    # the start; first and second; third; fourth and fifth
    assert counted.commits == 4


def test_what_waits_for_one_commit_is_bounded(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advance, "POSTPONED_LIMIT", 2)
    with counting(engine) as counted:
        engine.start(Together().plain())
    assert counted.commits == 1 + 2


def test_a_sub_flow_is_called_by_the_common_commit(make_engine: MakeEngine) -> None:
    class CallsTogether(Flow, checkpoint="suspension"):
        @step(start=True)
        def first(self) -> Continuation[str]:
            return self.second()

        @step
        def second(self) -> Continuation[str]:
            return call(Together().plain(), self.third)

        @step
        def third(self, said: str) -> Continuation[str]:
            return done(f"{said} again")

    engine = make_engine()
    run = engine.start(CallsTogether().first())
    assert_done(run, "together again")
    assert_path(run, ["first", "second", "third"])


def test_the_lease_of_a_dead_process_brings_the_run_back_to_its_start(
    make_engine: MakeEngine, clock: FakeClock
) -> None:
    engine = make_engine(shelf := Shelf(), clock=clock)
    run = engine.start(Together().plain())
    crash(engine, run, clock)
    clock.advance(31)
    engine.recover()
    engine.recover()
    shelf.work()
    assert_done(run, "together")
    assert notes(engine) == NUMBERS


def test_another_word_than_step_or_suspension_is_refused() -> None:
    with pytest.raises(DefinitionError, match="checkpoint='never' is no time to commit"):

        class Never(Flow, checkpoint="never"):  # type: ignore[arg-type]
            @step(start=True)
            def work(self) -> Continuation[None]:
                return done()


def test_a_failure_without_retry_is_recorded_at_the_step_that_failed(engine: Engine) -> None:
    class Failing(Flow, checkpoint="suspension"):
        @step(start=True)
        def first(self) -> Continuation[None]:
            return self.second()

        @step(to=[done])
        def second(self) -> Continuation[None]:
            message = "broken"
            raise RuntimeError(message)

    run = engine.start(Failing().first())
    failure = assert_failed(run, RuntimeError, match="broken")
    assert failure.step == "second"
    assert run.record.seq == 1
