"""Socket.IO: who hears of a run, what they hear, and what happens when nobody can be told."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest
from flask_socketio import SocketIO

from flowroute.engine.identity import new_run_id
from flowroute.flask.sockets import NAMESPACE
from tests.flask.flows import SiteCard, SiteForm, SiteParcel, SiteSteady
from tests.flask.support import Site, attributes
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask.testing import FlaskClient

    from tests.flask.conftest import MakeSite


class Browser:
    """A visitor with a socket: its cookies are those it had when it connected."""

    def __init__(self, site: Site, client: FlaskClient) -> None:
        assert site.socketio is not None
        self._socket = site.socketio.test_client(
            site.app, namespace=NAMESPACE, flask_test_client=client
        )

    def subscribe(self, message: object) -> dict[str, Any]:
        """What the server answers."""
        answer = self._socket.emit("subscribe", message, namespace=NAMESPACE, callback=True)
        assert isinstance(answer, dict)
        return answer

    def heard(self) -> list[dict[str, Any]]:
        """What was told since the last look."""
        events = self._socket.get_received(NAMESPACE)
        assert {event["name"] for event in events} <= {"moved"}
        return [event["args"][0] for event in events]

    def close(self) -> None:
        """Hang up."""
        self._socket.disconnect(NAMESPACE)


@pytest.fixture
def live(make_site: MakeSite, sqlite_url: str) -> Site:
    """A site with SocketIO and a parcel at /parcel."""
    site = make_site(sqlite_url, socketio=SocketIO())
    respond = site.flows.respond
    site.route("/parcel", lambda: respond(SiteParcel(name="x").pack(), key="parcel"))
    site.route("/order", lambda: respond(SiteForm().address(), key="order"))
    site.route("/pay", lambda: respond(SiteCard().charge(), key="pay"))
    return site


@pytest.fixture
def ada(live: Site) -> FlaskClient:
    """The visitor who sent the parcel."""
    return live.client()


@pytest.fixture
def token(ada: FlaskClient) -> str:
    """What ada's loading page subscribes with."""
    return attributes(ada.get("/parcel"), "#flowroute")["data-token"]


@pytest.fixture
def browser(live: Site, ada: FlaskClient, token: str) -> Iterator[Browser]:
    """Ada's browser, on the loading page."""
    assert token
    browser = Browser(live, ada)
    yield browser
    browser.close()


# -- subscribing -----------------------------------------------------------------------------------


def test_a_subscription_is_answered_with_the_state_of_the_run(
    live: Site, browser: Browser, token: str
) -> None:
    record = live.run.record
    assert browser.subscribe({"token": token}) == {
        "id": record.id,
        "seq": 1,
        "state": "waiting",
        "waiting_for": "worker",
        "step": "send",
        "progress": None,
        "at_rest": False,
        "created_at": record.created_at.isoformat(),
    }


def test_a_subscriber_hears_each_move_up_to_the_end(
    live: Site, browser: Browser, token: str
) -> None:
    browser.subscribe({"token": token})
    live.work()
    moves = browser.heard()
    assert [(move["seq"], move["state"], move["step"]) for move in moves] == [
        (1, "running", "send"),
        (2, "done", None),
    ]
    assert [move["at_rest"] for move in moves] == [False, True]
    assert {move["id"] for move in moves} == {live.run.id}
    assert set(moves[0]) == {"id", "seq", "state", "waiting_for", "step", "progress", "at_rest"}


def test_a_subscriber_hears_of_progress(make_site: MakeSite, sqlite_url: str) -> None:
    site = make_site(sqlite_url, executor="thread", socketio=SocketIO())
    site.route("/", lambda: site.flows.respond(SiteSteady().work(), key="k"))
    SiteSteady.go.clear()
    SiteSteady.end.clear()
    client = site.client()
    token = attributes(client.get("/"), "#flowroute")["data-token"]
    browser = Browser(site, client)
    moves: list[dict[str, Any]] = []

    def told() -> list[dict[str, Any]]:
        moves.extend(browser.heard())
        return [move["progress"] for move in moves if move["progress"]]

    def ended() -> bool:
        moves.extend(browser.heard())
        return bool(moves[-1]["at_rest"])

    browser.subscribe({"token": token})
    SiteSteady.go.set()
    progress = wait_until(told, 10, what="progress is heard of")
    assert progress[0] == {"done": 1.0, "total": 4.0, "message": "a quarter"}
    SiteSteady.end.set()
    wait_until(ended, 10, what="the end is heard of")
    browser.close()


def test_a_run_that_reaches_a_page_or_fails_is_at_rest(live: Site, ada: FlaskClient) -> None:
    SiteCard.accepts.clear()
    waiting = ada.get("/pay")
    browser = Browser(live, ada)
    browser.subscribe({"token": attributes(waiting, "#flowroute")["data-token"]})
    live.work()
    assert [(m["state"], m["at_rest"]) for m in browser.heard()] == [
        ("running", False),
        ("failed", True),
    ]
    ada.get("/order")
    own = attributes(ada.get("/order"), "#own")["href"]
    answer = browser.subscribe({"token": own.removeprefix("/flow/")})
    assert (answer["waiting_for"], answer["at_rest"]) == ("page", True)
    browser.close()


