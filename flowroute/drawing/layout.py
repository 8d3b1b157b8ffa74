"""Where the boxes of a drawing go: in rows, with few crossings and straight ways.

The classic passes over a directed graph: turn around what leads back, put each box one row below
what leads to it, order the rows by barycentres, move everything sideways towards its neighbours. An
arrow over several rows passes those between through *bends*, which take part in all of it like
narrow boxes.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final

from flowroute.drawing.coordinates import move_down, move_sideways, straighten
from flowroute.drawing.spots import LANE, Arrow, Chain, Layout, Link, Rows, Size, Spot

_SWEEPS: Final = 16
# How much the two ends of a link pull at each other: two boxes, a box and a bend, two bends.
# Bends are put in line afterwards anyway.
_PULLS: Final = (4.0, 0.02, 1.0)
_WEAK: Final = 0.002
_BOTH: Final = 2


def arrange(sizes: Mapping[str, Size], arrows: Sequence[Arrow]) -> Layout:
    """Place boxes and arrows.

    Parameters:
        sizes: The boxes by name, in the order in which they are preferred from top and from left.
        arrows: What to draw between them.
    """
    back = _leading_back(sizes, arrows)
    row_of = _rows_of(sizes, arrows, back)
    boxes = {
        name: Spot(name, size.width, size.height, row_of[name]) for name, size in sizes.items()
    }
    rows = Rows([[] for _ in range(max(row_of.values(), default=-1) + 1)])
    for spot in boxes.values():
        rows.rows[spot.row].append(spot)
    chains = [_chain(arrow, boxes, rows, back=arrow in back) for arrow in arrows]
    rows.links = _links(chains, len(rows.rows))
    _order(rows)
    move_sideways(rows)
    _choose_sides(chains)
    rows.links = _links(chains, len(rows.rows))
    move_sideways(rows)
    straighten(rows, chains)
    move_down(rows, chains)
    return Layout(boxes, chains)


# -- rows ------------------------------------------------------------------------------------------


def _leading_back(names: Iterable[str], arrows: Sequence[Arrow]) -> set[Arrow]:
    """The arrows that close a circle, as met on a walk in depth from the first box."""
    onward: dict[str, list[Arrow]] = {name: [] for name in names}
    for each in arrows:
        onward[each.source].append(each)
    back: set[Arrow] = set()
    finished: set[str] = set()
    for name, first in onward.items():
        way: dict[str, Iterator[Arrow]] = {} if name in finished else {name: iter(first)}
        while way:
            here, rest = next(reversed(way.items()))
            arrow = next(rest, None)
            if arrow is None:
                finished.add(here)
                del way[here]
            elif arrow.target in way:
                back.add(arrow)
            elif arrow.target not in finished:
                way[arrow.target] = iter(onward[arrow.target])
    return back


def _rows_of(
    names: Iterable[str], arrows: Sequence[Arrow], back: Iterable[Arrow]
) -> dict[str, int]:
    """Each box one row below the lowest that leads to it."""
    turned = set(back)
    below: dict[str, list[str]] = {name: [] for name in names}
    waiting = dict.fromkeys(below, 0)
    for arrow in arrows:
        if arrow.source != arrow.target:
            ends = (arrow.source, arrow.target)
            upper, lower = reversed(ends) if arrow in turned else ends
            below[upper].append(lower)
            waiting[lower] += 1
    row = dict.fromkeys(below, 0)
    queue = deque(name for name, count in waiting.items() if not count)
    while queue:
        upper = queue.popleft()
        for lower in below[upper]:
            row[lower] = max(row[lower], row[upper] + 1)
            waiting[lower] -= 1
            if not waiting[lower]:
                queue.append(lower)
    return row


def _chain(arrow: Arrow, boxes: Mapping[str, Spot], rows: Rows, *, back: bool) -> Chain:
    source, target = boxes[arrow.source], boxes[arrow.target]
    step = 1 if source.row < target.row else -1
    bends = [
        Spot("", width=2.0, height=0.0, row=row, bend=True)
        for row in range(source.row + step, target.row, step)
        if source is not target
    ]
    for bend in bends:
        rows.rows[bend.row].append(bend)
    return Chain(arrow, (source, *bends, target), back)


def _links(chains: Iterable[Chain], count: int) -> list[list[Link]]:
    links: list[list[Link]] = [[] for _ in range(count)]
    for chain in chains:
        # The usual way keeps straight; what leads back or to an error gives way.
        weak = chain.back or chain.arrow.label
        for one, other in pairwise(chain.spots):
            if one is other:
                continue
            upper, lower = (one, other) if one.row < other.row else (other, one)
            shift = chain.side * (_aside(upper) - _aside(lower)) if chain.back else 0.0
            bends = one.bend + other.bend
            pull = _PULLS[2] if bends == _BOTH else _WEAK if weak else _PULLS[bends]
            usual = not bends and not weak
            links[upper.row].append(Link(upper, lower, pull, shift, usual))
    return links


def _aside(spot: Spot) -> float:
    return 0.0 if spot.bend else spot.width / 2 + LANE


def _choose_sides(chains: Iterable[Chain]) -> None:
    """Let what leads up run on the side where its bends came to lie, and make room there."""
    for chain in chains:
        if chain.back:
            source, *bends, target = chain.spots
            if bends and sum(b.x for b in bends) / len(bends) < (source.x + target.x) / 2:
                chain.side = -1
            room = LANE + (chain.arrow.label_width if source is target else 0.0)
            for box in {source, target}:
                if chain.side > 0:
                    box.beside += room
                else:
                    box.before += room


# -- the order within the rows ---------------------------------------------------------------------


def _order(rows: Rows) -> None:
    best = [list(row) for row in rows.rows]
    fewest = _crossings(rows)
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        down = sweep % 2 == 0
        indices = range(1, len(rows.rows)) if down else range(len(rows.rows) - 2, -1, -1)
        for index in indices:
            _sort_by_neighbours(rows, index, down=down)
        crossings = _crossings(rows)
        if crossings < fewest:
            fewest, best = crossings, [list(row) for row in rows.rows]
    rows.rows[:] = best


def _sort_by_neighbours(rows: Rows, index: int, *, down: bool) -> None:
    other = rows.rows[index - 1 if down else index + 1]
    place = {spot: float(i) for i, spot in enumerate(other)}
    near: dict[Spot, list[float]] = {spot: [] for spot in rows.rows[index]}
    for link in rows.links[index - 1 if down else index]:
        mine, its = (link.lower, link.upper) if down else (link.upper, link.lower)
        near[mine].append(place[its] + (link.shift > 0) * (0.4 if its.bend < mine.bend else 0.0))
    centre = {
        spot: sum(places) / len(places) if places else float(i)
        for i, (spot, places) in enumerate(near.items())
    }
    rows.rows[index].sort(key=lambda spot: centre[spot])


def _crossings(rows: Rows) -> int:
    count = 0
    for (upper, lower), links in zip(pairwise(rows.rows), rows.links, strict=False):
        above = {spot: i for i, spot in enumerate(upper)}
        below = {spot: i for i, spot in enumerate(lower)}
        seen: list[int] = []
        for _, end in sorted((above[link.upper], below[link.lower]) for link in links):
            count += len(seen) - bisect_right(seen, end)
            insort(seen, end)
    return count
