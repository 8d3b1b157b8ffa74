"""What a worker takes from Redis: flowroute's own jobs, read without trusting a byte.

RQ would unpickle a job, import whatever functions it names (the job, its callbacks) and call the
web addresses in it. Who can write to Redis must not get that far, so of a job's hash only a few
plain fields are read, and its call has to be the one that `RQExecutor` writes.
"""

# pyright: reportUnknownMemberType=false
# rq and redis leave many parameters without a type, so that their methods are partly unknown.

from __future__ import annotations

import json
import re
import zlib
from typing import TYPE_CHECKING, Any, cast

import redis
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from flowroute.errors import TokenInvalid
from flowroute.rq.job import FAILURE_TTL_SECONDS, FUNCTION, LONGEST_TOKEN, Ticket

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rq import Queue
    from rq.executions import Execution

    from flowroute.engine.codec import Codec

#: The fields that are read beside the call, and their form. Not among them: callbacks, web hooks,
#: retries, repeats, groups, dependencies, results and meta data.
FIELDS = {
    b"origin": re.compile(rb"[\x20-\x7e]{0,200}"),
    b"status": re.compile("|".join(JobStatus).encode() + b"|"),
    b"timeout": re.compile(rb"-1|[0-9]{0,9}"),
}

#: The name of the function, the token, and JSON around them.
LONGEST_CALL = LONGEST_TOKEN + 100

_JOB_ID = re.compile(r"flowroute-[A-Za-z0-9-]{1,200}")


class ForeignJobError(NoSuchJobError):
    """A job that is not flowroute's. RQ, which must not touch it either, is told it is gone."""


class FlowJob(Job):
    """A job of flowroute's own: one token, and nothing else that could be run."""

    token: str
    """The job's one argument, as it was found: not verified."""
    ticket: Ticket
    """What the token says. Set once it has been verified."""
    execution: Execution | None = None
    """What RQ knows of its start. Set once that has been written to Redis."""

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Read a job's hash as Redis returned it.

        Raises:
            NoSuchJobError: only a remnant of a job is left.
            ForeignJobError: it is not a job of flowroute's.
        """
        if b"data" not in raw_data:
            message = "Only a remnant of this job is left."
            raise NoSuchJobError(message)
        call = _plain(raw_data[b"data"])
        self.token = _token(call)
        fields = {b"data": call}
        for name, form in FIELDS.items():
            value = raw_data.get(name, b"")
            if form.fullmatch(value) is None:
                message = f"its {name.decode()} is {value[:40]!r}"
                raise ForeignJobError(message)
            fields[name] = value
        super().restore(fields)
        self.failure_ttl = FAILURE_TTL_SECONDS


def admit(raw_id: bytes, queue: Queue, codec: Codec) -> FlowJob:
    """Read a job that was popped from the queue.

    Parameters:
        raw_id: What lay in the queue.
        queue: Where it was popped from.
        codec: Verifies the job's token.

    Returns:
        The job, its ticket verified.

    Raises:
        ForeignJobError: it is not flowroute's: forged, altered, or somebody else's.
        NoSuchJobError: it is gone. A hint that was served twice looks like this.
    """
    try:
        job_id = raw_id.decode("ascii")
    except UnicodeDecodeError as error:
        message = "its id is not text"
        raise ForeignJobError(message) from error
    if _JOB_ID.fullmatch(job_id) is None:
        message = "its id is not one of flowroute's"
        raise ForeignJobError(message)
    try:
        job = FlowJob(job_id, queue.connection, JSONSerializer)
        job.restore(_fields(queue.connection, job.key))
        ticket = Ticket.read(job.token, codec)
    except redis.ResponseError as error:
        message = f"what is stored under its id is no job ({error})"
        raise ForeignJobError(message) from error
    except TokenInvalid as error:
        raise ForeignJobError(str(error)) from error
    if not ticket.names(job_id):
        message = "its token was made for another job"
        raise ForeignJobError(message)
    job.ticket = ticket
    job.origin = queue.name
    return job


def _fields(connection: redis.Redis, key: str | bytes) -> dict[bytes, bytes]:
    """What is read of a job, as far as it is there."""
    names = [b"data", *FIELDS]
    values = cast("list[bytes | None]", connection.hmget(key, names))
    return {name: value for name, value in zip(names, values, strict=True) if value is not None}


def _plain(data: bytes) -> bytes:
    """The call, decompressed up to a bound: a few kilobytes can unpack to gigabytes."""
    unpacking = zlib.decompressobj()
    try:
        call = unpacking.decompress(data, LONGEST_CALL)
    except zlib.error as error:
        message = "its call is not packed as RQ packs it"
        raise ForeignJobError(message) from error
    if not unpacking.eof:
        message = "its call is cut short, or longer than any of flowroute's"
        raise ForeignJobError(message)
    return call


def _token(call: bytes) -> str:
    try:
        parts: Any = json.loads(call)
    except (ValueError, RecursionError) as error:
        message = "its call is not JSON"
        raise ForeignJobError(message) from error
    match parts:
        case [function, None, [str(token)], named] if function == FUNCTION and named == {}:
            return token
        case _:
            message = f"it does not call {FUNCTION} with one token"
            raise ForeignJobError(message)
