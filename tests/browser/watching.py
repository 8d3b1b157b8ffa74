"""What tests of the script do with a page: open it, hurry it, and take note of what it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from playwright.sync_api import expect

from tests.browser.fake_site import Progress

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.fake_site import FakeSite

NEVER = 3600.0  # seconds between polls: then it was not a poll that brought the news
#: What the run is like on each of the bundled pages.
PAGES: dict[str, dict[str, Any]] = {
    "loading": {"progress": Progress(1, 3, "Contacting the bank")},
    "loading without figures": {"age_seconds": 90.0},
    "failed": {"state": "failed", "error": "The bank declined the card."},
    "failed without a reason": {"state": "failed"},
    "blocked": {"state": "blocked", "error": "The step 'charge' is gone."},
    "cancelled": {"state": "cancelled"},
    "finished": {"state": "done", "step": "pack", "result": "Parcel 7"},
}


def show(page: Page, site: FakeSite, kind: str, **changes: Any) -> None:
    """Open one of the bundled pages."""
    site.move(tell=False, **PAGES[kind] | changes)
    page.goto(site.url)
    expect(page.get_by_role("heading", level=1)).to_be_visible()


def live(page: Page, site: FakeSite) -> None:
    """Open the run's page and wait until it follows the run over a socket."""
    page.goto(site.url)
    expect(page.get_by_text("Live", exact=True)).to_be_visible()


def navigations(page: Page) -> list[str]:
    """Return a list that takes up the address of each page the browser asks for from now on."""
    asked: list[str] = []
    page.on(
        "request",
        lambda request: asked.append(request.url) if request.is_navigation_request() else None,
    )
    return asked


def record_messages(page: Page) -> None:
    """Keep every message that the page ever shows in `window.messages`."""
    page.add_init_script("""
        window.messages = [];
        document.addEventListener("DOMContentLoaded", () => {
            const part = document.querySelector("[data-flowroute=message]");
            const note = () => messages.push(part.textContent);
            new MutationObserver(note).observe(part, {childList: true, characterData: true});
        });
    """)


def hurry(page: Page) -> None:
    """Let twenty seconds pass in one for the page, and keep the waits it asks for in `waits`."""
    page.add_init_script("""
        window.waits = [];
        const later = window.setTimeout;
        window.setTimeout = (call, wait, ...more) => {
            waits.push(wait);
            return later(call, wait / 20, ...more);
        };
    """)


def once_it_leaves(page: Page, script: str) -> None:
    """Run a script each second of the page's time, from when the page has asked for the next one.

    It runs inside the page: until the next page is there, Chromium lets nobody else in.
    """
    page.add_init_script(f"""
        const look = () => {{
            const text = document.body ? document.body.innerText : "";
            if (text.includes("Opening the next page")) {{ {script} }}
            setTimeout(look, 1000);
        }};
        look();
    """)


def step_states(page: Page) -> list[str | None]:
    return [step.get_attribute("data-state") for step in page.locator("[data-step]").all()]
