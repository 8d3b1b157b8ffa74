"""`Run` and the engine's look-ups: what people ask of runs, and what they are told."""

from __future__ import annotations

import threading
import time
from datetime import UTC
from typing import Any

import pytest
import sqlalchemy as sa

from flowroute import Continuation, Engine, Flow, StepFailure, done, step, worker_step
from flowroute.engine import run as runs
from flowroute.engine.clock import FakeClock
from flowroute.errors import (
    ConfigurationError,
    RunFailed,
    RunNotFinished,
    RunNotFound,
    RunStateError,
    SecretKeyMissing,
    WaitTimeout,
)
from tests.engine.conftest import MakeEngine
from tests.engine.support import KEYS, Shelf, in_thread
from tests.waiting import wait_until

UNKNOWN = "01900000-0000-7000-8000-000000000000"


class Task(Flow):
    """Ends as it is told."""

    @worker_step(start=True)
    def work(self, *, fail: bool = False) -> Continuation[dict[str, Any]]:
        if fail:
            raise ValueError("declined")
        return done({"answer": 42, "none": None})


class Other(Flow, name="other-flow"):
    """Another flow."""

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


# -- results ---------------------------------------------------------------------------------------


def test_the_result_is_what_the_run_ended_with(engine: Engine, shelf: Shelf) -> None:
    run = engine.start(Task().work())
    with pytest.raises(
        RunNotFinished, match=r"has no result: it is waiting at step work.*wait"
    ) as e:
        _ = run.result
    assert (e.value.run_id, e.value.step) == (run.id, "work")
    shelf.work()
    assert run.result == {"answer": 42, "none": None}
    assert engine.get(run.id).result == run.result


@pytest.mark.parametrize("value", [None, False, 0, b"\x00", {1, 2}, "", 1.5, (1, [2])])
def test_results_keep_their_type(make_engine: MakeEngine, value: Any) -> None:
    class Echo(Flow):
        @step(start=True)
        def work(self, value: Any) -> Continuation[Any]:
            return done(value)

    result = make_engine().start(Echo().work(value)).result
    assert result == value
    assert type(result) is type(value)


def test_a_failed_run_tells_where_and_why(engine: Engine, shelf: Shelf) -> None:
    run = engine.start(Task().work(fail=True))
    assert run.error is None
    shelf.work()
    with pytest.raises(
        RunFailed, match=r"Task failed at step work, attempt 1: ValueError: declined"
    ) as e:
        _ = run.result
    assert (e.value.run_id, e.value.step) == (run.id, "work")
    assert isinstance(run.error, StepFailure)
    assert run.error.message == "declined"


def test_a_cancelled_run_has_no_result(engine: Engine) -> None:
    run = engine.start(Task().work()).cancel()
    with pytest.raises(RunNotFinished, match="it is cancelled"):
        _ = run.result


# -- waiting ---------------------------------------------------------------------------------------


def test_wait_returns_once_the_run_is_at_rest(make_engine: MakeEngine) -> None:
    engine = make_engine("thread")
    run = engine.start(Task().work())
    assert run.wait(timeout_seconds=10) is run
    assert run.at_rest
    assert run.wait() is run


def test_wait_gives_up_after_its_timeout_and_the_run_goes_on(engine: Engine, shelf: Shelf) -> None:
    run = engine.start(Task().work())
    began = time.monotonic()
    with pytest.raises(WaitTimeout, match=r"still waiting at step work after 0\.05 s") as e:
        run.wait(timeout_seconds=0.05)
    assert 0.05 <= time.monotonic() - began < 5
    assert isinstance(e.value, TimeoutError)
    assert (e.value.run_id, e.value.step) == (run.id, "work")
    with pytest.raises(WaitTimeout):
        run.wait(timeout_seconds=0)
    shelf.work()
    assert run.wait(timeout_seconds=0).state == "done"


