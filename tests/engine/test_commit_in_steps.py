"""A step that commits by itself is refused, unless it declared it; savepoints are its business."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session, scoped_session

from flowroute import Continuation, Flow, Retry, done, step, worker_step
from flowroute.errors import CommitRefused
from tests.engine.conftest import MakeEngine
from tests.engine.support import Note, Writing, notes


def commits(session: Session) -> None:
    """The plain way."""
    session.add(Note(text="half of a step"))
    session.commit()


def begins(session: Session) -> None:
    """The way of a context manager."""
    with session.begin():
        session.add(Note(text="half of a step"))


def commits_in_savepoint(session: Session) -> None:
    """Session.commit() commits the whole transaction, also from inside a savepoint."""
    with session.begin_nested():
        session.add(Note(text="half of a step"))
        session.commit()


@pytest.mark.parametrize("way", [commits, begins, commits_in_savepoint])
def test_a_step_that_commits_is_refused_with_the_way_out(
    make_engine: MakeEngine, source: Any, way: Any
) -> None:
    class Committing(Flow):
        @step(start=True)
        def work(self) -> Continuation[None]:
            way(self.session)
            return done()

    engine = make_engine(database=source)
    run = engine.start(Committing().work())
    assert run.error is not None
    assert run.error.type == "CommitRefused"
    assert "The step Committing.work called commit()" in run.error.message
    assert "@worker_step(commits=True)" in run.error.message
    assert notes(engine) == []


def test_a_refused_commit_that_the_step_swallows_commits_nothing_by_itself(
    make_engine: MakeEngine, source: Any
) -> None:
    class Stubborn(Flow):
        @step(start=True)
        def work(self) -> Continuation[None]:
            self.session.add(Note(text="kept"))
            with pytest.raises(CommitRefused) as refused:
                self.session.commit()
            assert refused.value.step == "Stubborn.work"
            assert notes(engine) == []
            self.session.rollback()
            self.session.add(Note(text="written after the rollback"))
            return done()

    engine = make_engine(database=source)
    assert engine.start(Stubborn().work()).state == "done"
    assert notes(engine) == ["written after the rollback"]


def test_outside_steps_the_applications_session_may_commit(
    make_engine: MakeEngine, registry: scoped_session[Session]
) -> None:
    engine = make_engine(database=registry)
    engine.start(Writing().one())
    registry.add(Note(text="of a request"))
    registry.commit()
    assert notes(engine)[-1] == "of a request"


def test_a_step_that_declared_it_may_commit(make_engine: MakeEngine, source: Any) -> None:
    class Importing(Flow):
        @worker_step(start=True, commits=True, retry=Retry(2, backoff=timedelta(0)))
        def load(self) -> Continuation[None]:
            for number in range(2):
                self.session.add(Note(text=f"{number} at attempt {self.run.attempt}"))
                self.session.commit()
            self.session.add(Note(text="uncommitted"))
            if self.run.attempt == 1:
                raise ValueError
            return done()

    engine = make_engine(database=source)
    run = engine.start(Importing().load())
    while not run.at_rest:  # pytest-timeout bounds this
        engine.recover()
    assert run.state == "done"
    assert notes(engine) == [
        "0 at attempt 1",
        "1 at attempt 1",
        "0 at attempt 2",
        "1 at attempt 2",
        "uncommitted",
    ]


# -- savepoints ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fail", [False, True])
def test_a_savepoint_is_the_steps_own_business(
    make_engine: MakeEngine, source: Any, *, fail: bool
) -> None:
    """Also where it is the first statement of a transaction, which SQLite's driver would commit."""

    class Nesting(Flow):
        @step(start=True)
        def work(self) -> Continuation[None]:
            with self.session.begin_nested():
                self.session.add(Note(text="kept"))
            savepoint = self.session.begin_nested()
            self.session.add(Note(text="undone"))
            self.session.flush()
            savepoint.rollback()
            if fail:
                raise ValueError
            return done()

    engine = make_engine(database=source)
    run = engine.start(Nesting().work())
    assert run.state == ("failed" if fail else "done")
    assert notes(engine) == ([] if fail else ["kept"])


def test_a_released_savepoint_is_not_seen_by_others_before_the_checkpoint(
    make_engine: MakeEngine, source: Any
) -> None:
    class Peeking(Flow):
        @step(start=True)
        def work(self) -> Continuation[list[str]]:
            with self.session.begin_nested():
                self.session.add(Note(text="early?"))
            return done(notes(engine))

    engine = make_engine(database=source)
    run = engine.start(Peeking().work())
    assert run.result == []
    assert notes(engine) == ["early?"]
