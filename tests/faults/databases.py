"""Empty databases for campaigns, in memory where the system has a place for that.

A process that is killed loses nothing that the system has buffered, so a file system in memory is
as fair as a disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.services import PostgresServer

MEMORY = Path("/dev/shm")  # noqa: S108  # only if it is there


@contextmanager
def databases(kind: str) -> Iterator[Callable[[], str]]:
    """Give URLs of empty databases, which are gone afterwards.

    Parameters:
        kind: sqlite or postgresql.
    """
    if kind == "postgresql":
        server = PostgresServer()
        server.create()
        server.start()
        try:
            yield lambda: server.url(server.create_database())
        finally:
            server.remove()
        return
    place = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="flowroute-faults-", dir=place) as directory:
        numbers = iter(range(1, 1_000_000))
        yield lambda: f"sqlite:///{directory}/{next(numbers)}.db"
