"""The rows of the tables as values, and what a change of them is conditional on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from flowroute.engine import schema


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A row of ``flowroute_run``; `flowroute.engine.schema` says what each column means."""

    id: str
    flow: str
    flow_version: int
    key: str | None
    owner: str | None
    parent_id: str | None
    parent_seq: int | None
    state: str
    waiting_for: str | None
    step: str | None
    seq: int
    epoch: int
    attempt: int
    lease_owner: str | None
    lease_until: datetime | None
    deadline_at: datetime | None
    wake_at: datetime | None
    progress: dict[str, Any] | None
    error: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    now: datetime
    """The database's clock when the row was read."""

    @property
    def finished(self) -> bool:
        """Whether the run is done, failed or cancelled."""
        return self.state in schema.FINISHED

    @property
    def lease_over(self) -> bool:
        """Whether the run is running under a lease that has ended."""
        return self.lease_until is not None and self.lease_until <= self.now

    @property
    def due(self) -> bool:
        """Whether the instant at which recovery looks at this run has come."""
        return self.wake_at is not None and self.wake_at <= self.now

    @property
    def overran(self) -> bool:
        """Whether the attempt's process gave up its lease, as the step ignores its timeout."""
        return self.lease_until is not None and self.lease_until <= self.updated_at


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """A row of ``flowroute_checkpoint``; `flowroute.engine.schema` says what each column means."""

    run_id: str
    seq: int
    epoch: int
    step: str | None
    arguments: dict[str, Any] | None
    python: str
    created_at: datetime
    duration: float | None
    attempt: int | None
    executor: str | None


@dataclass(frozen=True, slots=True)
class Bookmark:
    """A run and the payload of its newest checkpoint."""

    record: RunRecord
    payload: bytes
    python: str


class NewCheckpoint(NamedTuple):
    """A checkpoint about to be stored."""

    step: str | None
    payload: bytes
    arguments: dict[str, Any] | None
    python: str
    duration: float | None = None
    attempt: int | None = None
    executor: str | None = None

    def parameters(self, run_id: str, seq: int, epoch: int) -> dict[str, Any]:
        """For the columns of a checkpoint in `flowroute.engine.statements`."""
        return {
            "next_run_id": run_id,
            "next_seq": seq,
            "next_epoch": epoch,
            "next_step": self.step,
            "next_payload": self.payload,
            "next_arguments": self.arguments,
            "next_python": self.python,
            "next_duration": self.duration,
            "next_attempt": self.attempt,
            "next_executor": self.executor,
        }


class Target(NamedTuple):
    """Where a run goes: the columns that an advance sets."""

    state: str
    waiting_for: str | None = None
    attempt: int = 0
    lease_owner: str | None = None
    lease_seconds: float | None = None
    timeout_seconds: float | None = None
    wake_seconds: float | None = None
    wake_at: datetime | None = None
    error: dict[str, Any] | None = None

    def parameters(self) -> dict[str, Any]:
        """For the columns of a run in `flowroute.engine.statements`."""
        lease = self.lease_seconds
        return {
            "state": self.state,
            "waiting_for": self.waiting_for,
            "attempt": self.attempt,
            "lease_owner": self.lease_owner,
            "lease_seconds": lease,
            "half_lease_seconds": None if lease is None else lease / 2,
            "timeout_seconds": self.timeout_seconds,
            "wake_seconds": self.wake_seconds,
            "wake_instant": self.wake_at,
            "finished": 1 if self.state in schema.FINISHED else 0,
        }


class NewRun(NamedTuple):
    """A run about to be stored, at checkpoint 0 and epoch 1."""

    id: str
    flow: str
    flow_version: int
    key: str | None
    owner: str | None
    parent_id: str | None
    parent_seq: int | None
    target: Target
    checkpoint: NewCheckpoint


class Guard(NamedTuple):
    """A run as its writer last saw it: what every UPDATE is conditional on."""

    run_id: str
    seq: int
    epoch: int
    state: str
    parent_id: str | None = None
    """The run that waits for the end of this one; not a condition."""
    parent_seq: int | None = None
    """At which of its checkpoints."""

    def parameters(self) -> dict[str, Any]:
        """For the WHERE clauses of `flowroute.engine.statements`."""
        return {
            "seen_id": self.run_id,
            "seen_seq": self.seq,
            "seen_epoch": self.epoch,
            "seen_state": self.state,
        }


def guard_of(record: RunRecord) -> Guard:
    """The guard of a run that was just read."""
    return Guard(
        record.id, record.seq, record.epoch, record.state, record.parent_id, record.parent_seq
    )
