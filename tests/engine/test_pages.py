"""Steps that need a request: the run waits for one, is shown by it, and goes on with its answer."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest

from flowroute import Continuation, Engine, Flow, done, step, worker_step
from flowroute.engine.clock import FakeClock
from flowroute.engine.turn import REQUEST, SCRIPT, SUBMIT
from flowroute.errors import RunNotFound, StepTimeout, TransitionError
from tests.engine.conftest import MakeEngine
from tests.engine.support import Note, Shelf, crash, in_thread, notes, page, set_column
from tests.waiting import wait_until

answers: dict[str, Any] = {}
"""What the request of the page that is being shown brings."""


@pytest.fixture(autouse=True)
def no_answer() -> Any:
    """Each test begins without an answer."""
    answers.clear()


class Survey(Flow):
    """Asks, works, thanks."""

    @step(start=True)
    def begin(self) -> Continuation[Any]:
        return self.ask("your name")

    @page(to=("count",))
    def ask(self, question: str) -> Any:
        self.session.add(Note(text=f"asked {question}"))
        if "fail" in answers:
            raise ValueError(answers["fail"])
        if "exit" in answers:
            raise SystemExit(answers["exit"])
        if "name" in answers:
            return self.count(answers["name"])
        return f"What is {question}? ({self.run.attempt})"

    @worker_step
    def count(self, name: str) -> Continuation[Any]:
        return self.thank(len(name))

    @page(final=True, to=())
    def thank(self, length: int) -> Any:
        self.session.add(Note(text="thanked"))
        if "onward" in answers:
            return self.count("again")
        return f"{length} letters"


def ask(engine: Engine) -> Any:
    """A run that waits at its first page."""
    run = engine.start(Survey().begin())
    assert (run.state, run.waiting_for, run.step) == ("waiting", "page", "ask")
    return run


def test_a_run_waits_at_a_page_without_a_lease(engine: Engine) -> None:
    run = ask(engine)
    assert run.at_rest
    record = run.record
    assert (record.lease_owner, record.lease_until, record.wake_at) == (None, None, None)


def test_looking_at_a_page_shows_it_and_changes_nothing(engine: Engine) -> None:
    run = ask(engine)
    before = run.record
    for _ in range(2):
        outcome = engine.visit(run.id, REQUEST)
        assert (outcome.answered, outcome.answer) == (True, "What is your name? (1)")
    after = run.record
    assert (after.seq, after.epoch, after.state) == (before.seq, before.epoch, before.state)
    assert notes(engine) == []


def test_an_answer_goes_on_from_the_page(engine: Engine) -> None:
    run = ask(engine)
    answers["name"] = "ann"
    outcome = engine.visit(run.id, SUBMIT, seq=1)
    assert (outcome.advanced, outcome.answered) == (True, False)
    assert run.state == "done"
    assert run.result is None
    assert notes(engine) == ["asked your name"]
    assert [(c.step, c.executor) for c in run.checkpoints] == [
        ("begin", "script"),
        ("ask", "request"),
        ("count", "inline"),
        ("thank", None),
    ]


def test_a_page_may_go_on_when_it_is_only_looked_at(engine: Engine) -> None:
    run = ask(engine)
    answers["name"] = "ann"
    assert engine.visit(run.id, REQUEST).advanced
    assert run.state == "done"


def test_an_answer_that_is_refused_shows_the_page_again(engine: Engine) -> None:
    run = ask(engine)
    outcome = engine.visit(run.id, SUBMIT, seq=1)
    assert outcome.answer == "What is your name? (1)"
    assert (run.state, run.waiting_for, run.record.attempt) == ("waiting", "page", 0)
    assert notes(engine) == []


def test_an_answer_to_a_page_that_has_been_left_is_ignored(engine: Engine) -> None:
    run = ask(engine)
    answers["name"] = "ann"
    engine.visit(run.id, SUBMIT, seq=1)
    before = run.record.seq
    outcome = engine.visit(run.id, SUBMIT, seq=1)
    assert (outcome.advanced, outcome.answered) == (False, False)
    assert run.record.seq == before


def test_two_answers_at_once_go_on_once(make_engine: MakeEngine) -> None:
    engine = make_engine(shelf := Shelf())
    run = ask(engine)
    answers["name"] = "ann"
    barrier = threading.Barrier(4)
    outcomes: list[bool] = []

    def submit() -> None:
        barrier.wait(10)
        outcomes.append(engine.visit(run.id, SUBMIT, seq=1).advanced)

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(outcomes) == [False, False, False, True]
    assert notes(engine) == ["asked your name"]
    assert len(shelf.hints) == 1


@pytest.mark.parametrize("caller", [REQUEST, SUBMIT])
def test_a_page_that_raises_stays_and_the_request_gets_the_error(
    engine: Engine, caller: Any
) -> None:
    run = ask(engine)
    answers["fail"] = "no template"
    with pytest.raises(ValueError, match="no template"):
        engine.visit(run.id, caller)
    assert (run.state, run.waiting_for, run.error) == ("waiting", "page", None)
    answers.clear()
    assert engine.visit(run.id, REQUEST).answered
    assert notes(engine) == []


@pytest.mark.parametrize("caller", [REQUEST, SUBMIT])
def test_a_process_that_ends_while_it_shows_a_page_leaves_the_run_at_the_page(
    engine: Engine, caller: Any
) -> None:
    run = ask(engine)
    answers["exit"] = 3
    with pytest.raises(SystemExit):
        engine.visit(run.id, caller)
    answers.clear()
    assert engine.visit(run.id, REQUEST).answer == "What is your name? (1)"
    assert run.record.attempt == 0


def test_a_final_page_ends_the_run_and_is_shown_on_each_visit(engine: Engine) -> None:
    run = ask(engine)
    answers["name"] = "ann"
    engine.visit(run.id, SUBMIT)
    assert run.record.finished_at is not None
    for _ in range(2):
        outcome = engine.visit(run.id, REQUEST)
        assert (outcome.answer, outcome.ended) == ("3 letters", True)
        assert engine.visit(run.id, SUBMIT).answered is False  # it is there to be looked at
    assert notes(engine) == ["asked your name"]


def test_a_final_page_can_not_go_on(engine: Engine) -> None:
    run = ask(engine)
    answers.update(name="ann", onward=True)
    engine.visit(run.id, SUBMIT)
    with pytest.raises(TransitionError, match="leave out final=True"):
        engine.visit(run.id, REQUEST)
    assert run.state == "done"


def test_a_script_goes_past_no_page(engine: Engine) -> None:
    run = ask(engine)
    assert run.resume().waiting_for == "page"
    assert engine.dispatcher.advance(run.id, SCRIPT).advanced is False
    assert engine.advance(run.id, 1) is False


def test_a_run_that_ended_with_a_result_has_no_page(engine: Engine) -> None:
    class Plain(Flow):
        @step(start=True)
        def only(self) -> Continuation[int]:
            return done(1)

    run = engine.start(Plain().only())
    outcome = engine.visit(run.id, REQUEST)
    assert (outcome.advanced, outcome.answered) == (False, False)


def test_an_unknown_run_has_no_page(engine: Engine) -> None:
    with pytest.raises(RunNotFound):
        engine.visit("nobody", REQUEST)


def test_a_page_that_takes_longer_than_a_lease_is_shown(make_engine: MakeEngine) -> None:
    engine = make_engine(lease_seconds=0.15)
    beaten = threading.Event()
    beat = engine.dispatcher.heartbeat._beat  # noqa: SLF001

    def watched(pulse: Any) -> bool:
        beaten.set()
        return beat(pulse)

    engine.dispatcher.heartbeat._beat = watched  # type: ignore[method-assign]  # noqa: SLF001

    class Slow(Flow):
        @page(start=True, final=True, to=())
        def show(self) -> Any:
            self.run.progress(1, 2, "nobody stores this")
            return "shown late" if not beaten.wait(0.4) else "interrupted"

        @page(start=True, to=("done",))
        def form(self) -> Any:
            return "shown late" if not beaten.wait(0.4) else "interrupted"

    for continuation in (Slow().show(), Slow().form()):
        run = engine.start(continuation)
        assert engine.visit(run.id, REQUEST).answer == "shown late"
        assert run.record.progress is None


def test_a_page_with_a_timeout_that_is_only_looked_at_ends_in_time(engine: Engine) -> None:
    class Stuck(Flow):
        @page(start=True, timeout=timedelta(seconds=0.1), to=("done",))
        def show(self) -> Any:
            threading.Event().wait(10)

    run = engine.start(Stuck().show())
    with pytest.raises(StepTimeout):
        engine.visit(run.id, REQUEST)
    assert run.waiting_for == "page"


def test_a_process_that_died_at_a_page_with_an_answer_leaves_the_page(
    make_engine: MakeEngine, clock: FakeClock
) -> None:
    engine = make_engine(clock=clock)
    run = ask(engine)
    for _ in range(4):
        crash(engine, run, clock)
        assert run.state == "running"
        clock.advance(31)
        engine.recover()
        clock.advance(1)
        engine.recover()
        assert (run.state, run.waiting_for) == ("waiting", "page")
    answers["name"] = "ann"
    assert engine.visit(run.id, SUBMIT).advanced


class Later(Flow):
    """Pages after a while."""

    @step(start=True)
    def begin(self, *, final: bool) -> Continuation[Any]:
        pause = timedelta(hours=1)
        return self.end().after(pause) if final else self.form().after(pause)

    @page(to=("end",))
    def form(self) -> Any:
        return self.end() if answers else "a form"

    @page(final=True, to=())
    def end(self) -> Any:
        return "the end"


@pytest.mark.parametrize("final", [False, True])
def test_a_timer_before_a_page_ends_at_the_page(
    make_engine: MakeEngine, clock: FakeClock, *, final: bool
) -> None:
    engine = make_engine(clock=clock)
    run = engine.start(Later().begin(final=final))
    assert (run.state, run.waiting_for) == ("waiting", "timer")
    assert engine.visit(run.id, REQUEST).answered is False
    clock.advance(3600)
    assert engine.recover().timers == 1
    assert run.state == ("done" if final else "waiting")
    assert run.at_rest
    assert engine.visit(run.id, REQUEST).answer == ("the end" if final else "a form")


@pytest.mark.parametrize("final", [False, True])
def test_a_request_that_meets_a_page_whose_time_has_come_shows_it(
    make_engine: MakeEngine, clock: FakeClock, *, final: bool
) -> None:
    engine = make_engine(Shelf(), clock=clock)  # an executor that has not come to it yet
    run = engine.start(Later().begin(final=final))
    clock.advance(3600)
    assert engine.visit(run.id, REQUEST).answer == ("the end" if final else "a form")
    assert run.state == ("done" if final else "ready")


def test_an_answer_that_is_refused_when_its_time_has_come_leaves_the_page(
    make_engine: MakeEngine, clock: FakeClock
) -> None:
    engine = make_engine(Shelf(), clock=clock)
    run = engine.start(Later().begin(final=False))
    clock.advance(3600)
    assert engine.visit(run.id, SUBMIT).answer == "a form"
    assert (run.state, run.waiting_for) == ("waiting", "page")


def test_an_answer_to_a_final_page_whose_time_has_come_ends_the_run(
    make_engine: MakeEngine, clock: FakeClock
) -> None:
    engine = make_engine(Shelf(), clock=clock)
    run = engine.start(Later().begin(final=True))
    clock.advance(3600)
    assert engine.visit(run.id, SUBMIT).answered is False
    assert run.state == "done"


def test_an_answer_to_a_page_whose_time_has_come_counts(
    make_engine: MakeEngine, clock: FakeClock
) -> None:
    engine = make_engine(Shelf(), clock=clock)
    run = engine.start(Later().begin(final=False))
    clock.advance(3600)
    answers["yes"] = True
    assert engine.visit(run.id, REQUEST).advanced
    assert run.state == "done"


def test_a_request_heals_the_run_that_it_meets(make_engine: MakeEngine, clock: FakeClock) -> None:
    engine = make_engine(clock=clock)
    run = ask(engine)
    set_column(engine, run, state="waiting")
    crash(engine, run, clock)
    clock.advance(31)
    assert engine.visit(run.id, REQUEST).answered is False  # its process died; now that is recorded
    assert (run.state, run.waiting_for) == ("waiting", "timer")
    engine.visit(run.id, REQUEST)
    assert engine.visit(run.id, REQUEST).answer == "What is your name? (1)"


def test_two_people_look_at_a_page_at_the_same_time(engine: Engine) -> None:
    both = threading.Barrier(2)
    shown: list[Any] = []

    class Shared(Flow):
        @page(start=True, to=("done",))
        def show(self) -> Any:
            both.wait(10)
            return "shown"

    run = engine.start(Shared().show())
    threads = [
        in_thread(lambda: shown.append(engine.visit(run.id, REQUEST).answer)) for _ in range(2)
    ]
    wait_until(lambda: len(shown) == 2, what="both pages were shown")
    for thread in threads:
        thread.join(10)
    assert shown == ["shown", "shown"]
