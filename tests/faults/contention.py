"""Locks, conflicts and connections that are dropped, at every statement and COMMIT of a run."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from flowroute import Continuation, done, step
from flowroute.engine import dispatcher
from tests.faults.crashes import Events, Mutation, Stage, note
from tests.faults.forks import fork
from tests.faults.report import Report
from tests.faults.shapes import SHAPES, Effect, Faulted, Shape, damage, drive, world
from tests.faults.storage import is_write
from tests.faults.trouble import BEGIN, Pauses, Trouble, campaign
from tests.waiting import wait_until

BUSY_MILLISECONDS = 1
"""How long a connection waits for SQLite's lock here."""

LONG = 8
"""More errors than an attempt is begun anew for."""

CONFLICTS = ("40001", "40P01", "55P03")
"""A serialization failure, a deadlock, a lock timeout."""


class Locked(Trouble):
    """Another connection holds SQLite's write lock for longer than anybody waits."""

    def __init__(self, path: str, *, lasts: int) -> None:
        super().__init__(f"locked for {lasts} errors", lasts=lasts, passing=lasts < LONG)
        self._other = sqlite3.connect(path, timeout=0, isolation_level=None)

    def begin(self, raw: Any) -> bool:  # noqa: ARG002
        """Take the lock; the run may have it."""
        try:
            self._other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        return True

    def end(self) -> None:
        """Let go of it."""
        self._other.rollback()


class Conflict(Trouble):
    """PostgreSQL refuses a statement, and with it the transaction, by a code."""

    def __init__(self, code: str, *, lasts: int) -> None:
        super().__init__(f"{code} for {lasts} errors", lasts=lasts, passing=lasts < LONG)
        self._code = code

    def begin(self, raw: Any) -> bool:  # noqa: ARG002
        """Nothing more."""
        return True

    def go_on(self, raw: Any) -> None:
        """Let the server raise it."""
        raise_code = sql.SQL("DO $$BEGIN RAISE EXCEPTION 'injected' USING ERRCODE = {}; END$$")
        with raw.cursor() as cursor:
            cursor.execute(raise_code.format(self._code))


