"""Workers that serve one engine: RQ's, but with flowroute's loop, and safe from forged jobs.

What differs from RQ's own, and why:

* Only flowroute's jobs are run (see `flowroute.rq.admission`); any other is removed and logged.
* The application is loaded once, before the first fork.
* `Engine.recover` runs each second, between jobs and while one runs, in the worker's only thread.
* A forked process does many jobs, one after another, and the next one is forked, and connected to
  the database, before there is a job for it: a short step takes less time than that.
* A job takes three round trips to Redis, two while others wait, and none in the forked process:
  what counts is in the database. RQ's registries are for people to look at, so only a job of more
  than a second is there.
* Redis may restart, lose everything or be away: the worker waits for it. RQ's ends when that
  happens at the wrong moment.
* RQ's remote commands are not listened to: `Run.cancel` stops a step.
"""

from __future__ import annotations

import os
import sys
import time
from functools import cached_property
from math import inf
from typing import TYPE_CHECKING, cast

import redis
from rq.utils import now
from rq.worker import SimpleWorker, Worker

from flowroute.engine.schema import RUNNING
from flowroute.errors import ConfigurationError, RunNotFound
from flowroute.rq.bystander import Bystander
from flowroute.rq.horse import Horse, describe_end
from flowroute.rq.job import Ticket
from flowroute.rq.loop import ANNOUNCE_SECONDS, FlowLoop

if TYPE_CHECKING:
    from rq import Queue
    from rq.job import Job

    from flowroute.engine.engine import Engine
    from flowroute.rq.admission import FlowJob

#: A forked process is killed this long after its step's timeout, in seconds. The dispatcher has
#: interrupted the step by then, unless the interpreter itself is stuck.
KILL_AFTER_SECONDS = 60.0


