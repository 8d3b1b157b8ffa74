"""`Engine`: puts the parts together."""

from __future__ import annotations

import os
import reprlib
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy.exc import DBAPIError

from flowroute.engine import schema
from flowroute.engine.clock import Clock
from flowroute.engine.codec import Codec
from flowroute.engine.continuation import Continuation
from flowroute.engine.database import Database, Source, is_transient
from flowroute.engine.dispatcher import Dispatcher
from flowroute.engine.failure import Failures
from flowroute.engine.flow import Flow, definition_of
from flowroute.engine.identity import is_run_id, new_run_id
from flowroute.engine.intervention import Interventions
from flowroute.engine.local import InlineExecutor, ThreadExecutor
from flowroute.engine.messenger import Messenger
from flowroute.engine.ports import Executor, Move, Notifier, Silence
from flowroute.engine.records import Bookmark, RunRecord
from flowroute.engine.recovery import Recovered, Recovery
from flowroute.engine.run import Bell, Checkpoint, Run
from flowroute.engine.step import Place
from flowroute.engine.store import Store
from flowroute.engine.transition import Transitions, startable
from flowroute.engine.turn import SCRIPT, Caller, Outcome
from flowroute.engine.work import Work
from flowroute.errors import (
    ArgumentError,
    ConfigurationError,
    RunFailed,
    RunNotFinished,
    RunNotFound,
    RunStateError,
)

T = TypeVar("T")

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


