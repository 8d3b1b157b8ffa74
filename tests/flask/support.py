"""What the tests of the Flask leaf share: a site with flows on it, and ways to read its pages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

import sqlalchemy as sa
from bs4 import BeautifulSoup
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flowroute.flask import FlowRoute
from flowroute.flask.tokens import FIELD
from tests.engine.support import Shelf

if TYPE_CHECKING:
    from flask.testing import FlaskClient
    from flask_socketio import SocketIO
    from werkzeug.test import TestResponse

    from flowroute import Run

T = TypeVar("T")

JSON = {"Accept": "application/json"}
HTML = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
"""What browsers send."""


class Base(DeclarativeBase):
    """The site's own tables."""


class Line(Base):
    """A row that steps and views write."""

    __tablename__ = "line"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


@dataclass
class Site:
    """An application with flowroute on it."""

    app: Flask
    db: SQLAlchemy
    flows: FlowRoute
    socketio: SocketIO | None = None
    shelf: Shelf | None = field(default=None)
    """Keeps the hints of worker steps until `work`; None where the site has a real executor."""

    def route(
        self, rule: str, view: Callable[..., Any], methods: tuple[str, ...] = ("GET", "POST")
    ) -> None:
        """Add a view, named after its rule."""
        self.app.add_url_rule(rule, rule.strip("/").replace("/", "_"), view, methods=list(methods))

    def client(self) -> FlaskClient:
        """A new visitor."""
        return self.app.test_client()

    def client_like(self, other: FlaskClient) -> FlaskClient:
        """The same visitor in another tab: a client with the same cookies."""
        client = self.client()
        cookie = other.get_cookie("session")
        assert cookie is not None
        client.set_cookie("session", cookie.value)
        return client

    def work(self) -> None:
        """Let the worker steps run that wait now, and those that follow them."""
        assert self.shelf is not None
        while self.shelf.hints:
            self.shelf.work()

    @property
    def runs(self) -> list[Run[Any]]:
        """Every run, newest first."""
        with self.app.app_context():
            return self.flows.engine.runs()

    @property
    def run(self) -> Run[Any]:
        """The only run."""
        (run,) = self.runs
        return run

    @property
    def lines(self) -> list[str]:
        """The committed lines, oldest first."""
        with self.app.app_context(), self.db.engine.connect() as connection:
            return list(connection.execute(sa.select(Line.text).order_by(Line.id)).scalars())

    def close(self) -> None:
        """Stop the threads, and close the connections."""
        with self.app.app_context():
            self.flows.engine.close()
            for engine in self.db.engines.values():
                engine.dispose()


def soup(response: TestResponse) -> BeautifulSoup:
    """A page, parsed."""
    return BeautifulSoup(response.text, "html.parser")


def attributes(response: TestResponse, selector: str) -> dict[str, str]:
    """The attributes of the only element that a selector finds on a page."""
    found = soup(response).select(selector)
    assert len(found) == 1, f"{len(found)} of {selector} in:\n{response.text}"
    return cast("dict[str, str]", found[0].attrs)


def form_field(response: TestResponse) -> dict[str, str]:
    """The hidden field of the page's form, ready to be sent."""
    return {FIELD: attributes(response, f"input[name={FIELD}]")["value"]}


def at_once(count: int, call: Callable[[int], T]) -> Iterator[T]:
    """Call a function in many threads at the same time; yields what it returned, in order."""
    with ThreadPoolExecutor(count) as pool:
        return pool.map(call, range(count), timeout=60)


def in_thread(call: Callable[[], object]) -> threading.Thread:
    """Call a function in a thread; join it with a bound."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread
