"""Real processes: one is killed or frozen, and another finishes what it began."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from flowroute import Engine
from tests.engine.conftest import MakeEngine
from tests.engine.journey import Journey
from tests.engine.support import notes
from tests.processes import Process, Processes

ROOT = Path(__file__).parents[2]


@pytest.fixture
def engine(make_engine: MakeEngine) -> Engine:
    """An engine of the test's own process, to look at the database."""
    return make_engine()


@pytest.fixture
def travel(url: str, tmp_path: Path, process: Processes) -> Travel:
    """Starts processes on the test's database."""
    return Travel(url, tmp_path, process)


class Travel:
    """Processes that run `tests.engine.journey`."""

    def __init__(self, url: str, directory: Path, start: Processes) -> None:
        self._command = [sys.executable, "-m", "tests.engine.journey", url, str(directory)]
        self._go = directory / "go"
        self._start = start

    def start(self) -> Process:
        """One more process."""
        return self._start(self._command, cwd=ROOT)

    def go(self) -> None:
        """Let the step in the middle go on."""
        self._go.touch()


def test_another_process_finishes_what_a_killed_one_began(travel: Travel, engine: Engine) -> None:
    first = travel.start()
    first.wait_for_line("travelling, attempt 1")
    first.kill()
    second = travel.start()
    second.wait_for_line("travelling, attempt 2", timeout_seconds=10)
    second.kill()
    travel.go()
    third = travel.start()
    third.wait_for_line("travelling, attempt 3", timeout_seconds=10)
    third.wait_for_line("result arrived")
    assert notes(engine) == ["left", "travelled at attempt 3", "arrived"]
    [run] = engine.runs(flow=Journey)
    assert [(c.seq, c.step, c.attempt) for c in run.checkpoints] == [
        (0, "leave", 1),
        (1, "travel", 3),
        (2, "arrive", 1),
        (3, None, None),
    ]


def test_a_process_that_was_frozen_past_its_lease_stores_nothing_when_it_wakes(
    travel: Travel, engine: Engine
) -> None:
    first = travel.start()
    first.wait_for_line("travelling, attempt 1")
    first.send_signal(signal.SIGSTOP)
    second = travel.start()
    second.wait_for_line("travelling, attempt 2", timeout_seconds=10)
    travel.go()
    second.wait_for_line("result arrived")
    first.send_signal(signal.SIGCONT)
    first.wait_for_line("result arrived")  # it finds the result of the other
    assert notes(engine) == ["left", "travelled at attempt 2", "arrived"]
    [run] = engine.runs(flow=Journey)
    assert [c.attempt for c in run.checkpoints] == [1, 2, 1, None]


def test_processes_that_start_the_same_journey_at_once_make_it_once(
    travel: Travel, engine: Engine
) -> None:
    travel.go()
    for started in [travel.start() for _ in range(3)]:
        started.wait_for_line("result arrived", timeout_seconds=30)
    assert notes(engine) == ["left", "travelled at attempt 1", "arrived"]
    assert len(engine.runs()) == 1
