"""Each way to change something over HTTP: by POST, for this run, by this visitor, on purpose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from flask import session

from flowroute.flask.tokens import FIELD, VISITOR
from tests.flask.flows import SiteCard, SiteForm
from tests.flask.support import HTML, JSON, Site, attributes, form_field

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient

LOOKING = {"GET", "HEAD", "OPTIONS"}

CHANGING = {"flowroute.submit": "", "flowroute.retry": "/retry"}
"""The endpoints of flowroute's that may change something, and where each is at a run's address."""

ELSEWHERE = {"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.example"}, {"Origin": "null"}
"""What a browser says when the page of another site has it send a form."""


@pytest.fixture
def shop(site: Site) -> Site:
    """A site with a form, and with a run that has failed and can be retried."""
    SiteCard.accepts.clear()
    site.route("/order", lambda: site.flows.respond(SiteForm().address(), key=key("order")))
    site.route("/pay", lambda: site.flows.respond(SiteCard().charge(), key=key("pay")))
    return site


def key(name: str) -> str:
    """Of each visitor's own."""
    return f"{name} {session.get(VISITOR)}"


class Visitor:
    """A browser with a run at a form, and one that has failed."""

    def __init__(self, site: Site) -> None:
        self.client: FlaskClient = site.client()
        self.client.get("/order")
        self.client.get("/order")  # now its session is in the key
        self.client.post("/pay")
        site.work()
        page, failed = self.client.get("/order"), self.client.get("/pay")
        self.addresses = {
            "flowroute.submit": attributes(page, "#own")["href"],
            "flowroute.retry": attributes(failed, "form")["action"],
        }
        self.fields = {
            "flowroute.submit": form_field(page)[FIELD],
            "flowroute.retry": form_field(failed)[FIELD],
        }


@pytest.fixture
def ada(shop: Site) -> Visitor:
    """Whose runs they are."""
    return Visitor(shop)


@pytest.fixture
def eve(shop: Site, ada: Visitor) -> Visitor:
    """Somebody else."""
    del ada  # comes first
    return Visitor(shop)


@pytest.fixture
def unchanged(shop: Site, ada: Visitor) -> Callable[[], bool]:
    """Call it: whether every run is where it was, and no step has written anything."""
    del ada

    def now() -> Any:
        rows = [(r.id, r.record.seq, r.record.epoch, r.record.state) for r in shop.runs]
        return sorted(rows), shop.lines

    before = now()
    return lambda: now() == before


def test_these_are_all_endpoints_that_may_change_something(shop: Site) -> None:
    """A new one is refused here until it is among those that are tried below."""
    rules = [r for r in shop.app.url_map.iter_rules() if r.endpoint.startswith("flowroute.")]
    changing = {r.endpoint for r in rules if (r.methods or set()) - LOOKING}
    assert changing == set(CHANGING)
    assert {m for r in rules for m in r.methods or ()} == LOOKING | {"POST"}


@pytest.mark.parametrize("endpoint", CHANGING)
def test_what_fits_is_taken(ada: Visitor, unchanged: Callable[[], bool], endpoint: str) -> None:
    """So that what follows is refused for the one thing that is wrong with it."""
    data = {"street": "Elm", FIELD: ada.fields[endpoint]}
    taken = ada.client.post(ada.addresses[endpoint], data=data, headers=ELSEWHERE[0])
    assert taken.status_code == 303
    assert not unchanged()


@pytest.mark.parametrize("endpoint", CHANGING)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE"])
def test_no_other_method_changes_anything(
    ada: Visitor, unchanged: Callable[[], bool], endpoint: str, method: str
) -> None:
    data = {"street": "Elm", FIELD: ada.fields[endpoint], "_method": "POST"}
    for headers in ({}, {"X-HTTP-Method-Override": "POST"}):
        for query in ({}, data):
            ada.client.open(
                ada.addresses[endpoint],
                method=method,
                query_string=query,
                data=data if method != "TRACE" else None,
                headers=headers,
            )
            assert unchanged()


@pytest.mark.parametrize("endpoint", CHANGING)
@pytest.mark.parametrize("headers", ELSEWHERE, ids=str)
def test_without_its_token_a_form_of_another_site_changes_nothing(
    ada: Visitor, unchanged: Callable[[], bool], endpoint: str, headers: dict[str, str]
) -> None:
    refused = ada.client.post(ada.addresses[endpoint], data={"street": "Elm"}, headers=headers)
    assert refused.status_code == 403
    assert unchanged()


@pytest.mark.parametrize("endpoint", CHANGING)
def test_without_the_token_in_the_address_nothing_is_changed(
    ada: Visitor, unchanged: Callable[[], bool], endpoint: str
) -> None:
    for address in ("/flow/", f"/flow{CHANGING[endpoint]}", f"/flow/x{CHANGING[endpoint]}"):
        data = {"street": "Elm", FIELD: ada.fields[endpoint]}
        assert ada.client.post(address, data=data).status_code in (404, 405)
        assert unchanged()


@pytest.mark.parametrize("endpoint", CHANGING)
@pytest.mark.parametrize("accept", [HTML, JSON], ids=["page", "program"])
def test_the_token_of_another_run_changes_neither(
    ada: Visitor, unchanged: Callable[[], bool], endpoint: str, accept: dict[str, str]
) -> None:
    (other,) = set(CHANGING) - {endpoint}
    data = {"street": "Elm", FIELD: ada.fields[other]}
    refused = ada.client.post(ada.addresses[endpoint], data=data, headers=accept)
    assert refused.status_code == 400
    assert unchanged()


@pytest.mark.parametrize("endpoint", CHANGING)
@pytest.mark.parametrize("accept", [HTML, JSON], ids=["page", "program"])
def test_the_token_of_another_session_changes_nothing(
    shop: Site, ada: Visitor, eve: Visitor, endpoint: str, accept: dict[str, str]
) -> None:
    before = [(r.id, r.record.epoch, r.record.seq) for r in shop.runs]
    at = {"address": ada.addresses[endpoint], "field": ada.fields[endpoint]}
    for client, address, field, status in (
        (eve.client, at["address"], at["field"], 404),  # all that Ada has, but for her cookie
        (eve.client, at["address"], eve.fields[endpoint], 404),
        (eve.client, eve.addresses[endpoint], at["field"], 400),
        (ada.client, at["address"], eve.fields[endpoint], 400),
        (ada.client, eve.addresses[endpoint], at["field"], 404),
        (shop.client(), at["address"], at["field"], 404),
    ):
        refused = client.post(address, data={"street": "Elm", FIELD: field}, headers=accept)
        assert refused.status_code == status
    assert [(r.id, r.record.epoch, r.record.seq) for r in shop.runs] == before
    assert shop.lines == []


def test_a_form_of_another_site_that_logs_the_visitor_in_as_somebody_else_changes_nothing(
    ada: Visitor, eve: Visitor, unchanged: Callable[[], bool]
) -> None:
    """With the attacker's own cookie and token, only the attacker's own run is within reach."""
    del unchanged  # Eve's own runs may move
    cookie = eve.client.get_cookie("session")
    assert cookie is not None
    ada.client.set_cookie("session", cookie.value)
    for endpoint, address in ada.addresses.items():
        data = {"street": "Elm", FIELD: eve.fields[endpoint]}
        assert ada.client.post(address, data=data).status_code == 404
