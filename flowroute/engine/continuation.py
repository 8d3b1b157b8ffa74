"""The rest of a flow, in memory: a step and the arguments it will be called with."""

# Not everybody has a type checker: what it would refuse is refused when it runs, too.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, overload

from typing_extensions import TypeIs, TypeVar

from flowroute.errors import ArgumentError

if TYPE_CHECKING:
    from flowroute.engine.flow import Flow
    from flowroute.engine.step import Step

P = ParamSpec("P")
R = TypeVar("R")
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
    child: Continuation[Any] | None = None
    """The sub-flow's start, whose result becomes the step's first argument; None: there is none."""

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
        self._refuse_delay("after")
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
        self._refuse_delay("at")
        return replace(self, delay=None, due_at=instant)

    def _refuse_delay(self, method: str) -> None:
        if self.step is None:
            raise ArgumentError(
                f"done(…).{method}(…) has no step to delay: delay the step before it."
            )
        if self.child is not None:
            raise ArgumentError(
                f"call(…).{method}(…) goes on when the sub-flow has ended: delay the sub-flow's "
                f"start, call(Other(…).start(…).{method}(…), self.{self.step.name})."
            )

    def __repr__(self) -> str:
        if self.step is None:
            return f"<Continuation done({self.arguments['result']!r})>"
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        called = "" if self.child is None else f" after {self.child!r}"
        return f"<Continuation {type(self.flow).__name__}.{self.step.name}({arguments}){called}>"


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


def call(
    child: Continuation[R],
    then: Callable[Concatenate[R, P], Continuation[T]],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> Continuation[T]:
    """Run another flow, and go on here with its result.

    The sub-flow is a run of its own, stored by the same commit as the checkpoint that waits for
    it. Where this run is shown in a browser, the sub-flow's pages are shown meanwhile; a final page
    just ends it. If it fails or is cancelled, `then` fails without being called: its ``on_error=``
    step takes over, or the run fails. Retrying the run retries the sub-flow, and cancelling it
    cancels both.

    Parameters:
        child: A start step of any flow, called.
        then: The step of this flow to go on with. Its first parameter takes the sub-flow's result.
        args: More arguments of that step, from the second on.
        kwargs: More arguments of that step, by name.

    Returns:
        The continuation to return from the step.

    Raises:
        ArgumentError: `then` is no step, takes nothing by position, or the arguments do not fit.

    Example:
        >>> @step
        ... def ask(self, order: Order) -> Continuation[None]:
        ...     return call(Approval(order_id=order.id).show(), self.decided, order)
        >>> @step
        ... def decided(self, approved: bool, order: Order) -> Continuation[None]:
        ...     return self.ship(order) if approved else done()
    """
    bind = getattr(then, "bind_after_result", None)
    if bind is None:
        raise ArgumentError(
            f"call(…, {then!r}) goes on with a step of the flow itself: name it without calling "
            "it, call(Other(…).start(…), self.next)."
        )
    if not is_continuation(child) or child.step is None or child.child is not None:
        raise ArgumentError(
            f"call({child!r}, …) runs another flow: call one of its start steps, "
            "call(Other(…).start(…), self.next)."
        )
    onward: Continuation[T] = bind(args, kwargs)
    return replace(onward, child=child)
