"""The shop: ``flask --app checkout.app run``, and ``flask --app checkout.app flow worker``."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from flask import Flask, abort, render_template, request
from flask.typing import ResponseReturnValue
from flask_socketio import SocketIO
from pydantic import ValidationError

from flowroute.flask import FlowRoute

from .bank import CARDS, Bank
from .flow import Checkout, Item
from .models import Product, db, stock_the_shelf

socketio = SocketIO()
flows = FlowRoute()


def create_app() -> Flask:
    """Make the application; the environment may say where its data and its Redis are."""
    app = Flask(__name__)
    home = Path(os.environ.get("CHECKOUT_HOME", app.instance_path)).absolute()
    home.mkdir(parents=True, exist_ok=True)
    redis_url = os.environ.get("CHECKOUT_REDIS_URL")
    app.config.update(
        SECRET_KEY=_secret(home / "secret"),
        SQLALCHEMY_DATABASE_URI=f"sqlite:///{home / 'checkout.db'}",
        FLOWROUTE_REDIS_URL=redis_url,
        FLOWROUTE_SHOW_ERRORS=True,
        CHECKOUT_PAUSE_SECONDS=float(os.environ.get("CHECKOUT_PAUSE_SECONDS", "1.5")),
    )
    app.config.from_prefixed_env()
    app.jinja_env.filters["money"] = lambda cents: f"€ {cents / 100:.2f}"
    db.init_app(app)
    socketio.init_app(app, async_mode="threading", message_queue=redis_url)
    flows.init_app(app, db=db, socketio=socketio)
    app.extensions["bank"] = Bank(home / "bank.db")
    with app.app_context():
        stock_the_shelf()
    app.add_url_rule("/", "shop", shop)
    app.add_url_rule("/favicon.ico", "icon", lambda: app.send_static_file("icon.svg"))
    app.add_url_rule("/checkout", "checkout", checkout, methods=["POST"])
    return app


def shop() -> ResponseReturnValue:
    """The shelf, as a cart form. Its key makes two clicks one order."""
    products = db.session.query(Product).order_by(Product.id).all()
    return render_template(
        "shop.html", products=products, cards=CARDS, cart_key=secrets.token_hex(8)
    )


def checkout() -> ResponseReturnValue:
    """Start the checkout; a POST leads to the run's own address."""
    try:
        cart = [
            Item(product_id=product.id, quantity=int(quantity))
            for product in db.session.query(Product)
            if (quantity := request.form.get(f"quantity-{product.id}", "0")) not in ("", "0")
        ]
    except (ValidationError, ValueError):
        abort(400, "Between 1 and 99 of each, please.")
    if not cart or request.form.get("card_token") not in CARDS:
        abort(400, "Put something into the cart, and choose a card.")
    start = Checkout(email=request.form["email"]).reserve(cart, request.form["card_token"])
    return flows.respond(start, key=request.form["cart_key"])


def _secret(path: Path) -> str:
    """A key of this installation's own, made the first time."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex())
    return path.read_text()
