"""What is stored of an error: enough for people, whatever was raised."""

from __future__ import annotations

import pytest

from flowroute import Continuation, Flow, done, step
from tests.engine.conftest import MakeEngine


class Unprintable(Exception):
    """Raises when it is printed."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("nul \x00 and \udc80"), "nul \ufffd and ?"),
        (ValueError("x" * 5000), "x" * 2000),
        (ValueError(), ""),
        (Unprintable(), "<Unprintable, whose str() raised RuntimeError>"),
    ],
    ids=["odd characters", "long", "empty", "unprintable"],
)
def test_any_error_can_be_recorded(make_engine: MakeEngine, error: Exception, message: str) -> None:
    class Raising(Flow):
        @step(start=True, to=[done])
        def work(self) -> Continuation[None]:
            raise error

    run = make_engine().start(Raising().work())
    assert run.state == "failed"
    assert run.error is not None
    assert run.error.message == message
    assert run.error.type == type(error).__name__


def test_a_long_traceback_keeps_its_end(make_engine: MakeEngine) -> None:
    class Deep(Flow):
        @step(start=True, to=[done])
        def work(self) -> Continuation[None]:
            error: Exception = ValueError("the first of many")
            for number in range(200):
                caused = ValueError(f"number {number}")
                caused.__cause__ = error
                error = caused
            raise error

    run = make_engine().start(Deep().work())
    assert run.error is not None
    assert len(run.error.traceback) <= 8000
    assert run.error.traceback.endswith("ValueError: number 199\n")
