"""What users' tests are written with: it passes for what is right, and says what is wrong else."""

from __future__ import annotations

import doctest
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, select
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    scoped_session,
    sessionmaker,
)

from flowroute import (
    Continuation,
    Engine,
    Flow,
    Retry,
    Run,
    StepFailure,
    done,
    step,
    testing,
    worker_step,
)
from flowroute.engine.context import current_run
from flowroute.errors import ArgumentError, CommitRefused, FlowrouteError
from flowroute.testing import (
    FakeClock,
    assert_done,
    assert_failed,
    assert_path,
    drain,
    inline_engine,
    run_step,
)
from tests.engine.support import Shelf, crash


class Base(DeclarativeBase):
    """The tests' own tables."""


class Stamp(Base):
    """A row that a step writes."""

    __tablename__ = "stamp"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


class NoPostageError(Exception):
    """There is none."""


class Letter(Flow):
    """Write, wait, send; a letter to nobody fails, a chain letter never ends."""

    to: str
    drafts: int = 0

    @worker_step(start=True)
    def write(self, text: str, *, urgent: bool = False) -> Continuation[str]:
        self.drafts += 1
        self.run.progress(1, 2, "written")
        return self.send(text) if urgent else self.send(text).after(timedelta(days=2))

    @worker_step(retry=Retry(3, backoff=timedelta(hours=1)))
    def send(self, text: str) -> Continuation[str]:
        if self.to == "nobody" and self.run.attempt < 3:
            raise NoPostageError("not a stamp left")
        if self.to == "nobody":
            raise NoPostageError("no stamp came")
        if self.to == "everybody":
            return self.write(text)
        return self.seal(text)

    @step
    def seal(self, text: str) -> Continuation[str]:
        return done(f"{text}, {self.to}")


class Office(Flow):
    """A step that writes rows."""

    @worker_step(start=True)
    def stamp(self, text: str, *, how: str = "flush") -> Continuation[str]:
        assert current_run.get() is self.run
        self.session.add(Stamp(text=text))
        if how == "commit":
            self.session.commit()
        with self.session.begin_nested():
            self.session.flush()
        return done(f"{self.run.attempt} {self.run.key}")

    @worker_step(start=True, commits=True)
    def stamp_many(self, key: str) -> Continuation[str]:
        self.session.add(Stamp(text=key))
        self.session.commit()
        return done(key)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def engine(tmp_path: Path, clock: FakeClock) -> Iterator[Engine]:
    with inline_engine(tmp_path, clock=clock) as engine:
        yield engine


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[sessionmaker[Session]]:
    database = create_engine(f"sqlite:///{tmp_path / 'stamps.db'}")
    Base.metadata.create_all(database)
    yield sessionmaker(database)
    database.dispose()


def sent(engine: Engine, to: str) -> Run[str]:
    return engine.start(Letter(to=to).write("Hello", urgent=True))


def test_the_examples_of_the_module_hold() -> None:
    results = doctest.testmod(testing)
    assert results.attempted > 8
    assert results.failed == 0


# -- inline_engine ---------------------------------------------------------------------------------


def test_an_inline_engine_runs_a_flow_within_start(engine: Engine) -> None:
    assert sent(engine, "Ada").state == "done"


def test_an_inline_engine_comes_back_to_the_file_it_was_given(tmp_path: Path) -> None:
    file = tmp_path / "letters.db"
    with inline_engine(file) as engine:
        run = sent(engine, "Ada")
    with inline_engine(str(file)) as engine:
        assert engine.get(run.id).result == "Hello, Ada"
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT count(*) FROM flowroute_run").fetchone() == (1,)
    connection.close()


def test_an_inline_engine_in_a_folder_has_one_file_there(tmp_path: Path) -> None:
    with inline_engine(tmp_path) as engine:
        assert engine.database.engine.url.database == str(tmp_path / "flowroute.db")


def test_a_temporary_inline_engine_leaves_nothing_behind() -> None:
    with inline_engine() as engine:
        file = Path(str(engine.database.engine.url.database))
        assert file.exists()
    assert not file.parent.exists()


def test_an_inline_engine_takes_the_options_of_an_engine() -> None:
    with inline_engine(executor="thread", lease_seconds=7) as engine:
        assert engine.executor.name == "thread"
        assert engine.lease_seconds == 7
        assert sent(engine, "Ada").wait(timeout_seconds=10).result == "Hello, Ada"


def test_an_inline_engine_does_not_wait_for_the_disk(engine: Engine) -> None:
    with engine.database.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 0


