"""Putting rows of boxes and bends in their places: straight ways first, and nothing overlaps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import inf
from typing import Final

from flowroute.drawing.spots import Chain, Rows, Spot

GAP: Final = 30.0
"""Pixels between boxes side by side."""
BEND_GAP: Final = 15.0
"""Pixels beside a bend."""
RISE: Final = 46.0
"""Pixels between rows."""
LABEL_RISE: Final = (0.0, 18.0, 26.0, 34.0)
"""Pixels more where no, one, two or more arrows carry a label."""

_SWEEPS: Final = 16  # one way at a time, then three times as many both ways
_LIGHT: Final = 0.01  # the weight of a wish to stay
_ALMOST: Final = 10.0  # pixels that count as almost straight
_NARROW: Final = 140.0  # pixels that an arrow can bow without needing more height
_BOW: Final = 0.08  # pixels of height for each pixel more


def move_sideways(rows: Rows) -> None:
    """Move every spot towards what it is joined to above and below."""
    for row in rows.rows:
        _settle(row, [(0.0, 1.0)] * len(row))
    for sweep in range(_SWEEPS * 4):
        above = sweep % 2 == 0 or sweep >= _SWEEPS
        below = sweep % 2 == 1 or sweep >= _SWEEPS
        indices = range(len(rows.rows)) if sweep % 2 == 0 else reversed(range(len(rows.rows)))
        for index in indices:
            wishes: dict[Spot, list[tuple[float, float]]] = {s: [] for s in rows.rows[index]}
            if above and index:
                for link in rows.links[index - 1]:
                    wishes[link.lower].append((link.upper.x + link.shift, link.pull))
            if below:
                for link in rows.links[index]:
                    wishes[link.upper].append((link.lower.x - link.shift, link.pull))
            _settle(rows.rows[index], [_mean(spot.x, near) for spot, near in wishes.items()])


def _mean(x: float, near: Sequence[tuple[float, float]]) -> tuple[float, float]:
    weight = sum(pull for _, pull in near)
    return (sum(at * pull for at, pull in near) / weight, weight) if weight else (x, _LIGHT)


def _settle(row: Sequence[Spot], wishes: Sequence[tuple[float, float]]) -> None:
    """Move spots as near as possible to where they wish to be, in their order and without overlap.

    Minimises the weighted squares of the distances, by pooling neighbours that would overlap.
    """
    offsets = [0.0]
    for one, other in pairwise(row):
        offsets.append(offsets[-1] + _distance(one, other))
    pools: list[tuple[float, float, int]] = []  # position, weight, how many
    for (wish, weight), offset in zip(wishes, offsets, strict=False):
        pool = (wish - offset, weight, 1)
        while pools and pools[-1][0] > pool[0]:
            at, heavy, many = pools.pop()
            total = heavy + pool[1]
            pool = ((at * heavy + pool[0] * pool[1]) / total, total, many + pool[2])
        pools.append(pool)
    positions = [at for at, _, many in pools for _ in range(many)]
    for spot, position, offset in zip(row, positions, offsets, strict=False):
        spot.x = position + offset


def _distance(left: Spot, right: Spot) -> float:
    gap = BEND_GAP if left.bend or right.bend else GAP
    return left.width / 2 + left.beside + gap + right.before + right.width / 2


def _snap(rows: Rows) -> None:
    """Put right what is almost straight under what leads to it; bends make way."""
    for row, links in zip(rows.rows[1:], rows.links, strict=False):
        near: dict[Spot, list[tuple[float, float]]] = {spot: [] for spot in row}
        for link in links:
            if link.usual:
                near[link.lower].append((link.upper.x, link.pull))
        wishes = [(_mean(spot.x, near[spot])[0], 1.0 if near[spot] else _LIGHT) for spot in row]
        for index, (spot, (x, _)) in enumerate(zip(row, wishes, strict=True)):
            if abs(spot.x - x) > _ALMOST:
                wishes[index] = (spot.x, 1.0)
        _settle(row, wishes)


def straighten(rows: Rows, chains: Iterable[Chain]) -> None:
    """Put right what is almost straight."""
    _snap(rows)
    for chain in chains:
        _line_up(chain, rows)


def _line_up(chain: Chain, rows: Rows) -> None:
    """Put the bends of an arrow under each other, as far as there is room."""
    together: list[Spot] = []
    least, most = -inf, inf
    for bend in chain.spots[1:-1]:
        low, high = _room(bend, rows.rows[bend.row])
        if max(least, low) > min(most, high):
            _align(together, least, most)
            together, least, most = [], -inf, inf
        together.append(bend)
        least, most = max(least, low), min(most, high)
    _align(together, least, most)


def _align(bends: Sequence[Spot], least: float, most: float) -> None:
    if bends:
        x = min(max(sum(bend.x for bend in bends) / len(bends), least), most)
        for bend in bends:
            bend.x = x


def _room(spot: Spot, row: Sequence[Spot]) -> tuple[float, float]:
    """From where to where a spot can move without touching its neighbours."""
    index = row.index(spot)
    low = row[index - 1].x + _distance(row[index - 1], spot) if index else -inf
    high = row[index + 1].x - _distance(spot, row[index + 1]) if index + 1 < len(row) else inf
    return low, high


def move_down(rows: Rows, chains: Iterable[Chain]) -> None:
    """Give each row its height, and the gap below it what its arrows need."""
    labels = Counter(
        min(chain.spots[0].row, chain.spots[1].row) for chain in chains if chain.arrow.label
    )
    y = 0.0
    for index, (row, links) in enumerate(zip(rows.rows, rows.links, strict=True)):
        height = max(spot.height for spot in row)
        for spot in row:
            spot.y = y + height / 2
            if spot.bend:
                spot.height = height
        # Wide bows need height, so that they stay apart.
        widest = max((abs(link.upper.x - link.lower.x) for link in links), default=0.0)
        bow = min(max(widest - _NARROW, 0.0) * _BOW, RISE)
        y += height + RISE + bow + LABEL_RISE[min(labels[index], len(LABEL_RISE) - 1)]