def test_wait_hears_of_a_move_in_this_process_at_once(
    engine: Engine, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "POLL_SECONDS", 60)
    run = engine.start(Task().work())
    ended: list[str] = []
    thread = in_thread(lambda: ended.append(run.wait().state))
    wait_until(lambda: engine.bell._rung._waiters, what="it waits")  # type: ignore[attr-defined]  # noqa: SLF001
    shelf.work()
    thread.join(10)
    assert ended == ["done"]


def test_wait_looks_for_moves_in_other_processes_now_and_then(
    engine: Engine, make_engine: MakeEngine, clock: FakeClock
) -> None:
    run = engine.start(Task().work())
    ended: list[str] = []
    thread = in_thread(lambda: ended.append(run.wait().state))
    wait_until(lambda: engine.bell._rung._waiters, what="it waits")  # type: ignore[attr-defined]  # noqa: SLF001
    assert make_engine(Shelf(), clock=clock).advance(run.id, 0)  # rings another bell
    thread.join(10)
    assert ended == ["done"]


# -- acting ----------------------------------------------------------------------------------------


def test_only_failed_and_blocked_runs_are_retried(engine: Engine, shelf: Shelf) -> None:
    run = engine.start(Task().work())
    with pytest.raises(RunStateError, match="is waiting and can not be retried") as e:
        run.retry()
    assert (e.value.run_id, e.value.step) == (run.id, "work")
    shelf.work()
    with pytest.raises(RunStateError, match="is done and can not be retried"):
        run.retry()


def test_a_finished_run_is_not_cancelled(engine: Engine, shelf: Shelf) -> None:
    run = engine.start(Task().work())
    shelf.work()
    with pytest.raises(RunStateError, match="is done and can not be cancelled: it has finished"):
        run.cancel()


def test_a_cancelled_run_is_at_its_end(engine: Engine, shelf: Shelf, clock: FakeClock) -> None:
    run = engine.start(Task().work())
    assert run.cancel() is run
    record = run.record
    assert (record.state, record.wake_at, record.finished_at) == ("cancelled", None, clock.instant)
    assert shelf.work() == [False]
    clock.advance(3600)
    assert not engine.recover()


