"""Drawings of step graphs: nothing overlaps, nothing overflows, and the usual way is straight."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from itertools import combinations, pairwise
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowroute.drawing import svg
from flowroute.drawing.layout import arrange
from flowroute.drawing.lettering import measure, shorten
from flowroute.drawing.routes import route
from flowroute.drawing.spots import Arrow, Layout, Size, Spot
from flowroute.engine.graph import ON_ERROR, Edge, StepGraph
from flowroute.engine.step import END, Place
from tests.drawn import (
    DIAMOND,
    GRAPHS,
    LINE,
    LONG,
    LOOP,
    SVG,
    graph_of,
    node_of,
    texts,
)


def number_of(element: ET.Element, attribute: str) -> float:
    return float(element.get(attribute, ""))


def assert_texts_fit(picture: str) -> None:
    """Each text on a card ends before the card does, and before the place of its tick."""
    root = ET.fromstring(picture)  # noqa: S314  # our own
    for group in root.iter(f"{SVG}g"):
        rim = next(each for each in group if each.tag == f"{SVG}rect")
        right = number_of(rim, "x") + number_of(rim, "width")
        for text in group.iter(f"{SVG}text"):
            end = number_of(text, "x") + measure(text.text or "", number_of(text, "font-size"))
            kept = 0 if text.text == END else 36
            assert end <= right - kept


@pytest.mark.parametrize(
    "name", ["x", "create_contract", "W" * 12, "mw" * 30, "確認する", "überweisung_" * 9, "i" * 200]
)
def test_a_text_never_leaves_its_card(name: str) -> None:
    picture = svg(graph_of(f"{name} > {name}_2; {name}_2 > done", f"{name}=worker"))

    assert_texts_fit(picture)


def test_a_name_too_long_for_a_card_keeps_its_two_ends_and_is_whole_in_the_title() -> None:
    name = "import_the_rows_of_the_spreadsheet_that_was_uploaded_last"
    picture = svg(graph_of(f"{name} > done"))

    (shown,) = [text for text in texts(picture) if "…" in text]
    start, end = shown.split("…")
    assert name.startswith(start)
    assert name.endswith(end)
    assert len(shown) > 15
    assert f"{name}, step, start" in texts(picture, "title")


def test_a_text_is_shortened_to_its_room_and_not_to_nothing() -> None:
    assert shorten("abcdef", 1000, 14) == "abcdef"
    assert shorten("abcdef", measure("ab…ef", 14), 14) == "ab…ef"
    assert shorten("abcdef", 0, 14) == "a…f"


@pytest.mark.parametrize(
    ("text", "pixels"),
    # As Chromium measures them at 14 pixels, weight 600, in DejaVu Sans.
    [
        ("create_contract", 123.3),
        ("WWWWWW", 92.7),
        ("mmmmmmmmmm", 145.9),
        ("IIIIIIIIII", 52.1),
        ("0123456789", 97.4),
        ("überweisung", 101.9),
        ("ǆǅ", 38.0),
        ("ÆŒ", 31.5),
        ("確認する", 56.0),
    ],
)
def test_a_measure_is_never_less_than_what_a_browser_needs(text: str, pixels: float) -> None:
    assert pixels <= measure(text, 14) < pixels * 1.6


def test_combining_marks_take_no_room() -> None:
    assert measure("e\N{COMBINING ACUTE ACCENT}", 10) == measure("e", 10)


def layout_of(graph: StepGraph, width: float = 160) -> tuple[Layout, list[Arrow]]:
    sizes = {node.name: Size(width, 54) for node in graph}
    sizes |= {edge.target: Size(90, 34) for edge in graph.edges if edge.target == END}
    arrows = [Arrow(e.source, e.target, e.label, 60.0 * bool(e.label)) for e in graph.edges]
    return arrange(sizes, arrows), arrows


def overlaps(one: Spot, other: Spot) -> bool:
    return (
        min(one.edge(1) + one.beside, other.edge(1) + other.beside)
        - max(one.edge(-1) - one.before, other.edge(-1) - other.before)
        > 0.01
        and min(one.bottom, other.bottom) - max(one.top, other.top) > 0.01
    )


def assert_well_placed(layout: Layout) -> None:
    """No box lies on another, and no arrow passes through one."""
    boxes = list(layout.boxes.values())
    assert not any(overlaps(one, other) for one, other in combinations(boxes, 2))
    for chain in layout.chains:
        for bend in chain.spots[1:-1]:
            assert not any(overlaps(bend, box) for box in boxes)
        if not chain.back:
            assert all(one.bottom <= other.top for one, other in pairwise(chain.spots))


@pytest.mark.parametrize("graph", GRAPHS)
def test_boxes_and_arrows_keep_apart(graph: StepGraph) -> None:
    assert_well_placed(layout_of(graph)[0])


def test_a_line_of_steps_is_straight() -> None:
    layout, _ = layout_of(LINE)

    assert len({round(box.x, 3) for box in layout.boxes.values()}) == 1
    assert [box.row for box in layout.boxes.values()] == [0, 1, 2, 3, 4]


def test_the_usual_way_stays_straight_beside_loops_errors_and_long_ways() -> None:
    places = [box.x for box in layout_of(LONG)[0].boxes.values()]

    assert max(places) - min(places) < 1


def test_a_long_way_is_straight_where_there_is_room() -> None:
    (chain,) = [c for c in layout_of(LONG)[0].chains if c.arrow == Arrow("s2", END)]

    assert len(chain.spots) == 11
    assert len({spot.x for spot in chain.spots[1:-1]}) == 1


def test_a_diamond_is_symmetric() -> None:
    boxes = layout_of(DIAMOND)[0].boxes

    assert boxes["inspect"].x == pytest.approx(boxes["merge"].x, abs=1)
    middle = (boxes["small"].x + boxes["large"].x) / 2
    assert middle == pytest.approx(boxes["inspect"].x, abs=1)
    assert boxes["small"].y == boxes["large"].y


def test_boxes_are_ordered_so_that_arrows_do_not_cross() -> None:
    # In the order in which they are named, the two ways would cross.
    boxes = layout_of(graph_of("a > left right; x > done; y > done; left > y; right > x"))[0].boxes

    assert (boxes["left"].x < boxes["right"].x) == (boxes["y"].x < boxes["x"].x)


def crossings_of(layout: Layout) -> int:
    """How many pairs of arrows cross between two rows."""
    between: dict[int, list[tuple[float, float]]] = {}
    for chain in layout.chains:
        for one, other in pairwise(chain.spots):
            between.setdefault(one.row, []).append((one.x, other.x))
    return sum(
        (a - c) * (b - d) < 0
        for arrows in between.values()
        for (a, b), (c, d) in combinations(arrows, 2)
    )


def test_the_order_with_the_fewest_crossings_is_taken_and_not_the_last_one_tried() -> None:
    assert crossings_of(layout_of(graph_of("a > c f; b > c d f; d > e"))[0]) == 1


def test_a_way_back_runs_beside_the_boxes_and_arrives_at_a_side() -> None:
    layout, arrows = layout_of(LOOP)
    routes = dict(zip(arrows, route(layout), strict=True))
    back = routes[next(a for a in arrows if (a.source, a.target) == ("more", "fetch"))]
    itself = routes[next(a for a in arrows if a.source == a.target)]

    assert back.heading == 1
    assert back.tip == pytest.approx((layout.boxes["fetch"].edge(1) + 1, layout.boxes["fetch"].y))
    assert itself.heading == 1
    assert itself.tip[0] == pytest.approx(layout.boxes["poll"].edge(1) + 1)
    assert all(each.heading == 0 for arrow, each in routes.items() if arrow.source == "fetch")


def test_a_way_back_runs_at_the_left_where_its_bends_lie_there() -> None:
    layout, arrows = layout_of(LONG)
    routes = dict(zip(arrows, route(layout), strict=True))
    back = routes[next(a for a in arrows if (a.source, a.target) == ("s7", "s2"))]

    assert back.heading == -1
    assert back.tip == pytest.approx((layout.boxes["s2"].edge(-1) - 1, layout.boxes["s2"].y))


def test_labels_do_not_lie_on_each_other() -> None:
    layout, _ = layout_of(
        graph_of("a > b c d; b ! x; c ! x; d ! x; x > done; b > done; c > done; d > done"), 70
    )
    places = [(r.label, r.arrow.label_width) for r in route(layout) if r.arrow.label]

    assert len(places) == 3
    for ((x, y), width), ((u, v), other) in combinations(places, 2):
        assert abs(x - u) >= (width + other) / 2 or abs(y - v) >= 20


def test_everything_lies_inside_the_picture() -> None:
    for graph in GRAPHS:
        root = ET.fromstring(svg(graph))  # noqa: S314  # our own
        left, top, width, height = map(float, root.get("viewBox", "").split())
        assert (number_of(root, "width"), number_of(root, "height")) == (width, height)
        for path in root.iter(f"{SVG}path"):
            if path.get("transform") is None:
                for x, y in points_of(path.get("d", "")):
                    assert left < x < left + width
                    assert top < y < top + height


def points_of(path: str) -> Iterator[tuple[float, float]]:
    numbers = list(map(float, re.findall(r"-?\d+(?:\.\d+)?", path)))
    return zip(numbers[::2], numbers[1::2], strict=True)


@st.composite
def any_graph(draw: Callable[[st.SearchStrategy[int]], int]) -> StepGraph:
    """Up to nine steps with any ways between them, also such as no flow could have."""
    count = draw(st.integers(1, 9))
    edges: dict[Edge, None] = {}
    for _ in range(draw(st.integers(0, 22))):
        source, target = draw(st.integers(0, count - 1)), draw(st.integers(0, count))
        label = ON_ERROR if draw(st.integers(0, 3)) == 0 else ""
        edges[Edge(f"s{source}", END if target == count else f"s{target}", label)] = None
    places = [[*Place][draw(st.integers(0, 2))] for _ in range(count)]
    starts = [draw(st.integers(0, 2)) == 0 for _ in range(count)]
    nodes = tuple(
        node_of(f"s{i}", place, start=start)
        for i, (place, start) in enumerate(zip(places, starts, strict=True))
    )
    return StepGraph("Any", nodes, tuple(edges))


@given(any_graph())
@settings(max_examples=60, deadline=None)
def test_whatever_the_graph_the_picture_is_well_formed_and_well_placed(graph: StepGraph) -> None:
    layout, arrows = layout_of(graph)

    assert_well_placed(layout)
    assert {name for name in layout.boxes if name != END} == {node.name for node in graph}
    assert len(route(layout)) == len(arrows)
    names: Collection[str] = texts(svg(graph, "s0", ["s1"]))
    assert all(node.name in names for node in graph)
    assert_texts_fit(svg(graph))
