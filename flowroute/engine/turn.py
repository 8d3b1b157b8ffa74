"""One go at a run: who advances it, where it stands, what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flowroute.engine.step import Place
from flowroute.engine.store import Guard


@dataclass(frozen=True, slots=True)
class Caller:
    """Who advances a run, and what may run there."""

    name: str
    """Written into checkpoints: request, script, or an executor's name."""
    places: frozenset[Place]
    """The places of the steps it can run."""
    submits: bool = False
    """Whether it brings a person's answer to a page, and so claims the run before the page is called."""


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
    """What the run row says: running under this turn's lease, or waiting for the page that is being shown."""
    transient: int = 0
    """How often the database asked for another try of this attempt."""

    @property
    def guard(self) -> Guard:
        """What this turn's next write is conditional on."""
        return Guard(self.run_id, self.seq, self.epoch, self.state)
