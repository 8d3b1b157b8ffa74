"""Authentic but odd checkpoints: signed with the right key, and not what the code expects.

A deploy, a bug or a careless script may leave such bytes. Whatever they are, the run is `blocked`
or there is a clear error, the bytes are kept, and the process that met them lives on: so each is
met in a forked child, whose end is looked at.
"""

from __future__ import annotations

import logging
import multiprocessing
import random
import resource
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from flowroute import Continuation, Engine, Flow, Run, done, worker_step
from flowroute.engine.codec import place_of
from flowroute.engine.schema import checkpoint_table
from flowroute.errors import FlowrouteError
from tests.engine.support import Shelf, payload
from tests.faults.oddities import KEYS, KINDS, Odd
from tests.faults.report import Report

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

BATCH: Final = 50
"""Checkpoints that one child meets."""
PATIENCE_SECONDS: Final = 60.0
"""How long a child may be silent."""
MEMORY_BYTES: Final = 3 << 30
"""Address space of a child: a stream that asks for more gets a MemoryError, not the machine."""


class Oddity(Flow):
    """A run whose bookmark is exchanged while it waits for a worker."""

    size: int

    @worker_step(start=True)
    def work(self, value: Any, lines: list[int]) -> Continuation[str]:
        return done(f"{type(value).__name__} {len(lines)} {self.size}")


@dataclass(slots=True)
class Trial:
    """A run at an odd checkpoint, or with an odd result."""

    what: str
    """What repeats it."""
    run: Run[Any]
    seq: int
    content: bytes
    accept: frozenset[str]


@dataclass
class Tally:
    """What became of them."""

    tried: Counter[str] = field(default_factory=Counter[str])
    became: Counter[str] = field(default_factory=Counter[str])
    broken: list[str] = field(default_factory=list[str])


def prepare(engine: Engine, odds: Sequence[tuple[str, Odd]]) -> list[Trial]:
    """Runs that wait at odd bytes; every fifth has ended, with odd bytes for its result."""
    trials: list[Trial] = []
    for number, (what, odd) in enumerate(odds):
        run = engine.start(Oddity(size=9).work(7, [3]))
        seq, accept = 0, odd.accept
        if number % 5 == 4:
            engine.advance(run.id, 0)
            seq, accept = 1, frozenset[str]()
        head = bytes((odd.version, odd.flags))
        mac = engine.codec.mac(place_of(head, run.id, seq, odd.python), odd.stream)
        trials.append(Trial(what, run, seq, head + mac + odd.stream, accept))
    with engine.database.engine.begin() as connection:
        for trial, (_, odd) in zip(trials, odds, strict=True):
            at = checkpoint_table.c.run_id == trial.run.id, checkpoint_table.c.seq == trial.seq
            values = {"payload": trial.content, "python": odd.python}
            connection.execute(sa.update(checkpoint_table).where(*at).values(values))
    return trials


def meet(url: str, trials: Sequence[Trial], pipe: Connection) -> None:
    """In a child: advance each run as a worker does, or ask for its result; tell what is raised."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)
    with Engine(url, executor=Shelf(), secret_keys=KEYS) as engine:
        for trial in trials:
            problem = ""
            try:
                if trial.accept:
                    engine.advance(trial.run.id, trial.seq)
                else:
                    _ = engine.get(trial.run.id).result
            except FlowrouteError:
                problem = "raised" if trial.accept else ""  # advance() records, result tells
            except BaseException as error:  # noqa: BLE001  # told to the parent, whatever it is
                problem = f"{type(error).__name__}: {error}"
            pipe.send(problem)
        pipe.send(None)


def met(url: str, trials: Sequence[Trial], tally: Tally) -> None:
    """Let a child meet them; it lives to the end, unless one of them ends it."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    child = fork.Process(target=meet, args=(url, trials, theirs))
    child.start()
    theirs.close()
    at = 0
    try:
        while ours.poll(PATIENCE_SECONDS):
            problem = ours.recv()
            if problem is None:
                break
            if problem:
                tally.broken.append(f"{trials[at].what}: {problem}")
            at += 1
        else:
            tally.broken.append(f"{trials[at].what}: no answer in {PATIENCE_SECONDS:g} s")
    except EOFError:
        child.join(5)
        tally.broken.append(f"{trials[at].what}: ended its process with {child.exitcode}")
    finally:
        child.join(10)
        if child.exitcode:
            tally.broken.append(f"the child that met {trials[0].what} ended {child.exitcode}")
        child.kill()
        child.join()
        ours.close()
    if at < len(trials) - 1 and at:
        met(url, trials[at + 1 :], tally)


def judge(engine: Engine, trial: Trial, tally: Tally) -> None:
    """The run is where it may be, says why, and the bytes are as they were."""
    record = trial.run.record
    kind = trial.what.partition(" ")[0]
    tally.tried[kind] += 1
    if payload(engine, trial.run, trial.seq) != trial.content:
        tally.broken.append(f"{trial.what}: the bytes were changed")
    if not trial.accept:
        tally.became["result"] += 1
        return
    tally.became[record.state] += 1
    if record.state not in trial.accept:
        tally.broken.append(f"{trial.what}: {record.state}, {record.error}")
    if record.state == "blocked":
        error = trial.run.error
        if error is None or not error.message or record.attempt != 0:
            tally.broken.append(f"{trial.what}: blocked at attempt {record.attempt}: {error}")


def campaign(database: str, *, seed: int, odd: int = 2_500) -> Report:
    """Let children meet odd checkpoints.

    Args:
        database: URL of a database with flowroute's tables.
        seed: repeats the campaign.
        odd: how many; a fifth of them as the result of a run that has ended.

    Returns:
        The report; a child that crashed, a run that is not blocked, bytes that were changed and an
        error that is not flowroute's are among `broken`.
    """
    report = Report("odd checkpoints", sa.make_url(database).get_backend_name(), seed)
    began = time.monotonic()
    tally = Tally()
    for first in range(0, odd, BATCH):
        with Engine(database, executor=Shelf(), secret_keys=KEYS) as engine:
            odds: list[tuple[str, Odd]] = []
            for number in range(first, min(first + BATCH, odd)):
                rng = random.Random(f"{seed}/{number}")  # noqa: S311  # to be repeatable
                make = KINDS[number % len(KINDS)]
                odds.append((f"{make.__name__} {seed}/{number}", make(rng)))
            trials = prepare(engine, odds)
        met(database, trials, tally)
        with Engine(database, executor=Shelf(), secret_keys=KEYS) as engine:
            for trial in trials:
                trial.run = engine.get(trial.run.id)
                judge(engine, trial, tally)
    report.points = report.injected = tally.tried.total()
    report.broken = tally.broken
    report.notes = {
        "odd": dict(sorted(tally.tried.items())),
        "became": dict(sorted(tally.became.items())),
        "seconds": round(time.monotonic() - began, 1),
    }
    return report
