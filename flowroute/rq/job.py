"""The one function that an RQ job calls, and the signed ticket that is its one argument.

A job carries ids, never code: who can write to Redis can repeat a hint, and nothing else. RQ itself
would run any function that a job names, so the ticket is verified before anything happens.
"""

from __future__ import annotations

import logging
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

#: No ticket comes near this many characters.
LONGEST_TOKEN = 1_000

_logger = logging.getLogger("flowroute.rq")


@dataclass(frozen=True, slots=True)
class Ticket:
    """Which run to advance, and from which checkpoint.

    Parameters:
        run_id: The run.
        seq: The checkpoint that it stood at; a run that has moved on since makes the ticket void.
    """

    run_id: str
    seq: int

    def sign(self, codec: Codec) -> str:
        """Write the ticket as a token that only a holder of the secret key can make."""
        return codec.sign(self.text, purpose=PURPOSE)

    @classmethod
    def read(cls, token: object, codec: Codec) -> Self:
        """Verify a token and read the ticket in it.

        Raises:
            TokenInvalid: it is forged, malformed, made for another purpose, or signed with a
                retired key.
        """
        if not isinstance(token, str) or len(token) > LONGEST_TOKEN:
            message = "The argument of this job is not a token. Nothing was run."
            raise TokenInvalid(message)
        return cls.parse(codec.unsign(token, purpose=PURPOSE))

    @property
    def text(self) -> str:
        """The ticket without a signature, for whoever trusts its sender."""
        return f"{self.run_id}/{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `text` wrote.

        Raises:
            TokenInvalid: it names no run.
        """
        run_id, _, seq = text.partition("/")
        if not is_run_id(run_id) or re.fullmatch("[0-9]{1,18}", seq) is None:
            message = "The token of this job is signed but names no run. Nothing was run."
            raise TokenInvalid(message)
        return cls(run_id, int(seq))

    def job_id(self, attempt: int) -> str:
        """The RQ job's id, which names what it is for.

        Parameters:
            attempt: How many attempts of the step had begun.
        """
        return f"flowroute-{self.run_id}-{self.seq}-{attempt}"

    def names(self, job_id: str) -> bool:
        """Whether a job's id is one of this ticket's."""
        return job_id.rpartition("-")[0] == self.job_id(0).rpartition("-")[0]


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
        arguments: Exactly one: the token.
        named: None.

    Raises:
        ConfigurationError: this process has no engine.
        Exception: the engine could not work, such as for want of its database. The run is
            untouched, and recovery submits it again.
    """
    disarm_alarm()  # before the application is loaded, which may take longer than a step may
    engine = served_engine()
    token = arguments[0] if len(arguments) == 1 and not named else None
    try:
        ticket = Ticket.read(token, engine.codec)
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
    if not engine.advance(ticket.run_id, ticket.seq):
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
