"""A forked child has connections, threads and locks of its own, and leaves its parent's alone."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from flowroute import Continuation, Engine, Flow, done, worker_step
from flowroute.engine.engine import _after_fork
from tests.engine.conftest import MakeEngine
from tests.waiting import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")


class Child(Flow):
    """A worker step that reports progress."""

    @worker_step(start=True)
    def work(self, number: int) -> Continuation[int]:
        self.run.progress(1, 2)
        return done(number)


class Forked:
    """A forked child that calls a function and sends what it returned."""

    def __init__(self, act: Callable[[], Any]) -> None:
        fork = multiprocessing.get_context("fork")
        self._ours, theirs = fork.Pipe()

        def body() -> None:
            try:
                theirs.send(act())
            except BaseException as error:  # noqa: BLE001  # sent to the test, which fails by it
                theirs.send(repr(error))

        self._child = fork.Process(target=body)
        self._child.start()

    def result(self) -> Any:
        """Wait for what the function returned; a failure comes as text."""
        try:
            assert self._ours.poll(20), "the child does not answer"
            return self._ours.recv()
        finally:
            self._child.join(5)  # it ends by itself, so that what it covered is counted
            self._child.kill()
            self._child.join()


def forked(act: Callable[[], Any]) -> Any:
    """Call a function in a forked child and return what it returned."""
    return Forked(act).result()


def connection_of(engine: Engine) -> str:
    """What tells one connection to the database from another."""
    with engine.database.engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            return str(connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one())
        return str(id(connection.connection.dbapi_connection))


def test_a_forked_child_does_not_use_its_parents_connections(make_engine: MakeEngine) -> None:
    engine = make_engine()
    mine = connection_of(engine)
    assert connection_of(engine) == mine
    pool: Any = engine.database.engine.pool
    assert pool.checkedin() == 1
    assert forked(lambda: engine.database.engine.pool.checkedin()) == 0  # type: ignore[attr-defined]  # noqa: PLW0108  # that of the child
    assert forked(lambda: connection_of(engine)) != mine
    assert connection_of(engine) == mine


def test_without_the_guard_a_forked_child_would_use_them(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shows that the test above would notice."""
    engine = make_engine()
    monkeypatch.setattr(engine, "after_fork", lambda: None)
    mine = connection_of(engine)
    assert forked(lambda: connection_of(engine)) == mine
    engine.database.engine.dispose()


def test_parent_and_children_run_their_flows_at_the_same_time(make_engine: MakeEngine) -> None:
    engine = make_engine("thread")
    assert engine.runs() == []  # so that there is a connection to inherit

    def act() -> int:
        runs = [engine.start(Child().work(number)) for number in range(5)]
        return sum(run.wait(timeout_seconds=20).result for run in runs)

    children = [Forked(act) for _ in range(3)]
    assert act() == 10
    assert [child.result() for child in children] == [10, 10, 10]
    assert len(engine.runs()) == 20
    assert {run.state for run in engine.runs()} == {"done"}


def test_what_a_child_commits_after_its_parent_closed_the_database_is_kept(
    make_engine: MakeEngine,
) -> None:
    """On SQLite, a child with an inherited connection would write to a log that was deleted."""
    engine = make_engine()
    engine.start(Child().work(1))
    closed = multiprocessing.get_context("fork").Event()

    def act() -> int:
        engine.start(Child().work(2))  # opens the file while the parent has it open
        assert closed.wait(20)
        engine.start(Child().work(3))
        return len(engine.runs())

    child = Forked(act)
    wait_until(lambda: len(engine.runs()) == 2, what="the child has the file open")
    engine.close()
    closed.set()
    assert child.result() == 3
    assert len(make_engine().runs()) == 3


def test_a_child_forked_while_a_connection_was_in_use(make_engine: MakeEngine) -> None:
    """SQLite can not be used in it; a server's database can."""
    engine = make_engine()
    with engine.database.engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
        sqlite = connection.dialect.name == "sqlite"
        result = forked(lambda: engine.start(Child().work(3)).result)
    if sqlite:
        assert result.startswith("ConfigurationError(")
        assert "forked while its parent was using the SQLite file" in result
    else:
        assert result == 3
    assert engine.start(Child().work(4)).result == 4


def test_a_child_forked_while_the_parents_locks_are_held_is_not_stuck(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine("thread")
    engine.start(Child().work(0)).wait(timeout_seconds=10)
    executor: Any = engine.executor
    beats: Any = engine.dispatcher.heartbeat
    pool: Any = engine.database.engine.pool
    # The thread that ran the step may still be at its end, with a connection, which a fork at that
    # moment must not share.
    wait_until(lambda: pool.checkedout() == 0, 10, what="the run's thread is done")
    with engine.bell._rung, executor._lock, beats._lock:  # noqa: SLF001
        result = forked(lambda: engine.start(Child().work(7)).wait(timeout_seconds=10).result)
    assert result == 7


def test_a_child_forgets_the_attempts_that_run_in_its_parent(make_engine: MakeEngine) -> None:
    began, go_on = threading.Event(), threading.Event()

    class Long(Flow):
        @worker_step(start=True)
        def work(self) -> Continuation[str]:
            began.set()
            assert go_on.wait(20)
            return done("undisturbed")

    engine = make_engine("thread")
    run = engine.start(Long().work())
    assert began.wait(10)
    beats: Any = engine.dispatcher.heartbeat
    assert len(beats._pulses) == 1  # noqa: SLF001
    assert forked(lambda: (len(beats._pulses), beats._thread)) == (0, None)  # noqa: SLF001
    go_on.set()
    assert run.wait(timeout_seconds=10).result == "undisturbed"


def test_an_engine_with_another_executor_survives_a_fork_too(make_engine: MakeEngine) -> None:
    engine = make_engine("inline")
    assert forked(lambda: engine.start(Child().work(3)).result) == 3


def test_every_engine_of_the_process_is_told_of_the_fork(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    engines = [make_engine(), make_engine()]
    for number, engine in enumerate(engines):
        monkeypatch.setattr(engine, "after_fork", lambda number=number: told.append(number))
    _after_fork()
    assert sorted(told) == [0, 1]
