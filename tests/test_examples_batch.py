"""The example `examples/batch`, run as people run it, and killed as nobody should."""

from __future__ import annotations

import importlib
import signal
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from flowroute.testing import assert_done, assert_path, inline_engine
from tests.engine.support import Shelf
from tests.processes import Process, Processes
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "batch"
FILES = 80

Start = Callable[..., Process]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files to read: the first and the last are the same, and so are two that are empty."""
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(1, FILES + 1):
        (folder / f"{number:03d} [x].txt").write_text(f"text {number % (FILES - 1)}")
    for number in (50, 60):
        (folder / f"{number:03d} [x].txt").write_text("")
    return folder


@pytest.fixture
def start(process: Processes, tmp_path: Path, folder: Path) -> Start:
    def start(*arguments: str) -> Process:
        program = EXAMPLE / "duplicates.py"
        environment = {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
        command: list[str | Path] = [sys.executable, program, folder, *arguments]
        return process(command, cwd=tmp_path, env=environment)

    return start


@pytest.fixture
def duplicates(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example as a module."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield importlib.import_module("duplicates")  # there only now
    del sys.modules["duplicates"]


def query(database: Path, statement: str, *values: object) -> list[Any]:
    """Rows of the example's database; none while there is no such table yet."""
    with closing(sqlite3.connect(database)) as connection, connection:
        try:
            return connection.execute(statement, values).fetchall()
        except sqlite3.OperationalError:
            return []


def wait_for_the_middle(database: Path) -> None:
    """Until some files have been read."""
    count = "SELECT count(*) FROM fingerprint"
    wait_until(
        lambda: database.exists() and query(database, count) > [(5,)], 30, what="files are read"
    )


def kill_in_the_middle(program: Process, database: Path) -> list[Any]:
    """SIGKILL the program once it has read some files; returns their fingerprints."""
    wait_for_the_middle(database)
    program.kill()
    fingerprints = query(database, "SELECT * FROM fingerprint ORDER BY id")
    assert 5 < len(fingerprints) < FILES
    return fingerprints


@pytest.mark.slow
def test_a_killed_script_goes_on_where_it_was_and_stores_each_file_exactly_once(
    start: Start, folder: Path, tmp_path: Path
) -> None:
    database = tmp_path / "duplicates.db"
    before = kill_in_the_middle(start(), database)
    ((run_id,),) = query(database, "SELECT id FROM flowroute_run")

    second = start()
    assert second.wait(60) == 0, second.output
    assert "Going on where the last start ended." in second.output
    assert f"{folder / '001 [x].txt'}\n  = {folder / f'{FILES:03d} [x].txt'}\n" in second.output
    assert f"{FILES} files, 0 of them unreadable, 1 of them there more than once." in second.output

    after = query(database, "SELECT * FROM fingerprint ORDER BY id")
    assert after[: len(before)] == before
    assert [row[2] for row in after] == sorted(str(path) for path in folder.iterdir())
    assert query(database, "SELECT id, state FROM flowroute_run") == [(run_id, "done")]
    # The survey, each file, the comparison and the end: no step was stored twice, none is missing.
    checkpoints = query(database, "SELECT seq FROM flowroute_checkpoint ORDER BY seq")
    assert [seq for (seq,) in checkpoints] == list(range(FILES + 3))


@pytest.mark.slow
def test_ctrl_c_ends_the_script_politely_and_the_next_start_goes_on(
    start: Start, tmp_path: Path
) -> None:
    first = start()
    wait_for_the_middle(tmp_path / "duplicates.db")
    first.send_signal(signal.SIGINT)
    assert first.wait(60) == 130, first.output
    assert "Stopped. The same command goes on from here." in first.output
    assert "Traceback" not in first.output
    second = start()
    assert second.wait(60) == 0, second.output
    assert "Going on where the last start ended." in second.output


def test_a_finished_folder_is_not_read_again_unless_asked_to(
    start: Start, folder: Path, tmp_path: Path
) -> None:
    database = tmp_path / "duplicates.db"
    for path in sorted(folder.iterdir())[9:-1]:
        path.unlink()
    outputs = []
    for arguments in [(), (), ("--again",)]:
        program = start(*arguments)
        assert program.wait(60) == 0, program.output
        outputs.append(program.output.splitlines()[-1])
    assert outputs == ["10 files, 0 of them unreadable, 1 of them there more than once."] * 3
    by_run = query(database, "SELECT run_id, count(*) FROM fingerprint GROUP BY run_id")
    assert [count for _, count in by_run] == [10, 10]
    assert stat.S_IMODE((tmp_path / "duplicates.key").stat().st_mode) == 0o600


@pytest.mark.slow
def test_a_failed_run_is_told_and_tried_again_by_the_next_start(
    start: Start, tmp_path: Path
) -> None:
    database = tmp_path / "duplicates.db"
    kill_in_the_middle(start(), database)
    (row,) = query(database, "SELECT * FROM found WHERE number = ?", FILES)
    query(database, "DELETE FROM found WHERE number = ?", FILES)
    second = start()
    assert second.wait(60) == 1, second.output
    assert "read: NoResultFound: " in second.output
    query(database, "INSERT INTO found VALUES (?, ?, ?)", *row)
    third = start()
    assert third.wait(60) == 0, third.output


def test_the_commands_look_at_the_example(
    start: Start, process: Processes, tmp_path: Path, folder: Path
) -> None:
    for path in folder.iterdir():
        path.unlink()
    program = start()
    assert program.wait(60) == 0, program.output
    listing = process(
        [sys.executable, "-m", "flowroute.cli", "list"],
        cwd=tmp_path,
        env={
            "PYTHONPATH": f"{ROOT}:{EXAMPLE}",
            "FLOWROUTE_ENGINE": "duplicates:open_engine",
        },
    )
    assert listing.wait(60) == 0, listing.output
    assert "Duplicates" in listing.output
    assert str(folder) in listing.output


def test_a_file_that_is_gone_when_it_is_to_be_read_is_counted(
    duplicates: ModuleType, tmp_path: Path
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for name in "abc":
        (folder / name).write_text("the same")
    shelf = Shelf()
    with inline_engine(tmp_path, executor=shelf) as engine:
        duplicates.Base.metadata.create_all(engine.database.engine)
        run = engine.start(duplicates.Duplicates(folder=folder).survey())
        shelf.work()
        (folder / "b").unlink()
        while shelf.hints:
            shelf.work()
        same = [[str(folder / "a"), str(folder / "c")]]
        assert_done(run, {"files": 3, "unreadable": 1, "same": same})


def test_an_empty_folder_has_nothing_to_compare(duplicates: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with inline_engine(tmp_path / "flows.db") as engine:
        duplicates.Base.metadata.create_all(engine.database.engine)
        run = engine.start(duplicates.Duplicates(folder=tmp_path / "empty").survey())
        assert_done(run, {"files": 0, "unreadable": 0, "same": []})
        assert_path(run, ["survey", "compare"])
