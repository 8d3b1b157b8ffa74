"""The executor that has RQ workers run the steps: it puts one signed hint into a Redis queue."""

# pyright: reportUnknownMemberType=false
# rq and redis leave many parameters without a type, so that their methods are partly unknown.

from __future__ import annotations

import logging
import time
from copy import copy
from typing import TYPE_CHECKING, cast

import redis
from rq import Queue
from rq.exceptions import DuplicateJobError
from rq.serializers import JSONSerializer
from rq.utils import now

from flowroute.errors import ConfigurationError, FlowrouteError
from flowroute.rq import connections
from flowroute.rq.job import FAILURE_TTL_SECONDS, FUNCTION, Ticket

if TYPE_CHECKING:
    from rq.job import Job

    from flowroute.engine.engine import Engine
    from flowroute.engine.ports import Hint

#: After Redis left a question unanswered it is not asked again for this long, in seconds: a
#: recovery pass over a thousand runs must not wait a thousand times.
SILENCE_SECONDS = 2.0

#: How often an executor writes that its queue exists, in seconds: a Redis that comes back empty has
#: forgotten it.
LIST_SECONDS = 60.0

# A job's hash outlives a worker that died with it, and RQ takes a job id only once. A job that
# waits in the queue is left alone. Any other one makes way: it was popped by a worker that has not
# claimed the run since, or the queue was lost. Should that worker live and claim the run after all,
# the new job finds nothing to do.
_MAKE_WAY = """
if redis.pcall('HGET', KEYS[1], 'status') == 'queued' and redis.call('LPOS', KEYS[2], ARGV[1]) then
    return 0
end
redis.call('LREM', KEYS[3], 0, ARGV[1])
redis.call('DEL', KEYS[1])
return 1
"""

_logger = logging.getLogger("flowroute.rq")


class RQExecutor:
    """Runs worker steps in RQ workers, on this machine and on others.

    Redis only ever carries a hint: the ids of a run, signed. All that matters is in the database,
    so a hint that is lost with Redis or a worker costs the delay until recovery repeats it.

    Parameters:
        redis_url: The URL of Redis (6.2 or newer), or a client. A client is used as it is, its
            timeouts included; for a URL a down Redis is given up within about a second. Nothing is
            connected yet.
        queue: The queue's name. Programs that share a Redis and not a database need different ones.

    Raises:
        ConfigurationError: no such URL, queue name or client can work.

    Example:
        >>> executor = RQExecutor("redis://localhost:6379/0")
        >>> engine = Engine("postgresql:///shop", executor=executor)  # doctest: +SKIP
    """

    name = "rq"

    def __init__(self, redis_url: str | redis.Redis, *, queue: str = "flowroute") -> None:
        self._owns_connection = isinstance(redis_url, str)
        self.connection = (
            connections.connect(redis_url) if isinstance(redis_url, str) else redis_url
        )
        if self.connection.connection_pool.connection_kwargs.get("decode_responses"):
            message = "RQ reads bytes: give a Redis client, or URL, without decode_responses."
            raise ConfigurationError(message)
        if not queue or queue != queue.strip() or "," in queue:
            message = f"{queue!r} can not name a queue: leave out commas and spaces around it."
            raise ConfigurationError(message)
        self.queue = Queue(queue, connection=self.connection, serializer=JSONSerializer)
        # Copied for each job: it takes RQ longer to make one than to send it.
        self._blank = self.queue.create_job(FUNCTION, result_ttl=0, failure_ttl=FAILURE_TTL_SECONDS)
        self._make_way = self.connection.register_script(_MAKE_WAY)
        self._engine: Engine | None = None
        self._silent_until = 0.0
        self._list_at = 0.0

    def __repr__(self) -> str:
        return f"<RQExecutor queue {self.queue.name!r} on {connections.describe(self.connection)}>"

    def attach(self, engine: Engine) -> None:
        """Belong to an engine: its keys sign the jobs.

        Raises:
            ConfigurationError: the executor belongs to another engine.
        """
        if self._engine is not None and self._engine is not engine:
            message = "This RQExecutor belongs to another engine. Make one for each engine."
            raise ConfigurationError(message)
        self._engine = engine

    def start(self) -> None:
        """Start nothing: the work is done by worker processes, which are started on their own."""

    def ping(self) -> None:
        """Make sure that Redis answers and is new enough, for a clear error when a program starts.

        Raises:
            RedisUnreachable: it does not answer, or refuses. The message names it without its
                password.
            ConfigurationError: it is older than 6.2.
        """
        connections.check(self.connection)

    def submit(self, hint: Hint) -> None:
        """Have a worker look at a run. A hint for a job that still waits in the queue adds nothing.

        One round trip; two more for a job whose id is taken.

        Raises:
            RedisUnreachable: Redis did not answer within about a second, or refused.
        """
        if time.monotonic() < self._silent_until:
            error = redis.TimeoutError("it left a question unanswered a moment ago")
            raise connections.unreachable(self.connection, error)
        try:
            self._enqueue(hint)
        except redis.RedisError as error:
            if isinstance(error, redis.TimeoutError):
                self._silent_until = time.monotonic() + SILENCE_SECONDS
            raise connections.unreachable(self.connection, error) from error

    def close(self) -> None:
        """Close the connections to Redis, unless they were given as a client."""
        if self._owns_connection:
            self.connection.close()

    def _enqueue(self, hint: Hint) -> None:
        if self._engine is None:
            message = "This RQExecutor has no engine yet. Give it to one: Engine(…, executor=…)."
            raise FlowrouteError(message, run_id=hint.run_id, step=hint.step)
        ticket = Ticket(hint.run_id, hint.seq, hint.attempt, hint.timeout_seconds)
        job_id = ticket.sign(self._engine.codec)
        job = copy(self._blank)
        job.id, job.args = job_id, (job_id,)
        job.created_at = now()
        job.description = f"{hint.flow}.{hint.step} of run {hint.run_id}"
        job.timeout = ticket.job_timeout
        try:
            self._push(job)
        except DuplicateJobError:
            keys = [job.key, self.queue.key, self.queue.intermediate_queue_key]
            if cast("int", self._make_way(keys=keys, args=[job.id])):
                _logger.info("RQ job %s was lost with its worker; it is queued again", job.id)
                self._enqueue_again(job)

    def _push(self, job: Job) -> None:
        """Put a job into the queue by one round trip.

        RQ's list of queues is for those who look at it: once in a while will do.
        """
        with self.connection.pipeline(transaction=False) as listing:
            self.queue.enqueue_job(job, pipeline=listing, unique=True)
            now = time.monotonic()
            if now >= self._list_at:
                listing.execute()
                self._list_at = now + LIST_SECONDS

    def _enqueue_again(self, job: Job) -> None:
        try:
            self._push(job)
        except DuplicateJobError:
            # Another process repeated the same hint at the same moment, which serves as well.
            _logger.debug("RQ job %s was queued by another process meanwhile", job.id)
