"""The door of the sockets: tokens that are no longer good, or another's, and pages elsewhere."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa
from flask_socketio import SocketIO, disconnect, join_room

from flowroute.engine.schema import checkpoint_table, run_table
from flowroute.flask import sockets
from flowroute.flask.sockets import NAMESPACE
from tests.flask.flows import SiteForm, SiteParcel
from tests.flask.live import Live
from tests.flask.support import Site, attributes

if TYPE_CHECKING:
    from flask.testing import FlaskClient

    from tests.flask.conftest import MakeSite


def a_site(make_site: MakeSite, database: str, **config: Any) -> Site:
    """A site with SocketIO, a parcel and a form."""
    site = make_site(database, socketio=SocketIO(), **config)
    respond = site.flows.respond
    site.route("/parcel", lambda: respond(SiteParcel(name="x").pack(), key="parcel"))
    site.route("/other", lambda: respond(SiteParcel(name="y").pack(), key="other"))
    site.route("/order", lambda: respond(SiteForm().address(), key="order"))
    return site


def token_at(client: FlaskClient, path: str) -> str:
    return attributes(client.get(path), "#flowroute")["data-token"]


class Listener:
    """A socket of a visitor's."""

    def __init__(self, site: Site, client: FlaskClient) -> None:
        assert site.socketio is not None
        self._socket = site.socketio.test_client(
            site.app, namespace=NAMESPACE, flask_test_client=client
        )

    def subscribe(self, token: str) -> dict[str, Any]:
        answer = self._socket.emit(
            "subscribe", {"token": token}, namespace=NAMESPACE, callback=True
        )
        assert isinstance(answer, dict)
        return answer

    def send(self, token: str) -> None:
        """Subscribe, and wait for no answer."""
        self._socket.emit("subscribe", {"token": token}, namespace=NAMESPACE)

    def heard(self) -> set[str]:
        """The ids of the runs that it was told of."""
        return {event["args"][0]["id"] for event in self._socket.get_received(NAMESPACE)}


def test_a_token_whose_key_was_retired_subscribes_to_nothing(
    make_site: MakeSite, sqlite_url: str
) -> None:
    old = a_site(make_site, sqlite_url, FLOWROUTE_SECRET_KEYS=["the old key"])
    client = old.client()
    token = token_at(client, "/parcel")
    cookie = client.get_cookie("session")
    assert cookie is not None
    for keys, known in ((["the new key", "the old key"], True), (["the new key"], False)):
        new = a_site(make_site, sqlite_url, FLOWROUTE_SECRET_KEYS=keys)
        later = new.client()
        later.set_cookie("session", cookie.value)
        listener = Listener(new, later)
        answer = listener.subscribe(token)
        assert answer.get("id", answer) == (new.run.id if known else {"error": "unknown"})


def test_a_token_of_a_run_that_is_gone_subscribes_to_nothing(
    make_site: MakeSite, sqlite_url: str
) -> None:
    site = a_site(make_site, sqlite_url)
    client = site.client()
    token = token_at(client, "/parcel")
    with site.app.app_context(), site.db.engine.begin() as connection:
        for table in (checkpoint_table, run_table):
            connection.execute(sa.delete(table))
    listener = Listener(site, client)
    assert listener.subscribe(token) == {"error": "unknown"}
    assert listener.heard() == set()


def test_a_visitor_who_was_forgotten_can_not_subscribe_any_more(
    make_site: MakeSite, sqlite_url: str
) -> None:
    site = a_site(make_site, sqlite_url)
    client = site.client()
    token = token_at(client, "/parcel")
    with client.session_transaction() as session:
        session.clear()
    listener = Listener(site, client)
    assert listener.subscribe(token) == {"error": "unknown"}
    site.work()
    assert listener.heard() == set()


def test_tokens_that_two_visitors_swap_are_worth_nothing_to_either(
    make_site: MakeSite, sqlite_url: str
) -> None:
    site = a_site(make_site, sqlite_url)
    ada, eve = site.client(), site.client()
    hers, his = token_at(ada, "/parcel"), token_at(eve, "/other")
    listeners = Listener(site, ada), Listener(site, eve)
    for listener, token in zip(listeners, (his, hers), strict=True):
        assert listener.subscribe(token) == {"error": "unknown"}
    site.work()
    assert [listener.heard() for listener in listeners] == [set(), set()]


def test_the_ids_and_macs_of_two_tokens_of_one_visitor_do_not_mix(
    make_site: MakeSite, sqlite_url: str
) -> None:
    site = a_site(make_site, sqlite_url)
    client = site.client()
    first, second = token_at(client, "/parcel"), token_at(client, "/other")
    listener = Listener(site, client)
    for one, other in ((first, second), (second, first)):
        mixed = f"{one.partition('.')[0]}.{other.partition('.')[2]}"
        assert listener.subscribe(mixed) == {"error": "unknown"}
    site.work()
    assert listener.heard() == set()


def test_a_page_that_is_left_while_it_subscribes_is_no_error(
    make_site: MakeSite, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = a_site(make_site, sqlite_url)
    client = site.client()
    token = token_at(client, "/parcel")
    listener = Listener(site, client)

    def hang_up_first(room: str) -> None:
        disconnect(namespace=NAMESPACE)
        join_room(room)

    monkeypatch.setattr(sockets, "join_room", hang_up_first)
    listener.send(token)  # an exception would come through
    site.work()
    assert site.run.state == "done"


@pytest.mark.parametrize(
    ("origin", "opens"),
    [
        ("{own}", True),
        ("http://evil.example", False),
        ("{own}.evil.example", False),
        ("null", False),
        ("https{own}", False),
        ("http://127.0.0.1:1", False),
    ],
)
@pytest.mark.parametrize("transport", ["websocket", "polling"])
def test_a_page_of_another_site_opens_no_socket(
    make_site: MakeSite, sqlite_url: str, *, origin: str, opens: bool, transport: str
) -> None:
    """A websocket is not held back by browsers: the server has to look at the origin."""
    site = a_site(make_site, sqlite_url)
    with Live(site) as live:
        own = urlsplit(live.url)
        assert own.port is not None
        lines = [
            f"GET /socket.io/?EIO=4&transport={transport} HTTP/1.1",
            f"Host: {own.netloc}",
            f"Origin: {origin.replace('{own}', live.url)}",
            "Connection: close",
        ]
        if transport == "websocket":
            lines[-1] = "Connection: Upgrade"
            lines += ["Upgrade: websocket", "Sec-WebSocket-Version: 13"]
            lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
        with socket.create_connection(("127.0.0.1", own.port), timeout=20) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            status = connection.recv(1_000).split(b" ")[1]
        assert status == ((b"101" if transport == "websocket" else b"200") if opens else b"400")
