"""Steps: the methods of a flow that the dispatcher calls."""

# Not everybody has a type checker: what it would refuse is refused when it runs, too.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Self,
    TypeAlias,
    cast,
    overload,
)

from typing_extensions import TypeVar

from flowroute.engine.continuation import Continuation
from flowroute.engine.retry import CRASHES, Retry
from flowroute.engine.validation import Signature, parameters_of
from flowroute.errors import ArgumentError

if TYPE_CHECKING:
    from flowroute.engine.flow import Flow

P = ParamSpec("P")
T = TypeVar("T")
# Two callables, not P and T: only so may a subclass override a step by one that takes more.
Call_co = TypeVar("Call_co", covariant=True, default=Callable[..., Continuation[Any]])
Function_co = TypeVar(
    "Function_co", bound=Callable[..., Any], covariant=True, default=Callable[..., Any]
)

Call: TypeAlias = Callable[P, Continuation[T]]
Function: TypeAlias = Callable[Concatenate[Any, P], T]

END = "done"
"""The name of the end in a step graph."""


class Place(enum.Enum):
    """Where a step may run."""

    ANYWHERE = "step"
    """Wherever the run is being advanced: a request, a script, an executor."""
    EXECUTOR = "worker"
    """On an executor only."""
    REQUEST = "page"
    """In a web request only."""


@dataclass(frozen=True, slots=True)
class StepFailure:
    """Why a step failed: what an `on_error=` step is given, and what `Run.error` shows."""

    step: str
    """The step that failed."""
    type: str
    """The exception's class name, such as ``CardDeclined``."""
    message: str
    """The exception's text."""
    attempt: int
    """The attempt that failed, from 1."""
    traceback: str = ""
    """The formatted traceback, shortened; empty where the process died."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions:
    """What a decorator was given."""

    start: bool = False
    """A run may start here."""
    final: bool = False
    """Reaching this page ends the run; it is rendered again on each later visit."""
    to: tuple[str, ...] | None = None
    """Declared successors; None: read from the step's code."""
    retry: Retry | None = None
    timeout: timedelta | None = None
    on_error: str | None = None
    """The step that takes over when the attempts are used up."""
    commits: bool = False
    """The step may commit by itself; its writes then happen at least once."""
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What a framework's leaf keeps with a step, such as a template."""


Target: TypeAlias = "str | Step[Any, Any] | Callable[..., Continuation[Any]]"