class FlowWorker(FlowLoop, Worker):
    """Runs jobs in a forked process, one at a time: a step that crashes takes nothing with it.

    Parameters:
        engine: The engine to serve, with all its flows imported. Its executor must be an
            `RQExecutor`, which says where Redis is and which queue to take jobs from.
        name: The worker's name in RQ's lists; None: a random one.
        recover_seconds: How often recovery runs, in seconds.
        jobs_per_process: How many jobs a forked process does, one after another, before it makes
            way for a fresh one: what steps leave behind in its memory goes with it. 1: each job has
            a process of its own, at the price of a fork and a database connection.

    Raises:
        ConfigurationError: the engine's executor is not an `RQExecutor`, its Redis is too old, or
            `jobs_per_process` is less than 1.
        RedisUnreachable: Redis does not answer.

    Example:
        >>> from shop.flows import engine  # doctest: +SKIP
        >>> FlowWorker(engine).work()  # doctest: +SKIP
    """

    _horse: Horse | None = None
    _spare: Horse | None = None

    def __init__(
        self,
        engine: Engine,
        *,
        name: str | None = None,
        recover_seconds: float = 1.0,
        jobs_per_process: int = 100,
    ) -> None:
        if jobs_per_process < 1:
            message = f"jobs_per_process={jobs_per_process}: give how many jobs, at least 1."
            raise ConfigurationError(message)
        self.jobs_per_process = jobs_per_process
        super().__init__(engine, name=name, recover_seconds=recover_seconds)

    def execute_job(self, job: Job, queue: Queue) -> None:  # noqa: ARG002  # RQ's signature
        """Have a forked process advance the run, and wait for its end."""
        flow_job = cast("FlowJob", job)
        flow_job.started_at = now()
        try:
            horse = self._give(flow_job)
        except OSError as error:  # no memory, or no room for another process
            self.log.exception("Worker %s: can not fork", self.name)
            self.end(flow_job, failure=f"The worker could not fork: {error}")
            return
        if self.more:  # else the fork would only take the time of the one job that there is
            self.get_ready()
        self._watch(flow_job, horse)
        self.get_ready()

    def get_ready(self) -> None:
        """Fork a process for the next job, if none waits or will, and if there will be a job."""
        busy = self._horse
        if self._spare is not None or (busy is not None and busy.takes_more):
            return
        if self._stop_requested:
            return
        try:
            self._spare = self._fork()
        except OSError as error:  # the next job will try again
            self.log.warning(
                "Worker %s: can not fork ahead: %s. The next job is forked when it comes.",
                self.name,
                error,
            )

    def _give(self, job: FlowJob) -> Horse:
        """Give the job to the process that waits, or to a new one if that has died.

        Raises:
            OSError: the system has no room for another process.
        """
        order = job.ticket.text.encode()
        horse, self._spare = self._spare, None
        while horse is None or not horse.give(order):
            horse = self._fork()
        self._horse, self._horse_pid = horse, horse.pid
        return horse

    def _fork(self) -> Horse:
        return Horse(self._prepare, self._work, self.jobs_per_process)

    def teardown(self) -> None:
        """Let the waiting process go, and take the worker out of RQ's lists."""
        if self._spare is not None:
            self._spare.dismiss()
            self._spare = None
        super().teardown()

    def _prepare(self) -> None:
        """In the child: what would be slow the first time."""
        try:
            self.engine.warm_up()
        except Exception:  # the database may be away, and back when there is a job
            self.log.debug("Worker %s: a process is not prepared", self.name, exc_info=True)

    def _work(self, order: bytes) -> None:
        """In the child: do the job."""
        self.perform(Ticket.parse(order.decode()))

    def _watch(self, job: FlowJob, horse: Horse) -> None:
        """Wait until the job is done, recover runs meanwhile, and kill what is stuck."""
        began = time.monotonic()
        announce_at = began + ANNOUNCE_SECONDS
        timeout = job.timeout or 0
        kill_at = began + timeout + KILL_AFTER_SECONDS if timeout > 0 else inf
        while (code := horse.wait(self.recover_seconds)) is None:
            self.begin(job)
            self.get_ready()
            self.recovery.run_if_due()
            if time.monotonic() >= kill_at and self._is_stuck(job):
                self.log.error("Worker %s: job %s is stuck, killing it", self.name, job.id)
                self.kill_horse()
            elif time.monotonic() >= announce_at:
                announce_at = time.monotonic() + ANNOUNCE_SECONDS
                self._keep_alive(job)
        self._horse, self._horse_pid = None, 0
        if horse.takes_more:
            self._spare = horse
        failure = None
        if code != os.EX_OK:
            failure = f"The process of this job failed: {describe_end(code)}."
            self.log.error("Worker %s: job %s: %s", self.name, job.id, failure)
        self.end(job, failure=failure)

    def _keep_alive(self, job: FlowJob) -> None:
        if job.execution is None:
            return
        try:
            self.maintain_heartbeats(job, job.execution)
        except redis.RedisError as error:
            self.log.warning("Worker %s: not announced: %s", self.name, error)

    def _is_stuck(self, job: FlowJob) -> bool:
        """Whether a job whose time is over is still in the step that the time is of."""
        try:
            record = self.engine.lookup.read(job.ticket.run_id)
        except RunNotFound:
            return True
        except Exception:  # the database may be away: look again in a second
            self.log.exception("Worker %s: can not tell whether %s is stuck", self.name, job.id)
            return False
        return record.seq == job.ticket.seq or record.state != RUNNING


class InlineFlowWorker(FlowLoop, SimpleWorker):
    """Runs each job in the worker's own process: quicker, and the database connection stays open.

    For steps that are short and can be trusted: one that crashes the interpreter takes the worker
    with it, and one that can not be interrupted holds it up. Recovery pauses while a job runs.

    Parameters:
        engine: As for `FlowWorker`.
        name: As for `FlowWorker`.
        recover_seconds: As for `FlowWorker`.

    Raises:
        ConfigurationError: As for `FlowWorker`.
        RedisUnreachable: As for `FlowWorker`.
    """

    @cached_property
    def _bystander(self) -> Bystander[FlowJob]:
        return Bystander(self.begin, self.recover_seconds)

    def teardown(self) -> None:
        """End the thread that looks on, and take the worker out of RQ's lists."""
        self._bystander.close()
        super().teardown()

    def execute_job(self, job: Job, queue: Queue) -> None:  # noqa: ARG002  # RQ's signature
        """Advance the run."""
        flow_job = cast("FlowJob", job)
        flow_job.started_at = now()
        failure = None
        try:
            with self._bystander.watching(flow_job):
                self.perform(flow_job.ticket)
        except Exception as error:  # noqa: BLE001 - logged already; the worker outlives the job
            failure = f"{type(error).__name__}: {error}"
        # What the step printed is there now, and not only when a buffer is full.
        sys.stdout.flush()
        sys.stderr.flush()
        self.end(flow_job, failure=failure)
