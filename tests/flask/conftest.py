"""Fixtures of the Flask leaf: applications on an empty database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flowroute.flask import FlowRoute, extension
from tests.engine.support import Shelf
from tests.flask.support import Base, Site

if TYPE_CHECKING:
    from flask_socketio import SocketIO

SECRET = "of the tests, and long enough to be a secret"  # noqa: S105


class MakeSite(Protocol):
    """Makes a site, closed after the test."""

    def __call__(
        self,
        database: str,
        *,
        executor: str = "shelf",
        socketio: SocketIO | None = None,
        **config: Any,
    ) -> Site:
        """Make it.

        Parameters:
            database: Its URL.
            executor: ``shelf`` keeps hints until `Site.work`; else as ``FLOWROUTE_EXECUTOR``.
            socketio: Its SocketIO, not yet initialised.
            config: Further config keys.
        """
        ...


@pytest.fixture
def make_site(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeSite]:
    """Call it to make a site."""
    with ExitStack() as stack:

        def make(
            database: str,
            *,
            executor: str = "shelf",
            socketio: SocketIO | None = None,
            **config: Any,
        ) -> Site:
            app = Flask("shop")
            app.config.update(
                TESTING=True, SECRET_KEY=SECRET, SQLALCHEMY_DATABASE_URI=database, **config
            )
            db, flows = SQLAlchemy(), FlowRoute()
            db.init_app(app)
            if socketio is not None:
                socketio.init_app(app, async_mode="threading")
            shelf = Shelf() if executor == "shelf" else None
            with monkeypatch.context() as patch:
                if shelf is not None:
                    patch.setattr(extension, "executor_of", lambda _settings: shelf)
                else:
                    app.config["FLOWROUTE_EXECUTOR"] = executor
                flows.init_app(app, db=db, socketio=socketio)
            site = Site(app, db, flows, socketio, shelf)
            stack.callback(site.close)
            with app.app_context():
                db.create_all()
                Base.metadata.create_all(db.engine)
            return site

        yield make


@pytest.fixture
def site(make_site: MakeSite, sqlite_url: str) -> Site:
    """A site on SQLite whose worker steps wait on a shelf."""
    return make_site(sqlite_url)