class Step(Generic[Call_co, Function_co]):
    """A method of a flow under `@step`, `@worker_step` or a leaf's decorator.

    On a flow (``self.charge``) it is a callable that builds a continuation; on the class
    (``Checkout.charge``) it is this object. ``Checkout.charge.function`` is the plain function.

    ``Call_co`` is the type of ``self.charge``, ``Function_co`` that of the plain function.
    """

    def __init__(
        self,
        function: Function_co,
        place: Place = Place.ANYWHERE,
        options: StepOptions = StepOptions(),  # one for all: it is frozen
    ) -> None:
        if isinstance(function, (Step, staticmethod, classmethod)) or not inspect.isfunction(
            inspect.unwrap(function)
        ):
            raise ArgumentError(
                f"{function!r} can not be a step: put one decorator on a method that takes `self`."
            )
        self.function: Function_co = function
        """The undecorated function: call it with a flow to test a step as plain Python."""
        self.place = place
        self.options = options
        self.name: str = inspect.unwrap(function).__name__
        self.owner: type | None = None
        """The class whose body holds the step: the flow, or a base class of it."""
        self.flow_name = ""
        self.doc = (getattr(function, "__doc__", None) or "").strip()
        self.__doc__ = getattr(function, "__doc__", None)
        self.__wrapped__ = function
        self._signature: Signature | None = None

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        self.owner = owner
        self.flow_name = owner.__name__

    # What the graph and the dispatcher ask, without a detour over `options`.
    @property
    def start(self) -> bool:
        """Whether a run may start here."""
        return self.options.start

    @property
    def final(self) -> bool:
        """Whether reaching this step ends the run."""
        return self.options.final

    @property
    def to(self) -> tuple[str, ...] | None:
        """Declared successors, or None where they are read from the code."""
        return self.options.to

    @property
    def on_error(self) -> str | None:
        """The step that takes over when the attempts are used up, or None."""
        return self.options.on_error

    @property
    def commits(self) -> bool:
        """Whether the step may commit by itself."""
        return self.options.commits

    @property
    def timeout_seconds(self) -> float | None:
        """How long one attempt may take, or None for any time."""
        timeout = self.options.timeout
        return None if timeout is None else timeout.total_seconds()

    @property
    def signature(self) -> Signature:
        """The step's parameters, once its class is defined."""
        if self._signature is None:
            raise ArgumentError(
                f"The step {self.name!r} belongs to no flow: define it in a class that derives "
                "from Flow."
            )
        return self._signature

    def prepare(self, local: Mapping[str, Any]) -> list[str]:
        """Read the parameters' types, when a class that holds or inherits the step is defined.

        Parameters:
            local: What their annotations may name besides the globals of the step's module.

        Returns:
            For each option and parameter that can not be used, what is wrong with it.
        """
        if self._signature is not None:  # inherited, and read where it was written
            return []
        parameters, problems = parameters_of(self.function, local)
        problems += _wrong_options(self.options)
        if not problems:
            self._signature = Signature(f"{self.flow_name}.{self.name}", parameters)
        return problems

    def may_retry(self, attempt: int, *, crashed: bool = False) -> bool:
        """Whether another attempt follows.

        Parameters:
            attempt: The attempt that failed, from 1.
            crashed: The process died; otherwise the step raised.
        """
        if self.options.retry is not None:
            return attempt < self.options.retry.attempts
        return crashed and attempt < CRASHES

    def backoff_seconds(self, attempt: int) -> float:
        """The wait after a failed attempt, in seconds."""
        return 0.0 if self.options.retry is None else self.options.retry.wait_seconds(attempt)

    @overload
    def __get__(self, flow: Continuation[Any] | None, owner: type) -> Self: ...
    @overload
    def __get__(self, flow: object, owner: type) -> Call_co: ...
    def __get__(self, flow: object | None, owner: type) -> Any:
        if flow is None:
            return self
        return BoundStep(self, cast("Flow", flow))

    def __repr__(self) -> str:
        return f"<Step {self.flow_name}.{self.name}>"


