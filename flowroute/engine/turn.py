"""One go at a run: who advances it, where it stands, what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

from flowroute.engine import schema
from flowroute.engine.flow import Flow
from flowroute.engine.records import Bookmark, Guard, NewCheckpoint, RunRecord
from flowroute.engine.step import Place, Step


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


class Upcoming(NamedTuple):
    """A step about to be called."""

    flow: Flow
    """With its state."""
    step: Step[Any, Any]
    arguments: dict[str, Any]
    """Validated."""


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
    stale: bool = False
    """Whether what is in memory was undone, or taken for it: the bookmark has to be read again."""
    commits_each: bool = False
    """Whether each step commits, also in a flow that does so at its suspension only."""
    postponed: list[NewCheckpoint] = field(default_factory=list[NewCheckpoint])
    """The checkpoints after the bookmark that a later step's commit stores, in order."""

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
            self.caller,
            run_id,
            None,
            seq=0,
            epoch=1,
            attempt=0,
            state=schema.READY,
            owner=self.owner,
            parent_id=self.run_id,
            parent_seq=self.seq_now + 1,
        )

    @property
    def seq_now(self) -> int:
        """The checkpoint that the turn is at, stored or not."""
        return self.seq + len(self.postponed)

    @property
    def attempt_now(self) -> int:
        """Which attempt this is of the step that the turn is at."""
        return 1 if self.postponed else self.attempt

    def arrived(self, seq: int, state: str) -> None:
        """The run is at another bookmark."""
        self.seq, self.attempt, self.transient, self.state = seq, 1, 0, state
        self.postponed.clear()

    def start_over(self) -> None:
        """Go back to the bookmark: what came after it was undone."""
        self.stale = True
        self.postponed.clear()

    @property
    def guard(self) -> Guard:
        """What this turn's next write is conditional on."""
        return Guard(self.run_id, self.seq, self.epoch, self.state, self.parent_id, self.parent_seq)
