"""A small part of the campaign of odd checkpoints, and that it would notice what they may do."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from flowroute.engine.codec import Codec
from tests.engine.conftest import make_tables
from tests.faults import odd, oddities


def test_odd_checkpoints_of_our_own_block_their_runs_and_harm_nothing(database_url: str) -> None:
    make_tables(database_url)
    report = odd.campaign(database_url, seed=20, odd=72)
    assert report.clean, report.broken
    assert report.points == 72
    assert set(report.notes["odd"]) == {make.__name__ for make in oddities.KINDS}
    assert report.notes["became"]["blocked"] > 30


@pytest.mark.parametrize("fault", ["dies", "raises", "swallows"])
def test_the_campaign_notices_a_reader_that(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    make_tables(sqlite_url)
    tests = os.getpid()

    def decode(*_: Any, **__: Any) -> Any:
        if fault == "dies" and os.getpid() != tests:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "raises":
            raise KeyError("result")
        return "work", {"size": 9}, {"value": 7, "lines": [3]}

    monkeypatch.setattr(Codec, "decode", decode)
    monkeypatch.setattr(odd, "KINDS", (oddities.wrong_shape,))
    report = odd.campaign(sqlite_url, seed=20, odd=4)
    assert not report.clean
    expected = {"dies": "ended its process with -9", "raises": "KeyError", "swallows": "done, None"}
    assert expected[fault] in report.broken[0]
