"""Recovery: whatever a crash, a lost hint or a dead queue leaves behind goes on."""

from __future__ import annotations

import itertools
import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from flowroute import Continuation, Engine, Flow, Retry, StepFailure, done, step, worker_step
from flowroute.engine import flow as flows
from flowroute.engine import recovery
from flowroute.engine.clock import FakeClock
from tests.engine.conftest import MakeEngine
from tests.engine.support import (
    Broken,
    Note,
    Shelf,
    counting,
    crash,
    notes,
    seconds_until,
    set_column,
)


class Job(Flow):
    """One worker step."""

    @worker_step(start=True)
    def work(self) -> Continuation[int]:
        self.session.add(Note(text=f"attempt {self.run.attempt}"))
        return done(self.run.attempt)


class Twice(Flow):
    """A worker step that is tried twice at most, by error or crash."""

    @worker_step(start=True, retry=Retry(2))
    def work(self) -> Continuation[int]:
        return done(self.run.attempt)


class Once(Flow):
    """A worker step that is tried once at most."""

    @worker_step(start=True, retry=Retry(1), on_error="late")
    def work(self) -> Continuation[str]:
        return done("worked")

    @step
    def late(self, failure: StepFailure) -> Continuation[str]:
        return done(failure.type)


@pytest.fixture
def shelf() -> Shelf:
    """The executor of `engine`."""
    return Shelf()


@pytest.fixture
def engine(make_engine: MakeEngine, shelf: Shelf, clock: FakeClock) -> Engine:
    """An engine whose hints wait and whose time stands still."""
    return make_engine(shelf, clock=clock)


def crash_and_recover(engine: Engine, run: Any, clock: FakeClock) -> None:
    """The process that claims the run dies; its lease ends; recovery hints again."""
    crash(engine, run, clock)
    clock.advance(30)
    assert engine.recover().expired == 1
    engine.recover()


# -- crashes ---------------------------------------------------------------------------------------


