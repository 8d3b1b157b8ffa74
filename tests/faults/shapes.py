"""The flows that are broken everywhere, each with what must be there in the end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

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
from flowroute.engine import schema
from flowroute.engine.clock import FakeClock
from flowroute.engine.context import current_run
from flowroute.engine.turn import SUBMIT
from tests.engine.support import page

LONGER_THAN_A_LEASE_SECONDS = 31.0
ROUNDS = 60
"""How often a driver looks at a run before it takes it for stuck."""


class Base(DeclarativeBase):
    """The user's own tables."""


class Effect(Base):
    """A row that a step wrote. Nothing keeps it from being there twice."""

    __tablename__ = "effect"

    id: Mapped[int] = mapped_column(primary_key=True)
    subject: Mapped[str]
    """The key of the run that it belongs to, also in a sub-flow."""
    name: Mapped[str]


@dataclass
class World:
    """What steps of this process meet besides the database."""

    engine: Engine | None = None
    broken: bool = True
    """Whether the step of `FaultedMending` fails."""
    entered: Callable[[], None] = lambda: None
    """Called as a step begins."""


world = World()


class Faulted(Flow, abstract=True):
    """A flow whose steps leave effects."""

    subject: str

    def effect(self, name: str) -> None:
        """Leave one through the session of the run."""
        world.entered()
        self.session.add(Effect(subject=self.subject, name=name))
        self.session.flush()


class FaultedInline(Faulted):
    """Plain steps only."""

    @step(start=True)
    def one(self) -> Continuation[str]:
        self.effect("one")
        return self.two()

    @step
    def two(self) -> Continuation[str]:
        world.entered()
        return self.three(Effect(subject=self.subject, name="two"))

    @step
    def three(self, row: Effect) -> Continuation[str]:
        row.name = "two, changed"
        self.effect("three")
        return done(row.name)


class FaultedStairs(Faulted):
    """Ten plain steps."""

    @step(start=True)
    def step(self, number: int = 1) -> Continuation[int]:
        self.effect(f"step {number}")
        return self.step(number + 1) if number < 10 else done(number)


class FaultedWorking(Faulted):
    """A worker step in the middle."""

    @step(start=True)
    def begin(self) -> Continuation[str]:
        self.effect("begin")
        return self.work()

    @worker_step
    def work(self) -> Continuation[str]:
        self.effect("work")
        return self.end()

    @step
    def end(self) -> Continuation[str]:
        self.effect("end")
        return done("worked")


class FaultedWorkers(Faulted):
    """Worker steps one after another."""

    @worker_step(start=True)
    def work(self, left: int = 3) -> Continuation[str]:
        self.effect(f"work {left}")
        return self.work(left - 1) if left > 1 else done("worked")


class FaultedRetrying(Faulted):
    """A worker step that fails at first."""

    @worker_step(start=True, retry=Retry(9, backoff=timedelta(seconds=1)))
    def work(self) -> Continuation[int]:
        self.effect("work")
        if self.run.attempt == 1:
            message = "not yet"
            raise ConnectionError(message)
        return done(self.run.attempt)


class FaultedMending(Faulted):
    """Fails until somebody mends the world, and retries it."""

    @step(start=True)
    def begin(self) -> Continuation[str]:
        self.effect("begin")
        return self.work()

    @worker_step
    def work(self) -> Continuation[str]:
        self.effect("work")
        if world.broken:
            message = "broken"
            raise RuntimeError(message)
        return done("mended")


class FaultedPaging(Faulted):
    """Asks twice."""

    @page(start=True)
    def first(self) -> Any:
        self.effect("first")
        return self.between()

    @worker_step
    def between(self) -> Continuation[Any]:
        self.effect("between")
        return self.second()

    @page()
    def second(self) -> Any:
        self.effect("second")
        return done("answered")


class FaultedCancelling(Faulted):
    """Is cancelled while its worker step runs."""

    @step(start=True)
    def begin(self) -> Continuation[str]:
        self.effect("begin")
        return self.work()

    @worker_step
    def work(self) -> Continuation[str]:
        context = current_run.get()
        assert world.engine is not None
        assert context is not None
        world.engine.cancel(context.id)
        self.effect("work")  # too late
        return done("not cancelled")


