"""How much a request asks of the database: counted, since seconds say nothing on a busy machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from flask_socketio import SocketIO

from flowroute.flask.sockets import NAMESPACE
from tests.engine.support import Counted, counting
from tests.flask.flows import SiteForm, SiteParcel, SiteResult
from tests.flask.support import JSON, Site, attributes, form_field

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask.testing import FlaskClient

    from tests.flask.conftest import MakeSite


@pytest.fixture
def site(make_site: MakeSite, database_url: str) -> Site:
    """A site whose tables have been looked for already, on SQLite and on PostgreSQL."""
    site = make_site(database_url, socketio=SocketIO())
    respond = site.flows.respond
    site.route("/parcel", lambda: respond(SiteParcel(name="x").pack(), key="parcel"))
    site.route("/order", lambda: respond(SiteForm().address(), key="order"))
    site.route("/result", lambda: respond(SiteResult().end("<p>7</p>"), key="result"))
    site.route("/number", lambda: respond(SiteResult().end(7), key="number"))
    for path in ("/parcel", "/order", "/result", "/number"):
        site.client().get(path)
    return site


@pytest.fixture
def counted(site: Site) -> Iterator[Counted]:
    """What goes to the database during the test."""
    with site.app.app_context(), counting(site.flows.engine) as counted:
        yield counted


def selects(counted: Counted) -> int:
    """How many statements there were since the last look; every one of them has to read."""
    assert counted.writes == []
    count = len(counted.statements)
    counted.statements.clear()
    return count


def test_a_waiting_run_is_read_by_one_statement(site: Site, counted: Counted) -> None:
    client = site.client()
    assert client.get("/parcel").status_code == 202
    assert selects(counted) == 1
    assert client.get("/parcel", headers=JSON).status_code == 202
    assert selects(counted) == 1
    own = client.post("/parcel").location
    assert selects(counted) == 1
    assert client.get(own).status_code == 202
    assert selects(counted) == 1
    assert client.get(own, headers=JSON).status_code == 202
    assert selects(counted) == 1
    assert client.get(f"{own}/state").status_code == 200
    assert selects(counted) == 1


@pytest.mark.parametrize(("path", "shown"), [("/result", "<p>7</p>"), ("/number", "7")])
def test_a_run_that_ended_with_a_result_is_read_by_one_statement(
    site: Site, counted: Counted, path: str, shown: str
) -> None:
    client = site.client()
    assert shown in client.get(path).text
    assert selects(counted) == 1
    assert client.get(path, headers=JSON).get_json()["result"] in ("<p>7</p>", 7)
    assert selects(counted) == 1
    own = client.post(path).location
    assert selects(counted) == 1
    assert shown in client.get(own).text
    assert selects(counted) == 1


def last_page(site: Site) -> tuple[FlaskClient, str]:
    """A visitor at the final page, and its address."""
    client = site.client()
    own = attributes(client.get("/order"), "#own")["href"]
    client.post(own, data={"street": "Elm"})
    client.post(own)
    return client, own


def test_a_page_is_looked_at_with_one_statement_and_one_more_for_a_template_that_lists_steps(
    site: Site, counted: Counted
) -> None:
    client, own = last_page(site)
    counted.statements.clear()
    for address in ("/order", own):
        assert "thank you, Elm" in client.get(address).text
        assert selects(counted) == 2


def test_the_hidden_field_and_the_address_of_a_run_are_made_without_a_look(
    site: Site, counted: Counted
) -> None:
    client = site.client()
    page = client.get("/order")
    counted.statements.clear()
    with site.app.test_request_context():
        run = site.runs[0]
        counted.statements.clear()
        view = site.flows.view_of(run.record)
        assert len(counted.statements) == 1
        assert view.url
        assert view.hidden_field()
        assert site.flows.url_for(run)
        assert len(counted.statements) == 1
    assert form_field(page)


def test_an_answer_that_is_taken_reads_once_and_commits_twice(site: Site, counted: Counted) -> None:
    client = site.client()
    page = client.get("/order")
    own = attributes(page, "#own")["href"]
    counted.statements.clear()
    counted.commits = 0
    assert client.post(own, data={"street": "Elm"} | form_field(page)).status_code == 303
    reads = [s for s in counted.statements if s.lstrip().upper().startswith("SELECT")]
    assert len(reads) == 1
    # The claim; then the page's own row with the checkpoint after it.
    advance = ["INSERT INTO flowroute_checkpoint", "UPDATE flowroute_run SET"]
    if any(write == "WITH moved AS" for write in counted.writes):  # PostgreSQL: both in one
        advance = ["WITH moved AS"]
    assert sorted(counted.writes) == sorted(
        [*advance, "INSERT INTO line", "UPDATE flowroute_run SET"]
    )
    assert counted.commits == 2


def test_a_stale_answer_only_looks(site: Site, counted: Counted) -> None:
    client = site.client()
    page = client.get("/order")
    client.post("/order", data={"street": "Elm"} | form_field(page))
    counted.statements.clear()
    assert client.post("/order", data=form_field(page)).status_code == 303
    assert selects(counted) == 1


def test_a_stranger_costs_no_statement(site: Site, counted: Counted) -> None:
    client, own = last_page(site)
    stranger = site.client()
    counted.statements.clear()
    for address in (own, f"{own}/state", "/flow/x", "/flow/-/static/none.js"):
        assert stranger.get(address).status_code == 404
        assert stranger.post(f"{address}/retry").status_code in (404, 405)
    assert selects(counted) == 0
    assert client.get(own).status_code == 200


def test_a_subscription_reads_once(site: Site, counted: Counted) -> None:
    client = site.client()
    token = attributes(client.get("/parcel"), "#flowroute")["data-token"]
    assert site.socketio is not None
    socket = site.socketio.test_client(site.app, namespace=NAMESPACE, flask_test_client=client)
    counted.statements.clear()
    answer = socket.emit("subscribe", {"token": token}, namespace=NAMESPACE, callback=True)
    assert isinstance(answer, dict)
    assert answer["state"] == "waiting"
    assert selects(counted) == 1
    socket.disconnect(NAMESPACE)
