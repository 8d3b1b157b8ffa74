"""The heartbeat: leases that are extended while a step runs, and lost or taken away."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from flowroute import Continuation, Engine, Flow, done, step, worker_step
from flowroute.engine import heartbeat
from flowroute.engine.clock import FakeClock
from tests.engine.conftest import MakeEngine
from tests.engine.support import (
    Note,
    Shelf,
    in_thread,
    notes,
    seconds_until,
    set_column,
    wait_for_state,
)
from tests.waiting import wait_until


class Held:
    """A worker step that goes on until it is told to end."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.end = threading.Event()
        self.raised: list[str] = []

    def hold(self) -> None:
        """What the step does; it waits in short pieces, as an interruption asks for."""
        self.began.set()
        try:
            while not self.end.wait(0.01):
                pass
        except BaseException as error:
            self.raised.append(type(error).__name__)
            raise


@pytest.fixture
def held() -> Any:
    """The step of `Working`, ended with the test."""
    made = Held()
    yield made
    made.end.set()


@pytest.fixture
def working(held: Held) -> type[Flow]:
    """A flow of one long worker step that writes before and after."""

    class Working(Flow):
        @worker_step(start=True)
        def work(self) -> Continuation[str]:
            self.session.add(Note(text="of a step"))
            held.hold()
            self.session.flush()
            return done("worked")

    return Working


def start(engine: Engine, working: Any, held: Held) -> tuple[Any, threading.Thread]:
    """Start a run and have another thread advance it; returns both once the step has begun."""
    run = engine.start(working().work())
    thread = in_thread(engine.advance, run.id, 0)
    assert held.began.wait(10)
    return run, thread


def test_a_lease_is_extended_while_its_step_runs(
    make_engine: MakeEngine, clock: FakeClock, working: type[Flow], held: Held
) -> None:
    engine = make_engine(Shelf(), clock=clock, lease_seconds=0.3)
    run, thread = start(engine, working, held)
    for _ in range(3):
        clock.advance(100)
        wait_until(
            lambda: seconds_until(run.record.lease_until, clock) > 0, what="the lease is extended"
        )
        assert not engine.recover()
    held.end.set()
    thread.join(10)
    assert run.result == "worked"
    assert run.record.epoch == 2
    assert notes(engine) == ["of a step"]


