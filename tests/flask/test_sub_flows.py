"""Sub-flows on a site: their pages are shown where the run that called them is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.flask.flows import SiteForm, SiteQuiz
from tests.flask.support import JSON, Site, attributes, form_field, soup

if TYPE_CHECKING:
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse


def problem(page: TestResponse) -> str:
    """What the page says."""
    found = soup(page).select_one("#problem")
    assert found is not None, page.text
    return found.text


@pytest.fixture
def quiz(site: Site) -> Site:
    """A site with a quiz at /quiz."""
    site.route("/quiz", lambda: site.flows.respond(SiteQuiz().welcome(), key="k"))
    return site


def asked(client: FlaskClient, address: str = "/quiz") -> TestResponse:
    """The page of the sub-flow."""
    welcome = client.get(address)
    client.post(address, data=form_field(welcome))
    page = client.get(address)
    assert problem(page) == "why?"
    return page


@pytest.mark.parametrize("where", ["the view", "the run"])
def test_the_page_of_a_sub_flow_is_shown_and_answered_at_the_address_of_the_run(
    quiz: Site, where: str
) -> None:
    client = quiz.client()
    own = attributes(client.get("/quiz"), "#own")["href"]
    address = "/quiz" if where == "the view" else own
    page = asked(client, address)
    taken = client.post(address, data={**form_field(page), "answer": "42"})
    assert (taken.status_code, taken.location) == (303, address)
    waiting = client.get(address)
    assert waiting.status_code == 202
    assert "Check the answer" in waiting.text
    quiz.work()
    shown = client.get(address)
    assert (shown.status_code, problem(shown)) == (200, "42, well said")


def test_a_form_without_the_hidden_field_answers_the_page_that_is_shown(quiz: Site) -> None:
    client = quiz.client()
    own = attributes(client.get("/quiz"), "#own")["href"]
    asked(client, own)
    assert client.post(own, data={"answer": "42"}).status_code == 303
    quiz.work()
    assert problem(client.get(own)) == "42, well said"


def test_a_form_of_the_sub_flow_that_comes_twice_is_taken_once(quiz: Site) -> None:
    client = quiz.client()
    page = asked(client)
    for _ in range(2):
        answer = client.post("/quiz", data={**form_field(page), "answer": "42"})
        assert (answer.status_code, answer.location) == (303, "/quiz")
    quiz.work()
    late = client.post("/quiz", data={**form_field(page), "answer": "43"})
    assert (late.status_code, late.location) == (303, "/quiz")
    assert problem(client.get("/quiz")) == "42, well said"


def test_a_form_of_another_run_is_refused_at_the_run_s_address(quiz: Site) -> None:
    quiz.route("/other", lambda: quiz.flows.respond(SiteForm().address(), key="other"))
    client = quiz.client()
    own = attributes(client.get("/quiz"), "#own")["href"]
    asked(client, own)
    foreign = form_field(client.get("/other"))
    assert client.post(own, data={**foreign, "answer": "42"}).status_code == 400
    assert problem(client.get(own)) == "why?"


def test_a_sub_flow_that_fails_shows_that_the_run_failed_and_a_retry_goes_on_with_it(
    quiz: Site,
) -> None:
    client = quiz.client()
    page = asked(client)
    client.post("/quiz", data={**form_field(page), "answer": "wrong"})
    quiz.work()
    failed = client.get("/quiz")
    assert failed.status_code == 500
    action = attributes(failed, "form[action$='/retry']")["action"]
    again = client.post(action, data=form_field(failed))
    assert (again.status_code, again.location) == (303, "/quiz")
    waiting = client.get("/quiz")
    assert waiting.status_code == 202
    assert "Check the answer" in waiting.text


def test_a_program_is_told_where_the_sub_flow_is(quiz: Site) -> None:
    client = quiz.client()
    asked(client)
    body = client.get("/quiz", headers=JSON).get_json()
    assert (body["state"], body["waiting_for"]) == ("waiting", "children")
    child = client.get(body["links"]["child"], headers=JSON).get_json()
    assert (child["waiting_for"], child["step"]) == ("page", "ask")
    assert child["id"] != body["id"]


def test_a_waiting_page_of_the_run_leads_away_when_a_sub_flow_is_called(quiz: Site) -> None:
    client = quiz.client()
    own = attributes(client.get("/quiz"), "#own")["href"]
    asked(client)
    state = client.get(f"{own}/state").get_json()
    assert (state["waiting_for"], state["at_rest"]) == ("children", True)


def test_the_end_of_a_sub_flow_between_two_looks_is_not_taken_for_the_end_of_the_run(
    quiz: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = quiz.client()
    page = asked(client)
    client.post("/quiz", data={**form_field(page), "answer": "42"})
    with quiz.app.app_context():
        engine = quiz.flows.engine
    current = engine.lookup.current

    def slow(run_id: str) -> object:
        child = current(run_id)
        monkeypatch.undo()
        quiz.work()  # the sub-flow ends now
        return child

    monkeypatch.setattr(engine.lookup, "current", slow)
    assert problem(client.get("/quiz")) == "42, well said"
