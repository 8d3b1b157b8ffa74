"""Timeouts: a step ends in time, whatever it does and wherever it runs."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa

from flowroute import (
    Continuation,
    Engine,
    Flow,
    Retry,
    StepFailure,
    StepTimeout,
    done,
    step,
    worker_step,
)
from flowroute.engine.local import ThreadExecutor
from tests.engine.conftest import MakeEngine
from tests.engine.support import Note, notes, wait_for_state

SOON = timedelta(seconds=0.2)
FOR_EVER = 60.0
"""Much longer than any test may take."""


class Stuck(Flow):
    """A step that does not end by itself, in many ways."""

    ways: ClassVar[dict[str, Any]] = {}

    @step(start=True, timeout=SOON, to=[done])
    def here(self, way: str) -> Continuation[str]:
        return self._hang(way)

    @worker_step(start=True, timeout=SOON, to=[done])
    def elsewhere(self, way: str) -> Continuation[str]:
        return self._hang(way)

    def _hang(self, way: str) -> Continuation[str]:
        self.session.add(Note(text="never stored"))
        end = time.monotonic() + FOR_EVER
        while time.monotonic() < end:
            if way == "sleeps":
                time.sleep(FOR_EVER)
            elif way == "swallows exceptions":
                with contextlib.suppress(Exception):
                    time.sleep(0.01)
            elif way == "reports progress":
                self.run.progress(1, 2)
        return done("it ended by itself")


def assert_timed_out(run: Any, step_name: str) -> None:
    """The run failed in time, and says so."""
    assert run.state == "failed"
    assert run.error.type == "StepTimeout"
    assert run.error.message == f"Stuck.{step_name} ran for longer than its timeout of 0.2 seconds."
    assert run.error.attempt == 1


@pytest.mark.parametrize("way", ["sleeps", "swallows exceptions", "reports progress", "computes"])
def test_a_timeout_ends_a_step_in_the_main_thread(make_engine: MakeEngine, way: str) -> None:
    engine = make_engine()
    began = time.monotonic()
    run = engine.start(Stuck().here(way))
    assert time.monotonic() - began < 5
    assert_timed_out(run, "here")
    assert notes(engine) == []


@pytest.mark.parametrize("way", ["swallows exceptions", "reports progress", "computes"])
def test_a_timeout_ends_a_step_in_a_thread(make_engine: MakeEngine, way: str) -> None:
    engine = make_engine("thread")
    run = engine.start(Stuck().elsewhere(way)).wait(timeout_seconds=10)
    assert_timed_out(run, "elsewhere")
    assert notes(engine) == []
    # The thread is as good as before.
    assert engine.start(Stuck().elsewhere(way)).wait(timeout_seconds=10).state == "failed"


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_timeout_ends_a_long_statement_in_the_main_thread(engine: Engine) -> None:
    """Not on SQLite, which computes in this process and looks at no signal."""

    class Querying(Flow):
        @step(start=True, timeout=SOON)
        def work(self) -> Continuation[None]:
            self.session.execute(sa.text("SELECT pg_sleep(60)"))
            return done()

    began = time.monotonic()
    run = engine.start(Querying().work())
    assert time.monotonic() - began < 5
    assert run.error is not None
    assert run.error.type == "StepTimeout"


def test_a_step_that_ends_in_time_is_not_interrupted(make_engine: MakeEngine) -> None:
    class Quick(Flow):
        @step(start=True, timeout=SOON)
        def one(self) -> Continuation[str]:
            return self.two()

        @step
        def two(self) -> Continuation[str]:
            late = time.monotonic() + 0.4
            while time.monotonic() < late:
                time.sleep(0.01)
            return done("undisturbed")

    engine = make_engine()
    assert engine.start(Quick().one()).result == "undisturbed"


def test_the_signal_handler_of_the_main_thread_is_given_back(make_engine: MakeEngine) -> None:
    def mine(*_: object) -> None:
        """Somebody's handler."""

    before = signal.signal(signal.SIGALRM, mine)
    try:
        make_engine().start(Stuck().here("sleeps"))
        assert signal.getsignal(signal.SIGALRM) is mine
    finally:
        signal.signal(signal.SIGALRM, before)


def test_an_alarm_that_rings_first_is_the_same_timeout(make_engine: MakeEngine) -> None:
    class Ringing(Flow):
        @step(start=True, timeout=timedelta(seconds=30))
        def work(self) -> Continuation[None]:
            signal.raise_signal(signal.SIGALRM)  # as RQ does when the job's time is over
            return done()

    run = make_engine().start(Ringing().work())
    assert run.error is not None
    assert run.error.message == "Ringing.work ran for longer than its timeout of 30 seconds."


