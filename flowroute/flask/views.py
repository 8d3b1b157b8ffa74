"""The addresses of runs: look, answer a page, ask for the state, ask for another try."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING

from flask import Blueprint, Response, request, url_for

from flowroute.errors import RunNotFound, RunStateError, TokenInvalid
from flowroute.flask.responses import refuse, see_other, state_json
from flowroute.flask.tokens import FIELD, FormToken, form_of, run_of

if TYPE_CHECKING:
    from werkzeug.wrappers import Response as AnyResponse

    from flowroute.engine.codec import Codec
    from flowroute.flask.extension import FlowRoute


def blueprint(flows: FlowRoute, url_prefix: str) -> Blueprint:
    """The blueprint ``flowroute``: the addresses of runs, the templates, the static files.

    Parameters:
        flows: The extension that it belongs to.
        url_prefix: Where the addresses are.
    """
    views = Blueprint(
        "flowroute",
        "flowroute.flask",
        url_prefix=url_prefix,
        template_folder="templates",
        static_folder="static",
        # Below the tokens' own path, so that no token can be taken for it.
        static_url_path="/-/static",
    )

    def show(token: str) -> AnyResponse:
        with _opened(flows, token) as run_id:
            return flows.present(run_id)

    def submit(token: str) -> AnyResponse:
        with _opened(flows, token) as run_id:
            form = _form(flows, run_id)
            if form is not None:
                return flows.submit(form.run_id, seq=form.seq, back=form.back)
            return flows.submit(run_id, seq=None, back=url_for("flowroute.show", token=token))

    def state(token: str) -> Response:
        with _opened(flows, token) as run_id:
            return state_json(flows.view_of(flows.engine.lookup.read(run_id)))

    def retry(token: str) -> AnyResponse:
        with _opened(flows, token) as run_id:
            form = _form(flows, run_id)
            with suppress(RunStateError):  # somebody asked a moment ago: look how it goes on
                flows.engine.retry(run_id)
            back = form.back if form else url_for("flowroute.show", token=token)
            return see_other(back)

    views.add_url_rule("/<token>", "show", show, methods=["GET"])
    views.add_url_rule("/<token>", "submit", submit, methods=["POST"])
    views.add_url_rule("/<token>/state", "state", state, methods=["GET"])
    views.add_url_rule("/<token>/retry", "retry", retry, methods=["POST"])
    return views


def form_sent(codec: Codec) -> FormToken | None:
    """What the hidden field of the form says that was sent; None if it has no such field.

    Any field that does not fit this visitor ends the request with 400.
    """
    if FIELD not in request.form:
        return None
    try:
        return form_of(codec, request.form[FIELD])
    except TokenInvalid:
        refuse(
            HTTPStatus.BAD_REQUEST,
            "This form was not made for you, or is too old. Load the page again.",
        )


@contextmanager
def _opened(flows: FlowRoute, token: str) -> Generator[str]:
    """The id of the run that a token opens for this visitor; 404 if there is none."""
    run_id = None
    try:
        run_id = run_of(flows.engine.codec, token)
        yield run_id
    except RunNotFound as error:
        if error.run_id != run_id:
            raise  # a page looked for some other run
        refuse(HTTPStatus.NOT_FOUND, "There is no such page, or it belongs to somebody else.")


def _form(flows: FlowRoute, run_id: str) -> FormToken | None:
    form = form_sent(flows.engine.codec)
    if form is None and _comes_from_elsewhere():
        refuse(
            HTTPStatus.FORBIDDEN,
            "This form was sent from another site. Forms of a run's page carry "
            "{{ run.hidden_field() }}.",
        )
    if form is not None and not flows.engine.lookup.is_part_of(form.run_id, run_id):
        refuse(
            HTTPStatus.BAD_REQUEST,
            "This form belongs to something else. Load the page again.",
        )
    return form


def _comes_from_elsewhere() -> bool:
    """Whether the browser says that a page of another site made this request.

    The address of a run is known to its visitor only. Should it have leaked all the same, a form on
    another site could use the visitor's browser to send there.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = request.headers.get("Origin")  # all that browsers say over plain HTTP
    return origin is not None and origin.partition("://")[2] != request.host
