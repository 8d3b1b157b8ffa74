"""Processes killed, or frozen past their lease, at every statement, commit, enqueue and emit."""

from __future__ import annotations

import logging
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from sqlalchemy import event

from flowroute import Engine
from flowroute.engine.clock import FakeClock
from flowroute.engine.local import InlineExecutor
from flowroute.engine.ports import Hint, Move
from tests.engine.support import KEYS
from tests.faults.forks import Gate, fork
from tests.faults.report import Report
from tests.faults.shapes import SHAPES, Base, Shape, damage, drive, find, world

Mutation = Callable[[Engine], None]
"""A deliberate mistake, made in the children of a control."""

NO_LOCK = frozenset({"submit", "moved", "after commit", "entered"})
"""Where a frozen process holds no lock of the database that others wait for."""


class Events:
    """Counts what a process does, and does something at one of it.

    Parameters:
        at: At which event, from 1; 0: at none.
        act: What to do then.
        kinds: Count these kinds of events only; empty: all.
    """

    def __init__(
        self,
        at: int = 0,
        act: Callable[[], None] = lambda: None,
        kinds: frozenset[str] = frozenset(),
    ) -> None:
        self.count = 0
        self._at = at
        self._act = act
        self._kinds = kinds

    def __call__(self, kind: str) -> None:
        """Something of this kind is about to happen, or has."""
        if self._kinds and kind not in self._kinds:
            return
        self.count += 1
        if self.count == self._at:
            self._act()


class Hands(InlineExecutor):
    """Runs worker steps at once, and tells of each hint before."""

    told: Callable[[str], None] = staticmethod(lambda _kind: None)
    early = 0
    """Hints of a checkpoint that was not committed yet."""

    def submit(self, hint: Hint) -> None:
        """Look whether the hint is of something that is stored, and follow it."""
        self.told("submit")
        assert self._engine is not None
        if self._engine.lookup.read(hint.run_id).seq < hint.seq:
            self.early += 1
        super().submit(hint)


class Ears:
    """A notifier that tells of each move."""

    told: Callable[[str], None] = staticmethod(lambda _kind: None)

    def moved(self, move: Move) -> None:  # noqa: ARG002  # the protocol names it
        """Tell."""
        self.told("moved")


class Stage:
    """One database, and the engine that is forked with every process.

    Parameters:
        url: The database, with flowroute's tables and those of the shapes.
    """

    def __init__(self, url: str) -> None:
        self.clock = FakeClock()
        self.hands, self.ears = Hands(), Ears()
        self.engine = Engine(
            url, executor=self.hands, notifier=self.ears, secret_keys=KEYS, clock=self.clock
        )
        self.engine.create_all()
        Base.metadata.create_all(self.engine.database.engine)
        self.engine.before_forks()
        self.engine.database.engine.dispose()
        self._number = 0

    def new_key(self, shape: Shape) -> str:
        """The key of a run of its own."""
        self._number += 1
        return f"{shape.name} {self._number}"

    def enter(self, generation: int, events: Events, mutation: Mutation | None) -> None:
        """In a child: tell `events` of everything, at a time of its own."""
        logging.disable(logging.CRITICAL)
        self.clock.instant += timedelta(minutes=2) * generation
        world.engine = self.engine
        world.entered = lambda: events("entered")
        self.hands.told = self.ears.told = events
        bind = self.engine.database.engine
        # At the driver, for an engine that is listened to sends its statements another way.
        dialect: Any = bind.dialect
        for name in ("do_execute", "do_executemany", "do_execute_no_params"):
            setattr(dialect, name, _told(getattr(dialect, name), events))
        event.listen(bind, "commit", lambda *_: events("before commit"))
        commit = bind.dialect.do_commit

        def committed(connection: Any) -> None:
            commit(connection)
            events("after commit")

        bind.dialect.do_commit = committed  # type: ignore[method-assign, assignment]
        if mutation is not None:
            mutation(self.engine)

    def live(
        self, shape: Shape, key: str, generation: int, events: Events, mutation: Mutation | None
    ) -> int:
        """In a child: drive a run to its end; returns how many events there were."""
        self.enter(generation, events, mutation)
        drive(self.engine, self.clock, shape, key)
        return events.count

    def end(self, shape: Shape, key: str, mutation: Mutation | None) -> list[Any]:
        """In a child: drive a run to its end; returns what its row says then."""
        self.live(shape, key, 1, Events(), mutation)
        record = find(self.engine, shape, key).record
        return [record.state, record.seq, record.epoch, record.updated_at]

    def finish(
        self, shape: Shape, key: str, generation: int, mutation: Mutation | None
    ) -> dict[str, list[str]]:
        """In a child: drive a run to its end, and look for damage."""
        self.live(shape, key, generation, Events(), mutation)
        found = damage(self.engine, shape, key)
        if self.hands.early:
            found["lost"].append(f"{self.hands.early} hints came before the commit")
        return found


def kill() -> None:
    """End this process as the system's out-of-memory killer does."""
    os.kill(os.getpid(), signal.SIGKILL)


def note(report: Report, what: str, found: dict[str, list[str]]) -> None:
    """Add damage to a report, with what repeats it."""
    report.lost += [f"{what}: {each}" for each in found["lost"]]
    report.doubled += [f"{what}: {each}" for each in found["doubled"]]
    report.stuck += [f"{what}: {each}" for each in found["stuck"]]


