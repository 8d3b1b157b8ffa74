"""What a campaign of faults found: the same figures whatever was broken."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class Report:
    """The figures of one campaign against one database."""

    campaign: str
    """What was broken: crash points, double crashes, chaos, …"""
    database: str
    """sqlite or postgresql."""
    seed: int
    """Repeats the campaign."""
    points: int = 0
    """Places, or runs under load, at which the system was tried."""
    injected: int = 0
    """Faults that really happened."""
    fenced: int = 0
    """Zombies: processes that came back after their lease, and whose writes were refused."""
    lost: list[str] = field(default_factory=list[str])
    """Runs that were accepted and are gone, or lack an effect; each with what repeats it."""
    doubled: list[str] = field(default_factory=list[str])
    """Runs with an effect or a checkpoint more than once."""
    stuck: list[str] = field(default_factory=list[str])
    """Runs that came to no end within the bound."""
    broken: list[str] = field(default_factory=list[str])
    """Other promises that did not hold: bytes that were read, a process that crashed, …"""
    heal_seconds: list[float] = field(default_factory=list[float])
    """From the end of a fault, or from the restart, to the run's end."""
    notes: dict[str, Any] = field(default_factory=dict[str, Any])
    """Figures that only this campaign has."""

    @property
    def clean(self) -> bool:
        """Whether something was tried, and nothing was lost, doubled, stuck or broken."""
        return self.points > 0 and not (self.lost or self.doubled or self.stuck or self.broken)

    def heal_percentile(self, percent: float) -> float | None:
        """A percentile of the heal times by the nearest rank, in seconds; None without any."""
        if not self.heal_seconds:
            return None
        ordered = sorted(self.heal_seconds)
        return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]

    def as_json(self) -> dict[str, Any]:
        """As it stands in ``build/faults.json``: the heal times as their p50 and p99."""
        figures = asdict(self)
        del figures["heal_seconds"]
        return figures | {
            "heal_p50_seconds": self.heal_percentile(50),
            "heal_p99_seconds": self.heal_percentile(99),
        }
