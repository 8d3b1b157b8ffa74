"""What a browser holds of a run: signed, for one purpose, and for one visitor.

The token in a run's address is worth nothing to another visitor: it is signed together with an id
that only this browser's session cookie carries. A *shared* token is not, and opens the run to
whoever has the link.

So the address itself is the proof that a request was meant: no other site knows it, and in another
browser it is a 404. The hidden field of a form proves the same again, and says which page the form
was on. A form with a field that does not fit is refused, whatever its address; one without the
field is taken, unless the browser says that another site sent it.
"""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass
from urllib.parse import quote

from flask import has_request_context, request, session

from flowroute.engine.codec import Codec
from flowroute.engine.identity import is_run_id
from flowroute.errors import RunNotFound, TokenInvalid

VISITOR = "_flowroute_visitor"
"""Key of the session cookie that holds the visitor's id."""

FIELD = "_flowroute"
"""Name of the hidden field of a run's forms."""

_SHARED = "shared address of a run"


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
    """The token that opens a run: for this visitor; for anyone if shared, or outside a request."""
    shared = shared or not has_request_context()
    return codec.sign(run_id, purpose=_SHARED if shared else _address_of(visitor()))


def run_of(codec: Codec, token: str) -> str:
    """The run that a token opens for this visitor.

    Raises:
        RunNotFound: The token is forged, altered, or another visitor's.
    """
    known = session.get(VISITOR)
    for purpose in ([_address_of(known)] if isinstance(known, str) else []) + [_SHARED]:
        try:
            run_id = codec.unsign(token, purpose=purpose)
        except TokenInvalid:
            continue
        if is_run_id(run_id):
            return run_id
    raise RunNotFound("There is no such run, or it is not this visitor's.")


def form_token(codec: Codec, form: FormToken) -> str:
    """The value of the hidden field of a run's form."""
    text = f"{form.run_id} {form.seq} {form.back}".encode()
    return codec.sign(base64.urlsafe_b64encode(text).decode(), purpose=_form_of(visitor()))


def form_of(codec: Codec, token: str) -> FormToken:
    """What a form's hidden field says.

    Raises:
        TokenInvalid: It was forged, altered, or made for another visitor.
    """
    signed = codec.unsign(token, purpose=_form_of(visitor()))
    run_id, seq, back = base64.urlsafe_b64decode(signed).decode().split(" ", 2)
    return FormToken(run_id, int(seq), back)


def here() -> str:
    """The address of this request, prefix and query included, as a path of this site.

    Made of what the server calls the path, not of the Host header; and never the beginning of
    another site's address, such as two slashes, or a slash and a backslash, and a host.
    """
    path = "/" + (request.script_root + request.path).lstrip("/")
    query = request.query_string.decode("latin-1")
    # The server has decoded the path. The query is as it came, but for what no header may hold.
    address = quote(path, safe="/:@!$&'()*+,;=~")
    return f"{address}?{quote(query, safe=_QUERY)}" if query else address


_QUERY = "/?:@!$&'()*+,;=~%[]"


def _address_of(who: str) -> str:
    return f"address of a run for {who}"


def _form_of(who: str) -> str:
    return f"form of a run for {who}"
