"""`flowroute demo --check` as a command: what it says, what it ends with, what it leaves behind."""

from __future__ import annotations

import sys

import pytest

from tests.processes import Processes
from tests.waiting import free_port, wait_until

COMMAND = [sys.executable, "-m", "flowroute.cli", "demo"]


@pytest.mark.slow
def test_the_check_says_what_held_ends_with_0_and_leaves_no_process(process: Processes) -> None:
    check = process([*COMMAND, "--check"])
    assert check.wait(timeout_seconds=110) == 0, check.output
    assert check.output.count("ok  ") == 7
    assert "FAILED" not in check.output
    assert check.descendants() == []


def test_the_demo_prints_its_address_and_ctrl_c_stops_everything(
    process: Processes, tmp_path: object
) -> None:
    demo = process([*COMMAND, "--port", str(free_port()), "--home", str(tmp_path)])
    demo.wait_for_line(r"The shop is open: http://127\.0\.0\.1:\d+", timeout_seconds=60)
    assert demo.descendants()
    demo.interrupt()
    assert demo.wait(timeout_seconds=30) == 0, demo.output
    wait_until(lambda: demo.descendants() == [])
