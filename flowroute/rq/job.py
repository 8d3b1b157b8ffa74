"""The one function that an RQ job calls, and the signed ticket that is its one argument.

A job carries ids, never code: who can write to Redis can repeat a hint, and nothing else. RQ itself
would run any function that a job names, so the ticket is verified before anything happens.
"""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import rq
from rq.timeouts import UnixSignalDeathPenalty

from flowroute.engine.identity import is_run_id
from flowroute.errors import ConfigurationError, TokenInvalid
from flowroute.loading import load_engine

if TYPE_CHECKING:
    from flowroute.engine.codec import Codec
    from flowroute.engine.engine import Engine

#: What a job calls, as RQ names it.
FUNCTION = "flowroute.rq.job.advance"

#: Names the engine for workers that are not flowroute's own: ``module:attribute``.
ENGINE_VARIABLE = "FLOWROUTE_ENGINE"

#: A token made for anything else, such as a browser's, is not a ticket.
PURPOSE = "rq job"

#: How long RQ keeps what it knows of a job that failed, in seconds. The run itself says more.
FAILURE_TTL_SECONDS = 600

#: The shortest timeout that a job gets in RQ, in seconds. A stock worker must have imported us
#: within it, for only then can RQ's alarm be taken back. The step's own timeout is another matter.
LEAST_TIMEOUT_SECONDS = 10

_TEXT = re.compile("flowroute-([0-9a-f-]{36})-([0-9]{1,18})-([0-9]{1,9})-([0-9]{1,18})")
_SIGNED = re.compile("([a-z0-9-]{1,110})-([A-Za-z0-9_-]{43})")

_logger = logging.getLogger("flowroute.rq")


@dataclass(frozen=True, slots=True)
class Ticket:
    """A hint as an RQ job carries it: signed, it is the job's id and its one argument.

    A worker that has popped the id knows all that it needs, without another look at Redis.

    Parameters:
        run_id: The run to advance.
        seq: The checkpoint that it stood at; a run that has moved on since makes the ticket void.
        attempt: How many attempts of the step had begun.
        timeout_seconds: How long an attempt may take, exact to a millisecond; None: any time.
    """

    run_id: str
    seq: int
    attempt: int = 0
    timeout_seconds: float | None = None

    def sign(self, codec: Codec) -> str:
        """Write the ticket as a job's id that only a holder of the secret key can make."""
        return codec.sign(self.text, purpose=PURPOSE).replace(".", "-")

    @classmethod
    def read(cls, job_id: object, codec: Codec) -> Self:
        """Verify a job's id and read the ticket in it.

        Raises:
            TokenInvalid: it is forged, malformed, made for another purpose, or signed with a
                retired key.
        """
        parts = None if not isinstance(job_id, str) else _SIGNED.fullmatch(job_id)
        if parts is None:
            message = "This is no id of a job of flowroute's. Nothing was run."
            raise TokenInvalid(message)
        text, signature = parts.groups()
        return cls.parse(codec.unsign(f"{text}.{signature}", purpose=PURPOSE))

    @property
    def text(self) -> str:
        """The ticket without a signature, for whoever trusts its sender."""
        seconds = self.timeout_seconds
        # Through whole microseconds, which a timedelta has: 0.07 * 1000 is more than 70.
        milliseconds = 0 if seconds is None else math.ceil(round(seconds * 1_000_000) / 1000)
        return f"flowroute-{self.run_id}-{self.seq}-{self.attempt}-{milliseconds}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `text` wrote.

        Raises:
            TokenInvalid: it names no run.
        """
        parts = _TEXT.fullmatch(text)
        if parts is None or not is_run_id(parts[1]):
            message = "The id of this job is signed but names no run. Nothing was run."
            raise TokenInvalid(message)
        milliseconds = int(parts[4])
        return cls(parts[1], int(parts[2]), int(parts[3]), milliseconds / 1000 or None)

    @property
    def job_timeout(self) -> int:
        """The timeout as RQ takes it: whole seconds, and -1 for any time."""
        seconds = self.timeout_seconds
        return -1 if seconds is None else max(LEAST_TIMEOUT_SECONDS, math.ceil(seconds))


# Set by flowroute's own workers before they fork; a stock worker loads it when its first job
# arrives.
_engine: Engine | None = None


def serve(engine: Engine) -> None:
    """Make an engine the one that the jobs of this process, and of its forks, advance."""
    # RQ calls a function by its name, so the engine belongs to the process.
    global _engine  # noqa: PLW0603
    _engine = engine


def served_engine() -> Engine:
    """The engine of this process: the one given to `serve`, else the one `FLOWROUTE_ENGINE` names.

    Raises:
        ConfigurationError: neither is there, or the variable names no engine.
    """
    if _engine is None:
        reference = os.environ.get(ENGINE_VARIABLE)
        if not reference:
            message = (
                f"This worker knows no engine. Start it with {ENGINE_VARIABLE}=module:attribute in "
                "its environment, or use flowroute's own worker, which also loads the application "
                "only once."
            )
            raise ConfigurationError(message)
        engine = load_engine(reference)
        serve(engine)
        return engine
    return _engine


def advance(*arguments: object, **named: object) -> None:
    """Advance the run that a ticket names. RQ calls this; nothing else should.

    A forged or malformed ticket is logged, and the job ends without effect and without an error: RQ
    would keep a failed job's data for as long as its sender asked. A ticket that is late or came
    twice is a quiet no-op. What a step raises is recorded in the run and not raised here.

    Parameters:
        arguments: Exactly one: the job's id, which is a signed ticket.
        named: None.

    Raises:
        ConfigurationError: this process has no engine.
        Exception: the engine could not work, such as for want of its database. The run is
            untouched, and recovery submits it again.
    """
    disarm_alarm()  # before the application is loaded, which may take longer than a step may
    engine = served_engine()
    job_id = arguments[0] if len(arguments) == 1 and not named else None
    try:
        ticket = Ticket.read(job_id, engine.codec)
    except TokenInvalid as refusal:
        job = rq.get_current_job()
        # The sentence says it all; a traceback would bury it.
        _logger.error("Refused RQ job %r: %s", job and job.id, refusal)  # noqa: TRY400
        return
    run(engine, ticket)


def run(engine: Engine, ticket: Ticket) -> None:
    """Advance the run of a verified ticket.

    Raises:
        Exception: the engine could not work, such as for want of its database.
    """
    if not engine.advance(ticket.run_id, ticket.seq, ticket.timeout_seconds):
        _logger.debug("run %s: the hint for checkpoint %s came late", ticket.run_id, ticket.seq)


def disarm_alarm() -> None:
    """Take back the alarm that a stock RQ worker set for the whole job.

    It would raise an ordinary exception, which a step can swallow, and after the step that the
    timeout is of it would hit another one of the same job. The dispatcher enforces each step's
    timeout itself.
    """
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGALRM"):
        armed_by = getattr(signal.getsignal(signal.SIGALRM), "__self__", None)
        if isinstance(armed_by, UnixSignalDeathPenalty):
            signal.alarm(0)
