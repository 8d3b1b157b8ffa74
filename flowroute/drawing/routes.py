"""How the arrows of a drawing run between its boxes: curves that leave and arrive upright."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flowroute.drawing.spots import LANE, Arrow, Chain, Layout, Spot

PORT = 24.0
"""Pixels between the ends of arrows at one box."""
TIP = 7.0
"""The length of an arrowhead in pixels."""
LABEL_HEIGHT = 20.0
"""Pixels."""

_CORNER = 9.0
_INSET = 16.0  # no arrow ends nearer to a corner of a box
_STRAIGHT = 1.0  # pixels aside that still count as straight ahead
# Where a label may sit along its curve; no nearer to a box.
_TRIES = (0.5, 0.44, 0.56, 0.38, 0.62, 0.32, 0.68, 0.26, 0.74, 0.2, 0.8, 0.14, 0.86)

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Route:
    """An arrow with its curve."""

    arrow: Arrow
    path: str
    """The ``d`` of an SVG path, up to the arrowhead."""
    tip: Point
    heading: int
    """Where the arrowhead points: 0 down, 1 to the left, -1 to the right."""
    label: Point
    """The centre of the label."""


def route(layout: Layout) -> list[Route]:
    """Draw the way of each arrow."""
    ports = _ports(layout)
    lanes = _lanes(layout)
    taken: list[tuple[float, float, float]] = []
    routes: list[Route] = []
    for index, chain in enumerate(layout.chains):
        pen = _Pen()
        if chain.back:
            _run_up(pen, chain, lanes[index])
        else:
            _run_down(pen, chain, *ports[index])
        routes.append(
            Route(
                chain.arrow,
                pen.path,
                pen.at,
                chain.side if chain.back else 0,
                _label(chain, pen, taken),
            )
        )
    return routes


class _Pen:
    """Writes the path of one arrow, and remembers the curve that a label may sit on."""

    def __init__(self) -> None:
        self.path = ""
        self.at: Point = (0.0, 0.0)
        self.curve: tuple[Point, Point] | None = None

    def move(self, x: float, y: float) -> None:
        self.path += f"M{number(x)} {number(y)}"
        self.at = (x, y)

    def line(self, x: float, y: float) -> None:
        self.path += f"L{number(x)} {number(y)}"
        self.at = (x, y)

    def bow(self, x: float, y: float) -> None:
        """A curve that is upright at both ends."""
        x0, y0 = self.at
        self.curve = self.curve or (self.at, (x, y))
        middle = (y0 + y) / 2
        self.path += "C" + " ".join(map(number, (x0, middle, x, middle, x, y)))
        self.at = (x, y)

    def corner(self, via: Point, x: float, y: float) -> None:
        self.path += "Q" + " ".join(map(number, (*via, x, y)))
        self.at = (x, y)


def _run_down(pen: _Pen, chain: Chain, start: float, end: float) -> None:
    source, *bends, target = chain.spots
    pen.move(start, source.bottom)
    for bend in bends:
        pen.bow(bend.x, bend.top)
        pen.line(bend.x, bend.bottom)
    pen.bow(end, target.top - TIP)
    pen.at = (end, target.top - 1)


def _run_up(pen: _Pen, chain: Chain, lanes: tuple[Point, Point]) -> None:
    source, *bends, target = chain.spots
    side = chain.side
    (x0, y0), (x1, y1) = lanes
    radius = min(_CORNER, abs(y1 - y0) / 2)
    pen.move(source.edge(side), y0)
    pen.line(x0 - side * radius, y0)
    pen.corner((x0, y0), x0, y0 - radius)
    if source is not target:
        pen.line(x0, source.top)
        for bend in bends:
            pen.bow(bend.x, bend.bottom)
            pen.line(bend.x, bend.top)
        pen.bow(x1, target.bottom)
    pen.line(x1, y1 + radius)
    pen.corner((x1, y1), x1 - side * radius, y1)
    pen.line(target.edge(side) + side * TIP, y1)
    pen.at = (target.edge(side) + side, y1)


def _ports(layout: Layout) -> dict[int, tuple[float, float]]:
    """Where each downward arrow leaves and arrives, so that they do not lie on each other."""
    out: dict[Spot, list[tuple[float, int]]] = {}
    into: dict[Spot, list[tuple[float, int]]] = {}
    for index, chain in enumerate(layout.chains):
        if not chain.back:
            out.setdefault(chain.spots[0], []).append((chain.spots[1].x, index))
            into.setdefault(chain.spots[-1], []).append((chain.spots[-2].x, index))
    starts = dict(_spread(out))
    ends = dict(_spread(into))
    return {index: (start, ends[index]) for index, start in starts.items()}


def _spread(sides: dict[Spot, list[tuple[float, int]]]) -> Iterable[tuple[int, float]]:
    for spot, far in sides.items():
        far.sort()
        room = max(spot.width - 2 * _INSET, 0.0)
        pace = min(PORT, room / max(len(far) - 1, 1))
        middle = (len(far) - 1) / 2
        for place, (x, _) in enumerate(far):
            # What lies straight ahead is reached straight, as far as the others leave room for it.
            if (
                abs(x - spot.x) < _STRAIGHT
                and abs(place - middle) * pace * 2 + pace * middle <= room
            ):
                middle = float(place)
                break
        for place, (_, index) in enumerate(far):
            yield index, spot.x + (place - middle) * pace


def _lanes(layout: Layout) -> dict[int, tuple[Point, Point]]:
    """Where each upward arrow runs beside its source and its target."""
    ends: dict[tuple[Spot, int], list[tuple[int, bool]]] = {}
    for index, chain in enumerate(layout.chains):
        if chain.back:
            for spot, leaves in ((chain.spots[-1], False), (chain.spots[0], True)):
                ends.setdefault((spot, chain.side), []).append((index, leaves))
    points: dict[tuple[int, bool], Point] = {}
    for (spot, side), meeting in ends.items():
        lane_of = {i: lane for lane, i in enumerate(dict.fromkeys(i for i, _ in meeting), 1)}
        # Arrivals above departures, and outer lanes around inner ones: they do not cross.
        meeting.sort(key=lambda end: (end[1], lane_of[end[0]] * (1 if end[1] else -1)))
        pace = min(20.0, (spot.height - 2 * _CORNER) / max(len(meeting) - 1, 1))
        for place, end in enumerate(meeting):
            y = spot.y + (place - (len(meeting) - 1) / 2) * pace
            points[end] = (spot.edge(side) + side * LANE * lane_of[end[0]], y)
    return {i: (points[i, True], points[i, False]) for i, leaves in points if leaves}


def _label(chain: Chain, pen: _Pen, taken: list[tuple[float, float, float]]) -> Point:
    """A free place for the label; `taken` holds the centres and widths of those before."""
    width = chain.arrow.label_width
    if not width:
        return pen.at
    if pen.curve is None:  # from a box to itself: beside its lane
        spot = chain.spots[0]
        return (spot.edge(1) + spot.beside - width / 2 - 2, spot.y)
    places = [_along(*pen.curve, t) for t in _TRIES]
    place = next((p for p in places if not _overlaps(p, width, taken)), places[0])
    taken.append((*place, width))
    return place


def _overlaps(place: Point, width: float, taken: Sequence[tuple[float, float, float]]) -> bool:
    x, y = place
    return any(
        abs(x - its_x) < (width + its_width) / 2 and abs(y - its_y) < LABEL_HEIGHT
        for its_x, its_y, its_width in taken
    )


def _along(start: Point, end: Point, t: float) -> Point:
    """A point on the curve of `_Pen.bow`, from 0 to 1."""
    (x0, y0), (x1, y1) = start, end
    first, second, third = 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
    x = x0 * ((1 - t) ** 3 + first) + x1 * (second + third)
    y = y0 * (1 - t) ** 3 + (y0 + y1) / 2 * (first + second) + y1 * third
    return x, y


def number(value: float) -> str:
    """A coordinate, as short as it can be told apart on a screen."""
    return f"{round(value, 1) + 0.0:.1f}".removesuffix(".0")
