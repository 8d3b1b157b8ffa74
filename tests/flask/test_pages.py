"""Pages: steps that answer GETs and POSTs for their run; forms that come once, late, or twice."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from flask import request

from tests.engine.support import crash, set_column
from tests.flask.flows import (
    SiteBroken,
    SiteForm,
    SiteGate,
    SiteParcel,
    SiteWanderer,
)
from tests.flask.support import JSON, Site, at_once, attributes, form_field, in_thread, soup

if TYPE_CHECKING:
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

    from tests.flask.conftest import MakeSite


def problem(page: TestResponse) -> str:
    """What the page says is wrong, or asks."""
    found = soup(page).select_one("#problem")
    assert found is not None, page.text
    return found.text


def with_form(site: Site) -> Site:
    """Add /order, which shows the form in place."""
    site.route("/order", lambda: site.flows.respond(SiteForm().address(), key="k"))
    return site


@pytest.fixture
def order(site: Site) -> Site:
    """A site with a form at /order, on SQLite."""
    return with_form(site)


def own_address(client: FlaskClient) -> str:
    """The run's own address, from a link on the page."""
    return attributes(client.get("/order"), "#own")["href"]


# -- looking ---------------------------------------------------------------------------------------


def test_a_flow_may_start_with_a_page(order: Site) -> None:
    page = order.client().get("/order")
    assert (page.status_code, problem(page)) == (200, "")
    assert page.headers["Cache-Control"] == "no-store"
    run = order.run
    assert (run.state, run.waiting_for, run.step) == ("waiting", "page", "address")


def test_looking_changes_nothing_however_often(order: Site) -> None:
    client = order.client()
    own = own_address(client)
    before = order.run.record
    for address in (own, "/order", own):
        assert client.get(address).status_code == 200
        assert client.head(address).status_code == 200
    after = order.run.record
    assert (after.seq, after.epoch, after.state) == (before.seq, before.epoch, before.state)


def test_a_program_is_told_that_the_run_waits_for_a_page(order: Site) -> None:
    answer = order.client().get("/order", headers=JSON)
    assert answer.status_code == 200
    body = answer.get_json()
    assert (body["waiting_for"], body["step"], body["at_rest"]) == ("page", "address", True)


def test_a_page_knows_its_run(order: Site) -> None:
    page = order.client().get("/order")
    assert soup(page).title is not None
    assert attributes(page, "title") == {}
    assert "<title>Two questions</title>" in page.text
    assert attributes(page, "#own")["href"].startswith("/flow/")
    steps = {li["data-name"]: li.text for li in soup(page).select("li")}
    assert steps == {"address": "current", "confirm": "todo", "goodbye": "todo"}
    assert order.run.id in page.text


def test_outside_a_step_templates_have_no_run(order: Site) -> None:
    with order.app.test_request_context():
        context: dict[str, Any] = {}
        order.app.update_template_context(context)
        assert "run" not in context


# -- answering -------------------------------------------------------------------------------------


def test_an_answer_is_taken_and_leads_to_the_next_page(order: Site) -> None:
    client = order.client()
    own = own_address(client)
    taken = client.post(own, data={"street": "Elm"})
    assert (taken.status_code, taken.location) == (303, own)
    assert problem(client.get(own)) == "Is Elm right?"
    assert order.lines == ["address Elm"]


def test_an_answer_with_errors_stays_and_what_it_wrote_is_undone(order: Site) -> None:
    client = order.client()
    own = own_address(client)
    refused = client.post(own, data={"street": ""})
    assert (refused.status_code, problem(refused)) == (422, "Which street?")
    assert refused.headers["Cache-Control"] == "no-store"
    assert order.lines == []
    run = order.run
    assert (run.state, run.waiting_for, run.record.seq) == ("waiting", "page", 0)
    # The page that it answered with is as good as the first one.
    again = client.post(own, data={"street": "Elm"} | form_field(refused))
    assert again.status_code == 303
    assert order.lines == ["address Elm"]


def test_a_form_of_the_page_may_be_posted_to_the_applications_own_address(order: Site) -> None:
    client = order.client()
    page = client.get("/order?from=mail")
    taken = client.post("/order", data={"street": "Elm"} | form_field(page))
    assert (taken.status_code, taken.location) == (303, "/order?from=mail")
    assert problem(client.get("/order")) == "Is Elm right?"
    assert len(order.runs) == 1