def points(
    stage: Stage, shapes: tuple[Shape, ...] = SHAPES, mutation: Mutation | None = None
) -> Iterator[tuple[Shape, int]]:
    """Every event of every shape."""
    for shape in shapes:
        key = stage.new_key(shape)
        count = fork(
            lambda shape=shape, key=key: stage.live(shape, key, 0, Events(), mutation)  # type: ignore[misc]
        ).result()
        yield from ((shape, k) for k in range(1, count + 1))


def crash_points(
    database: str,
    url: str,
    *,
    seed: int,
    share: float = 1.0,
    shapes: tuple[Shape, ...] = SHAPES,
    mutation: Mutation | None = None,
) -> Report:
    """Kill a process at each of its events; let another one finish its run.

    Parameters:
        database: sqlite or postgresql.
        url: An empty database.
        seed: Chooses the points, if not all are tried.
        share: How many of them, 1 for all.
        shapes: The shapes.
        mutation: A deliberate mistake.
    """
    report = Report("crash points", database, seed)
    stage = Stage(url)
    chance = random.Random(seed)  # noqa: S311  # it has to repeat
    for shape, k in points(stage, shapes, mutation):
        if chance.random() > share:
            continue
        key = stage.new_key(shape)
        report.points += 1
        first = fork(lambda: stage.live(shape, key, 0, Events(k, kill), mutation))  # noqa: B023
        report.injected += first.result() is None
        began = time.monotonic()
        found = fork(lambda: stage.finish(shape, key, 1, mutation)).result()  # noqa: B023
        report.heal_seconds.append(time.monotonic() - began)
        note(report, f"{shape.name}, killed at event {k}", found)
    return report


def double_crashes(
    database: str,
    url: str,
    *,
    seed: int,
    count: int,
    shapes: tuple[Shape, ...] = SHAPES,
    mutation: Mutation | None = None,
) -> Report:
    """Kill the process that recovers as well; a third one finishes the run.

    Parameters:
        database: sqlite or postgresql.
        url: An empty database.
        seed: Chooses the pairs of points.
        count: How many runs whose second process was killed too.
        shapes: The shapes.
        mutation: A deliberate mistake.
    """
    report = Report("double crashes", database, seed)
    stage = Stage(url)
    chance = random.Random(seed)  # noqa: S311  # it has to repeat
    every = list(points(stage, shapes, mutation))
    for _ in range(4 * count):
        if report.points == count:
            break
        shape, k = chance.choice(every)
        j = chance.randint(1, max(each for other, each in every if other is shape))
        key = stage.new_key(shape)
        once = fork(lambda: stage.live(shape, key, 0, Events(k, kill), mutation)).result()  # noqa: B023
        twice = fork(lambda: stage.live(shape, key, 1, Events(j, kill), mutation)).result()  # noqa: B023
        began = time.monotonic()
        found = fork(lambda: stage.finish(shape, key, 2, mutation)).result()  # noqa: B023
        note(report, f"{shape.name}, killed at event {k}, then at event {j}", found)
        report.injected += (once is None) + (twice is None)
        if once is None and twice is None:
            report.points += 1
            report.heal_seconds.append(time.monotonic() - began)
    return report


def zombies(
    database: str,
    url: str,
    *,
    seed: int,
    share: float = 1.0,
    shapes: tuple[Shape, ...] = SHAPES,
    mutation: Mutation | None = None,
) -> Report:
    """Freeze a process past its lease, let another one finish, and let the first one go on.

    Parameters:
        database: sqlite or postgresql.
        url: An empty database.
        seed: Chooses the points, if not all are tried.
        share: How many of them, 1 for all.
        shapes: The shapes.
        mutation: A deliberate mistake.
    """
    report = Report("zombies", database, seed)
    stage = Stage(url)
    chance = random.Random(seed)  # noqa: S311  # it has to repeat
    for shape in shapes:
        if database == "sqlite" and shape.name == "suspension":
            continue  # frozen between two of its steps, it holds the write lock of the whole file
        key = stage.new_key(shape)
        count = fork(
            lambda: stage.live(shape, key, 0, Events(kinds=NO_LOCK), mutation)  # noqa: B023
        ).result()
        for k in range(1, count + 1):
            if chance.random() <= share:
                _freeze(stage, report, shape, k, mutation)
    return report


def _told(execute: Callable[..., None], events: Events) -> Callable[..., None]:
    def executing(*arguments: Any) -> None:
        events("before statement")
        execute(*arguments)
        events("after statement")

    return executing


def _freeze(stage: Stage, report: Report, shape: Shape, k: int, mutation: Mutation | None) -> None:
    key, gate = stage.new_key(shape), Gate()

    def frozen() -> int:
        refused = [0]

        def watched(write: Callable[..., Any]) -> Callable[..., Any]:
            def writing(*arguments: Any, **named: Any) -> Any:
                written = write(*arguments, **named)
                refused[0] += not written
                return written

            return writing

        store: Any = stage.engine._store  # noqa: SLF001
        for write in ("advance", "claim", "take"):
            setattr(store, write, watched(getattr(store, write)))
        stage.live(shape, key, 0, Events(k, gate.wait, NO_LOCK), mutation)
        return refused[0]

    zombie = fork(frozen)
    ended = None
    if gate.entered():
        report.points += 1
        report.injected += 1
        began = time.monotonic()
        ended = fork(lambda: stage.end(shape, key, mutation)).result()
        report.heal_seconds.append(time.monotonic() - began)
    gate.open()
    report.fenced += zombie.result()
    found = fork(lambda: stage.finish(shape, key, 2, mutation)).result()
    after = fork(lambda: stage.end(shape, key, mutation)).result()
    if ended not in (None, after):
        found["doubled"].append(f"it had ended as {ended}, and is {after} now")
    note(report, f"{shape.name}, frozen at event {k}", found)
