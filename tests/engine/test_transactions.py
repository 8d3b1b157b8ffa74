"""A step's own writes commit once, together with the checkpoint after it, or not at all."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, scoped_session

from flowroute import Continuation, Flow, Retry, done, step, worker_step
from tests.engine.conftest import MakeEngine
from tests.engine.support import Note, Shelf, Writing, counting, in_thread, notes, set_column


def test_writes_of_each_step_are_committed_with_the_checkpoint_after_it(
    make_engine: MakeEngine, source: Any
) -> None:
    engine = make_engine(shelf := Shelf(), database=source)
    with counting(engine) as counted:
        run = engine.start(Writing().one())
    assert counted.commits == 2  # the start, and the first step with its write
    assert notes(engine) == ["one"]
    with counting(engine) as counted:
        shelf.work()
    assert counted.commits == 3  # the claim, and two steps
    assert notes(engine) == ["one", "two", "two again"]
    assert run.result == ["one", "two", "two again"]


def test_writes_through_the_applications_own_session_are_part_of_it(
    make_engine: MakeEngine, registry: scoped_session[Session]
) -> None:
    class Own(Flow):
        @step(start=True)
        def work(self, *, fail: bool) -> Continuation[None]:
            assert self.session is registry()
            registry.add(Note(text="of the application"))
            if fail:
                raise ValueError
            return done()

    engine = make_engine(database=registry)
    assert engine.start(Own().work(fail=True)).state == "failed"
    assert notes(engine) == []
    with counting(engine) as counted:
        assert engine.start(Own().work(fail=False)).state == "done"
    assert counted.commits == 2
    assert notes(engine) == ["of the application"]


def test_what_the_applications_session_held_stays_usable(
    make_engine: MakeEngine, registry: scoped_session[Session]
) -> None:
    engine = make_engine(database=registry)
    registry.add(note := Note(text="before"))
    run = engine.start(Writing().one())
    assert note in registry
    registry.add(Note(text="after"))
    assert run.result == ["before", "one", "two", "two again"]  # looking at it ends no transaction
    registry.commit()
    assert notes(engine)[-1] == "after"


def test_a_run_that_is_resumed_joins_the_applications_transaction(
    make_engine: MakeEngine, registry: scoped_session[Session]
) -> None:
    class Resumed(Flow):
        @step(start=True, to=[done])
        def work(self) -> Continuation[None]:
            if not interruptions:
                interruptions.append(1)
                raise KeyboardInterrupt
            self.session.add(Note(text="of the step"))
            return done()

    interruptions: list[int] = []
    engine = make_engine(database=registry)
    with pytest.raises(KeyboardInterrupt):
        engine.start(Resumed().work())
    [run] = engine.runs()
    registry.add(Note(text="of the request"))
    registry.flush()
    assert run.resume().state == "done"
    assert notes(engine) == ["of the request", "of the step"]


def test_a_step_that_fails_leaves_nothing_behind(make_engine: MakeEngine, source: Any) -> None:
    class Failing(Flow):
        @step(start=True, to=[done])
        def work(self) -> Continuation[None]:
            self.session.add(Note(text="flushed"))
            self.session.flush()
            self.session.add(Note(text="pending"))
            raise ValueError

    engine = make_engine(database=source)
    assert engine.start(Failing().work()).state == "failed"
    assert notes(engine) == []
    # And nothing of it turns up with the next run on the same session.
    engine.start(Writing().one())
    assert notes(engine) == ["one", "two", "two again"]


def test_a_step_whose_lease_is_lost_leaves_nothing_behind(
    make_engine: MakeEngine, source: Any
) -> None:
    class Losing(Flow):
        @step(start=True)
        def work(self) -> Continuation[None]:
            set_column(engine, engine.get(self.run.id), epoch=9)
            self.session.add(Note(text="of a zombie"))
            return done()

    engine = make_engine(database=source)
    run = engine.start(Losing().work())
    assert (run.state, run.record.seq) == ("running", 0)
    assert notes(engine) == []


def test_a_write_that_the_database_refuses_fails_the_step(
    make_engine: MakeEngine, source: Any
) -> None:
    class Duplicate(Flow):
        @step(start=True)
        def work(self) -> Continuation[None]:
            self.session.add(Note(id=1, text="again"))  # noticed at the flush before the COMMIT
            return done()

    engine = make_engine(database=source)
    with engine.database.engine.begin() as connection:
        connection.execute(sa.insert(Note).values(id=1, text="first"))
    run = engine.start(Duplicate().work())
    assert run.error is not None
    assert (run.error.type, run.record.seq) == ("IntegrityError", 0)
    assert notes(engine) == ["first"]


def test_a_step_that_only_changes_a_row_has_it_saved(make_engine: MakeEngine) -> None:
    class Changing(Flow):
        @step(start=True)
        def begin(self) -> Continuation[str]:
            self.session.add(note := Note(text="draft"))
            return self.edit(note)

        @worker_step
        def edit(self, note: Note) -> Continuation[str]:
            note.text += ", edited"
            return self.read(note)

        @step
        def read(self, note: Note) -> Continuation[str]:
            return done(note.text)

    engine = make_engine()
    assert engine.start(Changing().begin()).result == "draft, edited"
    assert notes(engine) == ["draft, edited"]


def test_a_retry_writes_once(make_engine: MakeEngine) -> None:
    class Again(Flow):
        @worker_step(start=True, retry=Retry(3, backoff=timedelta(0)))
        def work(self) -> Continuation[int]:
            self.session.add(Note(text=f"attempt {self.run.attempt}"))
            self.session.flush()
            if self.run.attempt < 3:
                raise ValueError
            return done(self.run.attempt)

    engine = make_engine()
    run = engine.start(Again().work())
    while not run.at_rest:  # pytest-timeout bounds this
        engine.recover()
    assert notes(engine) == ["attempt 3"]


# -- transactions while a step works ---------------------------------------------------------------


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_no_transaction_is_open_while_a_worker_step_works_before_it_touches_the_session(
    make_engine: MakeEngine, source: Any
) -> None:
    """Only PostgreSQL can say: SQLite holds no transaction for what was only read."""
    touched: list[str] = []
    began, go_on = threading.Event(), threading.Event()

    class Slow(Flow):
        @step(start=True)
        def begin(self) -> Continuation[str]:
            self.session.add(note := Note(text="a row"))
            return self.work(note)

        @worker_step
        def work(self, note: Note) -> Continuation[str]:
            began.set()
            assert go_on.wait(10)
            touched.append(note.text)
            return done(note.text)

    engine = make_engine(shelf := Shelf(), database=source)
    run = engine.start(Slow().begin())
    if isinstance(source, scoped_session):
        source.remove()
    thread = in_thread(shelf.work)
    assert began.wait(10)
    with engine.database.engine.connect() as connection:
        in_transaction = connection.execute(
            sa.text(
                "SELECT state, query FROM pg_stat_activity WHERE datname = current_database() "
                "AND xact_start IS NOT NULL AND pid <> pg_backend_pid()"
            )
        ).all()
    go_on.set()
    thread.join(10)
    assert in_transaction == []
    assert touched == ["a row"]
    assert run.result == "a row"


def test_a_row_argument_of_a_worker_step_is_the_row_of_its_session(
    make_engine: MakeEngine, source: Any
) -> None:
    class Attached(Flow):
        @step(start=True)
        def begin(self) -> Continuation[bool]:
            self.session.add(note := Note(text="a row"))
            return self.work(note)

        @worker_step
        def work(self, note: Note) -> Continuation[bool]:
            return done(note in self.session and self.session.get(Note, note.id) is note)

    assert make_engine(database=source).start(Attached().begin()).result is True


def test_a_result_may_hold_a_row(make_engine: MakeEngine, source: Any) -> None:
    class Resulting(Flow):
        @step(start=True)
        def work(self) -> Continuation[list[Note]]:
            return done([Note(text="a result")])

    run = make_engine(database=source).start(Resulting().work())
    assert [note.text for note in run.result] == ["a result"]
