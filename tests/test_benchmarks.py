"""The benchmarks measure what they say; how fast anything is, is no matter of a test."""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import __main__ as command
from benchmarks import page, results
from benchmarks.contest import Contestant, ContestantFailed
from benchmarks.figure import Figure
from benchmarks.measuring import (
    Result,
    Samples,
    at_least,
    at_most,
    exactly,
    interleave,
    percentile,
    rounded,
)
from benchmarks.registry import FIGURES
from benchmarks.relay import Relay
from tests.conftest import lacking
from tests.services import ServiceMissingError

if TYPE_CHECKING:
    from benchmarks.laboratory import Laboratory
    from benchmarks.measuring import Measures

ROOT = Path(__file__).parents[1]
NAMES = [figure.name for figure in FIGURES]

#: What a result says, whichever figure it is of.
KEYS = {
    *("figure", "setting", "value", "unit", "bar", "holds", "peers", "repetitions", "conditions"),
}


def assert_well_formed(result: dict[str, Any]) -> None:
    assert result.keys() == KEYS
    assert isinstance(result["value"], (int, float))
    assert result["repetitions"] >= 1
    assert all(isinstance(value, (int, float)) for value in result["peers"].values())
    assert result["conditions"].keys() >= {"cpu", "cores", "python", "versions", "commit"}
    if result["bar"] is None:
        assert result["holds"] is None
        return
    sign, limit = result["bar"].split()
    bar = {">=": at_least, "<=": at_most, "=": exactly}[sign](float(limit))
    assert result["holds"] is bar.holds(result["value"])


# -- the figures -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], str]:
    """Every figure, measured by the command in seconds: the results, and what it printed."""
    output = tmp_path_factory.mktemp("benchmarks") / "results.json"
    outcome = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--output", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if ServiceMissingError.__name__ in outcome.stdout:
        lacking(ServiceMissingError(f"not all can be measured:\n{outcome.stdout}"))
    return results.read(output), outcome.stdout + outcome.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)  # the first of them waits for all
@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_measured_also_where_no_peer_is_installed(
    name: str, measured: tuple[list[dict[str, Any]], str]
) -> None:
    found, printed = measured
    mine = [each for each in found if each["figure"] == name]
    assert mine, printed
    for result in mine:
        assert_well_formed(result)


def test_the_committed_results_are_of_every_figure() -> None:
    stored = results.read()
    assert {each["figure"] for each in stored} == set(NAMES)
    for result in stored:
        assert_well_formed(result)


def test_the_pages_show_the_committed_results() -> None:
    before = json.loads(page.BEFORE.read_text(encoding="utf-8"))
    shown: set[str] = set()
    for path in page.PAGES:
        text = path.read_text(encoding="utf-8")
        assert page.drawn(text, results.read(), before) == text
        shown |= {name for _, name, _ in page.BLOCK.findall(text)}
    assert shown >= set(NAMES)


def test_a_result_that_changed_changes_the_page() -> None:
    stored = [each for each in results.read() if each["figure"] == "transitions"]
    stored[0] |= {"value": 123.0, "holds": False}
    text = page.PAGES[0].read_text(encoding="utf-8")
    drawn = page.drawn(text, stored, [])
    assert f"| {stored[0]['setting']} | 123" in drawn
    assert "**missed**" in drawn


# -- the command -----------------------------------------------------------------------------------


def breaks(_lab: Laboratory) -> Measures:
    yield Result("breaking", "before it breaks", 1, "ratio")
    raise RuntimeError("the disk is full")


def works(_lab: Laboratory) -> Measures:
    yield Result("working", "a bar that is missed", 0.5, "ratio", at_least(1), {"peer, ms": 2.0})


def test_a_figure_that_can_not_be_measured_is_reported_and_keeps_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    figures = [Figure("breaking", "breaks", breaks), Figure("working", "works", works)]
    monkeypatch.setattr(command, "FIGURES", figures)
    output = tmp_path / "results.json"
    assert command.measure_all(figures, quick=True, output=output) == 1
    printed = capsys.readouterr().out
    assert "FAILED breaking" in printed
    assert "the disk is full" in printed
    assert [each["figure"] for each in json.loads(output.read_text())] == ["working"]


