"""Databases that refuse: at the k-th of what a run sends, something real goes wrong for a while."""

from __future__ import annotations

import random
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from flowroute.engine import dispatcher, schema
from tests.faults.crashes import Events, Mutation, Stage, note
from tests.faults.forks import fork
from tests.faults.report import Report
from tests.faults.shapes import Shape, damage, drive, find, world

ASKED = 12
"""How often a caller that was told of an error asks again."""

BEGIN = "BEGIN"
"""Before a transaction; SQLite may wait for its write lock then."""

COMMIT = "COMMIT"

KINDS_AT_EACH = 3
"""How many kinds of trouble are tried at each event."""


class Trouble(ABC):
    """Something that goes wrong at one place of a run.

    Parameters:
        name: For reports.
        lasts: Over by itself after so many errors; else once a caller was told of one.
        passing: Whether another try would do, so that no run may fail of it.
    """

    def __init__(self, name: str, *, lasts: int, passing: bool = False) -> None:
        self.name = name
        self.lasts = lasts
        self.passing = passing

    @abstractmethod
    def begin(self, raw: Any) -> bool:
        """Begin before something is sent on a connection of the driver's; False: not possible here.

        Raises what the driver would, if that is all there is to it.
        """

    def go_on(self, raw: Any) -> None:  # noqa: B027  # not every kind has anything to do then
        """Before whatever is sent while it lasts."""

    def end(self) -> None:  # noqa: B027
        """Make it good again."""


class Wire:
    """Stands between SQLAlchemy and the driver, in this process: counts, and lets trouble begin.

    Parameters:
        engine: Whose connections.
        counts: Whether a statement is counted; a COMMIT that has something to commit is.
    """

    def __init__(self, engine: sa.Engine, counts: Callable[[str], bool]) -> None:
        self._counts = counts
        self._errors = 0
        self.arm(None, 0)
        dialect: Any = engine.dialect
        commit = dialect.do_commit

        def committing(connection: Any) -> None:
            raw = connection.dbapi_connection
            if in_transaction(raw):
                self._send(raw, COMMIT, lambda: commit(connection))
            else:
                commit(connection)

        def beginning(connection: sa.Connection) -> None:
            if counts(BEGIN):
                self._send(connection.connection.dbapi_connection, BEGIN, lambda: None)

        dialect.do_commit = committing
        event.listen(engine, "begin", beginning)
        for name in ("do_execute", "do_executemany", "do_execute_no_params"):
            setattr(dialect, name, self._watched(getattr(dialect, name)))

    def arm(self, trouble: Trouble | None, at: int) -> None:
        """Count anew, and let trouble begin at the event of this number, from 1."""
        self.count = self.injected = self._errors = 0
        self._trouble, self._at = trouble, at
        self._lasts = False

    def over(self) -> None:
        """Make it good again, if it lasts."""
        if self._lasts and self._trouble is not None:
            self._lasts = False
            self._trouble.end()

    def _watched(self, execute: Callable[..., None]) -> Callable[..., None]:
        def executing(cursor: Any, statement: str, *arguments: Any) -> None:
            send = lambda: execute(cursor, statement, *arguments)  # noqa: E731
            self._send(cursor.connection, statement, send)

        return executing

    def _send(self, raw: Any, statement: str, send: Callable[[], None]) -> None:
        trouble = self._trouble
        if statement == COMMIT or self._counts(statement):
            self.count += 1
        else:
            trouble = None
        try:
            if trouble is not None and self.count == self._at:
                self._at = 0
                self._lasts = trouble.begin(raw)
            if self._lasts and self._trouble is not None:
                self._trouble.go_on(raw)
            send()
        except (sqlite3.Error, psycopg.Error):
            if self._trouble is not None:
                self.injected += 1
                self._errors += 1
                if self._errors >= self._trouble.lasts:
                    self.over()
            raise


def in_transaction(raw: Any) -> bool:
    """Whether there is something to commit."""
    if hasattr(raw, "in_transaction"):  # sqlite3
        return bool(raw.in_transaction)
    return bool(raw.info.transaction_status)  # psycopg: 0 is idle


@dataclass
class Ending:
    """How a run came to its end in spite of trouble."""

    injected: int
    """Errors of the database."""
    told: int
    """Errors that whoever asked for something was told of."""
    failed: bool
    """Whether the run had failed in between, and was retried by hand."""
    found: dict[str, list[str]]
    """The damage."""
    broken: list[str] = field(default_factory=list[str])
    seconds: float = 0.0


MakeTroubles = Callable[[Stage], Sequence[Trouble]]


