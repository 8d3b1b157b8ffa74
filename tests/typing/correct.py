"""Right uses of flowroute's public names: mypy --strict and pyright strict find nothing wrong here.

`assert_type` shows that they find the very types, not `Any`. The module is imported too: what type
checkers accept here also passes flowroute's own checks when a flow is defined.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar, assert_type

from flask import render_template, request
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session

from flowroute import (
    Checkpoint,
    Continuation,
    Engine,
    Flow,
    FlowrouteError,
    LeaseLost,
    Recovered,
    Retry,
    Run,
    Step,
    StepFailure,
    StepTimeout,
    call,
    done,
    step,
    worker_step,
)
from flowroute.flask import page

T = TypeVar("T")


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[Decimal]


@dataclass
class Item:
    name: str
    price: Decimal


class Receipt(BaseModel):
    order_id: int
    charge_id: str


class CardDeclined(Exception):
    pass


# -- a flow with state, steps before and after a worker step, retries and an error step ------------


class Checkout(Flow, name="checkout", version=2):
    """Reserve, charge on a worker, then end with the receipt."""

    MOST: ClassVar[int] = 100

    customer_id: int
    currency: Literal["EUR", "USD"] = "EUR"
    notes: list[str] = Field(default_factory=list)
    discount: Annotated[int, Field(ge=0, le=50)] = 0
    voucher: str | None = None

    @step(start=True)
    def reserve(self, cart: list[Item]) -> Continuation[Receipt]:
        order = Order(total=self._total(cart))
        assert_type(self.session, Session)
        self.session.add(order)
        self.notes.append("reserved")
        self.voucher = None
        return self.charge(order, currency=self.currency)

    @worker_step(
        retry=Retry(5, backoff=timedelta(seconds=2), max_backoff=timedelta(minutes=1), jitter=0.5),
        timeout=timedelta(minutes=5),
        on_error="declined",
    )
    def charge(self, order: Order, *, currency: str, tries: int = 1) -> Continuation[Receipt]:
        self.run.progress(1, 2, "contacting the bank")
        self.run.progress(0.5)
        assert_type(self.run.id, str)
        assert_type(self.run.attempt, int)
        assert_type(self.run.idempotency_key, str)
        self.run.log.info("charging %s in %s", order.total, currency)
        if order.total > self.MOST:
            raise CardDeclined
        if tries > 1:
            return self.charge(order=order, currency=currency, tries=tries - 1)
        return self.receipt(order, self.run.idempotency_key)

    @step
    def receipt(self, order: Order, charge_id: str) -> Continuation[Receipt]:
        return done(Receipt(order_id=order.id, charge_id=charge_id))

    @step
    def declined(self, failure: StepFailure) -> Continuation[Receipt]:
        assert_type(failure.message, str)
        self.run.log.warning("attempt %s of %s failed", failure.attempt, failure.step)
        return self.charge(Order(total=Decimal(0)), currency="EUR").after(timedelta(days=1))

    def _total(self, cart: list[Item]) -> Decimal:
        """A helper: neither a step nor state."""
        return sum((item.price for item in cart), Decimal(0)) * (100 - self.discount) / 100


# -- continuations are typed by what the run ends with ---------------------------------------------


def continuations(cart: list[Item]) -> None:
    checkout = Checkout(customer_id=7)
    assert_type(checkout.customer_id, int)
    assert_type(checkout.notes, list[str])
    assert_type(checkout.discount, int)
    assert_type(checkout.voucher, str | None)
    checkout.currency = "USD"
    checkout.discount = 20

    onward = checkout.reserve(cart)
    assert_type(onward, Continuation[Receipt])
    assert_type(onward.after(timedelta(hours=1)), Continuation[Receipt])
    assert_type(onward.at(datetime.now(UTC)), Continuation[Receipt])
    assert_type(onward.flow, Flow | None)
    assert_type(onward.arguments, dict[str, Any])
    assert_type(done(), Continuation[None])
    assert_type(done("receipt.pdf"), Continuation[str])
    assert_type(done([1, 2, 3]), Continuation[list[int]])
    assert_type(checkout.receipt(Order(), charge_id="ch_1"), Continuation[Receipt])

    # A step of a flow is a callable like any other.
    start: Callable[[list[Item]], Continuation[Receipt]] = checkout.reserve
    assert_type(start(cart), Continuation[Receipt])

    # What ends with a bool ends with an int.
    number: Continuation[int] = done(value=True)
    anything: Continuation[object] = number
    unnamed: Continuation = anything
    assert_type(unnamed, Continuation[Any])


# -- runs are typed by their result ----------------------------------------------------------------


def runs(engine: Engine, cart: list[Item]) -> Receipt:
    run = engine.start(Checkout(customer_id=7, discount=10).reserve(cart), key="cart-42", owner="7")
    assert_type(run, Run[Receipt])
    assert_type(run.wait(timeout_seconds=30), Run[Receipt])
    assert_type(run.result, Receipt)
    assert_type(run.id, str)
    assert_type(run.key, str | None)
    assert_type(run.state, str)
    assert_type(run.step, str | None)
    assert_type(run.error, StepFailure | None)
    assert_type(run.at_rest, bool)
    assert_type(run.progress, dict[str, Any] | None)
    assert_type(run.checkpoints, list[Checkpoint])
    assert_type(run.checkpoints[0].duration, timedelta | None)
    assert_type(run.retry(), Run[Receipt])
    assert_type(run.cancel(), Run[Receipt])
    assert_type(run.reset(), Run[Receipt])
    assert_type(run.resume(), Run[Receipt])
    model: Run[BaseModel] = run
    model.wait()

    delayed = engine.start(Checkout(customer_id=7).reserve(cart).after(timedelta(minutes=5)))
    assert_type(delayed.result.charge_id, str)

    assert_type(engine.get(run.id), Run[Any])
    assert_type(engine.find(Checkout, "cart-42"), Run[Any] | None)
    assert_type(engine.runs(flow=Checkout, state=["failed", "blocked"]), list[Run[Any]])
    assert_type(engine.runs(flow="checkout", state="done", owner="7", limit=10), list[Run[Any]])
    assert_type(engine.recover(), Recovered)
    assert_type(engine.start(Greet().hello("you")).result, str)
    assert_type(engine.start(Untyped().begin()).result, Any)
    return run.wait().result


def engines(session: scoped_session[Session]) -> None:
    with Engine("sqlite:///flows.db", secret_keys=["…"]) as engine:
        assert_type(engine, Engine)
        engine.create_all()
    Engine(session, executor="inline", secret_keys=[b"new", "old"], lease_seconds=5).close()
    Engine("sqlite:///flows.db", retention=timedelta(days=30), max_checkpoint_bytes=10_000).close()


def errors(run: Run[int]) -> int | None:
    try:
        return run.result
    except FlowrouteError as error:
        assert_type(error.run_id, str | None)
        assert_type(error.step, str | None)
        return None


# -- decorators, with and without parentheses ------------------------------------------------------


class Greet(Flow):
    @step(start=True)
    def hello(
        self, name: str, /, greeting: str = "Hello", *, loud: bool = False
    ) -> Continuation[str]:
        text = f"{greeting}, {name}"
        if loud:
            return self.shout(text)
        return self.end(text=text)

    @worker_step
    def shout(self, text: str) -> Continuation[str]:
        try:
            return self.end(text.upper())
        except (LeaseLost, StepTimeout):
            logging.getLogger(__name__).info("stopped")
            raise

    @worker_step()
    def end(self, text: str) -> Continuation[str]:
        return done(text)


def greetings() -> None:
    greet = Greet()
    assert_type(greet.hello("you"), Continuation[str])
    assert_type(greet.hello("you", "Hi"), Continuation[str])
    assert_type(greet.hello("you", greeting="Hi", loud=True), Continuation[str])


# -- edges named by hand, by name and as the step itself -------------------------------------------


class Route(Flow, abstract=False):
    @step
    def left(self) -> Continuation[int | None]:
        return done(1)

    @worker_step(to=[done])
    def right(self) -> Continuation[int | None]:
        return done()

    @step(start=True, to=["right", left, right, done, "done"], retry=Retry(2))
    def choose(self, way: Literal["left", "right"]) -> Continuation[int | None]:
        turn = self.left if way == "left" else self.right
        return self._noted(turn())

    def _noted(self, onward: Continuation[T]) -> Continuation[T]:
        """A helper for a continuation of any type."""
        self.run.log.info("on to %r", onward)
        return onward


# -- a bare `Continuation` says nothing of the result ----------------------------------------------


class Untyped(Flow):
    @step(start=True)
    def begin(self) -> Continuation:
        return self.go_on({"a": 1})

    @worker_step(commits=True)
    def go_on(self, counts: Mapping[str, int]) -> Continuation:
        self.session.commit()
        return done(len(counts))


# -- inheritance -----------------------------------------------------------------------------------


class Audited:
    """A mixin that is no flow."""

    log_name: str = "audit"

    def audit(self, what: str) -> None:
        logging.getLogger(self.log_name).info(what)


class Import(Flow, Audited, abstract=True):
    path: str

    @step(start=True)
    def begin(self) -> Continuation[int]:
        self.audit(self.path)
        return self.load(self.path)

    @worker_step
    def load(self, path: str) -> Continuation[int]:
        return self.finish([path])

    @step
    def finish(self, lines: list[str]) -> Continuation[int]:
        return done(len(lines))


class ImportOrders(Import):
    limit: int = 10

    @worker_step(timeout=timedelta(hours=1), commits=True)
    def load(self, path: str, *, encoding: str = "utf-8") -> Continuation[int]:
        if path != self.path:
            return Import.load.function(self, path)
        found = self.session.scalars(select(Order).limit(self.limit))
        return self.finish([f"{order.id} {encoding}" for order in found])


class Holder(Generic[T]):
    """Something generic outside flowroute that keeps a continuation."""

    def __init__(self, onward: Continuation[T]) -> None:
        self.onward = onward

    def start(self, engine: Engine) -> Run[T]:
        return engine.start(self.onward)


def inherited(engine: Engine) -> None:
    orders = ImportOrders(path="orders.csv", limit=5)
    assert_type(orders.begin(), Continuation[int])
    assert_type(orders.load("orders.csv", encoding="ascii"), Continuation[int])
    assert_type(Holder(orders.begin()).start(engine), Run[int])


# -- sub-flows -------------------------------------------------------------------------------------


class Audit(Flow):
    @step(start=True)
    def begin(self, path: str) -> Continuation[str]:
        onward = call(ImportOrders(path=path).begin(), self.report, path, loud=True)
        assert_type(onward, Continuation[str])
        return onward

    @step
    def report(self, imported: int, path: str, *, loud: bool = False) -> Continuation[str]:
        return done(f"{imported} of {path}" + "!" * loud)


# -- pages -----------------------------------------------------------------------------------------


class Survey(Flow):
    asked: int = 0

    @page(start=True, timeout=timedelta(seconds=10))
    def ask(self, question: str) -> ResponseReturnValue | Continuation:
        if request.method == "POST":
            self.asked += 1
            return self.thank(request.form["answer"], points=self.asked)
        return render_template("ask.html", question=question), 200

    @page(final=True)
    def thank(self, answer: str, *, points: int) -> str:
        return render_template("thank.html", answer=answer, points=points)


class Feedback(Flow):
    @step(start=True)
    def begin(self, name: str) -> Continuation[None]:
        return self.show(name)

    # mypy --strict and ruff want a return type on every function; flowroute does not need one here.
    @page
    def show(self, name: str):  # type: ignore[no-untyped-def]  # noqa: ANN201
        if request.method == "POST":
            return self.end(name=name)
        return render_template("show.html", name=name)

    @step
    def end(self, name: str) -> Continuation[None]:
        self.run.log.info("%s has seen it", name)
        return done()


def pages(engine: Engine) -> None:
    assert_type(Survey().ask("How are you?"), Continuation[Any])
    assert_type(Survey(asked=1).thank("well", points=3), Continuation[Any])
    assert_type(engine.start(Survey().ask("How are you?")), Run[Any])
    assert_type(Feedback().show(name="you"), Continuation[Any])
    assert_type(Survey.thank.function(Survey(), "well", points=3), str)


# -- a step as an object, and as plain Python in a unit test ---------------------------------------


def unit_test(cart: list[Item]) -> None:
    checkout = Checkout(customer_id=7)
    onward = Checkout.reserve.function(checkout, cart)
    assert_type(onward, Continuation[Receipt])
    assert onward.step is Checkout.charge
    assert_type(Checkout.charge.name, str)
    assert_type(Checkout.charge.timeout_seconds, float | None)
    any_step: Step = Checkout.charge
    assert_type(any_step.start, bool)
    names = [node.name for node in Checkout.graph]
    assert_type(names, list[str])
    assert_type(Retry(3).wait_seconds(2), float)
