"""What a browser holds of a run: signed, for one purpose, and for one visitor.

The token in a run's address is worth nothing to another visitor: it is signed together with an id that only
this browser's session cookie carries. A *shared* token is not, and opens the run to whoever has the link.
"""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass

from flask import session

from flowroute.engine.codec import Codec
from flowroute.engine.identity import is_run_id
from flowroute.errors import RunNotFound, TokenInvalid

VISITOR = "_flowroute_visitor"
"""Key of the session cookie that holds the visitor's id."""

FIELD = "_flowroute"
"""Name of the hidden field of a run's forms."""


@dataclass(frozen=True, slots=True)
class FormToken:
    """What the hidden field of a form says."""

    run_id: str
    """The run that the form was shown for."""
    seq: int
    """The bookmark that it was shown at: a form of an earlier one is stale."""
    back: str
    """The local path and query of the page that showed it."""


def visitor() -> str:
    """This visitor's id, made and put into the session cookie where there is none yet."""
    known = session.get(VISITOR)
    if not isinstance(known, str):
        known = session[VISITOR] = secrets.token_urlsafe(16)
    return known


def run_token(codec: Codec, run_id: str, *, shared: bool = False) -> str:
    """The token that opens a run, for this visitor or for anyone."""
    return codec.sign(run_id, purpose=_url_purpose("" if shared else visitor()))


def run_of(codec: Codec, token: str) -> str:
    """The run that a token opens for this visitor.

    Raises:
        RunNotFound: The token is forged, altered, or another visitor's.
    """
    for who in (session.get(VISITOR), ""):
        if isinstance(who, str):
            try:
                run_id = codec.unsign(token, purpose=_url_purpose(who))
            except TokenInvalid:
                continue
            if is_run_id(run_id):
                return run_id
    raise RunNotFound("There is no such run, or it is not this visitor's.")


def form_token(codec: Codec, form: FormToken) -> str:
    """The value of the hidden field of a run's form."""
    text = f"{form.run_id} {form.seq} {form.back}".encode()
    return codec.sign(base64.urlsafe_b64encode(text).decode(), purpose=_form_purpose())


def form_of(codec: Codec, token: str) -> FormToken:
    """What a form's hidden field says.

    Raises:
        TokenInvalid: It was forged, altered, or made for another visitor.
    """
    text = base64.urlsafe_b64decode(codec.unsign(token, purpose=_form_purpose())).decode()
    run_id, seq, back = text.split(" ", 2)
    return FormToken(run_id, int(seq), back)


def _url_purpose(who: str) -> str:
    return f"run address of {who}"


def _form_purpose() -> str:
    return f"run form of {visitor()}"