def test_a_run_that_moves_while_it_is_cancelled_is_cancelled_all_the_same(
    engine: Engine, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Moving(Flow):
        @worker_step(start=True)
        def one(self) -> Continuation[None]:
            return self.two()

        @worker_step
        def two(self) -> Continuation[None]:
            return done()

    run = engine.start(Moving().one())
    read = engine.lookup.read

    def read_then_move(run_id: str) -> Any:
        record = read(run_id)
        if record.seq == 0:
            shelf.work()
        return record

    monkeypatch.setattr(engine.lookup, "read", read_then_move)
    run.cancel()
    assert (run.state, run.record.seq) == ("cancelled", 1)


def test_a_run_that_finishes_while_it_is_reset_keeps_its_result(
    engine: Engine, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = engine.start(Task().work(), key="k")
    read = engine.lookup.read

    def read_then_finish(run_id: str) -> Any:
        record = read(run_id)
        shelf.work()
        return record

    monkeypatch.setattr(engine.lookup, "read", read_then_finish)
    run.reset()
    assert (run.state, run.key) == ("done", None)


def test_resume_hints_a_worker_step_and_runs_plain_ones(engine: Engine, shelf: Shelf) -> None:
    run = engine.start(Task().work())
    shelf.hints.clear()
    assert run.resume() is run
    assert [hint.run_id for hint in shelf.hints] == [run.id]
    assert run.state == "waiting"


# -- looking ---------------------------------------------------------------------------------------


def test_a_handle_reads_the_row_at_each_look(engine: Engine, shelf: Shelf) -> None:
    run = engine.start(Task().work(), key="k")
    assert (run.flow, run.key, run.state, run.waiting_for, run.step, run.progress) == (
        "Task",
        "k",
        "waiting",
        "worker",
        "work",
        None,
    )
    assert not run.at_rest
    shelf.work()
    assert (run.state, run.waiting_for, run.step, run.at_rest) == ("done", None, None, True)
    assert run.id in repr(run)


def test_instants_are_aware_and_utc(engine: Engine) -> None:
    record = engine.start(Task().work()).record
    assert record.created_at.tzinfo is UTC
    assert record.now.tzinfo is UTC


def test_runs_are_listed_newest_first_and_filtered(
    engine: Engine, shelf: Shelf, clock: FakeClock
) -> None:
    started = []
    for number in range(6):
        flow = Task().work(fail=number == 1) if number < 4 else Other().work()
        started.append(engine.start(flow, owner="ann" if number % 2 else "bob"))
        clock.advance(1)
    shelf.work()
    last = engine.start(Task().work()).cancel()

    def ids(found: Any) -> list[int]:
        return [started.index(next(s for s in started if s.id == run.id)) for run in found]

    assert engine.runs()[0].id == last.id
    assert ids(engine.runs()[1:]) == [5, 4, 3, 2, 1, 0]
    assert ids(engine.runs(flow=Task)[1:]) == [3, 2, 1, 0]
    assert ids(engine.runs(flow="other-flow")) == ids(engine.runs(flow=Other)) == [5, 4]
    assert ids(engine.runs(state="failed")) == [1]
    assert ids(engine.runs(state=["failed", "done"], limit=3)) == [5, 4, 3]
    assert ids(engine.runs(owner="ann")) == [5, 3, 1]
    assert ids(engine.runs(flow=Task, state="done", owner="bob")) == [2, 0]
    assert engine.runs(flow="no-such-flow") == []
    assert engine.runs(limit=0) == []


def test_an_unknown_state_is_refused_with_the_known_ones(engine: Engine) -> None:
    with pytest.raises(RunStateError, match=r"no state 'finished': a run is ready, .* or blocked"):
        engine.runs(state=["done", "finished"])


@pytest.mark.parametrize(
    "run_id", [UNKNOWN, "", "nobody", "'; DROP TABLE flowroute_run; --", "x" * 10_000, "\x00"]
)
def test_an_unknown_run_is_not_found_whatever_is_asked_for(engine: Engine, run_id: str) -> None:
    with pytest.raises(RunNotFound) as e:
        engine.get(run_id)
    assert isinstance(e.value, LookupError)
    assert e.value.run_id == run_id


def test_a_deleted_run_is_not_found(engine: Engine, shelf: Shelf) -> None:
    run = engine.start(Task().work())
    shelf.work()
    with engine.database.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM flowroute_checkpoint"))
        connection.execute(sa.text("DELETE FROM flowroute_run"))
    for look in (lambda: run.state, lambda: run.result, run.wait, run.cancel, run.reset):
        with pytest.raises(RunNotFound):
            look()


def test_a_result_is_read_by_whoever_has_the_key(
    engine: Engine, make_engine: MakeEngine, shelf: Shelf
) -> None:
    run = engine.start(Task().work())
    shelf.work()
    rotated = make_engine(secret_keys=["a newer key, also long enough for tests", *KEYS])
    assert rotated.get(run.id).result == {"answer": 42, "none": None}


# -- how an engine is set up -----------------------------------------------------------------------


def test_an_engine_needs_a_secret_key(tmp_path: Any) -> None:
    with pytest.raises(SecretKeyMissing):
        Engine(f"sqlite:///{tmp_path / 'x.db'}")


@pytest.mark.parametrize("seconds", [0, -1])
def test_a_lease_lasts_longer_than_nothing(tmp_path: Any, seconds: float) -> None:
    with pytest.raises(ConfigurationError, match="lease_seconds"):
        Engine(f"sqlite:///{tmp_path / 'x.db'}", secret_keys=KEYS, lease_seconds=seconds)


def test_an_engine_is_a_context_manager_that_closes_its_threads(make_engine: MakeEngine) -> None:
    before = set(threading.enumerate())
    with make_engine("thread") as engine:
        engine.start(Task().work()).wait(timeout_seconds=10)
        assert set(threading.enumerate()) > before
    assert set(threading.enumerate()) == before
