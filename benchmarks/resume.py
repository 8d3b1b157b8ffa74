"""How long it takes to enter the next step, with few and with many steps behind."""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks.figure import Figure
from benchmarks.laboratory import Laboratory, installed
from benchmarks.measuring import Measures, Result, Samples, at_most

BAR = at_most(1.2)
#: History is written without waiting for the disk: it is not what is measured.
FAST = "OFF"


def measure(lab: Laboratory) -> Measures:
    """After a restart and in a warm process; the peers after a restart."""
    counts: tuple[int, ...] = lab.choose((10, 100, 1000, 10000), (10, 50))
    for kind in lab.choose(("sqlite", "postgresql"), ("sqlite",)):
        yield from own(lab, kind, counts)
    peers = {
        "DBOS": ("dbos", "with_dbos:resuming", "url"),
        "LangGraph": ("langgraph", "with_langgraph:resuming", "path"),
    }
    for name, (package, reference, argument) in peers.items():
        if installed([package]):
            yield from peer(lab, name, (reference, argument), counts)


def own(lab: Laboratory, kind: str, counts: tuple[int, ...]) -> Measures:
    """flowroute: each restart in a process of its own, the counts in turn."""
    repetitions = lab.choose(9, 1)
    url = lab.database_url(kind)
    words = "SQLite" if kind == "sqlite" else "PostgreSQL"
    with lab.contestant("resuming:resuming", url=url, synchronous=FAST) as contestant:
        runs = {count: contestant.ask("prepare", steps=count) for count in counts}
    restarted: dict[str, list[float]] = {str(count): [] for count in counts}
    for _ in range(repetitions):
        for count in counts:
            with lab.contestant("resuming:resuming", url=url, synchronous="FULL") as contestant:
                restarted[str(count)].append(contestant.ask("restart", **runs[count]))
    yield compared(f"{words}, after a restart", Samples(restarted), counts, repetitions)
    times = lab.choose(15, 3)
    warm: dict[str, list[float]] = {str(count): [] for count in counts}
    with lab.contestant("resuming:resuming", url=url, synchronous="FULL") as contestant:
        for each in runs.values():
            contestant.ask("again", times=3, **each)
        for _ in range(repetitions):
            for count in counts:
                took = contestant.ask("again", times=times, **runs[count])
                warm[str(count)].append(statistics.median(took))
    yield compared(f"{words}, in a warm process", Samples(warm), counts, repetitions)


def compared(setting: str, samples: Samples, counts: tuple[int, ...], repetitions: int) -> Result:
    """The ratio of the most steps to the fewest."""
    most, fewest = counts[-1], counts[0]
    return Result(
        FIGURE.name,
        f"{setting}, {most} steps / {fewest} steps",
        samples.ratio(str(most), str(fewest)),
        "ratio",
        BAR,
        {f"{count} steps, ms": value * 1000 for count, value in samples.medians().items()},
        repetitions,
    )


def peer(lab: Laboratory, name: str, how: tuple[str, str], counts: tuple[int, ...]) -> Measures:
    """A peer on SQLite: each restart from a copy of the file that the crash left."""
    reference, argument = how
    repetitions = lab.choose(3, 1)
    files = {count: lab.path(".db") for count in counts}
    for count, file in files.items():
        address: dict[str, Any] = {argument: _address(argument, file), "synchronous": FAST}
        with lab.contestant(reference, **address) as contestant:
            contestant.ask("prepare", steps=count)
            contestant.kill()
        _settle(file)
    took: dict[str, list[float]] = {str(count): [] for count in counts}
    for _ in range(repetitions):
        for count, file in files.items():
            copy = Path(shutil.copy(file, lab.path(".db")))
            address = {argument: _address(argument, copy), "synchronous": "FULL"}
            with lab.contestant(reference, **address) as contestant:
                took[str(count)].append(contestant.ask("restart"))
                contestant.kill()
            for each in copy.parent.glob(f"{copy.name}*"):
                each.unlink()
    result = compared(f"{name} on SQLite, after a restart", Samples(took), counts, repetitions)
    result.bar = None  # it is beside, and not what is judged
    yield result


def _address(argument: str, file: Path) -> str:
    return f"sqlite:///{file}" if argument == "url" else str(file)


def _settle(file: Path) -> None:
    """Bring what lies in the write-ahead log into the file, so that the file can be copied."""
    engine = sa.create_engine(f"sqlite:///{file}")
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()


FIGURE = Figure("resume", "The next step after a restart, with few and many steps behind", measure)
