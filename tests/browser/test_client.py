"""What flowroute.js shows in a real browser while a run moves."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.fake_site import Progress
from tests.browser.watching import NEVER, live, record_messages, step_states
from tests.waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.conftest import OpenSite
    from tests.browser.fake_site import FakeSite


# ---- live


def test_progress_is_shown_as_it_is_made(page: Page, open_site: OpenSite) -> None:
    site = open_site(poll_seconds=NEVER)
    live(page, site)
    bar = page.get_by_role("progressbar", name="Progress")
    assert bar.get_attribute("value") is None

    site.move(progress=Progress(1, 4, "Contacting the bank"))
    expect(page.get_by_role("status").first).to_have_text("Contacting the bank")
    expect(bar).to_have_js_property("value", 25)
    expect(page.locator("[data-flowroute=percent]")).to_have_text("25%")
    expect(page).to_have_title("25% · Your order")

    site.move(progress=Progress(3, 4, "Waiting for its answer"))
    expect(page.get_by_role("status").first).to_have_text("Waiting for its answer")
    expect(bar).to_have_js_property("value", 75)
    assert site.polls == 0


@pytest.mark.parametrize(
    ("done", "total", "percent"),
    [(0, 3, "0%"), (2.999, 3, "99%"), (3, 3, "100%"), (9, 3, "100%"), (-1, 3, "0%"), (1, 0, "")],
)
def test_a_percentage_is_never_more_than_is_done(
    page: Page, site: FakeSite, done: float, total: float, percent: str
) -> None:
    live(page, site)
    site.push(site.state(progress={"done": done, "total": total, "message": "counted"}))
    expect(page.get_by_role("status").first).to_have_text("counted")
    expect(page.locator("[data-flowroute=percent]")).to_have_text(percent)


def test_the_stepper_moves_on_with_a_run_that_is_not_at_rest(
    page: Page, open_site: OpenSite
) -> None:
    site = open_site(poll_seconds=NEVER)
    site.move(tell=False, progress=Progress(1, 2, "Contacting the bank"))
    live(page, site)
    assert step_states(page) == ["done", "current", "todo", "todo"]

    site.move(seq=3, step="pack", progress=None)
    expect(page.locator("[data-step=pack]")).to_have_attribute("aria-current", "step")
    assert step_states(page) == ["done", "done", "current", "todo"]
    expect(page.locator("[data-step=charge]")).to_contain_text("Done")
    expect(page.locator("[data-step=pack]")).to_contain_text("In progress")
    # A new step without a message of its own: its title stands there, and no bar from before.
    expect(page.get_by_role("status").first).to_have_text("Pack the parcel")
    assert page.get_by_role("progressbar").get_attribute("value") is None
    expect(page).to_have_title("Your order")


def test_steps_that_passed_unseen_are_done(page: Page, site: FakeSite) -> None:
    live(page, site)
    site.push(site.state(seq=4, step="receipt"))
    expect(page.locator("[data-step=receipt]")).to_have_attribute("data-state", "current")
    assert step_states(page) == ["done", "done", "done", "current"]


def test_a_branch_that_was_not_taken_is_not_called_done(page: Page, site: FakeSite) -> None:
    live(page, site)
    site.push(site.state(seq=3, step="receipt"))  # one move: it can not have been at "pack"
    expect(page.locator("[data-step=receipt]")).to_have_attribute("data-state", "current")
    assert step_states(page) == ["done", "done", "todo", "current"]


def test_a_step_that_the_page_does_not_list_ends_the_one_before(page: Page, site: FakeSite) -> None:
    live(page, site)
    site.push(site.state(seq=3, step="ask_the_boss"))
    expect(page.locator("[data-step=charge]")).to_have_attribute("data-state", "done")
    assert step_states(page) == ["done", "done", "todo", "todo"]
    expect(page.get_by_role("status").first).to_have_text("Working on it")


def test_the_elapsed_time_is_the_servers_whatever_the_visitors_clock_says(
    page: Page, site: FakeSite
) -> None:
    page.clock.install(time="2001-01-01T00:00:00Z")
    site.move(tell=False, age_seconds=3590)
    live(page, site)
    elapsed = page.get_by_role("timer")
    expect(elapsed).to_have_text(re.compile(r"^59:5\d$"))
    page.clock.fast_forward(60_000)
    expect(elapsed).to_have_text(re.compile(r"^1:00:5\d$"))


def test_a_long_wait_is_acknowledged(page: Page, site: FakeSite) -> None:
    page.clock.install()
    live(page, site)
    expect(page.get_by_text("This is taking a while")).to_be_hidden()
    page.clock.fast_forward(60_000)
    expect(page.get_by_text("This is taking a while")).to_be_visible()


def test_the_pages_own_scripts_are_told(page: Page, site: FakeSite) -> None:
    page.add_init_script("""
        window.told = [];
        document.addEventListener("flowroute:moved", (event) => told.push(event.detail.seq));
    """)
    live(page, site)
    site.move(seq=3, step="pack")
    wait_until(lambda: page.evaluate("told.at(-1)") == 3, what="the event")


# ---- old news


def test_a_state_with_an_older_seq_is_ignored(page: Page, site: FakeSite) -> None:
    record_messages(page)
    live(page, site)
    site.move(seq=3, step="pack", progress=Progress(1, 2, "Looking for a box"))
    expect(page.get_by_role("status").first).to_have_text("Looking for a box")

    old = {"done": 2, "total": 2, "message": "late"}
    site.push(site.state(seq=2, step="charge", progress=old))
    site.push(site.state(seq=2, step="charge", progress=old, at_rest=True))
    site.move(progress=Progress(2, 2, "Closing the box"))  # arrives after the old ones
    expect(page.get_by_role("status").first).to_have_text("Closing the box")
    assert page.evaluate("messages") == ["Looking for a box", "Closing the box"]
    assert step_states(page) == ["done", "done", "current", "todo"]


def test_within_a_step_progress_does_not_go_back(page: Page, site: FakeSite) -> None:
    record_messages(page)
    live(page, site)
    for done, message in [(2, "two"), (1, "one, late"), (3, "three"), (3, "three, in other words")]:
        site.push(site.state(progress={"done": done, "total": 4, "message": message}))
    expect(page.get_by_role("status").first).to_have_text("three, in other words")
    assert page.evaluate("messages") == ["two", "three", "three, in other words"]


def test_the_next_attempt_counts_from_the_beginning_again(page: Page, open_site: OpenSite) -> None:
    site = open_site(poll_seconds=NEVER)
    live(page, site)
    site.move(progress=Progress(3, 4, "nearly there"))
    expect(page.get_by_role("status").first).to_have_text("nearly there")
    site.move(waiting_for="timer", progress=None)
    site.move(waiting_for="worker", progress=Progress(1, 4, "second attempt"))
    expect(page.get_by_role("status").first).to_have_text("second attempt")


def test_an_answer_that_a_socket_event_overtook_does_not_turn_back_the_bar(
    page: Page, site: FakeSite
) -> None:
    record_messages(page)
    site.move(tell=False, progress=Progress(1, 4, "one"))
    live(page, site)
    site.poll_gate.clear()
    seen = site.polls
    wait_until(lambda: site.polls > seen, what="a poll that has read the state")
    site.move(progress=Progress(2, 4, "two"))
    expect(page.get_by_role("status").first).to_have_text("two")
    with page.expect_response(re.compile("/state$")):
        site.poll_gate.set()
    site.move(progress=Progress(3, 4, "three"))
    expect(page.get_by_role("status").first).to_have_text("three")
    assert page.evaluate("messages") == ["two", "three"]
