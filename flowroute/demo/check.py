"""The demo, run unattended against itself over HTTP and Socket.IO."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from typing import Any

from flowroute.demo.browser import Page, Visitor
from flowroute.demo.stage import Stage

LEASE_SECONDS = 3
"""Short, so that the check need not wait half a minute for what a killed process held."""

PATIENCE_SECONDS = 40.0
"""How long a run may take to come to rest, crashes included."""


ORDERS = 5
"""How many orders are placed at most to see one being paid."""


class Finding(AssertionError):
    """Something that the check expected and did not see."""


def check(say: Callable[[str], None] = print) -> bool:
    """Run the demo's checks on a stage of their own.

    Parameters:
        say: Takes a line for people: what was checked, and what was wrong.

    Returns:
        Whether all of it held.
    """
    with tempfile.TemporaryDirectory(prefix="flowroute-check-") as folder:
        environment = {
            "CHECKOUT_PAUSE_SECONDS": "0.7",
            "FLASK_FLOWROUTE_LEASE_SECONDS": str(LEASE_SECONDS),
        }
        with Stage(Path(folder), environment=environment, say=say) as stage:
            checks = _Checks(stage)
            held = [
                _held(say, "an order is paid while the browser watches", checks.order_is_paid),
                _held(say, "two clicks on one cart are one order, charged once", checks.two_clicks),
                _held(say, "another visitor can not open the run", checks.another_visitor),
                _held(say, "a program gets JSON", checks.program),
                _held(say, "a declined card shows why, and another can be tried", checks.declined),
                _held(say, "a failed payment shows why, and can be retried", checks.failed),
                _held(say, "web server and worker killed in the middle: it goes on", checks.killed),
            ]
    return all(held)


def _held(say: Callable[[str], None], sentence: str, test: Callable[[], None]) -> bool:
    try:
        test()
    except (Finding, OSError) as finding:
        say(f"FAILED  {sentence}: {finding}")
        return False
    say(f"ok      {sentence}")
    return True


def _expect(condition: object, otherwise: str) -> None:
    if not condition:
        raise Finding(otherwise)


class _Checks:
    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def order_is_paid(self) -> None:
        visitor = Visitor(self._stage.url)
        for _ in range(
            ORDERS
        ):  # on a machine that is very busy one may be paid before anybody could watch
            run = self._order(visitor, "tok_visa")
            waiting = visitor.get(run)
            if waiting.status == HTTPStatus.ACCEPTED:
                events = self._watched(visitor, waiting)
                if len(events) > 1:
                    break
        else:
            raise Finding(f"{ORDERS} orders were paid before their waiting page could be watched")
        messages = [event["progress"]["message"] for event in events if event.get("progress")]
        _expect(messages, f"no progress was heard of, only {events}")
        _expect(events[-1]["at_rest"], "nobody said over Socket.IO that the run came to rest")
        for _ in range(2):  # a second visit is the same receipt
            self._expect_receipt(visitor.get(run))

    def _watched(self, visitor: Visitor, waiting: Page) -> list[dict[str, Any]]:
        _expect(waiting.headers["Cache-Control"] == "no-store", "the waiting page may be cached")
        _expect(waiting.headers["Retry-After"], "the waiting page has no Retry-After")
        subscription = visitor.subscribe(waiting)
        try:
            _expect("seq" in subscription.state, f"the subscription answered {subscription.state}")
            if subscription.state["at_rest"]:
                return [subscription.state]
            return subscription.until_at_rest(timeout_seconds=PATIENCE_SECONDS)
        finally:
            subscription.close()

    def two_clicks(self) -> None:
        visitor = Visitor(self._stage.url)
        before = self._charges()
        cart = self._cart(visitor, "tok_visa")
        first, second = (visitor.post("/checkout", cart).headers["Location"] for _ in range(2))
        _expect(first == second, f"two clicks led to {first} and to {second}")
        self._expect_receipt(visitor.get_at_rest(first, timeout_seconds=PATIENCE_SECONDS))
        _expect(self._charges() == before + 1, f"{self._charges() - before} charges for one order")

    def another_visitor(self) -> None:
        run = self._order(Visitor(self._stage.url), "tok_visa")
        for path in (run, f"{run}/state", run[:-1] + ("A" if run[-1] != "A" else "B")):
            status = Visitor(self._stage.url).get(path).status
            _expect(status == HTTPStatus.NOT_FOUND, f"another visitor got {status} for {path}")

    def program(self) -> None:
        visitor = Visitor(self._stage.url)
        run = self._order(visitor, "tok_visa")
        answer = visitor.get(run, accept="application/json")
        body = json.loads(answer.text)
        _expect(
            answer.status == HTTPStatus.ACCEPTED,
            f"a program got {answer.status} for a run under way",
        )
        for name in ("id", "state", "step", "progress", "links"):
            _expect(name in body, f"the JSON has no {name!r}: {body}")
        # A program keeps no cookies: its links open the run by themselves.
        link = Visitor(self._stage.url).get(body["links"]["state"])
        _expect(link.status == HTTPStatus.OK, f"the state link answered {link.status}")

    def declined(self) -> None:
        visitor = Visitor(self._stage.url)
        run = self._order(visitor, "tok_declined")
        page = visitor.get_at_rest(run, timeout_seconds=PATIENCE_SECONDS)
        _expect("insufficient funds" in page.text, f"the page ({page.status}) does not say why")
        form = {"_flowroute": page.value("_flowroute"), "card_token": "tok_visa"}
        posted = visitor.post(run, form)
        _expect(posted.status == HTTPStatus.SEE_OTHER, f"the second card answered {posted.status}")
        before = self._charges()
        stale = visitor.post(run, form)
        _expect(
            stale.status == HTTPStatus.SEE_OTHER, f"the same form again answered {stale.status}"
        )
        self._expect_receipt(visitor.get_at_rest(run, timeout_seconds=PATIENCE_SECONDS))
        _expect(self._charges() <= before + 1, "the second submit charged a second time")

    def failed(self) -> None:
        visitor = Visitor(self._stage.url)
        run = self._order(visitor, "tok_outage")
        page = visitor.get_at_rest(run, timeout_seconds=PATIENCE_SECONDS)
        _expect(
            page.status == HTTPStatus.INTERNAL_SERVER_ERROR,
            f"the failed run's page answered {page.status}",
        )
        _expect("did not answer within 10 seconds" in page.text, "the page does not say why")
        before = self._charges()
        again = visitor.post(f"{run}/retry", {"_flowroute": page.value("_flowroute")})
        _expect(again.status == HTTPStatus.SEE_OTHER, f"the retry answered {again.status}")
        self._expect_receipt(visitor.get_at_rest(run, timeout_seconds=PATIENCE_SECONDS))
        _expect(self._charges() == before + 1, "the retry did not charge exactly once")

    def killed(self) -> None:
        visitor = Visitor(self._stage.url)
        before = self._charges()
        run = self._order(visitor, "tok_visa")
        subscription = visitor.subscribe(visitor.get(run))
        subscription.close()
        for name in ("worker", "web"):
            self._stage.kill(name)
        self._stage.start_web()
        self._stage.start_worker()
        self._expect_receipt(visitor.get_at_rest(run, timeout_seconds=PATIENCE_SECONDS))
        _expect(self._charges() == before + 1, f"{self._charges() - before} charges for one order")

    def _cart(self, visitor: Visitor, card: str) -> dict[str, str]:
        shop = visitor.get("/")
        _expect(shop.status == HTTPStatus.OK, f"the shop answered {shop.status}")
        return {
            "cart_key": shop.value("cart_key"),
            "email": "check@example.org",
            "card_token": card,
            "quantity-1": "2",
        }

    def _order(self, visitor: Visitor, card: str) -> str:
        answer = visitor.post("/checkout", self._cart(visitor, card))
        _expect(
            answer.status == HTTPStatus.SEE_OTHER, f"the cart answered {answer.status}, not 303"
        )
        return answer.headers["Location"]

    def _expect_receipt(self, page: Page) -> None:
        _expect(
            page.status == HTTPStatus.OK and "is paid" in page.text,
            f"no receipt, but {page.status}",
        )

    def _charges(self) -> int:
        with closing(sqlite3.connect(self._stage.home / "bank.db")) as ledger:
            count: int = ledger.execute("SELECT count(*) FROM charge").fetchone()[0]
            return count
