"""A sample of the crash points, and every control: what `make faults` does in full."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from _pytest.mark.structures import ParameterSet

from tests.faults import crashes
from tests.faults.controls import CONTROLS, Control
from tests.faults.databases import databases
from tests.faults.report import Report


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)], scope="module"
)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of database."""
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def new_url(kind: str) -> Iterator[Callable[[], str]]:
    """Call it for an empty database."""
    with databases(kind) as make:
        yield make


def assert_clean(report: Report) -> None:
    assert report.injected >= report.points > 0
    assert (report.lost, report.doubled, report.stuck) == ([], [], [])


@pytest.mark.slow
def test_a_process_killed_at_any_event_loses_and_doubles_nothing(
    kind: str, new_url: Callable[[], str]
) -> None:
    assert_clean(crashes.crash_points(kind, new_url(), seed=7, share=0.015))


@pytest.mark.slow
def test_a_process_killed_while_it_recovers_loses_and_doubles_nothing(
    kind: str, new_url: Callable[[], str]
) -> None:
    report = crashes.double_crashes(kind, new_url(), seed=7, count=6)
    assert report.points == 6
    assert_clean(report)


@pytest.mark.slow
def test_a_process_frozen_past_its_lease_stores_nothing_when_it_wakes(
    kind: str, new_url: Callable[[], str]
) -> None:
    report = crashes.zombies(kind, new_url(), seed=7, share=0.05)
    assert_clean(report)
    assert report.fenced > 0


def marked(control: Control) -> ParameterSet:
    """A control, as a parameter that says whether it needs PostgreSQL."""
    marks = () if "sqlite" in control.databases else (pytest.mark.postgres,)
    return pytest.param(control, id=control.name, marks=marks)


@pytest.mark.slow
@pytest.mark.parametrize("control", [marked(each) for each in CONTROLS])
def test_the_harness_notices_a_deliberate_mistake(control: Control) -> None:
    database = control.databases[0]
    with databases(database) as new_url:
        report = control.campaign(
            database,
            new_url(),
            seed=1,
            share=control.share,
            shapes=control.shapes,
            mutation=control.mutation,
        )
    assert report.points > 0
    assert control.caught(report)
