"""Doors: whose run an address opens, which form is taken, and where a redirect may lead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from flask import session

from flowroute.engine.identity import new_run_id
from flowroute.flask.tokens import FIELD, VISITOR, FormToken, form_token
from tests.flask.flows import SiteCard, SiteForm, SiteParcel
from tests.flask.support import HTML, JSON, Site, attributes, form_field

if TYPE_CHECKING:
    from flask.testing import FlaskClient

    from tests.flask.conftest import MakeSite


@pytest.fixture
def order(site: Site) -> Site:
    """A site with a form at /order, and a second one at /other."""
    site.route("/order", lambda: site.flows.respond(SiteForm().address(), key="k"))
    site.route("/other", lambda: site.flows.respond(SiteForm().address(), key="other"))
    return site


@pytest.fixture
def ada(order: Site) -> FlaskClient:
    """The visitor whose run it is."""
    client = order.client()
    client.get("/order")
    return client


def own_address(client: FlaskClient, path: str = "/order") -> str:
    return attributes(client.get(path), "#own")["href"]


def everything_at(address: str) -> list[tuple[str, str]]:
    """Every way to ask at a run's address."""
    return [
        ("GET", address),
        ("HEAD", address),
        ("POST", address),
        ("GET", f"{address}/state"),
        ("POST", f"{address}/retry"),
    ]


# -- addresses -------------------------------------------------------------------------------------


def test_another_visitor_can_do_nothing_at_a_runs_address(order: Site, ada: FlaskClient) -> None:
    own = own_address(ada)
    stranger = order.client()
    known = order.client()
    own_address(known, "/other")  # has a session, and a run of his own
    for client in (stranger, known):
        for method, address in everything_at(own):
            assert client.open(address, method=method, data={"street": "x"}).status_code == 404
    assert order.lines == []
    assert ada.get(own).status_code == 200


def test_an_unknown_or_altered_address_is_a_404(order: Site, ada: FlaskClient) -> None:
    token = own_address(ada).removeprefix("/flow/")
    run_id, _, mac = token.partition(".")
    with order.app.test_request_context():
        codec = order.flows.engine.codec
        forged = [
            codec.sign(run_id, purpose="something else"),
            codec.sign("not-an-id", purpose="shared address of a run"),
            codec.sign(new_run_id(), purpose="shared address of a run"),
        ]
    altered = [
        "x",
        run_id,
        f"{run_id}.",
        f"{new_run_id()}.{mac}",
        f"{run_id}.{mac[:-1]}",
        f"{run_id}.{mac}=",
        f"{run_id}.{mac.swapcase()}",
        f"{run_id.upper()}.{mac}",
        f"{token}.{mac}",
        "%00",
        "%F0%9F%A6%86",
        "." * 5000,
        *forged,
    ]
    for token in altered:
        for method, address in everything_at(f"/flow/{token}"):
            assert ada.open(address, method=method).status_code == 404, (method, token)


def test_a_404_is_json_for_a_program_and_the_sites_own_page_for_people(order: Site) -> None:
    order.app.register_error_handler(404, lambda error: (f"Oh no: {error.description}", 404))
    program = order.client().get("/flow/x", headers=JSON)
    assert program.status_code == 404
    assert "no such page" in program.get_json()["error"]
    assert program.headers["Cache-Control"] == "no-store"
    page = order.client().get("/flow/x", headers=HTML)
    assert (page.status_code, page.text[:7]) == (404, "Oh no: ")


def test_a_run_that_was_deleted_is_a_404(order: Site, ada: FlaskClient) -> None:
    own = own_address(ada)
    form = form_field(ada.get("/order"))
    with order.app.app_context(), order.db.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM flowroute_checkpoint")
        connection.exec_driver_sql("DELETE FROM flowroute_run")
    for method, address in everything_at(own):
        assert ada.open(address, method=method).status_code == 404
    # A form that is still open in some tab leads to where it can be begun anew.
    late = ada.post("/order", data=form)
    assert (late.status_code, late.location) == (303, "/order")


