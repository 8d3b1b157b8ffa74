"""Deliberate mistakes about errors, hints and forms, each of which a campaign must notice."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from flowroute import Engine
from flowroute.engine import dispatcher, schema
from flowroute.engine.prepared import Prepared
from flowroute.engine.schema import run_table
from flowroute.engine.turn import Caller, Outcome, Turn, Upcoming
from flowroute.engine.work import Work


def taken_for_failed(engine: Engine) -> None:
    """A COMMIT that reported an error is taken for failed: the step is run again, from the row."""
    whole: Any = engine.dispatcher
    failures, advances = whole._failures, whole._advances  # noqa: SLF001
    store = advances.store
    called: dict[str, Upcoming] = {}

    def storing(work: Work, turn: Turn, upcoming: Upcoming, *rest: Any) -> Any:
        called[turn.run_id] = upcoming
        return store(work, turn, upcoming, *rest)

    def again(_work: Work, turn: Turn) -> Upcoming:
        record = engine.lookup.read(turn.run_id)
        turn.seq, turn.epoch, turn.state = record.seq, record.epoch, record.state
        return called[turn.run_id]

    def unlooked(_turn: Turn, _seq: int) -> AbstractContextManager[None]:
        return nullcontext()

    advances.store, failures.certain, failures.reload = storing, unlooked, again
    module: Any = dispatcher
    module.is_transient = lambda error: isinstance(error, DBAPIError)


def taken_for_stored(engine: Engine) -> None:
    """A COMMIT that reported an error is taken for one that happened, without a look."""
    whole: Any = engine.dispatcher

    @contextmanager
    def trusting(_turn: Turn, _seq: int) -> Generator[None]:
        try:
            yield
        except DBAPIError:
            return

    whole._failures.certain = trusting  # noqa: SLF001


def hint_believed(engine: Engine) -> None:
    """A hint says where a run is, not the row: a late one takes the run back."""
    advance = engine.advance

    def believing(run_id: str, seq: int, timeout_seconds: float | None = None) -> bool:
        later = (run_table.c.id == run_id) & (run_table.c.seq > seq)
        back = {
            "seq": seq,
            "state": schema.WAITING,
            "waiting_for": schema.FOR_WORKER,
            **dict.fromkeys(("finished_at", "lease_owner", "lease_until", "deadline_at")),
        }
        with engine.database.engine.begin() as connection:
            connection.execute(sa.update(run_table).where(later).values(back))
        return advance(run_id, seq, timeout_seconds)

    engine.advance = believing  # type: ignore[method-assign]


def look_before_claims(engine: Engine) -> None:
    """Not a mistake yet: of two at the same time, both have read the run before either claims."""
    store: Any = engine._store  # noqa: SLF001
    bookmark = store.bookmark
    both = threading.Barrier(2)

    def reading(*arguments: Any) -> Any:
        found = bookmark(*arguments)
        if threading.current_thread() is not threading.main_thread():
            with suppress(threading.BrokenBarrierError):
                both.wait(1)
        return found

    store.bookmark = reading


def any_form(engine: Engine) -> None:
    """A form is taken for an answer to whichever page its run is at by then."""
    visit = engine.visit

    def careless(run: Any, caller: Caller, *, seq: int | None = None) -> Outcome:  # noqa: ARG001
        return visit(run, caller)

    engine.visit = careless  # type: ignore[method-assign]


def failed_commit_overlooked(engine: Engine) -> None:
    """Nobody looks whether a COMMIT failed: what it was to store is taken for stored."""
    bind: Any = engine.database.engine
    commit = bind.dialect.do_commit

    def careless(connection: Any) -> None:
        with suppress(sqlite3.Error):
            commit(connection)

    bind.dialect.do_commit = careless


def failed_write_overlooked(_engine: Engine) -> None:
    """A statement that failed is left out, and taken for one that matched its row."""
    execute = Prepared.execute

    def careless(self: Prepared, connection: sa.Connection, values: Any) -> Any:
        try:
            return execute(self, connection, values)
        except DBAPIError:
            return 1

    Prepared.execute = careless  # type: ignore[method-assign]


def conflicts_not_tried_again(_engine: Engine) -> None:
    """A conflict fails the step like any error."""
    module: Any = dispatcher
    module.is_transient = lambda _error: False


def dropped_connection_used_again(engine: Engine) -> None:
    """A connection that the server closed goes back into the pool."""
    dialect: Any = engine.database.engine.dialect
    dialect.is_disconnect = lambda *_: False
