"""Step graphs as pictures: Mermaid text for documents, SVG for pages."""

from __future__ import annotations

from flowroute.drawing.flowchart import mermaid
from flowroute.drawing.picture import svg

__all__ = ["mermaid", "svg"]
