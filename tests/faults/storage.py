"""A disk that is full, or that fails, at every write of a run on SQLite."""

from __future__ import annotations

import resource
import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.faults.crashes import Mutation, Stage
from tests.faults.report import Report
from tests.faults.shapes import SHAPES, Shape
from tests.faults.trouble import Trouble, campaign

PAGE_BYTES = 512
"""The smallest that SQLite knows: then nearly every write needs a page more."""

ENDLESS = 1_073_741_823
"""The most pages that SQLite allows."""

LONG = 8
"""More errors than an attempt is begun anew for, or a failure takes to be recorded."""


def is_write(statement: str) -> bool:
    """Whether a statement writes."""
    return statement.lstrip()[:6].upper() in {"INSERT", "UPDATE", "DELETE"}


class Full(Trouble):
    """SQLite may not use one page more: ``database or disk is full``."""

    def __init__(self, *, lasts: int) -> None:
        super().__init__(f"full for {lasts} errors", lasts=lasts)
        self._limited: list[sqlite3.Connection] = []

    def begin(self, raw: Any) -> bool:  # noqa: ARG002
        """Nothing more: the limit is each connection's own."""
        return True

    def go_on(self, raw: Any) -> None:
        """Let this connection use the pages that there are."""
        if raw not in self._limited:
            (pages,) = raw.execute("PRAGMA page_count").fetchone()
            raw.execute(f"PRAGMA max_page_count={pages}")
            self._limited.append(raw)

    def end(self) -> None:
        """Somebody made room."""
        for raw in self._limited:
            raw.execute(f"PRAGMA max_page_count={ENDLESS}")
        self._limited.clear()


class NoWrites(Trouble):
    """The system refuses to write, from the first byte on or after some: ``disk I/O error``.

    The limit on the size of a file (RLIMIT_FSIZE) fails a write as a full disk does, without the
    privileges that a small file system would need.
    """

    def __init__(self, database: Path, *, lasts: int, more: int | None) -> None:
        some = "no byte" if more is None else f"{more} more bytes"
        super().__init__(f"{some} for {lasts} errors", lasts=lasts)
        self._more = more
        self._log = Path(f"{database}-wal")
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def begin(self, raw: Any) -> bool:  # noqa: ARG002
        """Lower the limit."""
        size = self._log.stat().st_size if self._log.exists() else 0
        limit = 0 if self._more is None else size + self._more
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, self._before[1]))
        return True

    def end(self) -> None:
        """Put it back."""
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


class Failing(Trouble):
    """The driver reports an error, and did nothing."""

    def __init__(self, says: str, *, lasts: int) -> None:
        super().__init__(f"{says!r} for {lasts} errors", lasts=lasts)
        self._says = says

    def begin(self, raw: Any) -> bool:  # noqa: ARG002
        """Nothing more."""
        return True

    def go_on(self, raw: Any) -> None:  # noqa: ARG002
        """Report it."""
        raise sqlite3.OperationalError(self._says)


def storage(
    database: str,
    url: str,
    *,
    seed: int,
    share: float = 1.0,
    shapes: tuple[Shape, ...] = SHAPES,
    mutation: Mutation | None = None,
) -> Report:
    """Fill the disk, or let it fail, at each write and COMMIT of each run; then make it good again.

    Parameters:
        database: sqlite.
        url: An empty database.
        seed: Chooses the points, if not all are tried.
        share: How many of them, 1 for all.
        shapes: The shapes.
        mutation: A deliberate mistake.
    """
    report = Report("full and failing disk", database, seed)
    path = Path(str(sa.make_url(url).database))
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        connection.execute("CREATE TABLE first (id INTEGER)")
    connection.close()
    stage = Stage(url)

    def troubles(_stage: Stage) -> list[Trouble]:
        return [
            Full(lasts=1),
            Full(lasts=LONG),
            NoWrites(path, lasts=1, more=None),
            NoWrites(path, lasts=LONG, more=None),
            NoWrites(path, lasts=2, more=PAGE_BYTES + 100),
            Failing("disk I/O error", lasts=1),
            Failing("database or disk is full", lasts=2),
        ]

    campaign(report, stage, shapes, is_write, troubles, share, mutation)
    with sqlite3.connect(path) as connection:
        (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
    connection.close()
    report.notes["integrity_check"] = verdict
    if verdict != "ok":
        report.broken.append(f"PRAGMA integrity_check says {verdict}")
    return report
