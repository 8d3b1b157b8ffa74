"""The application of the tests' workers: its database and Redis come from the environment."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import event

from flowroute import Continuation, Engine, Flow, Retry, done, step, worker_step
from flowroute.rq import RQExecutor

DATABASE = "TEST_DATABASE"
REDIS = "TEST_REDIS"
UNGUARDED = "TEST_UNGUARDED"
"""If set, forked processes keep their parent's connections: to see that a test notices."""
SECRET = "a secret of the tests"  # noqa: S105

if DATABASE in os.environ:  # in a worker: a test counts how often it loads its application
    print(f"application loaded in {os.getpid()}")  # noqa: T201


def say(what: str, *, at_once: bool = False) -> None:
    """Print a line, as an application may: without flushing it, unless `at_once`."""
    print(what, flush=at_once)  # noqa: T201


class Greeting(Flow):
    """A step before the worker step, one on it, one after it."""

    name: str

    @step(start=True)
    def begin(self) -> Continuation[tuple[str, int]]:
        return self.work()

    @worker_step
    def work(self) -> Continuation[tuple[str, int]]:
        say(f"greeting {self.name} in {os.getpid()}")
        return self.finish(f"hello {self.name}", os.getpid())

    @step
    def finish(self, text: str, pid: int) -> Continuation[tuple[str, int]]:
        return done((text, pid))


class Relay(Flow):
    """Two worker steps after each other."""

    @worker_step(start=True)
    def first(self) -> Continuation[list[int]]:
        return self.second(os.getpid())

    @worker_step
    def second(self, pid: int) -> Continuation[list[int]]:
        return done([pid, os.getpid()])


class Held(Flow):
    """A worker step that goes on when a file exists, and says which process it is in."""

    gate: str

    @worker_step(start=True, retry=Retry(3, backoff=timedelta(0)))
    def hold(self) -> Continuation[int]:
        say(f"attempt {self.run.attempt} holds in {os.getpid()}")
        Path(f"{self.gate}.{self.run.attempt}.started").write_text(str(os.getpid()))
        while not Path(self.gate).exists():
            time.sleep(0.01)
        return done(self.run.attempt)


class Deaf(Flow):
    """A step that catches whatever it can, and is slower than its timeout."""

    @worker_step(start=True, timeout=timedelta(seconds=1))
    def sleep(self) -> Continuation[str]:
        ends_at = time.monotonic() + 60
        while time.monotonic() < ends_at:
            try:
                time.sleep(30)
            except Exception as error:  # noqa: BLE001 - as careless code does
                say(f"swallowed {type(error).__name__}")
        return done("too late")


class Stuck(Flow, name="rq.application.Stuck"):
    """A step that no signal reaches, as if it hung in a library that never returns."""

    @worker_step(start=True, timeout=timedelta(seconds=1), retry=Retry(1))
    def hang(self) -> Continuation[str]:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        say(f"stuck in {os.getpid()}", at_once=True)
        time.sleep(600)
        return done("never")


class Patient(Flow):
    """A quick worker step with a timeout, and a plain step after it that takes longer than that."""

    seconds: float

    @worker_step(start=True, timeout=timedelta(seconds=1))
    def quick(self) -> Continuation[float]:
        return self.slow(os.getpid())

    @step
    def slow(self, pid: int) -> Continuation[float]:
        assert pid == os.getpid()
        say("slow began")
        began = time.monotonic()
        time.sleep(self.seconds)
        return done(time.monotonic() - began)


class Failing(Flow):
    """A step that raises."""

    reason: str

    @worker_step(start=True)
    def fail(self) -> Continuation[None]:
        if self.reason:
            raise RuntimeError(self.reason)
        return done(None)


class Exiting(Flow):
    """A step that leaves the interpreter without a word."""

    @worker_step(start=True, retry=Retry(2, backoff=timedelta(0)))
    def leave(self) -> Continuation[int]:
        if self.run.attempt == 1:
            os._exit(3)
        return done(self.run.attempt)


class Poison(Flow):
    """A step that kills the process it is in, each time."""

    tally: str

    @worker_step(start=True, retry=Retry(3, backoff=timedelta(0)))
    def die(self) -> Continuation[str]:
        with Path(self.tally).open("a") as tally:
            tally.write(f"{self.run.attempt} ")
        os.kill(os.getpid(), signal.SIGKILL)
        return done("survived")


class Grasping(Flow):
    """A step that catches everything there is, for ever, and is slower than its timeout."""

    tally: str

    @worker_step(start=True, timeout=timedelta(seconds=1), retry=Retry(1))
    def hold(self) -> Continuation[str]:
        with Path(self.tally).open("a") as tally:
            tally.write(f"{self.run.attempt} ")
        ends_at = time.monotonic() + 600
        while time.monotonic() < ends_at:
            with contextlib.suppress(BaseException):  # the most careless code there is
                time.sleep(0.01)
        return done("too late")


class Connected(Flow):
    """Tells which process it is in, and which one opened the connection that it has."""

    @worker_step(start=True)
    def look(self) -> Continuation[tuple[int, int]]:
        return done((os.getpid(), self.session.connection().info["opened in"]))


def make_engine(
    database: str | None = None, redis_url: str | None = None, *, lease_seconds: float = 2.0
) -> Engine:
    """Make the engine; what is not given comes from the environment."""
    engine = Engine(
        database or os.environ[DATABASE],
        executor=RQExecutor(redis_url or os.environ[REDIS]),
        secret_keys=[SECRET],
        lease_seconds=lease_seconds,
    )
    event.listen(engine.database.engine, "connect", _remember_opener)
    if UNGUARDED in os.environ:
        engine.after_fork = lambda: None  # type: ignore[method-assign]
    return engine


def _remember_opener(_connection: Any, record: Any) -> None:
    record.info["opened in"] = os.getpid()
