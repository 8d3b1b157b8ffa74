"""What run.script() does for pages of an application's own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from playwright.sync_api import expect

from tests.browser.fake_site import (
    TOKEN,
    Progress,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.conftest import OpenSite


def test_script_alone_in_the_head_makes_any_page_leave(page: Page, open_site: OpenSite) -> None:
    site = open_site(
        template="<!doctype html><html><head>{{ run.script() }}<title>Mine</title></head>"
        "<body class=mine><p>One moment</p></body></html>",
        poll_seconds=3600,
    )
    page.goto(site.url)
    site.wait_for_subscriptions()
    site.move(seq=3, step="pack", progress=Progress(1, 2, "half"))
    assert page.locator("body.mine").inner_text() == "One moment"
    assert page.locator("head > title").count() == 1  # the head is still a head
    site.finish()
    expect(page.get_by_role("heading", name="Landed")).to_be_visible()


def test_the_data_may_stand_on_any_element(page: Page, open_site: OpenSite) -> None:
    site = open_site(
        template="<p>One moment</p><div id=flowroute hidden data-token={{ run.token }}"
        " data-seq={{ run.seq }} data-state-url={{ run.state_url }} data-socket-path=/socket.io>"
        "</div>{% set file = '/flowroute/static/' %}"
        "<script src={{ file }}vendor/socket.io.min.js defer></script>"
        "<script src={{ file }}flowroute.js defer></script>"
    )
    page.goto(site.url)
    site.wait_for_subscriptions()
    assert site.subscriptions == [TOKEN]
    site.finish()
    expect(page.get_by_role("heading", name="Landed")).to_be_visible()


def test_parts_that_an_author_marks_are_kept_up_to_date(page: Page, open_site: OpenSite) -> None:
    site = open_site(
        template="{{ run.script() }}<p data-flowroute=message>One moment</p>"
        "<b data-flowroute=percent></b><i data-flowroute=elapsed></i>"
        "<div id=outer role=progressbar data-flowroute=bar></div>"
        "<ul data-flowroute=steps><li data-step=charge data-state=current>"
        "<li data-step=pack data-state=todo></ul>"
        "<em hidden data-flowroute-when='live polling'>connected</em>",
        poll_seconds=3600,
    )
    page.goto(site.url)
    expect(page.get_by_text("connected")).to_be_visible()
    expect(page.locator("[data-flowroute=message]")).to_have_text("One moment")
    site.move(seq=3, step="pack", progress=Progress(1, 4, "a quarter"))
    expect(page.locator("[data-flowroute=message]")).to_have_text("a quarter")
    expect(page.locator("[data-flowroute=percent]")).to_have_text("25%")
    expect(page.locator("[data-flowroute=elapsed]")).to_have_text(re.compile(r"^0:\d\d$"))
    assert page.evaluate("document.getElementById('outer').style.width") == "25%"
    expect(page.locator("#outer")).to_have_attribute("aria-valuenow", "25")
    expect(page.locator("[data-step=charge]")).to_have_attribute("data-state", "done")
    expect(page.locator("[data-step=pack]")).to_have_attribute("data-state", "current")
    site.move(seq=4, progress=None)
    expect(page.locator("[data-flowroute=message]")).to_have_text("One moment")


def test_a_page_can_build_on_the_bundled_one(page: Page, open_site: OpenSite) -> None:
    site = open_site(
        template='{% extends "flowroute/loading.html" %}'
        "{% block picture %}<b>Our logo</b>{% endblock %}"
    )
    page.goto(site.url)
    expect(page.get_by_text("Our logo")).to_be_visible()
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
