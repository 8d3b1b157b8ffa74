"""The shop in a real browser: the processes of the demo, and somebody who orders."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from flowroute.demo.stage import Stage
from tests.chromium import Problems
from tests.services import RedisServer

#: `make screenshot` names the file here; without it the picture is taken all the same.
SCREENSHOT = os.environ.get("FLOWROUTE_SCREENSHOT", "build/loading.png")
LEASE_SECONDS = 2

expect.set_options(timeout=20_000)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, shared_redis: RedisServer) -> Iterator[Stage]:
    environment = {
        "CHECKOUT_PAUSE_SECONDS": "0.7",
        "FLASK_FLOWROUTE_LEASE_SECONDS": str(LEASE_SECONDS),
    }
    patch = pytest.MonkeyPatch()
    patch.setenv("FLOWROUTE_REDIS_URL", shared_redis.url)
    with Stage(tmp_path_factory.mktemp("shop"), environment=environment) as stage:
        yield stage
    patch.undo()


@pytest.fixture
def order(page: Page, stage: Stage) -> Callable[..., None]:
    """Fill in the cart form and buy."""

    def fill_in_and_buy(card: str = "tok_visa") -> None:
        page.goto(stage.url)
        page.get_by_label("Quantity").first.fill("2")
        page.get_by_label("Card").select_option(card)
        page.get_by_role("button", name="Buy now").click()

    return fill_in_and_buy


def charges(stage: Stage) -> int:
    with closing(sqlite3.connect(stage.home / "bank.db")) as ledger:
        return int(ledger.execute("SELECT count(*) FROM charge").fetchone()[0])


def test_an_order_shows_live_progress_and_then_its_receipt(
    page: Page, order: Callable[..., None]
) -> None:
    order()
    expect(page.get_by_role("heading", name="Your order")).to_be_visible()
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(page.get_by_text("Checking the card")).to_be_visible()
    expect(page.get_by_role("progressbar")).to_have_attribute("value", re.compile("^(25|50|75)$"))
    expect(page.locator('[data-step="charge"]')).to_have_attribute("data-state", "current")
    Path(SCREENSHOT).parent.mkdir(parents=True, exist_ok=True)
    page.set_viewport_size({"width": 960, "height": 720})
    page.screenshot(path=SCREENSHOT)
    expect(page.get_by_role("heading", name="Thank you, it is yours")).to_be_visible()


def test_a_refresh_in_the_middle_and_a_second_visit_charge_nothing_twice(
    page: Page, order: Callable[..., None], stage: Stage
) -> None:
    before = charges(stage)
    order()
    expect(page.get_by_role("heading", name="Your order")).to_be_visible()
    page.reload()
    page.reload()
    expect(page.get_by_role("heading", name="Thank you, it is yours")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Thank you, it is yours")).to_be_visible()
    assert charges(stage) == before + 1


def test_a_declined_card_shows_why_and_another_one_pays(
    page: Page, order: Callable[..., None]
) -> None:
    order("tok_declined")
    expect(page.get_by_text("insufficient funds")).to_be_visible()
    page.get_by_role("button", name="Pay").click()
    expect(page.get_by_role("heading", name="Thank you, it is yours")).to_be_visible()


def test_a_failed_payment_shows_why_and_is_retried(
    page: Page, order: Callable[..., None], problems: Problems
) -> None:
    problems.allow("500")  # the failed run's page is one
    order("tok_outage")
    expect(page.get_by_role("heading", name="Something went wrong")).to_be_visible()
    expect(page.get_by_text("the bank did not answer within 10 seconds")).to_be_visible()
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", name="Thank you, it is yours")).to_be_visible()


def test_web_server_and_worker_are_killed_while_the_page_is_open_and_it_ends_with_the_receipt(
    page: Page, order: Callable[..., None], stage: Stage, problems: Problems
) -> None:
    problems.allow(
        "ERR_CONNECTION_REFUSED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE|websocket|Failed to load"
    )
    before = charges(stage)
    order()
    expect(page.get_by_text("Contacting the bank")).to_be_visible()
    page.wait_for_load_state("load")  # of a script that was cut short there is none to reconnect
    for name in ("worker", "web"):
        stage.kill(name)
    stage.start_web()
    stage.start_worker()
    expect(page.get_by_role("heading", name="Thank you, it is yours")).to_be_visible(timeout=30_000)
    assert charges(stage) == before + 1
