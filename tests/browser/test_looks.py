"""The bundled pages for every eye, hand and window: contrast, themes, widths, motion, focus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest
from playwright.sync_api import expect

from tests.browser.fake_site import (
    Step,
)
from tests.browser.watching import PAGES, show

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.fake_site import FakeSite

every_page = pytest.mark.parametrize("kind", PAGES)


SCHEMES: tuple[Literal["light"], Literal["dark"]] = ("light", "dark")

# The colour of each piece of text, and what is behind it: WCAG 2.2 contrast where it is too low.
LOW_CONTRAST = """() => {
    const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b]
        .map((c) => (c /= 255, c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (node) => {
        for (; node; node = node.parentElement) {
            const colour = rgb(getComputedStyle(node).backgroundColor);
            if (colour.length === 3 || colour[3] === 1) return colour;
        }
        return null;
    };
    const low = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    let texts = 0;
    while (walker.nextNode()) {
        const node = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !node.checkVisibility()) continue;
        texts += 1;
        const pair = [light(rgb(getComputedStyle(node).color)), light(behind(node))].sort();
        const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
        if (contrast < 4.5) low.push([walker.currentNode.data.trim(), contrast]);
    }
    return [texts, low];
}"""


@every_page
def test_text_has_enough_contrast_in_light_and_dark(page: Page, site: FakeSite, kind: str) -> None:
    show(page, site, kind)
    page.evaluate("for (const part of document.querySelectorAll('[hidden]')) part.hidden = false")
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        texts, low = page.evaluate(LOW_CONTRAST)
        assert texts > 5
        assert low == []


@every_page
def test_light_and_dark_are_two_designs(page: Page, site: FakeSite, kind: str) -> None:
    show(page, site, kind)
    colours = []
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        colours.append(
            page.evaluate(
                "['body', '.card'].map(n => getComputedStyle(document.querySelector(n))"
                ".backgroundColor.match(/\\d+/g).map(Number))"
            )
        )
    light, dark = colours
    assert all(min(colour) > 230 for colour in light)
    assert all(max(colour) < 50 for colour in dark)


@every_page
def test_nothing_is_wider_than_the_window(page: Page, site: FakeSite, kind: str) -> None:
    name = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
    steps = [Step("charge", name, "worker", "current"), Step("receipt", name, "page", "todo")]
    show(page, site, kind, title=name, steps=steps)
    page.evaluate("for (const part of document.querySelectorAll('[hidden]')) part.hidden = false")
    for width in (320, 375, 768, 1440):
        page.set_viewport_size({"width": width, "height": 640})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        beyond = page.evaluate(
            "[...document.querySelectorAll('main *')].filter(e =>"
            " e.getBoundingClientRect().right > innerWidth).map(e => e.outerHTML)"
        )
        assert beyond == []


def test_who_prefers_less_motion_gets_none(page: Page, site: FakeSite) -> None:
    show(page, site, "loading without figures")
    assert page.evaluate("document.getAnimations().length") > 0
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate("document.getAnimations().length") == 0


@pytest.mark.parametrize("kind", ["failed", "blocked"])
def test_the_keyboard_reaches_what_there_is_to_do_and_shows_where_it_is(
    page: Page, site: FakeSite, kind: str
) -> None:
    show(page, site, kind)
    page.keyboard.press("Tab")
    control = page.locator(".button")
    expect(control).to_be_focused()
    expect(control).to_have_css("outline-style", "solid")
    expect(control).to_have_css("outline-width", "3px")
