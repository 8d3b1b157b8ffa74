"""The steps that a waiting page lists: the way a run takes if nothing goes wrong."""

from __future__ import annotations

from functools import lru_cache

from flowroute.engine.graph import ON_ERROR, StepGraph
from flowroute.engine.step import END

LOOKS = 5_000
"""Most beginnings of ways looked at: a graph with more branches than that is listed whole."""


@lru_cache(maxsize=512)
def itinerary(graph: StepGraph, current: str | None) -> tuple[str, ...]:
    """The longest way from a start to an end that visits no step twice and follows no error.

    It leads through the current step, if any way does; of equally long ones, along the edges that
    come first in the code. A step that lies on no way, such as one that an error leads to, or
    *choose another card* that only leads back, is part of it while the run is there.

    Parameters:
        graph: The flow's.
        current: The step that the run is at; None if it has ended with a result: which way it took
            is not known then, and only the steps that lie on every way are sure.

    Returns:
        Names of steps, in order.
    """
    ways = _ways(graph)
    if current is None:
        return tuple(name for name in ways[0] if all(name in way for way in ways)) if ways else ()
    if not ways:
        return tuple(node.name for node in graph.order())
    way = max([way for way in ways if current in way] or ways, key=len)
    if current in way:
        return way
    before = [i for i, name in enumerate(way) if graph.allows(name, current)]
    cut = before[-1] + 1 if before else len(way)
    return (*way[:cut], current, *way[cut:])


def _ways(graph: StepGraph) -> list[tuple[str, ...]]:
    """Every way, in the order of the code; none if there are too many to look at."""
    onward: dict[str, list[str]] = {node.name: [] for node in graph}
    for edge in graph.edges:
        if edge.label != ON_ERROR and edge.target != END:
            onward[edge.source].append(edge.target)
    ends = {node.name for node in graph if node.end}
    ways: list[tuple[str, ...]] = []
    beginnings: list[tuple[str, ...]] = []
    beginnings += [(node.name,) for node in reversed(graph.nodes) if node.start]
    for _ in range(LOOKS):
        if not beginnings:
            break
        way = beginnings.pop()
        if way[-1] in ends:
            ways.append(way)
        beginnings += [(*way, name) for name in reversed(onward[way[-1]]) if name not in way]
    return [] if beginnings else ways
