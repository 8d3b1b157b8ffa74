"""What a measurement is, and how two things are compared: in turn, in one run, by medians."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SIGNIFICANT = 4
"""Digits of a stored number: a machine is never steadier than that."""


@dataclass(frozen=True, slots=True)
class Bar:
    """What a value must reach.

    Parameters:
        sign: ``>=``, ``<=`` or ``=``.
        limit: The number it is compared with.
    """

    sign: str
    limit: float

    def __str__(self) -> str:
        return f"{self.sign} {self.limit:g}"

    def holds(self, value: float) -> bool:
        """Whether a value reaches it."""
        if self.sign == ">=":
            return value >= self.limit
        if self.sign == "<=":
            return value <= self.limit
        return value == self.limit


def at_least(limit: float) -> Bar:
    """A bar that larger values reach."""
    return Bar(">=", limit)


def at_most(limit: float) -> Bar:
    """A bar that smaller values reach."""
    return Bar("<=", limit)


def exactly(limit: float) -> Bar:
    """A bar for what is counted."""
    return Bar("=", limit)


@dataclass(slots=True)
class Result:
    """One value of one figure.

    Parameters:
        figure: The figure's name.
        setting: Under which circumstances, in words.
        value: What was measured.
        unit: What the value counts; ``ratio`` for a ratio.
        bar: What it must reach; None for a value that only informs.
        peers: What was measured beside it, each by its name and unit.
        repetitions: Of how many the value is the median.
        conditions: What the value depends on: versions, PRAGMAs, the machine.
    """

    figure: str
    setting: str
    value: float
    unit: str
    bar: Bar | None = None
    peers: Mapping[str, float] = field(default_factory=dict)
    repetitions: int = 1
    conditions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def holds(self) -> bool | None:
        """Whether the value reaches its bar; None without one."""
        return None if self.bar is None else self.bar.holds(rounded(self.value))

    def as_json(self) -> dict[str, Any]:
        """The object that results.json holds."""
        return asdict(self) | {
            "value": rounded(self.value),
            "bar": None if self.bar is None else str(self.bar),
            "holds": self.holds,
            "peers": {name: rounded(value) for name, value in self.peers.items()},
            "conditions": dict(self.conditions),
        }


def rounded(value: float) -> float:
    """A number with as many digits as mean something."""
    if value == 0 or not math.isfinite(value):
        return value
    return round(value, SIGNIFICANT - 1 - math.floor(math.log10(abs(value))))


class Samples:
    """What each side measured in each repetition.

    Parameters:
        sides: The values by the side's name, in the order of the repetitions.
    """

    def __init__(self, sides: Mapping[str, Sequence[float]]) -> None:
        self._sides = sides

    def median(self, side: str) -> float:
        """The median of one side."""
        return statistics.median(self._sides[side])

    def ratio(self, side: str, other: str) -> float:
        """The median of one side's value over the other's of the same repetition.

        Whatever disturbed the machine in a repetition disturbed both of them.
        """
        pairs = zip(self._sides[side], self._sides[other], strict=True)
        return statistics.median(one / two for one, two in pairs)

    def medians(self, *, but: str = "") -> dict[str, float]:
        """The medians by side, one of them left out."""
        return {side: self.median(side) for side in self._sides if side != but}


def interleave(
    sides: Mapping[str, Callable[[], float]], repetitions: int, *, warm_up: bool = True
) -> Samples:
    """Measure several sides in turn, in one direction and then in the other.

    Parameters:
        sides: What to call for each side; it returns what it measured.
        repetitions: How often each is called.
        warm_up: Whether each is called once before, for nothing.
    """
    found: dict[str, list[float]] = {side: [] for side in sides}
    if warm_up:
        for measure in sides.values():
            measure()
    for repetition in range(repetitions):
        order = list(sides) if repetition % 2 == 0 else list(sides)[::-1]
        for side in order:
            found[side].append(sides[side]())
    return Samples(found)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


Measures = Iterator[Result]
"""What a figure's `measure` gives, each result as soon as it is there."""
