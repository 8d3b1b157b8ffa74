"""Hints that come never, once or twice, in any order, late, and to two at the same time."""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from flowroute.engine import schema
from flowroute.engine.ports import Hint
from flowroute.engine.turn import SUBMIT
from tests.faults.crashes import Events, Mutation, Stage, note
from tests.faults.forks import fork
from tests.faults.report import Report
from tests.faults.shapes import (
    LONGER_THAN_A_LEASE_SECONDS,
    ROUNDS,
    SHAPES,
    Shape,
    damage,
    find,
    world,
)

FEW_HINTS = 4
"""Of runs with so many hints, every choice of 0, 1 or 2 deliveries of each is tried."""

PROCESSES = 0.15
"""Which part of the pairs that are delivered at the same time comes to two processes."""
MAIN_THREAD_ONLY = ("timeout",)
"""Shapes whose step waits in one system call with a row written: in another thread than the main
one its timeout ends it only after that, and SQLite's one writer waits as long."""


@dataclass
class Post:
    """An executor that delivers hints as a plan and chance say.

    Parameters:
        stage: Whose engine gives the hints and follows them.
        plan: How often each hint is delivered, in the order in which they are given; those after
            it once.
        chance: Chooses when, and in which order.
        entered: Counts the steps that begin.
    """

    stage: Stage
    plan: Sequence[int]
    chance: random.Random
    entered: Events
    threads: bool = True
    """Whether two of this process may follow a hint at the same time."""
    given: int = 0
    delivered: int = 0
    in_vain: int = 0
    """Deliveries that found nothing to do."""
    odd: int = 0
    """Hints that were lost, doubled or late."""
    errors: list[str] = field(default_factory=list[str])
    _now: list[tuple[Hint, ...]] = field(default_factory=list[tuple[Hint, ...]])
    _later: list[Hint] = field(default_factory=list[Hint])
    _last: list[Hint] = field(default_factory=list[Hint])

    def submit(self, hint: Hint) -> None:
        """Take a hint."""
        times = self.plan[self.given] if self.given < len(self.plan) else 1
        self.given += 1
        late = [self._later, self._last]
        if times == 1:
            if self.given <= len(self.plan) and self.chance.random() < 0.3:
                self.chance.choice(late).append(hint)  # recovery will have given another one
                self.odd += 1
            else:
                self._now.append((hint,))
            return
        self.odd += 1
        if times == 0:
            return
        if self.chance.random() < 0.5:
            self._now.append((hint, hint))
            return
        self._now.append((hint,))
        self.chance.choice([*late, self._last]).append(hint)

    def deliver(self) -> bool:
        """Deliver what has come, in any order; returns whether anything had."""
        came = bool(self._now)
        while self._now:
            self.chance.shuffle(self._now)
            self._follow(self._now.pop())
            self.chance.shuffle(self._later)
            while self._later and self.chance.random() < 0.5:
                self._follow((self._later.pop(),))
        return came

    def deliver_rest(self) -> None:
        """Deliver what is late: the run has ended."""
        rest = [*self._later, *self._last]
        self._later, self._last = [], []
        self.chance.shuffle(rest)
        for hint in rest:
            self._follow((hint,))

    def _follow(self, copies: tuple[Hint, ...]) -> None:
        if len(copies) == 1:
            found = [self._advance(copies[0])]
        elif self.chance.random() < PROCESSES or not self.threads:
            found = self._in_processes(copies)
        else:
            found = self._in_threads(copies)
        self.delivered += len(copies)
        self.in_vain += found.count(False)

    def _advance(self, hint: Hint) -> bool:
        try:
            return self.stage.engine.advance(hint.run_id, hint.seq, hint.timeout_seconds)
        except Exception as error:  # noqa: BLE001  # nothing was broken: whatever it is, it is wrong
            self.errors.append(f"a hint raised {type(error).__name__}: {error}")
            return True

    def _in_threads(self, copies: tuple[Hint, ...]) -> list[bool]:
        found: list[bool] = []
        barrier = threading.Barrier(len(copies))

        def follow(hint: Hint) -> None:
            barrier.wait()
            found.append(self._advance(hint))

        threads = [threading.Thread(target=follow, args=(hint,)) for hint in copies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    def _in_processes(self, copies: tuple[Hint, ...]) -> list[bool]:
        wait, go = os.pipe()

        def follow(hint: Hint) -> tuple[bool, int, list[Hint], list[str]]:
            os.close(go)
            os.read(wait, 1)  # ends when everybody has closed the other end
            hints: list[Hint] = []
            self.stage.hands.submit = hints.append  # type: ignore[method-assign, assignment]
            before, self.errors = self.entered.count, []
            advanced = self._advance(hint)
            return advanced, self.entered.count - before, hints, self.errors

        children = [fork(lambda hint=hint: follow(hint)) for hint in copies]  # type: ignore[misc]
        os.close(go)
        found: list[bool] = []
        for child in children:
            advanced, entered, hints, errors = child.result()
            found.append(advanced)
            self.entered.count += entered
            self.errors += errors
            for hint in hints:
                self.submit(hint)
        os.close(wait)
        return found


@dataclass
class Ending:
    """How a run came to its end."""

    hints: int
    entered: int
    """How often a step of it began."""
    delivered: int
    in_vain: int
    odd: int
    broken: list[str]
    found: dict[str, list[str]]
    """The damage."""
    seconds: float


def lives(
    stage: Stage,
    shape: Shape,
    plans: Sequence[tuple[str, Sequence[int]]],
    chance: random.Random,
    mutation: Mutation | None,
) -> list[Ending]:
    """In a child: drive runs to their ends, each by its key and its plan."""
    entered = Events(kinds=frozenset({"entered"}))
    stage.enter(0, entered, mutation)
    threads = shape.name not in MAIN_THREAD_ONLY
    return [
        _live(stage, shape, key, Post(stage, plan, chance, entered, threads)) for key, plan in plans
    ]


def _live(stage: Stage, shape: Shape, key: str, post: Post) -> Ending:
    world.broken, post.entered.count = True, 0
    stage.hands.submit = post.submit  # type: ignore[method-assign]
    began = time.monotonic()
    _drive(stage, shape, key, post)
    ended = _row(stage, key)
    post.deliver_rest()
    found = damage(stage.engine, shape, key)
    if not found["stuck"] and _row(stage, key) != ended:
        found["doubled"].append(f"it had ended as {ended}, and is {_row(stage, key)} now")
    seconds = time.monotonic() - began
    counts = (post.given, post.entered.count, post.delivered, post.in_vain, post.odd)
    return Ending(*counts, post.errors, found, seconds)


def _drive(stage: Stage, shape: Shape, key: str, post: Post) -> None:
    """Do what users, time and the executor do until the run has ended, or for so many rounds."""
    engine = stage.engine
    for _ in range(ROUNDS):
        run = find(engine, shape, key)
        if post.deliver():
            continue
        record = engine.lookup.current(run.id)
        if record.finished:
            if record.state != schema.FAILED:
                return
            world.broken = False
            run.retry()
        elif record.waiting_for == schema.FOR_PAGE:
            engine.visit(run.id, SUBMIT, seq=record.seq)
        else:
            stage.clock.advance(LONGER_THAN_A_LEASE_SECONDS)
            engine.recover()


def _row(stage: Stage, key: str) -> Any:
    row = schema.run_table
    columns = (row.c.state, row.c.seq, row.c.epoch, row.c.updated_at)
    with stage.engine.database.engine.connect() as connection:
        return [tuple(r) for r in connection.execute(sa.select(*columns).where(row.c.key == key))]


def plans_of(hints: int, orders: int, chance: random.Random) -> Iterator[tuple[int, ...]]:
    """How often each of some hints is delivered: every choice, or as many by chance."""
    if hints <= FEW_HINTS:
        for _ in range(orders):
            yield from itertools.product((0, 1, 2), repeat=hints)
        return
    for _ in range(orders * 3**FEW_HINTS // 4):
        yield tuple(chance.choices((0, 1, 2), k=hints))


def deliveries(
    database: str,
    url: str,
    *,
    seed: int,
    share: float = 1.0,
    orders: int = 2,
    shapes: tuple[Shape, ...] = SHAPES,
    mutation: Mutation | None = None,
) -> Report:
    """Deliver each hint of each run never, once or twice.

    Parameters:
        database: sqlite or postgresql.
        url: An empty database.
        seed: Chooses the orders, and the plans of long runs.
        share: How many of the plans, 1 for all.
        orders: In how many orders each plan is tried.
        shapes: The shapes; those without hints have nothing to deliver.
        mutation: A deliberate mistake.
    """
    report = Report("deliveries", database, seed)
    report.notes = {"deliveries": 0, "deliveries that found nothing to do": 0}
    stage = Stage(url)
    chance = random.Random(seed)  # noqa: S311  # it has to repeat
    for shape in shapes:
        act = _acting(stage, shape, [(stage.new_key(shape), ())], chance, mutation)
        [calm] = fork(act).result()
        if not calm.hints:
            continue
        plans = [
            (stage.new_key(shape), plan)
            for plan in plans_of(calm.hints, orders, chance)
            if chance.random() <= share
        ]
        act = _acting(stage, shape, plans, random.Random(chance.random()), mutation)  # noqa: S311  # as above
        for (key, plan), ending in zip(plans, fork(act).result(), strict=True):
            _report(report, f"{key}, delivered {plan} times", ending, calm)
    return report


def _acting(*arguments: Any) -> Callable[[], list[Ending]]:
    return lambda: lives(*arguments)


def _report(report: Report, what: str, ending: Ending, calm: Ending) -> None:
    report.points += 1
    report.injected += ending.odd
    report.heal_seconds.append(ending.seconds)
    report.notes["deliveries"] += ending.delivered
    report.notes["deliveries that found nothing to do"] += ending.in_vain
    note(report, what, ending.found)
    report.broken += [f"{what}: {each}" for each in ending.broken]
    if ending.entered > calm.entered:
        report.doubled.append(f"{what}: {ending.entered} steps began instead of {calm.entered}")
