"""What a worker takes from Redis: flowroute's own jobs, read without trusting a byte.

RQ would unpickle a job, import whatever functions it names (the job, its callbacks) and call the
web addresses in it. Who can write to Redis must not get that far: what a worker does is said by the
job's id, which is signed. RQ's maintenance looks jobs up too, and is given a few plain fields of
what Redis knows of them, if the call is one that `RQExecutor` writes.
"""

# pyright: reportUnknownMemberType=false
# rq and redis leave many parameters without a type, so that their methods are partly unknown.

from __future__ import annotations

import json
import re
import zlib
from copy import copy
from typing import TYPE_CHECKING, Any

from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.utils import now

from flowroute.errors import TokenInvalid
from flowroute.rq.job import FAILURE_TTL_SECONDS, FUNCTION, Ticket

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

#: The name of the function, a job's id, and JSON around them: no call of flowroute's is as long.
LONGEST_CALL = 1_100


class ForeignJobError(NoSuchJobError):
    """A job that is not flowroute's. RQ, which must not touch it either, is told it is gone."""


class FlowJob(Job):
    """A job of flowroute's own: a signed ticket, and nothing else that could be run."""

    ticket: Ticket
    """What its id says, verified. Set where a worker takes the job."""
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
        _check(call)
        fields = {b"data": call}
        for name, form in FIELDS.items():
            value = raw_data.get(name, b"")
            if form.fullmatch(value) is None:
                message = f"its {name.decode()} is {value[:40]!r}"
                raise ForeignJobError(message)
            fields[name] = value
        super().restore(fields)
        self.failure_ttl = FAILURE_TTL_SECONDS


class Admission:
    """Takes the jobs of one queue.

    Parameters:
        queue: Where they were popped from.
        codec: Verifies their tickets.
    """

    def __init__(self, queue: Queue, codec: Codec) -> None:
        self._codec = codec
        # Copied for each job: it takes RQ longer to make one than a worker to take it.
        self._blank = FlowJob(None, queue.connection, JSONSerializer)
        self._blank.origin = queue.name
        self._blank.failure_ttl = FAILURE_TTL_SECONDS

    def admit(self, raw_id: bytes) -> FlowJob:
        """The job whose id was popped from the queue: a signed ticket, which says all that counts.

        Whether Redis knows more of the job does not matter: a hint that was served before does
        nothing.

        Parameters:
            raw_id: What lay in the queue.

        Raises:
            ForeignJobError: it is not flowroute's: forged, altered, or somebody else's.
        """
        try:
            job_id = raw_id.decode("ascii")
            ticket = Ticket.read(job_id, self._codec)
        except UnicodeDecodeError as error:
            message = "its id is not text"
            raise ForeignJobError(message) from error
        except TokenInvalid as error:
            raise ForeignJobError(str(error)) from error
        job = copy(self._blank)
        job.id = job_id
        job.created_at = now()
        job.ticket = ticket
        job.timeout = ticket.job_timeout
        job.args = (job_id,)
        job.func_name = FUNCTION
        return job


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


def _check(call: bytes) -> None:
    try:
        parts: Any = json.loads(call)
    except (ValueError, RecursionError) as error:
        message = "its call is not JSON"
        raise ForeignJobError(message) from error
    match parts:
        case [function, None, [str()], named] if function == FUNCTION and named == {}:
            return
        case _:
            message = f"it does not call {FUNCTION} with one text"
            raise ForeignJobError(message)