class Dropped(Trouble):
    """The server ends the connection."""

    def __init__(self, url: str, *, lasts: int) -> None:
        super().__init__(f"dropped {lasts} times", lasts=lasts, passing=True)
        self._url = url

    def begin(self, raw: Any) -> bool:  # noqa: ARG002
        """Nothing more."""
        return True

    def go_on(self, raw: Any) -> None:
        """Terminate it, and wait until it is gone."""
        # By a new connection: the end of a step's time may interrupt this, too.
        with psycopg.connect(self._url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", [raw.info.backend_pid])


def contention(
    database: str,
    url: str,
    *,
    seed: int,
    share: float = 1.0,
    shapes: tuple[Shape, ...] = SHAPES,
    mutation: Mutation | None = None,
) -> Report:
    """Let others be in the way at each statement of each run, and steps in each other's.

    Parameters:
        database: sqlite or postgresql.
        url: An empty database.
        seed: Chooses the points, if not all are tried.
        share: How many of them, 1 for all.
        shapes: The shapes.
        mutation: A deliberate mistake.
    """
    report = Report("locks, conflicts, dropped connections", database, seed)
    stage = Stage(url)
    if database == "sqlite":
        path = str(sa.make_url(url).database)
        bind = stage.engine.database.engine
        event.listen(bind, "checkout", lambda raw, *_: _be_impatient(raw))
        counts = lambda said: said == BEGIN or is_write(said)  # noqa: E731
        return campaign(report, stage, shapes, counts, lambda _: _locks(path), share, mutation)
    address = url.replace("+psycopg", "")
    campaign(report, stage, shapes, _is_sent, lambda _: _conflicts(address), share, mutation)
    _collide(report, stage, address, max(1, round(20 * share)), mutation)
    return report


def _is_sent(said: str) -> bool:
    return said != BEGIN


def _be_impatient(raw: Any) -> None:
    raw.execute(f"PRAGMA busy_timeout={BUSY_MILLISECONDS}")


def _locks(path: str) -> list[Trouble]:
    return [Locked(path, lasts=1), Locked(path, lasts=3), Locked(path, lasts=LONG)]


def _conflicts(address: str) -> list[Trouble]:
    return [
        *(Conflict(code, lasts=1) for code in CONFLICTS),
        Conflict("40001", lasts=3),
        Conflict("40P01", lasts=LONG),
        Dropped(address, lasts=1),
        Dropped(address, lasts=2),
    ]


# -- real conflicts between two who change the same rows -------------------------------------------


class Meeting:
    """What the step of `FaultedMeeting` meets, and for how often."""

    def __init__(self) -> None:
        self.left = 0
        """How often the other one is in the way still."""
        self.met = 0
        self.meet: Callable[[Any], None] = lambda _session: None


meeting = Meeting()


class FaultedMeeting(Faulted):
    """Changes two rows, one after the other; somebody else does that as well."""

    @step(start=True)
    def change(self) -> Continuation[str]:
        world.entered()
        meeting.meet(self.session)
        self.effect("changed")
        return done("changed")


MEETING = Shape(
    "two who change the same rows", lambda k: FaultedMeeting(subject=k).change(), ("changed",)
)


def _collide(
    report: Report, stage: Stage, address: str, times: int, mutation: Mutation | None
) -> None:
    """Real deadlocks and serialization failures: each run meets one to seven of them."""
    for meet in (_deadlock, _overtake):
        for number in range(times):
            conflicts = 1 + number % 7
            key = stage.new_key(MEETING)
            act = lambda: _meet(stage, key, address, meet, conflicts, mutation)  # noqa: B023, E731
            failed, met, pauses, found = fork(act).result()
            what = f"{meet.__name__.strip('_')} {conflicts} times in a row"
            report.points += 1
            report.injected += met
            report.notes["pauses"] += len(pauses)
            report.notes["runs that failed and were retried"] += failed
            note(report, what, found)
            patience = dispatcher.TRANSIENT_TRIES
            if failed != (conflicts > patience):
                report.broken.append(f"{what}: the run {'failed' if failed else 'did not fail'}")
            if len(pauses) != min(conflicts, patience) + max(0, conflicts - patience - 1):
                report.broken.append(f"{what}: {len(pauses)} pauses before another try")
            if len(set(pauses)) != len(pauses):
                report.broken.append(f"{what}: pauses without jitter: {pauses}")


def _meet(  # noqa: PLR0917
    stage: Stage,
    key: str,
    address: str,
    meet: Callable[[Both, str], None],
    conflicts: int,
    mutation: Mutation | None,
) -> tuple[bool, int, list[float], dict[str, list[str]]]:
    """In a child: one run, and whoever is in its way."""
    pauses: list[float] = []
    module: Any = dispatcher
    module.time = Pauses(pauses)
    module.random = random.Random(conflicts)  # noqa: S311  # it has to repeat
    stage.enter(0, Events(), mutation)
    world.broken = True
    meeting.left, meeting.met = conflicts, 0
    with stage.engine.database.engine.begin() as connection:
        rows = [{"subject": f"{key} {name}", "name": "0"} for name in "ab"]
        connection.execute(sa.insert(Effect), rows)

    def meet_while_left(session: Any) -> None:
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        if meeting.left:
            meeting.left -= 1
            meet(Both(session, key), address)
        else:
            Both(session, key).change("a")

    meeting.meet = meet_while_left
    drive(stage.engine, stage.clock, MEETING, key)
    return not world.broken, meeting.met, pauses, damage(stage.engine, MEETING, key)


class Both:
    """The two rows, as a step sees them."""

    def __init__(self, session: Any, key: str) -> None:
        self._session = session
        self.key = key

    def change(self, name: str) -> None:
        """Change one; tells of the conflict that this is."""
        row = sa.update(Effect).where(Effect.subject == f"{self.key} {name}")
        try:
            self._session.execute(row.values(name=Effect.name + "1"))
        except DBAPIError:
            meeting.met += 1
            raise

    def look(self, name: str) -> None:
        """Read one, and with it begin to see the database as it is now."""
        self._session.execute(sa.select(Effect.name).where(Effect.subject == f"{self.key} {name}"))

    def be_the_victim(self) -> None:
        """Be the one whom PostgreSQL chooses."""
        self._session.execute(sa.text("SET LOCAL deadlock_timeout = '10ms'"))


CHANGE = "UPDATE effect SET name = name WHERE subject = %s"


def _deadlock(both: Both, address: str) -> None:
    """The other one holds b and waits for a; the step holds a and waits for b."""
    both.be_the_victim()
    both.change("a")
    other = psycopg.connect(address)
    other.execute("SET LOCAL deadlock_timeout = '60s'")
    other.execute(CHANGE, [f"{both.key} b"])

    def wait_for_a() -> None:
        with closing(other):
            other.execute(CHANGE, [f"{both.key} a"])

    threading.Thread(target=wait_for_a).start()
    with closing(psycopg.connect(address, autocommit=True)) as onlooker:
        waits = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
        pid = [other.info.backend_pid]
        wait_until(lambda: onlooker.execute(waits, pid).fetchone() == (True,), what="it waits")
    both.change("b")


def _overtake(both: Both, address: str) -> None:
    """The other one changes what the step has read, and commits."""
    both.look("a")
    with closing(psycopg.connect(address)) as other:
        other.execute(CHANGE, [f"{both.key} a"])
        other.commit()
    both.change("a")