def test_a_lost_lease_is_raised_in_the_step_and_nothing_of_it_is_stored(
    make_engine: MakeEngine, working: type[Flow], held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    engine = make_engine(Shelf(), lease_seconds=0.3)
    run, thread = start(engine, working, held)
    set_column(engine, run, epoch=9)  # another process claimed it
    thread.join(10)
    assert held.raised == ["LeaseLost"]
    assert notes(engine) == []
    assert (run.state, run.record.seq, run.record.epoch) == ("running", 0, 9)
    assert "another process owns the run now; step work undone" in caplog.text


def test_a_cancelled_run_is_interrupted_and_its_writes_are_not_stored(
    make_engine: MakeEngine, working: type[Flow], held: Held
) -> None:
    engine = make_engine(Shelf(), lease_seconds=0.3)
    run, thread = start(engine, working, held)
    assert run.cancel().state == "cancelled"
    thread.join(10)
    assert held.raised == ["LeaseLost"]
    assert notes(engine) == []
    assert (run.state, run.record.seq) == ("cancelled", 0)


def test_a_step_that_returns_after_its_run_was_cancelled_stores_nothing(
    make_engine: MakeEngine, working: type[Flow], held: Held
) -> None:
    engine = make_engine(Shelf(), lease_seconds=30)
    run, thread = start(engine, working, held)
    run.cancel()
    held.end.set()
    thread.join(10)
    assert held.raised == []
    assert notes(engine) == []
    assert (run.state, run.record.seq, len(run.checkpoints)) == ("cancelled", 0, 1)


def test_reset_of_a_running_run_stores_nothing_of_it(
    make_engine: MakeEngine, held: Held, working: type[Flow]
) -> None:
    engine = make_engine(Shelf(), lease_seconds=30)
    first = engine.start(working().work(), key="k")  # type: ignore[attr-defined]
    thread = in_thread(engine.advance, first.id, 0)
    assert held.began.wait(10)
    first.reset()
    second = engine.start(working().work(), key="k")  # type: ignore[attr-defined]
    held.end.set()
    thread.join(10)
    assert first.state == "cancelled"
    assert (second.state, second.record.seq) == ("waiting", 0)
    assert engine.advance(second.id, 0)
    assert second.result == "worked"
    assert notes(engine) == ["of a step"]


def test_a_zombie_can_store_nothing_once_another_process_took_over(
    make_engine: MakeEngine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "BEATS_PER_LEASE", 0.001)  # this process stalls: no heartbeat
    first, second = threading.Event(), threading.Event()
    gates = {1: first, 2: second}

    class Contested(Flow):
        @worker_step(start=True)
        def work(self) -> Continuation[int]:
            attempt = self.run.attempt
            self.session.add(Note(text=f"attempt {attempt}"))
            assert gates[attempt].wait(20)
            return self.tell(attempt)

        @step
        def tell(self, attempt: int) -> Continuation[int]:
            self.session.add(Note(text=f"told of {attempt}"))
            return done(attempt)

    zombie = make_engine(Shelf(), clock=clock)
    other = make_engine(shelf := Shelf(), clock=clock)
    run = zombie.start(Contested().work())
    stalled = in_thread(zombie.advance, run.id, 0)
    wait_for_state(run, "running")
    clock.advance(31)
    assert other.recover().expired == 1
    clock.advance(1)
    assert other.recover().timers == 1
    second.set()
    assert shelf.work() == [True]
    first.set()  # now the first attempt returns, too late
    stalled.join(10)
    assert run.result == 2
    assert notes(other) == ["attempt 2", "told of 2"]
    assert [c.attempt for c in run.checkpoints] == [2, 1, None]


def test_a_zombie_can_store_nothing_while_the_other_process_is_still_at_it(
    make_engine: MakeEngine, clock: FakeClock, working: type[Flow], held: Held
) -> None:
    zombie = make_engine(Shelf(), clock=clock, lease_seconds=30)
    run, stalled = start(zombie, working, held)
    clock.advance(31)
    other = make_engine(Shelf(), clock=clock)
    assert other.recover().expired == 1
    held.end.set()
    stalled.join(10)
    assert (run.state, run.waiting_for, run.record.seq) == ("waiting", "timer", 0)
    assert notes(other) == []


# -- when the database is away ---------------------------------------------------------------------


def test_a_lease_that_could_not_be_extended_is_tried_again(
    make_engine: MakeEngine,
    working: type[Flow],
    held: Held,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = make_engine(Shelf(), lease_seconds=0.3)
    failures = [3]

    def fail(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        beating = threading.current_thread().name == "flowroute-heartbeat"
        if failures[0] and beating and "UPDATE" in statement:
            failures[0] -= 1
            raise OperationalError(statement, {}, Exception("the network is away"))

    event.listen(engine.database.engine, "before_cursor_execute", fail)
    run, thread = start(engine, working, held)
    wait_until(lambda: failures[0] == 0, what="three tries failed")
    before = run.record.lease_until
    wait_until(lambda: run.record.lease_until > before, what="the lease is extended")
    held.end.set()
    thread.join(10)
    assert run.result == "worked"
    warnings = [r for r in caplog.records if "lease not extended" in r.getMessage()]
    assert [r.levelno for r in warnings if r.levelno >= logging.WARNING] == [logging.WARNING]


def test_the_heartbeat_ends_with_its_engine(make_engine: MakeEngine) -> None:
    def threads() -> list[str]:
        return [t.name for t in threading.enumerate() if t.name.startswith("flowroute-")]

    class Short(Flow):
        @step(start=True)
        def work(self) -> Continuation[None]:
            return done()

    with make_engine("thread") as engine:
        engine.start(Short().work())
        assert "flowroute-heartbeat" in threads()
        assert "flowroute-recovery" in threads()
    assert threads() == []
