"""The checkout, from the cart to the receipt."""

# pyright: reportCallIssue=false
# Flask-SQLAlchemy does not tell type checkers what a model is made from.

from __future__ import annotations

import time
from datetime import timedelta

from flask import current_app, render_template, request
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, Field

from flowroute import Continuation, Flow, step, worker_step
from flowroute.flask import page

from .bank import Bank, CardDeclined
from .models import Line, Order, Product, db


class Item(BaseModel):
    """One line of a cart."""

    product_id: int
    quantity: int = Field(ge=1, le=99)


class Checkout(Flow):
    """Your order."""

    email: str

    @step(start=True)
    def reserve(self, cart: list[Item], card_token: str) -> Continuation:
        """Reserve the items."""
        order = Order(email=self.email)
        for item in cart:
            product = db.session.get_one(Product, item.product_id, with_for_update=True)
            product.stock -= item.quantity
            order.lines.append(Line(product=product, quantity=item.quantity))
        db.session.add(order)  # commits together with the checkpoint, or not at all
        return self.charge(order, card_token)

    @worker_step(timeout=timedelta(minutes=5))
    def charge(self, order: Order, card_token: str) -> Continuation:
        """Charge the card."""
        for number, message in enumerate(
            ("Contacting the bank", "Checking the card", "Moving the money"), 1
        ):
            self.run.progress(number, 4, message)
            time.sleep(current_app.config["CHECKOUT_PAUSE_SECONDS"])
        bank: Bank = current_app.extensions["bank"]
        try:
            # The same key on every attempt: the money moves once, whatever crashes.
            order.charge_id = bank.charge(order.cents, card_token, key=self.run.idempotency_key)
        except CardDeclined as reason:
            return self.declined(order, str(reason))
        self.run.progress(4, 4, "Paid")
        return self.receipt(order)

    @page
    def declined(self, order: Order, reason: str) -> ResponseReturnValue | Continuation:
        """Choose another card."""
        if request.method == "POST":
            return self.charge(order, request.form["card_token"])
        return render_template("declined.html", order=order, reason=reason)

    @page(final=True)
    def receipt(self, order: Order) -> ResponseReturnValue:
        """Receipt."""
        return render_template("receipt.html", order=order)
