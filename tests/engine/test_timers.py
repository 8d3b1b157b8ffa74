"""Timers: a run that waits holds nothing, and recovery wakes it when its time has come."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from flowroute import Continuation, Flow, done, step, worker_step
from flowroute.engine.clock import FakeClock
from flowroute.errors import ArgumentError
from tests.engine.conftest import MakeEngine
from tests.engine.support import Moves, Shelf, seconds_until

HOUR = timedelta(hours=1)


class Reminder(Flow):
    """Waits, then goes on with a plain or a worker step."""

    calls: int = 0

    @step(start=True)
    def begin(self, *, worker: bool, pause: timedelta) -> Continuation[str]:
        return (self.mail() if worker else self.remind()).after(pause)

    @step(start=True)
    def begin_at(self, instant: datetime) -> Continuation[str]:
        return self.remind().at(instant)

    @step
    def remind(self) -> Continuation[str]:
        return done("reminded")

    @worker_step
    def mail(self) -> Continuation[str]:
        return done("mailed")


@pytest.mark.parametrize("worker", [False, True])
def test_a_delayed_step_runs_once_its_time_has_come(
    make_engine: MakeEngine, clock: FakeClock, *, worker: bool
) -> None:
    engine = make_engine(clock=clock)
    run = engine.start(Reminder().begin(worker=worker, pause=HOUR))
    record = run.record
    assert (record.state, record.waiting_for) == ("waiting", "timer")
    assert (record.lease_owner, record.lease_until) == (None, None)
    assert seconds_until(record.wake_at, clock) == 3600
    clock.advance(3599)
    assert not engine.recover()
    assert run.state == "waiting"
    clock.advance(1)
    recovered = engine.recover()
    assert (recovered.timers, bool(recovered)) == (1, True)
    assert run.result == ("mailed" if worker else "reminded")
    assert not engine.recover()


def test_a_step_at_an_instant_runs_once_it_has_come(
    make_engine: MakeEngine, clock: FakeClock
) -> None:
    engine = make_engine(clock=clock)
    instant = datetime(2026, 1, 1, 3, tzinfo=timezone(timedelta(hours=2)))  # 01:00 UTC
    run = engine.start(Reminder().begin_at(instant))
    assert seconds_until(run.record.wake_at, clock) == 3600
    clock.advance(3599)
    engine.recover()
    assert run.waiting_for == "timer"
    clock.advance(1)
    engine.recover()
    assert run.result == "reminded"


@pytest.mark.parametrize("pause", [timedelta(0), timedelta(hours=-1)])
def test_a_delay_that_is_over_at_once_is_for_the_next_pass(
    make_engine: MakeEngine, clock: FakeClock, pause: timedelta
) -> None:
    engine = make_engine(clock=clock)
    run = engine.start(Reminder().begin(worker=False, pause=pause))
    engine.recover()
    assert run.result == "reminded"


def test_an_instant_that_has_passed_is_for_the_next_pass(
    make_engine: MakeEngine, clock: FakeClock
) -> None:
    engine = make_engine(clock=clock)
    run = engine.start(Reminder().begin_at(datetime(2020, 1, 1, tzinfo=UTC)))
    engine.recover()
    assert run.result == "reminded"


def test_a_start_can_be_delayed(make_engine: MakeEngine, clock: FakeClock) -> None:
    engine = make_engine(clock=clock)
    run = engine.start(Reminder().begin(worker=False, pause=timedelta(0)).after(HOUR))
    assert (run.waiting_for, run.record.seq) == ("timer", 0)
    clock.advance(3600)
    engine.recover()
    assert run.record.seq == 1


def test_the_databases_own_clock_wakes_a_run(make_engine: MakeEngine) -> None:
    engine = make_engine()
    run = engine.start(Reminder().begin(worker=False, pause=timedelta(milliseconds=1)))
    late = engine.start(Reminder().begin(worker=False, pause=HOUR))
    while run.state != "done":  # pytest-timeout bounds this
        engine.recover()
    assert run.result == "reminded"
    assert late.waiting_for == "timer"
    record = late.record
    assert record.wake_at is not None
    assert timedelta(minutes=59) < record.wake_at - record.updated_at <= HOUR


def test_resume_wakes_a_run_whose_time_has_come_and_no_other(
    make_engine: MakeEngine, clock: FakeClock
) -> None:
    engine = make_engine(Shelf(), clock=clock)
    run = engine.start(Reminder().begin(worker=False, pause=HOUR))
    assert run.resume().waiting_for == "timer"
    clock.advance(3600)
    assert run.resume().result == "reminded"
    assert run.checkpoints[1].executor == "script"


def test_a_run_may_start_at_an_instant(make_engine: MakeEngine, clock: FakeClock) -> None:
    engine = make_engine(clock=clock)
    start = Reminder().begin_at(clock.instant + HOUR).at(clock.instant + HOUR)
    run = engine.start(start)
    assert (run.state, seconds_until(run.record.wake_at, clock)) == ("waiting", 3600)
    clock.advance(3600)
    engine.recover()  # which begins, and is at the next timer, of this instant
    engine.recover()
    assert run.result == "reminded"


def test_waking_is_told_and_hints_the_executor(make_engine: MakeEngine, clock: FakeClock) -> None:
    engine = make_engine(shelf := Shelf(), clock=clock, notifier=(moves := Moves()))
    run = engine.start(Reminder().begin(worker=True, pause=HOUR))
    assert shelf.hints == []
    assert (moves.heard[-1].state, moves.heard[-1].waiting_for) == ("waiting", "timer")
    clock.advance(3600)
    engine.recover()
    [hint] = shelf.hints
    assert (hint.run_id, hint.seq, hint.step) == (run.id, 1, "mail")
    assert run.state == "ready"
    assert shelf.work() == [True]


def test_two_processes_wake_a_run_once(make_engine: MakeEngine, clock: FakeClock) -> None:
    engine = make_engine(shelf := Shelf(), clock=clock)
    other = make_engine(other_shelf := Shelf(), clock=clock)
    engine.start(Reminder().begin(worker=True, pause=HOUR))
    clock.advance(3600)
    due = engine.dispatcher._store.due  # noqa: SLF001

    def both(connection: Any, limit: int) -> Any:
        found = due(connection, limit)
        assert other.recover().timers == 1  # the other was faster
        return found

    engine._recovery._store.due = both  # type: ignore[method-assign]  # noqa: SLF001
    assert engine.recover().timers == 0
    assert len(shelf.hints) + len(other_shelf.hints) == 1


def test_what_is_no_delay_is_refused() -> None:
    continuation = Reminder().remind()
    with pytest.raises(ArgumentError, match="timedelta"):
        continuation.after(5)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="timezone-aware"):
        continuation.at(datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(ArgumentError, match="no step to delay"):
        done(1).after(HOUR)
    with pytest.raises(ArgumentError, match="no step to delay"):
        done(1).at(datetime(2026, 1, 1, tzinfo=UTC))
