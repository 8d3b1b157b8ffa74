"""COMMITs of uncertain outcome are looked up, and errors that pass are tried again."""

from __future__ import annotations

import random
import threading
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from flowroute import Continuation, Engine, Flow, Retry, StepFailure, done, step, worker_step
from flowroute.engine import dispatcher
from flowroute.engine import flow as flows
from flowroute.engine.turn import REQUEST, SUBMIT
from tests.engine.conftest import MakeEngine
from tests.engine.support import (
    Note,
    Shelf,
    failing_commit,
    in_thread,
    notes,
    page,
    set_column,
    stored,
)


class Ledger(Flow):
    """Two plain steps that may write."""

    writes: bool

    @step(start=True, retry=Retry(2, backoff=timedelta(0)))
    def one(self) -> Continuation[list[int]]:
        if self.writes:
            self.session.add(Note(text=f"one, attempt {self.run.attempt}"))
        return self.two(self.run.attempt)

    @step
    def two(self, before: int) -> Continuation[list[int]]:
        if self.writes:
            self.session.add(Note(text="two"))
        return done([before, self.run.attempt])


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other at once."""
    monkeypatch.setattr(random, "uniform", lambda *_: 0.0)


# -- COMMIT ----------------------------------------------------------------------------------------


def test_a_start_whose_commit_happened_but_reported_an_error_is_a_start(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with failing_commit(engine, happens=True):
        run = engine.start(Ledger(writes=True).one())
    assert run.result == [1, 1]
    assert stored(engine) == (1, 3)
    assert "COMMIT of checkpoint 0 reported an error, but happened" in caplog.text


def test_a_start_whose_commit_did_not_happen_raises_and_stores_nothing(engine: Engine) -> None:
    with failing_commit(engine, happens=False), pytest.raises(OperationalError):
        engine.start(Ledger(writes=True).one())
    assert stored(engine) == (0, 0)
    assert notes(engine) == []


@pytest.mark.parametrize("writes", [False, True])
def test_a_step_whose_commit_happened_but_reported_an_error_is_not_run_again(
    engine: Engine, *, writes: bool
) -> None:
    with failing_commit(engine, happens=True, number=2):
        run = engine.start(Ledger(writes=writes).one())
    assert run.result == [1, 1]
    assert notes(engine) == (["one, attempt 1", "two"] if writes else [])
    assert [c.seq for c in run.checkpoints] == [0, 1, 2]


def test_what_a_step_changes_in_a_new_row_is_stored_though_the_commit_before_reported_an_error(
    engine: Engine,
) -> None:
    class HandingRow(Flow):
        @step(start=True)
        def make(self) -> Continuation[str]:
            return self.change(Note(text="new"))

        @step
        def change(self, note: Note) -> Continuation[str]:
            note.text = "changed"
            return done(note.text)

    with failing_commit(engine, happens=True, number=2):
        run = engine.start(HandingRow().make())
    assert run.result == "changed"
    assert notes(engine) == ["changed"]


@pytest.mark.parametrize("writes", [False, True])
def test_a_step_whose_commit_did_not_happen_is_a_failed_attempt(
    engine: Engine, *, writes: bool
) -> None:
    with failing_commit(engine, happens=False, number=2):
        run = engine.start(Ledger(writes=writes).one())
    assert (run.waiting_for, run.record.attempt, run.record.seq) == ("timer", 1, 0)
    assert run.error is not None
    assert run.error.type == "OperationalError"
    assert notes(engine) == []
    engine.recover()
    assert run.result == [2, 1]
    assert notes(engine) == (["one, attempt 2", "two"] if writes else [])


@pytest.mark.parametrize("happens", [True, False])
def test_a_worker_step_is_stored_once_whatever_its_commit_reports(
    make_engine: MakeEngine, *, happens: bool
) -> None:
    class Charging(Flow):
        @worker_step(start=True, retry=Retry(2, backoff=timedelta(0)))
        def charge(self) -> Continuation[int]:
            self.session.add(Note(text=f"charged at attempt {self.run.attempt}"))
            return done(self.run.attempt)

    engine = make_engine(shelf := Shelf())
    run = engine.start(Charging().charge())
    with failing_commit(engine, happens=happens, number=2):  # the first is that of the claim
        shelf.work()
    while not run.at_rest:  # pytest-timeout bounds this
        engine.recover()
        shelf.work()
    assert run.result == (1 if happens else 2)
    assert notes(engine) == [f"charged at attempt {run.result}"]


def test_a_claim_whose_commit_reported_an_error_runs_nothing_twice(
    make_engine: MakeEngine,
) -> None:
    class Claimed(Flow):
        @worker_step(start=True)
        def work(self) -> Continuation[None]:
            self.session.add(Note(text="worked"))
            return done()

    engine = make_engine(shelf := Shelf(), lease_seconds=0.1)
    run = engine.start(Claimed().work())
    with failing_commit(engine, happens=True), pytest.raises(OperationalError):
        shelf.work()
    assert run.state == "running"
    while not run.at_rest:  # pytest-timeout bounds this
        engine.recover()
        shelf.work()
    assert notes(engine) == ["worked"]


@pytest.mark.parametrize("happens", [True, False])
def test_a_hand_over_to_on_error_is_stored_once_whatever_its_commit_reports(
    make_engine: MakeEngine, *, happens: bool
) -> None:
    class Handing(Flow):
        @step(start=True, on_error="clean_up", to=[done])
        def work(self) -> Continuation[str]:
            raise ValueError("of the step")

        @step
        def clean_up(self, failure: StepFailure) -> Continuation[str]:
            self.session.add(Note(text="cleaned up"))
            return done(failure.type)

    engine = make_engine(lease_seconds=0.1)
    with failing_commit(engine, happens=happens, number=2):
        if happens:
            engine.start(Handing().work())
        else:  # nobody can record it now: the lease will end
            with pytest.raises(OperationalError):
                engine.start(Handing().work())
    [run] = engine.runs()
    while not run.at_rest:  # pytest-timeout bounds this
        engine.recover()
    assert run.result == "ValueError"
    assert notes(engine) == ["cleaned up"]


# -- another try -----------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_locked_database_is_another_try_and_no_attempt(
    make_engine: MakeEngine, bind: sa.Engine
) -> None:
    class Locked(Flow):
        @worker_step(start=True)
        def work(self, numbers: list[int]) -> Continuation[Any]:
            numbers.append(len(tries))
            tries.append(self.run.attempt)
            self.session.connection().exec_driver_sql("PRAGMA busy_timeout=20")
            if len(tries) == 3:
                other.rollback()
            self.session.add(Note(text="at last"))
            self.session.flush()
            return done(numbers)

    tries: list[int] = []
    engine = make_engine(shelf := Shelf())
    run = engine.start(Locked().work([]))
    claim = engine.dispatcher._store.claim  # noqa: SLF001

    with bind.connect() as other:

        def claim_then_lock(*arguments: Any, **options: Any) -> bool:
            claimed = claim(*arguments, **options)
            arguments[0].commit()
            other.exec_driver_sql("BEGIN IMMEDIATE")
            return claimed

        engine.dispatcher._store.claim = claim_then_lock  # type: ignore[method-assign]  # noqa: SLF001
        assert shelf.work() == [True]
    assert tries == [1, 1, 1]
    assert run.result == [2]  # the arguments are those of the bookmark at each try
    assert notes(engine) == ["at last"]


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_deadlock_is_another_try_and_no_attempt(make_engine: MakeEngine, bind: sa.Engine) -> None:
    class Locking(Flow):
        @worker_step(start=True)
        def work(self) -> Continuation[int]:
            tries.append(self.run.attempt)
            self.session.execute(sa.text("SET LOCAL deadlock_timeout = '10ms'"))
            self.session.execute(sa.update(Note).where(Note.id == 1).values(text="of the step"))
            mine.set()
            assert others.wait(10)
            self.session.execute(sa.update(Note).where(Note.id == 2).values(text="of the step"))
            return done(self.run.attempt)

    def other_session() -> None:
        with bind.begin() as connection:
            connection.execute(sa.text("SET LOCAL deadlock_timeout = '10s'"))
            assert mine.wait(10)
            connection.execute(sa.update(Note).where(Note.id == 2).values(text="of another"))
            others.set()
            connection.execute(sa.update(Note).where(Note.id == 1).values(text="of another"))

    tries: list[int] = []
    mine, others = threading.Event(), threading.Event()
    engine = make_engine(shelf := Shelf())
    with bind.begin() as connection:
        connection.execute(sa.insert(Note), [{"id": n, "text": "new"} for n in (1, 2)])
    run = engine.start(Locking().work())
    thread = in_thread(other_session)
    shelf.work()
    thread.join(10)
    assert run.result == 1
    assert tries == [1, 1]
    assert notes(engine) == ["of the step", "of the step"]


class Unlucky(Flow):
    """A step that the database asks for another try, so often."""

    @worker_step(start=True)
    def work(self, times: int) -> Continuation[int]:
        tries.append(self.run.attempt)
        self.session.add(Note(text=f"try {len(tries)}"))
        self.session.flush()
        if len(tries) <= times:
            raise locked()
        return done(len(tries))


tries: list[int] = []


def locked() -> OperationalError:
    """What SQLite says to a writer that came second."""
    return OperationalError("INSERT", {}, Exception("database is locked"))


@pytest.fixture
def unlucky(make_engine: MakeEngine) -> Engine:
    """An engine for `Unlucky`, whose hints wait."""
    tries.clear()
    return make_engine(Shelf())


def test_another_try_is_given_five_times_and_then_the_attempt_has_failed(unlucky: Engine) -> None:
    run = unlucky.start(Unlucky().work(5))
    unlucky.advance(run.id, 0)
    assert run.result == 6
    assert notes(unlucky) == ["try 6"]
    tries.clear()
    run = unlucky.start(Unlucky().work(99))
    unlucky.advance(run.id, 0)
    assert tries == [1] * 6
    assert (run.state, run.record.attempt) == ("failed", 1)
    assert run.error is not None
    assert "database is locked" in run.error.message


def test_a_run_that_was_taken_over_before_the_next_try_is_left_alone(
    unlucky: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take(turn: Any, _error: BaseException) -> None:
        turn.transient += 1
        set_column(unlucky, unlucky.get(turn.run_id), epoch=9)

    monkeypatch.setattr(dispatcher, "_pause", take)
    run = unlucky.start(Unlucky().work(1))
    assert unlucky.advance(run.id, 0) is False
    assert tries == [1]
    assert (run.state, run.record.epoch) == ("running", 9)


def test_a_run_that_was_deleted_before_the_next_try_is_left_alone(
    unlucky: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def delete(turn: Any, _error: BaseException) -> None:
        turn.transient += 1
        with unlucky.database.engine.begin() as connection:
            connection.execute(sa.text("DELETE FROM flowroute_checkpoint"))
            connection.execute(sa.text("DELETE FROM flowroute_run"))

    monkeypatch.setattr(dispatcher, "_pause", delete)
    run = unlucky.start(Unlucky().work(1))
    assert unlucky.advance(run.id, 0) is False
    assert stored(unlucky) == (0, 0)


def test_a_bookmark_that_became_unusable_before_the_next_try_blocks_the_run(
    unlucky: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def undefine(turn: Any, _error: BaseException) -> None:
        turn.transient += 1
        monkeypatch.delitem(flows._flows, "Unlucky")  # noqa: SLF001

    monkeypatch.setattr(dispatcher, "_pause", undefine)
    run = unlucky.start(Unlucky().work(1))
    assert unlucky.advance(run.id, 0) is False
    assert (run.state, run.record.attempt) == ("blocked", 0)
    assert notes(unlucky) == []


@pytest.mark.parametrize("caller", [REQUEST, SUBMIT])
def test_a_page_is_given_another_try_too(engine: Engine, caller: Any) -> None:
    tries.clear()

    class Shown(Flow):
        @page(start=True, to=("done",))
        def show(self) -> Any:
            tries.append(self.run.attempt)
            if len(tries) == 1:
                raise locked()
            return "shown"

    run = engine.start(Shown().show())
    assert engine.visit(run.id, caller).answer == "shown"
    assert len(tries) == 2


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_connection_that_the_server_closed_is_another_try(
    make_engine: MakeEngine, bind: sa.Engine
) -> None:
    class Cut(Flow):
        @worker_step(start=True)
        def work(self) -> Continuation[int]:
            tries.append(self.run.attempt)
            self.session.add(Note(text=f"try {len(tries)}"))
            self.session.flush()
            if len(tries) == 1:
                pid = self.session.scalar(sa.text("SELECT pg_backend_pid()"))
                with bind.connect() as connection:
                    connection.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
                self.session.execute(sa.text("SELECT 1"))
            return done(self.run.attempt)

    tries: list[int] = []
    engine = make_engine(shelf := Shelf())
    run = engine.start(Cut().work())
    assert shelf.work() == [True]
    assert run.result == 1
    assert notes(engine) == ["try 2"]


def test_other_errors_of_the_database_are_failed_attempts(engine: Engine) -> None:
    class Misspelt(Flow):
        @step(start=True)
        def work(self) -> Continuation[None]:
            tries.append(self.run.attempt)
            self.session.execute(sa.text("SELECT * FROM no_such_table"))
            return done()

    tries: list[int] = []
    run = engine.start(Misspelt().work())
    assert run.state == "failed"
    assert tries == [1]