class FaultedTiming(Faulted):
    """A step that takes too long, and what comes instead."""

    @worker_step(start=True, timeout=timedelta(milliseconds=40), on_error="late")
    def work(self) -> Continuation[str]:
        self.effect("work")
        threading.Event().wait(20)
        return done("in time")

    @step
    def late(self, failure: StepFailure) -> Continuation[str]:
        self.effect("late")
        return done(failure.type)


class FaultedImporting(Faulted):
    """Writes many rows in one step."""

    @worker_step(start=True)
    def load(self) -> Continuation[int]:
        world.entered()
        names = [{"subject": self.subject, "name": f"row {n}"} for n in range(5)]
        self.session.execute(sa.insert(Effect), names)
        return self.count()

    @step
    def count(self) -> Continuation[int]:
        self.effect("counted")
        found = sa.select(sa.func.count()).where(Effect.subject == self.subject)
        return done(self.session.scalar(found) or 0)


def task(subject: str) -> None:
    """The function of `FaultedTasking`."""
    context = current_run.get()
    assert context is not None
    world.entered()
    context.session.add(Effect(subject=subject, name="task"))


class FaultedTasking(Faulted):
    """A function as a flow of one step."""

    @worker_step(start=True)
    def work(self, function: Any, arguments: tuple[Any, ...]) -> Continuation[None]:
        function(*arguments)
        return done()


class FaultedErring(Faulted):
    """Hands over to another step when it fails."""

    @step(start=True, on_error="instead")
    def begin(self) -> Continuation[str]:
        self.effect("begin")
        if self.run.attempt:
            message = "always"
            raise ValueError(message)
        return done("no error")

    @step
    def instead(self, failure: StepFailure) -> Continuation[str]:
        self.effect(f"instead of {failure.step}")
        return done("handed over")


class FaultedDelaying(Faulted):
    """Waits in between."""

    @step(start=True)
    def begin(self) -> Continuation[str]:
        self.effect("begin")
        return self.later().after(timedelta(minutes=5))

    @step
    def later(self) -> Continuation[str]:
        self.effect("later")
        return done("waited")


class FaultedCalling(Faulted):
    """Hands over to another flow, with a worker step, and goes on with its result."""

    @step(start=True)
    def begin(self) -> Continuation[str]:
        self.effect("calling")
        return call(FaultedWorking(subject=self.subject).begin(), self.answer)

    @step
    def answer(self, said: str) -> Continuation[str]:
        self.effect(f"it {said}")
        return done(said)


class FaultedTogether(Faulted, checkpoint="suspension"):
    """Plain steps that commit together."""

    @step(start=True)
    def count(self, number: int = 1) -> Continuation[str]:
        self.effect(f"{number}")
        return self.count(number + 1) if number < 4 else self.work()

    @worker_step
    def work(self) -> Continuation[str]:
        self.effect("work")
        return self.end()

    @step
    def end(self) -> Continuation[str]:
        self.effect("end")
        return self.very_end()

    @step
    def very_end(self) -> Continuation[str]:
        self.effect("very end")
        return done("together")


@dataclass(frozen=True)
class Shape:
    """One way in which runs go."""

    name: str
    start: Callable[[str], Continuation[Any]]
    """Makes the start, given the key of the run."""
    effects: tuple[str, ...]
    """What must be in the database once, and nothing else."""
    state: str = schema.DONE


