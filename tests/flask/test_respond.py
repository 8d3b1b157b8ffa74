"""How `respond` starts a run, finds one again, and answers GET, POST, HEAD and programs."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from flask import request

from flowroute.engine.database import BUSY_TIMEOUT_SECONDS
from flowroute.errors import ArgumentError, TransitionError, UnstorableValue
from tests.flask.flows import SiteCard, SiteFailing, SiteForm, SiteKept, SiteParcel, SiteResult
from tests.flask.support import HTML, JSON, Line, Site, at_once, attributes, soup

if TYPE_CHECKING:
    from flask.testing import FlaskClient

    from tests.flask.conftest import MakeSite


@pytest.fixture
def parcels(site: Site) -> Site:
    """A site that sends parcels: by name at /parcel/<name>, and without a key at /anonymous."""
    return with_parcels(site)


def with_parcels(site: Site) -> Site:
    """Add the addresses of `parcels`."""

    def parcel(name: str) -> Any:
        return site.flows.respond(
            SiteParcel(name=name).pack(), key=name, cache="fresh" not in request.args
        )

    def anonymous() -> Any:
        return site.flows.respond(SiteParcel(name="x").pack())

    site.app.add_url_rule("/parcel/<name>", "parcel", parcel, methods=["GET", "POST", "PUT"])
    site.app.add_url_rule("/anonymous", "anonymous", anonymous, methods=["GET", "POST"])
    return site


# -- GET -------------------------------------------------------------------------------------------


def test_a_get_shows_the_loading_page_in_place_until_the_result_is_there(parcels: Site) -> None:
    client = parcels.client()
    waiting = client.get("/parcel/book", headers=HTML)
    assert waiting.status_code == 202
    assert soup(waiting).title is not None
    assert attributes(waiting, "#flowroute")["data-next"] == ""  # the page that is open
    parcels.work()
    finished = client.get("/parcel/book", headers=HTML)
    assert (finished.status_code, finished.text) == (200, "<p>book weighs 1</p>")
    assert parcels.lines == ["packed book", "sent book"]


def test_a_waiting_run_is_kept_by_no_cache_and_asked_for_again_soon(parcels: Site) -> None:
    waiting = parcels.client().get("/parcel/book")
    assert waiting.headers["Cache-Control"] == "no-store"
    assert int(waiting.headers["Retry-After"]) > 0


def test_the_end_is_revalidated_and_varies_with_what_the_client_takes(parcels: Site) -> None:
    client = parcels.client()
    client.get("/parcel/book")
    parcels.work()
    for headers in (HTML, JSON):
        finished = client.get("/parcel/book", headers=headers)
        assert finished.headers["Cache-Control"] == "private, no-cache"
        assert {"Accept", "Cookie"} & set(finished.vary)
        assert "Accept" in finished.vary
        assert "Retry-After" not in finished.headers


def test_a_page_may_choose_its_own_caching(site: Site) -> None:
    site.route("/", lambda: site.flows.respond(SiteKept().kept(), key="k"))
    kept = site.client().get("/")
    assert kept.headers["Cache-Control"] == "max-age=60"
    assert set(kept.vary) == {"Accept-Language", "Accept"}


def test_a_get_without_a_key_leads_to_the_runs_own_address_so_that_waiting_starts_nothing(
    parcels: Site,
) -> None:
    client = parcels.client()
    started = client.get("/anonymous")
    assert started.status_code == 303
    for _ in range(3):
        assert client.get(started.location).status_code == 202
    assert len(parcels.runs) == 1
    parcels.work()
    assert client.get(started.location).text == "<p>x weighs 1</p>"


def test_a_get_without_a_key_whose_run_ends_at_once_is_answered_in_place(site: Site) -> None:
    site.route("/", lambda: site.flows.respond(SiteResult().end("at once")))
    answer = site.client().get("/")
    assert (answer.status_code, answer.text) == (200, "at once")


def test_a_get_without_a_key_whose_run_fails_leads_to_where_it_can_be_retried(
    make_site: MakeSite, sqlite_url: str
) -> None:
    site = make_site(sqlite_url, executor="inline")
    SiteCard.accepts.clear()
    site.route("/", lambda: site.flows.respond(SiteCard().charge()))
    client = site.client()
    started = client.get("/")
    assert started.status_code == 303
    assert client.get(started.location).status_code == 500


# -- POST ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_post_leads_to_the_runs_own_address_where_a_refresh_posts_nothing(
    parcels: Site, method: str
) -> None:
    client = parcels.client()
    posted = client.open("/parcel/book", method=method, headers=HTML)
    assert posted.status_code == 303
    assert posted.location.startswith("/flow/")
    for _ in range(3):
        assert client.get(posted.location).status_code == 202
    parcels.work()
    for _ in range(3):
        assert client.get(posted.location).text == "<p>book weighs 1</p>"
    assert parcels.lines == ["packed book", "sent book"]


def test_posting_twice_with_one_key_leads_to_the_same_address_twice(parcels: Site) -> None:
    client = parcels.client()
    locations = {client.post("/parcel/book").location for _ in range(3)}
    assert len(locations) == 1
    assert parcels.run.key == "book"


def test_posting_without_a_key_starts_a_run_each_time(parcels: Site) -> None:
    client = parcels.client()
    assert len({client.post("/anonymous").location for _ in range(3)}) == 3
    assert len(parcels.runs) == 3


def test_the_owner_is_stored_with_the_run(site: Site) -> None:
    site.route("/", lambda: site.flows.respond(SiteResult().end(1), owner="ada"))
    site.client().post("/")
    assert site.run.record.owner == "ada"


# -- HEAD ------------------------------------------------------------------------------------------


def test_a_head_starts_nothing(parcels: Site) -> None:
    assert parcels.client().head("/parcel/book").status_code == 204
    assert parcels.client().head("/anonymous").status_code == 204
    assert parcels.runs == []


def test_a_head_tells_of_a_run_what_a_get_would_but_uses_up_nothing(parcels: Site) -> None:
    client = parcels.client()
    client.get("/parcel/book?fresh=1")
    waiting = client.head("/parcel/book?fresh=1")
    assert (waiting.status_code, waiting.headers["Cache-Control"]) == (202, "no-store")
    parcels.work()
    for _ in range(2):
        head = client.head("/parcel/book?fresh=1")
        assert (head.status_code, head.data) == (200, b"")
    assert client.get("/parcel/book?fresh=1").text == "<p>book weighs 1</p>"


# -- programs --------------------------------------------------------------------------------------


def test_a_program_gets_json_for_a_get_and_for_a_post(parcels: Site) -> None:
    client = parcels.client()
    for method in ("POST", "GET"):
        answer = client.open("/parcel/book", method=method, headers=JSON)
        assert answer.status_code == 202
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Retry-After"]
        body = answer.get_json()
        assert body["id"] == parcels.run.id
        assert (body["state"], body["waiting_for"], body["step"]) == ("waiting", "worker", "send")
        assert (body["seq"], body["progress"], body["error"]) == (1, None, None)
        assert body["at_rest"] is False
        assert set(body["links"]) == {"self", "state", "retry"}


def test_the_links_in_json_open_the_run_for_a_program_without_cookies(parcels: Site) -> None:
    links = parcels.client().post("/parcel/book", headers=JSON).get_json()["links"]
    program = parcels.app.test_client(use_cookies=False)
    state = program.get(links["state"], headers=JSON)
    assert (state.status_code, state.get_json()["state"]) == (200, "waiting")
    parcels.work()
    assert program.get(links["state"]).get_json()["at_rest"] is True
    finished = program.get(links["self"], headers=JSON)
    assert finished.status_code == 200
    assert finished.get_json()["result"] == "<p>book weighs 1</p>"
    assert program.get(links["self"], headers=HTML).text == "<p>book weighs 1</p>"


@pytest.mark.parametrize(
    ("accept", "is_json"),
    [
        ("application/json", True),
        ("application/json, text/html;q=0.9", True),
        ("text/html;q=0.5, application/json", True),
        ("*/*", False),
        ("text/html, application/json", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        (None, False),
    ],
)
def test_json_is_for_clients_that_prefer_it(
    parcels: Site, accept: str | None, *, is_json: bool
) -> None:
    answer = parcels.client().get("/parcel/book", headers={"Accept": accept} if accept else {})
    assert answer.is_json is is_json


# -- keys and caching ------------------------------------------------------------------------------


def get_parcel(client: FlaskClient) -> str:
    answer = client.get("/parcel/book?fresh=1")
    return answer.text if answer.status_code == 200 else str(answer.status_code)


def test_without_caching_the_end_is_shown_once_and_then_it_starts_again(parcels: Site) -> None:
    client = parcels.client()
    seen = [get_parcel(client)]
    parcels.work()
    seen += [get_parcel(client), get_parcel(client)]
    parcels.work()
    seen += [get_parcel(client)]
    assert seen == ["202", "<p>book weighs 1</p>", "202", "<p>book weighs 1</p>"]
    assert parcels.lines == ["packed book", "sent book"] * 2


def test_without_caching_an_end_that_comes_while_the_page_is_made_is_not_used_up_unseen(
    parcels: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = parcels.client()
    client.get("/parcel/book?fresh=1")
    engine = parcels.app.extensions["flowroute"].engine
    visit = engine.visit

    def visit_then_finish(*arguments: Any, **options: Any) -> Any:
        outcome = visit(*arguments, **options)
        parcels.work()
        return outcome

    monkeypatch.setattr(engine, "visit", visit_then_finish)
    assert get_parcel(client) == "202"
    monkeypatch.undo()
    assert get_parcel(client) == "<p>book weighs 1</p>"


def test_without_caching_a_post_after_the_end_starts_again(parcels: Site) -> None:
    client = parcels.client()
    first = client.post("/parcel/book?fresh=1").location
    assert client.post("/parcel/book?fresh=1").location == first  # still going on
    parcels.work()
    assert client.get(first).text == "<p>book weighs 1</p>"
    second = client.post("/parcel/book?fresh=1").location
    assert second != first
    assert client.get(second).status_code == 202
    assert client.get(first).status_code == 200


def test_without_caching_a_program_sees_the_end_once(parcels: Site) -> None:
    client = parcels.client()
    client.get("/parcel/book?fresh=1", headers=JSON)
    parcels.work()
    states = [
        client.get("/parcel/book?fresh=1", headers=JSON).get_json()["state"] for _ in range(2)
    ]
    assert states == ["done", "waiting"]


def test_without_caching_a_failed_run_is_kept_so_that_it_can_be_retried(site: Site) -> None:
    SiteCard.accepts.clear()
    site.route("/", lambda: site.flows.respond(SiteCard().charge(), key="k", cache=False))
    client = site.client()
    client.get("/")
    site.work()
    for _ in range(2):
        assert client.get("/").status_code == 500
    client.post("/")
    assert site.run.state == "failed"


def test_without_caching_a_cancelled_run_is_shown_once(parcels: Site) -> None:
    client = parcels.client()
    get_parcel(client)
    with parcels.app.app_context():
        parcels.run.cancel()
    assert [get_parcel(client), get_parcel(client)] == ["410", "202"]


def test_without_caching_a_final_page_is_shown_once(site: Site) -> None:
    site.route("/", lambda: site.flows.respond(SiteForm().address(), key="k", cache=False))
    client = site.client()
    assert client.get("/").status_code == 200
    own = attributes(client.get("/"), "#own")["href"]
    client.post(own, data={"street": "Elm"})
    client.post(own, data={})
    assert "thank you, Elm" in client.get("/").text
    assert "thank you, Elm" not in client.get("/").text
    assert len(site.runs) == 2


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_twenty_requests_at_once_with_one_key_start_one_run(
    make_site: MakeSite, database_url: str, method: str
) -> None:
    site = with_parcels(make_site(database_url))
    gate = threading.Barrier(20)

    def ask(_: int) -> int:
        client = site.client()
        gate.wait(30)
        return client.open("/parcel/book", method=method).status_code

    statuses = list(at_once(20, ask))
    assert statuses == [202 if method == "GET" else 303] * 20
    assert site.run.key == "book"
    assert site.shelf is not None
    assert len(site.shelf.hints) == 1
    assert site.lines == ["packed book"]


@pytest.mark.parametrize("key", ["", "k" * 201, "a\x00b"])
def test_a_key_that_no_run_can_hold_is_refused_in_words(site: Site, key: str) -> None:
    site.route("/", lambda: site.flows.respond(SiteResult().end(1), key=key))
    for method in ("GET", "POST", "HEAD"):
        with pytest.raises(ArgumentError, match="key"):
            site.client().open("/", method=method)


def test_what_no_run_can_start_with_is_refused_in_words(site: Site) -> None:
    parcel = SiteParcel(name="x")
    site.route("/", lambda: site.flows.respond(parcel.send(1), key="k"))
    with pytest.raises(TransitionError, match="no start step"):
        site.client().get("/")


# -- the view's own writes -------------------------------------------------------------------------


def test_what_the_view_wrote_commits_together_with_the_start(
    make_site: MakeSite, database_url: str
) -> None:
    site = make_site(database_url)

    def view() -> Any:
        site.db.session.add(Line(text="by the view"))
        return site.flows.respond(SiteParcel(name="x").pack(), key="k")

    site.route("/", view)
    assert site.client().post("/").status_code == 303
    assert site.lines == ["by the view", "packed x"]


@pytest.mark.parametrize("flush", [False, True])
def test_what_the_view_wrote_is_undone_when_the_start_is_refused(
    make_site: MakeSite, database_url: str, *, flush: bool
) -> None:
    site = make_site(database_url)

    def view() -> Any:
        site.db.session.add(Line(text="by the view"))
        if flush:
            site.db.session.flush()
        return site.flows.respond(SiteResult().end(threading.Lock()), key="k")

    site.route("/", view)
    with pytest.raises(UnstorableValue, match="lock"):  # no checkpoint can hold the argument
        site.client().post("/")
    assert (site.lines, site.runs) == ([], [])


def test_a_view_that_holds_the_write_lock_is_not_held_up_by_its_first_start_nor_by_a_new_one(
    make_site: MakeSite, database_url: str
) -> None:
    site = make_site(database_url)

    def view() -> Any:
        site.db.session.add(Line(text="by the view"))
        site.db.session.flush()
        return site.flows.respond(SiteParcel(name="x").pack(), key="k", cache=False)

    site.route("/", view)
    began = time.monotonic()
    for _ in range(2):
        assert site.client().post("/").status_code == 303
        site.work()
    assert time.monotonic() - began < BUSY_TIMEOUT_SECONDS
    assert site.lines == ["by the view", "packed x", "sent x"] * 2
    assert [run.key for run in site.runs] == ["k", None]


def test_of_views_that_start_one_key_at_once_only_the_first_ones_writes_are_kept(
    make_site: MakeSite, database_url: str
) -> None:
    site = make_site(database_url)
    gate = threading.Barrier(8)

    def view() -> Any:
        site.db.session.add(Line(text="by the view"))
        gate.wait(30)
        return site.flows.respond(SiteParcel(name="x").pack(), key="k")

    site.route("/", view)
    statuses = list(at_once(8, lambda _: site.client().post("/").status_code))
    assert statuses == [303] * 8
    assert site.lines == ["by the view", "packed x"]


def test_a_step_that_fails_at_the_start_undoes_its_writes_and_keeps_the_views(
    make_site: MakeSite, database_url: str
) -> None:
    site = make_site(database_url)

    def view() -> Any:
        site.db.session.add(Line(text="by the view"))
        return site.flows.respond(SiteFailing().begin(), key="k")

    site.route("/", view)
    assert site.client().get("/").status_code == 500
    assert (site.run.state, site.lines) == ("failed", ["by the view"])
