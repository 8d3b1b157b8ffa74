"""Faults at a moment of one's choice, each with the check of what has to follow."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

import sqlalchemy as sa

from flowroute.engine.schema import FINISHED, RUNNING, checkpoint_table, run_table
from tests.faults.chaos.flows import OUTLASTS_SECONDS
from tests.faults.chaos.processes import children, send
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.faults.chaos.system import System

Situation: TypeAlias = Callable[["System"], list[str]]
"""Makes a fault happen, and returns what was wrong at once; most shows in the tables only."""
OUTLASTS_MARGIN: Final = 10.0
"""How much longer than it takes such a step is waited for, in seconds."""
BEGIN_SECONDS: Final = 30.0
"""How long a step may take to begin: the processes may just have started."""


def effects(system: System, run_id: str) -> int:
    """How often the first step of a run has come to its effect, committed or not."""
    return len(re.findall(rf"effect of {run_id} at 0\b", system.output))


def ended(system: System, run_id: str) -> bool:
    """Whether a run is at its end."""
    state = sa.select(run_table.c.state).where(run_table.c.id == run_id)
    with system.engine.connect() as connection:
        return connection.execute(state).scalar_one() in FINISHED


def kill_between_effect_and_checkpoint(system: System) -> list[str]:
    """Kill a work-horse after the effect of its step, and before the checkpoint."""
    run_id = system.start_run("Slow", "killed")
    send(_at_work(system, run_id), signal.SIGKILL)
    return []


def freeze_between_effect_and_checkpoint(system: System) -> list[str]:
    """Stop a work-horse there until another one has had the effect too, then let it go on."""
    run_id = system.start_run("Slow", "frozen")
    horse = _at_work(system, run_id)
    send(horse, signal.SIGSTOP)
    try:
        wait_until(
            lambda: ended(system, run_id),
            system.lease_seconds + BEGIN_SECONDS,
            what="another process ends the run of a frozen one",
        )
    finally:
        send(horse, signal.SIGCONT)
    # The process stays for the next job; its worker tells of the end of this one.
    wait_until(
        lambda: re.search(rf"flowroute-{run_id}-0-0-\d+ took", system.output),
        BEGIN_SECONDS,
        what="the zombie has come to the end of its job",
    )
    return []


def lose_the_hint(system: System) -> list[str]:
    """Empty Redis while the hint of a run waits there, and nobody can have taken it."""
    workers = [each.pid for each in system.workers]
    for pid in workers:
        send(pid, signal.SIGSTOP)
    try:
        system.start_run("Several", "hint lost")
        system.redis.flush()
    finally:
        for pid in workers:
            send(pid, signal.SIGCONT)
    return []


def outlast_the_lease(system: System) -> list[str]:
    """Let a step outlast its lease while its process lives; on PostgreSQL cut its connections.

    It has to run once, in one attempt.
    """
    run_id = system.start_run("Outlasting", "outlasting")
    _at_work(system, run_id)
    if system.postgres is not None:
        system.terminate_connections()
    try:
        wait_until(lambda: ended(system, run_id), OUTLASTS_SECONDS + OUTLASTS_MARGIN)
    except AssertionError:
        return [f"a step that outlasts its lease ran {effects(system, run_id)} times, and on"]
    columns = checkpoint_table.c
    attempt = sa.select(columns.attempt).where(columns.run_id == run_id, columns.seq == 1)
    with system.engine.connect() as connection:
        attempts = connection.execute(attempt).scalar_one()
    times = effects(system, run_id)
    if (attempts, times) == (1, 1):
        return []
    return [f"a step that outlasts its lease ran {times} times, in {attempts} attempts"]


def kill_worker_and_horse(system: System, key: str) -> Callable[[], bool]:
    """Kill a worker with its work-horse in the middle of a step.

    Returns:
        Tells whether another worker has begun the step again.
    """
    run_id = system.start_run("Slow", key)
    horse = _at_work(system, run_id)
    (worker,) = [each.pid for each in system.workers if horse in children(each.pid)]
    for pid in (worker, horse):
        send(pid, signal.SIGKILL)

    def goes_on() -> bool:
        row = sa.select(run_table.c.state, run_table.c.attempt).where(run_table.c.id == run_id)
        with system.engine.connect() as connection:
            state, attempt = connection.execute(row).one()
        return state in FINISHED or (state == RUNNING and attempt > 1)

    return goes_on


def _at_work(system: System, run_id: str) -> int:
    """Wait for the effect of a run's first step.

    Returns:
        The work-horse that has the run.
    """
    wait_until(
        lambda: effects(system, run_id),
        BEGIN_SECONDS,
        what="a worker is at the step",
    )
    return system.holder(run_id)
