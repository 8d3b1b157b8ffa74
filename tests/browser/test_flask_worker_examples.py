"""Flask-Worker's examples in a real browser: what it shows, and what the processes print."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.processes import Process, Processes
from tests.waiting import free_port, wait_until

ROOT = Path(__file__).parents[2]
TASK = ["Complex task started", "Complex task finished"]


class Site:
    """The examples' application, its worker, and what they print."""

    def __init__(self, url: str, web: Process, worker: Process) -> None:
        self.url = url
        self._outputs = (web, worker)

    def printed(self, pattern: str) -> list[str]:
        """The lines of both processes that match, the web process's first."""
        lines = [line for process in self._outputs for line in process.output.splitlines()]
        return [line for line in lines if re.fullmatch(pattern, line)]


@pytest.fixture
def site(process: Processes, redis_url: str, tmp_path: Path) -> Site:
    port = free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "examples")]),
        "EXAMPLE_HOME": str(tmp_path),
        "EXAMPLE_REDIS_URL": redis_url,
        "EXAMPLE_SECONDS": "1.5",
    }
    flask = [sys.executable, "-m", "flask", "--app", "flask_worker.app"]
    web = process([*flask, "run", "--port", str(port), "--no-reload"], env=environment)
    web.wait_for_line("Running on", timeout_seconds=60)  # it creates the tables
    worker = process([*flask, "flow", "worker"], env=environment)
    worker.wait_for_line("Listening on", timeout_seconds=60)
    return Site(f"http://127.0.0.1:{port}", web, worker)


def expect_loading(page: Page) -> None:
    expect(page.get_by_text("nothing is lost")).to_be_visible(timeout=20_000)


def expect_text(page: Page, text: str) -> None:
    expect(page.locator("body")).to_have_text(text, timeout=30_000)


def ran(site: Site, times: int) -> Callable[[], bool]:
    return lambda: site.printed("Complex task finished") == TASK[1:] * times


@pytest.fixture
def page(page: Page) -> Page:
    # None of these pages has an icon, which the browser asks for by itself.
    page.route("**/favicon.ico", lambda route: route.fulfill(status=204))
    return page


@pytest.mark.slow
def test_example_1_one_task_however_many_refreshes_and_cached_afterwards(
    page: Page, site: Site
) -> None:
    page.goto(f"{site.url}/example1-no-worker")
    expect_text(page, "Example 1 (no worker) finished")
    wait_until(ran(site, 1))
    page.goto(f"{site.url}/example1-no-worker")
    wait_until(ran(site, 2))  # the contrast: each request runs it again
    page.goto(f"{site.url}/example1")
    expect_loading(page)
    page.reload()
    page.reload()
    expect_text(page, "Example 1 finished")
    assert page.url == f"{site.url}/example1"
    page.reload()
    expect_text(page, "Example 1 finished")
    assert site.printed("Complex task (started|finished)") == TASK * 2 + TASK
    assert len(site.printed("Request for /example1")) >= 4


@pytest.mark.slow
def test_example_2_the_next_visit_after_the_end_starts_again(page: Page, site: Site) -> None:
    page.goto(f"{site.url}/example2")
    expect_loading(page)
    expect_text(page, "Example 2 finished")
    page.reload()
    expect_loading(page)
    expect_text(page, "Example 2 finished")
    assert site.printed("Complex task (started|finished)") == TASK * 2


@pytest.mark.slow
def test_example_3_the_browser_lands_at_the_callback_and_an_early_visit_waits_there(
    page: Page, site: Site
) -> None:
    page.goto(f"{site.url}/example3")
    expect_loading(page)
    early = page.context.new_page()
    early.route("**/favicon.ico", lambda route: route.fulfill(status=204))
    early.goto(f"{site.url}/callback-route")
    expect_loading(early)
    early.close()
    expect_text(page, "Example 3 finished")
    assert page.url == f"{site.url}/callback-route"
    assert site.printed("Complex task (started|finished)") == TASK


@pytest.mark.slow
def test_example_4_each_function_runs_once_and_refreshes_run_nothing_again(
    page: Page, site: Site
) -> None:
    page.goto(f"{site.url}/example4-no-router")
    expect_text(page, "Example 4 (no router) finished")
    page.goto(f"{site.url}/example4-no-router")
    wait_until(lambda: len(site.printed("hello star")) == 2)  # the contrast
    page.goto(f"{site.url}/example4")
    expect_loading(page)
    page.reload()
    page.reload()
    expect_text(page, "Example 4 finished")
    page.reload()
    expect_text(page, "Example 4 finished")
    assert page.url == f"{site.url}/example4"
    for hello in ("hello world", "hello moon", "hello star"):
        assert len(site.printed(hello)) == 2 + 1
    assert site.printed("Complex task (started|finished)") == TASK * 2 + TASK


@pytest.mark.slow
def test_example_5_starts_anew_after_the_end(page: Page, site: Site) -> None:
    for _ in range(2):
        page.goto(f"{site.url}/example5")
        expect_loading(page)
        page.reload()
        expect_text(page, "Example 5 finished")
    assert len(site.printed("hello world")) == 2
    assert len(site.printed("hello star")) == 2
    assert site.printed("Complex task (started|finished)") == TASK * 2


@pytest.mark.slow
def test_example_6_hands_over_to_another_flow_and_goes_on_with_its_result(
    page: Page, site: Site
) -> None:
    page.goto(f"{site.url}/example6")
    expect(page.get_by_label("Sign employer6")).to_be_visible(timeout=20_000)
    page.reload()
    page.get_by_label("Sign employer6").fill("ada")
    page.get_by_role("button", name="Sign").click()
    expect_text(page, "Example 6 finished: employer6 is signed by Ada")
    assert page.url == f"{site.url}/example6"
    page.reload()
    expect_text(page, "Example 6 finished: employer6 is signed by Ada")
    # Once each. Who files it is up to who comes first, the worker or the browser's next look.
    assert sorted(site.printed("(contract|signature) .*")) == [
        "contract drafted",
        "contract filed, signed by Ada",
        "signature of ada verified",
    ]
