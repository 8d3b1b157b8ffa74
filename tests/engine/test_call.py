"""Sub-flows: `call` hands over to another flow and goes on with its result."""

from __future__ import annotations

import inspect
import re
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flowroute import Continuation, Engine, Flow, Retry, StepFailure, call, done, step, worker_step
from flowroute.engine import schema
from flowroute.engine.clock import FakeClock
from flowroute.engine.turn import REQUEST, SUBMIT
from flowroute.errors import ArgumentError, RunFailed, RunNotFound, RunStateError
from flowroute.testing import assert_done, assert_failed, assert_path, drain
from tests.engine.conftest import MakeEngine
from tests.engine.support import (
    Moves,
    Note,
    Shelf,
    count,
    counting,
    crash,
    notes,
    page,
    stored,
)


class Doubling(Flow):
    """A sub-flow of two plain steps."""

    @step(start=True)
    def begin(self, number: int) -> Continuation[int]:
        self.session.add(Note(text=f"begin {number}"))
        return self.double(number)

    @step
    def double(self, number: int) -> Continuation[int]:
        return done(number * 2)


class Sum(Flow):
    """Doubles, and adds."""

    rounds: int = 1

    @step(start=True)
    def ask(self, number: int) -> Continuation[int]:
        self.session.add(Note(text=f"ask {number}"))
        self.rounds -= 1
        return call(Doubling().begin(number), self.add, 1, label="sum")

    @step
    def add(self, doubled: int, more: int, *, label: str) -> Continuation[int]:
        self.session.add(Note(text=f"{label} {doubled}"))
        if self.rounds > 0:
            return self.ask(doubled + more)
        return done(doubled + more)


class PrintJob(Flow):
    """A sub-flow whose step runs on an executor, and fails while it is told to."""

    broken = True

    @worker_step(start=True)
    def work(self) -> Continuation[str]:
        if type(self).broken:
            message = "out of paper"
            raise OSError(message)
        return done("printed")


class Printing(Flow):
    """Waits for a worker's sub-flow, and knows what to do if that fails."""

    careful: bool = False

    @step(start=True)
    def begin(self) -> Continuation[str]:
        if self.careful:
            return call(PrintJob().work(), self.careful_end)
        return call(PrintJob().work(), self.end)

    @step
    def end(self, said: str) -> Continuation[str]:
        return done(f"{said} well")

    @step(on_error="sorry", retry=Retry(5))
    def careful_end(self, said: str) -> Continuation[str]:
        return done(f"{said} with care")

    @step
    def sorry(self, failure: StepFailure) -> Continuation[str]:
        return done(f"sorry: {failure.type}")


class Asking(Flow):
    """A sub-flow with a page."""

    @page(start=True, to=["answered"])
    def question(self) -> Any:
        return self.answered() if answers else "a question"

    @step
    def answered(self) -> Continuation[str]:
        return done(answers.pop())


class Interview(Flow):
    """Asks by a sub-flow, then shows what was said."""

    @page(start=True, to=["ask"])
    def welcome(self) -> Any:
        return self.ask() if answers else "welcome"

    @step
    def ask(self) -> Continuation[None]:
        return call(Asking().question(), self.thanks)

    @page(final=True, to=())
    def thanks(self, said: str) -> str:
        return f"you said {said}"


class Offer(Flow):
    """Hands over to another flow from a page."""

    @page(start=True)
    def show(self, number: int) -> Any:
        return call(Doubling().begin(number), self.accept) if answers else f"double {number}?"

    @step
    def accept(self, doubled: int) -> Continuation[int]:
        return done(doubled)


class Deepening(Flow):
    """Calls a sub-flow time and again, and notes how deep the stack is."""

    left: int

    @step(start=True)
    def again(self, _result: int = 0) -> Continuation[list[int]]:
        depths.append(len(inspect.stack(0)))
        self.left -= 1
        return done(depths[1:]) if self.left < 0 else call(Doubling().begin(1), self.again)


class EndsAtOnce(Flow):
    """Starts with its end."""

    @page(start=True, final=True, to=())
    def show(self) -> str:
        return "shown"


answers: list[str] = []
"""What people send; pages take the last."""

depths: list[int] = []


@pytest.fixture(autouse=True)
def _as_new() -> None:
    answers.clear()
    depths.clear()
    PrintJob.broken = True


# -- the result ------------------------------------------------------------------------------------


def test_the_result_is_the_first_argument_of_the_next_step(engine: Engine) -> None:
    run = engine.start(Sum().ask(20))
    assert_done(run, 41)
    assert_path(run, ["ask", "add"])
    assert notes(engine) == ["ask 20", "begin 20", "sum 40"]


