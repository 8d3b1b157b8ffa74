"""What a look at a run finds when something happens between two statements of it."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from flowroute import Continuation, Engine, Flow, Run, StepFailure, call, done, step, worker_step
from flowroute.engine import schema
from flowroute.engine.turn import REQUEST, SCRIPT
from flowroute.errors import RunNotFound
from flowroute.testing import assert_done
from tests.engine.conftest import MakeEngine
from tests.engine.support import Shelf, set_column


class LookedAtSub(Flow):
    """A sub-flow of one worker step."""

    fails: bool = False

    @worker_step(start=True)
    def work(self) -> Continuation[str]:
        if self.fails:
            message = "once"
            raise OSError(message)
        return done("worked")


class LookedAt(Flow):
    """Waits for it."""

    fails: bool = False

    @step(start=True)
    def begin(self) -> Continuation[str]:
        return call(LookedAtSub(fails=self.fails).work(), self.end)

    @step(on_error="sorry")
    def end(self, said: str) -> Continuation[str]:
        return done(f"it {said}")

    @step
    def sorry(self, failure: StepFailure) -> Continuation[str]:
        return done(f"sorry: {failure.type}")


@pytest.fixture
def shelf() -> Shelf:
    """Keeps hints until somebody works."""
    return Shelf()


@pytest.fixture
def engine(make_engine: MakeEngine, shelf: Shelf) -> Engine:
    """An engine whose worker steps wait on the shelf."""
    return make_engine(shelf)


def child_of(run: Run[Any]) -> Run[Any]:
    child = run.child
    assert child is not None
    return child


def work_off(shelf: Shelf) -> None:
    while shelf.hints:
        shelf.work()


def delete(engine: Engine, run: Run[Any]) -> None:
    with engine.database.engine.begin() as connection:
        columns = (schema.checkpoint_table.c.run_id, schema.run_table.c.id)
        for column in columns:
            connection.execute(sa.delete(column.table).where(column == run.id))


# -- the run that is to be seen --------------------------------------------------------------------


def test_while_a_run_waits_for_a_sub_flow_the_sub_flow_is_to_be_seen(engine: Engine) -> None:
    run = engine.start(LookedAt().begin())
    assert engine.lookup.current(run.id).id == child_of(run).id


def test_a_sub_flow_that_ends_after_the_first_look_leaves_the_run_to_be_seen(
    engine: Engine, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = engine.start(LookedAt().begin())
    look = engine.lookup.child_of

    def ends_meanwhile(record: Any) -> Any:
        work_off(shelf)
        return look(record)

    monkeypatch.setattr(engine.lookup, "child_of", ends_meanwhile)
    found = engine.lookup.current(run.id)
    assert (found.id, found.state) == (run.id, "done")


def test_a_visit_shows_the_end_of_a_run_whose_sub_flow_ends_meanwhile(
    engine: Engine, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = engine.start(LookedAt().begin())
    look = engine.lookup.current

    def ends_after(run_id: str) -> Any:
        found = look(run_id)
        work_off(shelf)
        return found

    monkeypatch.setattr(engine.lookup, "current", ends_after)
    outcome = engine.visit(run.id, REQUEST)
    assert outcome.bookmark is not None
    assert (outcome.bookmark.record.id, outcome.bookmark.record.state) == (run.id, "done")


@pytest.mark.parametrize("lost", ["deleted", "ended, and the run was not told"])
def test_a_run_whose_sub_flow_is_lost_is_to_be_seen_itself(engine: Engine, lost: str) -> None:
    run = engine.start(LookedAt().begin())
    if lost == "deleted":
        delete(engine, child_of(run))
    else:  # no process of ours does that
        ended = {"finished_at": sa.func.now(), "waiting_for": None, "wake_at": None}
        set_column(engine, child_of(run), state="done", **ended)
    assert engine.lookup.current(run.id).id == run.id
    outcome = engine.visit(run.id, REQUEST)
    assert outcome.bookmark is not None
    assert outcome.bookmark.record.id == run.id
    assert run.waiting_for == "children"


def test_a_run_is_part_of_itself_and_of_whatever_called_it(engine: Engine) -> None:
    run = engine.start(LookedAt().begin())
    child = child_of(run)
    assert engine.lookup.is_part_of(run.id, run.id)
    assert engine.lookup.is_part_of(child.id, run.id)
    assert not engine.lookup.is_part_of(run.id, child.id)
    assert not engine.lookup.is_part_of("no run", run.id)
    delete(engine, child)
    assert not engine.lookup.is_part_of(child.id, run.id)


# -- interventions ---------------------------------------------------------------------------------


def test_a_run_whose_sub_flow_was_deleted_can_be_resumed_in_vain_and_cancelled(
    engine: Engine,
) -> None:
    run = engine.start(LookedAt().begin())
    delete(engine, child_of(run))
    run.resume()
    assert run.waiting_for == "children"
    run.cancel()
    assert run.state == "cancelled"


def test_a_run_that_was_deleted_can_not_be_cancelled(engine: Engine) -> None:
    run = engine.start(LookedAt().begin())
    delete(engine, run)
    with pytest.raises(RunNotFound, match=run.id):
        run.cancel()


def test_a_run_that_is_deleted_while_it_is_being_cancelled_is_not_there(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = engine.start(LookedAt().begin())
    read = engine.lookup.read

    def deleted_after(run_id: str) -> Any:
        record = read(run_id)
        delete(engine, run)
        return record

    monkeypatch.setattr(engine.lookup, "read", deleted_after)
    with pytest.raises(RunNotFound, match=run.id):
        run.cancel()


def test_cancelling_a_sub_flow_that_nobody_waits_for_any_more_hints_at_nobody(
    engine: Engine, shelf: Shelf
) -> None:
    run = engine.start(LookedAt(fails=True).begin())
    child = child_of(run)
    work_off(shelf)
    assert_done(run, "sorry: RunFailed")
    child.retry()
    shelf.hints.clear()
    child.cancel()
    assert child.state == "cancelled"
    assert not shelf.hints


# -- the first read of a turn ----------------------------------------------------------------------


def test_a_read_that_fails_is_told_and_not_repeated(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = engine.start(LookedAtSub().work())
    asked: list[str] = []

    def fail(_connection: Any, run_id: str, *_: Any, **__: Any) -> Any:
        asked.append(run_id)
        raise OperationalError("SELECT", {}, Exception("disk I/O error"))

    for read in ("bookmark", "take"):
        monkeypatch.setattr(engine._store, read, fail)  # noqa: SLF001
    with pytest.raises(OperationalError, match="disk I/O error"):
        engine.advance(run.id, 0)
    assert asked == [run.id]


def close_from_outside(engine: Engine, url: str) -> None:
    """End the connection that waits in the pool, as a server or a firewall does."""
    with engine.database.connect() as connection:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    other = sa.create_engine(url, poolclass=sa.NullPool)
    with other.connect() as connection:
        connection.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_read_on_a_connection_that_the_server_closed_is_asked_once_again(
    engine: Engine, url: str
) -> None:
    run = engine.start(LookedAtSub().work())
    close_from_outside(engine, url)
    assert engine.dispatcher.advance(run.id, SCRIPT).bookmark is not None
    close_from_outside(engine, url)
    assert engine.advance(run.id, 0)
    assert_done(run, "worked")