class Engine:
    """Starts, advances, recovers and looks up the runs in one database.

    Parameters:
        database: A URL, an SQLAlchemy engine, a `sessionmaker`, or a `scoped_session`, whose
            transactions the steps then share.
        executor: Where worker steps run: ``"thread"`` (threads of this process), ``"inline"`` (at
            once, in the caller), or an executor such as `flowroute.rq.RQExecutor`.
        notifier: Told of each move, after its commit.
        secret_keys: Keys that checkpoints are signed with, newest first; older ones still verify.
        lease_seconds: How long a run belongs to a process that gives no sign of life, in seconds. A
            crashed process's run goes on within this time and a few seconds more.
        scope: A context entered around the work of executors and of recovery, such as
            ``app.app_context``.
        retention: How long finished runs are kept; None: for ever.
        max_checkpoint_bytes: Largest checkpoint that is stored, in bytes.
        clock: The clock of leases and timers; default the database's.

    Raises:
        ConfigurationError: A part can not work, such as no secret key or SQLite in memory.

    Example:
        >>> with Engine("sqlite:///flows.db", secret_keys=["…"]) as engine:  # doctest: +SKIP
        ...     engine.create_all()
        ...     run = engine.start(Checkout(customer_id=7).reserve(cart), key="cart-42")
        ...     run.wait(timeout_seconds=30)
    """

    def __init__(
        self,
        database: Source,
        *,
        executor: str | Executor = "thread",
        notifier: Notifier | None = None,
        secret_keys: Sequence[str | bytes] = (),
        lease_seconds: float = 30.0,
        scope: Callable[[], AbstractContextManager[Any]] = nullcontext,
        retention: timedelta | None = None,
        max_checkpoint_bytes: int = 2_000_000,
        clock: Clock | None = None,
    ) -> None:
        if lease_seconds <= 0:
            raise ConfigurationError(
                f"lease_seconds={lease_seconds}: a lease lasts longer than nothing."
            )
        self.codec = Codec(secret_keys, max_bytes=max_checkpoint_bytes)
        self.database = Database(database)
        self.executor = _executor(executor)
        self.bell = Bell()
        self.lease_seconds = lease_seconds
        self._notifier = notifier or Silence()
        self._scope = scope
        self._checked = False
        self._store = Store(clock)
        messenger = Messenger(self.executor, _RingingNotifier(self.bell, self._notifier))
        self._transitions = Transitions(self.codec, self._store, lease_seconds)
        failures = Failures(self._store, self.database, self._transitions, messenger)
        self.dispatcher = Dispatcher(
            store=self._store,
            database=self.database,
            transitions=self._transitions,
            failures=failures,
            messenger=messenger,
            lease_seconds=lease_seconds,
        )
        self._recovery = Recovery(self._store, self.database, self.dispatcher, messenger, retention)
        self._interventions = Interventions(
            store=self._store,
            database=self.database,
            dispatcher=self.dispatcher,
            recovery=self._recovery,
            failures=failures,
            messenger=messenger,
        )
        self._executes = Caller(self.executor.name, frozenset({Place.ANYWHERE, Place.EXECUTOR}))
        self.executor.attach(self)
        _engines.add(self)

    # -- runs --------------------------------------------------------------------------------------

    def start(
        self,
        continuation: Continuation[T],
        *,
        key: str | None = None,
        owner: str | None = None,
        caller: Caller = SCRIPT,
        instead_of: str | None = None,
    ) -> Run[T]:
        """Start a run, and advance it here as far as its steps allow.

        Parameters:
            continuation: A start step, called: ``Checkout(customer_id=7).reserve(cart)``.
            key: Makes the start idempotent: while a run of this flow holds the key, that run is
                returned and nothing is started, however many ask at the same time.
            owner: Who starts it, as the application names people.
            caller: Where this is called from; leave it to the frameworks' leaves.
            instead_of: The id of a finished run that gives up the key to this one.

        Returns:
            The run. A step that raised has made it fail; see `Run.state` and `Run.error`.

        Raises:
            TransitionError: The flow can not start with this step.
            ArgumentError: `key` or `owner` is empty or too long.
            UnstorableValue: An argument can not be part of a checkpoint; nothing was stored.
            TablesMissing: The tables do not exist.
        """
        flow, _ = startable(continuation)
        _check_text("key", key, shortest=1)
        _check_text("owner", owner)
        self.check_tables()
        self.executor.start()
        if key is not None:
            held = self._find(definition_of(type(flow)).name, key)
            if held is not None and held.id != instead_of:
                return Run(self, held.id)
        run_id = self.dispatcher.start(
            continuation, caller, key=key, owner=owner, instead_of=instead_of
        )
        return Run(self, run_id)

    def get(self, run_id: str) -> Run[Any]:
        """The run with this id.

        Raises:
            RunNotFound: There is none.
        """
        return Run(self, self.read(run_id).id)

    def find(self, flow: type[Flow], key: str) -> Run[Any] | None:
        """The run of a flow that holds a key, or None."""
        self.check_tables()
        record = self._find(definition_of(flow).name, key)
        return None if record is None else Run(self, record.id)

    def runs(
        self,
        *,
        flow: type[Flow] | str | None = None,
        state: str | Iterable[str] | None = None,
        owner: str | None = None,
        limit: int = 100,
    ) -> list[Run[Any]]:
        """Runs, newest first.

        Parameters:
            flow: Only of this flow, given as the class or its name.
            state: Only in this state, or one of these.
            owner: Only of this owner.
            limit: At most so many.

        Raises:
            RunStateError: There is no such state.
        """
        return [
            Run(self, r.id) for r in self.records(flow=flow, state=state, owner=owner, limit=limit)
        ]

    def records(
        self,
        *,
        flow: type[Flow] | str | None = None,
        state: str | Iterable[str] | None = None,
        owner: str | None = None,
        limit: int = 100,
    ) -> list[RunRecord]:
        """As `runs`, as the rows that were read: one statement however many there are."""
        self.check_tables()
        states = [state] if isinstance(state, str) else list(state or ())
        for each in states:
            if each not in schema.STATES:
                raise RunStateError(
                    f"There is no state {each!r}: a run is {', '.join(schema.STATES[:-1])} or "
                    f"{schema.STATES[-1]}."
                )
        name = flow if isinstance(flow, str) or flow is None else definition_of(flow).name
        with self.database.connect() as connection:
            return self._store.runs(connection, flow=name, states=states, owner=owner, limit=limit)

    def recover(self) -> Recovered:
        """Look once for what a crash left behind and for what is due.

        Processes that execute steps do this each second by themselves.

        Returns:
            What was done.
        """
        self.check_tables()
        with self._scope():
            return self._recovery.recover()

    # -- what executors and leaves call ------------------------------------------------------------

    def advance(self, run_id: str, seq: int) -> bool:
        """What an executor does with a hint: claim the run at checkpoint `seq`, and advance it.

        Returns:
            False if there was nothing to do: the hint came twice, or too late.
        """
        with self._scope():
            try:
                return self.dispatcher.advance(run_id, self._executes, seq=seq).advanced
            except RunNotFound:
                return False  # deleted since the hint was given

    def visit(self, run: str | Bookmark, caller: Caller, *, seq: int | None = None) -> Outcome:
        """What a request does with a run: heal it if need be, and advance or show it.

        A run that only waits, or has ended with a result, is read by one statement. Of one that
        waits for a sub-flow, the sub-flow is visited, unless `seq` says which page is answered.

        Parameters:
            run: Its id, or its bookmark as it was just read.
            caller: `flowroute.engine.turn.REQUEST` to look, `SUBMIT` to bring an answer.
            seq: Only if the bookmark is this checkpoint.

        Returns:
            What a page answered, if the run is at one; and the bookmark, unless the run moved.

        Raises:
            RunNotFound: There is no such run.
        """
        bookmark = self.bookmark(run) if isinstance(run, str) else run
        run_id = bookmark.record.id
        if self._recovery.heal(bookmark.record):
            bookmark = self.bookmark(run_id)
        while seq is None and bookmark.record.waiting_for == schema.FOR_CHILDREN:
            child = self.current(run_id)
            if child.id == run_id:
                break
            outcome = self.visit(child.id, caller)
            if outcome.bookmark is None or not outcome.bookmark.record.finished:
                return outcome
            bookmark = self.bookmark(run_id)  # the sub-flow ended between two looks
        outcome = self.dispatcher.advance(run_id, caller, seq=seq, bookmark=bookmark)
        return replace(outcome, bookmark=bookmark) if outcome.answered else outcome

    def bookmark(self, run_id: str) -> Bookmark:
        """The row of a run with the payload of its newest checkpoint, by one statement.

        Raises:
            RunNotFound: There is no such run.
        """
        self.check_tables()
        bookmark = None
        if is_run_id(run_id):
            with Work(self.database) as work, work.reading() as connection:
                bookmark = self._store.bookmark(connection, run_id)
        if bookmark is None:
            raise _not_found(run_id)
        return bookmark

    def held_bookmark(self, continuation: Continuation[Any], key: str) -> Bookmark | None:
        """As `bookmark`, of the run that a start with this key would find; None: it would start.

        Raises:
            TransitionError: The flow can not start with this step.
            ArgumentError: `key` is empty or too long.
        """
        flow, _ = startable(continuation)
        _check_text("key", key, shortest=1)
        self.check_tables()
        with Work(self.database) as work, work.reading() as connection:
            return self._store.held_bookmark(connection, definition_of(type(flow)).name, key)

    def child_of(self, record: RunRecord) -> RunRecord | None:
        """The run of the sub-flow that another run waits for or has waited for at its bookmark."""
        with self.database.connect() as connection:
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
        with self.database.connect() as connection:
            while found is not None and found != ancestor_id:
                record = self._store.read(connection, found) if is_run_id(found) else None
                found = None if record is None else record.parent_id
        return found is not None

    def flow_of(self, bookmark: Bookmark) -> Flow:
        """The flow of a run with its state, also at the end of the run.

        Parameters:
            bookmark: As it was just read.

        Raises:
            CheckpointUnreadable: The deployed code can not read it.
            ArgumentError: The state no longer fits.
        """
        with Work(self.database) as work:
            return self._transitions.flow_at(work, bookmark)

    # -- what a Run asks ---------------------------------------------------------------------------

    def read(self, run_id: str) -> RunRecord:
        """The row of a run.

        Raises:
            RunNotFound: There is none.
        """
        self.check_tables()
        record = None
        if is_run_id(run_id):
            with self.database.connect() as connection:
                record = self._store.read(connection, run_id)
        if record is None:
            raise _not_found(run_id)
        return record

    def result_of(self, run: str | Bookmark) -> Any:
        """See `Run.result`.

        Parameters:
            run: Its id, or its bookmark as it was just read.
        """
        bookmark: Bookmark | None
        if isinstance(run, Bookmark):
            bookmark = run
        else:
            with self.database.connect() as connection:
                bookmark = self._store.bookmark(connection, run)
            if bookmark is None:
                raise _not_found(run)
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
        with Work(self.database) as work:
            return self._transitions.result(work, bookmark)

    def checkpoints_of(self, run_id: str) -> list[Checkpoint]:
        """See `Run.checkpoints`."""
        with self.database.connect() as connection:
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

    def resume(self, run_id: str) -> None:
        """See `Run.resume`."""
        self._interventions.resume(self.read(run_id).id)

    def retry(self, run_id: str) -> None:
        """See `Run.retry`."""
        self.executor.start()
        self._interventions.retry(self.read(run_id).id)

    def cancel(self, run_id: str) -> None:
        """See `Run.cancel`."""
        self._interventions.cancel(self.read(run_id).id)

    def reset(self, run_id: str) -> None:
        """See `Run.reset`."""
        self._interventions.reset(self.read(run_id).id)

    # -- tables, start and end ---------------------------------------------------------------------

    def create_all(self) -> None:
        """Create the tables that do not exist yet."""
        schema.metadata.create_all(self.database.engine)
        self.check_tables()

    def check_tables(self) -> None:
        """Make sure, once, that the tables are there and of this version.

        Raises:
            TablesMissing: They are not; the message says how to make them.
        """
        if self._checked:
            return
        with self.database.connect() as connection:
            self._checked = self._store.check_tables(connection)
        if self._checked:
            return
        try:
            with self.database.impatient() as connection:
                self._store.record_version(connection)
        except DBAPIError as error:
            if not is_transient(error):
                raise
            return  # this very thread may hold SQLite's write lock: another time
        self._checked = True

    def before_forks(self) -> None:
        """Do once what each process that is forked from this one would have to do again.

        Raises:
            TablesMissing: The tables do not exist.
        """
        self.check_tables()
        with self.database.connect() as connection:
            self._store.prepare(connection)

    def warm_up(self) -> None:
        """In a process that waits for work: do what would be slow the first time.

        Raises:
            sqlalchemy.exc.DBAPIError: The database is away.
        """
        with self.database.connect() as connection:
            self._store.bookmark(connection, new_run_id())

    def close(self) -> None:
        """Stop the threads and close the connections. Steps that run finish first."""
        self.executor.close()
        self.dispatcher.heartbeat.close()
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def after_fork(self) -> None:
        """In a forked child: forget the parent's connections and threads."""
        self.database.forget_connections()
        self.dispatcher.heartbeat.reset()
        self.bell.reset()
        if isinstance(self.executor, ThreadExecutor):
            self.executor.reset()

    # -- inside ------------------------------------------------------------------------------------

    def _find(self, flow: str, key: str) -> RunRecord | None:
        with self.database.connect() as connection:
            return self._store.find(connection, flow, key)


