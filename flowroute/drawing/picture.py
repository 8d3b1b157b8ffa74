"""A step graph as an SVG that stands alone: no script, no font, no file beside it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil
from typing import Final

from flowroute.drawing.layout import arrange
from flowroute.drawing.lettering import measure, shorten
from flowroute.drawing.palette import DARK_STYLE, FINAL_PAGE, PAGE, STEP, WORKER, Kind, paint
from flowroute.drawing.routes import LABEL_HEIGHT, Route, number, route
from flowroute.drawing.spots import Arrow, Layout, Size, Spot
from flowroute.engine.graph import Node, StepGraph
from flowroute.engine.step import END, Place

_START: Final = "(start)"  # no identifier, so no step is called so
_FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_NAME_SIZE: Final = 14.0
_KIND_SIZE: Final = 11.5
_MARGIN: Final = 24.0
_HEIGHT: Final = 54.0
_TEXT_AT: Final = 54.0  # right of the icon
_BADGE: Final = 38.0  # kept free for a tick, so that nothing moves as a run goes on
_NARROWEST: Final = 156.0
_USUAL: Final = 250.0  # up to here all cards are as wide as the widest
_WIDEST: Final = 340.0
_UNWRITABLE: Final = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")


def svg(graph: StepGraph, current: str | None = None, done: Collection[str] = ()) -> str:
    """Draw a step graph as SVG.

    The picture follows the reader's light or dark mode, is read out as a title and a description,
    and may stand in a file, in an ``<img>`` or in a page.

    Parameters:
        graph: The graph, such as ``Checkout.graph``.
        current: The step that a run is at, to be highlighted; ``"done"`` for the end.
        done: The steps that a run has behind it, to be ticked. Names that the graph does not have,
            here and in `current`, are not drawn: a run may be older than the flow.

    Returns:
        One ``<svg>`` element.

    Example:
        >>> Path("checkout.svg").write_text(svg(Checkout.graph, "charge"))  # doctest: +SKIP
    """
    layout = arrange(_sizes(graph), list(_arrows(graph)))
    routes = route(layout)
    marks = _Marks(graph, current, frozenset(done))
    body = [
        *map(_arrow, routes),
        *(_box(marks, name, spot) for name, spot in layout.boxes.items()),
        *(_label(each) for each in routes if each.arrow.label),
    ]
    return _document(marks, _extent(layout, routes), "".join(body))


@dataclass(frozen=True, slots=True)
class _Marks:
    """A graph, and how far a run has come in it."""

    graph: StepGraph
    current: str | None
    done: frozenset[str]

    def spoken(self, node: Node) -> str:
        """A node in words, for those who can not see it."""
        words = [node.name, kind_of(node, self.graph).words]
        words += ["start"] if node.start else []
        words += ["current"] if node.name == self.current else []
        words += ["done"] if node.name in self.done - {self.current} else []
        return ", ".join(words)


def kind_of(node: Node, graph: StepGraph) -> Kind:
    """How a node is shown."""
    if node.place is Place.REQUEST:
        return FINAL_PAGE if graph.is_final(node.name) else PAGE
    return WORKER if node.place is Place.EXECUTOR else STEP


# -- measures --------------------------------------------------------------------------------------


def _sizes(graph: StepGraph) -> dict[str, Size]:
    sizes = {_START: Size(14.0, 14.0)} if any(node.start for node in graph) else {}
    usual = min(max((_card_width(node, graph) for node in graph), default=0.0), _USUAL)
    for node in (*graph.order(), *graph):
        sizes[node.name] = Size(max(usual, _card_width(node, graph)), _HEIGHT)
    if any(edge.target == END for edge in graph.edges):
        sizes[END] = Size(measure(END, _NAME_SIZE) + 54, 34.0)
    return sizes


def _card_width(node: Node, graph: StepGraph) -> float:
    kind = measure(kind_of(node, graph).words, _KIND_SIZE)
    text = max(measure(node.name, _NAME_SIZE), kind)
    return min(max(_NARROWEST, ceil(_TEXT_AT + text + _BADGE)), _WIDEST)


def _arrows(graph: StepGraph) -> Iterator[Arrow]:
    for node in graph:
        if node.start:
            yield Arrow(_START, node.name)
    for edge in graph.edges:
        room = measure(edge.label, _KIND_SIZE) + 16 if edge.label else 0.0
        yield Arrow(edge.source, edge.target, edge.label, room)


def _extent(layout: Layout, routes: Sequence[Route]) -> tuple[float, float, float, float]:
    """Left, top, width and height of the whole picture."""
    boxes = layout.boxes.values()
    left = [box.edge(-1) - box.before for box in boxes]
    right = [box.edge(1) + box.beside for box in boxes]
    for each in routes:
        half = each.arrow.label_width / 2
        left.append(each.label[0] - half)
        right.append(each.label[0] + half)
    across = [spot.x for chain in layout.chains for spot in chain.spots]
    least, most = min([*left, *across], default=0.0), max([*right, *across], default=0.0)
    bottom = max((box.bottom for box in boxes), default=0.0)
    return least - _MARGIN, -_MARGIN, most - least + 2 * _MARGIN, bottom + 2 * _MARGIN


# -- parts -----------------------------------------------------------------------------------------


def _tag(name: str, colours: str, content: str = "", /, **attributes: float | str) -> str:
    """An element; the attribute ``stroke_width`` is written ``stroke-width``."""
    written = "".join(
        f' {key.replace("_", "-")}="{value if isinstance(value, str) else number(value)}"'
        for key, value in attributes.items()
    )
    return f"<{name} {paint(colours)}{written}" + (f">{content}</{name}>" if content else "/>")


def _lines(colour: str, path: str, width: float, **attributes: float | str) -> str:
    ends = {"stroke_linecap": "round", "stroke_linejoin": "round"}
    return _tag("path", colour, d=path, fill="none", stroke_width=width, **ends, **attributes)


def _text(colour: str, text: str, x: float, y: float, **attributes: float | str) -> str:
    return _tag("text", colour, _escape(text), x=x, y=y, **attributes)


def _arrow(way: Route) -> str:
    kind = "error" if way.arrow.label else "edge"
    dashes = {"stroke_dasharray": "5 4"} if way.arrow.label else {}
    x, y = way.tip
    aside = way.heading * 9
    barbs = [(aside, -4.2), (aside, 4.2)] if aside else [(-4.2, -9), (4.2, -9)]
    head = "".join(f"L{number(x + dx)} {number(y + dy)}" for dx, dy in barbs)
    return _tag("path", kind, d=way.path, fill="none", stroke_width=1.6, **dashes) + _tag(
        "path", "error-head" if way.arrow.label else "head", d=f"M{number(x)} {number(y)}{head}Z"
    )


def _label(way: Route) -> str:
    (x, y), width = way.label, way.arrow.label_width
    ground = {"x": x - width / 2, "y": y - LABEL_HEIGHT / 2, "width": width}
    return _tag("rect", "canvas", height=LABEL_HEIGHT, rx=10, **ground) + _text(
        "error-text", way.arrow.label, x, y + 4, text_anchor="middle", font_size=_KIND_SIZE
    )


def _box(marks: _Marks, name: str, spot: Spot) -> str:
    if name == _START:
        return _tag("circle", "dot", "<title>start</title>", cx=spot.x, cy=spot.y, r=7)
    now = name == marks.current
    if name == END:
        return f"<g>{_end(spot, now=now)}</g>"
    node = marks.graph.node(name)
    badge = _badge(spot, now=now) if now or name in marks.done else ""
    title = f"<title>{_escape(marks.spoken(node))}</title>"
    return f"<g>{title}{_card(node, kind_of(node, marks.graph), spot, now=now)}{badge}</g>"


def _end(spot: Spot, *, now: bool) -> str:
    x, y = spot.edge(-1) + 20, spot.y
    ring = {"cx": x, "cy": y, "r": 7.2, "stroke_width": 1.6}
    return "".join(
        (
            "<title>done: the run ends here</title>",
            _rim(spot, 17, now=now),
            _tag("circle", "now-rim" if now else "edge", fill="none", **ring),
            _tag("circle", "now" if now else "dot", cx=x, cy=y, r=3.8),
            _text("name", END, x + 15, y + 5, font_size=_NAME_SIZE, font_weight="600"),
        )
    )


def _card(node: Node, kind: Kind, spot: Spot, *, now: bool) -> str:
    x, y = spot.edge(-1), spot.y
    name = shorten(node.name, spot.width - _TEXT_AT - _BADGE, _NAME_SIZE)
    icon_at = f"translate({number(x + 17)} {number(y - 10)}) scale(.8333)"
    return "".join(
        (
            _rim(spot, 13, now=now),
            _tag("rect", f"chip-{kind.colour}", x=x + 11, y=y - 16, width=32, height=32, rx=9),
            _lines(f"icon-{kind.colour}", kind.icon, 1.9, transform=icon_at),
            _text("name", name, x + _TEXT_AT, y - 2, font_size=_NAME_SIZE, font_weight="600"),
            _text("kind", kind.words, x + _TEXT_AT, y + 14.5, font_size=_KIND_SIZE),
        )
    )


def _badge(spot: Spot, *, now: bool) -> str:
    x, y = spot.edge(1) - 20, spot.y
    if now:
        halo = _tag("circle", "now", cx=x, cy=y, r=8, opacity=".25")
        return halo + _tag("circle", "now", cx=x, cy=y, r=4.5)
    mark = f"M{number(x - 4)} {number(y + 0.3)}l2.8 2.8 5.2-5.6"
    return _tag("circle", "tick", cx=x, cy=y, r=9) + _lines("tick-mark", mark, 1.9)


def _rim(spot: Spot, radius: float, *, now: bool) -> str:
    place = {
        "x": spot.edge(-1),
        "y": spot.top,
        "width": spot.width,
        "height": spot.height,
        "rx": radius,
    }
    if not now:
        return _tag("rect", "card rim", **place, stroke_width=1.2)
    glow = _tag("rect", "now-rim", **place, fill="none", stroke_width=9, stroke_opacity=".18")
    return glow + _tag("rect", "now-card now-rim", **place, stroke_width=2)


# -- the whole -------------------------------------------------------------------------------------


def _document(marks: _Marks, extent: tuple[float, float, float, float], body: str) -> str:
    left, top, width, height = map(number, extent)
    ground = {"x": left, "y": top, "width": width, "height": height}
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" class="flowroute" role="img" '
        f'width="{width}" height="{height}" viewBox="{left} {top} {width} {height}" '
        f'font-family="{_FONT}">'
        f"<title>{_escape(f'Step graph of {marks.graph.flow}')}</title>"
        f"<desc>{_escape(_description(marks))}</desc><style>{DARK_STYLE}</style>"
        f"{_tag('rect', 'canvas', rx=16, **ground)}{body}</svg>"
    )


def _description(marks: _Marks) -> str:
    sentences: list[str] = []
    for node in marks.graph:
        ways = [
            f"on an error to {edge.target}" if edge.label else f"to {edge.target}"
            for edge in marks.graph.edges
            if edge.source == node.name
        ]
        onward = f", leads {', '.join(ways)}" if ways else ""
        sentences.append(f"{marks.spoken(node)}{onward}.")
    return " ".join(sentences)


def _escape(text: str) -> str:
    """Text for XML, without the characters that XML can not carry."""
    return escape(_UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", text))
