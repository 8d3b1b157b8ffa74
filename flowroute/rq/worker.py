"""Workers that serve one engine: RQ's, but with flowroute's loop, and safe from forged jobs.

What differs from RQ's own, and why:

* Only flowroute's jobs are run (see `flowroute.rq.admission`); any other is removed and logged.
* The application is loaded once, before the first fork.
* `Engine.recover` runs each second, between jobs and while one runs, in the worker's only thread.
* A job takes four round trips to Redis, and none in the forked process: what counts is in the
  database, and RQ's registries are for people to look at.
* Redis may restart, lose everything or be away: the worker waits for it. RQ's ends when that
  happens at the wrong moment.
* RQ's remote commands are not listened to: `Run.cancel` stops a step.
"""

from __future__ import annotations

import os
import sys
import time
from math import inf
from typing import TYPE_CHECKING, cast

import redis
from rq.utils import now
from rq.worker import SimpleWorker, Worker

from flowroute.engine.schema import RUNNING
from flowroute.errors import RunNotFound
from flowroute.rq.horse import Horse, describe_end, outlive_signals
from flowroute.rq.loop import ANNOUNCE_SECONDS, FlowLoop

if TYPE_CHECKING:
    from rq import Queue
    from rq.executions import Execution
    from rq.job import Job

    from flowroute.rq.admission import FlowJob

#: A forked process is killed this long after its step's timeout, in seconds. The dispatcher has
#: interrupted the step by then, unless the interpreter itself is stuck.
KILL_AFTER_SECONDS = 60.0


class FlowWorker(FlowLoop, Worker):
    """Runs each job in a process forked for it: a step that crashes takes nothing with it.

    Parameters:
        engine: The engine to serve, with all its flows imported. Its executor must be an
            `RQExecutor`, which says where Redis is and which queue to take jobs from.
        name: The worker's name in RQ's lists; None: a random one.
        recover_seconds: How often recovery runs, in seconds.

    Raises:
        ConfigurationError: the engine's executor is not an `RQExecutor`, or its Redis is too old.
        RedisUnreachable: Redis does not answer.

    Example:
        >>> from shop.flows import engine  # doctest: +SKIP
        >>> FlowWorker(engine).work()  # doctest: +SKIP
    """

    _horse: Horse

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Fork, let the child advance the run, and wait for its end."""
        flow_job = cast("FlowJob", job)
        execution = self.begin(flow_job)
        if execution is None:
            return
        try:
            self.fork_work_horse(job, queue)
        except OSError as error:  # no memory, or no room for another process
            self.log.exception("Worker %s: can not fork", self.name)
            self.end(flow_job, execution, failure=f"The worker could not fork: {error}")
            return
        self.monitor_work_horse(job, queue, execution)

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        """Fork. The child runs the job and never returns.

        Raises:
            OSError: the system has no room for another process.
        """
        # What is buffered would be printed twice.
        sys.stdout.flush()
        sys.stderr.flush()
        self._horse = Horse()
        try:
            super().fork_work_horse(job, queue)
        except OSError:
            self._horse.give_up()
            raise
        self._horse.forked(self.horse_pid)

    def setup_work_horse_signals(self) -> None:
        """In the child: let the signals that end the worker pass by."""
        outlive_signals()

    # RQ's signature.
    def monitor_work_horse(self, job: Job, queue: Queue, execution: Execution) -> None:  # noqa: ARG002
        """Wait for the child's end, recover runs meanwhile, and kill it if it is stuck."""
        flow_job = cast("FlowJob", job)
        began = time.monotonic()
        announce_at = began + ANNOUNCE_SECONDS
        timeout = job.timeout or 0
        kill_at = began + timeout + KILL_AFTER_SECONDS if timeout > 0 else inf
        job.started_at = now()
        while (code := self._horse.wait(self.recover_seconds)) is None:
            self.recovery.run_if_due()
            if time.monotonic() >= kill_at and self._is_stuck(flow_job):
                self.log.error("Worker %s: job %s is stuck, killing it", self.name, job.id)
                self.kill_horse()
            elif time.monotonic() >= announce_at:
                announce_at = time.monotonic() + ANNOUNCE_SECONDS
                self._keep_alive(job, execution)
        self._horse_pid = 0
        failure = None
        if code != os.EX_OK:
            failure = f"The process of this job failed: {describe_end(code)}."
            self.log.error("Worker %s: job %s: %s", self.name, job.id, failure)
        self.end(flow_job, execution, failure=failure)

    def _keep_alive(self, job: Job, execution: Execution) -> None:
        try:
            self.maintain_heartbeats(job, execution)
        except redis.RedisError as error:
            self.log.warning("Worker %s: not announced: %s", self.name, error)

    def _is_stuck(self, job: FlowJob) -> bool:
        """Whether a job whose time is over is still in the step that the time is of."""
        try:
            record = self.engine.read(job.ticket.run_id)
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

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Advance the run."""
        flow_job = cast("FlowJob", job)
        execution = self.begin(flow_job)
        if execution is None:
            return
        failure = None
        try:
            self.perform_job(job, queue, execution)
        except Exception as error:  # noqa: BLE001 - logged already; the worker outlives the job
            failure = f"{type(error).__name__}: {error}"
        self.end(flow_job, execution, failure=failure)
