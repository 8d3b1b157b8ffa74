"""The steps that a waiting page lists: the way a run takes if nothing goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from flowroute.engine.graph import ON_ERROR, StepGraph
from flowroute.engine.step import END

LOOKS = 20_000
"""Most steps looked at for one way: a graph with more branches than that is listed whole."""


@lru_cache(maxsize=512)
def itinerary(graph: StepGraph, current: str | None) -> tuple[str, ...]:
    """The longest way from a start to an end that visits no step twice, through the current step if one leads there.

    A branch that only leads back, such as *choose another card*, is no part of it unless the run is there.

    Parameters:
        graph: The flow's.
        current: The step that the run is at; None at its end.

    Returns:
        Names of steps, in order.
    """
    ways = _Ways(graph)
    through = max((way for way in ways if current in way), key=len, default=())
    way = through or max(ways, key=len, default=())
    if not way or ways.too_many:
        return tuple(node.name for node in graph.order())
    if current is None or current in way:
        return way
    before = [i for i, name in enumerate(way) if graph.allows(name, current)]
    cut = before[-1] + 1 if before else len(way)
    return (*way[:cut], current, *way[cut:])


class _Ways:
    """Every way from a start to an end that visits no step twice and follows no error."""

    def __init__(self, graph: StepGraph) -> None:
        self._onward: dict[str, list[str]] = {node.name: [] for node in graph}
        for edge in graph.edges:
            if edge.label != ON_ERROR and edge.target != END:
                self._onward[edge.source].append(edge.target)
        self._starts = [node.name for node in graph if node.start]
        self._ends = {node.name for node in graph if node.end}
        self._looked = 0

    @property
    def too_many(self) -> bool:
        return self._looked >= LOOKS

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        open_ways = [(start,) for start in self._starts]
        while open_ways and not self.too_many:
            self._looked += 1
            way = open_ways.pop()
            if way[-1] in self._ends:
                yield way
            open_ways += [(*way, name) for name in self._onward[way[-1]] if name not in way]
