"""`page`: a step that runs in a web request and answers it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, overload

from flowroute.engine.step import (
    Call,
    Function,
    Place,
    Step,
    StepOptions,
    Target,
    decorate,
    target_names,
)

P = ParamSpec("P")
R = TypeVar("R")


@overload
def page(function: Function[P, R], /) -> Step[Call[P, Any], Function[P, R]]: ...
@overload
def page(
    *,
    start: bool = False,
    final: bool = False,
    to: list[Target] | None = None,
    timeout: timedelta | None = None,
) -> Callable[[Function[P, R]], Step[Call[P, Any], Function[P, R]]]: ...
def page(
    function: Callable[..., Any] | None = None,
    /,
    *,
    start: bool = False,
    final: bool = False,
    to: list[Target] | None = None,
    timeout: timedelta | None = None,
) -> Any:
    """Make a method a page: it gets the GETs and POSTs for its run, as `flask.request`.

    It returns a response, and the run stays; or a continuation, and the run advances. What it
    writes through the session commits when it advances, and is undone when it stays, as in a view
    that does not commit.

    A GET only looks, and several may look at once. A POST claims the run first, so that of two
    submits one is taken; with ``{{ run.hidden_field() }}`` in the form, one that comes too late
    shows the current page instead.

    Parameters:
        function: The method, where the decorator is used without parentheses.
        start: A run may start here.
        final: Reaching this page ends the run. It is rendered again on each later visit, gets GETs
            only, and returns responses only.
        to: The steps it may hand over to; see `flowroute.step`.
        timeout: How long one call may take.

    Returns:
        The step, or a decorator.

    Example:
        >>> class Order(Flow):
        ...     @page(start=True)
        ...     def address(self) -> ResponseReturnValue | Continuation:
        ...         if request.method == "POST":
        ...             return self.confirm(request.form["street"])
        ...         return render_template("address.html")
        ...
        ...     @page(final=True)
        ...     def confirm(self, street: str) -> str:
        ...         return render_template("confirm.html", street=street)
    """
    options = StepOptions(start=start, final=final, to=target_names(to), timeout=timeout)
    return decorate(function, Place.REQUEST, options)
