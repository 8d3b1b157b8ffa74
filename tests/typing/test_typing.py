"""mypy --strict and pyright strict accept right uses of flowroute and flag each wrong line."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

#: How a line of mistakes.py is marked; the reason is for people.
MARK = re.compile(r"  # E: (\S.*)$")


class Flagged(NamedTuple):
    """A line that a type checker complained of, and its first complaint."""

    file: str
    line: int
    message: str


def write_uses(directory: Path) -> None:
    """Copy the two files, the mistakes without the line that hides them from type checkers."""
    (directory / "correct.py").write_text((HERE / "correct.py").read_text())
    shield, *rest = (HERE / "mistakes.py").read_text().splitlines(keepends=True)
    assert shield == "# type: ignore\n"
    (directory / "mistakes.py").write_text("\n" + "".join(rest))


def run_mypy(directory: Path) -> list[Flagged]:
    """Run mypy --strict, without the project's settings."""
    command = [sys.executable, "-m", "mypy", "--config-file=", "--strict", "--no-error-summary"]
    done = subprocess.run(
        [*command, "correct.py", "mistakes.py"],
        cwd=directory,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr  # 2: it did not come to check anything
    found = re.findall(r"^(\w+\.py):(\d+): error: (.*)$", done.stdout, re.MULTILINE)
    return [Flagged(file, int(line), message) for file, line, message in found]


def run_pyright(directory: Path) -> list[Flagged]:
    """Run pyright in its strict mode, without the project's settings."""
    settings = {"include": ["."], "typeCheckingMode": "strict", "extraPaths": [str(ROOT)]}
    (directory / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return [
        Flagged(Path(each["file"]).name, each["range"]["start"]["line"] + 1, each["message"])
        for each in json.loads(done.stdout)["generalDiagnostics"]
    ]


CHECKERS = {"mypy": run_mypy, "pyright": run_pyright}


@pytest.fixture(scope="module", params=CHECKERS)
def flagged(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[Flagged]:
    """What one of the type checkers says of both files."""
    directory = tmp_path_factory.mktemp(request.param)
    write_uses(directory)
    return CHECKERS[request.param](directory)


def marked() -> dict[int, str]:
    """The lines of mistakes.py that are marked, and why."""
    lines = enumerate((HERE / "mistakes.py").read_text().splitlines(), 1)
    return {number: found[1] for number, line in lines if (found := MARK.search(line))}


def test_right_uses_raise_no_alarm(flagged: list[Flagged]) -> None:
    assert [each for each in flagged if each.file == "correct.py"] == []


def test_each_marked_mistake_is_flagged(flagged: list[Flagged]) -> None:
    lines = {each.line for each in flagged if each.file == "mistakes.py"}
    missed = {line: why for line, why in marked().items() if line not in lines}
    assert missed == {}


def test_nothing_but_the_marked_mistakes_is_flagged(flagged: list[Flagged]) -> None:
    marks = marked()
    mistakes = [each for each in flagged if each.file == "mistakes.py"]
    assert [each for each in mistakes if each.line not in marks] == []


def test_a_mark_says_why_and_there_are_many() -> None:
    text = (HERE / "mistakes.py").read_text()
    assert len(marked()) == text.count("# E:") - 1  # one more in the docstring
    assert len(marked()) >= 70


def test_what_type_checkers_accept_also_passes_the_checks_of_a_flow() -> None:
    module = importlib.import_module("tests.typing.correct")
    assert [node.name for node in module.Checkout.graph.order()][:2] == ["reserve", "charge"]