def test_a_timeout_that_a_step_swallows_once_counts_when_it_returns(
    make_engine: MakeEngine,
) -> None:
    class Swallowing(Flow):
        @step(start=True, timeout=SOON)
        def work(self) -> Continuation[str]:
            self.session.add(Note(text="never stored"))
            with contextlib.suppress(BaseException):
                time.sleep(FOR_EVER)
            return done("as if nothing had happened")

    engine = make_engine()
    run = engine.start(Swallowing().work())
    assert run.error is not None
    assert run.error.type == "StepTimeout"
    assert notes(engine) == []


def test_a_timeout_is_an_attempt_like_any_other(make_engine: MakeEngine) -> None:
    class Patient(Flow):
        @worker_step(
            start=True, timeout=SOON, retry=Retry(2, backoff=timedelta(0)), on_error="late"
        )
        def work(self) -> Continuation[str]:
            while self.run.attempt:
                time.sleep(0.01)
            return done("never")

        @step
        def late(self, failure: StepFailure) -> Continuation[str]:
            return done(f"{failure.type} at attempt {failure.attempt}")

    run = make_engine("thread").start(Patient().work()).wait(timeout_seconds=10)
    assert run.result == "StepTimeout at attempt 2"


def test_a_timeout_is_on_time_while_the_step_holds_the_write_lock(make_engine: MakeEngine) -> None:
    class Locking(Flow):
        @worker_step(start=True, timeout=SOON, to=[done])
        def work(self) -> Continuation[None]:
            self.session.add(Note(text="never stored"))
            self.session.flush()  # SQLite: no other connection can write from here on
            while True:
                self.run.progress(1, 2)
                time.sleep(0.001)

    engine = make_engine("thread")
    began = time.monotonic()
    run = engine.start(Locking().work()).wait(timeout_seconds=20)
    assert run.error is not None
    assert run.error.type == "StepTimeout"
    assert time.monotonic() - began < 5


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Set at the end of the test, so that a step that nothing else ends does end."""
    event = threading.Event()
    yield event
    event.set()


def test_a_step_that_swallows_everything_is_fenced_and_its_run_goes_on(
    make_engine: MakeEngine, release: threading.Event
) -> None:
    returned = threading.Event()

    class Deaf(Flow):
        @worker_step(start=True, timeout=SOON, on_error="give_up")
        def work(self) -> Continuation[str]:
            self.session.add(Note(text="never stored"))
            while not release.is_set():
                with contextlib.suppress(BaseException):
                    time.sleep(0.01)
            returned.set()
            return done("too late")

        @step
        def give_up(self, failure: StepFailure) -> Continuation[str]:
            return done(failure.message)

    engine = make_engine(ThreadExecutor(threads=2), lease_seconds=30)
    run = engine.start(Deaf().work())
    wait_for_state(run, "done", timeout_seconds=15)  # long before the lease could end
    assert run.result == "Deaf.work ran for longer than its timeout of 0.2 seconds."
    release.set()
    assert returned.wait(5)
    engine.executor.close()
    assert run.result == "Deaf.work ran for longer than its timeout of 0.2 seconds."
    assert notes(engine) == []
    assert [c.step for c in run.checkpoints] == ["work", "give_up", None]


def test_a_timeout_without_a_time_has_a_message_too(make_engine: MakeEngine) -> None:
    class Rude(Flow):
        @step(start=True, to=[done])
        def work(self) -> Continuation[None]:
            raise StepTimeout("of my own")

    run = make_engine().start(Rude().work())
    assert run.error is not None
    assert (run.error.type, run.error.message) == ("StepTimeout", "of my own")


def test_a_hundred_timeouts_at_awkward_moments_harm_nothing(make_engine: MakeEngine) -> None:
    """The exception may be raised anywhere, also inside flowroute's own code around the step."""

    class Awkward(Flow):
        @worker_step(start=True, timeout=timedelta(seconds=0.01), to=[done])
        def work(self, turns: int) -> Continuation[int]:
            for _ in range(turns):
                self.run.progress(1, 2)
            return done(turns)

    engine = make_engine(ThreadExecutor(threads=2))
    runs = [engine.start(Awkward().work(number * 40)) for number in range(100)]
    for run in runs:
        run.wait(timeout_seconds=20)
    kinds = {run.error.type for run in runs if run.error is not None}
    assert kinds <= {"StepTimeout"}
    assert engine.dispatcher.heartbeat._pulses == set()  # noqa: SLF001
    assert engine.start(Awkward().work(1)).wait(timeout_seconds=20).state in {"done", "failed"}
