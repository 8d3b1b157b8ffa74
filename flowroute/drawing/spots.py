"""What a drawing is made of: boxes and bends in rows, and the arrows through them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

LANE = 16.0
"""Pixels for each arrow that runs up beside a box."""


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a box in pixels."""

    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Arrow:
    """An edge to draw."""

    source: str
    target: str
    label: str = ""
    label_width: float = 0.0


@dataclass(slots=True, eq=False)
class Spot:
    """A box, or a bend of an arrow; `x` and `y` are its centre."""

    name: str
    width: float
    height: float
    row: int
    x: float = 0.0
    y: float = 0.0
    before: float = 0.0
    """Room to the left for arrows that run up there."""
    beside: float = 0.0
    """The same to the right."""
    bend: bool = False

    def edge(self, side: int) -> float:
        """The left edge (-1) or the right one (1)."""
        return self.x + side * self.width / 2

    @property
    def top(self) -> float:
        """The y of the upper edge."""
        return self.y - self.height / 2

    @property
    def bottom(self) -> float:
        """The y of the lower edge."""
        return self.y + self.height / 2


@dataclass(slots=True)
class Chain:
    """An arrow with the spots it passes, from its source to its target."""

    arrow: Arrow
    spots: tuple[Spot, ...]
    back: bool
    """It leads upwards, or from a box to itself: it leaves and arrives at a side."""
    side: int = 1
    """Which: 1 the right, -1 the left."""


@dataclass(frozen=True, slots=True)
class Link:
    """Two spots in neighbouring rows that an arrow joins."""

    upper: Spot
    lower: Spot
    pull: float
    shift: float
    """How far to the right of the upper one the lower one wants to be."""
    usual: bool
    """It joins two boxes, and leads neither back nor to an error."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything in its place."""

    boxes: Mapping[str, Spot]
    chains: Sequence[Chain]


@dataclass(slots=True)
class Rows:
    """All spots from top to bottom and from left to right, and what joins them."""

    rows: list[list[Spot]]
    links: list[list[Link]] = field(default_factory=list[list[Link]])
    """Between each row and the next."""
