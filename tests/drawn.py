"""Graphs to draw, and what can be read from their pictures."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from flowroute.engine.graph import ON_ERROR, Edge, Node, StepGraph
from flowroute.engine.step import END, Place

SVG = "{http://www.w3.org/2000/svg}"
KINDS = {"step": Place.ANYWHERE, "worker": Place.EXECUTOR, "page": Place.REQUEST}


def node_of(
    name: str, place: Place = Place.ANYWHERE, *, start: bool = False, end: bool = False
) -> Node:
    return Node(name, place, start, end, doc="", filename="shop.py", line=1)


def graph_of(text: str, kinds: str = "") -> StepGraph:
    """A graph such as ``a > b c; b ! sorry``.

    `!` is the way of an error, the first step starts, and a page without a way on is final.
    """
    edges: list[Edge] = []
    names: dict[str, None] = {}
    for part in text.split(";"):
        source, sign, *targets = part.split()
        names[source] = None
        edges += [Edge(source, target, ON_ERROR if sign == "!" else "") for target in targets]
    names |= dict.fromkeys(edge.target for edge in edges if edge.target != END)
    places = dict(each.split("=") for each in kinds.split())
    nodes: list[Node] = []
    for name in names:
        onward = [edge.target for edge in edges if edge.source == name]
        place = KINDS[places.get(name, "step")]
        end = END in onward or (place is Place.REQUEST and not onward)
        nodes.append(node_of(name, place, start=not nodes, end=end))
    return StepGraph("Shop", tuple(nodes), tuple(edges))


LINE = graph_of(
    "collect > render; render > preview; preview > publish; publish > done",
    "render=worker preview=page",
)
DIAMOND = graph_of(
    "inspect > small large; small > merge; large > merge; large ! sorry; merge > done",
    "large=worker sorry=page",
)
LOOP = graph_of("fetch > store; store > more; more > fetch poll; poll > poll finish; finish > done")
BIG = graph_of(
    "apply > check; check > apply score; score > decide ask; score ! problem; ask > read;"
    "read > score; read ! problem; decide > approve reject review; review > approve reject ask;"
    "approve > contract; contract > notify; contract ! problem; reject > notify;"
    "notify > archive; archive > done; problem > done",
    "apply=page score=worker ask=page read=worker review=page contract=worker notify=worker",
)
LONG = graph_of(
    ";".join(f"s{i} > s{i + 1}" for i in range(11))
    + ";s11 > done; s3 > s0; s7 > s2; s5 > s9; s2 > done; s6 ! s11"
)
GRAPHS = [LINE, DIAMOND, LOOP, BIG, LONG]


def texts(picture: str, tag: str = "text") -> list[str]:
    return [each.text or "" for each in ET.fromstring(picture).iter(f"{SVG}{tag}")]  # noqa: S314  # our own


def elements(picture: str, colour: str) -> list[ET.Element]:
    root = ET.fromstring(picture)  # noqa: S314  # our own
    return [each for each in root.iter() if f"fr-{colour}" in each.get("class", "").split()]