def test_a_missed_bar_is_reported_and_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    figures = [Figure("working", "works", works)]
    monkeypatch.setattr(command, "FIGURES", figures)
    output = tmp_path / "results.json"
    assert command.measure_all(figures, quick=True, output=output) == 0
    assert "MISSED a bar that is missed: 0.5 (bar >= 1)" in capsys.readouterr().out
    assert json.loads(output.read_text())[0]["holds"] is False


def test_measuring_one_figure_leaves_the_results_of_the_others(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"figure": "a", "value": 1}, {"figure": "b", "value": 1}]))
    results.store([{"figure": "b", "value": 2}], ["b", "a"], path)
    assert results.read(path) == [{"figure": "b", "value": 2}, {"figure": "a", "value": 1}]


def test_results_of_a_figure_that_is_no_more_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"figure": "gone", "value": 1}]))
    results.store([{"figure": "a", "value": 2}], ["a"], path)
    assert results.read(path) == [{"figure": "a", "value": 2}]


# -- measuring -------------------------------------------------------------------------------------


def test_sides_are_measured_in_turn_and_each_first_as_often() -> None:
    order: list[str] = []
    numbers = itertools.count(1)

    def side(name: str) -> float:
        order.append(name)
        return float(next(numbers))

    samples = interleave({"a": lambda: side("a"), "b": lambda: side("b")}, 2)
    assert "".join(order) == "ab" + "ab" + "ba"
    assert samples.median("a") == (3 + 6) / 2


def test_a_ratio_is_the_median_of_those_within_a_repetition() -> None:
    # In the second repetition the machine was ten times slower, for both.
    samples = Samples({"one": [2.0, 20.0, 2.0], "other": [1.0, 10.0, 4.0]})
    assert samples.ratio("one", "other") == 2.0


@pytest.mark.parametrize(
    ("bar", "reached", "missed"),
    [(at_least(0.75), 0.75, 0.7499), (at_most(1.2), 1.2, 1.201), (exactly(1), 1, 2)],
)
def test_a_bar_is_reached_at_its_limit(bar: Any, reached: float, missed: float) -> None:
    assert bar.holds(reached)
    assert not bar.holds(missed)


def test_the_value_that_is_judged_is_the_one_that_is_printed() -> None:
    result = Result("figure", "setting", 1.200049, "ratio", at_most(1.2))
    assert result.as_json()["value"] == 1.2
    assert result.holds


def test_numbers_keep_four_digits() -> None:
    assert [rounded(value) for value in (123456.0, 0.00123456, 0.0)] == [123500.0, 0.001235, 0.0]


def test_a_percentile_is_one_of_the_values() -> None:
    assert [percentile([4.0, 1.0, 3.0, 2.0], percent) for percent in (50, 95, 100)] == [2, 4, 4]


def test_a_contestant_that_raises_says_why(tmp_path: Path) -> None:
    with (
        Contestant("benchmarks.peers.codecs:codecs", tmp_path / "log") as contestant,
        pytest.raises(ContestantFailed, match="no-such-codec"),
    ):
        contestant.ask("both_ways", name="no-such-codec", count=1)


def test_a_contestant_that_died_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with Contestant("benchmarks.peers.codecs:codecs", tmp_path / "log") as contestant:
        contestant.kill()
        with pytest.raises((ContestantFailed, BrokenPipeError)):
            contestant.ask("size")


def test_the_relay_counts_questions_that_follow_an_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            client, _ = server.accept()
            with client:
                while data := client.recv(100):
                    client.sendall(data)

        threading.Thread(target=answer, daemon=True).start()
        with Relay(server.getsockname()[1]) as relay:
            with socket.create_connection(("127.0.0.1", relay.port)) as client:
                for number in range(3):
                    client.sendall(b"question")
                    assert client.recv(100) == b"question", number
            assert relay.round_trips == 3
