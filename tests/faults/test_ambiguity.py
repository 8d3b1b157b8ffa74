"""A sample of the COMMITs that report an error: what `make faults` does in full."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.ambiguity import ambiguous_commits
from tests.faults.shapes import SHAPES
from tests.faults.test_crashes import assert_clean, kind, new_url

__all__ = ["kind", "new_url"]

SOME = tuple(
    shape for shape in SHAPES if shape.name in ("inline", "retry", "page", "cancel", "sub-flow")
)


@pytest.mark.slow
def test_a_commit_that_reports_an_error_loses_and_doubles_nothing(
    kind: str, new_url: Callable[[], str]
) -> None:
    report = ambiguous_commits(kind, new_url(), seed=7, share=0.1, shapes=SOME)
    assert_clean(report)
    assert report.broken == []


@pytest.mark.slow
def test_two_commits_of_a_run_that_report_errors_lose_and_double_nothing(
    kind: str, new_url: Callable[[], str]
) -> None:
    report = ambiguous_commits(kind, new_url(), seed=7, share=0.0, pairs=3, shapes=SOME)
    assert report.injected > report.points > 0
    assert (report.lost, report.doubled, report.stuck, report.broken) == ([], [], [], [])
