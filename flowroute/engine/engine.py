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

from flowroute.engine import schema
from flowroute.engine.clock import Clock
from flowroute.engine.codec import Codec
from flowroute.engine.continuation import Continuation
from flowroute.engine.database import Database, Source
from flowroute.engine.dispatcher import Dispatcher
from flowroute.engine.failure import Failures
from flowroute.engine.flow import Flow, definition_of
from flowroute.engine.identity import new_run_id
from flowroute.engine.intervention import Interventions
from flowroute.engine.local import InlineExecutor, ThreadExecutor
from flowroute.engine.lookup import Lookup
from flowroute.engine.messenger import Messenger
from flowroute.engine.ports import Executor, Move, Notifier, Silence
from flowroute.engine.records import Bookmark
from flowroute.engine.recovery import Recovered, Recovery
from flowroute.engine.run import Bell, Run
from flowroute.engine.step import Place
from flowroute.engine.store import Store
from flowroute.engine.tables import Tables
from flowroute.engine.transition import Transitions, startable
from flowroute.engine.turn import SCRIPT, Caller, Outcome
from flowroute.errors import (
    ArgumentError,
    ConfigurationError,
    RunNotFound,
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
        self._store = Store(clock)
        messenger = Messenger(self.executor, _RingingNotifier(self.bell, self._notifier))
        transitions = Transitions(self.codec, self._store, lease_seconds)
        failures = Failures(self._store, self.database, transitions, messenger)
        self._tables = Tables(self._store, self.database)
        self.lookup = Lookup(self._store, self.database, transitions, self._tables)
        """Reads runs, for whoever needs more of them than a `Run` shows."""
        self.dispatcher = Dispatcher(
            store=self._store,
            database=self.database,
            transitions=transitions,
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
            held = self.lookup.holder(definition_of(type(flow)).name, key)
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
        return Run(self, self.lookup.read(run_id).id)

    def find(self, flow: type[Flow], key: str) -> Run[Any] | None:
        """The run of a flow that holds a key, or None."""
        record = self.lookup.holder(definition_of(flow).name, key)
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
        records = self.lookup.records(flow=flow, state=state, owner=owner, limit=limit)
        return [Run(self, record.id) for record in records]

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

    def advance(self, run_id: str, seq: int, timeout_seconds: float | None = None) -> bool:
        """What an executor does with a hint: claim the run at checkpoint `seq`, and advance it.

        Parameters:
            run_id: The hint's.
            seq: The hint's.
            timeout_seconds: The hint's; without it, a step that has a timeout costs a statement
                more on PostgreSQL.

        Returns:
            False if there was nothing to do: the hint came twice, or too late.
        """
        with self._scope():
            try:
                return self.dispatcher.advance(
                    run_id, self._executes, seq=seq, timeout_seconds=timeout_seconds
                ).advanced
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
        bookmark = self.lookup.bookmark(run) if isinstance(run, str) else run
        run_id = bookmark.record.id
        if self._recovery.heal(bookmark.record):
            bookmark = self.lookup.bookmark(run_id)
        while seq is None and bookmark.record.waiting_for == schema.FOR_CHILDREN:
            child = self.lookup.current(run_id)
            if child.id == run_id:
                break
            outcome = self.visit(child.id, caller)
            if outcome.bookmark is None or not outcome.bookmark.record.finished:
                return outcome
            bookmark = self.lookup.bookmark(run_id)  # the sub-flow ended between two looks
        outcome = self.dispatcher.advance(run_id, caller, seq=seq, bookmark=bookmark)
        return replace(outcome, bookmark=bookmark) if outcome.answered else outcome

    def held_bookmark(self, continuation: Continuation[Any], key: str) -> Bookmark | None:
        """As `bookmark`, of the run that a start with this key would find; None: it would start.

        Raises:
            TransitionError: The flow can not start with this step.
            ArgumentError: `key` is empty or too long.
        """
        flow, _ = startable(continuation)
        _check_text("key", key, shortest=1)
        return self.lookup.held_bookmark(definition_of(type(flow)).name, key)

    # -- what a Run asks ---------------------------------------------------------------------------

    def resume(self, run_id: str) -> None:
        """See `Run.resume`."""
        self._interventions.resume(self.lookup.read(run_id).id)

    def retry(self, run_id: str) -> None:
        """See `Run.retry`."""
        self.executor.start()
        self._interventions.retry(self.lookup.read(run_id).id)

    def cancel(self, run_id: str) -> None:
        """See `Run.cancel`."""
        self._interventions.cancel(self.lookup.read(run_id).id)

    def reset(self, run_id: str) -> None:
        """See `Run.reset`."""
        self._interventions.reset(self.lookup.read(run_id).id)

    # -- tables, start and end ---------------------------------------------------------------------

    def create_all(self) -> None:
        """Create the tables that do not exist yet."""
        self._tables.create()

    def check_tables(self) -> None:
        """Make sure, once, that the tables are there and of this version.

        Raises:
            TablesMissing: They are not; the message says how to make them.
        """
        self._tables.check()

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
