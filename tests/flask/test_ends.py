"""What is shown of a run that is done, has failed, was cancelled, or is blocked."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from markupsafe import Markup
from pydantic import BaseModel

from flowroute.errors import RunStateError, TransitionError
from tests.engine.support import set_column
from tests.flask.flows import SiteCard, SiteParcel, SiteResult, SiteSilent
from tests.flask.support import HTML, JSON, Line, Site, attributes, form_field, soup

if TYPE_CHECKING:
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

    from tests.flask.conftest import MakeSite

NASTY = "<script>alert(1)</script>"


class Colour(enum.Enum):
    RED = "red"


class Receipt(BaseModel):
    total: Decimal
    paid_on: date


@dataclass
class Box:
    size: int


class Opaque:
    def __repr__(self) -> str:
        return NASTY


def ended_with(site: Site, value: Any) -> tuple[TestResponse, TestResponse]:
    """The page and the JSON of a run that ended with a value."""
    site.route("/", lambda: site.flows.respond(SiteResult().end(value), key="k"))
    client = site.client()
    return client.get("/", headers=HTML), client.get("/", headers=JSON)


# -- done ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text", "kind"),
    [
        ("<p>hello</p>", "<p>hello</p>", "text/html"),
        (Markup("<p>safe</p>"), "<p>safe</p>", "text/html"),
        (b"hello", "hello", "text/html"),
        ({"total": 3}, '{"total":3}\n', "application/json"),
        ([1, "two"], '[1,"two"]\n', "application/json"),
        ("", "", "text/html"),
    ],
)
def test_what_a_view_could_return_is_sent_as_if_one_had(
    site: Site, value: Any, text: str, kind: str
) -> None:
    page, _ = ended_with(site, value)
    assert (page.status_code, page.text, page.mimetype) == (200, text, kind)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (7, "7"),
        (False, "False"),
        (Decimal("1.50"), "1.50"),
        (("text", 500), "500"),  # not a status: a tuple is a value like any other
        ({"set": {1}}, "set"),  # JSON can not say it
        (Opaque(), NASTY),
        (Colour.RED, "RED"),
    ],
)
def test_any_other_result_is_shown_as_text_on_the_last_page(
    site: Site, value: Any, shown: str
) -> None:
    page, _ = ended_with(site, value)
    assert page.status_code == 200
    result = soup(page).select_one(".is-result .report-text")
    assert result is not None
    assert shown in result.text
    assert "alert" not in str(soup(page).select("script"))


def test_a_run_that_ended_without_a_result_says_only_that_it_has(site: Site) -> None:
    page, program = ended_with(site, None)
    assert page.status_code == 200
    assert soup(page).select(".is-result") == []
    assert program.get_json()["result"] is None


@pytest.mark.parametrize(
    ("value", "json"),
    [
        ("<p>hello</p>", "<p>hello</p>"),
        (list(range(100)), list(range(100))),
        ({"token": "for the program", "text": "x" * 1000}, None),
        (Receipt(total=Decimal("1.50"), paid_on=date(2026, 11, 3)), None),
        ({1, 2}, [1, 2]),
        (Box(3), {"size": 3}),
        (("a", 1), ["a", 1]),
        (float("nan"), None),
        (b"text", "text"),
        (Colour.RED, "red"),
    ],
)
def test_a_program_gets_the_whole_result(site: Site, value: Any, json: Any) -> None:
    _, program = ended_with(site, value)
    assert program.status_code == 200
    if isinstance(value, Receipt):
        json = {"total": "1.50", "paid_on": "2026-11-03"}
    elif isinstance(value, dict):
        json = value
    assert program.get_json()["result"] == json


@pytest.mark.parametrize("value", [Opaque(), {"held": Opaque()}, b"\xff"])
def test_of_a_result_that_json_can_not_say_a_program_gets_what_people_see(
    site: Site, value: Any
) -> None:
    _, program = ended_with(site, value)
    assert program.status_code == 200
    assert program.get_json()["result"] is not None


def test_a_result_that_today_s_code_can_not_read_is_missing_and_logged(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    line = Line(text="gone tomorrow")
    site.route("/", lambda: site.flows.respond(SiteResult().end(line), key="k"))
    client = site.client()
    assert "Line 1" in soup(client.get("/")).text
    with site.app.app_context():
        site.db.session.query(Line).delete()
        site.db.session.commit()
    page = client.get("/")
    assert page.status_code == 200
    assert soup(page).select(".is-result") == []
    assert "result" not in client.get("/", headers=JSON).get_json()
    assert "its result can not be shown" in caplog.text


def test_a_page_that_returns_nothing_is_an_error_that_names_it(site: Site) -> None:
    site.route("/", lambda: site.flows.respond(SiteSilent().silent(), key="k"))
    with pytest.raises(TransitionError, match=r"page SiteSilent\.silent of run .* returned None"):
        site.client().get("/")


# -- failed ----------------------------------------------------------------------------------------


@pytest.fixture
def card(site: Site) -> Site:
    """A site whose /pay has failed, at a bank that accepts the card from now on."""
    SiteCard.accepts.clear()
    site.route("/pay", lambda: site.flows.respond(SiteCard().charge(), key="k"))
    site.client().post("/pay")
    site.work()
    SiteCard.accepts.set()
    return site


def retry_form(page: TestResponse) -> tuple[str, dict[str, str]]:
    """Where the error page's form leads, and what it sends."""
    form = attributes(page, "form")
    assert form["method"] == "post"
    return form["action"], form_field(page)


