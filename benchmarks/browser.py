"""From a worker step's COMMIT to the moment at which the browser leaves for the next page."""

from __future__ import annotations

from contextlib import ExitStack

from playwright.sync_api import Page, expect, sync_playwright
from redis import Redis

from benchmarks import site
from benchmarks.figure import Figure
from benchmarks.laboratory import Laboratory
from benchmarks.measuring import Measures, Result, at_most, percentile
from benchmarks.peers.environment import DATABASE, IS_WORKER, REDIS
from tests.chromium import launch_chromium
from tests.waiting import free_port, wait_until

BARS = {50: at_most(30), 95: at_most(100)}


def measure(lab: Laboratory) -> Measures:
    """A gunicorn with threads, an RQ worker with forks, Redis between them, and Chromium."""
    rounds = lab.choose(40, 2)
    port = free_port()
    environment = {DATABASE: lab.sqlite_url(), REDIS: lab.redis.url}
    lab.redis.flush()
    with ExitStack() as stack:
        server = stack.enter_context(
            lab.program(
                *("gunicorn", "--threads", "16", "--bind", f"127.0.0.1:{port}"),
                "benchmarks.site:app",
                environment=environment,
            )
        )
        server.wait_for_line("Booting worker", 60)
        worker = stack.enter_context(
            lab.program(
                *("flask", "--app", "benchmarks.site", "flow", "worker"),
                environment={**environment, IS_WORKER: "1"},
            )
        )
        worker.wait_for_line("Listening on", 60)
        redis = stack.enter_context(Redis.from_url(lab.redis.url))
        browser = launch_chromium(stack.enter_context(sync_playwright()))
        stack.callback(browser.close)
        page = browser.new_page()
        took = [
            follow(page, redis, f"http://127.0.0.1:{port}/watch/{number}", number)
            for number in range(rounds + 1)
        ][1:]  # the first fills the browser's cache
    for percent, bar in BARS.items():
        value = percentile(took, percent) * 1000
        words = f"COMMIT to navigation, websocket, p{percent}"
        yield Result(FIGURE.name, words, value, "ms", bar, {}, rounds)


def follow(page: Page, redis: Redis, address: str, number: int) -> float:
    """Watch one run to its page; returns seconds from the COMMIT to the navigation's start."""
    page.goto(address)
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    waits = site.gate(number)
    wait_until(
        lambda: any(each["cmd"] == "blpop" for each in redis.client_list()),
        30,
        what=f"the worker waits for {waits}",
    )
    redis.lpush(waits, "go")
    page.wait_for_selector("#ready", state="attached")
    began = float(page.evaluate("performance.timeOrigin")) / 1000
    committed = redis.get(site.COMMITTED)
    if not isinstance(committed, bytes):
        raise AssertionError(committed)
    return began - float(committed)


FIGURE = Figure("browser", "From a step's COMMIT to the browser's next page", measure)
