"""Find the files of a folder that are the same, in a run that may be killed at any moment.

    python duplicates.py ~/Pictures

Every file is one visit to a worker step. Stop the program, kill it, switch the machine off: the
same command goes on with the file that it was at, and every fingerprint is stored exactly once.
"""

from __future__ import annotations

import argparse
import hashlib
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sqlalchemy import func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flowroute import Continuation, Engine, Flow, done, step, worker_step
from flowroute.engine.ports import Move, Notifier

DATABASE = Path("duplicates.db")


class Base(DeclarativeBase):
    """The program's own tables. They live beside flowroute's, so that one commit covers both."""


class Found(Base):
    """A file to read. As a list in the flow's state, they would be stored again at each step."""

    __tablename__ = "found"

    run_id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[str]


class Fingerprint(Base):
    """A file that was read. No constraint keeps a path from being there twice: none is needed."""

    __tablename__ = "fingerprint"

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(index=True)
    path: Mapped[str]
    size: Mapped[int]
    digest: Mapped[str | None]  # None: the file could not be read


class Summary(TypedDict):
    """What a run ends with."""

    files: int
    unreadable: int
    same: list[list[str]]


class Duplicates(Flow):
    """Fingerprint every file of a folder, then see which fingerprints are the same."""

    folder: Path

    @worker_step(start=True)
    def survey(self) -> Continuation[Summary]:
        """Write down which files there are: the folder may change, the list does not."""
        paths = sorted(str(path) for path in self.folder.rglob("*") if path.is_file())
        for number, path in enumerate(paths, start=1):
            self.session.add(Found(run_id=self.run.id, number=number, path=path))
        return self.read(1, len(paths)) if paths else self.compare()

    @worker_step
    def read(self, number: int, total: int) -> Continuation[Summary]:
        """Fingerprint one file, and come back for the next."""
        path = self.session.get_one(Found, (self.run.id, number)).path
        self.run.progress(number - 1, total, Path(path).name)
        size, digest = 0, None
        # A file that is gone by now, or not ours to read, is a part of the result.
        with suppress(OSError), Path(path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
        # Stored together with the checkpoint that says `number + 1`: both, or neither.
        self.session.add(Fingerprint(run_id=self.run.id, path=path, size=size, digest=digest))
        return self.read(number + 1, total) if number < total else self.compare()

    @step
    def compare(self) -> Continuation[Summary]:
        """Group the files by fingerprint; empty ones are no news."""
        mine = Fingerprint.run_id == self.run.id
        count = select(func.count(), func.count(Fingerprint.digest)).where(mine)
        files, readable = self.session.execute(count).one()
        groups: dict[str | None, list[str]] = {}
        for file in self.session.scalars(select(Fingerprint).where(mine, Fingerprint.size > 0)):
            groups.setdefault(file.digest, []).append(file.path)
        same = [paths for paths in groups.values() if len(paths) > 1]
        return done(Summary(files=files, unreadable=files - readable, same=same))


class Bar(Progress):
    """A progress bar in the terminal that is a notifier: the engine tells it of every move."""

    def __init__(self) -> None:
        name = TextColumn("{task.description}", markup=False)  # a file's name may look like markup
        super().__init__(MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), name)
        self.files = self.add_task("", visible=False)

    def moved(self, move: Move) -> None:
        """Show what `run.progress` says at this moment."""
        if progress := move.progress:
            self.update(
                self.files,
                completed=progress["done"],
                total=progress["total"],
                description=progress["message"],
                visible=True,
            )
        elif move.state == "done":
            self.update(self.files, completed=self.tasks[0].total, description="")


def open_engine(database: Path = DATABASE, notifier: Notifier | None = None) -> Engine:
    """The engine on an SQLite file, with all tables. Its worker steps run in threads."""
    engine = Engine(
        f"sqlite:///{database}",
        notifier=notifier,
        secret_keys=[secret_beside(database)],
        lease_seconds=3,  # how long a killed program keeps its run from the next one
    )
    engine.create_all()
    Base.metadata.create_all(engine.database.engine)
    return engine


def secret_beside(database: Path) -> str:
    """The key that checkpoints are signed with: made once, readable by its owner only."""
    file = database.with_suffix(".key")
    with suppress(FileExistsError):
        file.touch(mode=0o600, exist_ok=False)
        file.write_text(secrets.token_hex(32))
    return file.read_text()


def main() -> int:
    """Start a run for the folder, or go on with the one that there is."""
    parser = argparse.ArgumentParser(description="Find the files of a folder that are the same.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--database", type=Path, default=DATABASE, help="default: %(default)s")
    parser.add_argument("--again", action="store_true", help="forget the folder's run, start anew")
    options = parser.parse_args()
    folder: Path = options.folder.resolve(strict=True)

    bar = Bar()
    with open_engine(options.database, bar) as engine:
        # The key makes the run this folder's only one: found again, whatever ended the program.
        held = engine.find(Duplicates, str(folder))
        if held is not None and options.again:
            held.reset()
        elif held is not None and held.state == "failed":
            held.retry()
        elif held is not None and not held.at_rest:
            print("Going on where the last start ended.")
        run = engine.start(Duplicates(folder=folder).survey(), key=str(folder))
        try:
            with bar:
                run.wait()
        except KeyboardInterrupt:
            print("Stopped. The same command goes on from here.")
            return 130
        if run.error is not None:
            print(f"{run.error.step}: {run.error.type}: {run.error.message}")
            return 1
        show(run.result)
    return 0


def show(summary: Summary) -> None:
    """Print what was found."""
    for paths in summary["same"]:
        print(*paths, sep="\n  = ")
    print(
        f"{summary['files']} files, {summary['unreadable']} of them unreadable, "
        f"{len(summary['same'])} of them there more than once."
    )


if __name__ == "__main__":
    raise SystemExit(main())
