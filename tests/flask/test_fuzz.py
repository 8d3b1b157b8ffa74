"""Requests that nobody would send: none of them may be an error of ours, or change a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowroute.flask.tokens import FIELD
from tests.flask.flows import SiteCard, SiteForm, SiteParcel, SiteResult
from tests.flask.support import Site, attributes, form_field

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient

    from tests.flask.conftest import MakeSite

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
# What a server hands on: it has refused control characters in the first line and in headers.
header_text = st.text(st.characters(codec="latin-1", min_codepoint=32, blacklist_characters="\x7f"))


@pytest.fixture
def targets(make_site: MakeSite, database_url: str) -> tuple[FlaskClient, list[str], list[str]]:
    """A visitor with a run at a page, a waiting one, a failed one and a done one.

    With the addresses of the runs, and the fields of their forms.
    """
    site = make_site(database_url)
    respond = site.flows.respond
    SiteCard.accepts.clear()
    site.route("/order", lambda: respond(SiteForm().address(), key="order"))
    site.route("/pay", lambda: respond(SiteCard().charge(), key="pay"))
    site.route("/parcel", lambda: respond(SiteParcel(name="x").pack(), key="parcel"))
    site.route("/result", lambda: respond(SiteResult().end("done"), key="result"))
    client = site.client()
    paths = ["/pay", "/order", "/parcel", "/result"]
    addresses = [client.post(path).location for path in paths[:1]]
    site.work()
    addresses += [client.post(path).location for path in paths[1:]]
    pages = [client.get("/pay"), client.get("/order")]
    return client, addresses, [form_field(page)[FIELD] for page in pages]


def mutated(text: str, draw: st.DrawFn) -> str:
    """A text that differs from the given one, or not, in a way that an attacker would try."""
    kind = draw(st.sampled_from(["as it is", "cut", "inserted", "flipped", "replaced"]))
    at = draw(st.integers(0, max(len(text) - 1, 0)))
    if kind == "cut":
        return text[:at]
    if kind == "inserted":
        return text[:at] + draw(st.text(max_size=5)) + text[at:]
    if kind == "flipped":
        return text[:at] + draw(st.sampled_from("Aa0-_.=/%")) + text[at + 1 :]
    return draw(st.text(max_size=80)) if kind == "replaced" else text


@st.composite
def requests(draw: st.DrawFn) -> Callable[[list[str], list[str]], dict[str, Any]]:
    """What to send; called with the addresses and the fields that are genuine."""
    headers = draw(
        st.dictionaries(
            st.sampled_from(["Accept", "Origin", "Sec-Fetch-Site", "Host", "Content-Type"]),
            st.sampled_from(
                [
                    "application/json",
                    "text/html",
                    "*/*",
                    "null",
                    "cross-site",
                    "localhost",
                    ";q=x,,",
                ]
            )
            | header_text,
        )
    )
    method = draw(st.sampled_from(METHODS))
    which = draw(st.integers(0, 3))
    suffix = draw(st.sampled_from(["", "/state", "/retry", "/", "//", "/x"]))
    data = draw(st.dictionaries(st.sampled_from(["street", "x"]), st.text(max_size=20)))
    query = draw(header_text)
    with_field = draw(st.booleans())
    choices = draw(st.randoms(use_true_random=False))

    def build(addresses: list[str], fields: list[str]) -> dict[str, Any]:
        token = mutated(addresses[which].removeprefix("/flow/"), draw)
        if with_field:
            data[FIELD] = mutated(choices.choice(fields), draw)
        path = f"/flow/{token}{suffix}".encode("utf-8", "replace").decode("latin-1")
        return {
            "method": method,
            "headers": headers,
            "data": data,
            "environ_overrides": {"PATH_INFO": path, "QUERY_STRING": query},
        }

    return build


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=requests())
def test_no_request_to_a_run_s_address_is_an_error_of_ours(
    targets: tuple[FlaskClient, list[str], list[str]],
    request: Callable[[list[str], list[str]], dict[str, Any]],
) -> None:
    client, addresses, fields = targets
    sent = request(addresses, fields)
    if sent["data"].get("street") == "raise":
        return  # the page's own error
    answer = client.open("/", **sent)  # an exception would come through: TESTING is on
    failed = sent["environ_overrides"]["PATH_INFO"] == addresses[0]
    assert answer.status_code < 500 or (failed and answer.status_code == 500), answer.text
    if answer.status_code == 303:  # 308 is Werkzeug's, for doubled slashes
        assert answer.headers["Location"].startswith(("/flow/", "/order", "/pay"))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.dictionaries(st.sampled_from([FIELD, "street"]), st.text(max_size=60)),
    headers=st.dictionaries(st.sampled_from(["Accept", "Referer", "Origin"]), header_text),
)
def test_no_post_to_an_address_of_the_application_is_an_error_of_ours(
    site: Site, data: dict[str, str], headers: dict[str, str]
) -> None:
    if "order" not in site.app.view_functions:
        respond = site.flows.respond
        site.route("/order", lambda: respond(SiteForm().address(), key="order"))
    client = site.client()
    own = attributes(client.get("/order"), "#own")["href"]
    answer = client.post("/order", data=data, headers=headers)
    assert answer.status_code == (400 if FIELD in data else 303 if not answer.is_json else 200)
    assert client.get(own).status_code == 200
    assert (site.run.step, site.lines) == ("address", [])