class BoundStep:
    """A step of one flow object: calling it validates the arguments and builds a continuation."""

    __slots__ = ("flow", "step")

    def __init__(self, step: Step[Any, Any], flow: Flow) -> None:
        self.step = step
        self.flow = flow

    def __call__(self, *args: Any, **kwargs: Any) -> Continuation[Any]:
        """Build the continuation that calls the step with these arguments."""
        arguments = self.step.signature.bind(args, kwargs)
        self.flow.__flow__.check_state(self.flow)
        return Continuation(step=self.step, flow=self.flow, arguments=arguments)

    def bind_after_result(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Continuation[Any]:
        """As calling it, without the first argument, which is not known yet."""
        arguments = self.step.signature.after_first.bind(args, kwargs)
        self.flow.__flow__.check_state(self.flow)
        return Continuation(step=self.step, flow=self.flow, arguments=arguments)

    def __repr__(self) -> str:
        return f"<step {self.step.name} of {self.flow!r}>"


StepFunction: TypeAlias = Function[P, Continuation[T]]
StepOf: TypeAlias = Step[Call[P, T], StepFunction[P, T]]


@overload
def step(function: StepFunction[P, T], /) -> StepOf[P, T]: ...
@overload
def step(
    *,
    start: bool = False,
    to: list[Target] | None = None,
    retry: Retry | None = None,
    timeout: timedelta | None = None,
    on_error: str | None = None,
) -> Callable[[StepFunction[P, T]], StepOf[P, T]]: ...
def step(
    function: Callable[..., Any] | None = None,
    /,
    *,
    start: bool = False,
    to: list[Target] | None = None,
    retry: Retry | None = None,
    timeout: timedelta | None = None,
    on_error: str | None = None,
) -> Any:
    """Make a method a step that runs wherever the run is being advanced, and never suspends.

    Parameters:
        function: The method, where the decorator is used without parentheses.
        start: A run may start here.
        to: The steps it may hand over to, by name or as the step itself, and `done` where it may
            end the run. Without it, flowroute reads them from the method's code (``self.charge``).
        retry: How often it is tried when it raises; without it, once.
        timeout: How long one attempt may take; then `StepTimeout` is raised inside the step.
        on_error: The step that takes over when all attempts failed. It takes one argument, a
            `StepFailure`. Without it the run fails.

    Returns:
        The step, or a decorator.

    Raises:
        DefinitionError: At the definition of the class, for everything that is wrong with it.

    Example:
        >>> class Greet(Flow):
        ...     @step(start=True)
        ...     def hello(self, name: str) -> Continuation[str]:
        ...         return done(f"Hello, {name}")
    """
    options = StepOptions(
        start=start, to=target_names(to), retry=retry, timeout=timeout, on_error=on_error
    )
    return decorate(function, Place.ANYWHERE, options)


@overload
def worker_step(function: StepFunction[P, T], /) -> StepOf[P, T]: ...
@overload
def worker_step(
    *,
    start: bool = False,
    to: list[Target] | None = None,
    retry: Retry | None = None,
    timeout: timedelta | None = None,
    on_error: str | None = None,
    commits: bool = False,
) -> Callable[[StepFunction[P, T]], StepOf[P, T]]: ...
def worker_step(
    function: Callable[..., Any] | None = None,
    /,
    *,
    start: bool = False,
    to: list[Target] | None = None,
    retry: Retry | None = None,
    timeout: timedelta | None = None,
    on_error: str | None = None,
    commits: bool = False,
) -> Any:
    """Make a method a step that runs on an executor only: the run suspends before it.

    A request answers with the loading page meanwhile; a script waits with `Run.wait`.

    Parameters:
        function: The method, where the decorator is used without parentheses.
        start: A run may start here.
        to: The steps it may hand over to; see `step`.
        retry: How often it is tried when it raises; without it, once.
        timeout: How long one attempt may take; then `StepTimeout` is raised inside the step.
        on_error: The step that takes over when all attempts failed; see `step`.
        commits: The step may call ``commit()`` on the session, for long imports. Its writes then
            happen at least once instead of exactly once.

    Returns:
        The step, or a decorator.

    Example:
        >>> class Report(Flow):
        ...     @worker_step(start=True, retry=Retry(5), timeout=timedelta(minutes=10))
        ...     def build(self, year: int) -> Continuation[str]:
        ...         return done(f"report-{year}.pdf")
    """
    options = StepOptions(
        start=start,
        to=target_names(to),
        retry=retry,
        timeout=timeout,
        on_error=on_error,
        commits=commits,
    )
    return decorate(function, Place.EXECUTOR, options)


def decorate(
    function: Callable[..., Any] | None, place: Place, options: StepOptions
) -> Step[Any, Any] | Callable[[Callable[..., Any]], Step[Any, Any]]:
    """What every step decorator ends with; a leaf's own decorators call it too."""
    if function is not None:
        return Step(function, place, options)
    return lambda method: Step(method, place, options)


def _wrong_options(options: StepOptions) -> list[str]:
    """What a type checker would have said of a decorator's options."""
    # Found here, at the definition of the class, instead of when the first attempt fails.
    problems: list[str] = []
    retry, timeout = options.retry, options.timeout
    if retry is not None and not isinstance(retry, Retry):
        problems.append(f"has retry={retry!r}: give it a Retry, such as Retry(5)")
    if timeout is not None and not isinstance(timeout, timedelta):
        problems.append(
            f"has timeout={timeout!r}: give it a timedelta, such as timedelta(seconds=30)"
        )
    elif timeout is not None and timeout <= timedelta(0):
        problems.append(f"has timeout={timeout!r}: give it some time")
    return problems


def target_names(to: list[Target] | None) -> tuple[str, ...] | None:
    """The names of declared successors; `done` itself stands for the end."""
    if to is None:
        return None
    return tuple(
        t if isinstance(t, str) else str(getattr(t, "name", "") or getattr(t, "__name__", t))
        for t in to
    )
