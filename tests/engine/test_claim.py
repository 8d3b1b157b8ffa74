"""The beginning of a turn that a hint asks for: at once on PostgreSQL, by two steps on SQLite."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from flowroute import Continuation, Engine, Flow, done, worker_step
from flowroute.engine.clock import FakeClock
from tests.engine.conftest import MakeEngine
from tests.engine.support import Note, Shelf, crash, set_column


class Timed(Flow):
    """A step that may take a minute, and one that may take any time."""

    @worker_step(start=True, timeout=timedelta(minutes=1))
    def limited(self) -> Continuation[Any]:
        return done(self.deadline())

    @worker_step(start=True)
    def unlimited(self) -> Continuation[Any]:
        return done(self.deadline())

    def deadline(self) -> float | None:
        """How long the row says that the attempt may still take, in seconds."""
        record = ENGINES[-1].lookup.read(self.run.id)
        if record.deadline_at is None:
            return None
        return (record.deadline_at - record.now).total_seconds()


class Reading(Flow):
    """A step with a row among its arguments."""

    @worker_step(start=True)
    def read(self, note: Note) -> Continuation[str]:
        return done(note.text)


ENGINES: list[Engine] = []


@pytest.fixture
def shelf() -> Shelf:
    """The executor of `engine`."""
    return Shelf()


@pytest.fixture
def engine(make_engine: MakeEngine, shelf: Shelf) -> Engine:
    """An engine whose clock stands still."""
    engine = make_engine(shelf, clock=FakeClock())
    ENGINES.append(engine)
    return engine


@pytest.mark.parametrize("hinted", [None, 60.0, 5.0])
@pytest.mark.parametrize(("name", "allowed"), [("limited", 60.0), ("unlimited", None)])
def test_the_deadline_of_an_attempt_is_that_of_the_step_whatever_the_hint_says(
    engine: Engine, name: str, allowed: float | None, hinted: float | None
) -> None:
    run = engine.start(getattr(Timed(), name)())
    assert engine.advance(run.id, 0, hinted)
    assert run.result == allowed


def test_a_run_that_is_lost_before_its_deadline_is_corrected_is_left_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = engine.start(Timed().limited())
    take = engine._store.take  # noqa: SLF001

    def late(*arguments: Any, **options: Any) -> Any:
        taken = take(*arguments, **options)
        set_column(engine, run, epoch=9)
        return taken

    monkeypatch.setattr(engine._store, "take", late)  # noqa: SLF001
    taken_at_once = engine.database.commits_alone
    assert engine.advance(run.id, 0) is not taken_at_once
    assert run.state == ("running" if taken_at_once else "done")


def test_a_run_whose_rows_can_not_be_read_has_made_no_attempt(engine: Engine, shelf: Shelf) -> None:
    bind = engine.database.engine
    with engine.database.open_session() as session:
        session.add(note := Note(text="of the step"))
        session.commit()
        run = engine.start(Reading().read(note))
    with bind.begin() as connection:
        connection.execute(sa.text("ALTER TABLE note RENAME TO hidden"))
    with pytest.raises(DBAPIError):
        shelf.work()
    assert run.state in ("waiting", "ready")
    assert run.record.attempt == 0
    assert run.record.lease_owner is None
    with bind.begin() as connection:
        connection.execute(sa.text("ALTER TABLE hidden RENAME TO note"))
    assert engine.advance(run.id, 0)
    assert run.result == "of the step"


def test_a_hint_for_a_run_that_is_taken_or_elsewhere_changes_nothing(engine: Engine) -> None:
    run = engine.start(Timed().unlimited())
    elsewhere: list[dict[str, Any]] = [{"seq": 3}, {"waiting_for": "page"}]
    for columns in elsewhere:
        set_column(engine, run, **columns)
        before = run.record
        assert engine.advance(run.id, 0) is False
        assert run.record == before
    set_column(engine, run, waiting_for="worker", seq=0)
    crash(engine, run, FakeClock())
    before = run.record
    assert engine.advance(run.id, 0) is False
    assert run.record == before


def test_a_lease_is_as_long_as_the_engine_says_from_the_claim_on(engine: Engine) -> None:
    leases: list[float] = []

    class Leased(Flow):
        @worker_step(start=True)
        def work(self) -> Continuation[None]:
            record = engine.lookup.read(self.run.id)
            leases.append((record.lease_until - record.now).total_seconds())  # type: ignore[operator]
            assert (record.state, record.epoch, record.attempt) == ("running", 2, 1)
            assert record.wake_at is None
            return done()

    run = engine.start(Leased().work())
    assert engine.advance(run.id, 0)
    assert run.state == "done"
    assert leases == [engine.lease_seconds]
