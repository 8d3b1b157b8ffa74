"""Steps: what the decorators keep, what they refuse, and how often a step is tried."""

# ruff: noqa: FBT001  # pytest gives parameters by name

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowroute import Continuation, Flow, Retry, Step, StepFailure, done, step, worker_step
from flowroute.engine.retry import CRASHES
from flowroute.engine.step import END, Place, StepOptions, target_names
from flowroute.errors import ArgumentError, DefinitionError
from tests.engine.sources import line_of, load

F = TypeVar("F", bound=Callable[..., Any])


def noted(function: F) -> F:
    """A decorator of an application's own."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper  # type: ignore[return-value]


class Parcel(Flow, name="engine.steps.Parcel"):
    weight: int = 1

    @step(start=True)
    def pack(self, item: str) -> Continuation[str]:
        """Put it in a box."""
        return self.send(item)

    @step
    def plain(self, item: str) -> Continuation[str]:
        return done(item)

    @worker_step(
        start=True,
        to=["plain", plain, done],
        retry=Retry(2),
        timeout=timedelta(minutes=1),
        on_error="failed",
        commits=True,
    )
    def send(self, item: str) -> Continuation[str]:
        return self.plain(item)

    @step(on_error=None)
    def failed(self, failure: StepFailure) -> Continuation[str]:
        return done(failure.message)

    @worker_step(start=True)
    @noted
    def wrapped(self, item: str, *, loud: bool = False) -> Continuation[str]:
        return done(item.upper() if loud else item)


# -- what a decorator keeps ------------------------------------------------------------------------


def test_on_the_class_a_step_is_an_object_that_knows_its_options() -> None:
    assert isinstance(Parcel.send, Step)
    assert repr(Parcel.send) == "<Step Parcel.send>"
    assert (Parcel.send.name, Parcel.send.flow_name) == ("send", "Parcel")
    assert Parcel.send.place is Place.EXECUTOR
    assert (Parcel.send.start, Parcel.send.final, Parcel.send.commits) == (True, False, True)
    assert Parcel.send.to == ("plain", "plain", END)
    assert Parcel.send.on_error == "failed"
    assert Parcel.send.timeout_seconds == 60.0


def test_without_parentheses_a_step_has_the_default_options() -> None:
    assert Parcel.plain.options == StepOptions()
    assert Parcel.plain.place is Place.ANYWHERE
    assert (Parcel.plain.start, Parcel.plain.commits, Parcel.plain.to) == (False, False, None)
    assert (Parcel.plain.on_error, Parcel.plain.timeout_seconds) == (None, None)


def test_a_step_keeps_its_docstring() -> None:
    assert Parcel.pack.doc == "Put it in a box."
    assert Parcel.pack.__doc__ == "Put it in a box."
    assert Parcel.send.doc == ""


def test_on_a_flow_a_step_says_whose_it_is() -> None:
    assert repr(Parcel(weight=3).pack) == "<step pack of Parcel(weight=3)>"


def test_the_function_of_a_step_is_called_as_plain_python() -> None:
    onward = Parcel.pack.function(Parcel(), "book")
    assert onward.step is Parcel.send
    assert onward.arguments == {"item": "book"}


def test_a_step_may_lie_under_a_decorator_that_wraps_functions() -> None:
    assert Parcel.wrapped.name == "wrapped"
    assert Parcel().wrapped("a", loud=True).arguments == {"item": "a", "loud": True}
    with pytest.raises(ArgumentError, match="valid string"):
        Parcel().wrapped(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_step_of_no_flow_has_no_signature() -> None:
    @step
    def lost(self: Any) -> Continuation[None]:
        raise NotImplementedError(self)

    with pytest.raises(ArgumentError, match="'lost' belongs to no flow: define it in a class"):
        _ = lost.signature


@pytest.mark.parametrize("what", [Parcel.pack, staticmethod(load), property(), len, 3, int])
def test_only_a_method_can_be_a_step(what: Any) -> None:
    with pytest.raises(ArgumentError, match="can not be a step: put one decorator on a method"):
        step(what)


def test_the_parentheses_of_a_decorator_may_be_empty() -> None:
    def end(self: Any) -> Continuation[None]:
        raise NotImplementedError(self)

    assert step()(end).options == worker_step()(end).options == StepOptions()
    assert worker_step(end).place is worker_step()(end).place is Place.EXECUTOR


@pytest.mark.parametrize(
    ("to", "names"),
    [
        (None, None),
        ([], ()),
        (["plain", Parcel.send, done], ("plain", "send", END)),
    ],
)
def test_successors_are_named_or_given_as_steps(to: Any, names: Any) -> None:
    assert target_names(to) == names


# -- names that a pydantic model would take --------------------------------------------------------


class Clash(Flow):
    @step(start=True)
    def validate(self, copy: int) -> Continuation[int]:
        return self.copy(copy)

    @step
    def copy(self, json: int) -> Continuation[int]:
        return self.json(json, schema="s")

    @step
    def json(self, dict: int, *, schema: str) -> Continuation[int]:  # noqa: A002
        return self.model_dump(dict, model_config=schema)

    @step
    def model_dump(self, fields: int, model_config: str) -> Continuation[int]:
        return done(fields + len(model_config))


def test_steps_and_parameters_may_be_called_what_a_model_calls_its_own() -> None:
    assert Clash().validate(1).arguments == {"copy": 1}
    assert Clash().json(1, schema="s").arguments == {"dict": 1, "schema": "s"}
    assert Clash().model_dump(1, "s").arguments == {"fields": 1, "model_config": "s"}


# -- what is found when the class is defined -------------------------------------------------------


@pytest.mark.parametrize(
    ("decorator", "problem"),
    [
        ("@step(start=True, retry=5)", "the step 'go' has retry=5: give it a Retry"),
        ("@worker_step(start=True, timeout=30)", "has timeout=30: give it a timedelta"),
        (
            "@worker_step(start=True, timeout=__import__('datetime').timedelta(0))",
            "has timeout=datetime.timedelta(0): give it some time",
        ),
    ],
)
def test_an_option_of_the_wrong_type_is_found_at_the_definition(
    tmp_path: Path, decorator: str, problem: str
) -> None:
    with pytest.raises(DefinitionError) as caught:
        load(
            tmp_path,
            f"""
            class Odd(Flow):
                {decorator}
                def go(self) -> Continuation[None]:
                    return done()
            """,
        )
    assert len(caught.value.problems) == 1
    where, _, text = caught.value.problems[0].partition(": ")
    assert problem in text
    filename, _, line = where.rpartition(":")
    assert int(line) == line_of("@", filename)


@pytest.mark.parametrize(
    "function",
    [
        "async def go(self): return done()",
        "def go(self): yield done()",
        "async def go(self): yield done()",
    ],
)
def test_a_step_is_a_plain_function(tmp_path: Path, function: str) -> None:
    with pytest.raises(DefinitionError, match="'go' is no plain function: leave out `async` and"):
        load(
            tmp_path,
            f"""
            class Odd(Flow):
                @step(start=True)
                {function}
            """,
        )


@pytest.mark.parametrize("parameters", ["", "*, a", "*args"])
def test_a_step_takes_self(tmp_path: Path, parameters: str) -> None:
    with pytest.raises(DefinitionError, match="the step 'go' takes no `self`"):
        load(
            tmp_path,
            f"""
            class Odd(Flow):
                @step(start=True)
                def go({parameters}):
                    return done()
            """,
        )


# -- how often a step is tried ---------------------------------------------------------------------


def test_the_wait_doubles_with_each_attempt_up_to_the_longest() -> None:
    retry = Retry(9, backoff=timedelta(seconds=2), max_backoff=timedelta(seconds=20))
    waits = [retry.wait_seconds(attempt, roll=0.0) for attempt in range(1, 7)]
    assert waits == [2, 4, 8, 16, 20, 20]


def test_jitter_takes_a_part_off_the_wait() -> None:
    retry = Retry(3, backoff=timedelta(seconds=8), jitter=0.5)
    assert retry.wait_seconds(1, roll=0.0) == 8
    assert retry.wait_seconds(1, roll=0.5) == 6
    assert retry.wait_seconds(1, roll=1.0) == 4


def test_waits_of_many_runs_differ() -> None:
    assert len({Retry(3).wait_seconds(1) for _ in range(20)}) > 1


@given(
    attempt=st.integers(1, 10_000),
    backoff=st.floats(0, 3600),
    more=st.floats(0, 3600),
    jitter=st.floats(0, 1),
)
def test_a_wait_is_never_negative_nor_longer_than_the_longest(
    attempt: int, backoff: float, more: float, jitter: float
) -> None:
    first, longest = timedelta(seconds=backoff), timedelta(seconds=backoff + more)
    wait = Retry(2, backoff=first, max_backoff=longest, jitter=jitter).wait_seconds(attempt)
    assert 0 <= wait <= longest.total_seconds()
    assert wait >= first.total_seconds() * (1 - jitter) * (1 - 1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attempts": 0}, r"Retry\(attempts=0\): a step is tried at least once"),
        ({"attempts": 2.5}, r"Retry\(attempts=2.5\): .* a whole number"),
        ({"attempts": "3"}, r"Retry\(attempts='3'\)"),
        ({"attempts": 3, "backoff": 2}, r"Retry\(backoff=2\): give a timedelta"),
        ({"attempts": 3, "max_backoff": 2.0}, r"Retry\(max_backoff=2.0\): give a timedelta"),
        ({"attempts": 3, "backoff": timedelta(-1)}, "the first wait is not negative"),
        ({"attempts": 3, "backoff": timedelta(1)}, "not longer than the longest"),
        ({"attempts": 3, "jitter": 1.5}, r"Retry\(jitter=1.5\): give a part from 0 to 1"),
        ({"attempts": 3, "jitter": -0.1}, r"Retry\(jitter=-0.1\)"),
    ],
)
def test_a_retry_that_makes_no_sense_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Retry(**arguments)


def test_a_retry_is_a_value() -> None:
    assert Retry(3) == Retry(3, backoff=timedelta(seconds=1))
    assert Retry(3) != Retry(4)


def test_a_step_without_retry_fails_at_its_first_error_but_survives_crashes() -> None:
    assert not Parcel.plain.may_retry(1)
    assert [Parcel.plain.may_retry(n, crashed=True) for n in range(1, CRASHES + 1)] == [
        True,
        True,
        False,
    ]
    assert Parcel.plain.backoff_seconds(1) == 0


@pytest.mark.parametrize("crashed", [False, True])
def test_a_step_with_retry_is_tried_as_often_as_it_says_whatever_the_reason(crashed: bool) -> None:
    assert Parcel.send.may_retry(1, crashed=crashed)
    assert not Parcel.send.may_retry(2, crashed=crashed)
    assert 0.75 <= Parcel.send.backoff_seconds(1) <= 1
