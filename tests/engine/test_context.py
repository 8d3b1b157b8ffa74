"""`self.run`: what a step knows of its run, and what it can say."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from sqlalchemy.orm import Session

from flowroute import Continuation, Flow, Run, done, step, worker_step
from flowroute.engine.context import RunContext, current_run
from flowroute.errors import ArgumentError
from tests.engine.conftest import MakeEngine
from tests.engine.support import Shelf


class Known(Flow, name="known of test_context"):
    @step(start=True)
    def begin(self) -> Continuation[list[dict[str, Any]]]:
        return self.middle([self._facts()])

    @worker_step
    def middle(self, facts: list[dict[str, Any]]) -> Continuation[list[dict[str, Any]]]:
        return done([*facts, self._facts()])

    def _facts(self) -> dict[str, Any]:
        run = self.run
        assert current_run.get() is run
        return {
            "id": run.id,
            "key": run.key,
            "flow": run.flow,
            "step": run.step,
            "seq": run.seq,
            "attempt": run.attempt,
            "idempotency_key": run.idempotency_key,
        }


@pytest.fixture
def said() -> list[dict[str, Any]]:
    """What was reported by `run`."""
    return []


@pytest.fixture
def run(said: list[dict[str, Any]]) -> RunContext:
    """A context without an engine."""
    return RunContext(
        run_id="7",
        key="order-1",
        flow="Checkout",
        step="charge",
        seq=3,
        attempt=2,
        open_session=Session,
        report=said.append,
    )


def test_a_step_knows_its_run(make_engine: MakeEngine) -> None:
    engine = make_engine()
    run: Run[list[dict[str, Any]]] = engine.start(Known().begin(), key="k")
    first, second = run.result
    assert first == {
        "id": run.id,
        "key": "k",
        "flow": "known of test_context",
        "step": "begin",
        "seq": 0,
        "attempt": 1,
        "idempotency_key": f"{run.id}-0",
    }
    assert (second["step"], second["seq"]) == ("middle", 1)
    assert second["idempotency_key"] == f"{run.id}-1"
    assert current_run.get() is None


def test_a_run_without_a_key_has_none(make_engine: MakeEngine) -> None:
    assert make_engine().start(Known().begin()).result[0]["key"] is None


def test_the_idempotency_key_is_that_of_the_step_in_the_run(run: RunContext) -> None:
    assert run.idempotency_key == "7-3"


def test_the_session_is_opened_when_it_is_asked_for(said: list[dict[str, Any]]) -> None:
    opened: list[Session] = []

    def open_session() -> Session:
        opened.append(Session())
        return opened[-1]

    run = RunContext(
        run_id="7",
        key=None,
        flow="Checkout",
        step="charge",
        seq=0,
        attempt=1,
        open_session=open_session,
        report=said.append,
    )
    assert opened == []
    assert run.session is opened[0]


# -- progress --------------------------------------------------------------------------------------


def test_progress_is_reported_with_its_total_and_message(
    run: RunContext, said: list[dict[str, Any]]
) -> None:
    run.progress(0.25)
    run.progress(3, 10, "resizing")
    run.progress(0, 1)
    run.progress(7, 7)
    assert said == [
        {"done": 0.25, "total": 1.0, "message": ""},
        {"done": 3, "total": 10, "message": "resizing"},
        {"done": 0, "total": 1, "message": ""},
        {"done": 7, "total": 7, "message": ""},
    ]


@pytest.mark.parametrize(
    ("part", "total"),
    [(-1, 10), (11, 10), (0, 0), (0, -1), (float("nan"), 1), (1, float("nan")), (1, float("inf"))],
)
def test_progress_that_makes_no_sense_is_refused(
    run: RunContext, said: list[dict[str, Any]], part: float, total: float
) -> None:
    with pytest.raises(ArgumentError, match=r"progress\(.*\): give 0 ≤ done ≤ total"):
        run.progress(part, total)
    assert said == []


# -- log -------------------------------------------------------------------------------------------


def test_each_line_of_the_log_names_the_run_and_carries_its_fields(
    run: RunContext, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="flowroute.step"):
        run.log.info("charged %s EUR", 12, extra={"customer": 7})
    (record,) = caplog.records
    assert record.getMessage() == "[Checkout.charge 7] charged 12 EUR"
    assert record.name == "flowroute.step"
    fields = {name: record.__dict__[name] for name in ("run_id", "flow", "step", "attempt")}
    assert fields == {"run_id": "7", "flow": "Checkout", "step": "charge", "attempt": 2}
    assert record.__dict__["customer"] == 7


def test_a_percent_sign_in_a_flows_name_does_not_break_its_log(
    said: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    run = RunContext(
        run_id="7",
        key=None,
        flow="100%s",
        step="go",
        seq=0,
        attempt=1,
        open_session=Session,
        report=said.append,
    )
    with caplog.at_level(logging.INFO, logger="flowroute.step"):
        run.log.info("%d left", 3)
    assert [record.getMessage() for record in caplog.records] == ["[100%s.go 7] 3 left"]


def test_the_log_of_a_run_is_one_object(run: RunContext) -> None:
    assert run.log is run.log


def test_the_log_of_a_step_is_written_while_it_runs(
    make_engine: MakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    class Talk(Flow, name="talk of test_context"):
        @worker_step(start=True)
        def go(self) -> Continuation[None]:
            self.run.log.warning("hello")
            return done()

    shelf = Shelf()
    run = make_engine(shelf).start(Talk().go())
    assert "hello" not in caplog.text
    assert shelf.work() == [True]
    assert f"[talk of test_context.go {run.id}] hello" in caplog.text
