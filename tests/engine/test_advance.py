"""Advancing a run: plain steps here and now, worker steps elsewhere, each transition checked."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from flowroute import Continuation, Flow, done, step, worker_step
from flowroute.errors import FlowrouteError, RunFailed
from tests.engine.conftest import MakeEngine
from tests.engine.support import Moves, Shelf, set_column


class Parcel(Flow):
    """Plain, worker, plain, end; its state counts the steps."""

    weight: int
    seen: list[str] = []  # noqa: RUF012  # state, of which each run has its own

    @step(start=True)
    def pack(self, item: str) -> Continuation[str]:
        self.seen.append("pack")
        self.weight += 1
        return self.send(item, label=f"{item}!")

    @worker_step
    def send(self, item: str, *, label: str) -> Continuation[str]:
        assert label == f"{item}!"
        self.seen.append("send")
        return self.tell(label)

    @step
    def tell(self, label: str, /) -> Continuation[str]:
        self.seen = [*self.seen, "tell"]
        return done(f"{label} {self.weight} {self.seen}")


def test_plain_steps_run_in_the_caller(make_engine: MakeEngine) -> None:
    threads: list[int] = []

    class Plain(Flow):
        @step(start=True)
        def one(self) -> Continuation[int]:
            threads.append(threading.get_ident())
            return self.two()

        @step
        def two(self) -> Continuation[int]:
            threads.append(threading.get_ident())
            return done(2)

    run = make_engine(Shelf()).start(Plain().one())
    assert threads == [threading.get_ident()] * 2
    assert (run.state, run.step, run.result) == ("done", None, 2)


def test_a_worker_step_suspends_the_run_and_a_hint_with_ids_is_given(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine(shelf := Shelf())
    run = engine.start(Parcel(weight=1).pack("book"))
    assert (run.state, run.waiting_for, run.step) == ("waiting", "worker", "send")
    [hint] = shelf.hints
    assert (hint.run_id, hint.seq, hint.attempt) == (run.id, 1, 0)
    assert (hint.flow, hint.step, hint.timeout_seconds) == ("Parcel", "send", None)


def test_state_and_arguments_go_on_in_the_executors_process(make_engine: MakeEngine) -> None:
    engine = make_engine(shelf := Shelf())
    run = engine.start(Parcel(weight=1).pack("book"))
    assert shelf.work() == [True]
    assert run.state == "done"
    assert run.result == "book! 2 ['pack', 'send', 'tell']"


def test_the_default_of_a_state_is_not_shared_between_runs(make_engine: MakeEngine) -> None:
    engine = make_engine()
    results = [engine.start(Parcel(weight=0).pack("x")).result for _ in range(2)]
    assert results == ["x! 1 ['pack', 'send', 'tell']"] * 2


def test_the_notifier_hears_each_move_after_its_commit(make_engine: MakeEngine) -> None:
    class Checking(Moves):
        def moved(self, move: Any) -> None:
            super().moved(move)
            if move.state != "running":
                assert engine.get(move.run_id).record.seq == move.seq

    engine = make_engine(shelf := Shelf(), notifier=(notifier := Checking()))
    run = engine.start(Parcel(weight=1).pack("book"))
    shelf.work()
    assert [(m.seq, m.state, m.waiting_for, m.step) for m in notifier.heard] == [
        (0, "running", None, "pack"),
        (1, "waiting", "worker", "send"),
        (1, "running", None, "send"),
        (2, "running", None, "tell"),
        (3, "done", None, None),
    ]
    assert {move.run_id for move in notifier.heard} == {run.id}


def test_a_notifier_that_fails_costs_nothing(
    make_engine: MakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Moves):
        def moved(self, move: Any) -> None:
            super().moved(move)
            raise OSError("the socket is gone")

    run = make_engine(notifier=Failing()).start(Parcel(weight=1).pack("book"))
    assert run.state == "done"
    assert "the notifier failed" in caplog.text


# -- hints that come twice or too late -------------------------------------------------------------


def test_a_duplicate_hint_does_nothing(make_engine: MakeEngine) -> None:
    calls: list[int] = []

    class Once(Flow):
        @worker_step(start=True)
        def work(self) -> Continuation[None]:
            calls.append(1)
            return done()

    engine = make_engine(Shelf())
    run = engine.start(Once().work())
    assert [engine.advance(run.id, 0) for _ in range(3)] == [True, False, False]
    assert calls == [1]


def test_fifty_simultaneous_hints_run_the_step_once(make_engine: MakeEngine) -> None:
    calls: list[int] = []
    barrier = threading.Barrier(12)

    class Raced(Flow):
        @worker_step(start=True)
        def work(self) -> Continuation[None]:
            calls.append(1)
            return done()

    engine = make_engine(Shelf())
    run = engine.start(Raced().work())
    results: list[bool] = []

    def advance() -> None:
        barrier.wait(10)
        results.append(engine.advance(run.id, 0))

    threads = [threading.Thread(target=advance) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(results) == [False] * 11 + [True]
    assert calls == [1]


def test_a_hint_for_a_bookmark_that_has_moved_on_does_nothing(make_engine: MakeEngine) -> None:
    class Two(Flow):
        @worker_step(start=True)
        def one(self) -> Continuation[None]:
            return self.two()

        @worker_step
        def two(self) -> Continuation[None]:
            return done()

    engine = make_engine(shelf := Shelf())
    run = engine.start(Two().one())
    assert shelf.work() == [True]
    assert engine.advance(run.id, 0) is False
    assert (run.state, run.step) == ("waiting", "two")


def test_a_hint_for_a_run_that_is_gone_does_nothing(make_engine: MakeEngine) -> None:
    assert make_engine(Shelf()).advance("01900000-0000-7000-8000-000000000000", 0) is False


# -- what a step may return ------------------------------------------------------------------------


def test_a_step_that_returns_nothing_fails_the_run_with_advice(make_engine: MakeEngine) -> None:
    class Forgetful(Flow):
        @step(start=True, to=[done])
        def work(self) -> Any:
            self.run.log.info("and no return")

    run = make_engine().start(Forgetful().work())
    assert run.state == "failed"
    assert run.error is not None
    assert (run.error.type, run.error.step, run.error.attempt) == ("TransitionError", "work", 1)
    assert "returned None, which is no continuation: return self.<step>(…)" in run.error.message
    assert run.id in run.error.message


def test_a_transition_outside_the_graph_fails_the_run_with_advice(make_engine: MakeEngine) -> None:
    class Straying(Flow):
        @step(start=True, to=["two"])
        def one(self) -> Continuation[None]:
            return getattr(self, "thr" + "ee")()  # type: ignore[no-any-return]

        @step
        def two(self) -> Continuation[None]:
            return self.three()

        @step
        def three(self) -> Continuation[None]:
            return done()

    run = make_engine().start(Straying().one())
    assert (run.state, run.step, run.record.seq) == ("failed", "one", 0)
    assert run.error is not None
    assert "handed over to 'three', which is not among its successors" in run.error.message
    assert "@step(to=[…, 'three'])" in run.error.message


def test_an_end_outside_the_graph_fails_the_run(make_engine: MakeEngine) -> None:
    end = done

    class Ending(Flow):
        @step(start=True, to=["two"])
        def one(self) -> Continuation[int]:
            return end(1)

        @step
        def two(self) -> Continuation[int]:
            return done(2)

    run = make_engine().start(Ending().one())
    assert run.error is not None
    assert "handed over to 'done'" in run.error.message


def test_a_continuation_of_another_flow_fails_the_run(make_engine: MakeEngine) -> None:
    class Stranger(Flow):
        @step(start=True, to=["next_"])
        def one(self) -> Continuation[Any]:
            return Parcel(weight=1).pack("book")

        @step
        def next_(self) -> Continuation[Any]:
            return done()

    run = make_engine().start(Stranger().one())
    assert run.error is not None
    assert "returned a continuation of Parcel: a step hands over to a step of its own flow" in (
        run.error.message
    )


def test_a_wrong_argument_inside_a_step_fails_the_run_at_that_step(make_engine: MakeEngine) -> None:
    class Wrong(Flow):
        @step(start=True)
        def one(self) -> Continuation[int]:
            return self.two("no number")  # type: ignore[arg-type]

        @step
        def two(self, number: int) -> Continuation[int]:
            return done(number)

    run = make_engine().start(Wrong().one())
    assert run.error is not None
    assert run.error.type == "ArgumentError"
    assert "Input should be a valid integer" in run.error.message
    assert "test_advance.py" in run.error.message
    with pytest.raises(RunFailed, match="failed at step one, attempt 1: ArgumentError"):
        _ = run.result


def test_an_argument_that_can_not_be_stored_fails_the_run_at_that_step(
    make_engine: MakeEngine,
) -> None:
    class Locks(Flow):
        @step(start=True)
        def one(self) -> Continuation[object]:
            return self.two(threading.Lock())

        @step
        def two(self, lock: object) -> Continuation[object]:
            return done(lock)

    run = make_engine().start(Locks().one())
    assert run.error is not None
    assert (run.error.type, run.record.seq) == ("UnstorableValue", 0)
    assert "arguments['lock']" in run.error.message


# -- what a step knows of its run ------------------------------------------------------------------


def test_a_step_knows_its_run(make_engine: MakeEngine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "flowroute.step")
    seen: list[Any] = []

    class Knowing(Flow):
        @step(start=True)
        def one(self) -> Continuation[None]:
            run = self.run
            seen.append((run.id, run.key, run.flow, run.step, run.seq, run.attempt))
            seen.append(run.idempotency_key)
            run.log.info("charging %s", 7, extra={"order": 3})
            assert run.log is run.log
            return self.two()

        @step
        def two(self) -> Continuation[None]:
            seen.append(self.run.idempotency_key)
            return done()

    run = make_engine().start(Knowing().one(), key="k")
    assert seen == [
        (run.id, "k", "Knowing", "one", 0, 1),
        f"{run.id}-0",
        f"{run.id}-1",
    ]
    [record] = [r for r in caplog.records if r.name == "flowroute.step"]
    assert record.getMessage() == f"[Knowing.one {run.id}] charging 7"
    assert (record.run_id, record.step, record.order) == (run.id, "one", 3)  # type: ignore[attr-defined]


def test_outside_a_step_there_is_no_run() -> None:
    parcel = Parcel(weight=1)
    with pytest.raises(FlowrouteError, match="known only while a step runs"):
        _ = parcel.run
    with pytest.raises(FlowrouteError, match="known only while a step runs"):
        _ = parcel.session


def test_a_step_is_plain_python_in_a_unit_test() -> None:
    parcel = Parcel(weight=1)
    onward = Parcel.pack.function(parcel, "book")
    assert onward.arguments == {"item": "book", "label": "book!"}


# -- checkpoints -----------------------------------------------------------------------------------


def test_checkpoints_are_gapless_and_tell_how_each_step_went(make_engine: MakeEngine) -> None:
    engine = make_engine(shelf := Shelf())
    run = engine.start(Parcel(weight=1).pack("book"))
    shelf.work()
    checkpoints = run.checkpoints
    assert [(c.seq, c.step, c.attempt, c.executor) for c in checkpoints] == [
        (0, "pack", 1, "script"),
        (1, "send", 1, "shelf"),
        (2, "tell", 1, "shelf"),
        (3, None, None, None),
    ]
    assert checkpoints[1].arguments == {"item": "book", "label": "book!"}
    assert checkpoints[3].arguments == {"result": run.result}
    assert all(c.duration is not None and c.duration.total_seconds() >= 0 for c in checkpoints[:3])
    assert checkpoints[3].duration is None
    instants = [c.created_at for c in checkpoints]
    assert instants == sorted(instants)
    assert all(instant.tzinfo is not None for instant in instants)


def test_secrets_are_left_out_of_what_people_see_and_kept_for_the_step(
    make_engine: MakeEngine,
) -> None:
    class Secretive(Flow):
        @step(start=True)
        def one(self, api_key: str, text: str) -> Continuation[str]:
            assert len(text) == 500
            return done(api_key)

    run = make_engine().start(Secretive().one("sesame", "long " * 100))
    first = run.checkpoints[0]
    assert first.arguments["api_key"] == "[redacted]"
    assert len(first.arguments["text"]) == 200
    assert run.result == "sesame"


def test_a_run_at_its_end_is_advanced_by_nobody(make_engine: MakeEngine) -> None:
    engine = make_engine()
    run = engine.start(Parcel(weight=1).pack("book"))
    assert engine.advance(run.id, run.record.seq) is False
    set_column(engine, run, state="cancelled")
    assert engine.advance(run.id, run.record.seq) is False
    run.resume()
    assert run.state == "cancelled"
