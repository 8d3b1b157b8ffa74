"""The application under chaos: flows of seven shapes, each step of which leaves one row.

Its settings come from the environment. ``CHAOS_VARIANT`` breaks the protocol on purpose, for the
negative controls; nothing outside this module reads it.
"""

from __future__ import annotations

import logging
import os
import time
from datetime import timedelta
from typing import Any, Final

import sqlalchemy as sa
from flask import Flask, request
from flask.typing import ResponseReturnValue
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flowroute import Continuation, Flow, Retry, done, step, worker_step
from flowroute.engine.engine import Engine
from flowroute.engine.recovery import Recovered
from flowroute.errors import RunStateError
from flowroute.flask import FlowRoute, page

NO_RECOVERY: Final = "no recovery"
TWO_COMMITS: Final = "effect and checkpoint in two commits"
VARIANTS: Final = (NO_RECOVERY, TWO_COMMITS)

PATIENT: Final = Retry(1000, backoff=timedelta(seconds=0.05), max_backoff=timedelta(seconds=0.2))
"""Far more attempts than the faults of a campaign use up: a run that fails is a defect."""


class Base(DeclarativeBase):
    """The application's own tables."""


db = SQLAlchemy(model_class=Base)
flows = FlowRoute()


class Effect(Base):
    """What one step did. Nothing is unique here but the row, so that doubles show."""

    __tablename__ = "effect"

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str]
    step: Mapped[str]
    seq: Mapped[int]


def work(flow: Flow, seconds: float) -> None:
    """Leave the row of a step that takes some time; the write lock is not held meanwhile."""
    effect = {"run_id": flow.run.id, "step": flow.run.step, "seq": flow.run.seq}
    if os.environ.get("CHAOS_VARIANT") == TWO_COMMITS:
        with db.engine.begin() as connection:
            connection.execute(sa.insert(Effect), effect)
    else:
        db.session.add(Effect(**effect))
    time.sleep(seconds)


class Inline(Flow):
    """All of it in the request."""

    @step(start=True, retry=PATIENT)
    def begin(self) -> Continuation[Any]:
        work(self, 0.3)
        return self.middle()

    @step(retry=PATIENT)
    def middle(self) -> Continuation[Any]:
        work(self, 0.3)
        return self.end()

    @step(retry=PATIENT)
    def end(self) -> Continuation[str]:
        work(self, 0.1)
        return done("inline")


class Middle(Flow):
    """A worker step in the middle."""

    @step(start=True, retry=PATIENT)
    def begin(self) -> Continuation[Any]:
        work(self, 0.05)
        return self.pack()

    @worker_step(retry=PATIENT)
    def pack(self) -> Continuation[Any]:
        work(self, 0.2)
        return self.end()

    @step(retry=PATIENT)
    def end(self) -> Continuation[str]:
        work(self, 0.1)
        return done("middle")


class Several(Flow):
    """Several worker steps."""

    @worker_step(start=True, retry=PATIENT)
    def begin(self) -> Continuation[Any]:
        work(self, 0.15)
        return self.pack()

    @worker_step(retry=PATIENT)
    def pack(self) -> Continuation[Any]:
        work(self, 0.15)
        return self.send()

    @worker_step(retry=PATIENT)
    def send(self) -> Continuation[str]:
        work(self, 0.15)
        return done("several")


class CarrierAwayError(Exception):
    """What every other attempt raises."""


class Retried(Flow):
    """A worker step of which every other attempt fails, after it wrote."""

    @worker_step(start=True, retry=PATIENT)
    def begin(self) -> Continuation[Any]:
        work(self, 0.05)
        if self.run.attempt % 2:
            db.session.flush()
            raise CarrierAwayError("ask again")
        return self.end()

    @step(retry=PATIENT)
    def end(self) -> Continuation[str]:
        work(self, 0.05)
        return done("retried")


class Form(Flow):
    """A page with a form, then a worker step."""

    @page(start=True)
    def begin(self) -> ResponseReturnValue | Continuation[Any]:
        if not request.form.get("answer"):
            return "<form method=post><input name=answer></form>"
        work(self, 0.1)
        return self.end()

    @worker_step(retry=PATIENT)
    def end(self) -> Continuation[str]:
        work(self, 0.1)
        return done("form")


class Timer(Flow):
    """A step a second later."""

    @step(start=True, retry=PATIENT)
    def begin(self) -> Continuation[Any]:
        work(self, 0.05)
        return self.end().after(timedelta(seconds=1))

    @worker_step(retry=PATIENT)
    def end(self) -> Continuation[str]:
        work(self, 0.1)
        return done("timer")


class Slow(Flow):
    """A worker step that takes longer than half a lease of two seconds."""

    @worker_step(start=True, retry=PATIENT)
    def begin(self) -> Continuation[str]:
        work(self, 1.2)
        return done("slow")


SHAPES: Final[dict[str, type[Flow]]] = {
    each.__name__: each for each in (Inline, Middle, Several, Retried, Form, Timer, Slow)
}
EFFECTS: Final[dict[str, list[str]]] = {
    "Inline": ["begin", "middle", "end"],
    "Middle": ["begin", "pack", "end"],
    "Several": ["begin", "pack", "send"],
    "Retried": ["begin", "end"],
    "Form": ["begin", "end"],
    "Timer": ["begin", "end"],
    "Slow": ["begin"],
}
"""What each shape's run has left once it is done, in this order, from seq 0."""


def recover_nothing(_engine: Engine) -> Recovered:
    """A recovery that never does anything."""
    return Recovered()


def create_app() -> Flask:
    """The application, as gunicorn and ``flask flow worker`` load it."""
    logging.basicConfig(level=logging.INFO, format="%(process)d %(levelname)s %(name)s %(message)s")
    app = Flask("chaos")
    app.config.update(
        SECRET_KEY=os.environ["CHAOS_SECRET"],
        SQLALCHEMY_DATABASE_URI=os.environ["CHAOS_DATABASE"],
        SQLALCHEMY_ENGINE_OPTIONS={"pool_pre_ping": True},
        FLOWROUTE_REDIS_URL=os.environ["CHAOS_REDIS"],
        FLOWROUTE_LEASE_SECONDS=float(os.environ["CHAOS_LEASE"]),
    )
    if os.environ.get("CHAOS_VARIANT") == NO_RECOVERY:
        Engine.recover = recover_nothing  # type: ignore[method-assign, assignment]
    db.init_app(app)
    flows.init_app(app, db=db)

    def start(shape: str, key: str) -> Any:
        flow: Any = SHAPES[shape]()
        answer = flows.respond(flow.begin(), key=key)
        run = flows.engine.find(SHAPES[shape], key)
        if run is None:
            return answer
        return {"id": run.id, "url": flows.url_for(run)}  # whatever the run itself answers

    def cancel(run_id: str) -> Any:
        try:
            flows.engine.cancel(run_id)
        except RunStateError as error:  # it has ended meanwhile
            return str(error), 409
        return "cancelled"

    app.add_url_rule("/start/<shape>/<key>", view_func=start, methods=["POST"])
    app.add_url_rule("/cancel/<run_id>", view_func=cancel, methods=["POST"])
    return app
