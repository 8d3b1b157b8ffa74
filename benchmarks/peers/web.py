"""A Flask application with flowroute's views and plain ones, called as a WSGI server calls it."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from flask import Flask, render_template
from flask_sqlalchemy import SQLAlchemy
from jinja2 import DictLoader
from sqlalchemy.orm import Mapped, mapped_column
from werkzeug.test import EnvironBuilder, run_wsgi_app

from benchmarks.peers.settings import SECRET, pragmas, use_pragmas
from flowroute import Continuation, Flow, done, step
from flowroute.flask import FlowRoute

TEXT = "<p>The report of 2026 says that it was a good year.</p>"

#: A page as applications have them: a layout and a block in it.
TEMPLATES = {
    "layout.html": (
        "<!doctype html><html lang=en><head><meta charset=utf-8><title>{{ title }}</title>"
        "<link rel=stylesheet href=\"{{ url_for('static', filename='site.css') }}\"></head>"
        "<body><header><a href=/>Home</a></header>{% block content %}{% endblock %}</body></html>"
    ),
    "page.html": (
        "{% extends 'layout.html' %}{% block content %}<h1>{{ title }}</h1><ul>"
        "{% for each in range(5) %}<li>{{ each }} {{ text }}</li>{% endfor %}</ul>{% endblock %}"
    ),
}

db = SQLAlchemy()
flows = FlowRoute()


class Report(db.Model):  # type: ignore[name-defined, misc]  # Flask-SQLAlchemy makes it at run time
    """The row that a plain view reads."""

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


class Finished(Flow):
    """Ends with a text at once."""

    @step(start=True)
    def begin(self) -> Continuation[str]:
        """The only step."""
        return done(TEXT)


class Waiting(Flow):
    """Waits for a day."""

    @step(start=True)
    def begin(self) -> Continuation[str]:
        """Before the wait."""
        return self.later().after(timedelta(days=1))

    @step
    def later(self) -> Continuation[str]:
        """After it."""
        return done(TEXT)


def plain() -> str:
    """One SELECT, and its text."""
    text: str = db.session.execute(db.select(Report.text).where(Report.id == 1)).scalar_one()
    return text


def plain_page() -> str:
    """One SELECT, and a page that shows it."""
    return render_template("page.html", title="A report", text=plain())


def finished() -> Any:
    """A run that is done."""
    return flows.respond(Finished().begin(), key="finished")


def waiting() -> Any:
    """A run that waits."""
    return flows.respond(Waiting().begin(), key="waiting")


VIEWS = {
    "/plain": plain,
    "/plain-page": plain_page,
    "/finished": finished,
    "/waiting": waiting,
}


class Web:
    """Calls the application.

    Parameters:
        app: The application.
    """

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._cookie = ""

    def visit(self, path: str, accept: str = "text/html") -> dict[str, Any]:
        """The status and the length of one answer; a cookie is kept, as a browser keeps it."""
        body, status, headers = run_wsgi_app(self._app.wsgi_app, self._environment(path, accept))
        self._cookie = headers.get("Set-Cookie", self._cookie).partition(";")[0]
        return {"status": status, "bytes": len(b"".join(body))}

    def rate(self, path: str, count: int, accept: str = "text/html") -> float:
        """Requests per second, of a browser that was there before."""
        template = self._environment(path, accept)
        call = self._app.wsgi_app
        gc.collect()
        began = time.perf_counter()
        for _ in range(count):
            answer = call(dict(template), _start_response)
            for _part in answer:
                pass
            answer.close()  # type: ignore[attr-defined]  # Werkzeug's answers have it
        return count / (time.perf_counter() - began)

    def settings(self) -> dict[str, Any]:
        """What the connections are set to."""
        with self._app.app_context():
            return pragmas(db.engine)

    def _environment(self, path: str, accept: str) -> dict[str, Any]:
        headers = [("Accept", accept), ("Cookie", self._cookie)]
        builder = EnvironBuilder(path=path, headers=headers)
        return {**builder.get_environ()}


def _start_response(*_: Any) -> Any:
    return None


@contextmanager
def web(url: str, synchronous: str) -> Iterator[Web]:
    """The application on an empty database."""
    use_pragmas(synchronous)
    app = Flask(__name__)
    app.config.update(SECRET_KEY=SECRET, SQLALCHEMY_DATABASE_URI=url)
    app.jinja_loader = DictLoader(TEMPLATES)  # pyright: ignore[reportAttributeAccessIssue]
    db.init_app(app)
    flows.init_app(app, db=db)
    for path, view in VIEWS.items():
        app.add_url_rule(path, view_func=view)
    with app.app_context():
        db.create_all()
        db.session.execute(db.insert(Report).values(id=1, text=TEXT))
        db.session.commit()
    yield Web(app)