def campaign(  # noqa: PLR0917  # those of every campaign, and what is its own
    report: Report,
    stage: Stage,
    shapes: tuple[Shape, ...],
    counts: Callable[[str], bool],
    troubles: MakeTroubles,
    share: float,
    mutation: Mutation | None,
) -> Report:
    """Let each kind of trouble begin at each event of each shape.

    Parameters:
        report: Where what is found goes.
        stage: The database.
        shapes: The shapes.
        counts: Which statements are events.
        troubles: Makes the kinds of trouble, in the child.
        share: How many of the points are tried, 1 for all.
        mutation: A deliberate mistake.
    """
    report.notes |= {"callers told": 0, "runs that failed and were retried": 0, "pauses": 0}
    chance = random.Random(report.seed)  # noqa: S311  # it has to repeat
    names = fork(lambda: [each.name for each in troubles(stage)]).result()
    step = max(1, len(names) // KINDS_AT_EACH)
    for shape in shapes:
        calm_key = stage.new_key(shape)
        calm = fork(
            lambda: _lives(stage, shape, [(calm_key, None, 0)], counts, troubles, mutation)  # noqa: B023
        ).result()
        # Each event meets some kinds, and each kind comes around.
        plans = [
            (stage.new_key(shape), names[(k + turn * step) % len(names)], k)
            for k in range(1, calm.counted[0] + 1)
            for turn in range(KINDS_AT_EACH)
            if chance.random() <= share
        ]
        lived = fork(
            lambda: _lives(stage, shape, plans, counts, troubles, mutation)  # noqa: B023
        ).result()
        report.notes["pauses"] += lived.pauses
        for (_, name, k), ending in zip(plans, lived.endings, strict=True):
            what = f"{shape.name}, {name} at event {k}"
            report.points += 1
            report.injected += ending.injected
            report.heal_seconds.append(ending.seconds)
            report.notes["callers told"] += ending.told
            report.notes["runs that failed and were retried"] += ending.failed
            report.broken += [f"{what}: {each}" for each in ending.broken]
            note(report, what, ending.found)
    return report


@dataclass
class _Lived:
    endings: list[Ending]
    counted: list[int]
    pauses: int


Plan = tuple[str, str | None, int]
"""The key of a run, what goes wrong, and at which event."""


def _lives(  # noqa: PLR0917
    stage: Stage,
    shape: Shape,
    plans: Sequence[Plan],
    counts: Callable[[str], bool],
    troubles: MakeTroubles,
    mutation: Mutation | None,
) -> _Lived:
    """In a child: drive runs to their ends, one after another."""
    pauses: list[float] = []
    module: Any = dispatcher
    module.time = Pauses(pauses)
    stage.enter(0, Events(), mutation)
    made = {each.name: each for each in troubles(stage)}
    wire = Wire(stage.engine.database.engine, counts)
    lived = _Lived([], [], 0)
    for key, name, k in plans:
        trouble = None if name is None else made[name]
        lived.endings.append(_live(stage, shape, key, trouble, k, wire))
        lived.counted.append(wire.count)
    lived.pauses = len(pauses)
    return lived


class Pauses:
    """`time`, for a dispatcher that need not wait: it writes down for how long it would have."""

    def __init__(self, pauses: list[float]) -> None:
        self.perf_counter = time.perf_counter
        self.sleep = pauses.append


def _live(  # noqa: PLR0917
    stage: Stage, shape: Shape, key: str, trouble: Trouble | None, at: int, wire: Wire
) -> Ending:
    """Drive a run to its end, and ask again after an error, as people do."""
    world.broken = True
    ending = Ending(0, 0, failed=False, found={})
    began = time.monotonic()
    wire.arm(trouble, at)
    for _ in range(ASKED):
        try:
            drive(stage.engine, stage.clock, shape, key)
            break
        except DBAPIError:
            ending.told += 1
            wire.over()
        except Exception as error:  # noqa: BLE001  # whatever it is, it is no error of a database
            ending.broken.append(f"the caller was told {type(error).__name__}: {error}")
            wire.over()
    wire.over()
    ending.injected = wire.injected
    count = wire.count
    wire.arm(None, 0)
    wire.count = count
    ending.failed = world.broken is False and "failed" not in shape.name
    if ending.failed and trouble is not None and trouble.passing:
        ending.broken.append("the run failed, although another try would have done")
    ending.found = damage(stage.engine, shape, key)
    if not ending.found["lost"] and find(stage.engine, shape, key).state not in schema.FINISHED:
        ending.found["stuck"].append("it has come to no end")
    ending.seconds = time.monotonic() - began
    return ending
