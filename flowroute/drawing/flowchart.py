"""A step graph as Mermaid text."""

from __future__ import annotations

from typing import Final

from flowroute.engine.graph import StepGraph
from flowroute.engine.step import END, Place

_SHAPES: Final = {
    Place.ANYWHERE: '["{}"]',
    Place.EXECUTOR: '[["{}"]]',
    Place.REQUEST: '(["{}"])',
}
_SPECIAL: Final = frozenset('"&<>#;`\\[](){}|*~$%')


def mermaid(graph: StepGraph) -> str:
    """Draw a step graph as a Mermaid flowchart.

    Plain steps are rectangles, worker steps have double sides, pages round ones; a final page has a
    thick border. A dot marks where runs start, a double circle where they end. The way of an error
    is dotted.

    Parameters:
        graph: The graph, such as ``Checkout.graph``.

    Returns:
        Text for a ``mermaid`` block, ending with a line break.

    Example:
        >>> print(mermaid(Checkout.graph))  # doctest: +SKIP
        flowchart TD
            accTitle: Step graph of Checkout
            start(("&nbsp;"))
            s0["reserve"]
            ...
    """
    # A step may be called `end` or `click`, which Mermaid reads as its own words.
    ids = {node.name: f"s{index}" for index, node in enumerate(graph)} | {END: "finish"}
    lines = [f"accTitle: Step graph of {_text(graph.flow)}", 'start(("&nbsp;"))']
    lines += [ids[node.name] + _SHAPES[node.place].format(_text(node.name)) for node in graph]
    if any(edge.target == END for edge in graph.edges):
        lines.append(f'finish((("{_text(END)}")))')
    lines += [f"start --> {ids[node.name]}" for node in graph if node.start]
    for edge in graph.edges:
        arrow = f'-. "{_text(edge.label)}" .->' if edge.label else "-->"
        lines.append(f"{ids[edge.source]} {arrow} {ids[edge.target]}")
    final = [ids[node.name] for node in graph if graph.is_final(node.name)]
    if final:
        lines += ["classDef final stroke-width:4px", f"class {','.join(final)} final"]
    return "flowchart TD\n" + "".join(f"    {line}\n" for line in lines)


def _text(text: str) -> str:
    """Text that Mermaid shows as it is: anything it could read as markup goes by its number."""
    return "".join(f"#{ord(c)};" if c in _SPECIAL or not c.isprintable() else c for c in text)
