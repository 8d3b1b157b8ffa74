"""A sample of the crash points, and every control: what `make faults` does in full."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.faults import crashes
from tests.faults.controls import CONTROLS, Control
from tests.faults.databases import databases
from tests.faults.report import Report
from tests.faults.shapes import SHAPES

SOME = tuple(shape for shape in SHAPES if shape.name in ("inline", "worker", "task", "suspension"))


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
    assert_clean(crashes.crash_points(kind, new_url(), seed=7, share=0.02, shapes=SOME))


@pytest.mark.slow
def test_a_process_killed_while_it_recovers_loses_and_doubles_nothing(
    kind: str, new_url: Callable[[], str]
) -> None:
    report = crashes.double_crashes(kind, new_url(), seed=7, count=3, shapes=SOME)
    assert report.points == 3
    assert_clean(report)


@pytest.mark.slow
def test_a_process_frozen_past_its_lease_stores_nothing_when_it_wakes(
    kind: str, new_url: Callable[[], str]
) -> None:
    report = crashes.zombies(kind, new_url(), seed=7, share=0.05, shapes=SOME)
    assert_clean(report)
    assert report.fenced > 0


@pytest.mark.slow
@pytest.mark.parametrize(  # the others, and all of them on PostgreSQL, by `make faults`
    "control", [each for each in CONTROLS if "sqlite" in each.databases], ids=lambda each: each.name
)
def test_the_harness_notices_a_deliberate_mistake(control: Control) -> None:
    with databases("sqlite") as new_url:
        report = control.campaign(
            "sqlite",
            new_url(),
            seed=1,
            share=control.share,
            shapes=control.shapes,
            mutation=control.mutation,
        )
    assert report.points > 0
    assert control.caught(report)
