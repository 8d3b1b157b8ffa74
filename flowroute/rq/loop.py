"""The loop of flowroute's workers: take one job after another, and recover runs meanwhile."""

# pyright: reportUnknownMemberType=false
# rq and redis leave many parameters without a type, so that their methods are partly unknown.

from __future__ import annotations

import gc
import math
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, cast

import redis
from rq import Queue, worker_registration
from rq.defaults import DEFAULT_LOGGING_DATE_FORMAT, DEFAULT_LOGGING_FORMAT
from rq.executions import Execution
from rq.serializers import JSONSerializer
from rq.suspension import WORKERS_SUSPENDED
from rq.utils import now
from rq.worker import BaseWorker, DequeueStrategy, WorkerStatus

from flowroute.errors import ConfigurationError
from flowroute.rq import connections
from flowroute.rq.admission import Admission, FlowJob, ForeignJobError
from flowroute.rq.executor import RQExecutor
from flowroute.rq.job import Ticket, run, serve
from flowroute.rq.pacing import Outage, RecoveryBeat

if TYPE_CHECKING:
    from types import FrameType

    from redis.client import Pipeline
    from rq.job import Job

    from flowroute.engine.engine import Engine

#: How long Redis may take to answer a worker, beyond the time that a command is meant to wait, in
#: seconds.
ANSWER_SECONDS = 5.0

#: How often a worker writes to Redis that it lives, in seconds. RQ gives up a job that is silent
#: for 60.
ANNOUNCE_SECONDS = 20.0


