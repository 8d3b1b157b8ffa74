"""When and where to flowroute.js leaves its page: once, and for this site only."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from tests.browser.fake_site import TOKEN, Progress
from tests.browser.watching import NEVER, hurry, live, navigations, once_it_leaves
from tests.waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.conftest import OpenSite
    from tests.browser.fake_site import FakeSite


# ---- leaving


def test_the_page_is_replaced_so_that_back_does_not_return_to_it(
    page: Page, open_site: OpenSite
) -> None:
    site = open_site(poll_seconds=NEVER, next_url="/landed")
    page.goto(f"{site.origin}/shop")
    live(page, site)
    site.finish()
    expect(page.get_by_role("heading", name="Landed")).to_be_visible()
    page.go_back()
    assert page.url == f"{site.origin}/shop"


def test_a_run_at_rest_before_the_page_connects_is_not_missed(
    page: Page, open_site: OpenSite
) -> None:
    site = open_site(poll_seconds=NEVER, next_url="/landed")
    site.move(tell=False, at_rest=True)  # it was not when the page was rendered
    page.goto(site.url)
    page.wait_for_url("**/landed")


@pytest.mark.parametrize("repetition", range(10))
def test_a_socket_event_and_a_poll_together_navigate_exactly_once(
    page: Page, open_site: OpenSite, repetition: int
) -> None:
    site = open_site(poll_seconds=0.02, next_url="/slow")
    live(page, site)
    asked = navigations(page)
    site.poll_gate.clear()
    site.finish(tell=False)
    seen = site.polls
    wait_until(lambda: site.polls > seen, what="a poll that has read the run at rest")

    start = threading.Barrier(2)

    def push() -> None:
        start.wait(10)
        time.sleep(repetition / 2000)  # now the one is first, now the other
        site.push(site.state())

    pusher = threading.Thread(target=push)
    pusher.start()
    start.wait(10)
    site.poll_gate.set()
    pusher.join()
    wait_until(lambda: "/slow" in site.visits, what="the next page asked for")
    for _ in range(3):
        site.push(site.state())
    site.slow_page.set()
    expect(page.get_by_role("heading", name="Landed late")).to_be_visible()
    assert asked == [f"{site.origin}/slow"]
    assert site.visits.count("/slow") == 1


def test_a_next_page_that_takes_thirty_seconds_still_loads(page: Page, open_site: OpenSite) -> None:
    site = open_site(next_url="/slow", poll_seconds=NEVER)
    hurry(page)
    once_it_leaves(  # all that might make it do something else
        page,
        """
        document.dispatchEvent(new Event("visibilitychange"));
        window.dispatchEvent(new Event("online"));
        fetch("/report", {method: "POST", body: text});
        """,
    )
    live(page, site)
    asked = navigations(page)
    site.finish()
    wait_until(lambda: len(site.reports) >= 30, what="thirty of the page's seconds")
    site.push(site.state())
    assert "Continue" not in site.reports[0]
    assert "Continue" in site.reports[-1]
    site.slow_page.set()
    expect(page.get_by_role("heading", name="Landed late")).to_be_visible()
    assert asked == [f"{site.origin}/slow"]
    assert site.visits.count("/slow") == 1
    assert site.polls == 0


def test_a_download_leaves_a_page_with_a_link_to_it(page: Page, open_site: OpenSite) -> None:
    site = open_site(next_url="/download?part=2")
    page.clock.install()
    live(page, site)
    with page.expect_download() as download:
        site.finish()
    assert download.value.suggested_filename == "report.csv"
    page.clock.fast_forward(8000)
    link = page.get_by_role("link", name="Continue")
    expect(link).to_have_attribute("href", f"{site.origin}/download?part=2")


def test_a_page_that_leads_back_to_itself_does_not_spin(page: Page, open_site: OpenSite) -> None:
    # An application's own page may carry the script although its run is at rest.
    site = open_site()
    site.move(tell=False, at_rest=True)
    page.goto(site.url)
    started = time.monotonic()
    wait_until(lambda: len(site.visits) >= 4, what="the fourth visit")
    assert time.monotonic() - started >= 2.9
    site.finish()  # Playwright can not close a page that never comes to rest
    expect(page.get_by_role("heading", name="Landed")).to_be_visible()


def test_two_tabs_of_one_run_are_both_live_and_both_leave(page: Page, open_site: OpenSite) -> None:
    site = open_site(poll_seconds=NEVER)
    other = page.context.new_page()
    live(page, site)
    live(other, site)
    site.move(progress=Progress(1, 2, "half"))
    for tab in (page, other):
        expect(tab.get_by_role("status").first).to_have_text("half")
    site.finish()
    for tab in (page, other):
        expect(tab.get_by_role("heading", name="Landed")).to_be_visible()
    assert site.visits.count("/landed") + site.visits.count(f"/flow/{TOKEN}") == 4


# ---- where to


@pytest.mark.parametrize(
    "hostile",
    [
        "javascript:window.opener=document.title='stolen'",
        "JaVa\tScRiPt:document.title='stolen'",
        " javascript:document.title='stolen'",
        "data:text/html,<title>stolen</title>",
        "vbscript:stolen",
        "//evil.example/x",
        "/\\evil.example/x",
        "\\\\evil.example/x",
        "\t//evil.example",
        "///evil.example",
        "https://evil.example/",
        "http://127.0.0.1:1/other-port",
        "http://user@evil.example/",
        "blob:http://127.0.0.1/3f0c",
        "file:///etc/passwd",
        "http://[",
    ],
)
def test_a_hostile_next_address_is_refused(page: Page, open_site: OpenSite, hostile: str) -> None:
    site = open_site(next_url=hostile, poll_seconds=NEVER, policy="")
    live(page, site)
    asked = navigations(page)
    site.finish()
    expect(page.get_by_role("heading", name="Landed")).to_be_visible()
    assert asked == [site.url]  # the page's own address instead
    assert page.url == site.url
    expect(page).to_have_title("Landed")


@pytest.mark.parametrize(
    "odd",
    [
        '/a"onload=alert(1)',
        "/a'b",
        "/</script><script>alert(1)</script>",
        "/@evil.example",
        "/%2F/x",
    ],
)
def test_an_odd_address_on_the_site_is_only_an_address(
    page: Page, open_site: OpenSite, odd: str
) -> None:
    site = open_site(next_url=odd, poll_seconds=NEVER, policy="")
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    live(page, site)
    site.finish()
    expect(page).to_have_title("Elsewhere on the site")
    assert urlsplit(page.url).netloc == urlsplit(site.origin).netloc


@pytest.mark.parametrize(
    ("next_url", "landed_at"),
    [
        ("/landed?order=7&x=%C3%A4#receipt", "/landed?order=7&x=%C3%A4#receipt"),
        ("../landed", "/landed"),
        ("", f"/flow/{TOKEN}"),
    ],
)
def test_an_address_of_the_site_is_gone_to_as_it_is(
    page: Page, open_site: OpenSite, next_url: str, landed_at: str
) -> None:
    site = open_site(next_url=next_url, poll_seconds=NEVER)
    live(page, site)
    site.finish()
    expect(page.get_by_role("heading", name="Landed")).to_be_visible()
    assert page.url == f"{site.origin}{landed_at}"


def test_a_fragment_in_the_pages_address_does_not_keep_it_from_reloading(
    page: Page, site: FakeSite
) -> None:
    page.goto(f"{site.url}#details")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    site.finish()
    expect(page.get_by_role("heading", name="Landed")).to_be_visible()
