"""Reading runs: their rows, their bookmarks, what they ended with. Nothing here moves one."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from flowroute.engine import schema
from flowroute.engine.database import Database
from flowroute.engine.flow import Flow, definition_of
from flowroute.engine.identity import is_run_id
from flowroute.engine.records import Bookmark, RunRecord
from flowroute.engine.run import Checkpoint
from flowroute.engine.store import Store
from flowroute.engine.tables import Tables
from flowroute.engine.transition import Transitions
from flowroute.engine.work import Work
from flowroute.errors import RunFailed, RunNotFinished, RunNotFound, RunStateError


class Lookup:
    """Reads the runs of one engine.

    Parameters:
        store: The statements.
        database: The connections and sessions.
        transitions: Checkpoints to values.
        tables: Looked for before the first read, for a clear error.
    """

    def __init__(
        self, store: Store, database: Database, transitions: Transitions, tables: Tables
    ) -> None:
        self._store = store
        self._database = database
        self._transitions = transitions
        self._tables = tables

    # -- rows --------------------------------------------------------------------------------------

    def read(self, run_id: str) -> RunRecord:
        """The row of a run.

        Raises:
            RunNotFound: There is none.
        """
        self._tables.check()
        record = None
        if is_run_id(run_id):
            with self._database.connect() as connection:
                record = self._store.read(connection, run_id)
        if record is None:
            raise _not_found(run_id)
        return record

    def holder(self, flow: str, key: str) -> RunRecord | None:
        """The row of the run that holds this key of the flow with this name, or None."""
        self._tables.check()
        with self._database.connect() as connection:
            return self._store.find(connection, flow, key)

    def records(
        self,
        *,
        flow: type[Flow] | str | None = None,
        state: str | Iterable[str] | None = None,
        owner: str | None = None,
        limit: int = 100,
    ) -> list[RunRecord]:
        """The rows of runs, newest first, by one statement; see `Engine.runs`.

        Raises:
            RunStateError: There is no such state.
        """
        self._tables.check()
        states = [state] if isinstance(state, str) else list(state or ())
        for each in states:
            if each not in schema.STATES:
                raise RunStateError(
                    f"There is no state {each!r}: a run is {', '.join(schema.STATES[:-1])} or "
                    f"{schema.STATES[-1]}."
                )
        name = flow if isinstance(flow, str) or flow is None else definition_of(flow).name
        with self._database.connect() as connection:
            return self._store.runs(connection, flow=name, states=states, owner=owner, limit=limit)

    # -- sub-flows ---------------------------------------------------------------------------------

    def child_of(self, record: RunRecord) -> RunRecord | None:
        """The run of the sub-flow that another run waits for or has waited for at its bookmark."""
        with self._database.connect() as connection:
            return self._store.child(connection, record.id, record.seq)

    def current(self, run_id: str) -> RunRecord:
        """The row of a run; while it waits for a sub-flow, that of the sub-flow's run.

        Raises:
            RunNotFound: There is no such run.
        """
        record = self.read(run_id)
        while record.waiting_for == schema.FOR_CHILDREN:
            child = self.child_of(record)
            if child is None:
                break
            if not child.finished:
                record = child
                continue
            # One that ended has woken its parent, in the same moment.
            before, record = record, self.read(record.id)
            if record.waiting_for == schema.FOR_CHILDREN and record.seq == before.seq:
                break
        return record

    def is_part_of(self, run_id: str, ancestor_id: str) -> bool:
        """Whether a run is another one, or was called by it as a sub-flow, or by one that was."""
        found: str | None = run_id
        with self._database.connect() as connection:
            while found is not None and found != ancestor_id:
                record = self._store.read(connection, found) if is_run_id(found) else None
                found = None if record is None else record.parent_id
        return found is not None

    # -- checkpoints -------------------------------------------------------------------------------

    def bookmark(self, run_id: str) -> Bookmark:
        """The row of a run with the payload of its newest checkpoint, by one statement.

        Raises:
            RunNotFound: There is no such run.
        """
        self._tables.check()
        bookmark = None
        if is_run_id(run_id):
            with Work(self._database) as work, work.reading() as connection:
                bookmark = self._store.bookmark(connection, run_id)
        if bookmark is None:
            raise _not_found(run_id)
        return bookmark

    def held_bookmark(self, flow: str, key: str) -> Bookmark | None:
        """As `bookmark`, of the run that holds this key of the flow with this name, or None."""
        self._tables.check()
        with Work(self._database) as work, work.reading() as connection:
            return self._store.held_bookmark(connection, flow, key)

    def checkpoints_of(self, run_id: str) -> list[Checkpoint]:
        """See `Run.checkpoints`."""
        with self._database.connect() as connection:
            rows = self._store.checkpoints(connection, run_id)
        # A row tells how the step *before* it went: rows are never changed once they are stored.
        following = [*rows[1:], None]
        return [
            Checkpoint(
                row.seq,
                row.step,
                row.arguments or {},
                row.created_at,
                None
                if after is None or after.duration is None
                else timedelta(seconds=after.duration),
                None if after is None else after.attempt,
                None if after is None else after.executor,
            )
            for row, after in zip(rows, following, strict=True)
        ]

    def flow_of(self, bookmark: Bookmark) -> Flow:
        """The flow of a run with its state, also at the end of the run.

        Parameters:
            bookmark: As it was just read.

        Raises:
            CheckpointUnreadable: The deployed code can not read it.
            ArgumentError: The state no longer fits.
        """
        with Work(self._database) as work:
            return self._transitions.flow_at(work, bookmark)

    def result_of(self, run: str | Bookmark) -> Any:
        """What a run ended with; see `Run.result`.

        Parameters:
            run: Its id, or its bookmark as it was just read.

        Raises:
            RunNotFound: There is no such run.
            RunFailed: It failed.
            RunNotFinished: It has not ended with a result.
            CheckpointUnreadable: The deployed code can not read the result.
        """
        bookmark = run if isinstance(run, Bookmark) else self.bookmark(run)
        record = bookmark.record
        run_id = record.id
        if record.state == schema.FAILED:
            error = record.error or {}
            raise RunFailed(
                f"Run {run_id} of {record.flow} failed at step {record.step}, attempt "
                f"{record.attempt}: {error.get('type')}: {error.get('message')} Mend the cause and "
                "call run.retry().",
                run_id=run_id,
                step=record.step,
            )
        if record.state != schema.DONE:
            raise RunNotFinished(
                f"Run {run_id} of {record.flow} has no result: it is {record.state} at step "
                f"{record.step}. Wait for it with run.wait(timeout_seconds=…).",
                run_id=run_id,
                step=record.step,
            )
        with Work(self._database) as work:
            return self._transitions.result(work, bookmark)


def _not_found(run_id: str) -> RunNotFound:
    return RunNotFound(f"There is no run {run_id!r}.", run_id=run_id)
