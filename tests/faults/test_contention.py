"""A sample of locks, conflicts and dropped connections: what `make faults` does in full."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.contention import contention
from tests.faults.shapes import SHAPES
from tests.faults.test_crashes import kind, new_url

__all__ = ["kind", "new_url"]

SOME = tuple(shape for shape in SHAPES if shape.name in ("worker", "rows"))


@pytest.mark.slow
def test_locks_conflicts_and_dropped_connections_lose_and_double_nothing(
    kind: str, new_url: Callable[[], str]
) -> None:
    report = contention(kind, new_url(), seed=7, share=0.1, shapes=SOME)
    assert report.injected >= 8
    assert report.notes["pauses"] > 0
    assert (report.lost, report.doubled, report.stuck, report.broken) == ([], [], [], [])