def test_a_shared_link_opens_the_run_to_whoever_has_it(order: Site, ada: FlaskClient) -> None:
    assert ada.get("/order").status_code == 200
    with order.app.test_request_context():
        shared = order.flows.url_for(order.run, shared=True)
    friend = order.client()
    page = friend.get(shared)
    assert page.status_code == 200
    taken = friend.post(shared, data={"street": "Elm"} | form_field(page))
    assert (taken.status_code, taken.location) == (303, shared)
    assert order.lines == ["address Elm"]


def test_a_visitor_who_is_forgotten_has_to_come_through_the_site_again(ada: FlaskClient) -> None:
    own = own_address(ada)
    with ada.session_transaction() as cookie:
        cookie.clear()
    assert ada.get(own).status_code == 404
    assert ada.get(own_address(ada)).status_code == 200


@pytest.mark.parametrize("value", [7, None, ["x"], ""])
def test_a_session_in_which_the_application_put_something_else_is_survived(
    ada: FlaskClient, value: Any
) -> None:
    own = own_address(ada)
    with ada.session_transaction() as cookie:
        cookie[VISITOR] = value
    assert ada.get(own).status_code == 404
    assert ada.get("/order").status_code == 200


def test_only_pages_that_hold_a_link_of_the_visitors_make_a_session(order: Site) -> None:
    order.route("/plain", lambda: "plain")
    client = order.client()
    for address in ("/plain", "/flow/x", "/flow/-/static/flowroute.css"):
        with client.get(address) as answer:
            assert "Set-Cookie" not in answer.headers
    assert "Set-Cookie" not in client.get("/order", headers=JSON).headers
    assert "Set-Cookie" in client.get("/order").headers
    assert "Set-Cookie" not in client.get("/order").headers  # it has one now


def test_links_outlive_a_change_of_keys_while_the_old_one_is_a_fallback(
    make_site: MakeSite, sqlite_url: str
) -> None:
    old = make_site(sqlite_url, FLOWROUTE_SECRET_KEYS=["the old key"])
    old.route("/order", lambda: old.flows.respond(SiteForm().address(), key="k"))
    client = old.client()
    own = own_address(client)
    field = form_field(client.get("/order"))
    for keys, status in ((["the new key", "the old key"], 303), (["the new key"], 404)):
        new = make_site(sqlite_url, FLOWROUTE_SECRET_KEYS=keys)
        later = new.client()
        cookie = client.get_cookie("session")
        assert cookie is not None
        later.set_cookie("session", cookie.value)
        assert later.post(own, data={"street": "Elm"} | field).status_code == status


# -- forms -----------------------------------------------------------------------------------------


