"""A sample of the disks that are full or fail: what `make faults` does in full."""

from __future__ import annotations

import pytest

from tests.faults.databases import databases
from tests.faults.shapes import SHAPES
from tests.faults.storage import storage

SOME = tuple(shape for shape in SHAPES if shape.name in ("inline", "worker", "page", "retry"))


@pytest.mark.slow
def test_a_disk_that_is_full_or_fails_loses_and_doubles_nothing() -> None:
    with databases("sqlite") as new_url:
        report = storage("sqlite", new_url(), seed=7, share=0.2, shapes=SOME)
    assert report.injected >= 20
    assert (report.lost, report.doubled, report.stuck, report.broken) == ([], [], [], [])
    assert report.notes["integrity_check"] == "ok"