def test_a_script_that_starts_the_run_also_runs_the_plain_steps_of_the_sub_flow(
    make_engine: MakeEngine,
) -> None:
    shelf = Shelf()
    assert_done(make_engine(shelf).start(Sum().ask(1)), 3)
    assert shelf.hints == []


def test_a_sub_flow_may_call_another(engine: Engine) -> None:
    class CallsSum(Flow):
        @step(start=True)
        def begin(self) -> Continuation[str]:
            return call(Sum().ask(1), self.end)

        @step
        def end(self, total: int) -> Continuation[str]:
            return done(f"total {total}")

    assert_done(engine.start(CallsSum().begin()), "total 3")
    assert [run.flow for run in engine.runs()] == ["Doubling", "Sum", "CallsSum"]


def test_sub_flows_one_after_another_are_no_recursion(engine: Engine) -> None:
    assert_done(engine.start(Deepening(left=20).again()), [depths[1]] * 20)


def test_rows_and_other_values_come_back_as_results(engine: Engine) -> None:
    class Making(Flow):
        @step(start=True)
        def make(self) -> Continuation[Note]:
            note = Note(text="made")
            self.session.add(note)
            return done(note)

    class Using(Flow):
        @step(start=True)
        def begin(self) -> Continuation[str]:
            return call(Making().make(), self.use)

        @step
        def use(self, note: Note) -> Continuation[str]:
            note.text += " and used"
            return done(note.text)

    assert_done(engine.start(Using().begin()), "made and used")
    assert notes(engine) == ["made and used"]


def test_a_sub_flow_that_ends_at_a_final_page_has_the_result_none(engine: Engine) -> None:
    class Showing(Flow):
        @step(start=True)
        def begin(self) -> Continuation[Any]:
            return self.show()

        @page(final=True, to=())
        def show(self) -> str:
            return "shown"

    class Calling(Flow):
        @step(start=True)
        def begin(self) -> Continuation[str]:
            return call(Showing().begin(), self.end)

        @step
        def end(self, result: object) -> Continuation[str]:
            return done(repr(result))

    assert_done(engine.start(Calling().begin()), "None")


def test_a_result_that_does_not_fit_blocks_the_run(engine: Engine) -> None:
    class Texting(Flow):
        @step(start=True)
        def begin(self) -> Continuation[Any]:
            return done("no number")

    class WantsNumber(Flow):
        @step(start=True)
        def begin(self) -> Continuation[int]:
            return call(Texting().begin(), self.end)

        @step
        def end(self, number: int) -> Continuation[int]:
            return done(number)

    run = engine.start(WantsNumber().begin())
    assert run.state == "blocked"
    assert run.error is not None
    assert "WantsNumber.end was given arguments that do not fit" in run.error.message


def test_the_sub_flow_may_start_later(make_engine: MakeEngine, clock: FakeClock) -> None:
    class CallsLater(Flow):
        @step(start=True)
        def begin(self) -> Continuation[int]:
            return call(Doubling().begin(2).after(timedelta(days=1)), self.end)

        @step
        def end(self, doubled: int) -> Continuation[int]:
            return done(doubled)

    engine = make_engine(clock=clock)
    run = engine.start(CallsLater().begin())
    assert run.waiting_for == "children"
    drain(engine, clock)
    assert_done(run, 4)


# -- one commit ------------------------------------------------------------------------------------