class FlowLoop(BaseWorker):
    """What flowroute's workers have in common.

    Parameters:
        engine: The engine to serve, with all its flows imported. Its executor must be an
            `RQExecutor`, which says where Redis is and which queue to take jobs from.
        name: The worker's name in RQ's lists; None: a random one.
        recover_seconds: How often recovery runs, in seconds.

    Raises:
        ConfigurationError: the engine's executor is not an `RQExecutor`, or its Redis is too old.
        RedisUnreachable: Redis does not answer.
    """

    # RQ's own maintenance looks jobs up as well: for it, too, none but flowroute's exist.
    job_class = FlowJob

    def __init__(
        self, engine: Engine, *, name: str | None = None, recover_seconds: float = 1.0
    ) -> None:
        executor = engine.executor
        if not isinstance(executor, RQExecutor):
            message = (
                "A worker serves an engine whose worker steps go to RQ; this one's go to the "
                f"{executor.name!r} executor. Make it with executor=RQExecutor(redis_url); in a "
                "Flask application set FLOWROUTE_REDIS_URL."
            )
            raise ConfigurationError(message)
        executor.ping()
        connection = connections.separate(
            executor.connection, answer_seconds=recover_seconds + ANSWER_SECONDS
        )
        self.engine = engine
        self.recover_seconds = recover_seconds
        self.queue = Queue(
            executor.queue.name,
            connection=connection,
            job_class=FlowJob,
            serializer=JSONSerializer,
        )
        self._admission = Admission(self.queue, engine.codec)
        self._owns_connection = connection is not executor.connection
        self.recovery = RecoveryBeat(engine, recover_seconds)
        self._look_at = 0.0
        self._announce_at = 0.0
        self._tidy_at = 0.0
        self._suspended = False
        self._popped: bytes | None = None
        self.more = False
        """Whether more jobs waited when the last one ended."""
        super().__init__(self.queue, name, connection=connection, serializer=JSONSerializer)

    @property
    def connection_timeout(self) -> int:
        """The least socket timeout that RQ's base class insists on, in seconds."""
        return math.ceil(self.recover_seconds + ANSWER_SECONDS)

    # -- the loop ----------------------------------------------------------------------------------

    # RQ's signature.
    def work(  # noqa: PLR0917
        self,
        burst: bool = False,  # noqa: FBT001, FBT002
        logging_level: str | None = None,
        date_format: str = DEFAULT_LOGGING_DATE_FORMAT,
        log_format: str = DEFAULT_LOGGING_FORMAT,
        max_jobs: int | None = None,
        max_idle_time: int | None = None,
        with_scheduler: bool = False,  # noqa: FBT001, FBT002
        dequeue_strategy: DequeueStrategy = DequeueStrategy.DEFAULT,  # noqa: ARG002
    ) -> bool:
        """Serve the engine until a signal, or one of the limits, ends it.

        SIGTERM or SIGINT lets the current job finish and then ends the worker; an idle one ends
        within about a second. A second signal also kills the job, whose run another worker
        continues after its lease.

        Parameters:
            burst: Recover once, do what is queued, and return.
            logging_level: Of RQ's loggers, such as ``"INFO"``.
            date_format: Of RQ's log lines.
            log_format: Of RQ's log lines.
            max_jobs: Return after this many jobs.
            max_idle_time: Return after this many seconds without a job.
            with_scheduler: Must be False: timers are kept in the database.
            dequeue_strategy: Has no meaning for one queue.

        Returns:
            Whether a job was run.

        Raises:
            ValueError: `with_scheduler` was asked for.
            TablesMissing: flowroute's tables do not exist in the database.
            RedisUnreachable: Redis does not answer when the worker starts. Later on it is waited
                for.
        """
        if with_scheduler:
            message = "flowroute keeps its timers in the database: leave out RQ's scheduler."
            raise ValueError(message)
        self.engine.before_forks()
        serve(self.engine)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self.request_stop)
            signal.signal(signal.SIGTERM, self.request_stop)
        try:
            self.bootstrap(logging_level, date_format, log_format)
        except redis.RedisError as error:
            raise connections.unreachable(self.connection, error) from error
        # What is loaded by now stays: a collection in a fork need not touch, and so copy, the
        # memory it is in.
        gc.collect()
        gc.freeze()
        ended = 0
        try:
            self.get_ready()
            while max_jobs is None or ended < max_jobs:
                found = self.dequeue_job_and_maintain_ttl(
                    None if burst else self.dequeue_timeout, max_idle_time
                )
                if found is None:
                    break
                self.execute_job(*found)
                ended += 1
        finally:
            self.teardown()
        return bool(ended)

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Wait for a job of flowroute's, and recover runs meanwhile.

        Parameters:
            timeout: None: return None at once if there is no job. Else `recover_seconds` is what
                counts.
            max_idle_time: Return None after this many seconds without a job; None: never.

        Returns:
            The job, its ticket verified, and its queue; None if the worker shall end.
        """
        idle_until = time.monotonic() + (math.inf if max_idle_time is None else max_idle_time)
        outage = Outage()
        while not self._stop_requested:
            self.recovery.run_if_due()
            try:
                self._keep_house()
                job = self._next_job(wait=timeout is not None)
            except redis.RedisError as error:
                self._announce_at = 0.0  # a Redis that comes back may have forgotten this worker
                outage.pause(error)
                continue
            outage.over()
            if job is not None:
                return job, self.queue
            if timeout is None or time.monotonic() >= idle_until:
                break
        return None

    def _next_job(self, *, wait: bool) -> FlowJob | None:
        if self._suspended:
            self._give_back()
            if wait:
                time.sleep(self.recover_seconds)
            return None
        while (raw_id := self._pop(wait=wait)) is not None:
            try:
                return self._admission.admit(raw_id)
            except ForeignJobError as refusal:
                # The sentence says it all; a traceback would bury it.
                self.log.error(  # noqa: TRY400
                    "Worker %s: refused job %.200r: %s", self.name, raw_id, refusal
                )
                self._remove(raw_id, FlowJob.redis_job_namespace_prefix.encode() + raw_id)
            wait = False
        return None

    def _pop(self, *, wait: bool) -> bytes | None:
        if self._popped is not None:
            popped, self._popped = self._popped, None
            return popped
        source, intermediate = self.queue.key, self.queue.intermediate_queue_key
        if not wait:
            return cast("bytes | None", self.connection.lmove(source, intermediate))
        # redis-py's type is int; Redis takes fractions of a second.
        seconds = cast("int", self.recover_seconds)
        return cast("bytes | None", self.connection.blmove(source, intermediate, seconds))

    def _give_back(self) -> None:
        """Put the job that was popped, and will not be run here, where it was."""
        if self._popped is None:
            return
        popped, self._popped = cast("str", self._popped), None
        with self._together() as pipeline:
            pipeline.lrem(self.queue.intermediate_queue_key, 1, popped)
            pipeline.lpush(self.queue.key, popped)
            pipeline.execute()

    def _remove(self, raw_id: bytes, key: bytes) -> None:
        with self._together() as pipeline:
            pipeline.lrem(self.queue.intermediate_queue_key, 0, cast("str", raw_id))
            pipeline.delete(key)
            pipeline.execute()

    def _together(self) -> Pipeline:
        """Commands that are sent at once, without MULTI: it would double the answers.

        What a worker that dies leaves half written is tidied up like what it leaves whole.
        """
        return self.connection.pipeline(transaction=False)

    # -- between jobs
    # --------------------------------------------------------------------------------

    def _keep_house(self) -> None:
        """Obey ``rq suspend``, say that the worker lives, tidy up: RQ does that for each job."""
        now_seconds = time.monotonic()
        if now_seconds >= self._look_at:
            self._look_at = now_seconds + self.recover_seconds
            self._suspended = bool(self.connection.exists(WORKERS_SUSPENDED))
        if now_seconds >= self._announce_at:
            fields: dict[Any, Any] = self.serialize()  # pyright: ignore[reportUnknownVariableType]
            with self._together() as pipeline:
                self.heartbeat(pipeline=pipeline)
                # All of it each time, for FLUSHALL makes Redis forget the worker.
                pipeline.hset(self.key, mapping=fields)
                worker_registration.register(self, pipeline)
                self.set_state(WorkerStatus.IDLE, pipeline)
                pipeline.execute()
            self._announce_at = now_seconds + ANNOUNCE_SECONDS
        if now_seconds >= self._tidy_at:
            self._tidy_at = now_seconds + self.maintenance_interval
            self._tidy()

    def _tidy(self) -> None:
        try:
            self.run_maintenance_tasks()  # type: ignore[no-untyped-call]  # RQ leaves it untyped
        except redis.ConnectionError:
            raise
        except Exception:
            # Anyone can write anything into RQ's registries, and none of it matters for a run.
            self.log.exception("Worker %s: tidying up RQ's registries failed", self.name)

    # -- one job
    # -------------------------------------------------------------------------------------

    def begin(self, job: FlowJob) -> None:
        """Write to Redis that a job runs here, for people to look at, if that was not written yet.

        Called for a job that takes longer than `recover_seconds`: telling of it takes longer than
        many a step.
        """
        if job.execution is not None:
            return
        seconds = self.get_heartbeat_ttl(job)
        try:
            with self._together() as pipeline:
                execution = Execution.create(job, seconds, pipeline, worker_name=self.name)
                self.set_state(WorkerStatus.BUSY, pipeline)
                job.prepare_for_execution(self.name, pipeline)
                pipeline.lrem(self.queue.intermediate_queue_key, 1, job.id)
                pipeline.execute()
        except redis.RedisError as error:
            self.log.warning(
                "Worker %s: start of job %s not recorded: %s. It runs all the same.",
                self.name,
                job.id,
                error,
            )
            self._announce_at = 0.0
            return
        self.log.info("Worker %s: %s goes on", self.name, job.ticket.text)
        job.execution = execution
        self.executions[execution.id] = execution

    def perform(self, ticket: Ticket) -> None:
        """Advance the run that a ticket names.

        No alarm is set, unlike in RQ: the dispatcher enforces each step's timeout.

        Raises:
            Exception: the engine could not work, such as for want of its database.
        """
        try:
            run(self.engine, ticket)
        except BaseException:  # logged here, for a fork ends silently
            self.log.exception(
                "Worker %s: the job of run %s at checkpoint %s failed; recovery will repeat it",
                self.name,
                ticket.run_id,
                ticket.seq,
            )
            raise

    def get_ready(self) -> None:
        """Do what can be done before there is a job."""

    def end(self, job: FlowJob, *, failure: str | None) -> None:
        """Write to Redis that a job ended, and pop the next one by the same round trip.

        A job without a failure leaves no trace.

        Parameters:
            job: The job.
            failure: Why the engine could not work; kept in RQ's failed registry for a while. A step
                that raised is no failure: that is recorded in the run.
        """
        if failure is not None:
            self.begin(job)
        execution = job.execution
        ended_at = job.ended_at = now()
        try:
            if failure is not None and execution is not None:
                self.handle_job_failure(job, self.queue, exc_string=failure, execution=execution)
            with self._together() as pipeline:
                if execution is not None:
                    self.set_state(WorkerStatus.IDLE, pipeline)
                if failure is None:
                    if execution is None:
                        pipeline.lrem(self.queue.intermediate_queue_key, 1, job.id)
                    else:
                        self.cleanup_execution(job, pipeline, execution)
                    pipeline.delete(job.key)
                    self.increment_successful_job_count(pipeline)
                    if job.started_at is not None:
                        self.increment_total_working_time(ended_at - job.started_at, pipeline)
                pipeline.lmove(self.queue.key, self.queue.intermediate_queue_key)
                self._popped = pipeline.execute()[-1]
                self.more = self._popped is not None
        except redis.RedisError as error:
            # What stays behind is replaced when the hint is repeated, or expires.
            self.log.warning("Worker %s: end of job %s not recorded: %s", self.name, job.id, error)
            self._announce_at = 0.0
        finally:
            took = ended_at - (job.started_at or ended_at)
            self.log.info("Worker %s: %s took %s", self.name, job.ticket.text, took)
            if execution is not None:
                self.executions.pop(execution.id, None)

    # -- signals, and what is left out of RQ
    # ---------------------------------------------------------

    # A signal handler's signature.
    def request_stop(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """End after the current job, on the first SIGTERM or SIGINT.

        RQ raises an exception here when it is idle, which may lose a job that was popped just then;
        this loop looks at the request between two short waits.
        """
        self._shutdown_requested_date = now()
        self._stop_requested = True
        signal.signal(signal.SIGINT, self.request_force_stop)
        signal.signal(signal.SIGTERM, self.request_force_stop)
        self.log.info("Worker %s: ends after its current job", self.name)

    def subscribe(self) -> None:
        """Listen to no remote commands: that takes a thread, a risk beside `fork`."""

    def teardown(self) -> None:
        """Take the worker out of RQ's lists, if Redis is there."""
        try:
            self._give_back()
            super().teardown()  # type: ignore[no-untyped-call]  # RQ leaves it untyped
        except redis.RedisError as error:
            self.log.warning("Worker %s: its end was not recorded: %s", self.name, error)
        if self._owns_connection:
            self.connection.close()
