"""The rest of a flow, in memory: a step and the arguments it will be called with."""

# Not everybody has a type checker: what it would refuse is refused when it runs, too.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, overload

from typing_extensions import TypeIs, TypeVar

from flowroute.errors import ArgumentError

if TYPE_CHECKING:
    from flowroute.engine.flow import Flow
    from flowroute.engine.step import Step

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True, default=Any)


@dataclass(frozen=True, slots=True, eq=False)
class Continuation(Generic[T_co]):
    """What happens next in a run. Calling a step makes one; returning it from a step hands it over.

    A continuation is a plain value: nothing runs and nothing is stored until the dispatcher gets
    it. ``T_co`` is the type of the result that the run will end with.

    Example:
        >>> Checkout(customer_id=7).reserve(cart)  # doctest: +SKIP
        <Continuation Checkout.reserve(cart=[...])>
    """

    step: Step[Any, Any] | None
    """The step to call; None where the run ends."""
    flow: Flow | None = None
    """The flow with its state; None only for `done`, which takes the flow of the step that returns
    it."""
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])
    """Validated arguments of the step by parameter name; for `done`, the result."""
    delay: timedelta | None = None
    """How long to wait before the step is called, counted from the checkpoint; None: not at all."""
    due_at: datetime | None = None
    """The instant before which the step is not called; None: no such instant."""

    def after(self, delay: timedelta) -> Continuation[T_co]:
        """Call the step no earlier than `delay` after the checkpoint is stored.

        The run waits in the database: no process, thread or Redis entry is held meanwhile.

        Parameters:
            delay: A duration; zero or less means at once.

        Returns:
            A continuation like this one that waits first.

        Raises:
            ArgumentError: `delay` is not a `timedelta`, or this is the end of the run.

        Example:
            >>> return self.remind(order).after(timedelta(days=2))  # doctest: +SKIP
        """
        if not isinstance(delay, timedelta):
            raise ArgumentError(
                f"after() takes a timedelta, not {delay!r}: write timedelta(seconds=…)."
            )
        self._refuse_at_the_end("after")
        return replace(self, delay=delay, due_at=None)

    def at(self, instant: datetime) -> Continuation[T_co]:
        """Call the step no earlier than `instant`.

        Parameters:
            instant: A timezone-aware datetime; one that has passed means at once.

        Returns:
            A continuation like this one that waits first.

        Raises:
            ArgumentError: `instant` is naive, or this is the end of the run.
        """
        if not isinstance(instant, datetime) or instant.tzinfo is None:
            raise ArgumentError(
                f"at() takes a timezone-aware datetime, not {instant!r}: give it a tzinfo, such as "
                "datetime.now(UTC) + timedelta(hours=1)."
            )
        self._refuse_at_the_end("at")
        return replace(self, delay=None, due_at=instant)

    def _refuse_at_the_end(self, method: str) -> None:
        if self.step is None:
            raise ArgumentError(
                f"done(…).{method}(…) has no step to delay: delay the step before it."
            )

    def __repr__(self) -> str:
        if self.step is None:
            return f"<Continuation done({self.arguments['result']!r})>"
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"<Continuation {type(self.flow).__name__}.{self.step.name}({arguments})>"


def is_continuation(value: object) -> TypeIs[Continuation[Any]]:
    """Whether a step returned a continuation."""
    return isinstance(value, Continuation)


@overload
def done() -> Continuation[None]: ...
@overload
def done(value: T) -> Continuation[T]: ...
def done(value: Any = None) -> Continuation[Any]:
    """End the run with a result.

    Parameters:
        value: The result, readable as `Run.result`; anything a checkpoint can carry.

    Returns:
        The continuation that ends the run.

    Example:
        >>> @step
        ... def publish(self, urls: list[str]) -> Continuation[int]:
        ...     return done(len(urls))
    """
    return Continuation(step=None, arguments={"result": value})
