"""How often is tried again what fails, and how much is said about it."""

from __future__ import annotations

import logging
from typing import Any, cast

import pytest

from flowroute.rq import pacing
from flowroute.rq.pacing import Outage, RecoveryBeat


class Clock:
    """Time that passes when it is told to, or when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Engine:
    """Its recovery fails as often as it is told to."""

    def __init__(self) -> None:
        self.recoveries = 0
        self.failing = False

    def recover(self) -> None:
        self.recoveries += 1
        if self.failing:
            raise ConnectionError(self.recoveries)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pacing, "time", clock)
    return clock


def beat(engine: Engine, seconds: float) -> RecoveryBeat:
    return RecoveryBeat(cast("Any", engine), seconds)


def test_recovery_runs_at_once_and_then_at_each_beat(clock: Clock) -> None:
    engine = Engine()
    recovery = beat(engine, 2.0)

    for _ in range(9):  # at 0, 1, … 8 seconds
        recovery.run_if_due()
        clock.now += 1

    assert engine.recoveries == 5


def test_recovery_that_fails_is_tried_less_and_less_often_and_not_given_up(clock: Clock) -> None:
    engine = Engine()
    engine.failing = True
    recovery = beat(engine, 1.0)

    tried: list[float] = []
    for _ in range(120):
        before = engine.recoveries
        recovery.run_if_due()
        if engine.recoveries > before:
            tried.append(clock.now - 1000)
        clock.now += 1

    assert tried[:7] == [0, 1, 3, 7, 12, 17, 22]


def test_recovery_that_fails_for_hours_is_still_tried(clock: Clock) -> None:
    engine = Engine()
    engine.failing = True
    recovery = beat(engine, 1.0)

    for _ in range(2_000):
        recovery.run_if_due()
        clock.now += 5

    assert engine.recoveries == 2_000


def test_recovery_that_fails_is_never_tried_more_often_than_its_beat(clock: Clock) -> None:
    engine = Engine()
    engine.failing = True
    recovery = beat(engine, 8.0)

    for _ in range(17):  # at 0, 1, … 16 seconds
        recovery.run_if_due()
        clock.now += 1

    assert engine.recoveries == 3


def test_the_first_failure_is_logged_with_its_traceback_and_the_end_of_them_too(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine()
    engine.failing = True
    recovery = beat(engine, 1.0)

    with caplog.at_level(logging.INFO, "flowroute.rq"):
        for _ in range(3):
            recovery.run_if_due()
            clock.now += 60
        engine.failing = False
        recovery.run_if_due()
        clock.now += 1
        recovery.run_if_due()

    assert [bool(each.exc_info) for each in caplog.records] == [True, False, False, False]
    assert caplog.messages[0] == "Recovery failed (ConnectionError: 1); the next try is in 1 s"
    assert caplog.messages[3] == "Recovery works again after 3 failures"
    assert engine.recoveries == 5  # and at its beat again


def test_an_outage_is_told_once_when_it_begins_and_once_when_it_ends(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage()
    with caplog.at_level(logging.INFO, "flowroute.rq"):
        outage.over()
        for _ in range(7):
            outage.pause(ConnectionError("no route"))
        outage.over()
        outage.over()

    assert clock.slept == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert caplog.messages == [
        "Redis is away (no route); the worker goes on when it is back",
        "Redis is back after 3.5 s",
    ]


def test_a_second_outage_is_told_again(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage()
    with caplog.at_level(logging.INFO, "flowroute.rq"):
        for _ in range(2):
            outage.pause(ConnectionError("no route"))
            outage.over()

    assert clock.slept == [0.05, 0.05]
    assert len(caplog.messages) == 4
