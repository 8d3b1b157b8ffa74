"""Steps: the methods of a flow that the dispatcher calls."""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeAlias, cast, overload

from typing_extensions import Self, TypeVar

from flowroute.engine.continuation import Continuation
from flowroute.engine.validation import Signature, TypeProblem, parameters_of
from flowroute.errors import ArgumentError

if TYPE_CHECKING:
    from flowroute.engine.flow import Flow

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True, default=Any)

END = "done"
"""The name of the end in a step graph."""

CRASHES = 3
"""Attempts of a step without `retry=` when the process under it dies; an *error* fails it at once."""


class Place(enum.Enum):
    """Where a step may run."""

    ANYWHERE = "step"
    """Wherever the run is being advanced: a request, a script, an executor."""
    EXECUTOR = "worker"
    """On an executor only."""
    REQUEST = "page"
    """In a web request only."""


@dataclass(frozen=True, slots=True, init=False)
class Retry:
    """How often, and how soon, a step is tried again.

    The wait before attempt *n + 1* is ``backoff * 2 ** (n - 1)``, at most `max_backoff`, of which a random
    part of up to `jitter` is taken off, so that runs which failed together do not come back together.

    Parameters:
        attempts: How often the step is tried in all, at least 1. ``Retry(1)`` means at most once, even when
            the process dies under it. A step without `retry=` fails at its first error, and is tried 3 times
            when its process dies.
        backoff: The wait after the first attempt.
        max_backoff: The longest wait.
        jitter: From 0 (none) to 1 (all of the wait may be taken off).

    Raises:
        ArgumentError: A value is out of its range.

    Example:
        >>> Retry(5, backoff=timedelta(seconds=2)).wait_seconds(3, roll=0.0)
        8.0
    """

    attempts: int
    backoff: timedelta
    max_backoff: timedelta
    jitter: float

    def __init__(
        self,
        attempts: int,
        *,
        backoff: timedelta = timedelta(seconds=1),
        max_backoff: timedelta = timedelta(hours=1),
        jitter: float = 0.25,
    ) -> None:
        if attempts < 1:
            raise ArgumentError(f"Retry(attempts={attempts}): a step is tried at least once.")
        if backoff < timedelta(0) or max_backoff < backoff:
            raise ArgumentError(
                f"Retry(backoff={backoff}, max_backoff={max_backoff}): the first wait is not negative and "
                "not longer than the longest."
            )
        if not 0 <= jitter <= 1:
            raise ArgumentError(f"Retry(jitter={jitter}): give a part from 0 to 1.")
        object.__setattr__(self, "attempts", attempts)
        object.__setattr__(self, "backoff", backoff)
        object.__setattr__(self, "max_backoff", max_backoff)
        object.__setattr__(self, "jitter", jitter)

    def wait_seconds(self, attempt: int, *, roll: float | None = None) -> float:
        """How long to wait after a failed attempt.

        Parameters:
            attempt: The attempt that failed, from 1.
            roll: From 0 to 1 in place of a random number.

        Returns:
            Seconds.
        """
        longest = self.max_backoff.total_seconds()
        # 2 ** 1000 would overflow a float long after the longest wait is reached.
        wait = min(self.backoff.total_seconds() * 2.0 ** min(attempt - 1, 60), longest)
        part = random.random() if roll is None else roll  # noqa: S311  # spreads load, guards nothing
        return wait * (1 - self.jitter * part)


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
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What a framework's leaf keeps with a step, such as a template."""


Target: TypeAlias = "str | Step[Any, Any] | Callable[..., Continuation[Any]]"