def test_a_failed_run_answers_with_an_error_page_that_offers_a_retry(card: Site) -> None:
    failed = card.client().get("/pay", headers=HTML)
    assert failed.status_code == 500
    assert failed.headers["Cache-Control"] == "no-store"
    assert "Retry-After" not in failed.headers
    assert soup(failed).select("form button[type=submit]")


def test_what_was_raised_is_told_to_nobody_unless_it_is_meant_to(
    card: Site, make_site: MakeSite, sqlite_url: str
) -> None:
    for headers in (HTML, JSON):
        assert "funds" not in card.client().get("/pay", headers=headers).text
    talkative = make_site(sqlite_url, FLOWROUTE_SHOW_ERRORS=True)
    talkative.route("/pay", lambda: talkative.flows.respond(SiteCard().charge(), key="k"))
    shown = talkative.client().get("/pay", headers=HTML)
    assert "CardRefusedError: <b>no funds</b>" in soup(shown).text
    assert "<b>no funds" not in shown.text
    error = talkative.client().get("/pay", headers=JSON).get_json()["error"]
    assert error == "CardRefusedError: <b>no funds</b>"


def test_in_debug_mode_what_was_raised_is_shown(card: Site) -> None:
    card.app.debug = True
    assert "no funds" in soup(card.client().get("/pay", headers=HTML)).text


def test_the_retry_of_the_error_page_works_and_leads_back_to_where_it_was(card: Site) -> None:
    client = card.client()
    address, form = retry_form(client.get("/pay"))
    asked = client.post(address, data=form)
    assert (asked.status_code, asked.location) == (303, "/pay")
    assert client.get("/pay").status_code == 202
    card.work()
    assert client.get("/pay").text == "charged"


def test_asking_twice_for_a_retry_retries_once(card: Site) -> None:
    client = card.client()
    address, form = retry_form(client.get("/pay"))
    for _ in range(2):
        assert client.post(address, data=form).status_code == 303
    card.work()
    assert client.post(address, data=form).status_code == 303  # done by now
    assert [checkpoint.step for checkpoint in card.run.checkpoints] == ["charge", None]


def test_a_program_retries_through_the_link_it_was_given(card: Site) -> None:
    program = card.app.test_client(use_cookies=False)
    failed = program.get("/pay", headers=JSON)
    assert (failed.status_code, failed.get_json()["state"]) == (500, "failed")
    links = failed.get_json()["links"]
    assert program.post(links["retry"], headers=JSON).status_code == 303
    assert program.get(links["self"], headers=JSON).status_code == 202
    card.work()
    assert program.get(links["self"], headers=JSON).get_json()["result"] == "charged"


def test_a_retry_by_get_is_no_retry(card: Site) -> None:
    client = card.client()
    address, _ = retry_form(client.get("/pay"))
    assert client.get(address).status_code == 405
    assert card.run.state == "failed"


# -- cancelled and blocked -------------------------------------------------------------------------


@pytest.fixture
def parcel(site: Site) -> Site:
    """A site whose /parcel waits for a worker."""
    site.route("/parcel", lambda: site.flows.respond(SiteParcel(name="x").pack(), key="k"))
    site.client().post("/parcel")
    return site


def look(client: FlaskClient) -> tuple[TestResponse, TestResponse]:
    """The page and the JSON of /parcel."""
    return client.get("/parcel", headers=HTML), client.get("/parcel", headers=JSON)


def test_a_cancelled_run_says_so_and_is_gone(parcel: Site) -> None:
    with parcel.app.app_context():
        parcel.run.cancel()
    page, program = look(parcel.client())
    assert (page.status_code, program.status_code) == (410, 410)
    assert "cancelled" in soup(page).text
    assert (program.get_json()["state"], program.get_json()["at_rest"]) == ("cancelled", True)
    with parcel.app.app_context(), pytest.raises(RunStateError):
        parcel.run.retry()


def test_a_blocked_run_is_on_hold_until_a_deploy_and_then_goes_on(parcel: Site) -> None:
    with parcel.app.app_context():
        engine = parcel.flows.engine
        set_column(
            engine, parcel.run, flow="SiteParcelOfTomorrow", state="blocked", waiting_for=None
        )
        run = parcel.run
    client = parcel.client()
    with parcel.app.test_request_context():
        own = parcel.flows.url_for(run, shared=True)
    page = client.get(own, headers=HTML)
    program = client.get(own, headers=JSON)
    assert (page.status_code, program.status_code) == (503, 503)
    assert page.headers["Retry-After"]
    assert "Site parcel of tomorrow" in soup(page).text
    assert "No flow called" not in page.text  # visitors are told no more than that it waits
    assert program.get_json()["state"] == "blocked"
    with parcel.app.app_context():
        set_column(engine, run, flow="SiteParcel")
    client.get(own)  # this visit has it tried with today's code
    parcel.work()
    assert client.get(own).text == "<p>x weighs 1</p>"
