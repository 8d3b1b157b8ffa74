"""For tests of flows: an inline engine, a clock that is moved by hand, and assertions on runs.

A whole flow, with a delay in it, tested in no time:

>>> from datetime import timedelta
>>> from flowroute import Continuation, Flow, done, step, worker_step
>>> class Invoice(Flow):
...     customer: str
...
...     @worker_step(start=True)
...     def send(self, amount: int) -> Continuation[str]:
...         return self.remind(amount).after(timedelta(days=14))
...
...     @step
...     def remind(self, amount: int) -> Continuation[str]:
...         return done(f"{self.customer} owes {amount}, says {self.run.idempotency_key[-2:]}")
>>> clock = FakeClock()
>>> with inline_engine(clock=clock) as engine:
...     run = engine.start(Invoice(customer="Ada").send(300))
...     assert run.waiting_for == "timer"
...     _ = drain(engine, clock)  # two weeks later
...     assert_path(run, ["send", "remind"])
...     assert_done(run, "Ada owes 300, says -1")
'Ada owes 300, says -1'

One step by itself, as plain Python with a run:

>>> run_step(Invoice(customer="Ada").remind(300)).arguments["result"]
'Ada owes 300, says -0'
"""

from __future__ import annotations

import builtins
import os
import re
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar, cast
from unittest.mock import ANY

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.pool import ConnectionPoolEntry

from flowroute.engine import schema
from flowroute.engine.clock import FakeClock
from flowroute.engine.context import RunContext, current_run
from flowroute.engine.continuation import Continuation
from flowroute.engine.engine import Engine
from flowroute.engine.flow import Flow, definition_of
from flowroute.engine.identity import new_run_id
from flowroute.engine.records import RunRecord
from flowroute.engine.recovery import Recovered
from flowroute.engine.run import Run
from flowroute.engine.step import Step, StepFailure
from flowroute.errors import ArgumentError, CommitRefused, FlowrouteError

__all__ = [
    "FakeClock",
    "assert_done",
    "assert_failed",
    "assert_path",
    "drain",
    "inline_engine",
    "run_step",
]

T = TypeVar("T")

SECRET_KEY: Final = "known to everybody"  # noqa: S105  # of engines for tests
"""Signs the checkpoints of `inline_engine`: always the same, so that a file can be opened again."""


# -- running ---------------------------------------------------------------------------------------


@contextmanager
def inline_engine(path: str | os.PathLike[str] | None = None, **options: Any) -> Generator[Engine]:
    """An engine for tests: on an SQLite file, its tables made, worker steps run inside ``start()``.

    The file is not synchronised to disk, which makes it several times faster. All else is as in
    production: what a step wrote commits with its checkpoint, or not at all.

    Parameters:
        path: The file, or a directory to put it in, such as pytest's ``tmp_path``. A file that
            exists is opened as it is, so that a test can come back to it. None: a temporary one.
        options: For `Engine`, such as ``clock=FakeClock()`` or ``executor="thread"``.

    Returns:
        A context manager with the engine, closed at the end.

    Example:
        >>> with inline_engine() as engine:
        ...     engine.runs()
        []
    """
    temporary = nullcontext(path) if path is not None else tempfile.TemporaryDirectory()
    with temporary as place:
        file = Path(place)
        if file.is_dir():
            file /= "flowroute.db"
        database = sa.create_engine(sa.URL.create("sqlite", database=str(file)))
        event.listen(database, "connect", _do_not_synchronise)
        settings: dict[str, Any] = {"executor": "inline", "secret_keys": [SECRET_KEY], **options}
        try:
            with Engine(database, **settings) as engine:
                engine.create_all()
                yield engine
        finally:
            database.dispose()


