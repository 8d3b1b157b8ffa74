"""The step graph of a flow: its steps, and which may follow which."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flowroute.engine.checks import check, in_order, location
from flowroute.engine.references import Guide, Trail
from flowroute.engine.step import END, Place, Step
from flowroute.errors import DefinitionError

ON_ERROR = "on error"
"""The label of the edge that a run takes when the attempts of a step are used up."""


@dataclass(frozen=True, slots=True)
class Node:
    """One step in a step graph."""

    name: str
    place: Place
    """Where the step may run."""
    start: bool
    """A run may start here."""
    end: bool
    """The run may end here: the step may return `done`, or is a final page."""
    doc: str
    """The docstring; empty where there is none."""
    filename: str
    line: int


@dataclass(frozen=True, slots=True)
class Edge:
    """One way on: from a step to a step, or to `END`."""

    source: str
    target: str
    label: str = ""
    """`ON_ERROR` for the way of an error; else empty."""


@dataclass(frozen=True)
class StepGraph:
    """The steps of a flow and the ways between them: ``Checkout.graph``.

    A final page has no edge to `END`: the run ends by getting there.

    Parameters:
        flow: The name of the flow's class.
        nodes: The steps, in the order of the class body, inherited ones first.
        edges: The ways between them, by source in the order of `nodes`.

    Example:
        >>> [node.name for node in Checkout.graph.order()]  # doctest: +SKIP
        ['reserve', 'charge', 'receipt']
        >>> Checkout.graph.successors("reserve")  # doctest: +SKIP
        frozenset({'charge'})
    """

    flow: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    _successors: Mapping[str, frozenset[str]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the edges."""
        # Asked at every transition of every run.
        successors: dict[str, set[str]] = {node.name: set() for node in self.nodes}
        for edge in self.edges:
            successors[edge.source].add(edge.target)
        frozen = {name: frozenset(targets) for name, targets in successors.items()}
        object.__setattr__(self, "_successors", frozen)

    def successors(self, name: str) -> frozenset[str]:
        """The steps that may follow a step, and `END` where it may end the run.

        Raises:
            KeyError: The flow has no such step.
        """
        return self._successors[name]

    def allows(self, source: str, target: str) -> bool:
        """Whether a run may go from one step to another, or to `END`; never for unknown names."""
        return target in self._successors.get(source, ())

    def is_final(self, name: str) -> bool:
        """Whether a run ends by getting to this step: a final page.

        Raises:
            KeyError: The flow has no such step.
        """
        return self.node(name).end and END not in self._successors[name]

    def node(self, name: str) -> Node:
        """The node of a step.

        Raises:
            KeyError: The flow has no such step.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def __iter__(self) -> Iterator[Node]:
        """The nodes in the order of the class body."""
        return iter(self.nodes)

    def __len__(self) -> int:
        """How many steps there are."""
        return len(self.nodes)

    def order(self) -> tuple[Node, ...]:
        """The nodes as a run may meet them: breadth first from the start steps."""
        ways: dict[str, list[str]] = {node.name: [] for node in self.nodes}
        for edge in self.edges:
            ways[edge.source].append(edge.target)
        queue = deque(node.name for node in self.nodes if node.start)
        found = dict.fromkeys(queue)
        while queue:
            for name in ways[queue.popleft()]:
                if name != END and name not in found:
                    found[name] = None
                    queue.append(name)
        return tuple(self.node(name) for name in found)


def build(
    flow: type,
    steps: Mapping[str, Step[Any, Any]],
    fields: Collection[str],
    problems: Collection[str] = (),
) -> StepGraph:
    """Read the step graph of a flow, and check it.

    Edges come from ``to=[…]`` where it is given, else from the step's code: wherever it refers to
    ``self.<step>``, it may lead there, and wherever it refers to `done`, it may end the run.

    Parameters:
        flow: The class.
        steps: Its steps by name, inherited ones included.
        fields: The names of its state.
        problems: What was found wrong already; sentences that open with ``file:line:``.

    Returns:
        The graph.

    Raises:
        DefinitionError: With every problem, in the order of the source.
    """
    guide = Guide(flow, steps, fields)
    trails = {name: guide.follow(step) for name, step in steps.items()}
    found = [*problems, *check(guide, trails)]
    if found:
        raise DefinitionError(flow.__name__, in_order(found))
    nodes: list[Node] = []
    edges: list[Edge] = []
    for name, step in steps.items():
        nodes.append(_node(name, step, trails[name]))
        edges += [Edge(name, target) for target in trails[name].targets_of(step)]
        if step.on_error is not None:
            edges.append(Edge(name, step.on_error, ON_ERROR))
    return StepGraph(flow.__name__, tuple(nodes), tuple(edges))


def _node(name: str, step: Step[Any, Any], trail: Trail) -> Node:
    filename, line = location(step)
    return Node(
        name=name,
        place=step.place,
        start=step.start,
        end=step.final or END in trail.targets_of(step),
        doc=step.doc,
        filename=filename,
        line=line,
    )