# -- drain -----------------------------------------------------------------------------------------


def test_drain_moves_the_clock_to_each_instant_that_is_due_and_no_further(
    engine: Engine, clock: FakeClock
) -> None:
    began_at = clock.instant
    late = engine.start(Letter(to="Ada").write("Hello"))
    assert late.state == "waiting"
    did = drain(engine, clock)
    assert late.result == "Hello, Ada"
    assert clock.instant == began_at + timedelta(days=2)
    assert did.timers == 1


def test_drain_never_moves_the_clock_back(engine: Engine, clock: FakeClock) -> None:
    run = engine.start(Letter(to="Ada").write("Hello"))
    clock.advance(7 * 86_400)
    now = clock.instant
    drain(engine, clock)
    assert run.state == "done"
    assert clock.instant == now


def test_drain_lets_every_attempt_happen(engine: Engine, clock: FakeClock) -> None:
    run = sent(engine, "nobody")
    drain(engine, clock)
    assert (run.state, run.record.attempt) == ("failed", 3)


def test_drain_takes_over_what_a_dead_process_left(tmp_path: Path, clock: FakeClock) -> None:
    shelf = Shelf()
    with inline_engine(tmp_path, clock=clock, executor=shelf) as engine:
        run = sent(engine, "Ada")
        crash(engine, run, clock)
    with inline_engine(tmp_path, clock=clock) as engine:
        assert drain(engine, clock).expired == 1
        assert engine.get(run.id).result == "Hello, Ada"


