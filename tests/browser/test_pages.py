"""What the bundled pages say, and what they let in and out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from bs4 import BeautifulSoup
from playwright.sync_api import expect

from tests.browser.fake_site import (
    HIDDEN_NAME,
    HIDDEN_VALUE,
    LEAF,
    STRICT_POLICY,
    Progress,
    Step,
)
from tests.browser.watching import PAGES, show

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.browser.conftest import OpenSite
    from tests.browser.fake_site import FakeSite
    from tests.chromium import Problems

XSS = [
    "<script>window.stolen = 1</script>",
    "</script><script>window.stolen = 1</script>",
    "</title></style><img src=x onerror='window.stolen = 1'>",
    '"><svg onload="window.stolen = 1">',
    "' onmouseover='window.stolen = 1' x='",
    "&lt;b&gt; &amp; {{ 7 * 7 }} {% raw %}",
    "javascript:window.stolen = 1",
    "<!-- --!><iframe srcdoc='<script>top.stolen = 1</script>'>",
    "\u202egnp.exe \u2028 \u0000 😀",
]
#: HTML has no such character: parsers leave it out or put another in its place.
NUL = re.compile("[\0\ufffd]")
#: Headings that are the same whatever the run.
HEADINGS = ["Something went wrong", "On hold for the moment", "This was cancelled", "All done"]
every_page = pytest.mark.parametrize("kind", PAGES)


# ---- content


def test_the_loading_page_says_what_is_going_on_and_that_nothing_is_lost(
    page: Page, site: FakeSite
) -> None:
    show(page, site, "loading")
    expect(page.get_by_role("heading", name="Your order")).to_be_visible()
    expect(page.get_by_role("status").first).to_have_text("Contacting the bank")
    expect(page.get_by_role("progressbar", name="Progress")).to_have_js_property("value", 33)
    expect(page.get_by_text("You can close or refresh this page; nothing is lost.")).to_be_visible()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    steps = page.get_by_role("list", name="Steps").get_by_role("listitem")
    assert [" ".join(text.split()) for text in steps.all_inner_texts()] == [
        "Reserve the items Done",
        "Charge the card in the background In progress",
        "Pack the parcel in the background To do",
        "Receipt opens by itself To do",
    ]
    expect(steps.nth(1)).to_have_attribute("aria-current", "step")


def test_the_failed_page_tells_why_and_where_and_that_nothing_was_lost(
    page: Page, site: FakeSite
) -> None:
    show(page, site, "failed")
    expect(page.get_by_text("“Charge the card” did not succeed.")).to_be_visible()
    expect(page.get_by_text("Nothing was lost")).to_be_visible()
    expect(page.get_by_role("group", name="What was reported")).to_contain_text(
        "The bank declined the card."
    )
    expect(page.locator("[data-step=charge]")).to_have_attribute("data-state", "failed")
    expect(page.get_by_text(site.run.id)).to_be_visible()


def test_without_a_message_for_visitors_the_failed_page_reports_none(
    page: Page, site: FakeSite
) -> None:
    show(page, site, "failed without a reason")
    expect(page.get_by_role("group", name="What was reported")).to_have_count(0)
    expect(page.get_by_role("button", name="Try again")).to_be_visible()


def test_trying_again_posts_the_hidden_field_and_shows_the_run_live(
    page: Page, site: FakeSite
) -> None:
    show(page, site, "failed")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    assert site.forms == [{HIDDEN_NAME: HIDDEN_VALUE}]
    assert page.url == site.url
    site.finish()
    expect(page.get_by_role("heading", name="Landed")).to_be_visible()


def test_a_blocked_run_is_asked_for_again_by_its_link(page: Page, site: FakeSite) -> None:
    show(page, site, "blocked")
    site.move(tell=False, state="waiting", error=None)
    page.get_by_role("link", name="Check again").click()
    expect(page.get_by_text("Live", exact=True)).to_be_visible()


@pytest.mark.parametrize("result", ["Parcel 7", 0, False, ["a", "b"]])
def test_the_finished_page_shows_a_result_false_and_zero_included(
    page: Page, site: FakeSite, result: object
) -> None:
    show(page, site, "finished", result=result)
    expect(page.get_by_role("group", name="Result")).to_contain_text(str(result))
    assert page.locator("[data-state=done]").count() == 3  # and not the step that was never reached
    assert page.locator("[data-state=todo]").count() == 0


def test_the_finished_page_shows_no_result_where_there_is_none(page: Page, site: FakeSite) -> None:
    show(page, site, "finished", result=None)
    expect(page.get_by_role("group", name="Result")).to_have_count(0)


def test_a_run_without_listed_steps_still_has_its_pages(page: Page, site: FakeSite) -> None:
    for kind in PAGES:
        show(page, site, kind, steps=[])
        expect(page.get_by_role("list")).to_have_count(0)


def test_without_javascript_the_page_refreshes_itself(
    chromium: Browser, open_site: OpenSite
) -> None:
    site = open_site()
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(site.url)
    expect(page.get_by_text("Refreshes every few seconds")).to_be_visible()
    expect(page.get_by_text("Checking every few seconds")).to_be_hidden()
    expect(page.get_by_role("timer")).to_have_text("0:07")
    site.finish()
    expect(page.get_by_role("heading", name="Landed")).to_be_visible(timeout=10_000)
    context.close()
    assert site.polls == 0


# ---- what gets in, what gets out


@every_page
def test_hostile_text_is_text_on_every_page(page: Page, open_site: OpenSite, kind: str) -> None:
    site = open_site(policy="", poll_seconds=3600)  # no policy: escaping alone has to hold
    for text in XSS:
        steps = [Step(text, text, "worker", "done"), Step("charge", text, "page", "current")]
        changes: dict[str, Any] = {"title": text, "steps": steps, "id": text}
        more: dict[str, dict[str, Any]] = {
            "loading": {"progress": Progress(1, 2, text)},
            "failed": {"error": text},
            "blocked": {"error": text},
            "finished": {"result": text},
        }
        changes |= more.get(kind, {})
        show(page, site, kind, **changes)
        assert page.evaluate("window.stolen") is None
        assert NUL.sub("", page.locator("title").get_attribute("data-title") or "") == NUL.sub(
            "", text
        )
        parts = page.locator("h1, .eyebrow, .step-title, .report-text, .message, .reference code")
        texts = [part for part in parts.all_text_contents() if part not in HEADINGS]
        assert len(texts) >= 4 - (kind.startswith("loading"))
        assert {NUL.sub("", part) for part in texts} == {NUL.sub("", text)}
        assert page.locator("main script, main img, iframe, svg[onload]").count() == 0


def test_hostile_text_from_the_socket_is_text(page: Page, open_site: OpenSite) -> None:
    site = open_site(policy="", poll_seconds=3600)
    steps = [Step(text, text, "worker", "todo") for text in XSS if "\0" not in text]
    show(page, site, "loading", steps=[Step("charge", "Charge", "worker", "current"), *steps])
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    for seq, step in enumerate(steps, 3):
        progress = {"done": 1, "total": 2, "message": step.title}
        site.push(site.state(seq=seq, step=step.name, progress=progress))
        current = page.locator("[data-state=current]")
        expect(current).to_have_attribute("data-step", step.name)
        assert page.locator(".message").text_content() == step.title
    assert page.evaluate("window.stolen") is None
    assert page.locator("main script, main img, iframe").count() == 0


def test_a_result_that_calls_itself_html_is_text(page: Page, open_site: OpenSite) -> None:
    class Html:
        def __html__(self) -> str:
            return "<img src=x onerror='window.stolen = 1'>"

    site = open_site(policy="")
    show(page, site, "finished", result=Html())
    expect(page.get_by_role("group", name="Result")).to_contain_text("<img")
    assert page.evaluate("window.stolen") is None


@every_page
def test_a_page_obeys_a_strict_policy_and_has_nothing_inline(
    page: Page, site: FakeSite, kind: str
) -> None:
    page.add_init_script(
        "window.violations = [];"
        "document.addEventListener('securitypolicyviolation', e => violations.push(e.blockedURI))"
    )
    show(page, site, kind)
    if kind.startswith("loading"):
        expect(page.get_by_text("Live", exact=True)).to_be_visible()
    assert page.evaluate("violations") == []  # and the fixture sees no error in the console
    html = page.context.request.get(site.url).text()
    assert html.startswith("<!doctype html>")
    for tag in BeautifulSoup(html, "html.parser").select("*"):
        assert not [name for name in tag.attrs if name == "style" or name.startswith("on")], tag
        assert tag.name != "style", tag
        assert tag.name != "script" or (tag["src"] and not tag.get_text()), tag


def test_the_policy_check_would_have_noticed(
    page: Page, open_site: OpenSite, problems: Problems
) -> None:
    problems.allow("Content Security Policy")
    site = open_site(template="<h1>x</h1><script>window.stolen = 1</script>")
    page.goto(site.url)
    assert page.evaluate("window.stolen") is None
    assert any("Content Security Policy" in text for text in problems.found)
    assert site.settings.policy == STRICT_POLICY


def test_nothing_is_fetched_from_elsewhere() -> None:
    for path in (LEAF / "templates").rglob("*.html"):
        assert not re.search(r"(src|href|action)\s*=\s*[\"']?(https?:)?//", path.read_text()), path
    css = (LEAF / "static/flowroute.css").read_text()
    assert "url(" not in css
    assert "@import" not in css
    assert "//" not in re.sub(r"(?m)^ *//.*$|//.*$", "", (LEAF / "static/flowroute.js").read_text())


def test_the_socket_client_is_vendored_with_its_licence_and_without_a_map() -> None:
    script = (LEAF / "static/vendor/socket.io.min.js").read_text()
    assert re.match(r"/\*!\s+\* Socket\.IO v4\.8\.\d+", script)
    assert "Released under the MIT License" in script
    assert "sourceMappingURL" not in script
    assert "MIT License" in (LEAF / "static/vendor/socket.io.LICENSE.txt").read_text()


def test_the_script_stays_short() -> None:
    lines = (Path(LEAF) / "static/flowroute.js").read_text().splitlines()
    assert len(lines) < 250
