"""One go at a run: who advances it, where it stands, what came of it."""

from __future__ import annotations

from dataclasses import dataclass
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
    transient: int = 0
    """How often the database asked for another try of this attempt."""

    @classmethod
    def at(cls, record: RunRecord, caller: Caller, *, attempt: int) -> Self:
        """A turn at a run as it was just read, without a claim."""
        return cls(caller, record.id, record.key, record.seq, record.epoch, attempt, record.state)

    @property
    def guard(self) -> Guard:
        """What this turn's next write is conditional on."""
        return Guard(self.run_id, self.seq, self.epoch, self.state)
