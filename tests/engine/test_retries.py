"""A step that raises: tried again after a backoff, handed to its on_error step, or the end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, ClassVar

import pytest

from flowroute import Continuation, Flow, Retry, StepFailure, done, step, worker_step
from flowroute.engine.clock import FakeClock
from flowroute.engine.schema import checkpoint_table
from flowroute.engine.turn import REQUEST
from flowroute.errors import RunFailed, RunStateError
from tests.engine.conftest import MakeEngine
from tests.engine.support import (
    Note,
    Shelf,
    count,
    crash,
    notes,
    page,
    recovered,
    seconds_until,
    set_column,
)

STEADY = Retry(4, backoff=timedelta(seconds=10), jitter=0)


class Flaky(Flow):
    """A worker step that fails so often."""

    failures: ClassVar[int] = 0
    attempts: ClassVar[list[int]] = []

    @worker_step(start=True, retry=STEADY)
    def work(self, text: str) -> Continuation[str]:
        self.session.add(Note(text=f"attempt {self.run.attempt}"))
        self.attempts.append(self.run.attempt)
        if self.run.attempt <= self.failures:
            raise ValueError(f"declined {text}")
        return done(f"{text} at attempt {self.run.attempt}")


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], type[Flaky]]:
    """Sets how often the step fails."""

    def failing(times: int) -> type[Flaky]:
        monkeypatch.setattr(Flaky, "failures", times)
        monkeypatch.setattr(Flaky, "attempts", [])
        return Flaky

    return failing


def test_a_failed_attempt_waits_for_its_backoff_and_is_tried_again(
    make_engine: MakeEngine, clock: FakeClock, flaky: Callable[[int], type[Flaky]]
) -> None:
    engine = make_engine(clock=clock)
    run = engine.start(flaky(2)().work("card"))
    for attempt, backoff in ((1, 10), (2, 20)):
        record = run.record
        assert (record.state, record.waiting_for, record.attempt) == ("waiting", "timer", attempt)
        assert seconds_until(record.wake_at, clock) == backoff
        assert run.error is not None
        assert (run.error.type, run.error.message, run.error.attempt) == (
            "ValueError",
            "declined card",
            attempt,
        )
        clock.advance(backoff - 1)
        assert not engine.recover()
        clock.advance(1)
        assert engine.recover().timers == 1
    assert run.result == "card at attempt 3"
    assert run.error is None
    assert notes(engine) == ["attempt 3"]
    assert run.checkpoints[0].attempt == 3


def test_used_up_attempts_fail_the_run_with_the_error(
    make_engine: MakeEngine, clock: FakeClock, flaky: Callable[[int], type[Flaky]]
) -> None:
    engine = make_engine(clock=clock)
    run = engine.start(flaky(99)().work("card"))
    recovered(engine, clock, run, passes=100)
    assert Flaky.attempts == [1, 2, 3, 4]
    assert (run.state, run.step) == ("failed", "work")
    error = run.error
    assert error is not None
    assert (error.step, error.type, error.message, error.attempt) == (
        "work",
        "ValueError",
        "declined card",
        4,
    )
    assert "test_retries.py" in error.traceback
    assert "raise ValueError" in error.traceback
    with pytest.raises(RunFailed, match=r"attempt 4: ValueError: declined card.*run\.retry"):
        _ = run.result
    assert notes(engine) == []
    assert run.record.finished_at is not None
    clock.advance(10_000)
    assert not engine.recover()


def test_a_failed_run_that_is_retried_has_all_its_attempts_again(
    make_engine: MakeEngine, clock: FakeClock, flaky: Callable[[int], type[Flaky]]
) -> None:
    engine = make_engine(clock=clock)
    run = engine.start(flaky(99)().work("card"))
    recovered(engine, clock, run, passes=100)
    assert run.retry() is run  # runs its first attempt at once: the executor is inline
    assert (run.waiting_for, run.record.attempt, run.record.finished_at) == ("timer", 1, None)
    flaky(1)
    recovered(engine, clock, run, passes=100)
    assert run.result == "card at attempt 2"
    with pytest.raises(RunStateError, match="is done and can not be retried"):
        run.retry()


def test_a_step_without_retry_fails_at_its_first_error(make_engine: MakeEngine) -> None:
    class Brittle(Flow):
        @step(start=True)
        def work(self) -> Continuation[None]:
            return self.more() if self.run.attempt > 1 else done(1 / 0)  # type: ignore[arg-type]

        @step
        def more(self) -> Continuation[None]:
            return done()

    run = make_engine().start(Brittle().work())
    assert run.state == "failed"
    assert run.error is not None
    assert (run.error.type, run.error.attempt) == ("ZeroDivisionError", 1)


def test_attempts_are_counted_anew_at_the_next_step(
    make_engine: MakeEngine, clock: FakeClock
) -> None:
    class TwoFlaky(Flow):
        @step(start=True, retry=STEADY)
        def one(self) -> Continuation[int]:
            if self.run.attempt < 3:
                raise ValueError
            return self.two()

        @step(retry=STEADY)
        def two(self) -> Continuation[int]:
            if self.run.attempt < 2:
                raise ValueError
            return done(self.run.attempt)

    engine = make_engine(clock=clock)
    run = engine.start(TwoFlaky().one())
    recovered(engine, clock, run, passes=100)
    assert run.result == 2
    assert [c.attempt for c in run.checkpoints] == [3, 2, None]


def test_a_retry_begins_with_the_state_and_arguments_of_the_bookmark(
    make_engine: MakeEngine, clock: FakeClock
) -> None:
    seen: list[tuple[int, list[int]]] = []

    class Mutating(Flow):
        counter: int

        @worker_step(start=True, retry=STEADY)
        def work(self, items: list[int]) -> Continuation[None]:
            seen.append((self.counter, list(items)))
            self.counter += 1
            items.append(99)
            if len(seen) < 3:
                raise ValueError
            return done()

    engine = make_engine(clock=clock)
    run = engine.start(Mutating(counter=5).work([1]))
    recovered(engine, clock, run, passes=100)
    assert run.state == "done"
    assert seen == [(5, [1])] * 3


# -- on_error --------------------------------------------------------------------------------------


class Handed(Flow):
    """A step that fails, and one that cleans up."""

    @step(start=True, on_error="clean_up", to=[done])
    def work(self) -> Continuation[str]:
        raise ValueError("of the step")

    @step
    def clean_up(self, failure: StepFailure) -> Continuation[str]:
        return done(failure.type)


class Guarded(Flow):
    """A step whose failures another takes over."""

    balance: int
    failures: ClassVar[list[StepFailure]] = []

    @step(start=True)
    def begin(self) -> Continuation[str]:
        return self.pay(card="4711")

    @worker_step(retry=Retry(2, jitter=0), on_error="refund", to=[done])
    def pay(self, card: str) -> Continuation[str]:
        self.balance -= 100
        self.session.add(Note(text="paid"))
        raise ConnectionError(f"no bank for {card} at balance {self.balance}")

    @step
    def refund(self, failure: StepFailure) -> Continuation[str]:
        self.failures.append(failure)
        self.session.add(Note(text="refunded"))
        return done(f"{failure.message}; now {self.balance}")


def test_the_on_error_step_gets_the_failure_and_the_state_of_the_bookmark(
    make_engine: MakeEngine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Guarded, "failures", [])
    engine = make_engine(clock=clock)
    run = engine.start(Guarded(balance=500).begin())
    recovered(engine, clock, run)
    assert run.result == "no bank for 4711 at balance 400; now 500"
    [failure] = Guarded.failures
    assert (failure.step, failure.type, failure.attempt) == ("pay", "ConnectionError", 2)
    assert "raise ConnectionError" in failure.traceback
    assert notes(engine) == ["refunded"]
    assert run.error is None
    assert [(c.step, c.attempt) for c in run.checkpoints] == [
        ("begin", 1),
        ("pay", 2),
        ("refund", 1),
        (None, None),
    ]


def test_the_on_error_step_is_hinted_to_the_executor(
    make_engine: MakeEngine, clock: FakeClock
) -> None:
    class Delegating(Flow):
        @step(start=True, on_error="clean_up")
        def work(self) -> Continuation[str]:
            return self.work() if self.run.seq else done(str(1 / 0))

        @worker_step(timeout=timedelta(seconds=7))
        def clean_up(self, failure: StepFailure) -> Continuation[str]:
            return done(failure.type)

    engine = make_engine(shelf := Shelf(), clock=clock)
    run = engine.start(Delegating().work())
    assert (run.state, run.waiting_for, run.step) == ("waiting", "worker", "clean_up")
    [hint] = shelf.hints
    assert (hint.seq, hint.step, hint.timeout_seconds) == (1, "clean_up", 7)
    assert shelf.work() == [True]
    assert run.result == "ZeroDivisionError"


def test_the_on_error_step_may_be_a_page(make_engine: MakeEngine) -> None:
    class Apologising(Flow):
        @step(start=True, on_error="sorry", to=[done])
        def work(self) -> Continuation[Any]:
            raise ValueError("sold out")

        @page(final=True, to=())
        def sorry(self, failure: StepFailure) -> Any:
            return f"sorry: {failure.message}"

    engine = make_engine()
    run = engine.start(Apologising().work())
    assert (run.state, run.step) == ("done", "sorry")
    assert engine.visit(run.id, REQUEST).answer == "sorry: sold out"


def test_the_on_error_step_that_fails_fails_the_run(make_engine: MakeEngine) -> None:
    class Hopeless(Flow):
        @step(start=True, on_error="clean_up", to=[done])
        def work(self) -> Continuation[None]:
            raise ValueError("first")

        @step
        def clean_up(self, failure: StepFailure) -> Continuation[None]:
            if failure.attempt:
                raise KeyError("second")
            return done()

    run = make_engine().start(Hopeless().work())
    assert (run.state, run.step) == ("failed", "clean_up")
    assert run.error is not None
    assert run.error.type == "KeyError"


def test_a_crash_on_the_last_attempt_goes_to_the_on_error_step(
    make_engine: MakeEngine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Guarded, "failures", [])
    engine = make_engine(shelf := Shelf(), clock=clock)
    run = engine.start(Guarded(balance=500).begin())
    for _ in range(2):
        crash(engine, run, clock)
        clock.advance(31)
        engine.recover()
        clock.advance(1)
        engine.recover()
    shelf.work()
    assert run.state == "done"
    [failure] = Guarded.failures
    assert (failure.type, failure.attempt, failure.traceback) == ("ProcessDied", 2, "")
    assert "gone:1" in failure.message


def test_a_hand_over_that_can_not_be_stored_fails_the_run_with_the_first_error(
    make_engine: MakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    class Bulky(Flow):
        text: str

        @step(start=True, on_error="clean_up", to=[done])
        def work(self) -> Continuation[None]:
            raise ValueError("the step's own error")

        @step
        def clean_up(self, failure: StepFailure) -> Continuation[None]:
            return self.clean_up(failure) if self.run.seq > 9 else done()

    run = make_engine(max_checkpoint_bytes=1000).start(Bulky(text="x" * 800).work())
    assert run.state == "failed"
    assert run.error is not None
    assert run.error.message == "the step's own error"
    assert "on_error step clean_up was not reached" in caplog.text


def test_a_hand_over_that_lost_the_run_stores_nothing(make_engine: MakeEngine) -> None:
    class Taken(Flow):
        @step(start=True, on_error="clean_up", to=[done])
        def work(self) -> Continuation[None]:
            set_column(engine, engine.get(self.run.id), epoch=7)
            raise ValueError

        @step
        def clean_up(self, failure: StepFailure) -> Continuation[None]:
            return self.clean_up(failure) if self.run.seq > 9 else done()

    engine = make_engine()
    run = engine.start(Taken().work())
    assert (run.state, run.record.seq, run.record.epoch) == ("running", 0, 7)
    assert count(engine, checkpoint_table) == 1


def test_a_hand_over_that_loses_the_run_at_its_last_statement_stores_nothing(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    monkeypatch.setattr(engine._store, "advance", lambda *_: False)  # noqa: SLF001
    run = engine.start(Handed().work())
    assert (run.state, run.record.seq) == ("running", 0)
    assert count(engine, checkpoint_table) == 1


# -- what is stored of an error --------------------------------------------------------------------


class Unprintable(Exception):
    """Raises when it is printed."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("nul \x00 and \udc80"), "nul \ufffd and ?"),
        (ValueError("x" * 5000), "x" * 2000),
        (ValueError(), ""),
        (Unprintable(), "<Unprintable, whose str() raised RuntimeError>"),
    ],
    ids=["odd characters", "long", "empty", "unprintable"],
)
def test_any_error_can_be_recorded(make_engine: MakeEngine, error: Exception, message: str) -> None:
    class Raising(Flow):
        @step(start=True, to=[done])
        def work(self) -> Continuation[None]:
            raise error

    run = make_engine().start(Raising().work())
    assert run.state == "failed"
    assert run.error is not None
    assert run.error.message == message
    assert run.error.type == type(error).__name__


def test_a_long_traceback_keeps_its_end(make_engine: MakeEngine) -> None:
    class Deep(Flow):
        @step(start=True, to=[done])
        def work(self) -> Continuation[None]:
            error: Exception = ValueError("the first of many")
            for number in range(200):
                caused = ValueError(f"number {number}")
                caused.__cause__ = error
                error = caused
            raise error

    run = make_engine().start(Deep().work())
    assert run.error is not None
    assert len(run.error.traceback) <= 8000
    assert run.error.traceback.endswith("ValueError: number 199\n")
