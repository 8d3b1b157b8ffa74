"""A short run of chaos, its controls, and that the audit notices damage."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, cast

import pytest
import sqlalchemy as sa

from flowroute.engine import schema
from tests.faults.chaos.audit import audit
from tests.faults.chaos.campaign import break_and_heal
from tests.faults.chaos.controls import CONTROLS, missed
from tests.faults.chaos.directed import MARGIN_SECONDS, dead_worker
from tests.faults.chaos.flows import Base, Effect
from tests.faults.chaos.load import Accepted
from tests.faults.chaos.situations import outlast_the_lease
from tests.faults.chaos.system import Parts, System, taken_over
from tests.faults.page import RAW, RAW_BOUND, drawn
from tests.faults.report import Report
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection

    from tests.processes import Process

POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.postgres)
RUN = "01a20000-0000-7000-8000-000000000000"


@pytest.fixture(
    scope="module",
    params=[POSTGRESQL],  # and SQLite by `make faults`, as all the controls
)
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    """One system a database: to start its processes takes longer than to break them."""
    with System(request.param, Parts(workers=3)) as started:
        started.supervise()
        yield started


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.timeout(120)
def test_a_step_that_outlasts_its_lease_runs_once_while_its_process_lives(system: System) -> None:
    assert outlast_the_lease(system) == []


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.timeout(120)
def test_the_run_of_a_dead_worker_goes_on_within_its_lease_and_five_seconds(system: System) -> None:
    report = dead_worker(system.database, lease_seconds=system.lease_seconds, system=system)
    assert report.clean, report
    assert 0 < report.notes["goes on after seconds"] <= system.lease_seconds + MARGIN_SECONDS


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.timeout(120)
def test_under_each_kind_of_fault_nothing_is_lost_doubled_or_stuck(system: System) -> None:
    report = Report("chaos", system.database, seed=4)
    break_and_heal(system, report, seconds=0.0)
    assert report.clean, report
    assert report.points >= 10, report
    assert report.injected >= 10, report


@pytest.mark.parametrize(
    ("end", "count"),
    [
        (("done", 4), 1),
        (("done", 3), 1),  # recovery had found the lease over, and the same process went on
        (("cancelled", 4), 1),  # cancelled after it had been taken over
        (("cancelled", 3), 0),
        (("done", 2), 0),
    ],
)
def test_what_a_cancel_had_refused_is_no_zombie(end: tuple[str, int], count: int) -> None:
    assert taken_over(f"7 INFO chaos refused: run {RUN} epoch 2\n", {RUN: end}) == count


class Unanswerable:
    """Stands for a process that the supervisor can not look at."""

    @property
    def returncode(self) -> int:
        """Fail."""
        raise OSError("no more processes")


def test_a_supervisor_that_fails_is_found() -> None:
    system = System("sqlite")
    system.workers = [cast("Process", Unanswerable())]
    with ExitStack() as exits:
        exits.push(system.__exit__)
        system.supervise()
        wait_until(lambda: system.broken, what="the supervisor has failed")
    assert "no more processes" in system.broken[0]


def test_the_page_of_reliability_shows_a_dead_worker_beside_rq_alone() -> None:
    report = Report("dead worker", "sqlite", 0, points=1)
    report.notes |= {"lease seconds": 30.0, "goes on after seconds": 31.2}
    report.notes |= {RAW: None, RAW_BOUND: 120.0}
    results = {"seed": 1, "seconds": 2, "machine": "a desk", "controls": {}}
    page = drawn(results | {"reports": [report.as_json()]})
    assert "| flowroute | sqlite | 30 s | 31.2 s |" in page
    assert "| RQ alone, `Retry(max=3)` | | | not within 120 s |" in page


def test_a_control_that_shows_something_else_counts_as_missed() -> None:
    assert missed(CONTROLS[0], Report("chaos control", "sqlite", 0, points=1, stuck=["a run"]))


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


def call_twice(connection: Connection) -> None:
    table = schema.run_table
    now: Any = sa.func.now()
    row = {"flow": "Middle", "flow_version": 1, "state": "done", "seq": 0, "epoch": 1, "attempt": 0}
    row |= {"created_at": now, "updated_at": now, "finished_at": now}
    row |= {"parent_id": RUN, "parent_seq": 1}
    for last in "12":
        connection.execute(sa.insert(table).values(id=RUN[:-1] + last, **row))


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
        (call_twice, "doubled"),
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


def test_the_audit_notices_a_sub_flow_that_is_not_there(sqlite_url: str) -> None:
    def forget(connection: Connection) -> None:
        connection.execute(sa.update(schema.run_table).values(flow="CallsMiddle", seq=2))

    assert any("sub-flow" in each for each in audited(sqlite_url, forget).lost)
