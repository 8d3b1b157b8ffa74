"""A run as an HTTP response: its page, its result, or the page that waits for it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from flask import Response, jsonify, make_response, render_template, request

from flowroute.engine import schema
from flowroute.engine.turn import Outcome
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
    """Whether the client would rather have JSON than a page; one that takes anything gets the page."""
    accepted = request.accept_mimetypes
    return accepted["application/json"] > accepted["text/html"]


def answer_of(outcome: Outcome) -> Response:
    """What a page returned, as a response that is not kept: the next visit may find the run elsewhere."""
    response = make_response(outcome.answer)
    response.headers.setdefault("Cache-Control", "no-store")
    return response


def result_response(result: Any) -> Response | None:
    """What a run ended with, as a view's return value; None if it is not one."""
    if isinstance(result, (str, bytes, dict, list, tuple, Response)):
        return make_response(result)
    return None


def page_of(view: RunView, template: str) -> Response:
    """The page of a run that is not at a page of its own.

    Parameters:
        view: The run.
        template: The loading template.
    """
    if view.state not in _PAGES:
        response = make_response(render_template(template, run=view), HTTPStatus.ACCEPTED)
        return _not_kept(response, retry_after=True)
    name, status = _PAGES[view.state]
    response = make_response(render_template(f"flowroute/{name}", run=view), status)
    return _not_kept(response, retry_after=status is HTTPStatus.SERVICE_UNAVAILABLE)


def json_of(view: RunView) -> Response:
    """The run for programs, with the status that fits its state."""
    body = view.as_json()
    status = _PAGES[view.state][1] if view.state in _PAGES else HTTPStatus.ACCEPTED
    if view.waiting_for == schema.FOR_PAGE:
        status = HTTPStatus.OK
    return _not_kept(make_response(jsonify(body), status), retry_after=status is HTTPStatus.ACCEPTED)


def _not_kept(response: Response, *, retry_after: bool) -> Response:
    response.headers["Cache-Control"] = "no-store"
    if retry_after:
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return response
