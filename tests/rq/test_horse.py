"""Waiting for a forked process, and the signals that pass it by."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flowroute.rq.horse import Horse, describe_end, outlive_signals
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    Fork: TypeAlias = Callable[[Callable[[], object]], Horse]


@pytest.fixture
def fork() -> Iterator[Fork]:
    """Run a function in a forked process; one that still lives after the test is killed."""
    pids: list[int] = []

    def start(function: Callable[[], object]) -> Horse:
        def work(_order: bytes) -> None:
            function()

        horse = Horse(lambda: None, work)
        pids.append(horse.pid)
        assert horse.give(b"an order")
        return horse

    yield start
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            continue  # it ended, and the test waited for it


def end_of(horse: Horse) -> int:
    """The exit code."""
    wait_until(lambda: horse.wait(0.1) is not None, 10, what="the process ended")
    code = horse.wait(0)
    assert code is not None
    return code


def descriptors() -> set[str]:
    return {each.name for each in Path("/proc/self/fd").iterdir()}


def blocked() -> None:
    time.sleep(60)


@pytest.mark.parametrize("code", [0, 1, 3])
def test_the_exit_code_is_found(fork: Fork, code: int) -> None:
    assert end_of(fork(lambda: os._exit(code))) == code


def test_the_signal_that_killed_it_is_found(fork: Fork) -> None:
    horse = fork(blocked)
    os.kill(horse.pid, signal.SIGKILL)

    assert end_of(horse) == -signal.SIGKILL


def test_the_wait_ends_as_soon_as_the_process_does(fork: Fork) -> None:
    horse = fork(lambda: time.sleep(0.1))
    began = time.monotonic()

    assert horse.wait(10) == 0

    assert time.monotonic() - began < 5


def test_the_wait_ends_when_its_time_is_over(fork: Fork) -> None:
    horse = fork(blocked)
    began = time.monotonic()

    assert horse.wait(0.05) is None

    assert time.monotonic() - began >= 0.05


def test_a_grandchild_that_lives_on_does_not_hide_the_end(fork: Fork) -> None:
    def leave_one_behind() -> None:
        if os.fork() == 0:
            blocked()

    horse = fork(leave_one_behind)

    assert end_of(horse) == 0
    os.killpg(horse.pid, signal.SIGKILL)  # it was there: this would raise


def test_a_process_that_closes_the_pipe_early_is_still_waited_for(fork: Fork) -> None:
    def close_all() -> None:
        os.closerange(3, 256)
        time.sleep(0.3)
        os._exit(7)

    horse = fork(close_all)

    assert end_of(horse) == 7


def test_no_descriptor_is_left_open(fork: Fork) -> None:
    before = descriptors()

    assert end_of(fork(lambda: None)) == 0
    horse_that("waits").dismiss()

    assert descriptors() <= before


# -- before there is a job -------------------------------------------------------------------------


def horse_that(does: str, tell: Path | None = None, orders: int = 1) -> Horse:
    """A process that waits for an order; it writes down what it did."""

    def prepare() -> None:
        if does == "fails to prepare":
            raise ConnectionError(does)
        if tell is not None:
            tell.write_text("prepared")

    def work(order: bytes) -> None:
        if does == "fails at work":
            raise LookupError(does)
        if does == "closes all":
            os.closerange(3, 256)
        assert tell is not None
        tell.write_text(f"{tell.read_text()}, did {order.decode()}")

    return Horse(prepare, work, orders)


def test_a_process_is_prepared_before_it_gets_its_order(tmp_path: Path) -> None:
    tell = tmp_path / "told"
    horse = horse_that("waits", tell)
    wait_until(lambda: tell.exists() and tell.read_text(), 10, what="it is prepared")
    assert tell.read_text() == "prepared"

    assert horse.give(b"this")

    assert end_of(horse) == 0
    assert tell.read_text() == "prepared, did this"


def test_a_process_follows_as_many_orders_as_it_was_made_for_and_ends(tmp_path: Path) -> None:
    before = descriptors()
    tell = tmp_path / "told"
    horse = horse_that("waits", tell, orders=2)

    assert horse.give(b"this")
    assert horse.wait(10) == 0
    assert horse.takes_more
    assert state_of(horse.pid) != "Z"
    assert horse.give(b"that")
    assert not horse.takes_more

    assert end_of(horse) == 0
    assert tell.read_text() == "prepared, did this, did that"
    assert descriptors() <= before


def test_a_process_that_dies_between_two_orders_takes_no_other(tmp_path: Path) -> None:
    before = descriptors()
    horse = horse_that("waits", tmp_path / "told", orders=2)
    assert horse.give(b"this")
    assert horse.wait(10) == 0
    os.kill(horse.pid, signal.SIGKILL)
    wait_until(lambda: state_of(horse.pid) == "Z", 10, what="it ended")

    assert not horse.give(b"that")

    assert descriptors() <= before


def test_a_process_that_can_not_say_that_it_is_done_ends_well(tmp_path: Path) -> None:
    horse = horse_that("closes all", tmp_path / "told", orders=3)
    assert horse.give(b"this")

    assert end_of(horse) == 0

    assert not horse.takes_more


def test_a_process_that_dies_of_an_order_takes_no_more(tmp_path: Path) -> None:
    before = descriptors()
    horse = horse_that("fails at work", tmp_path / "told", orders=3)
    assert horse.give(b"this")

    assert end_of(horse) == 1

    assert not horse.takes_more
    assert descriptors() <= before


def test_a_process_that_waits_for_another_order_can_be_dismissed(tmp_path: Path) -> None:
    before = descriptors()
    horse = horse_that("waits", tmp_path / "told", orders=2)
    assert horse.give(b"this")
    assert horse.wait(10) == 0

    horse.dismiss()

    assert descriptors() <= before
    with pytest.raises(ChildProcessError):  # it was waited for
        os.waitpid(horse.pid, os.WNOHANG)


def test_a_process_whose_worker_is_gone_ends_without_an_order(tmp_path: Path) -> None:
    tell = tmp_path / "told"
    horse = horse_that("waits", tell)

    os.close(horse._orders)  # noqa: SLF001  # as the system does when the worker is killed

    assert end_of(horse) == 0
    assert tell.read_text() == "prepared"


def test_an_order_for_a_process_that_died_is_not_taken() -> None:
    before = descriptors()
    horse = horse_that("fails to prepare")
    wait_until(lambda: state_of(horse.pid) == "Z", 10, what="it ended")

    assert not horse.give(b"this")

    assert descriptors() <= before
    with pytest.raises(ChildProcessError):  # it was waited for
        os.waitpid(horse.pid, os.WNOHANG)


def test_what_a_process_raises_makes_its_exit_code_one(fork: Fork) -> None:
    def fail() -> None:
        raise LookupError

    assert end_of(fork(fail)) == 1


def test_a_fork_that_the_system_refuses_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = descriptors()

    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)

    with pytest.raises(BlockingIOError):
        horse_that("waits")

    assert descriptors() <= before


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_an_end_is_put_into_words() -> None:
    assert describe_end(-signal.SIGKILL) == "it was killed by SIGKILL"
    assert describe_end(3) == "it ended with exit code 3; its log says why"


# -- signals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_for_the_worker_pass_its_job_by(fork: Fork, number: signal.Signals) -> None:
    def survive() -> None:
        outlive_signals()
        signal.raise_signal(number)
        os._exit(5)

    assert end_of(fork(survive)) == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_a_job_forks_dies_of_them(fork: Fork, number: signal.Signals) -> None:
    def start_another() -> None:
        outlive_signals()
        context = multiprocessing.get_context("fork")
        child = context.Process(target=blocked)
        child.start()
        assert child.pid is not None
        os.kill(child.pid, number)
        child.join(10)
        os._exit(5 if child.exitcode == -number else 6)

    assert end_of(fork(start_another)) == 5


def test_a_program_that_a_job_starts_dies_of_them(fork: Fork) -> None:
    def start_another() -> None:
        outlive_signals()
        program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        program.terminate()
        os._exit(5 if program.wait(10) == -signal.SIGTERM else 6)

    assert end_of(fork(start_another)) == 5