def test_drain_leaves_a_blocked_run_alone(
    engine: Engine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = engine.start(Letter(to="Ada").write("Hello"))
    monkeypatch.delitem(Letter.__flow__.steps, "send")
    drain(engine, clock)
    assert run.state == "blocked"


def test_drain_works_off_more_than_one_pass_of_recovery_takes(
    engine: Engine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowroute.engine.recovery.PASS_LIMIT", 2)
    runs = [engine.start(Letter(to="Ada").write("Hello")) for _ in range(5)]
    drain(engine, clock)
    assert {run.state for run in runs} == {"done"}


def test_drain_gives_up_on_a_flow_without_an_end(engine: Engine, clock: FakeClock) -> None:
    run = sent(engine, "everybody")
    with pytest.raises(AssertionError) as caught:
        drain(engine, clock, limit=5)
    message = str(caught.value)
    assert "after 5 due instants there is still something due" in message
    assert f"run {run.id} of Letter is waiting for timer at step send" in message


# -- run_step --------------------------------------------------------------------------------------


def test_a_step_is_run_by_itself_and_tells_where_it_leads() -> None:
    letter = Letter(to="Ada")
    onward = run_step(letter.write("Hello"))
    assert onward.step is Letter.send
    assert onward.arguments == {"text": "Hello"}
    assert onward.delay == timedelta(days=2)
    assert letter.drafts == 1


def test_a_step_can_be_given_with_its_flow_and_arguments() -> None:
    onward = run_step(Letter.write, Letter(to="Ada"), "Hello", urgent=True)
    assert onward.delay is None


def test_a_step_sees_the_attempt_and_the_key_that_it_is_given(
    sessions: sessionmaker[Session],
) -> None:
    with sessions() as session:
        call = Office().stamp("a")
        onward = run_step(call, session=session, attempt=3, key="office-1")
    assert onward.arguments["result"] == "3 office-1"


def test_an_argument_called_as_a_parameter_of_run_step_goes_with_the_call(
    sessions: sessionmaker[Session],
) -> None:
    with sessions() as session:
        assert run_step(Office().stamp_many(key="k"), session=session).arguments["result"] == "k"


def test_a_step_raises_what_it_raises() -> None:
    with pytest.raises(NoPostageError, match="not a stamp left"):
        run_step(Letter(to="nobody").send("Hello"))
    with pytest.raises(NoPostageError, match="no stamp came"):
        run_step(Letter(to="nobody").send("Hello"), attempt=3)


def test_a_step_is_without_a_run_again_afterwards() -> None:
    letter = Letter(to="Ada")
    run_step(letter.write("Hello"))
    assert current_run.get() is None
    with pytest.raises(FlowrouteError, match="known only while a step runs"):
        _ = letter.run


def test_a_steps_arguments_are_validated() -> None:
    with pytest.raises(ArgumentError):
        run_step(Letter.write, Letter(to="Ada"), 7)


def test_a_steps_writes_are_the_sessions_of_the_test(sessions: sessionmaker[Session]) -> None:
    with sessions() as session:
        run_step(Office().stamp("a"), session=session)
        assert session.scalars(select(Stamp.text)).all() == ["a"]
        session.rollback()
        assert session.scalars(select(Stamp.text)).all() == []
        run_step(Office().stamp("b"), session=session)
        session.commit()  # the test may, once the step is over
        assert session.scalars(select(Stamp.text)).all() == ["b"]


def test_a_step_can_be_given_a_scoped_session(sessions: sessionmaker[Session]) -> None:
    session = scoped_session(sessions)
    run_step(Office().stamp("a"), session=session)
    assert session.scalars(select(Stamp.text)).all() == ["a"]
    session.remove()


def test_a_step_that_commits_is_refused_as_in_production(sessions: sessionmaker[Session]) -> None:
    with sessions() as session, pytest.raises(CommitRefused, match=r"Office\.stamp called commit"):
        run_step(Office().stamp("a", how="commit"), session=session)


def test_a_step_that_uses_a_session_without_one_is_told() -> None:
    with pytest.raises(FlowrouteError, match=r"Office\.stamp uses its session: give run_step"):
        run_step(Office().stamp("a"))


def test_a_step_without_its_flow_is_told() -> None:
    with pytest.raises(ArgumentError, match=r"run_step\(Letter.write\) needs the flow too"):
        run_step(Letter.write)


def test_the_end_of_a_run_is_no_step() -> None:
    with pytest.raises(ArgumentError, match="there is no step in it"):
        run_step(done(1))


# -- assertions ------------------------------------------------------------------------------------


def refused(function: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        function(*arguments, **options)
    return str(caught.value)


def test_assert_done_passes_and_returns_the_result(engine: Engine) -> None:
    run = sent(engine, "Ada")
    assert assert_done(run) == "Hello, Ada"
    assert assert_done(run, "Hello, Ada") == "Hello, Ada"


def test_assert_done_says_which_result_it_found(engine: Engine) -> None:
    run = sent(engine, "Ada")
    assert refused(assert_done, run, None) == (
        f"expected the result None, found 'Hello, Ada'\nrun {run.id} of Letter is done\n"
        "its path: write → send → seal"
    )


def test_assert_done_shows_why_a_run_failed(engine: Engine, clock: FakeClock) -> None:
    run = sent(engine, "nobody")
    drain(engine, clock)
    message = refused(assert_done, run)
    assert message.startswith(
        f"expected a run that is done\nrun {run.id} of Letter is failed at step send, attempt 3\n"
        "its path: write → send\nits error in step send, attempt 3:\nTraceback"
    )
    assert message.endswith("NoPostageError: no stamp came")


def test_assert_failed_passes_and_returns_the_failure(engine: Engine, clock: FakeClock) -> None:
    run = sent(engine, "nobody")
    drain(engine, clock)
    assert_failed(run)
    assert_failed(run, "NoPostageError")
    failure = assert_failed(run, NoPostageError, match="^no stamp")
    assert isinstance(failure, StepFailure)
    assert failure.attempt == 3


def test_assert_failed_says_what_it_found(engine: Engine, clock: FakeClock) -> None:
    assert "expected a run that is failed" in refused(assert_failed, sent(engine, "Ada"))
    run = sent(engine, "nobody")
    drain(engine, clock)
    message = refused(assert_failed, run, KeyError)
    assert message.startswith("expected KeyError, found NoPostageError\n")
    message = refused(assert_failed, run, match="broke")
    assert message.startswith("expected a message that matches 'broke', found 'no stamp came'\n")


def test_assert_path_takes_names_and_steps(engine: Engine) -> None:
    run = sent(engine, "Ada")
    assert_path(run, ["write", "send", "seal"])
    assert_path(run, [Letter.write, "send", Letter.seal])


def test_assert_path_ends_where_a_run_is(engine: Engine) -> None:
    assert_path(engine.start(Letter(to="Ada").write("Hello")), ["write", "send"])


def test_assert_path_shows_both_ways_and_the_reason(tmp_path: Path, clock: FakeClock) -> None:
    with inline_engine(tmp_path, clock=clock, executor=Shelf()) as engine:
        run = engine.start(Letter(to="Ada").write("Hello"))
        crash(engine, run, clock)
        clock.advance(31)
        engine.recover()
        message = refused(assert_path, run, [])
    assert message.startswith(f"expected the path nothing\nrun {run.id} of Letter is waiting for ")
    assert "its path: write\nits error in step write, attempt 1:\nProcessDied: " in message
