"""Drawings of step graphs: Mermaid text, and an SVG in which nothing overlaps or overflows."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from flowroute.drawing import mermaid, svg
from flowroute.drawing.palette import DARK_STYLE
from flowroute.engine.graph import Edge, StepGraph
from flowroute.engine.step import END, Place
from tests.drawn import (
    BIG,
    DIAMOND,
    GRAPHS,
    LINE,
    SVG,
    elements,
    graph_of,
    node_of,
    texts,
)

# -- Mermaid ---------------------------------------------------------------------------------------


def test_mermaid_shows_kinds_start_ends_and_errors() -> None:
    graph = graph_of(
        "reserve > charge done; charge > receipt; charge ! sorry; sorry > form; form > sorry",
        "charge=worker receipt=page form=page",
    )

    assert mermaid(graph) == (
        "flowchart TD\n"
        "    accTitle: Step graph of Shop\n"
        '    start(("&nbsp;"))\n'
        '    s0["reserve"]\n'
        '    s1[["charge"]]\n'
        '    s2["sorry"]\n'
        '    s3(["form"])\n'
        '    s4(["receipt"])\n'
        '    finish((("done")))\n'
        "    start --> s0\n"
        "    s0 --> s1\n"
        "    s0 --> finish\n"
        "    s1 --> s4\n"
        '    s1 -. "on error" .-> s2\n'
        "    s2 --> s3\n"
        "    s3 --> s2\n"
        "    classDef final stroke-width:4px\n"
        "    class s4 final\n"
    )


def test_mermaid_of_a_flow_without_an_end_or_final_page_draws_none() -> None:
    assert "finish" not in mermaid(graph_of("a > b; b > a"))
    assert "class" not in mermaid(LINE)


def test_words_of_mermaid_are_not_read_as_such() -> None:
    text = mermaid(graph_of("end > click; click > subgraph; subgraph > done"))

    assert 's0["end"]\n    s1["click"]\n    s2["subgraph"]' in text


def test_markup_in_names_is_shown_by_mermaid_not_read() -> None:
    text = mermaid(StepGraph('A"];<b>', (node_of("ünïcode_`*x*`#\n"),), ()))

    assert "accTitle: Step graph of A#34;#93;#59;#60;b#62;\n" in text
    assert 's0["ünïcode_#96;#42;x#42;#96;#35;#10;"]\n' in text


# -- SVG: what is in it ----------------------------------------------------------------------------


@pytest.mark.parametrize("graph", GRAPHS)
def test_an_svg_names_every_step_with_its_kind(graph: StepGraph) -> None:
    shown = texts(svg(graph))

    for node in graph:
        assert node.name in shown
    assert shown.count("worker step") == sum(n.place is Place.EXECUTOR for n in graph)
    assert shown.count("page") + shown.count("final page") == sum(
        n.place is Place.REQUEST for n in graph
    )
    assert shown.count("final page") == sum(graph.is_final(n.name) for n in graph)
    assert shown.count(END) == any(e.target == END for e in graph.edges)


def test_the_way_of_an_error_is_dashed_and_labelled() -> None:
    (line,) = elements(svg(DIAMOND), "error")

    assert line.get("stroke-dasharray")
    assert texts(svg(DIAMOND)).count("on error") == 1
    assert not any(each.get("stroke-dasharray") for each in elements(svg(DIAMOND), "edge"))


def test_each_way_has_a_line_and_a_head() -> None:
    picture = svg(BIG)

    # One more for the way from the dot where runs start.
    assert len(elements(picture, "edge") + elements(picture, "error")) - 1 == len(BIG.edges) + 1
    assert len(elements(picture, "head") + elements(picture, "error-head")) == len(BIG.edges) + 1


def test_the_current_step_stands_out_and_done_steps_are_ticked() -> None:
    picture = svg(LINE, current="preview", done=["collect", "render", "preview"])

    (card,) = elements(picture, "now-card")
    assert len(elements(svg(LINE, current="preview"), "now")) == 2  # a dot and its halo
    assert len(elements(picture, "tick")) == 2
    titles = texts(picture, "title")
    assert "preview, page, current" in titles
    assert "collect, step, start, done" in titles
    assert "render, worker step, done" in titles
    assert "publish, step" in titles
    assert card.tag == f"{SVG}rect"


def test_the_end_can_be_the_current_one() -> None:
    assert len(elements(svg(LINE, current=END), "now-card")) == 1


def test_steps_that_a_flow_no_longer_has_are_not_drawn() -> None:
    assert svg(LINE, current="gone", done=["gone too"]) == svg(LINE)


def test_nothing_moves_as_a_run_goes_on() -> None:
    def places(picture: str) -> list[tuple[str | None, str | None]]:
        root = ET.fromstring(picture)  # noqa: S314  # our own
        return [(each.get("x"), each.get("y")) for each in root.iter(f"{SVG}text")]

    assert places(svg(BIG)) == places(svg(BIG, current="score", done=["apply", "check"]))


def test_an_svg_is_described_for_those_who_can_not_see_it() -> None:
    picture = svg(DIAMOND, current="large", done=["inspect"])
    root = ET.fromstring(picture)  # noqa: S314  # our own

    assert root.get("role") == "img"
    assert root[0].text == "Step graph of Shop"
    assert root[1].text == (
        "inspect, step, start, done, leads to small, to large. "
        "small, step, leads to merge. "
        "large, worker step, current, leads to merge, on an error to sorry. "
        "merge, step, leads to done. "
        "sorry, final page."
    )


def test_an_svg_follows_light_and_dark_and_stands_alone() -> None:
    picture = svg(BIG)

    assert f"<style>{DARK_STYLE}</style>" in picture
    assert DARK_STYLE.startswith("@media (prefers-color-scheme:dark){")
    used = set(re.findall(r"fr-([a-z-]+)", picture.replace(DARK_STYLE, "")))
    assert used
    assert all(f"svg.flowroute .fr-{colour}{{" in DARK_STYLE for colour in used)
    for outside in ("<script", "href", "url(", "@import", "style=", "http://www.w3.org/1999"):
        assert outside not in picture


def test_each_coloured_element_has_its_light_colour_itself() -> None:
    for each in ET.fromstring(svg(BIG, "score", ["apply"])).iter():  # noqa: S314  # our own
        if "fr-" in each.get("class", ""):
            assert re.search("#[0-9a-f]{6}", f"{each.get('fill')} {each.get('stroke')}")


def test_names_are_escaped_and_what_xml_can_not_carry_is_replaced() -> None:
    nodes = (
        node_of('<b>&"x"</b>', start=True),
        node_of("\x00\ud800]]>", Place.EXECUTOR),
    )
    picture = svg(StepGraph("<Shop>", nodes, (Edge(nodes[0].name, nodes[1].name, "<&>"),)))

    shown = texts(picture)
    assert '<b>&"x"</b>' in shown
    assert "<&>" in shown
    assert "\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}]]>" in shown
    assert texts(picture, "title")[0] == "Step graph of <Shop>"


def test_an_empty_graph_is_an_empty_picture() -> None:
    assert texts(svg(StepGraph("Shop", (), ()))) == []
    assert mermaid(StepGraph("Shop", (), ())).startswith("flowchart TD\n")