def _do_not_synchronise(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=OFF")
    cursor.close()


def drain(engine: Engine, clock: FakeClock, *, limit: int = 1_000) -> Recovered:
    """Let everything happen that is going to: move the clock from one due instant to the next.

    Delays, backoffs, and the leases of processes that died are over at once. Runs that wait for a
    page, or are blocked, stay as they are.

    Parameters:
        engine: An engine that runs its steps inline.
        clock: Its clock.
        limit: How many due instants there may be.

    Returns:
        What recovery did.

    Raises:
        AssertionError: Something was still due after `limit` instants, such as a step that always
            comes back to itself after a delay.
    """
    __tracebackhide__ = True
    did = Recovered()
    for _ in range(limit):
        due_at = _next_due_at(engine)
        if due_at is None:
            return did
        clock.instant = max(clock.instant, due_at)
        once = engine.recover()
        for each in fields(did):
            setattr(did, each.name, getattr(did, each.name) + getattr(once, each.name))
    open_states = [state for state in schema.STATES if state not in schema.FINISHED]
    stories = "\n".join(
        _story(record) for record in engine.lookup.records(state=open_states, limit=10)
    )
    raise AssertionError(f"after {limit} due instants there is still something due:\n{stories}")


def _next_due_at(engine: Engine) -> datetime | None:
    run = schema.run_table
    # A blocked run waits for other code: it would be due for ever.
    query = sa.select(sa.func.min(run.c.wake_at), sa.func.min(run.c.lease_until)).where(
        run.c.state != schema.BLOCKED
    )
    with engine.database.engine.connect() as connection:
        instants = connection.execute(query).one()
    return min((instant for instant in instants if instant is not None), default=None)


def run_step(
    what: Continuation[Any] | Step[Any, Any],
    flow: Flow | None = None,
    /,
    *args: Any,
    session: Session | scoped_session[Any] | None = None,
    attempt: int = 1,
    key: str | None = None,
    **kwargs: Any,
) -> Any:
    """Call one step as the dispatcher would, and store nothing.

    The step has a `self.run`, and a `self.session` if one is given. Its arguments are validated.
    As in production, it can not commit.

    Parameters:
        what: A step that was called, as it is given to ``engine.start``: type checkers know its
            arguments. Or a step of the class, followed by the flow and the arguments.
        flow: The flow, with its state, if `what` is a step.
        args: Arguments of the step.
        session: Becomes `self.session`. Commit or roll back afterwards, as the test needs it.
        attempt: What `self.run.attempt` is.
        key: What `self.run.key` is.
        kwargs: Arguments of the step. One that is called as a parameter here has to be given the
            other way, in a step that was called.

    Returns:
        What the step returned: a continuation, whose `step` and `arguments` tell where it leads;
        of a page, also a response. What the step changed is in the flow.

    Raises:
        ArgumentError: The arguments or the state do not fit.
        FlowrouteError: The step used a session, and none was given.
        CommitRefused: The step called ``commit()``.
        Exception: Whatever the step raised.

    Example:
        >>> from flowroute import Continuation, Flow, done, step, worker_step
        >>> class Parcel(Flow):
        ...     @worker_step(start=True)
        ...     def send(self, weight: float) -> Continuation[None]:
        ...         return self.give_up() if self.run.attempt > 2 else self.send(weight)
        ...
        ...     @step
        ...     def give_up(self) -> Continuation[None]:
        ...         return done()
        >>> run_step(Parcel().send(1.5), attempt=3)
        <Continuation Parcel.give_up()>
        >>> run_step(Parcel.send, Parcel(), weight=1.5)
        <Continuation Parcel.send(weight=1.5)>
    """
    continuation = what if isinstance(what, Continuation) else _called(what, flow, args, kwargs)
    step, flow = continuation.step, continuation.flow
    if step is None or flow is None:
        raise ArgumentError("done(…) is the end of a run: there is no step in it to call.")
    opened = session() if isinstance(session, scoped_session) else session
    run = RunContext(
        run_id=new_run_id(),
        key=key,
        flow=definition_of(type(flow)).name,
        step=step.name,
        seq=0,
        attempt=attempt,
        open_session=_opener(opened, step),
        report=lambda _progress: None,
    )
    flow.__dict__["__run__"] = run
    current = current_run.set(run)
    try:
        with _commits_refused(opened, step):
            return step.signature.call(step.function, flow, continuation.arguments)
    finally:
        current_run.reset(current)
        del flow.__dict__["__run__"]


def _called(
    step: Step[Any, Any], flow: Flow | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Continuation[Any]:
    if flow is None:
        raise ArgumentError(
            f"run_step({step.flow_name}.{step.name}) needs the flow too: "
            f"run_step({step.flow_name}.{step.name}, {step.flow_name}(…), …)."
        )
    call: Callable[..., Continuation[Any]] = step.__get__(flow, type(flow))
    return call(*args, **kwargs)


def _opener(session: Session | None, step: Step[Any, Any]) -> Callable[[], Session]:
    def opened() -> Session:
        if session is None:
            raise FlowrouteError(
                f"The step {step.flow_name}.{step.name} uses its session: give run_step() one, "
                "session=….",
                step=step.name,
            )
        return session

    return opened


@contextmanager
def _commits_refused(session: Session | None, step: Step[Any, Any]) -> Generator[None]:
    if session is None or step.commits:
        yield
        return

    def refuse(committed: Session) -> None:
        if not committed.in_nested_transaction():  # releasing a savepoint is the step's business
            raise CommitRefused(
                f"The step {step.flow_name}.{step.name} called commit() on the run's session, "
                "which a step may not: its writes commit with the checkpoint after it.",
                step=step.name,
            )

    event.listen(session, "before_commit", refuse)
    try:
        yield
    finally:
        event.remove(session, "before_commit", refuse)


# -- assertions ------------------------------------------------------------------------------------


def assert_done(run: Run[T], result: object = ANY) -> T:
    """The run ended with this result.

    Parameters:
        run: The run.
        result: What it should have ended with, by ``==``; by default, anything.

    Returns:
        The result.

    Raises:
        AssertionError: It did not; the message holds the run's path and its error's traceback.
    """
    __tracebackhide__ = True
    _assert_state(run, schema.DONE)
    found = run.result
    if not result == found:  # ANY equals all, and says nothing about !=
        raise AssertionError(f"expected the result {result!r}, found {found!r}\n{_story_of(run)}")
    return found


def assert_failed(
    run: Run[Any],
    type: builtins.type[BaseException] | str | None = None,  # noqa: A002  # as pytest.raises says it
    *,
    match: str | None = None,
) -> StepFailure:
    """The run failed, and for this reason.

    Parameters:
        run: The run.
        type: The exception's class, or its name; None: any. Of an exception its class's name is
            stored: one of a class that derives from `type` is another one.
        match: A regular expression, searched for in the exception's text.

    Returns:
        The failure.

    Raises:
        AssertionError: It did not; the message holds the run's path and its error's traceback.
    """
    __tracebackhide__ = True
    _assert_state(run, schema.FAILED)
    failure = cast("StepFailure", run.error)
    name = type if isinstance(type, str) or type is None else type.__name__
    if name not in {None, failure.type}:
        raise AssertionError(f"expected {name}, found {failure.type}\n{_story_of(run)}")
    if match is not None and re.search(match, failure.message) is None:
        raise AssertionError(
            f"expected a message that matches {match!r}, found {failure.message!r}\n"
            f"{_story_of(run)}"
        )
    return failure


def assert_path(run: Run[Any], path: Sequence[str | Step[Any, Any]]) -> None:
    """The run went through these steps, and no others.

    Parameters:
        run: The run.
        path: Every step in order, by name or as ``Checkout.charge``; of a run that has not ended,
            the last is the one it is at.

    Raises:
        AssertionError: It went another way; the message holds its path and its error's traceback.
    """
    __tracebackhide__ = True
    expected = [step if isinstance(step, str) else step.name for step in path]
    if _path(run) != expected:
        raise AssertionError(f"expected the path {_arrows(expected)}\n{_story_of(run)}")


def _assert_state(run: Run[Any], state: str) -> None:
    __tracebackhide__ = True
    if run.state != state:
        raise AssertionError(f"expected a run that is {state}\n{_story_of(run)}")


def _path(run: Run[Any]) -> list[str]:
    return [each.step for each in run.checkpoints if each.step is not None]


def _arrows(path: Sequence[str]) -> str:
    return " → ".join(path) or "nothing"


def _story_of(run: Run[Any]) -> str:
    return f"{_story(run.record)}\nits path: {_arrows(_path(run))}{_error_of(run)}"


def _story(record: RunRecord) -> str:
    waiting = f" for {record.waiting_for}" if record.waiting_for else ""
    step = f" at step {record.step}, attempt {record.attempt}" if record.step else ""
    return f"run {record.id} of {record.flow} is {record.state}{waiting}{step}"


def _error_of(run: Run[Any]) -> str:
    error = run.error
    if error is None:
        return ""
    reason = error.traceback.rstrip() or f"{error.type}: {error.message}"
    return f"\nits error in step {error.step}, attempt {error.attempt}:\n{reason}"