SHAPES = (
    Shape("inline", lambda k: FaultedInline(subject=k).one(), ("two, changed", "three", "one")),
    Shape("worker", lambda k: FaultedWorking(subject=k).begin(), ("begin", "work", "end")),
    Shape("workers", lambda k: FaultedWorkers(subject=k).work(), ("work 3", "work 2", "work 1")),
    Shape(
        "many workers",
        lambda k: FaultedWorkers(subject=k).work(9),
        tuple(f"work {left}" for left in range(1, 10)),
    ),
    Shape(
        "many plain steps",
        lambda k: FaultedStairs(subject=k).step(),
        tuple(f"step {number}" for number in range(1, 11)),
    ),
    Shape("retry", lambda k: FaultedRetrying(subject=k).work(), ("work",)),
    Shape("failed, then retried", lambda k: FaultedMending(subject=k).begin(), ("begin", "work")),
    Shape("page", lambda k: FaultedPaging(subject=k).first(), ("first", "between", "second")),
    Shape("cancel", lambda k: FaultedCancelling(subject=k).begin(), ("begin",), schema.CANCELLED),
    Shape("timeout", lambda k: FaultedTiming(subject=k).work(), ("late",)),
    Shape(
        "rows",
        lambda k: FaultedImporting(subject=k).load(),
        ("row 0", "row 1", "row 2", "row 3", "row 4", "counted"),
    ),
    Shape("task", lambda k: FaultedTasking(subject=k).work(task, (k,)), ("task",)),
    Shape("on error", lambda k: FaultedErring(subject=k).begin(), ("instead of begin",)),
    Shape("delay", lambda k: FaultedDelaying(subject=k).begin(), ("begin", "later")),
    Shape(
        "sub-flow",
        lambda k: FaultedCalling(subject=k).begin(),
        ("calling", "begin", "work", "end", "it worked"),
    ),
    Shape(
        "suspension",
        lambda k: FaultedTogether(subject=k).count(),
        ("1", "2", "3", "4", "work", "end", "very end"),
    ),
)


def find(engine: Engine, shape: Shape, key: str) -> Run[Any]:
    """The run with this key; started, if its start was lost with the process that asked for it."""
    return engine.start(shape.start(key), key=key)


def drive(engine: Engine, clock: FakeClock, shape: Shape, key: str) -> None:
    """Do what users and time do until the run has ended, or for so many rounds."""
    for _ in range(ROUNDS):
        run = find(engine, shape, key)
        record = engine.lookup.current(run.id)
        if record.finished:
            if record.state != schema.FAILED:
                return
            world.broken = False
            run.retry()
        elif record.waiting_for == schema.FOR_PAGE:
            engine.visit(run.id, SUBMIT, seq=record.seq)
        else:
            clock.advance(LONGER_THAN_A_LEASE_SECONDS)
            engine.recover()


def damage(engine: Engine, shape: Shape, key: str) -> dict[str, list[str]]:
    """What is wrong with a run that should have ended: lost, doubled and stuck, each in words."""
    found: dict[str, list[str]] = {"lost": [], "doubled": [], "stuck": []}
    runs, checkpoints = schema.run_table, schema.checkpoint_table
    with engine.database.engine.connect() as connection:
        names = list(connection.scalars(sa.select(Effect.name).where(Effect.subject == key)))
        rows = connection.execute(sa.select(runs).where(runs.c.key == key)).all()
        tree = list(rows)
        for row in tree:
            tree += connection.execute(sa.select(runs).where(runs.c.parent_id == row.id)).all()
        if len(rows) != 1:
            found["doubled" if rows else "lost"].append(f"{len(rows)} runs of the key {key}")
        for row in tree:
            stored = connection.execute(
                sa.select(checkpoints.c.seq, checkpoints.c.epoch)
                .where(checkpoints.c.run_id == row.id)
                .order_by(checkpoints.c.seq)
            ).all()
            epochs = [each.epoch for each in stored]
            if [each.seq for each in stored] != list(range(row.seq + 1)) or epochs != sorted(
                epochs
            ):
                found["lost"].append(f"the checkpoints of {row.flow} {row.id} are {stored}")
    for name in set(names) | set(shape.effects):
        times, wanted = names.count(name), shape.effects.count(name)
        if times < wanted:
            found["lost"].append(f"effect {name!r}: {times} times instead of {wanted}")
        elif times > wanted:
            found["doubled"].append(f"effect {name!r}: {times} times instead of {wanted}")
    if rows and rows[0].state != shape.state:
        found["stuck"].append(f"it is {rows[0].state} ({rows[0].waiting_for}) at {rows[0].step}")
    return found
