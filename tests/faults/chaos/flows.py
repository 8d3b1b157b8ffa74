"""The flows under chaos, of ten shapes, each step of which leaves one row.

`CHAOS_VARIANT` breaks the application on purpose, for the negative controls.
"""

from __future__ import annotations

import logging
import os
import time
from datetime import timedelta
from typing import Any, Final

import sqlalchemy as sa
from flask import request
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flowroute import Continuation, Flow, Retry, call, done, step, worker_step
from flowroute.flask import page

TWO_COMMITS: Final = "effect and checkpoint in two commits"

PATIENT: Final = Retry(1000, backoff=timedelta(seconds=0.05), max_backoff=timedelta(seconds=0.2))
"""Far more attempts than the faults of a campaign use up: a run that fails is a defect."""

OUTLASTS_SECONDS: Final = 3.4
"""How long the step takes that outlasts a lease of 2 s, and a beat of recovery after it."""

logger = logging.getLogger("chaos")


class Base(DeclarativeBase):
    """The application's own tables."""


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
        with flow.session.get_bind().engine.begin() as connection:
            connection.execute(sa.insert(Effect), effect)
    else:
        flow.session.add(Effect(**effect))
    # The harness waits for this line, to do its worst between the effect and the checkpoint.
    logger.info("effect of %s at %s", flow.run.id, flow.run.seq)
    time.sleep(seconds)


class Inline(Flow):
    """All of it in the request."""

    @step(start=True, retry=PATIENT)
    def begin(self) -> Continuation[Any]:
        work(self, 0.2)
        return self.middle()

    @step(retry=PATIENT)
    def middle(self) -> Continuation[Any]:
        work(self, 0.2)
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
            self.session.flush()
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
        work(self, 0.3)
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


class Outlasting(Flow):
    """A worker step that takes longer than its lease, which the heartbeat extends."""

    @worker_step(start=True, retry=PATIENT)
    def begin(self) -> Continuation[str]:
        work(self, OUTLASTS_SECONDS)
        return done("outlasting")


class CallsMiddle(Flow):
    """Calls a sub-flow, and goes on with its result."""

    @step(start=True, retry=PATIENT)
    def begin(self) -> Continuation[Any]:
        work(self, 0.05)
        return call(Middle().begin(), self.answer)

    @step(retry=PATIENT)
    def answer(self, said: str) -> Continuation[str]:
        work(self, 0.05)
        return done(said)


class SentTogether(Flow, checkpoint="suspension"):
    """Plain steps that commit together, then a worker step."""

    @step(start=True, retry=PATIENT)
    def begin(self) -> Continuation[Any]:
        work(self, 0.1)
        return self.middle()

    @step(retry=PATIENT)
    def middle(self) -> Continuation[Any]:
        work(self, 0.1)
        return self.send()

    @worker_step(retry=PATIENT)
    def send(self) -> Continuation[str]:
        work(self, 0.1)
        return done("together")


SHAPES: Final[dict[str, type[Flow]]] = {
    each.__name__: each
    for each in (
        Inline,
        Middle,
        Several,
        Retried,
        Form,
        Timer,
        Slow,
        Outlasting,
        CallsMiddle,
        SentTogether,
    )
}
EFFECTS: Final[dict[str, list[str]]] = {
    "Inline": ["begin", "middle", "end"],
    "Middle": ["begin", "pack", "end"],
    "Several": ["begin", "pack", "send"],
    "Retried": ["begin", "end"],
    "Form": ["begin", "end"],
    "Timer": ["begin", "end"],
    "Slow": ["begin"],
    "Outlasting": ["begin"],
    "CallsMiddle": ["begin", "answer"],
    "SentTogether": ["begin", "middle", "send"],
}
"""What each shape's run has left once it is done, in this order, from seq 0."""
