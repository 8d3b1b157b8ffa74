"""The executors that need nothing else: the caller itself, and threads of this process."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from flowroute import Continuation, Engine, Flow, done, step, worker_step
from flowroute.engine import local
from flowroute.engine.local import InlineExecutor, ThreadExecutor
from flowroute.engine.ports import Hint
from flowroute.errors import ConfigurationError
from tests.engine.conftest import MakeEngine
from tests.engine.support import Note, in_thread, notes, set_column, wait_for_state
from tests.waiting import wait_until


class Simple(Flow):
    """A worker step that tells its thread."""

    @worker_step(start=True)
    def work(self) -> Continuation[str]:
        return done(threading.current_thread().name)


class Countdown(Flow):
    """A worker step after a worker step after a worker step."""

    @worker_step(start=True)
    def work(self, left: int) -> Continuation[int]:
        return self.work(left - 1) if left else done(len(depth_of_stack()))


def depth_of_stack() -> list[Any]:
    """The frames of the caller."""
    frames = []
    frame: Any = sys._getframe()  # noqa: SLF001
    while frame is not None:
        frames.append(frame.f_lineno)
        frame = frame.f_back
    return frames


# -- inline ----------------------------------------------------------------------------------------


def test_the_inline_executor_runs_a_worker_step_in_the_caller(engine: Engine) -> None:
    assert engine.start(Simple().work()).result == threading.current_thread().name
    assert engine.executor.name == "inline"


def test_inline_worker_steps_in_a_row_are_a_loop(engine: Engine) -> None:
    shallow = engine.start(Countdown().work(1)).result
    assert engine.start(Countdown().work(20)).result == shallow


def test_a_run_that_an_inline_step_starts_is_done_when_start_returns(engine: Engine) -> None:
    class Parent(Flow):
        @worker_step(start=True)
        def work(self) -> Continuation[str]:
            child = engine.start(Countdown().work(3))
            return done(child.state)

    assert engine.start(Parent().work()).result == "done"


def test_an_inline_step_that_raises_leaves_the_executor_usable(engine: Engine) -> None:
    class Exiting(Flow):
        @worker_step(start=True, to=[done])
        def work(self) -> Continuation[None]:
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        engine.start(Exiting().work())
    assert engine.start(Countdown().work(2)).state == "done"


def test_an_executor_of_no_engine_does_nothing() -> None:
    hint = Hint("r", 0, 0, None, "Flow", "step")
    InlineExecutor().submit(hint)
    threads = ThreadExecutor(threads=1)
    threads.start()
    threads.submit(hint)
    threads.close()


# -- threads ---------------------------------------------------------------------------------------


def test_the_thread_executor_runs_a_worker_step_in_a_thread_of_its_own(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine("thread")
    run = engine.start(Simple().work()).wait(timeout_seconds=10)
    assert run.result.startswith("flowroute-")
    assert run.checkpoints[0].executor == "thread"


def test_as_many_steps_run_at_once_as_there_are_threads(make_engine: MakeEngine) -> None:
    meeting = threading.Barrier(3)

    class Meeting(Flow):
        @worker_step(start=True)
        def work(self) -> Continuation[None]:
            meeting.wait(10)
            return done()

    engine = make_engine(ThreadExecutor(threads=3))
    runs = [engine.start(Meeting().work()) for _ in range(3)]
    for run in runs:
        assert run.wait(timeout_seconds=10).state == "done"


def test_a_hint_that_is_queued_already_is_not_queued_again(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(executor := ThreadExecutor(threads=1))
    taken: list[str] = []
    monkeypatch.setattr(engine, "advance", lambda run_id, *_: taken.append(run_id))
    hint, other = Hint("a", 0, 0, None, "F", "s"), Hint("b", 0, 0, None, "F", "s")
    for _ in range(3):
        executor.submit(hint)
    executor.submit(other)
    executor.start()
    wait_until(lambda: len(taken) == 2, what="both were taken")
    executor.submit(hint)  # once it was taken it may come again
    executor.submit(other)
    wait_until(lambda: len(taken) == 4, what="both were taken again")
    assert taken == ["a", "b", "a", "b"]


def test_the_thread_executor_finishes_what_an_earlier_process_left_waiting(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "RECOVERY_SECONDS", 0.05)

    class Dropping(ThreadExecutor):
        """Of a process that ended before it came to its hints."""

        def start(self) -> None:
            """Never."""

    left = make_engine(Dropping())
    run = left.start(Simple().work())
    assert run.waiting_for == "worker"
    engine = make_engine("thread")
    engine.executor.start()
    wait_for_state(run, "done")


def test_waiting_for_a_run_starts_the_threads(make_engine: MakeEngine) -> None:
    class Late(ThreadExecutor):
        """Not started by the start of a run."""

        asleep = True

        def start(self) -> None:
            if not self.asleep:
                super().start()

    engine = make_engine(executor := Late())
    run = engine.start(Simple().work())
    executor.asleep = False
    assert run.wait(timeout_seconds=10).state == "done"


def test_threads_outlive_a_database_that_is_away_and_a_step_that_exits(
    make_engine: MakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(local, "RECOVERY_SECONDS", 0.05)
    engine = make_engine(ThreadExecutor(threads=1))
    problems: list[BaseException] = [OSError("no route to the database"), SystemExit(1)]
    advance, recover = engine.advance, engine.recover

    def failing_advance(run_id: str, seq: int, timeout_seconds: float | None) -> bool:
        if problems:
            raise problems.pop(0)
        return advance(run_id, seq, timeout_seconds)

    passes = [OSError("nor for recovery")]

    def failing_recover() -> Any:
        if passes:
            raise passes.pop()
        return recover()

    monkeypatch.setattr(engine, "advance", failing_advance)
    monkeypatch.setattr(engine, "recover", failing_recover)
    first = engine.start(Simple().work())
    second = engine.start(Simple().work())
    third = engine.start(Simple().work())
    for run in (third, first, second):
        set_column(engine, run, wake_at=None) if run.state != "waiting" else None
        wait_for_state(run, "done")
    assert "could not be advanced; recovery will try again" in caplog.text
    assert "recovery failed; it will look again" in caplog.text


def test_a_step_that_exits_releases_its_run_without_an_attempt(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "RECOVERY_SECONDS", 0.05)
    exits = [1, 2]

    class Exiting(Flow):
        @worker_step(start=True)
        def work(self) -> Continuation[int]:
            if exits:
                sys.exit(exits.pop())
            return done(self.run.attempt)

    engine = make_engine(ThreadExecutor(threads=1))
    assert engine.start(Exiting().work()).wait(timeout_seconds=20).result == 1


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_a_process_that_is_asked_to_end_lets_another_go_on_at_once(
    make_engine: MakeEngine, ending: type[BaseException]
) -> None:
    class Ended(Flow):
        @step(start=True)
        def work(self) -> Continuation[int]:
            self.session.add(Note(text=f"attempt {self.run.attempt}"))
            self.session.flush()
            if not endings:
                endings.append(1)
                raise ending
            return done(self.run.attempt)

    endings: list[int] = []
    engine = make_engine()
    with pytest.raises(ending):
        engine.start(Ended().work())
    [run] = engine.runs()
    record = run.record
    assert (record.state, record.attempt, record.lease_until) == ("ready", 0, None)
    assert record.wake_at is not None
    assert notes(engine) == []
    assert run.resume().result == 1
    assert notes(engine) == ["attempt 1"]


def test_closing_lets_running_steps_finish(make_engine: MakeEngine) -> None:
    began, go_on = threading.Event(), threading.Event()

    class Finishing(Flow):
        @worker_step(start=True)
        def work(self) -> Continuation[str]:
            began.set()
            assert go_on.wait(10)
            return done("finished")

    engine = make_engine("thread")
    run = engine.start(Finishing().work())
    waiting = engine.start(Simple().work())
    assert began.wait(10)
    closing = in_thread(engine.close)
    go_on.set()
    closing.join(10)
    assert not closing.is_alive()
    reader = make_engine()
    assert reader.get(run.id).result == "finished"
    assert reader.get(waiting.id).state in {"waiting", "done"}  # what was not begun waits


def test_a_closed_executor_starts_no_more(make_engine: MakeEngine) -> None:
    engine = make_engine("thread")
    engine.close()
    engine.executor.start()
    assert [t for t in threading.enumerate() if t.name.startswith("flowroute-")] == []


def test_a_step_may_close_its_own_engine(make_engine: MakeEngine) -> None:
    class Closing(Flow):
        @worker_step(start=True)
        def work(self) -> Continuation[None]:
            engine.executor.close()
            return done()

    engine = make_engine("thread")
    run = engine.start(Closing().work())
    wait_for_state(run, "done")


def test_threads_work_within_the_scope_of_the_application(make_engine: MakeEngine) -> None:
    entered: list[str] = []
    inside = threading.local()

    @contextmanager
    def scope() -> Iterator[None]:
        entered.append(threading.current_thread().name)
        inside.now = True
        try:
            yield
        finally:
            inside.now = False

    class Scoped(Flow):
        @worker_step(start=True)
        def work(self) -> Continuation[bool]:
            return done(inside.now)

    engine = make_engine("thread", scope=scope)
    assert engine.start(Scoped().work()).wait(timeout_seconds=10).result is True
    wait_until(lambda: "flowroute-recovery" in entered, what="recovery ran in the scope too")


def test_an_executor_with_no_thread_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least one thread"):
        ThreadExecutor(threads=0)


def test_an_unknown_executor_is_refused(make_engine: MakeEngine) -> None:
    with pytest.raises(ConfigurationError, match="no executor called 'process': give 'thread'"):
        make_engine("process")


def test_two_engines_on_two_databases_live_in_one_process(
    make_engine: MakeEngine, tmp_path: Any
) -> None:
    first = make_engine("thread")
    second = make_engine("thread", database=f"sqlite:///{tmp_path / 'second.db'}")
    second.create_all()
    ours = [first.start(Simple().work(), key=str(number)) for number in range(5)]
    theirs = [second.start(Simple().work(), key=str(number)) for number in range(3)]
    for run in (*ours, *theirs):
        assert run.wait(timeout_seconds=10).state == "done"
    assert (len(first.runs()), len(second.runs())) == (5, 3)
    second.close()
    assert first.start(Simple().work()).wait(timeout_seconds=10).state == "done"


def test_recovery_of_a_closed_thread_executor_ends_quietly(
    make_engine: MakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(3):
        with make_engine("thread") as engine:
            engine.executor.start()
    assert caplog.records == []