class Step(Generic[P, T_co]):
    """A method of a flow under `@step`, `@worker_step` or a leaf's decorator.

    On a flow (``self.charge``) it is a callable that builds a continuation; on the class
    (``Checkout.charge``) it is this object. ``Checkout.charge.function`` is the plain function.
    """

    def __init__(
        self,
        function: Callable[Concatenate[Any, P], Any],
        place: Place = Place.ANYWHERE,
        options: StepOptions = StepOptions(),  # noqa: B008  # frozen
    ) -> None:
        self.function = function
        """The undecorated function: call it with a flow to test a step as plain Python."""
        self.place = place
        self.options = options
        self.name: str = getattr(function, "__name__", "?")
        self.flow_name = ""
        self.doc = (getattr(function, "__doc__", None) or "").strip()
        self.__doc__ = getattr(function, "__doc__", None)
        self.__wrapped__ = function
        self._signature: Signature | None = None

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
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
                f"The step {self.name!r} belongs to no flow: define it in a class that derives from Flow."
            )
        return self._signature

    def prepare(self, local: Mapping[str, Any]) -> list[str]:
        """Read the parameters' types; called when the flow's class is defined.

        Returns:
            A sentence for each parameter that can not be used.
        """
        parameters, problems = parameters_of(self.function, local)
        if not problems:
            try:
                self._signature = Signature(f"{self.flow_name}.{self.name}", parameters)
            except TypeProblem as problem:  # pragma: no cover  # each parameter passed by itself
                problems.append(str(problem))
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
    def __get__(self, flow: None, owner: type) -> Self: ...
    @overload
    def __get__(self, flow: object, owner: type) -> Callable[P, Continuation[T_co]]: ...
    def __get__(self, flow: object | None, owner: type) -> Any:
        if flow is None:
            return self
        return BoundStep(self, cast("Flow", flow))

    def __repr__(self) -> str:
        return f"<Step {self.flow_name}.{self.name}>"


class BoundStep(Generic[P, T_co]):
    """A step of one flow object: calling it validates the arguments and builds a continuation."""

    __slots__ = ("flow", "step")

    def __init__(self, step: Step[P, T_co], flow: Flow) -> None:
        self.step = step
        self.flow = flow

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Continuation[T_co]:
        arguments = self.step.signature.bind(args, kwargs)
        self.flow.__flow__.check_state(self.flow)
        return Continuation(step=self.step, flow=self.flow, arguments=arguments)

    def __repr__(self) -> str:
        return f"<step {self.step.name} of {self.flow!r}>"


StepFunction: TypeAlias = Callable[Concatenate[Any, P], Continuation[T]]


@overload
def step(function: StepFunction[P, T], /) -> Step[P, T]: ...
@overload
def step(
    *,
    start: bool = False,
    to: list[Target] | None = None,
    retry: Retry | None = None,
    timeout: timedelta | None = None,
    on_error: str | None = None,
) -> Callable[[StepFunction[P, T]], Step[P, T]]: ...
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
        to: The steps it may hand over to, by name or as the step itself, and `done` where it may end the
            run. Without it, flowroute reads them from the method's code (``self.charge``).
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
def worker_step(function: StepFunction[P, T], /) -> Step[P, T]: ...
@overload
def worker_step(
    *,
    start: bool = False,
    to: list[Target] | None = None,
    retry: Retry | None = None,
    timeout: timedelta | None = None,
    on_error: str | None = None,
    commits: bool = False,
) -> Callable[[StepFunction[P, T]], Step[P, T]]: ...
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
        commits: The step may call ``commit()`` on the session, for long imports. Its writes then happen at
            least once instead of exactly once.

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
) -> Step[..., Any] | Callable[[Callable[..., Any]], Step[..., Any]]:
    """What every step decorator ends with; a leaf's own decorators call it too."""
    if function is not None:
        return Step(function, place, options)
    return lambda method: Step(method, place, options)


def target_names(to: list[Target] | None) -> tuple[str, ...] | None:
    """The names of declared successors; `done` itself stands for the end."""
    if to is None:
        return None
    return tuple(t if isinstance(t, str) else str(getattr(t, "name", "") or getattr(t, "__name__", t)) for t in to)