def test_an_error_on_a_form_at_the_applications_own_address_is_shown_there(order: Site) -> None:
    client = order.client()
    refused = client.post("/order", data=form_field(client.get("/order")))
    assert (refused.status_code, problem(refused)) == (422, "Which street?")
    assert client.post("/order", data={"street": "Elm"} | form_field(refused)).status_code == 303


def test_a_post_without_the_field_to_the_applications_address_is_a_start_and_no_answer(
    order: Site,
) -> None:
    client = order.client()
    client.get("/order")
    started = client.post("/order", data={"street": "Elm"})
    assert started.status_code == 303
    assert started.location.startswith("/flow/")
    assert order.run.step == "address"


def test_a_page_that_raises_is_a_500_and_its_run_is_still_there(order: Site) -> None:
    client = order.client()
    own = own_address(client)
    order.app.config["PROPAGATE_EXCEPTIONS"] = False
    assert client.post(own, data={"street": "raise"}).status_code == 500
    assert order.lines == []
    run = order.run
    assert (run.state, run.waiting_for, run.step, run.error) == ("waiting", "page", "address", None)
    assert client.get(own).status_code == 200
    assert client.post(own, data={"street": "Elm"}).status_code == 303


def test_a_page_that_raises_when_it_is_looked_at_is_a_500_and_its_run_is_still_there(
    site: Site,
) -> None:
    site.route("/", lambda: site.flows.respond(SiteBroken().broken(), key="k"))
    site.app.config["PROPAGATE_EXCEPTIONS"] = False
    assert site.client().get("/").status_code == 500
    assert (site.run.state, site.run.waiting_for) == ("waiting", "page")


def test_a_page_may_advance_when_it_is_looked_at(site: Site) -> None:
    site.route("/", lambda: site.flows.respond(SiteWanderer().hurry(), key="k"))
    client = site.client()
    assert client.get("/").status_code == 202  # it went on to the worker step
    site.work()
    assert client.get("/").text == "arrived"


# -- late and double answers -----------------------------------------------------------------------


def test_a_stale_form_is_not_taken_and_leads_to_the_current_page(order: Site) -> None:
    client = order.client()
    first_page = client.get("/order")
    own = attributes(first_page, "#own")["href"]
    client.post(own, data={"street": "Elm"} | form_field(first_page))
    stale = client.post(own, data={"street": "Oak"} | form_field(first_page))
    assert (stale.status_code, stale.location) == (303, "/order")
    assert problem(client.get("/order")) == "Is Elm right?"
    assert order.lines == ["address Elm"]


def test_going_back_and_sending_the_first_form_again_runs_nothing_twice(order: Site) -> None:
    client = order.client()
    first_page = client.get("/order")
    client.post("/order", data={"street": "Elm"} | form_field(first_page))
    client.post("/order", data=form_field(client.get("/order")))
    for _ in range(2):
        late = client.post("/order", data={"street": "Oak"} | form_field(first_page))
        assert late.status_code == 303
    assert "thank you, Elm" in problem(client.get("/order"))
    assert order.lines == ["address Elm", "confirmed Elm"]


def test_while_one_answer_is_taken_another_one_waits_for_nothing_and_does_nothing(
    site: Site,
) -> None:
    gate = SiteGate.reset()
    site.route("/order", lambda: site.flows.respond(SiteGate().ask(), key="k"))
    client = site.client()
    page = client.get("/order")
    first: list[int] = []
    thread = in_thread(
        lambda: first.append(
            site.client_like(client).post("/order", data=form_field(page)).status_code
        )
    )
    assert gate.entered.wait(10)
    second = client.post("/order", data=form_field(page))
    assert (second.status_code, second.location) == (303, "/order")
    assert client.get("/order").status_code == 202  # somebody is at it
    gate.opened.set()
    thread.join(10)
    assert first == [303]
    assert client.get("/order").text == "answered 1 times"


@pytest.mark.parametrize("with_field", [True, False])
def test_of_twenty_answers_at_once_one_is_taken(
    make_site: MakeSite, database_url: str, *, with_field: bool
) -> None:
    site = with_form(make_site(database_url))
    client = site.client()
    page = client.get("/order")
    own = attributes(page, "#own")["href"]
    data = {"street": "Elm"} | (form_field(page) if with_field else {})
    clients = [site.client_like(client) for _ in range(20)]
    gate = threading.Barrier(20)

    def send(number: int) -> int:
        gate.wait(30)
        return clients[number].post(own, data=data).status_code

    assert set(at_once(20, send)) == {303}
    assert site.lines[0] == "address Elm"
    # Without the field, one that came later is taken for an answer to the next page.
    assert len(site.lines) == 1 or not with_field
    assert site.lines.count("address Elm") == 1
    assert site.lines.count("confirmed Elm") <= 1


