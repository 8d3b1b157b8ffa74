"""Tasks: a long function without a flow around it. A task is a flow of one step."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from string import Formatter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from flask import Response, request
from werkzeug.wrappers import Response as AnyResponse

from flowroute.engine import schema
from flowroute.engine.continuation import Continuation, done
from flowroute.engine.flow import Flow
from flowroute.engine.run import Run
from flowroute.engine.step import StepFailure, worker_step
from flowroute.errors import ConfigurationError, RunNotFinished
from flowroute.flask.appearance import Appearance

if TYPE_CHECKING:
    from flowroute.flask.extension import FlowRoute

T = TypeVar("T")

WORK = "__flowroute_work__"
"""Attribute of a view under `FlowRoute.task_view`: the function that does the work."""


class TaskFlow(Flow, name="flowroute.task"):
    """Working on it."""

    title: str
    template: str | None = None
    loading_img: str | None = None
    callback: str | None = None

    @worker_step(start=True)
    def work(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Continuation[Any]:
        """Working."""
        # A view is stored by its name, and its name means the view, not the work behind it.
        return done(getattr(function, WORK, function)(*args, **kwargs))

    @property
    def appearance(self) -> Appearance:
        """What the task chose for its waiting page."""
        return Appearance(
            template=self.template, loading_img=self.loading_img, callback=self.callback
        )


class Task(Generic[T]):
    """A long function, run once on a worker however often it is asked for.

    Made by `FlowRoute.task`. Calling it starts it, unless it was, and answers the request: with the
    loading page, and when it has finished with a redirect to its callback, or with its result.

    Example:
        >>> @app.get("/report")  # doctest: +SKIP
        ... def report():
        ...     task = flows.task(employer.write_report, year=2026, key="report-2026")
        ...     return f"Report: {task.result}" if task.finished else task()
    """

    def __init__(
        self,
        flows: FlowRoute,
        start: Continuation[T],
        *,
        key: str | None,
        owner: str | None,
    ) -> None:
        self._flows = flows
        self._start = start
        self._key = key
        self._owner = owner
        self._run: Run[T] | None = None

    @property
    def run(self) -> Run[T] | None:
        """The task's run; None before it starts and after `reset`."""
        if self._run is None and self._key is not None:
            self._run = self._flows.engine.find(TaskFlow, self._key)
        return self._run

    @property
    def finished(self) -> bool:
        """Whether the function has returned, and `result` is there."""
        return self.run is not None and self.run.state == schema.DONE

    @property
    def result(self) -> T:
        """What the function returned, kept in the database.

        Raises:
            RunFailed: It raised; see `error`.
            RunNotFinished: It has not returned, or not been started.
        """
        if self.run is None:
            raise RunNotFinished(f"The task {self._key or ''} has not been started: call it.")
        return self.run.result

    @property
    def error(self) -> StepFailure | None:
        """What the function raised; None if it did not."""
        return None if self.run is None else self.run.error

    def start(self) -> Run[T]:
        """Start the function on a worker, unless it was; returns its run."""
        run = self.run
        if run is None:
            run = self._flows.engine.start(self._start, key=self._key, owner=self._owner)
            self._run = run
        return run

    def reset(self) -> None:
        """Forget the result, so that the next call starts again; what still runs is cancelled."""
        if self.run is not None:
            self.run.reset()
        self._run = None

    def __call__(self) -> AnyResponse:
        """Answer the request with where the task is; see the class. A HEAD starts nothing."""
        if request.method == "HEAD" and self.run is None:
            return Response(status=HTTPStatus.NO_CONTENT)
        return self._flows.answer(self.start())


def title_of(function: Callable[..., Any]) -> str:
    """A function's name, through partials; of one without a name, what the flow is called."""
    while isinstance(function, partial):
        function = function.func
    name = str(getattr(function, "__name__", type(function).__name__))
    return "Working on it" if name == "<lambda>" else name


def storable(view: Callable[..., Any]) -> Callable[..., Any]:
    """What stands for the work of a view under `FlowRoute.task_view` in a checkpoint.

    Its name, if that leads to the view, however it is decorated: so the code that is deployed when
    the task runs is what runs. Else, as inside an application factory, the work itself.
    """
    found: Any = sys.modules.get(view.__module__)
    for part in view.__qualname__.split("."):
        found = getattr(found, part, None)
    return found if getattr(found, WORK, None) is view else view


def key_maker(view: Callable[..., Any], key: str) -> Callable[..., str]:
    """What fills a view's arguments, also those left out, into the key of its task.

    Parameters:
        view: The view.
        key: With the names of the view's parameters in braces.

    Returns:
        A function that takes what the view takes, and returns the key; in place of one that no run
        can hold, since visitors write URLs of any length, its hash.

    Raises:
        ConfigurationError: The key names what the view does not take.
    """
    signature = inspect.signature(view)
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    named = {
        re.split(r"[.\[]", name)[0] for _, name, *_ in Formatter().parse(key) if name is not None
    }
    unknown = sorted(named - signature.parameters.keys())
    if unknown and inspect.Parameter.VAR_KEYWORD not in kinds:
        takes = ", ".join(signature.parameters) or "nothing"
        raise ConfigurationError(
            f"The key {key!r} of the task view {view.__name__!r} names {unknown[0]!r}, and the "
            f"view takes {takes}: name one of its parameters."
        )

    def filled(*args: Any, **kwargs: Any) -> str:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        text = key.format(**{**bound.arguments, **kwargs})
        if len(text) <= schema.TEXT_LENGTH and "\x00" not in text:
            return text
        return f"sha256 {hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()}"

    return filled
