"""A sample of odd deliveries and simultaneous posts: what `make faults` does in full."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.faults.delivery import deliveries, plans_of
from tests.faults.forms import CLICKS, simultaneous_posts
from tests.faults.shapes import SHAPES
from tests.faults.test_crashes import kind, new_url

__all__ = ["kind", "new_url"]

SOME = tuple(
    shape for shape in SHAPES if shape.name in ("workers", "retry", "page", "cancel", "sub-flow")
)


def test_every_choice_of_deliveries_is_tried_of_a_run_with_few_hints() -> None:
    plans = list(plans_of(3, 2, random.Random(1)))  # noqa: S311  # it has to repeat
    assert len(set(plans)) == 27
    assert all(plans.count(plan) == 2 for plan in plans)
    assert {len(plan) for plan in plans_of(9, 1, random.Random(1))} == {9}  # noqa: S311  # as above


@pytest.mark.slow
def test_hints_that_come_never_twice_or_late_lose_and_double_nothing(
    kind: str, new_url: Callable[[], str]
) -> None:
    report = deliveries(kind, new_url(), seed=7, share=0.25, shapes=SOME)
    assert report.injected > 0
    assert report.notes["deliveries that found nothing to do"] > 0
    assert report.clean, report


@pytest.mark.slow
def test_fifty_posts_of_one_form_at_the_same_time_are_one_answer(
    kind: str, new_url: Callable[[], str]
) -> None:
    report = simultaneous_posts(kind, new_url(), seed=7, rounds=1)
    assert report.points == 2 * (CLICKS + 1)
    assert report.clean, report
