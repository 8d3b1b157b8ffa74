"""How the heartbeat interrupts an attempt, call by call.

No exception is raised from another thread here: so these tests can run under coverage, whose own
lines such an exception may hit, with its lock held. `test_timeouts` and `test_heartbeat` raise
them.
"""

from __future__ import annotations

import functools
import math
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, ClassVar

import pytest

from flowroute import Continuation, Engine, Flow, LeaseLost, StepTimeout, done, worker_step
from flowroute.engine import heartbeat
from flowroute.engine.failure import failure_of
from flowroute.engine.heartbeat import Heartbeat, Pulse
from flowroute.engine.records import Guard
from tests.engine.conftest import MakeEngine
from tests.engine.support import Shelf
from tests.waiting import wait_until


@pytest.fixture
def url(copied_sqlite_url: str) -> str:
    """SQLite will do: nothing here is about the database."""
    return copied_sqlite_url


@pytest.fixture
def engine(make_engine: MakeEngine) -> Engine:
    """An engine whose hints wait."""
    return make_engine(Shelf())


@pytest.fixture
def beats(engine: Engine) -> Heartbeat:
    """Its heartbeat."""
    return engine.dispatcher.heartbeat


class Ending(Flow):
    """A worker step with a timeout that does what a test wants, and returns."""

    acts: ClassVar[list[Callable[[], object]]] = []

    @worker_step(start=True, timeout=timedelta(seconds=30))
    def work(self) -> Continuation[None]:
        for act in self.acts:
            act()
        return done()


def a_pulse(**changes: Any) -> Pulse:
    """An attempt, of a run that no database knows."""
    made = Pulse(Guard("run", 0, 1, "running"), "work", None, next_beat=math.inf)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_a_lease_lost_just_as_the_step_returns_counts(
    engine: Engine, beats: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose() -> None:
        [pulse] = beats._pulses  # noqa: SLF001
        pulse.interrupted = LeaseLost  # set, and the exception not raised yet

    monkeypatch.setattr(Ending, "acts", [lose])
    run = engine.start(Ending().work())
    assert engine.advance(run.id, 0) is False
    assert (run.state, run.record.seq) == ("running", 0)


def test_an_interruption_between_the_steps_end_and_its_removal_is_survived(
    engine: Engine, beats: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = beats._remove  # noqa: SLF001
    calls: list[Pulse] = []

    def interrupted_once(pulse: Pulse) -> None:
        calls.append(pulse)
        if len(calls) == 1:
            pulse.interrupted = LeaseLost
            raise LeaseLost
        remove(pulse)

    monkeypatch.setattr(beats, "_remove", interrupted_once)
    run = engine.start(Ending().work())
    assert engine.advance(run.id, 0) is False
    assert beats._pulses == set()  # noqa: SLF001
    assert run.state == "running"


def test_an_attempt_that_goes_on_is_interrupted_again_after_a_grace(
    beats: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[Pulse] = []

    def raise_in(pulse: Pulse) -> None:
        raised.append(pulse)
        pulse.again_at = math.inf

    monkeypatch.setattr(beats, "_raise_in", raise_in)
    deaf = a_pulse(interrupted=StepTimeout, again_at=time.monotonic() - 1)
    beats._add(deaf)  # noqa: SLF001
    beats._ring()  # noqa: SLF001
    wait_until(lambda: raised == [deaf])
    beats._remove(deaf)  # noqa: SLF001


def test_an_attempt_is_interrupted_once_and_not_after_its_end(
    beats: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[tuple[int, type[BaseException]]] = []
    monkeypatch.setattr(heartbeat, "_set_async_exception", lambda *what: raised.append(what))
    running, ended = a_pulse(), a_pulse()
    beats._pulses.add(running)  # noqa: SLF001
    for kind in (LeaseLost, StepTimeout):
        beats._interrupt(running, kind)  # noqa: SLF001
        beats._interrupt(ended, kind)  # noqa: SLF001
    beats._pulses.clear()  # noqa: SLF001
    assert raised == [(threading.get_ident(), LeaseLost)]
    assert (running.interrupted, ended.interrupted) == (LeaseLost, None)
    assert running.again_at < math.inf
    assert running.next_beat < math.inf


def test_an_attempt_that_is_only_looked_at_has_no_lease_to_report_on(
    beats: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "_set_async_exception", lambda *_: None)
    looked_at = a_pulse(guard=Guard("run", 0, 1, "waiting"))
    beats._pulses.add(looked_at)  # noqa: SLF001
    beats._interrupt(looked_at, StepTimeout)  # noqa: SLF001
    beats._pulses.clear()  # noqa: SLF001
    assert looked_at.next_beat == math.inf


def test_the_main_thread_is_interrupted_by_a_signal(beats: Heartbeat) -> None:
    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _frame: rung.append(number))
    try:
        beats._raise_in(a_pulse(interrupted=StepTimeout, by_signal=True))  # noqa: SLF001
        wait_until(lambda: rung == [signal.SIGALRM])
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_thread_that_has_ended_is_not_interrupted() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert thread.ident is not None
    heartbeat._set_async_exception(thread.ident, LeaseLost)  # noqa: SLF001


def test_only_the_main_thread_listens_for_the_signal(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers: list[Any] = []
    look = functools.partial(signal.getsignal, signal.SIGALRM)
    monkeypatch.setattr(Ending, "acts", [lambda: handlers.append(look())])
    before = signal.getsignal(signal.SIGALRM)
    runs = [engine.start(Ending().work()) for _ in range(2)]
    engine.advance(runs[0].id, 0)
    thread = threading.Thread(target=engine.advance, args=(runs[1].id, 0))
    thread.start()
    thread.join(20)
    assert [run.state for run in runs] == ["done", "done"]
    here, elsewhere = handlers
    assert here is not before
    assert elsewhere is before
    assert signal.getsignal(signal.SIGALRM) is before


def test_a_beat_without_news_tells_nobody(
    beats: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    monkeypatch.setattr(beats._store, "pulse", lambda *_, **__: True)  # noqa: SLF001
    monkeypatch.setattr(beats, "_on_progress", lambda *what: told.append(what))
    pulse = a_pulse()
    assert beats._beat(pulse)  # noqa: SLF001
    assert told == []
    pulse.progress = {"done": 1}
    assert beats._beat(pulse)  # noqa: SLF001
    assert told == [(pulse, {"done": 1})]


def test_a_timeout_is_recorded_with_the_time_that_the_step_had() -> None:
    failure = failure_of(StepTimeout(), Ending.work, 2)
    expected = "Ending.work ran for longer than its timeout of 30 seconds."
    assert (failure.message, failure.attempt) == (expected, 2)
