"""What flowroute.js does without a socket, without a network, and after a sleep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest
from playwright.sync_api import expect

from tests.browser.fake_site import TOKEN, Progress
from tests.browser.watching import NEVER, hurry, live, once_it_leaves
from tests.waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.conftest import OpenSite
    from tests.browser.fake_site import FakeSite
    from tests.chromium import Problems


REFUSED = "WebSocket connection to .* failed"  # Chromium reports it, no script can keep it quiet
NOT_LOADED = "net::ERR_FAILED"  # the script, as it is aborted
BAD_ANSWER = "Failed to load resource: the server responded with a status of"


# ---- without a socket, without a network, after a sleep


def test_a_page_polls_when_the_socket_is_refused(
    page: Page, open_site: OpenSite, problems: Problems
) -> None:
    problems.allow(REFUSED)
    site = open_site(accepts_socket=False)
    page.goto(site.url)
    expect(page.get_by_text("Checking every few seconds")).to_be_visible()
    site.move(tell=False, progress=Progress(1, 2, "half"))
    expect(page.get_by_role("status").first).to_have_text("half")
    site.finish(tell=False)
    expect(page.get_by_role("heading", name="Landed")).to_be_visible()
    assert site.subscriptions == []


def test_an_application_without_sockets_gets_no_socket_script(
    page: Page, open_site: OpenSite
) -> None:
    site = open_site(offers_socket=False)
    page.goto(site.url)
    assert page.evaluate("typeof window.io") == "undefined"
    site.finish(tell=False)
    expect(page.get_by_role("heading", name="Landed")).to_be_visible()


def test_a_page_polls_when_its_subscription_is_refused(page: Page, open_site: OpenSite) -> None:
    site = open_site(subscribe_error="unknown")
    page.goto(site.url)
    site.wait_for_subscriptions()
    site.finish(tell=False)
    expect(page.get_by_role("heading", name="Landed")).to_be_visible()


def test_polls_become_rarer_from_two_seconds_to_ten_until_something_moves(
    page: Page, open_site: OpenSite
) -> None:
    site = open_site(offers_socket=False, poll_seconds=2)
    hurry(page)
    page.goto(site.url)
    wait_until(lambda: site.polls >= 6, what="six polls")
    site.move(tell=False, seq=3, step="pack")
    expect(page.locator("[data-step=pack]")).to_have_attribute("data-state", "current")
    polls = site.polls
    wait_until(lambda: site.polls > polls, what="the next poll")
    waits = [wait / 1000 for wait in page.evaluate("waits") if wait < 12_000]  # not the time-outs
    assert waits[:6] == pytest.approx([2, 3, 4.5, 6.75, 10, 10], rel=0.101)
    moved = next(index for index, wait in enumerate(waits[5:], 5) if wait < 9)
    assert waits[moved] == pytest.approx(2, rel=0.101)
    assert waits[5:moved] == pytest.approx([10] * (moved - 5), rel=0.101)


def test_hints_that_are_lost_cost_time_only(page: Page, site: FakeSite) -> None:
    live(page, site)
    site.move(tell=False, seq=3, step="pack")
    expect(page.locator("[data-step=pack]")).to_have_attribute("data-state", "current")
    site.finish(tell=False)
    expect(page.get_by_role("heading", name="Landed")).to_be_visible()


def test_a_socket_that_breaks_subscribes_again(page: Page, open_site: OpenSite) -> None:
    site = open_site(poll_seconds=NEVER)
    live(page, site)
    site.cut_sockets()
    site.move(tell=False, progress=Progress(1, 2, "while it was away"))
    site.wait_for_subscriptions(2)
    expect(page.get_by_role("status").first).to_have_text("while it was away")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    site.finish()
    expect(page.get_by_role("heading", name="Landed")).to_be_visible()
    assert site.subscriptions == [TOKEN, TOKEN]


def test_a_laptop_that_slept_ten_minutes_resumes_at_once(page: Page, open_site: OpenSite) -> None:
    site = open_site(offers_socket=False, poll_seconds=NEVER)
    page.clock.install()
    page.goto(site.url)
    site.finish(tell=False)
    page.clock.fast_forward("10:00")
    expect(page.get_by_role("heading", name="Landed")).to_be_visible()


def test_a_socket_that_was_asleep_is_opened_anew(page: Page, open_site: OpenSite) -> None:
    site = open_site(poll_seconds=NEVER)
    live(page, site)  # and looks connected still
    page.evaluate("document.dispatchEvent(new Event('resume'))")
    site.wait_for_subscriptions(2)


@pytest.mark.parametrize(
    "event",
    [
        "document.dispatchEvent(new Event('visibilitychange'))",
        "document.dispatchEvent(new Event('resume'))",
        "window.dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))",
    ],
)
def test_a_visitor_who_comes_back_sees_the_state_at_once(
    page: Page, open_site: OpenSite, event: str
) -> None:
    site = open_site(offers_socket=False, poll_seconds=NEVER)
    page.goto(site.url)
    site.finish(tell=False)
    page.evaluate(event)
    expect(page.get_by_role("heading", name="Landed")).to_be_visible()


def test_a_network_that_comes_back_shows_the_state_at_once(
    page: Page, open_site: OpenSite, problems: Problems
) -> None:
    problems.allow("ERR_INTERNET_DISCONNECTED")  # whatever the browser asks for meanwhile
    site = open_site(offers_socket=False, poll_seconds=NEVER)
    page.goto(site.url)
    page.context.set_offline(True)
    site.finish(tell=False)
    page.context.set_offline(False)
    expect(page.get_by_role("heading", name="Landed")).to_be_visible()


def test_a_page_restored_by_the_back_button_goes_on_again(page: Page, open_site: OpenSite) -> None:
    site = open_site(next_url="/slow")
    once_it_leaves(
        page,
        """
        if (!window.stopped) {
            window.stopped = true;
            window.stop();
            window.dispatchEvent(new PageTransitionEvent("pageshow", {persisted: true}));
        }
        """,
    )
    live(page, site)
    site.finish()
    wait_until(lambda: site.visits.count("/slow") == 2, what="the next page asked for again")
    site.slow_page.set()
    expect(page.get_by_role("heading", name="Landed late")).to_be_visible()


def test_a_server_in_trouble_is_told_calmly_and_asked_again(
    page: Page, open_site: OpenSite, problems: Problems
) -> None:
    problems.allow(f"{BAD_ANSWER} 503")
    site = open_site(offers_socket=False, state_status=503)
    page.goto(site.url)
    expect(page.get_by_text("The connection is interrupted.")).to_be_visible()
    expect(page.get_by_text("Reconnecting")).to_be_visible()
    site.settings.state_status = 200
    expect(page.get_by_text("The connection is interrupted.")).to_be_hidden()
    expect(page.get_by_text("Checking every few seconds")).to_be_visible()
    site.finish(tell=False)
    expect(page.get_by_role("heading", name="Landed")).to_be_visible()


def test_a_run_that_is_gone_ends_the_polls_and_offers_to_load_again(
    page: Page, open_site: OpenSite, problems: Problems
) -> None:
    problems.allow(f"{BAD_ANSWER} 404")
    site = open_site(offers_socket=False, state_status=404)
    page.clock.install()
    page.goto(site.url)
    link = page.get_by_role("link", name="Load it again")
    expect(link).to_be_visible()
    polls = site.polls
    page.clock.run_for(30_000)
    page.evaluate("fetch('/landed')")
    assert site.polls == polls
    site.settings.state_status = 200
    link.click()
    expect(page.get_by_text("Checking every few seconds")).to_be_visible()


# ---- prefix, and no script at all


def test_everything_works_under_a_prefix(page: Page, open_site: OpenSite) -> None:
    site = open_site(prefix="/deep/shop", poll_seconds=NEVER)
    live(page, site)
    site.move(progress=Progress(1, 2, "half"))
    expect(page.get_by_role("status").first).to_have_text("half")
    site.finish()
    expect(page.get_by_role("heading", name="Landed")).to_be_visible()
    assert page.url == f"{site.origin}/deep/shop/flow/{TOKEN}"


def test_polls_work_under_a_prefix(page: Page, open_site: OpenSite) -> None:
    site = open_site(prefix="/deep/shop", offers_socket=False)
    page.goto(site.url)
    site.finish(tell=False)
    expect(page.get_by_role("heading", name="Landed")).to_be_visible()


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_a_page_whose_script_did_not_arrive_offers_to_load_it_again(
    page: Page, site: FakeSite, problems: Problems, motion: Literal["reduce", "no-preference"]
) -> None:
    problems.allow(NOT_LOADED)
    page.emulate_media(reduced_motion=motion)
    page.route("**/flowroute.js*", lambda route: route.abort())
    page.goto(site.url)
    again = page.get_by_role("link", name="Load it again")
    expect(page.get_by_text("Refreshes every few seconds")).to_be_visible()
    expect(again).to_be_hidden()
    animations = page.context.new_cdp_session(page)
    animations.send("Animation.enable")
    animations.send("Animation.setPlaybackRate", {"playbackRate": 100})
    expect(again).to_be_visible()
    expect(page.get_by_text("Refreshes every few seconds")).to_be_hidden()
    page.unroute("**/flowroute.js*")
    again.click()
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(again).to_be_hidden()
