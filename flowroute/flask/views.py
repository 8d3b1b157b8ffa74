"""The addresses of runs: look, answer a page, ask for the state, ask for another try."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from flask import Blueprint, Response, abort, jsonify, redirect, request

from flowroute.errors import RunNotFound, RunStateError, TokenInvalid
from flowroute.flask.presentation import state_of
from flowroute.flask.tokens import FIELD, FormToken, form_of, run_of

if TYPE_CHECKING:
    from werkzeug.wrappers import Response as AnyResponse

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

    def show(token: str) -> Response:
        return flows.present(_opened(flows, token))

    def submit(token: str) -> AnyResponse:
        run_id = _opened(flows, token)
        if FIELD not in request.form:
            return flows.submit(run_id, seq=None, back=request.script_root + request.path)
        form = _form(flows, run_id)
        return flows.submit(run_id, seq=form.seq, back=form.back)

    def state(token: str) -> Response:
        response = jsonify(state_of(flows.engine.read(_opened(flows, token))))
        response.headers["Cache-Control"] = "no-store"
        return response

    def retry(token: str) -> AnyResponse:
        run_id = _opened(flows, token)
        form = _form(flows, run_id)
        try:
            flows.engine.retry(run_id)
        except RunStateError:
            # Somebody asked for it a moment ago: the page shows how it goes on.
            flows.engine.read(run_id)
        return redirect(form.back, HTTPStatus.SEE_OTHER)

    views.add_url_rule("/<token>", "show", show, methods=["GET"])
    views.add_url_rule("/<token>", "submit", submit, methods=["POST"])
    views.add_url_rule("/<token>/state", "state", state, methods=["GET"])
    views.add_url_rule("/<token>/retry", "retry", retry, methods=["POST"])
    return views


def _opened(flows: FlowRoute, token: str) -> str:
    try:
        return flows.engine.read(run_of(flows.engine.codec, token)).id
    except RunNotFound:
        abort(HTTPStatus.NOT_FOUND)


def _form(flows: FlowRoute, run_id: str) -> FormToken:
    try:
        form = form_of(flows.engine.codec, request.form.get(FIELD, ""))
    except TokenInvalid:
        abort(
            HTTPStatus.BAD_REQUEST,
            "This form was not made for you, or is too old. Load the page again.",
        )
    if form.run_id != run_id:
        abort(HTTPStatus.BAD_REQUEST, "This form belongs to another run. Load the page again.")
    return form


