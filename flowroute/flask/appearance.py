"""How a waiting page looks and where it leads: per task, step, flow or application."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from flask import current_app, has_request_context, url_for
from werkzeug.routing import BuildError

from flowroute.engine.flow import Flow, definition_of, flow_named
from flowroute.engine.step import Step
from flowroute.errors import ArgumentError, CheckpointUnreadable, ConfigurationError

EXTRA = "appearance"
"""Key under which a step keeps its own."""

_OF_FLOW = "__flowroute_appearance__"

Decorated = TypeVar("Decorated", bound="Step[Any, Any] | type[Flow]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Appearance:
    """What somebody chose for a waiting page; None leaves it to whoever is farther away."""

    template: str | None = None
    """A template of the application's, given the run as `run`."""
    loading_img: str | None = None
    """A picture to show while waiting: see `image_url`."""
    callback: str | None = None
    """Where to go once the run is at rest: an endpoint, or a path on this site."""

    def over(self, farther: Appearance) -> Appearance:
        """This one, with what it leaves open taken from one farther away."""
        return Appearance(
            template=self.template or farther.template,
            loading_img=self.loading_img or farther.loading_img,
            callback=self.callback or farther.callback,
        )


def loading(
    *, template: str | None = None, loading_img: str | None = None
) -> Callable[[Decorated], Decorated]:
    """Choose the waiting page of a flow, or of one of its steps.

    The nearest choice wins: a task's, then the step's, the flow's, and last the application's
    (``FLOWROUTE_TEMPLATE``, ``FLOWROUTE_LOADING_IMG``).

    Parameters:
        template: A template of the application's. It is given `run`, and needs
            ``{{ run.script() }}`` in its head.
        loading_img: A picture: a file of the app's static folder (``"wait.gif"``), of a blueprint's
            (``"shop:wait.gif"``), or an address (``"https://…"``, ``"/…"``).

    Returns:
        A decorator for a flow class, or for a step, above the step's own decorator.

    Raises:
        ArgumentError: What is decorated is neither.

    Example:
        >>> @loading(loading_img="coins.gif")  # doctest: +SKIP
        ... class Checkout(Flow): ...
    """
    choice = Appearance(template=template, loading_img=loading_img)

    def decorate(target: Decorated) -> Decorated:
        if isinstance(target, Step):
            target.options = replace(target.options, extra={**target.options.extra, EXTRA: choice})
            return target
        seen = cast("object", target)  # whatever a program without type checks decorates
        if not (isinstance(seen, type) and issubclass(seen, Flow)):
            raise ArgumentError(
                f"loading() decorates a flow or a step, and {seen!r} is neither: above a step's "
                "function, write it above @step, @worker_step or @page."
            )
        setattr(seen, _OF_FLOW, choice)
        return target

    return decorate


def chosen_for(flow_name: str, step_name: str | None) -> Appearance:
    """What a flow, and the step that its run is at, chose."""
    try:
        flow = flow_named(flow_name)
    except CheckpointUnreadable:
        return Appearance()
    step = definition_of(flow).steps.get(step_name or "")
    of_step: Appearance = (
        Appearance() if step is None else step.options.extra.get(EXTRA, Appearance())
    )
    of_flow: Appearance = getattr(flow, _OF_FLOW, Appearance())
    return of_step.over(of_flow)


def image_url(loading_img: str) -> str:
    """The address of a picture.

    Parameters:
        loading_img: ``"wait.gif"`` in the app's static folder, ``"shop:wait.gif"`` in that of the
            blueprint ``shop``, or an address: ``"https://…"``, ``"/static/wait.gif"``.

    Raises:
        ConfigurationError: There is no such static folder.
    """
    if loading_img.startswith("/") or urlsplit(loading_img).scheme in ("http", "https"):
        return loading_img
    blueprint, colon, filename = loading_img.rpartition(":")
    try:
        return url_for(f"{blueprint}.static" if colon else "static", filename=filename)
    except BuildError as error:
        whose = f"the blueprint {blueprint!r}" if colon else "the application"
        raise ConfigurationError(
            f"There is no address for the picture {loading_img!r}, since {whose} serves no static "
            "folder: name a file of one that does, or write the picture's address."
        ) from error


def callback_url(callback: str) -> str:
    """The local address that a callback names.

    Parameters:
        callback: An endpoint of the application, or a path on this site.

    Raises:
        ConfigurationError: It is neither: nobody is ever led to another site.
    """
    if callback in current_app.view_functions:
        try:
            return url_for(callback)
        except BuildError as error:
            raise ConfigurationError(
                f"The callback {callback!r} is an endpoint that an address can not be made of "
                f"without more: pass the address, url_for({callback!r}, …)."
            ) from error
    # What browsers take for a host or a scheme, and what could break out of a header.
    if re.fullmatch(r"/(?![/\\])[^\\\x00-\x20\x7f]*", callback) is None:
        raise ConfigurationError(
            f"The callback {callback!r} is neither an endpoint of this application nor a path on "
            "it: write the name of a view, or a path that begins with one slash."
        )
    return callback


def check_callback(callback: str) -> None:
    """Refuse what `callback_url` will refuse, as far as that is known without a request.

    Parameters:
        callback: An endpoint of the application, or a path on this site.

    Raises:
        ConfigurationError: It is neither.
    """
    if has_request_context() or callback not in current_app.view_functions:
        callback_url(callback)