def test_a_run_whose_process_died_goes_on_when_its_lease_is_over(
    engine: Engine, shelf: Shelf, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    run = engine.start(Job().work())
    crash(engine, run, clock)
    clock.advance(29)
    engine.recover()
    assert (run.state, run.record.lease_owner) == ("running", "gone:1")
    clock.advance(1)
    recovered_ = engine.recover()
    assert (recovered_.expired, bool(recovered_)) == (1, True)
    assert "The process gone:1 died or stalled while it ran Job.work, attempt 1" in caplog.text
    assert run.error is not None
    assert run.error.type == "ProcessDied"
    assert engine.recover().timers == 1  # at once: a crash needs no backoff
    shelf.work()
    assert run.result == 2
    assert run.error is None
    assert notes(engine) == ["attempt 2"]
    assert run.checkpoints[0].attempt == 2


def test_a_run_whose_process_died_in_a_plain_step_goes_on_in_an_executor(
    make_engine: MakeEngine, clock: FakeClock
) -> None:
    class Fatal(Flow):
        @step(start=True)
        def one(self) -> Continuation[str]:
            return self.two()

        @step
        def two(self) -> Continuation[str]:
            if self.run.attempt == 1:
                raise PowerCut
            return done("after the power cut")

    engine = make_engine(shelf := Shelf(), clock=clock)
    engine.dispatcher._failures.release = lambda *_: None  # type: ignore[method-assign]  # noqa: SLF001
    with pytest.raises(PowerCut):
        engine.start(Fatal().one())
    [run] = engine.runs()
    assert (run.state, run.step, run.record.seq) == ("running", "two", 1)
    clock.advance(30)
    engine.recover()
    engine.recover()
    shelf.work()
    assert run.result == "after the power cut"
    assert [(c.attempt, c.executor) for c in run.checkpoints] == [
        (1, "script"),
        (2, "shelf"),
        (None, None),
    ]


class PowerCut(BaseException):
    """What nothing handles."""


@pytest.mark.parametrize(("flow", "allowed"), [(Job, 3), (Twice, 2)])
def test_a_step_that_kills_its_process_has_exactly_the_allowed_attempts(
    engine: Engine, shelf: Shelf, clock: FakeClock, flow: Any, allowed: int
) -> None:
    run = engine.start(flow().work())
    for attempt in range(1, allowed + 1):
        assert run.state in ("waiting", "ready"), attempt
        crash_and_recover(engine, run, clock)
    assert (run.state, run.record.attempt) == ("failed", allowed)
    assert run.error is not None
    assert (run.error.type, run.error.attempt) == ("ProcessDied", allowed)
    clock.advance(1000)
    assert not engine.recover()
    shelf.work()
    assert run.state == "failed"


def test_a_step_that_is_tried_once_is_not_tried_again_after_a_crash(
    engine: Engine, shelf: Shelf, clock: FakeClock
) -> None:
    run = engine.start(Once().work())
    crash_and_recover(engine, run, clock)
    shelf.work()
    assert run.result == "ProcessDied"


def test_a_crash_under_a_step_whose_timeout_is_shorter_than_the_lease_is_no_timeout(
    engine: Engine, shelf: Shelf, clock: FakeClock
) -> None:
    class Brief(Flow):
        @worker_step(start=True, timeout=timedelta(seconds=5))
        def work(self) -> Continuation[int]:
            return done(self.run.attempt)

    run = engine.start(Brief().work())
    crash(engine, run, clock, timeout_seconds=5)
    clock.advance(3600)
    engine.recover()
    assert run.error is not None
    assert run.error.type == "ProcessDied"
    engine.recover()
    shelf.work()
    assert run.result == 2


@pytest.mark.parametrize("known", [True, False])
def test_a_step_that_overran_its_timeout_is_recorded_as_such(
    engine: Engine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, *, known: bool
) -> None:
    class Overrunning(Flow):
        @worker_step(start=True, timeout=timedelta(seconds=5), retry=Retry(3, jitter=0))
        def work(self) -> Continuation[int]:
            return done(self.run.attempt)

    run = engine.start(Overrunning().work())
    crash(engine, run, clock, timeout_seconds=5)
    set_column(engine, run, lease_until=run.record.updated_at)  # what the heartbeat does then
    if not known:
        monkeypatch.delitem(flows._flows, "Overrunning")  # noqa: SLF001
    assert engine.recover().expired == 1
    assert (run.state, run.waiting_for) == ("waiting", "timer")
    assert seconds_until(run.record.wake_at, clock) == (1 if known else 0)
    assert run.error is not None
    of = " of 5 seconds" if known else ""
    assert run.error.message == f"Overrunning.work ran for longer than its timeout{of}."


def test_a_crash_found_by_a_process_that_does_not_know_the_flow_fails_nothing(
    engine: Engine, shelf: Shelf, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = engine.start(Job().work())
    with monkeypatch.context() as other_process:
        other_process.delitem(flows._flows, "Job")  # noqa: SLF001
        for _ in range(5):
            crash_and_recover(engine, run, clock)
            assert run.state == "ready"
    shelf.work()
    assert run.state == "done"


# -- hints -----------------------------------------------------------------------------------------


def test_a_lost_hint_is_given_again_ever_less_often_but_each_five_seconds(
    engine: Engine, shelf: Shelf, clock: FakeClock
) -> None:
    engine.start(Job().work())
    given: list[int] = []
    for second in range(1, 41):
        shelf.hints.clear()
        clock.advance(1)
        recovered_ = engine.recover()
        assert recovered_.resubmitted == len(shelf.hints)
        given += [second] * len(shelf.hints)
    gaps = [later - earlier for earlier, later in itertools.pairwise(given)]
    assert given[0] == 1
    assert gaps == sorted(gaps)
    assert max(gaps) == 5
    assert len(given) >= 8


def test_a_hint_that_recovery_gives_is_complete(
    engine: Engine, shelf: Shelf, clock: FakeClock
) -> None:
    class Timed(Flow):
        @worker_step(start=True, timeout=timedelta(minutes=2))
        def work(self) -> Continuation[None]:
            return done()

    engine.start(Timed().work())
    [first] = shelf.hints
    shelf.hints.clear()
    clock.advance(1)
    engine.recover()
    assert shelf.hints == [first]
    assert first.timeout_seconds == 120


def test_an_executor_whose_queue_is_down_costs_delay_and_no_work(
    make_engine: MakeEngine, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine(broken := Broken(), clock=clock)
    run = engine.start(Job().work())
    assert run.waiting_for == "worker"
    assert (
        "the broken executor did not take step work; recovery will submit it again" in caplog.text
    )
    for _ in range(3):
        clock.advance(5)
        assert engine.recover().resubmitted == 1
    assert len(broken.hints) == 4
    assert broken.work() == [True, False, False, False]
    assert run.result == 1


def test_a_retried_run_whose_hint_was_lost_is_hinted_again(
    engine: Engine, shelf: Shelf, clock: FakeClock
) -> None:
    run = engine.start(Job().work())
    set_column(
        engine, run, state="failed", waiting_for=None, wake_at=None, finished_at=clock.instant
    )
    run.retry()
    assert run.state == "ready"
    shelf.hints.clear()
    clock.advance(1)
    assert engine.recover().resubmitted == 1
    assert shelf.work() == [True]


def test_a_ready_worker_step_is_hinted_by_whoever_can_not_run_it(
    engine: Engine, shelf: Shelf, clock: FakeClock
) -> None:
    run = engine.start(Job().work().after(timedelta(seconds=1)))
    clock.advance(1)
    engine.recover()
    shelf.hints.clear()
    run.resume()
    assert [hint.step for hint in shelf.hints] == ["work"]
    assert run.state == "ready"


# -- many runs, many processes ---------------------------------------------------------------------


def test_one_pass_looks_at_a_bounded_number_of_runs_and_the_next_at_the_others(
    engine: Engine, shelf: Shelf, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "PASS_LIMIT", 4)
    runs = [engine.start(Job().work()) for _ in range(10)]
    shelf.hints.clear()
    clock.advance(1)
    passes = [engine.recover().resubmitted for _ in range(4)]
    assert passes == [4, 4, 2, 0]
    assert {hint.run_id for hint in shelf.hints} == {run.id for run in runs}


def test_a_run_that_can_not_be_recovered_does_not_keep_recovery_from_the_others(
    engine: Engine,
    shelf: Shelf,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    runs = [engine.start(Job().work()) for _ in range(3)]
    heal = engine._recovery.heal  # noqa: SLF001

    def failing(record: Any, did: Any = None) -> bool:
        if record.id == runs[0].id:
            raise OperationalError("UPDATE", {}, Exception("locked"))
        return heal(record, did)

    monkeypatch.setattr(engine._recovery, "heal", failing)  # noqa: SLF001
    shelf.hints.clear()
    clock.advance(1)
    assert engine.recover().resubmitted == 2
    assert {hint.run_id for hint in shelf.hints} == {runs[1].id, runs[2].id}
    assert f"run {runs[0].id}: not recovered; will try again" in caplog.text


def test_many_processes_that_recover_at_once_expire_each_run_once(
    make_engine: MakeEngine, clock: FakeClock
) -> None:
    engines = [make_engine(Shelf(), clock=clock) for _ in range(4)]
    runs = [engines[0].start(Job().work()) for _ in range(5)]
    for run in runs:
        crash(engines[0], run, clock)
    clock.advance(30)
    barrier = threading.Barrier(4)

    def look(engine: Engine) -> None:
        barrier.wait(10)
        engine.recover()

    threads = [threading.Thread(target=look, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    for run in runs:
        assert (run.state, run.record.attempt) in {("waiting", 1), ("ready", 1)}


def test_two_processes_that_recover_at_once_give_one_hint(
    make_engine: MakeEngine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(shelf := Shelf(), clock=clock)
    other = make_engine(other_shelf := Shelf(), clock=clock)
    engine.start(Job().work())
    shelf.hints.clear()
    clock.advance(1)
    due = engine._store.due  # noqa: SLF001

    def late(connection: Any, limit: int) -> Any:
        found = due(connection, limit)
        other.start(Job().work()).cancel()  # the other is at work
        assert other.recover().resubmitted == 1
        return found

    monkeypatch.setattr(engine._store, "due", late)  # noqa: SLF001
    assert engine.recover().resubmitted in (0, 1)
    assert len(shelf.hints) + len(other_shelf.hints) <= 3


def test_no_hint_is_repeated_for_a_run_that_moved_meanwhile(
    engine: Engine, shelf: Shelf, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = engine.start(Job().work())
    shelf.hints.clear()
    clock.advance(1)
    due = engine._store.due  # noqa: SLF001

    def late(connection: Any, limit: int) -> Any:
        found = due(connection, limit)
        connection.rollback()
        run.cancel()
        return found

    monkeypatch.setattr(engine._store, "due", late)  # noqa: SLF001
    assert engine.recover().resubmitted == 0
    assert shelf.hints == []


def test_a_run_in_good_health_is_left_alone(engine: Engine, clock: FakeClock, shelf: Shelf) -> None:
    run = engine.start(Job().work())
    crash(engine, run, clock)
    before = run.record
    clock.advance(5)
    assert not engine.recover()
    run.resume()
    assert run.record.epoch == before.epoch
    assert len(shelf.hints) == 1


def test_a_pass_over_nothing_takes_two_statements(engine: Engine) -> None:
    for _ in range(3):
        engine.start(Job().work())
    engine.recover()
    with counting(engine) as counted:
        engine.recover()
    assert len(counted.statements) == 2
