"""A short run of chaos, a worker that dies in the middle of a step, and that the audit notices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from flowroute.engine import schema
from tests.faults.chaos import campaign, dead_worker
from tests.faults.chaos.application import Base, Effect
from tests.faults.chaos.audit import audit
from tests.faults.chaos.load import Accepted
from tests.faults.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

RUN = "01a20000-0000-7000-8000-000000000000"


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.postgres
@pytest.mark.timeout(240)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_under_chaos_nothing_is_lost_doubled_or_stuck(database: str) -> None:
    report = campaign(database, seed=4, seconds=6)
    assert report.clean, report
    assert report.points >= 10, report
    assert report.injected >= 1, report


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.timeout(240)
def test_the_run_of_a_dead_worker_goes_on_within_its_lease_and_five_seconds() -> None:
    report = dead_worker("sqlite", lease_seconds=2.0)
    assert report.clean, report
    assert 0 < report.notes["goes on after seconds"] <= 2.0 + 5.0


# -- the audit, on tables that are damaged by hand -------------------------------------------------


def remove_the_run(connection: Connection) -> None:
    connection.execute(sa.delete(schema.run_table))


def remove_an_effect(connection: Connection) -> None:
    connection.execute(sa.delete(Effect).where(Effect.seq == 1))


def remove_a_checkpoint(connection: Connection) -> None:
    table = schema.checkpoint_table
    connection.execute(sa.delete(table).where(table.c.seq == 1))


def repeat_an_effect(connection: Connection) -> None:
    connection.execute(sa.insert(Effect).values(run_id=RUN, step="pack", seq=1))


def leave_it_open(connection: Connection) -> None:
    change = sa.update(schema.run_table).values(state="ready", finished_at=None)
    connection.execute(change)


def end_it_early(connection: Connection) -> None:
    connection.execute(sa.update(schema.run_table).values(seq=2))


def fail_it(connection: Connection) -> None:
    connection.execute(sa.update(schema.run_table).values(state="failed"))


def audited(url: str, damage: Callable[[Connection], None] | None) -> Report:
    """What the audit says about one run that is done, after some damage."""
    schema.add_tables(Base.metadata)
    engine = sa.create_engine(url)
    now: Any = sa.func.now()
    with engine.begin() as connection:
        Base.metadata.create_all(connection)
        row = {"id": RUN, "flow": "Middle", "flow_version": 1, "state": "done", "seq": 3}
        row |= {"epoch": 1, "attempt": 0, "created_at": now, "updated_at": now, "finished_at": now}
        connection.execute(sa.insert(schema.run_table).values(row))
        for seq, step in enumerate(("begin", "pack", "end", None)):
            row = {"run_id": RUN, "seq": seq, "epoch": 1, "step": step, "payload": b""}
            row |= {"python": "cp311", "created_at": now}
            connection.execute(sa.insert(schema.checkpoint_table).values(row))
            if step is not None:
                connection.execute(sa.insert(Effect).values(run_id=RUN, step=step, seq=seq))
        if damage is not None:
            damage(connection)
    report = Report("chaos", "sqlite", 0, points=1)
    audit(engine, [Accepted("k", "Middle", RUN, "/")], report)
    engine.dispose()
    return report


def test_the_audit_finds_nothing_in_a_run_that_is_whole(sqlite_url: str) -> None:
    assert audited(sqlite_url, None).clean


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (remove_the_run, "lost"),
        (remove_an_effect, "lost"),
        (remove_a_checkpoint, "lost"),
        (end_it_early, "lost"),
        (repeat_an_effect, "doubled"),
        (leave_it_open, "stuck"),
        (fail_it, "broken"),
    ],
)
def test_the_audit_notices_damage(
    sqlite_url: str, damage: Callable[[Connection], None], kind: str
) -> None:
    report = audited(sqlite_url, damage)
    assert not report.clean
    assert getattr(report, kind), report
