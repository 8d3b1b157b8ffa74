"""The site whose pages a browser watches: `gunicorn benchmarks.site:app`, and its RQ worker.

The worker step waits until it is let go, so that what follows can be timed.
"""

from __future__ import annotations

import os
import time
from typing import Any

from flask import Flask
from flask_socketio import SocketIO
from flask_sqlalchemy import SQLAlchemy
from redis import Redis
from sqlalchemy import event

from benchmarks.peers.environment import DATABASE, IS_WORKER, REDIS
from benchmarks.peers.settings import SECRET, use_pragmas
from flowroute import Continuation, Flow, worker_step
from flowroute.flask import FlowRoute, page

#: Where the worker writes the instant of its last COMMIT, in seconds of the system's clock.
COMMITTED = "committed"


def gate(number: int) -> str:
    """The Redis list that lets the worker step of one run go."""
    return f"gate:{number}"


db = SQLAlchemy()
socketio = SocketIO()
flows = FlowRoute()


class Watched(Flow, name="benchmarks.Watched"):
    """A worker step, and the page that a browser is to go to."""

    number: int

    @worker_step(start=True)
    def work(self) -> Continuation[None]:
        """Wait until it is let go."""
        with Redis.from_url(os.environ[REDIS]) as redis:
            redis.blpop([gate(self.number)], timeout=60)
        return self.ready()

    @page(final=True)
    def ready(self) -> str:
        """What the browser goes to."""
        return "<!doctype html><title>Ready</title><p id=ready>ready</p>"


def watch(number: int) -> Any:
    """Start a run, or show where it is."""
    return flows.respond(Watched(number=number).work(), key=str(number))


def create_app() -> Flask:
    """Make the application; the environment says where its data and its Redis are."""
    use_pragmas("FULL")
    made = Flask(__name__)
    made.config.update(
        SECRET_KEY=SECRET,
        SQLALCHEMY_DATABASE_URI=os.environ[DATABASE],
        FLOWROUTE_REDIS_URL=os.environ[REDIS],
    )
    db.init_app(made)
    socketio.init_app(made, async_mode="threading", message_queue=os.environ[REDIS])
    flows.init_app(made, db=db, socketio=socketio)
    made.add_url_rule("/watch/<int:number>", view_func=watch)
    made.add_url_rule("/favicon.ico", "icon", lambda: ("", 204))
    with made.app_context():
        db.create_all()
        if IS_WORKER in os.environ:
            note_commits(Redis.from_url(os.environ[REDIS]))
    return made


def note_commits(redis: Redis) -> None:
    """Write down the instant before each COMMIT of this process."""

    def committing(_connection: Any) -> None:
        redis.set(COMMITTED, repr(time.time()))

    event.listen(db.engine, "commit", committing)


if DATABASE in os.environ:
    app = create_app()
