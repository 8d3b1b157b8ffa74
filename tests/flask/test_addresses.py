"""Where links lead: below a prefix, behind a proxy, from routes with parameters; what is loaded."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from flask import Flask
from flask_socketio import SocketIO
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import Client

from tests.engine.support import set_column
from tests.flask.flows import SiteCard, SiteForm, SiteParcel, SiteResult
from tests.flask.support import HTML, JSON, Site, attributes, form_field, soup

if TYPE_CHECKING:
    from collections.abc import Callable

    from werkzeug.test import TestResponse

    from tests.flask.conftest import MakeSite

LINKS = ("href", "src", "action", "data-state-url", "data-socket-path")
"""Attributes that hold addresses."""


def links_of(page: TestResponse) -> list[str]:
    """Every address on a page."""
    return [
        value
        for element in soup(page).select("*")
        for name, value in element.attrs.items()
        if name in LINKS and isinstance(value, str)
    ]


@pytest.fixture
def live(make_site: MakeSite, sqlite_url: str) -> Site:
    """A site with SocketIO: a parcel, a payment that fails, an order form, and results."""
    site = make_site(sqlite_url, socketio=SocketIO())
    SiteCard.accepts.clear()
    respond = site.flows.respond
    site.route("/parcel", lambda: respond(SiteParcel(name="x").pack(), key="parcel"))
    site.route("/pay", lambda: respond(SiteCard().charge(), key="pay"))
    site.route("/order", lambda: respond(SiteForm().address(), key="order"))
    site.route("/result", lambda: respond(SiteResult().end(7), key="result"))
    return site


# -- prefixes --------------------------------------------------------------------------------------


def behind_a_proxy(app: Flask) -> tuple[Client, dict[str, str]]:
    """The proxy takes the prefix off, and says so in a header."""
    app.wsgi_app = ProxyFix(app.wsgi_app, x_prefix=1)  # type: ignore[method-assign]
    return app.test_client(), {"X-Forwarded-Prefix": "/shop"}


def mounted(app: Flask) -> tuple[Client, dict[str, str]]:
    """Another application has this one below itself."""
    site = DispatcherMiddleware(Flask("front"), {"/shop": app})

    def strip(environ: Any, start_response: Any) -> Any:
        environ["PATH_INFO"] = "/shop" + environ["PATH_INFO"]  # the same addresses as a proxy's
        return site(environ, start_response)

    return Client(strip), {}


@pytest.mark.parametrize("mount", [behind_a_proxy, mounted])
def test_below_a_prefix_every_address_has_it(
    live: Site, mount: Callable[[Flask], tuple[Client, dict[str, str]]]
) -> None:
    client, headers = mount(live.app)
    live.client().post("/pay")
    live.work()
    for path in ("/parcel", "/pay", "/order", "/result"):
        page = client.get(path, headers=headers)
        found = links_of(page)
        assert all(link == "" or link.startswith("/shop/") for link in found), found
        assert not re.search(r'"/flow', page.text)
        for link in client.get(path, headers=headers | JSON).get_json()["links"].values():
            assert link.startswith("/shop/flow/")
    parcel = client.get("/parcel", headers=headers)
    assert attributes(parcel, "#flowroute")["data-socket-path"] == "/shop/socket.io"


@pytest.mark.parametrize("mount", [behind_a_proxy, mounted])
def test_below_a_prefix_what_is_linked_is_there(
    live: Site, mount: Callable[[Flask], tuple[Client, dict[str, str]]]
) -> None:
    client, headers = mount(live.app)
    parcel = client.get("/parcel", headers=headers)
    checked = 0
    for link in links_of(parcel):
        path = link.removeprefix("/shop")
        if path == "/socket.io":
            path = "/socket.io/?EIO=4&transport=polling"
        with client.get(path, headers=headers) as answer:
            assert answer.status_code in (200, 202), link
        checked += 1
    assert checked >= 5  # two scripts, a style sheet, the state, the socket


@pytest.mark.parametrize("mount", [behind_a_proxy, mounted])
def test_below_a_prefix_redirects_stay_below_it(
    live: Site, mount: Callable[[Flask], tuple[Client, dict[str, str]]]
) -> None:
    client, headers = mount(live.app)
    started = client.post("/parcel", headers=headers)
    assert started.headers["Location"].startswith("/shop/flow/")
    page = client.get("/order?a=1", headers=headers)
    taken = client.post("/order", data={"street": "Elm"} | form_field(page), headers=headers)
    assert taken.headers["Location"] == "/shop/order?a=1"


def test_the_addresses_of_runs_may_be_elsewhere(make_site: MakeSite, sqlite_url: str) -> None:
    site = make_site(sqlite_url, FLOWROUTE_URL_PREFIX="/my/runs", socketio=SocketIO())
    site.route("/parcel", lambda: site.flows.respond(SiteParcel(name="x").pack(), key="k"))
    client = site.client()
    assert client.post("/parcel").location.startswith("/my/runs/")
    for link in links_of(client.get("/parcel")):
        assert link.startswith(("/my/runs/", "/socket.io"))


def test_the_socket_s_path_is_the_one_that_socketio_was_given(
    make_site: MakeSite, sqlite_url: str
) -> None:
    site = make_site(sqlite_url, socketio=SocketIO(path="/live/updates"))
    site.route("/parcel", lambda: site.flows.respond(SiteParcel(name="x").pack(), key="k"))
    client = site.client()
    path = attributes(client.get("/parcel"), "#flowroute")["data-socket-path"]
    assert path == "/live/updates"
    assert client.get(f"{path}/?EIO=4&transport=polling").status_code == 200


def test_without_socketio_the_page_names_no_socket_and_loads_no_client_for_it(site: Site) -> None:
    site.route("/parcel", lambda: site.flows.respond(SiteParcel(name="x").pack(), key="k"))
    page = site.client().get("/parcel")
    assert attributes(page, "#flowroute")["data-socket-path"] == ""
    assert not [link for link in links_of(page) if "socket.io" in link]


# -- routes with parameters ------------------------------------------------------------------------


def test_a_route_with_parameters_and_a_query_is_come_back_to(site: Site) -> None:
    def view(customer: int, name: str) -> Any:
        return site.flows.respond(SiteForm().address(), key=f"{customer} {name}")

    site.app.add_url_rule(
        "/customer/<int:customer>/<name>", "customer", view, methods=["GET", "POST"]
    )
    client = site.client()
    address = "/customer/7/Ada%20L%C3%B6w?tab=orders&q=%26"
    page = client.get(address)
    taken = client.post(address, data={"street": "Elm"} | form_field(page))
    assert (taken.status_code, taken.headers["Location"]) == (303, address)
    assert site.run.key == "7 Ada Löw"
    assert client.get(address).status_code == 200
    assert site.run.step == "confirm"


def test_a_route_that_takes_posts_only_can_be_waited_for(site: Site) -> None:
    site.route(
        "/parcel", lambda: site.flows.respond(SiteParcel(name="x").pack(), key="k"), ("POST",)
    )
    client = site.client()
    started = client.post("/parcel")
    page = client.get(started.location)
    assert page.status_code == 202
    assert attributes(page, "#flowroute")["data-next"] == ""
    site.work()
    assert client.get(started.location).status_code == 200


# -- a strict Content-Security-Policy --------------------------------------------------------------


def test_no_page_needs_more_than_the_policy_self(live: Site) -> None:
    client = live.client()
    pages = [client.get("/parcel"), client.get("/order"), client.get("/result")]
    client.post("/pay")
    live.work()
    pages.append(client.get("/pay"))
    with live.app.app_context():
        for run in live.runs:
            if run.key == "pay":
                set_column(live.flows.engine, run, state="cancelled")
    pages.append(client.get("/pay"))
    assert [page.status_code for page in pages] == [202, 200, 200, 500, 410]
    for page in pages:
        self_contained(page)


def self_contained(page: TestResponse) -> None:
    """Check that a page holds no code or style of its own and loads nothing from elsewhere."""
    parsed = soup(page)
    assert parsed.select("style") == []
    assert [script for script in parsed.select("script") if not script.get("src")] == []
    for element in parsed.select("*"):
        inline = [name for name in element.attrs if name == "style" or name.startswith("on")]
        assert inline == [], element
    for link in links_of(page):
        assert not urlsplit(link).netloc, link
        assert urlsplit(link).scheme == "", link


def test_the_pages_tell_nobody_their_address(live: Site) -> None:
    page = live.client().get("/parcel", headers=HTML)
    assert attributes(page, "meta[name=referrer]")["content"] == "same-origin"
    assert attributes(page, "meta[name=robots]")["content"] == "noindex"