@pytest.fixture
def forms(order: Site, ada: FlaskClient) -> dict[str, str]:
    """Hidden fields that do not belong on the form at ada's /order."""
    grace = order.client()
    grace.get("/order")
    with ada.session_transaction() as cookie:
        visitor = cookie[VISITOR]
    fitting = form_field(ada.get("/order"))[FIELD]
    codec = order.app.extensions["flowroute"].engine.codec
    with order.app.test_request_context():
        session[VISITOR] = visitor
        nobody = form_token(codec, FormToken(new_run_id(), 0, "/order"))
    return {
        "another visitor's": form_field(grace.get("/order"))[FIELD],
        "of another run": form_field(ada.get("/other"))[FIELD],
        "of no run": nobody,
        "altered": fitting[:-1] + ("A" if fitting[-1] != "A" else "B"),
        "cut": fitting[: len(fitting) // 2],
        "empty": "",
        "not ASCII": "\N{DUCK}",
        "a run's address": own_address(ada).removeprefix("/flow/"),
    }


NOT_FITTING = [
    "another visitor's",
    "of another run",
    "of no run",
    "altered",
    "cut",
    "empty",
    "not ASCII",
    "a run's address",
]


@pytest.mark.parametrize("kind", NOT_FITTING)
@pytest.mark.parametrize("action", ["", "/retry"])
def test_a_form_that_does_not_fit_is_refused_and_says_what_to_do(
    order: Site, ada: FlaskClient, forms: dict[str, str], kind: str, action: str
) -> None:
    address = f"{own_address(ada)}{action}"
    refused = ada.post(address, data={"street": "Elm", FIELD: forms[kind]}, headers=HTML)
    assert refused.status_code == 400
    assert "Load the page again" in refused.text
    program = ada.post(address, data={FIELD: forms[kind]}, headers=JSON)
    assert (program.status_code, set(program.get_json())) == (400, {"error"})
    assert order.lines == []


@pytest.mark.parametrize("kind", ["another visitor's", "altered", "cut", "empty", "not ASCII"])
def test_at_the_applications_own_address_a_form_that_does_not_fit_is_refused_and_starts_nothing(
    order: Site, ada: FlaskClient, forms: dict[str, str], kind: str
) -> None:
    before = len(order.runs)
    refused = ada.post("/order", data={"street": "Elm", FIELD: forms[kind]})
    assert refused.status_code == 400
    assert (len(order.runs), order.lines) == (before, [])


def test_at_the_applications_own_address_a_form_is_taken_for_the_run_that_it_is_of(
    order: Site, ada: FlaskClient, forms: dict[str, str]
) -> None:
    taken = ada.post("/order", data={"street": "Elm", FIELD: forms["of another run"]})
    assert (taken.status_code, taken.location) == (303, "/other")
    steps = {run.key: run.step for run in order.runs}
    assert steps == {"k": "address", "other": "confirm"}


SAME_SITE = [
    {},
    {"Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "null"},
    {"Origin": "http://localhost"},
]
ANOTHER_SITE = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "http://evil.example"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "http://localhost:81"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://[evil"},
]


@pytest.mark.parametrize("headers", SAME_SITE, ids=str)
def test_a_form_without_the_field_is_taken_from_the_site_itself(
    order: Site, ada: FlaskClient, headers: dict[str, str]
) -> None:
    assert ada.post(own_address(ada), data={"street": "Elm"}, headers=headers).status_code == 303
    assert order.lines == ["address Elm"]


@pytest.mark.parametrize("headers", ANOTHER_SITE, ids=str)
@pytest.mark.parametrize("action", ["", "/retry"])
def test_a_form_without_the_field_is_not_taken_from_another_site(
    order: Site, ada: FlaskClient, headers: dict[str, str], action: str
) -> None:
    address = f"{own_address(ada)}{action}"
    refused = ada.post(address, data={"street": "Elm"}, headers=headers)
    assert refused.status_code == 403
    assert "hidden_field" in refused.text
    assert order.lines == []


def test_a_form_with_the_field_needs_no_word_from_the_browser(ada: FlaskClient) -> None:
    data = {"street": "Elm"} | form_field(ada.get("/order"))
    taken = ada.post(own_address(ada), data=data, headers={"Origin": "http://behind.a.proxy"})
    assert taken.status_code == 303


def test_nothing_changes_by_get(site: Site) -> None:
    SiteCard.accepts.clear()
    site.route("/pay", lambda: site.flows.respond(SiteCard().charge(), key="k"))
    client = site.client()
    own = client.post("/pay").location
    site.work()
    assert client.get(own).status_code == 500
    assert client.get(f"{own}/retry").status_code == 405
    before = site.run.record
    for address in (own, f"{own}/state"):
        for query in ("", "?_method=POST", f"?{FIELD}=x"):
            client.get(address + query)
    assert (site.run.record.seq, site.run.record.epoch) == (before.seq, before.epoch)


# -- redirects -------------------------------------------------------------------------------------

HOSTILE_PATHS = [
    "//evil.example",
    "//evil.example/%2e%2e",
    "///evil.example",
    "/\\evil.example",
    "/%5Cevil.example",
    "/%5C%5Cevil.example",
    "/%2F/evil.example",
    "/%09/evil.example",
    "/%0d%0aLocation:%20http:%2f%2fevil.example",
    "/%0D%0ASet-Cookie:%20a=b",
    "/javascript:alert(1)",
    "/https:%2f%2fevil.example",
    "/@evil.example",
    "/.%2e/%2e%2e//evil.example",
    "/%E2%80%8B//evil.example",
    "/%EF%BC%8F%EF%BC%8Fevil.example",  # slashes of full width
]
HOSTILE_QUERIES = [
    "next=//evil.example",
    "%0d%0aLocation:%20http://evil.example",
    "\r\nSet-Cookie: a=b",
    "\x00",
    "<script>",
    '"><script>',
    "\N{DUCK}",
    "%",
    "a=%zz&b=[]",
]


@pytest.fixture
def everywhere(site: Site) -> Site:
    """A site that shows its form at any path whatever."""
    site.app.url_map.merge_slashes = False
    site.app.register_error_handler(
        404, lambda _error: site.flows.respond(SiteForm().address(), key="k")
    )
    return site


@pytest.mark.parametrize("path", HOSTILE_PATHS)
def test_no_path_makes_a_redirect_that_leaves_the_site(everywhere: Site, path: str) -> None:
    client = everywhere.client()
    page = client.get("/", environ_overrides={"PATH_INFO": unquote(path, "latin-1")})
    assert page.status_code == 200
    answered = client.post("/anything", data={"street": "Elm"} | form_field(page))
    assert answered.status_code == 303
    stays_on_the_site(answered.headers["Location"])


@pytest.mark.parametrize("query", HOSTILE_QUERIES)
def test_no_query_makes_a_redirect_that_leaves_the_site(everywhere: Site, query: str) -> None:
    client = everywhere.client()
    page = client.get("/order", query_string=query)
    answered = client.post("/order", data={"street": "Elm"} | form_field(page))
    assert answered.status_code == 303
    location = answered.headers["Location"]
    stays_on_the_site(location)
    assert location.startswith("/order?")
    assert client.get(location).status_code == 200


def stays_on_the_site(location: str) -> None:
    """Check a redirect as the strictest of browsers would read it."""
    assert location.isascii()
    assert location.isprintable()
    assert " " not in location
    assert "\\" not in location
    assert location.startswith("/")
    assert not location.startswith("//")
    assert urlsplit(urljoin("http://shop.example/x", location)).netloc == "shop.example"


@pytest.mark.parametrize(
    "address",
    [
        "/order",
        "/order/7/of/Ada?page=2&sort=name",
        "/order/a%20b/%C3%A9t%C3%A9?q=%C3%A9+%26%3D%3F%23",
        "/order/100%25?q=100%25",
        "/order/100%2525",
        "/order/what%3F%23",
        "/order/a;b=c,d@e!$&'()*+~:=",
        "/order/?empty=&flag",
        "/order?a=1&a=2&b%5B%5D=3",
    ],
)
def test_a_form_leads_back_to_the_very_same_address(everywhere: Site, address: str) -> None:
    client = everywhere.client()
    page = client.get(address)
    taken = client.post("/elsewhere", data={"street": "Elm"} | form_field(page))
    assert taken.headers["Location"] == address


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "user@evil.example", "a b"])
def test_a_hostile_host_header_gets_into_nothing(order: Site, host: str) -> None:
    order.route("/parcel", lambda: order.flows.respond(SiteParcel(name="x").pack(), key="k"))
    client = order.app.test_client(use_cookies=False)
    for method in ("GET", "POST"):
        for headers in (HTML, JSON):
            answer = client.open("/parcel", method=method, headers=headers | {"Host": host})
            assert "evil" not in answer.text
            assert "evil" not in str(answer.headers)