def _not_found(run_id: str) -> RunNotFound:
    return RunNotFound(f"There is no run {run_id!r}.", run_id=run_id)


class _RingingNotifier:
    """Rings the bell of this process, then tells the notifier."""

    def __init__(self, bell: Bell, notifier: Notifier) -> None:
        self._bell = bell
        self._notifier = notifier

    def moved(self, move: Move) -> None:
        self._bell.ring()
        self._notifier.moved(move)


def _check_text(name: str, text: object, *, shortest: int = 0) -> None:
    if text is None:
        return
    if (
        not isinstance(text, str)
        or not shortest <= len(text) <= schema.TEXT_LENGTH
        or "\x00" in text
    ):
        raise ArgumentError(
            f"start({name}={reprlib.repr(text)}): give a text of {shortest} to "
            f"{schema.TEXT_LENGTH} characters, without U+0000; of a longer one, its hash."
        )


def _executor(executor: str | Executor) -> Executor:
    if not isinstance(executor, str):
        return executor
    if executor == "thread":
        return ThreadExecutor()
    if executor == "inline":
        return InlineExecutor()
    raise ConfigurationError(
        f"There is no executor called {executor!r}: give 'thread', 'inline', or an executor such "
        "as RQExecutor(redis_url)."
    )


def _after_fork() -> None:
    for engine in list(_engines):
        engine.after_fork()


if hasattr(os, "register_at_fork"):  # pragma: no branch  # Windows does not fork
    os.register_at_fork(after_in_child=_after_fork)