def test_an_answer_whose_process_died_is_asked_for_again(order: Site) -> None:
    client = order.client()
    own = own_address(client)
    with order.app.app_context():
        engine = order.flows.engine
        crash(engine, order.run)  # a claim that nobody follows up
        then = datetime.now(UTC)
        lease = {
            "updated_at": then - timedelta(minutes=2),
            "lease_until": then - timedelta(minutes=1),
        }
        set_column(engine, order.run, **lease)
    assert client.get(own).status_code == 202
    with order.app.app_context():
        engine.recover()
    order.work()
    assert client.get(own).status_code == 200
    assert client.post(own, data={"street": "Elm"}).status_code == 303


# -- final pages -----------------------------------------------------------------------------------


@pytest.fixture
def last(order: Site) -> tuple[FlaskClient, str]:
    """A visitor whose run is at its final page, and the run's own address."""
    client = order.client()
    own = own_address(client)
    client.post(own, data={"street": "Elm"})
    client.post(own)
    assert order.run.state == "done"
    return client, own


def test_a_final_page_is_made_anew_on_every_visit(last: tuple[FlaskClient, str]) -> None:
    client, own = last
    for address in (own, "/order", own):
        page = client.get(address)
        assert (page.status_code, problem(page)) == (200, "GET: thank you, Elm")
        assert page.headers["Cache-Control"] == "private, no-cache"
    assert client.head(own).status_code == 200


def test_a_post_to_a_final_page_leads_to_it_and_is_not_shown_to_it(
    last: tuple[FlaskClient, str],
) -> None:
    client, own = last
    for data in ({}, form_field(client.get(own))):
        posted = client.post(own, data=data)
        assert (posted.status_code, posted.location) == (303, own)


def test_a_post_to_a_run_that_has_a_final_page_ahead_ends_it_and_is_not_shown_to_the_page(
    order: Site, last: tuple[FlaskClient, str]
) -> None:
    client, own = last
    with order.app.app_context():  # as after a delay before the page
        set_column(order.flows.engine, order.run, state="ready", finished_at=None)
    assert client.post(own).status_code == 303
    assert order.run.state == "done"
    assert problem(client.get(own)) == "GET: thank you, Elm"


def test_a_final_page_shows_its_steps_as_done(last: tuple[FlaskClient, str]) -> None:
    client, own = last
    assert {li.text for li in soup(client.get(own)).select("li")} == {"done"}


def test_a_program_is_told_that_a_final_page_is_the_end(last: tuple[FlaskClient, str]) -> None:
    client, own = last
    answer = client.get(own, headers=JSON)
    assert (answer.status_code, answer.get_json()["state"]) == (200, "done")
    assert "result" not in answer.get_json()


# -- templates elsewhere ---------------------------------------------------------------------------


def test_any_template_can_be_made_live(site: Site) -> None:
    def view() -> Any:
        run = site.flows.engine.start(SiteParcel(name="x").pack(), key="k")
        return site.app.jinja_env.from_string("<head>{{ run.script() }}</head>").render(
            run=site.flows.view(run)
        )

    site.route("/mine", view)
    page = site.client().get("/mine")
    script = attributes(page, "script#flowroute")
    assert script["data-state-url"] == attributes(page, "#flowroute")["data-state-url"]
    assert script["data-seq"] == "1"


def test_a_step_on_a_worker_makes_links_for_whoever_gets_them(
    make_site: MakeSite, sqlite_url: str
) -> None:
    site = make_site(sqlite_url, SERVER_NAME="shop.example")
    site.route("/", lambda: site.flows.respond(SiteWanderer().mail(), key="k"))
    site.client().get("/")
    site.work()
    address = site.lines[-1]
    assert address.startswith("http://shop.example/flow/")
    assert site.client().get(address).status_code == 200


def test_a_link_can_be_made_for_this_visitor_or_for_whoever_has_it(order: Site) -> None:
    own: dict[str, str] = {}

    def links() -> str:
        run = order.run
        own["mine"] = order.flows.url_for(run)
        own["shared"] = order.flows.url_for(run, shared=True)
        own["mailed"] = order.flows.url_for(run, shared=True, external=True)
        return request.host

    order.route("/links", links)
    client = order.client()
    client.get("/order")
    client.get("/links")
    assert client.get(own["mine"]).status_code == 200
    assert own["mailed"] == f"http://localhost{own['shared']}"
    assert order.client().get(own["mine"]).status_code == 404
    assert order.client().get(own["shared"]).status_code == 200