def test_the_sub_flow_is_stored_by_the_commit_of_the_checkpoint_that_waits_for_it(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(Shelf())
    insert = engine._store.insert_run  # noqa: SLF001

    def failing(connection: Any, new: Any) -> bool:
        if new.parent_id is not None:
            raise RuntimeError
        return insert(connection, new)

    monkeypatch.setattr(engine._store, "insert_run", failing)  # noqa: SLF001
    run = engine.start(Sum().ask(1))
    assert_failed(run, RuntimeError)
    assert stored(engine) == (1, 1)
    assert notes(engine) == []


def test_the_end_of_the_sub_flow_and_the_waking_of_the_run_are_one_commit(
    make_engine: MakeEngine,
) -> None:
    shelf = Shelf()
    engine = make_engine(shelf)
    PrintJob.broken = False
    run = engine.start(Printing().begin())
    assert (run.state, run.waiting_for) == ("waiting", "children")
    with counting(engine) as counted:
        shelf.work()
    # claim and end of the sub-flow, claim and end of the run
    assert counted.commits == 4
    assert_done(run, "printed well")


@pytest.mark.parametrize("not_reached", ["Doubling", "Sum"])
def test_a_process_that_dies_between_two_runs_leaves_both_to_recovery(
    make_engine: MakeEngine, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, not_reached: str
) -> None:
    engine = make_engine(clock=clock)
    advance = engine.dispatcher._advance  # noqa: SLF001

    def dying(run_id: str, *arguments: Any) -> Any:
        if engine.lookup.read(run_id).flow == not_reached:
            raise SystemExit
        return advance(run_id, *arguments)

    monkeypatch.setattr(engine.dispatcher, "_advance", dying)
    with pytest.raises(SystemExit):
        engine.start(Sum().ask(20))
    monkeypatch.undo()
    run = engine.runs(flow=Sum)[0]
    assert run.state != "done"
    drain(engine, clock)
    assert_done(run, 41)
    assert notes(engine) == ["ask 20", "begin 20", "sum 40"]


def test_an_end_that_nobody_waits_for_any_more_wakes_nobody(make_engine: MakeEngine) -> None:
    shelf = Shelf()
    engine = make_engine(shelf)
    run = engine.start(Printing(careful=True).begin())
    child = run.child
    assert child is not None
    while shelf.hints:
        shelf.work()
    assert_done(run, "sorry: RunFailed")
    PrintJob.broken = False
    child.retry()
    while shelf.hints:
        shelf.work()
    assert_done(child, "printed")
    assert_done(run, "sorry: RunFailed")
    assert [each.step for each in run.checkpoints] == ["begin", "careful_end", "sorry", None]


# -- failures --------------------------------------------------------------------------------------


def test_a_sub_flow_that_fails_fails_the_run(make_engine: MakeEngine) -> None:
    engine = make_engine()
    run = engine.start(Printing().begin())
    failure = assert_failed(run, RunFailed, match=r"the sub-flow .* failed at step work: OSError")
    assert failure.step == "end"
    assert run.child is not None
    assert run.child.id in failure.message


def test_the_on_error_step_of_the_waiting_step_takes_over_without_further_attempts(
    make_engine: MakeEngine,
) -> None:
    run = make_engine().start(Printing(careful=True).begin())
    assert_done(run, "sorry: RunFailed")


def test_retrying_the_run_retries_the_sub_flow(engine: Engine) -> None:
    run = engine.start(Printing().begin())
    assert run.state == "failed"
    run.retry()
    assert run.state == "failed"
    PrintJob.broken = False
    run.retry()
    assert_done(run, "printed well")
    assert count(engine, schema.run_table) == 2


def test_retrying_the_sub_flow_first_leaves_the_run_failed_until_it_is_retried(
    engine: Engine,
) -> None:
    run = engine.start(Printing().begin())
    PrintJob.broken = False
    assert run.child is not None
    run.child.retry()
    assert run.child.state == "done"
    assert run.state == "failed"
    run.retry()
    assert_done(run, "printed well")


def test_a_run_that_is_retried_while_the_sub_flow_goes_on_waits_for_it(
    make_engine: MakeEngine,
) -> None:
    shelf = Shelf()
    engine = make_engine(shelf)
    run = engine.start(Printing().begin())
    while shelf.hints:
        shelf.work()
    assert run.state == "failed"
    PrintJob.broken = False
    assert run.child is not None
    run.child.retry()
    run.retry()
    assert run.waiting_for == "children"
    while shelf.hints:
        shelf.work()
    assert_done(run, "printed well")


def test_a_sub_flow_whose_process_dies_fails_the_run_when_its_attempts_are_used_up(
    make_engine: MakeEngine, clock: FakeClock
) -> None:
    class Deadly(Flow):
        @worker_step(start=True, retry=Retry(1))
        def work(self) -> Continuation[None]:
            return done()

    class Calling(Flow):
        @step(start=True)
        def begin(self) -> Continuation[None]:
            return call(Deadly().work(), self.end)

        @step
        def end(self, _: None) -> Continuation[None]:
            return done()

    shelf = Shelf()
    engine = make_engine(shelf, clock=clock)
    run = engine.start(Calling().begin())
    assert run.child is not None
    crash(engine, run.child, clock)
    clock.advance(60)
    engine.recover()
    shelf.work()
    assert_failed(run, RunFailed, match="ProcessDied")


# -- by hand ---------------------------------------------------------------------------------------


def test_cancelling_the_run_cancels_the_sub_flow_by_the_same_commit(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine(shelf := Shelf(), notifier=(moves := Moves()))
    run = engine.start(Printing().begin())
    child = run.child
    assert child is not None
    with counting(engine) as counted:
        run.cancel()
    assert counted.commits == 1
    assert (run.state, child.state) == ("cancelled", "cancelled")
    assert shelf.work() == [False]
    assert {move.run_id for move in moves.heard if move.state == "cancelled"} == {run.id, child.id}


def test_cancelling_the_sub_flow_fails_the_run(make_engine: MakeEngine) -> None:
    engine = make_engine(shelf := Shelf())
    run = engine.start(Printing().begin())
    assert run.child is not None
    run.child.cancel()
    shelf.work()
    assert_failed(run, RunFailed, match="is cancelled")
    run.retry()  # it can not be brought back
    shelf.work()
    assert run.state == "failed"


def test_a_run_that_calls_while_it_is_cancelled_is_cancelled_with_its_sub_flow(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(shelf := Shelf())
    run = engine.start(Printing().begin())
    change = engine._store.change_state  # noqa: SLF001
    refused: list[Any] = []

    def late(connection: Any, guard: Any, target: Any) -> bool:
        if not refused:  # the first look was too early
            refused.append(guard)
            return False
        return change(connection, guard, target)

    monkeypatch.setattr(engine._store, "change_state", late)  # noqa: SLF001
    run.cancel()
    assert run.child is not None
    assert (run.state, run.child.state) == ("cancelled", "cancelled")
    assert shelf.work() == [False]


def test_a_cancelled_run_can_not_be_cancelled_again(engine: Engine) -> None:
    run = engine.start(Interview().welcome())
    run.cancel()
    with pytest.raises(RunStateError, match="is cancelled and can not be cancelled"):
        run.cancel()


def test_resuming_the_run_resumes_the_sub_flow(make_engine: MakeEngine) -> None:
    engine = make_engine(shelf := Shelf())
    PrintJob.broken = False
    run = engine.start(Printing().begin())
    shelf.hints.clear()
    run.resume()
    shelf.work()
    assert_done(run, "printed well")


def test_the_run_of_a_sub_flow_is_deleted_with_the_run_that_called_it(
    make_engine: MakeEngine, clock: FakeClock
) -> None:
    engine = make_engine(Shelf(), clock=clock, retention=timedelta(hours=1))
    PrintJob.broken = False
    waits = engine.start(Interview().welcome())
    answers.append("yes")
    engine.visit(waits.id, SUBMIT)
    answers.append("no")
    engine.visit(waits.id, SUBMIT)
    other = engine.start(Sum().ask(1))
    unfinished = engine.start(Printing().begin())
    assert unfinished.child is not None
    unfinished.child.cancel()
    clock.advance(3601)
    engine.recover()
    assert {run.id for run in engine.runs()} == {unfinished.id, unfinished.child.id}
    with pytest.raises(RunNotFound):
        _ = other.record


# -- pages -----------------------------------------------------------------------------------------


def test_a_visit_of_the_run_shows_the_page_of_its_sub_flow(engine: Engine) -> None:
    run = engine.start(Interview().welcome())
    assert engine.visit(run.id, REQUEST).answer == "welcome"
    answers.append("go")
    engine.visit(run.id, SUBMIT)
    answers.clear()
    assert run.waiting_for == "children"
    assert engine.visit(run.id, REQUEST).answer == "a question"
    answers.append("blue")
    assert engine.visit(run.id, SUBMIT).advanced
    assert engine.visit(run.id, REQUEST).answer == "you said blue"


def test_a_page_can_hand_over_to_another_flow_itself(engine: Engine) -> None:
    run = engine.start(Offer().show(3))
    assert engine.visit(run.id, REQUEST).answer == "double 3?"
    answers.append("yes")
    assert engine.visit(run.id, SUBMIT).advanced
    assert_done(run, 6)
    assert_path(run, ["show", "accept"])


def test_what_was_sent_to_one_page_is_not_sent_to_the_sub_flow_s_page_as_well(
    engine: Engine,
) -> None:
    run = engine.start(Interview().welcome())
    answers.extend(["second", "first"])
    seq = run.record.seq
    assert engine.visit(run.id, SUBMIT, seq=seq).advanced
    assert answers == ["second", "first"]
    assert run.child is not None
    assert run.child.waiting_for == "page"
    assert not engine.visit(run.id, SUBMIT, seq=seq).advanced  # sent twice
    assert run.child.waiting_for == "page"


def test_waiting_for_a_run_ends_when_its_sub_flow_waits_for_a_person(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine("thread")
    run = engine.start(Interview().welcome())
    answers.append("go")
    engine.visit(run.id, SUBMIT)
    assert run.wait(timeout_seconds=10).waiting_for == "children"
    assert run.at_rest


def test_the_thread_executor_finishes_a_run_with_a_sub_flow(make_engine: MakeEngine) -> None:
    engine = make_engine("thread")
    PrintJob.broken = False
    run = engine.start(Printing().begin())
    assert run.wait(timeout_seconds=10).result == "printed well"


# -- what is known before, and what is refused -----------------------------------------------------


def test_the_graph_has_the_way_to_the_step_that_goes_on() -> None:
    assert Sum.graph.successors("ask") == {"add"}
    assert Printing.graph.successors("begin") == {"end", "careful_end"}


def test_the_checkpoint_says_whose_result_it_waits_for(make_engine: MakeEngine) -> None:
    engine = make_engine(Shelf())
    run = engine.start(Printing().begin())
    assert run.child is not None
    assert run.checkpoints[-1].arguments == {"said": f"result of run {run.child.id}"}
    assert run.child.record.parent_id == run.id
    assert (run.child.record.owner, run.child.key) == (None, None)


def test_the_sub_flow_has_the_owner_of_the_run(make_engine: MakeEngine) -> None:
    run = make_engine(Shelf()).start(Printing().begin(), owner="ada")
    assert run.child is not None
    assert run.child.record.owner == "ada"


def test_a_continuation_that_calls_shows_both() -> None:
    shown = repr(call(Doubling().begin(2), Sum().add, 1, label="x"))
    assert shown == (
        "<Continuation Sum.add(more=1, label='x') after <Continuation Doubling.begin(number=2)>>"
    )


class NoPlace(Flow):
    """A step that a result can not be given to."""

    @step(start=True)
    def begin(self, *, named: int = 0) -> Continuation[int]:
        return done(named)


WRONG: list[tuple[Any, str]] = [
    (lambda: call(Doubling().begin(1), Sum().add(1, 2, label="x")), "goes on with a step of the"),  # type: ignore[arg-type]
    (lambda: call(Doubling().begin(1), print), "goes on with a step of the"),  # type: ignore[arg-type]
    (lambda: call(done(1), Sum().add, 1, label="x"), "call one of its start steps"),
    (lambda: call(7, Sum().add, 1, label="x"), "call one of its start steps"),  # type: ignore[arg-type]
    (lambda: call(Doubling().begin(1), Sum().add, "one", label="x"), "arguments that do not fit"),  # type: ignore[arg-type]
    (lambda: call(Doubling().begin(1), Sum().add), "arguments that do not fit"),  # type: ignore[call-arg]
    (lambda: call(Doubling().begin(1), NoPlace().begin), "no parameter for the result"),  # type: ignore[arg-type]
    (
        lambda: call(Doubling().begin(1), Sum().add, 1, label="x").after(timedelta(1)),
        "delay the sub-flow's start",
    ),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG, ids=range(len(WRONG)))
def test_a_call_that_can_not_work_is_refused_where_it_is_written(wrong: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(message)):
        wrong()


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (lambda: Sum().add(1, 1, label="x"), "Sum.add is no start step"),
        (lambda: EndsAtOnce().show(), "starts with a final page"),
    ],
)
def test_a_call_of_what_is_no_start_fails_the_step(
    engine: Engine, start: Any, message: str
) -> None:
    class CallsWrong(Flow):
        @step(start=True)
        def begin(self) -> Continuation[Any]:
            return call(start(), self.end)

        @step
        def end(self, result: object) -> Continuation[Any]:
            return done(result)

    assert_failed(engine.start(CallsWrong().begin()), "TransitionError", match=message)


def test_a_run_can_not_start_with_a_call(engine: Engine) -> None:
    with pytest.raises(Exception, match="can not start one"):
        engine.start(call(Doubling().begin(1), Sum().add, 1, label="x"))
    assert stored(engine) == (0, 0)


def test_a_sub_flow_whose_run_was_deleted_blocks_the_run(make_engine: MakeEngine) -> None:
    engine = make_engine(shelf := Shelf())
    run = engine.start(Printing().begin())
    child = run.child
    assert child is not None
    child.cancel()
    with engine.database.engine.begin() as connection:
        for table, column in (
            (schema.checkpoint_table, schema.checkpoint_table.c.run_id),
            (schema.run_table, schema.run_table.c.id),
        ):
            connection.execute(sa.delete(table).where(column == child.id))
    shelf.work()
    assert run.state == "blocked"
    assert run.error is not None
    assert "was deleted" in run.error.message
