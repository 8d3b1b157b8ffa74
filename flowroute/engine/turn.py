"""One go at a run: who advances it, where it stands, what came of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from flowroute.engine import schema
from flowroute.engine.records import Bookmark, Guard, RunRecord
from flowroute.engine.step import Place


@dataclass(frozen=True, slots=True)
class Caller:
    """Who advances a run, and what may run there."""

    name: str
    """Written into checkpoints: request, script, or an executor's name."""
    places: frozenset[Place]
    """The places of the steps it can run."""
    submits: bool = False
    """Whether it brings a person's answer to a page, and so claims the run before the page is
    called."""

    @property
    def onward(self) -> Caller:
        """Who goes on with another run after this one: what a person sent was for this one."""
        return replace(self, places=self.places - {Place.REQUEST}, submits=False)

    def wants(self, record: RunRecord) -> bool:
        """Whether this caller can do anything with a run in this state."""
        if record.state in (schema.READY, schema.BLOCKED):
            return True
        if record.state == schema.DONE:
            return record.step is not None and Place.REQUEST in self.places
        if record.state != schema.WAITING:
            return False
        if record.waiting_for == schema.FOR_WORKER:
            return Place.EXECUTOR in self.places
        return record.waiting_for == schema.FOR_PAGE and Place.REQUEST in self.places


SCRIPT = Caller("script", frozenset({Place.ANYWHERE}))
REQUEST = Caller("request", frozenset({Place.ANYWHERE, Place.REQUEST}))
SUBMIT = Caller("request", frozenset({Place.ANYWHERE, Place.REQUEST}), submits=True)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a turn came to."""

    advanced: bool
    """Whether anything was there to do."""
    answered: bool = False
    """Whether a page answered and the run stays where it is."""
    answer: Any = None
    """What the page returned."""
    ended: bool = False
    """Whether it was the final page that answered."""
    bookmark: Bookmark | None = None
    """The run as it was read; None if it has moved since."""
    onward: str | None = None
    """Another run that this process goes on with: a sub-flow that was called, or the run that
    waited for the end of this one."""


NOTHING = Outcome(advanced=False)
ADVANCED = Outcome(advanced=True)


@dataclass(slots=True)
class Turn:
    """One go at a run."""

    caller: Caller
    run_id: str
    key: str | None
    seq: int
    epoch: int
    attempt: int
    state: str
    """What the run row says: running under this turn's lease, or waiting for the page that is being
    shown."""
    owner: str | None = None
    parent_id: str | None = None
    parent_seq: int | None = None
    transient: int = 0
    """How often the database asked for another try of this attempt."""

    @classmethod
    def at(cls, record: RunRecord, caller: Caller, *, attempt: int) -> Self:
        """A turn at a run as it was just read, without a claim."""
        return cls(
            caller,
            record.id,
            record.key,
            record.seq,
            record.epoch,
            attempt,
            record.state,
            record.owner,
            record.parent_id,
            record.parent_seq,
        )

    def of_child(self, run_id: str) -> Turn:
        """The first turn of a sub-flow that is called by the next checkpoint of this one."""
        return Turn(
            self.caller, run_id, None, 0, 1, 0, schema.READY, self.owner, self.run_id, self.seq + 1
        )

    @property
    def guard(self) -> Guard:
        """What this turn's next write is conditional on."""
        return Guard(self.run_id, self.seq, self.epoch, self.state, self.parent_id, self.parent_seq)
