# type: ignore
# The line above keeps the project's type checkers away from here; the test takes it out.
# ruff: noqa: ARG002, B018, PGH003, S106, T201  # wrong on purpose
"""Wrong uses of flowroute's public names: mypy --strict and pyright strict flag each marked line.

A mark is a comment ``# E:`` with the mistake. No other line is flagged.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar, Literal

from flowroute import (
    Continuation,
    Engine,
    Flow,
    Retry,
    Run,
    StepFailure,
    call,
    done,
    step,
    worker_step,
)
from flowroute.flask import page


@dataclass
class Item:
    name: str
    price: int


class Checkout(Flow):
    most: ClassVar[int] = 100

    customer_id: int
    currency: Literal["EUR", "USD"] = "EUR"

    @step(start=True)
    def reserve(self, cart: list[Item]) -> Continuation[int]:
        return self.charge(len(cart), currency=self.currency)

    @worker_step(on_error="declined")
    def charge(self, amount: int, *, currency: str, note: str = "") -> Continuation[int]:
        return done(amount)

    @step
    def declined(self, failure: StepFailure) -> Continuation[int]:
        return done(0)

    @page(final=True)
    def receipt(self, amount: int) -> str:
        return str(amount)

    def total(self, cart: list[Item]) -> int:
        return sum(item.price for item in cart)


# -- arguments of a step ---------------------------------------------------------------------------


class Arguments(Checkout, abstract=True):
    @step
    def wrong_type(self) -> Continuation[int]:
        return self.charge("12", currency="EUR")  # E: a str for an int

    @step
    def wrong_item_type(self) -> Continuation[int]:
        return self.reserve(["book"])  # E: a list of str for a list of Item

    @step
    def wrong_keyword_type(self) -> Continuation[int]:
        return self.charge(12, currency=978)  # E: an int for a str

    @step
    def missing(self) -> Continuation[int]:
        return self.reserve()  # E: no cart

    @step
    def missing_keyword(self) -> Continuation[int]:
        return self.charge(12)  # E: no currency

    @step
    def misspelt(self) -> Continuation[int]:
        return self.charge(amuont=12, currency="EUR")  # E: amuont

    @step
    def extra(self) -> Continuation[int]:
        return self.reserve([], 7)  # E: one argument too many

    @step
    def extra_keyword(self) -> Continuation[int]:
        return self.charge(12, currency="EUR", discount=3)  # E: there is no discount

    @step
    def positional(self) -> Continuation[int]:
        return self.charge(12, "EUR")  # E: currency is keyword-only

    @step
    def twice(self) -> Continuation[int]:
        return self.charge(12, amount=12, currency="EUR")  # E: amount is given twice

    @step
    def optional(self, note: str | None) -> Continuation[int]:
        return self.charge(12, currency="EUR", note=note)  # E: note may be None

    @step
    def to_a_page(self) -> Continuation[int]:
        return self.receipt("12")  # E: a str for the page's int

    @step
    def of_a_page(self) -> Continuation[int]:
        return self.receipt()  # E: the page's amount is missing


# -- sub-flows -------------------------------------------------------------------------------------


class Calls(Checkout, abstract=True):
    @step
    def wrong_result(self) -> Continuation[int]:
        return call(Named().name(), self.charge, currency="EUR")  # E: a str for the int

    @step
    def without_the_rest(self) -> Continuation[int]:
        return call(Checkout(customer_id=7).reserve([]), self.charge)  # E: no currency

    @step
    def wrong_rest(self) -> Continuation[int]:
        return call(Checkout(customer_id=7).reserve([]), self.charge, currency=978)  # E: an int

    @step
    def called(self) -> Continuation[int]:
        return call(Named().name(), self.charge(12, currency="EUR"))  # E: not the step itself

    @step
    def wrong_end(self) -> Continuation[int]:
        return call(Checkout(customer_id=7).reserve([]), Named().last)  # E: ends with a str


class Named(Flow):
    @step(start=True)
    def name(self) -> Continuation[str]:
        return self.last(1)

    @step
    def last(self, number: int) -> Continuation[str]:
        return done(str(number))


# -- steps -----------------------------------------------------------------------------------------


class Steps(Checkout, abstract=True):
    @step
    def misspelt(self) -> Continuation[int]:
        return self.chrage(12, currency="EUR")  # E: chrage

    @step
    def misspelt_page(self) -> Continuation[int]:
        return self.reciept(12)  # E: reciept

    @step
    def uncalled(self) -> Continuation[int]:
        return self.charge  # E: the step is not called

    @step
    def helper(self) -> Continuation[int]:
        return self.total([])  # E: a plain method's int is no continuation

    @step
    def value(self) -> Continuation[int]:
        return 12  # E: done(12)

    @step
    def nothing(self) -> Continuation[int]:
        self.charge(12, currency="EUR")
        return None  # E: the continuation is dropped

    @step
    def other_result(self) -> Continuation[str]:
        return self.charge(12, currency="EUR")  # E: charge leads to an int

    @step
    def wrong_result(self) -> Continuation[int]:
        return done("12")  # E: a str ends a run of int

    @step
    def no_result(self) -> Continuation[int]:
        return done()  # E: None ends a run of int

    @step
    def too_many_results(self) -> Continuation[int]:
        return done(1, 2)  # E: done takes one value

    @step
    def delay(self) -> Continuation[int]:
        return self.charge(12, currency="EUR").after(60)  # E: 60 is no timedelta

    @step
    def instant(self) -> Continuation[int]:
        return self.charge(12, currency="EUR").at("tomorrow")  # E: a str is no datetime

    @step
    def progress(self) -> Continuation[int]:
        self.run.progress("half")  # E: a str is no number
        return done(1)

    @step
    def run_attribute(self) -> Continuation[int]:
        self.run.attempts += 1  # E: it is called attempt
        return done(1)

    @step
    def write(self) -> Continuation[int]:
        self.session.ad(Item("book", 12))  # E: ad
        return done(1)


# -- decorators ------------------------------------------------------------------------------------


class Decorators(Flow, abstract=True):
    @step  # E: a step returns a continuation
    def returns_nothing(self) -> None:
        pass

    @worker_step(retry=5)  # E: an int is no Retry
    def retried(self) -> Continuation[int]:
        return done(1)

    @worker_step(timeout=30)  # E: an int is no timedelta
    def timed(self) -> Continuation[int]:
        return done(1)

    @step(strat=True)  # E: strat
    def misspelt_option(self) -> Continuation[int]:
        return done(1)

    @step(commits=True)  # E: only a worker step commits by itself
    def commits(self) -> Continuation[int]:
        return done(1)

    @worker_step(final=True)  # E: only a page is final
    def final(self) -> Continuation[int]:
        return done(1)

    @step(to="final")  # E: a str is no list
    def one_successor(self) -> Continuation[int]:
        return done(1)

    @step(to=[3])  # E: an int is no step
    def odd_successor(self) -> Continuation[int]:
        return done(1)

    @step(on_error=done)  # E: a function is no name of a step
    def odd_error_step(self) -> Continuation[int]:
        return done(1)

    @page(retry=Retry(3))  # E: a page is not tried again
    def retried_page(self) -> str:
        return ""


Retry("5")  # E: a str is no number
Retry(5, backoff=2)  # E: an int is no timedelta
Retry(5, timedelta(seconds=2))  # E: backoff is keyword-only
Retry()  # E: no attempts


# -- overriding ------------------------------------------------------------------------------------


class MoreArguments(Checkout):
    @step(start=True)
    def reserve(self, cart: list[Item], size: int) -> Continuation[int]:  # E: size is new
        return self.charge(size, currency="EUR")


class OtherResult(Checkout):
    @step(start=True)
    def reserve(self, cart: list[Item]) -> Continuation[str]:  # E: a str for an int
        return done("")


# -- state -----------------------------------------------------------------------------------------


class State(Checkout, abstract=True):
    @step
    def read(self) -> Continuation[int]:
        return self.charge(self.custmer_id, currency="EUR")  # E: custmer_id

    @step
    def read_type(self) -> Continuation[int]:
        return self.charge(self.currency, currency="EUR")  # E: currency is a str

    @step
    def assign_type(self) -> Continuation[int]:
        self.customer_id = "7"  # E: a str for an int
        return done(1)

    @step
    def assign_literal(self) -> Continuation[int]:
        self.currency = "GBP"  # E: neither EUR nor USD
        return done(1)


Checkout(customer_id="7")  # E: a str for an int
Checkout()  # E: no customer_id
Checkout(custmer_id=7)  # E: custmer_id
Checkout(customer_id=7, voucher="X")  # E: there is no voucher
Checkout(customer_id=7, most=10)  # E: a ClassVar is no state
Checkout(7)  # E: state is given by name
Checkout(customer_id=7, currency="GBP")  # E: neither EUR nor USD
Checkout(customer_id=7).custmer_id = 8  # E: custmer_id
Checkout(customer_id=7).customer_id = "8"  # E: a str for an int


# -- runs ------------------------------------------------------------------------------------------


def runs(engine: Engine, checkout: Checkout, run: Run[int]) -> str:
    engine.start(checkout.reserve)  # E: the step is not called
    engine.start(checkout)  # E: a flow is no continuation
    engine.start(checkout.reserve([]), kye="cart-42")  # E: kye
    engine.start(checkout.reserve([]), "cart-42")  # E: key is keyword-only
    engine.start(checkout.reserve([]), key=42)  # E: an int is no key
    engine.find("Checkout", "cart-42")  # E: the flow's class is needed
    engine.runs(flow=checkout)  # E: a flow object is no class
    run.wait(30)  # E: timeout_seconds is keyword-only
    run.wait(timeout_seconds=timedelta(seconds=30))  # E: a timedelta is no number
    run.results  # E: it is called result
    run.result = 3  # E: a result is not set
    run.result.upper()  # E: an int has no upper()
    text: Run[str] = engine.start(checkout.reserve([]))  # E: it is a run of int
    print(text)
    Checkout.receipt.function(checkout, 12).total  # E: a page's answer is what it returned
    Checkout.reserve.function(checkout, "book")  # E: a str for a list
    Checkout.reserve.function(checkout)  # E: no cart
    Checkout.reserve([])  # E: a step of the class is no function
    Engine("sqlite:///flows.db", lease=30)  # E: it is called lease_seconds
    Engine("sqlite:///flows.db", secret_key="…")  # E: it is called secret_keys
    return run.result  # E: an int for a str
