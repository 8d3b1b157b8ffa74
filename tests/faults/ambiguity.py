"""COMMITs that report an error, whether they happened or not, wherever a run commits."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from flowroute.errors import RunNotFound
from tests.faults.crashes import Events, Mutation, Stage, note
from tests.faults.forks import fork
from tests.faults.report import Report
from tests.faults.shapes import SHAPES, Shape, damage, drive, world

ASKED = 12
"""How often a caller that was told of an error asks again."""

READS = ("SELECT", "PRAGMA", "BEGIN")
"""Statements that commit nothing when they are sent by themselves."""


@dataclass(frozen=True)
class Fault:
    """What becomes of one COMMIT.

    Parameters:
        name: For reports.
        happens: Whether it happened all the same.
        away: How many statements after it fail too: the database is away for a moment.
        passing: Whether the database says that another try may succeed.
    """

    name: str
    happens: bool
    away: int = 0
    passing: bool = False


HAPPENED = Fault("happened", happens=True)
FAULTS = (
    HAPPENED,
    Fault("did not happen", happens=False),
    Fault("did not happen, busy", happens=False, passing=True),
    Fault("happened, then away", happens=True, away=2),
)
"""What each COMMIT meets."""
IN_PAIRS = (*FAULTS, Fault("did not happen, then away", happens=False, away=2))
"""What a COMMIT of a pair may meet."""


class Commits:
    """Counts the COMMITs of a process, and has some of them report an error.

    A statement that commits by itself, as single ones do on PostgreSQL, is one as well. A COMMIT of
    a transaction in which nothing was sent is none.
    """

    def __init__(self) -> None:
        self.arm({})

    def arm(self, faults: Mapping[int, Fault]) -> None:
        """Count anew, and let these COMMITs report an error, numbered from 1."""
        self.count = self.injected = self._away = 0
        self.stored = 0
        """How many of those that happened and reported an error stored a checkpoint."""
        self._checkpoint = False
        self._faults = faults

    def watch(self, engine: sa.Engine) -> None:
        """Watch every connection of an engine, in this process, from now on."""
        dialect: Any = engine.dialect
        commit = dialect.do_commit

        def committing(connection: Any) -> None:
            raw = connection.dbapi_connection
            if not _in_transaction(raw):
                commit(connection)
                return
            self._passed(raw, lambda: commit(connection))

        dialect.do_commit = committing
        for name in ("do_execute", "do_executemany", "do_execute_no_params"):
            setattr(dialect, name, self._watched(getattr(dialect, name)))

    def _watched(self, execute: Callable[..., None]) -> Callable[..., None]:
        def executing(cursor: Any, statement: str, *arguments: Any) -> None:
            raw = cursor.connection
            if self._away:
                self._away -= 1
                raise _error(raw, passing=False)
            self._checkpoint |= "INTO flowroute_checkpoint" in statement
            alone = getattr(raw, "autocommit", False) is True
            if alone and not statement.lstrip().upper().startswith(READS):
                self._passed(raw, lambda: execute(cursor, statement, *arguments))
            else:
                execute(cursor, statement, *arguments)

        return executing

    def _passed(self, raw: Any, commit: Callable[[], None]) -> None:
        """A COMMIT is passed."""
        self.count += 1
        fault = self._faults.get(self.count)
        checkpoint, self._checkpoint = self._checkpoint, False
        if fault is None:
            commit()
            return
        self.injected += 1
        self._away = fault.away
        if fault.happens:
            commit()
            self.stored += checkpoint
        raise _error(raw, passing=fault.passing)


def _in_transaction(raw: Any) -> bool:
    if hasattr(raw, "in_transaction"):  # sqlite3
        return bool(raw.in_transaction)
    return bool(raw.info.transaction_status)  # psycopg: 0 is idle


def _error(raw: Any, *, passing: bool) -> Exception:
    """What the driver raises then. A connection to PostgreSQL is broken by it."""
    if hasattr(raw, "in_transaction"):
        said = "database is locked" if passing else "disk I/O error"
        return sqlite3.OperationalError(said)
    if passing:
        raw.rollback()
        return psycopg.errors.SerializationFailure("could not serialize access")
    raw.close()
    return psycopg.OperationalError("server closed the connection unexpectedly")


@dataclass(frozen=True)
class Plan:
    """One run, and which of its COMMITs report an error."""

    key: str
    faults: Mapping[int, Fault]

    @property
    def happen(self) -> bool:
        """Whether all of them happen, and the database answers at once when it is asked."""
        return all(fault is HAPPENED for fault in self.faults.values())

    def __str__(self) -> str:
        return ", ".join(f"COMMIT {k} {fault.name}" for k, fault in self.faults.items())


@dataclass
class Ending:
    """How a run came to its end although COMMITs reported errors."""

    commits: int
    entered: int
    """How often a step of it began."""
    injected: int
    stored: int
    told: list[str]
    """The errors that whoever asked for something was told of."""
    broken: list[str]
    found: dict[str, list[str]]
    """The damage."""
    seconds: float


def lives(
    stage: Stage, shape: Shape, plans: Sequence[Plan], mutation: Mutation | None
) -> list[Ending]:
    """In a child: drive runs to their ends, one after another."""
    random.uniform = lambda *_: 0.0  # no pause before another try
    entered, commits = Events(kinds=frozenset({"entered"})), Commits()
    stage.enter(0, entered, mutation)
    commits.watch(stage.engine.database.engine)
    return [_live(stage, shape, plan, entered, commits) for plan in plans]


def _live(stage: Stage, shape: Shape, plan: Plan, entered: Events, commits: Commits) -> Ending:
    """Drive a run to its end, and ask again after an error, as people do."""
    world.broken, entered.count = True, 0
    told: list[str] = []
    lost: list[str] = []
    broken: list[str] = []
    began = time.monotonic()
    commits.arm(plan.faults)
    for _ in range(ASKED):
        try:
            drive(stage.engine, stage.clock, shape, plan.key)
            break
        except DBAPIError as error:
            told.append(str(error.orig))
        except RunNotFound:
            lost.append("a start was accepted, and there is no such run")
        except Exception as error:  # noqa: BLE001  # whatever it is, it is no error of a database
            broken.append(f"the caller was told {type(error).__name__}: {error}")
    counts = (commits.count, entered.count, commits.injected, commits.stored)
    commits.arm({})
    found = damage(stage.engine, shape, plan.key)
    found["lost"] += lost
    return Ending(*counts, told, broken, found, time.monotonic() - began)


def ambiguous_commits(
    database: str,
    url: str,
    *,
    seed: int,
    share: float = 1.0,
    pairs: int = 0,
    shapes: tuple[Shape, ...] = SHAPES,
    mutation: Mutation | None = None,
) -> Report:
    """Have each COMMIT of each run report an error, happened or not; then some pairs of them.

    Parameters:
        database: sqlite or postgresql.
        url: An empty database.
        seed: Chooses the points, if not all are tried, and the pairs.
        share: How many of the points, 1 for all.
        pairs: How many runs of each shape have two COMMITs that report an error.
        shapes: The shapes.
        mutation: A deliberate mistake.
    """
    report = Report("ambiguous commits", database, seed)
    report.notes = {"callers told": 0, "callers told although it happened": 0}
    stage = Stage(url)
    chance = random.Random(seed)  # noqa: S311  # it has to repeat
    for shape in shapes:
        plan = Plan(stage.new_key(shape), {})
        [calm] = fork(lambda: lives(stage, shape, [plan], mutation)).result()  # noqa: B023
        plans = [
            Plan(stage.new_key(shape), {k: fault})
            for k in range(1, calm.commits + 1)
            for fault in FAULTS
            if chance.random() <= share
        ]
        for _ in range(pairs):
            # What comes after a first error commits as well.
            k, j = sorted(chance.sample(range(1, calm.commits + 3), 2))
            faults = {k: chance.choice(IN_PAIRS), j: chance.choice(IN_PAIRS)}
            plans.append(Plan(stage.new_key(shape), faults))
        endings = fork(lambda: lives(stage, shape, plans, mutation)).result()  # noqa: B023
        for plan, ending in zip(plans, endings, strict=True):
            _report(report, f"{shape.name}, {plan}", plan, ending, calm)
    return report


def _report(report: Report, what: str, plan: Plan, ending: Ending, calm: Ending) -> None:
    report.points += 1
    report.injected += ending.injected
    report.heal_seconds.append(ending.seconds)
    note(report, what, ending.found)
    report.broken += [f"{what}: {each}" for each in ending.broken]
    report.notes["callers told"] += len(ending.told)
    if not plan.happen:
        return
    report.notes["callers told although it happened"] += len(ending.told)
    if ending.entered > calm.entered:
        report.doubled.append(
            f"{what}: {ending.entered} steps began instead of {calm.entered}: one whose COMMIT "
            "happened was run again"
        )
    if ending.stored == len(plan.faults) and ending.told:
        report.broken.append(f"{what}: it is stored, and the caller was told {ending.told}")