def test_what_moved_before_the_subscription_is_in_its_answer(
    live: Site, browser: Browser, token: str
) -> None:
    live.work()
    answer = browser.subscribe({"token": token})
    assert (answer["state"], answer["at_rest"]) == ("done", True)
    assert browser.heard() == []


def test_a_move_between_joining_and_reading_is_not_lost(
    live: Site, browser: Browser, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = live.app.extensions["flowroute"].engine
    read = engine.lookup.read

    def work_then_read(run_id: str) -> Any:
        monkeypatch.undo()
        live.work()  # between the two
        return read(run_id)

    monkeypatch.setattr(engine.lookup, "read", work_then_read)
    answer = browser.subscribe({"token": token})
    assert answer["state"] == "done"
    assert [move["state"] for move in browser.heard()] == ["running", "done"]


# -- strangers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("visits", [True, False])
def test_another_visitor_can_not_subscribe_and_hears_nothing(
    live: Site, token: str, *, visits: bool
) -> None:
    client = live.client()
    if visits:
        client.get("/order")  # has a session of his own
    stranger = Browser(live, client)
    assert stranger.subscribe({"token": token}) == {"error": "unknown"}
    live.work()
    assert stranger.heard() == []
    stranger.close()


def test_what_is_no_token_is_unknown(live: Site, browser: Browser, token: str) -> None:
    run_id = live.run.id
    codec = live.app.extensions["flowroute"].engine.codec
    messages: list[object] = [
        None,
        {},
        [],
        "token",
        7,
        token,
        {"token": None},
        {"token": ""},
        {"token": run_id},
        {"token": {"token": token}},
        {"token": [token]},
        {"token": token[:-1]},
        {"token": token + "="},
        {"token": f"{new_run_id()}.{token.partition('.')[2]}"},
        {"token": codec.sign(run_id, purpose="job")},
        {"token": codec.sign(new_run_id(), purpose="shared address of a run")},
        {"token": "\N{DUCK}" * 1000},
    ]
    for message in messages:
        assert browser.subscribe(message) == {"error": "unknown"}, message
    live.work()
    assert browser.heard() == []


def test_a_shared_token_subscribes_whoever_has_it(live: Site, token: str) -> None:
    assert token
    with live.app.test_request_context():
        shared = live.flows.url_for(live.run, shared=True).removeprefix("/flow/")
    friend = Browser(live, live.client())
    assert friend.subscribe({"token": shared})["state"] == "waiting"
    live.work()
    assert [move["state"] for move in friend.heard()] == ["running", "done"]
    friend.close()


def test_who_watches_one_run_hears_nothing_of_another(
    live: Site, ada: FlaskClient, browser: Browser, token: str
) -> None:
    browser.subscribe({"token": token})
    SiteCard.accepts.set()
    ada.get("/pay")
    assert live.shelf is not None
    live.shelf.hints.reverse()
    live.work()
    assert {move["id"] for move in browser.heard()} == {
        run.id for run in live.runs if run.key == "parcel"
    }


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost", 200),
        (None, 200),
        ("http://evil.example", 400),
        ("http://localhost.evil.example", 400),
        ("null", 400),
    ],
)
def test_a_page_of_another_site_can_not_connect(
    live: Site, origin: str | None, status: int
) -> None:
    headers = {} if origin is None else {"Origin": origin}
    answer = live.client().get("/socket.io/?EIO=4&transport=polling", headers=headers)
    assert answer.status_code == status
    assert answer.headers.get("Access-Control-Allow-Origin") in (None, "http://localhost")


# -- nobody can be told ----------------------------------------------------------------------------


def test_a_socketio_that_fails_costs_no_work(
    live: Site, ada: FlaskClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("the message queue is down")

    monkeypatch.setattr(live.socketio, "emit", fail)
    assert ada.get("/parcel").status_code == 202
    live.work()
    assert ada.get("/parcel").status_code == 200
    assert "browsers will poll" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_moves_are_told_from_any_thread_without_an_application(
    live: Site, browser: Browser, token: str
) -> None:
    browser.subscribe({"token": token})
    thread = threading.Thread(target=live.work)
    thread.start()
    thread.join(10)
    assert [move["state"] for move in browser.heard()] == ["running", "done"]


def test_the_state_over_http_is_what_the_socket_answers_and_where_to_go_on(
    live: Site, ada: FlaskClient, browser: Browser, token: str
) -> None:
    polled = ada.get(f"/flow/{token}/state")
    assert polled.status_code == 200
    assert polled.headers["Cache-Control"] == "no-store"
    body = polled.get_json()
    assert browser.subscribe({"token": token}).items() <= body.items()
    assert set(body["links"]) == {"self", "state", "retry"}
    assert body["error"] is None
    live.work()
    finished = ada.get(f"/flow/{token}/state")
    assert (finished.status_code, finished.get_json()["at_rest"]) == (200, True)
