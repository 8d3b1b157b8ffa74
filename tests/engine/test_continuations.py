"""Continuations: plain values that say what happens next."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flowroute import Continuation, Flow, done, step
from flowroute.engine.continuation import is_continuation
from flowroute.errors import ArgumentError

CALLED: list[str] = []


class Remind(Flow):
    name: str = "you"

    @step(start=True)
    def begin(self, order: int, *, urgent: bool = False) -> Continuation[int]:
        CALLED.append("begin")
        return done(order if urgent else 0)


@pytest.fixture
def onward() -> Continuation[int]:
    """The continuation of a step with two arguments."""
    return Remind().begin(7, urgent=True)


def test_calling_a_step_of_a_flow_runs_nothing(onward: Continuation[int]) -> None:
    assert CALLED == []
    assert onward.step is Remind.begin
    assert isinstance(onward.flow, Remind)


def test_a_continuation_holds_every_argument_by_name() -> None:
    assert Remind().begin(7).arguments == {"order": 7, "urgent": False}


def test_a_continuation_reads_like_the_call_that_made_it(onward: Continuation[int]) -> None:
    assert repr(onward) == "<Continuation Remind.begin(order=7, urgent=True)>"


def test_the_end_holds_the_result() -> None:
    end = done([1, 2])
    assert (end.step, end.flow, end.arguments) == (None, None, {"result": [1, 2]})
    assert repr(end) == "<Continuation done([1, 2])>"


@pytest.mark.parametrize("value", [False, 0, "", None])
def test_the_end_keeps_a_result_that_is_falsy(value: object) -> None:
    assert done(value).arguments["result"] is value


def test_a_run_may_end_without_a_result() -> None:
    assert done().arguments == {"result": None}


def test_after_gives_a_new_continuation_that_waits(onward: Continuation[int]) -> None:
    later = onward.after(timedelta(days=2))
    assert later.delay == timedelta(days=2)
    assert (later.step, later.flow, later.arguments) == (
        onward.step,
        onward.flow,
        onward.arguments,
    )
    assert onward.delay is None


def test_at_gives_a_new_continuation_that_waits(onward: Continuation[int]) -> None:
    instant = datetime(2027, 1, 1, tzinfo=UTC)
    later = onward.at(instant)
    assert (later.due_at, later.delay) == (instant, None)
    assert onward.due_at is None


def test_the_last_of_after_and_at_counts(onward: Continuation[int]) -> None:
    instant = datetime(2027, 1, 1, tzinfo=UTC)
    both = onward.at(instant).after(timedelta(hours=1))
    assert (both.due_at, both.delay) == (None, timedelta(hours=1))
    both = both.at(instant)
    assert (both.due_at, both.delay) == (instant, None)


@pytest.mark.parametrize("delay", [60, 1.5, "1 hour", None])
def test_after_takes_a_timedelta_only(onward: Continuation[int], delay: Any) -> None:
    with pytest.raises(ArgumentError, match=r"after\(\) takes a timedelta, not .*timedelta\(sec"):
        onward.after(delay)


@pytest.mark.parametrize("instant", [datetime(2027, 1, 1), 0, "tomorrow", None])  # noqa: DTZ001
def test_at_takes_an_instant_with_a_timezone_only(onward: Continuation[int], instant: Any) -> None:
    with pytest.raises(ArgumentError, match=r"at\(\) takes a timezone-aware datetime, not .*UTC"):
        onward.at(instant)


def test_the_end_can_not_be_delayed() -> None:
    with pytest.raises(ArgumentError, match=r"done\(…\)\.after\(…\) has no step to delay"):
        done(1).after(timedelta(1))
    with pytest.raises(ArgumentError, match=r"done\(…\)\.at\(…\) has no step to delay"):
        done(1).at(datetime.now(UTC))


def test_a_continuation_does_not_change(onward: Continuation[Any]) -> None:
    with pytest.raises(FrozenInstanceError):
        onward.delay = timedelta(1)  # type: ignore[misc]


def test_two_continuations_are_the_same_only_if_they_are_one(onward: Continuation[int]) -> None:
    assert onward != Remind().begin(7, urgent=True)
    assert len({onward, onward}) == 1


def test_only_a_continuation_is_one(onward: Continuation[int]) -> None:
    assert is_continuation(onward)
    assert is_continuation(done())
    assert not is_continuation(Remind().begin)
    assert not is_continuation(None)
