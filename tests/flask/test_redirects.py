"""Addresses of other sites: wherever a text becomes an address, nobody is led away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import pytest
from flask import url_for

from flowroute.errors import ConfigurationError
from flowroute.flask.tasks import TaskFlow
from flowroute.flask.tokens import FIELD, FormToken, form_token
from tests.flask.flows import SiteForm, SiteResult
from tests.flask.hostile import REDIRECTS
from tests.flask.support import HTML, JSON, Site, attributes, form_field

if TYPE_CHECKING:
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse


def stays(location: str) -> bool:
    """Whether a redirect stays on the site, as the strictest of browsers would read it."""
    return (
        location.isascii()
        and location.isprintable()
        and not any(each in location for each in ' \\"<>')
        and location.startswith("/")
        and not location.startswith("//")
        and urlsplit(urljoin("http://shop.example/x", location)).netloc == "shop.example"
    )


def leads_nowhere_else(answer: TestResponse) -> None:
    """Check every header and attribute by which a browser could be led away."""
    location = answer.headers.get("Location")
    assert location is None or stays(location), location
    assert "Refresh" not in answer.headers
    assert "a=b" not in answer.headers.get("Set-Cookie", "")


def double(number: int) -> int:
    return 2 * number


@pytest.fixture
def shop(site: Site) -> Site:
    """A site with a form at any path whatever."""
    site.app.url_map.merge_slashes = False
    site.app.register_error_handler(
        404, lambda _error: site.flows.respond(SiteForm().address(), key="k")
    )
    return site


@pytest.fixture
def client(shop: Site) -> FlaskClient:
    return shop.client()


def test_the_corpus_is_large_enough() -> None:
    assert len(set(REDIRECTS)) == len(REDIRECTS) >= 40


def test_no_task_has_it_for_a_callback(site: Site) -> None:
    with site.app.test_request_context():
        for hostile in REDIRECTS:
            with pytest.raises(ConfigurationError, match="neither an endpoint"):
                site.flows.task(double, 1, key="k", callback=hostile)
    assert site.runs == []


def test_a_checkpoint_that_has_it_for_a_callback_leads_nowhere(site: Site) -> None:
    """As one of an older version, or of a program that started the flow by itself."""
    site.app.testing = False  # an error is answered with 500
    client = site.client()

    def start(number: str) -> Any:
        flow = TaskFlow(title="x", callback=REDIRECTS[int(number)])
        return site.flows.respond(flow.work(double, (1,), {}), key=number)

    site.app.add_url_rule("/start/<number>", "start", start)
    for worked in (False, True):
        for number in range(len(REDIRECTS)):
            for headers in (HTML, JSON):
                answer = client.get(f"/start/{number}", headers=headers)
                leads_nowhere_else(answer)
                assert "evil" not in answer.text
        if not worked:
            site.work()
    assert {run.state for run in site.runs} == {"done"}


def test_no_form_leads_back_to_it(shop: Site, client: FlaskClient) -> None:
    """A form shown at such a path, where a server hands on any."""
    for hostile in REDIRECTS:
        path = hostile.encode().decode("latin-1")
        page = client.get("/", environ_overrides={"PATH_INFO": path})
        assert page.status_code == 200
        answered = client.post("/anything", data={"street": "Elm"} | form_field(page))
        assert answered.status_code == 303
        leads_nowhere_else(answered)
        with shop.app.app_context():
            shop.runs[0].reset()
    assert shop.lines == ["address Elm"] * len(REDIRECTS)


def test_no_parameter_of_a_query_or_a_form_names_where_to_go(client: FlaskClient) -> None:
    for hostile in REDIRECTS:
        named = dict.fromkeys(("next", "callback", "url", "return_to", "back"), hostile)
        page = client.get("/order", query_string=named)
        own = attributes(page, "#own")["href"]
        for address in ("/order", own, f"{own}/retry"):
            data = {"street": ""} | named | form_field(page)
            sent = client.post(address, query_string=named, data=data)
            leads_nowhere_else(sent)
            assert sent.status_code in (303, 422)


@pytest.mark.parametrize("header", ["Referer", "Origin", "Host", "X-Forwarded-Host"])
def test_no_header_names_where_to_go(site: Site, header: str) -> None:
    site.route("/order", lambda: site.flows.respond(SiteForm().address(), key="k"))
    site.route("/done", lambda: site.flows.respond(SiteResult().end(1)))
    client = site.app.test_client(use_cookies=False)
    for hostile in REDIRECTS:
        if hostile.isprintable():  # a server refuses the others
            for address in ("/order", "/done"):
                for accepted in (HTML, JSON):
                    answer = client.post(address, headers=accepted | {header: hostile})
                    leads_nowhere_else(answer)
                    assert "evil" not in answer.text


def test_a_field_that_was_not_signed_for_this_visitor_says_nothing_about_where_to_go(
    site: Site,
) -> None:
    site.route("/order", lambda: site.flows.respond(SiteForm().address(), key="k"))
    client = site.client()
    page = client.get("/order")
    for hostile in REDIRECTS:
        with site.app.test_request_context():  # where the visitor is another one
            forged = form_token(site.flows.engine.codec, FormToken(site.run.id, 0, hostile))
        for field in (forged, f"{form_field(page)[FIELD]}{hostile}x", hostile):
            refused = client.post("/order", data={"street": "Elm", FIELD: field})
            assert refused.status_code == 400
            leads_nowhere_else(refused)
    assert site.lines == []


def test_no_token_of_an_address_leads_away(site: Site) -> None:
    client = site.client()
    for hostile in REDIRECTS:
        with site.app.test_request_context():
            address = url_for("flowroute.show", token=hostile or "x")
        for method, rest in (("GET", ""), ("POST", ""), ("GET", "/state"), ("POST", "/retry")):
            answer = client.open(f"{address}{rest}", method=method)
            assert answer.status_code in (404, 405, 308)
            if answer.status_code != 308:  # Werkzeug's own, for doubled slashes
                leads_nowhere_else(answer)
