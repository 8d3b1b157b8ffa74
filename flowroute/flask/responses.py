"""A run as an HTTP response: its page, its result, or the page that waits for it."""

from __future__ import annotations

from http import HTTPStatus
from typing import NoReturn, cast

from flask import Response, abort, jsonify, make_response, redirect, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from flowroute.engine import schema
from flowroute.engine.records import Bookmark
from flowroute.engine.turn import Outcome
from flowroute.errors import TransitionError
from flowroute.flask.presentation import RunView

RETRY_AFTER_SECONDS = 2
"""What a waiting page tells programs that poll."""

_PAGES = {
    schema.FAILED: ("failed.html", HTTPStatus.INTERNAL_SERVER_ERROR),
    schema.CANCELLED: ("cancelled.html", HTTPStatus.GONE),
    # The code that is deployed can not go on with it: a deploy will.
    schema.BLOCKED: ("blocked.html", HTTPStatus.SERVICE_UNAVAILABLE),
    schema.DONE: ("finished.html", HTTPStatus.OK),
}


def wants_json() -> bool:
    """Whether the client prefers JSON to a page; one that takes anything gets the page."""
    accepted = request.accept_mimetypes
    return accepted["application/json"] > accepted["text/html"]


def refuse(status: HTTPStatus, reason: str) -> NoReturn:
    """End the request with an error: JSON for a program, else the application's own error page.

    Parameters:
        status: The HTTP status.
        reason: Whole sentences, for whoever sees the page.

    Raises:
        HTTPException: Always.
    """
    if wants_json():
        response = jsonify(error=reason)
        response.status_code = status
        abort(_finished(response))
    abort(status, reason)


def see_other(address: str) -> AnyResponse:
    """The redirect after something was sent: a refresh of what follows sends nothing again.

    Parameters:
        address: A path of this site, spelt as a URL.
    """
    return redirect(address, HTTPStatus.SEE_OTHER)


def answer_of(outcome: Outcome) -> Response:
    """What a page returned, as a response.

    Raises:
        TransitionError: The page returned nothing.
    """
    if outcome.answer is None:
        run = cast("Bookmark", outcome.bookmark).record
        raise TransitionError(
            f"The page {run.flow}.{run.step} of run {run.id} returned None: return a response, or "
            "self.<step>(…) to go on.",
            run_id=run.id,
            step=run.step,
        )
    return _finished(make_response(outcome.answer), stays=outcome.ended)


def result_response(view: RunView) -> Response | None:
    """What a run ended with, sent as if a view had returned it; None if a view could not.

    As of a view, a text is HTML and a dict is JSON.
    """
    if view.results and isinstance(view.results[0], (str, bytes, dict, list)):
        try:
            return _finished(make_response(view.results[0]), stays=True)
        except TypeError:  # it holds what JSON can not
            return None
    return None


def page_of(view: RunView) -> Response:
    """The page of a run that is not at a page of its own."""
    if view.state not in _PAGES:
        template = view.appearance.template or "flowroute/loading.html"
        page = render_template(template, run=view)
        return _finished(make_response(page, HTTPStatus.ACCEPTED), comes_later=True)
    name, status = _PAGES[view.state]
    page = render_template(f"flowroute/{name}", run=view)
    return _finished(
        make_response(page, status),
        comes_later=view.state == schema.BLOCKED,
        stays=view.state == schema.DONE,
    )


def json_of(view: RunView) -> Response:
    """The run for programs, with the status that fits its state."""
    status = _PAGES[view.state][1] if view.state in _PAGES else HTTPStatus.ACCEPTED
    if view.waiting_for == schema.FOR_PAGE:
        status = HTTPStatus.OK
    comes_later = status in (HTTPStatus.ACCEPTED, HTTPStatus.SERVICE_UNAVAILABLE)
    body = view.as_json()
    if view.results:
        body["result"] = view.result_as_json()
    response = make_response(jsonify(body), status)
    return _finished(response, comes_later=comes_later, stays=view.state == schema.DONE)


def state_json(view: RunView) -> Response:
    """The run for programs that poll, as a waiting page's script does: 200 whatever happened."""
    return _finished(jsonify(view.as_json()))


def _finished(response: Response, *, comes_later: bool = False, stays: bool = False) -> Response:
    """Say what caches must know, unless the page said so itself.

    Parameters:
        response: The response.
        comes_later: It is worth asking again soon.
        stays: It is the end of the run, which the next visit shows too; else it is not kept at all,
            since the run may be elsewhere by then.
    """
    # One address serves everything a run ever shows, and only to this visitor.
    response.headers.setdefault("Cache-Control", "private, no-cache" if stays else "no-store")
    if response.headers.setdefault("Vary", "Accept") != "Accept":
        response.vary.add("Accept")  # the page said more
    if comes_later:
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return response
