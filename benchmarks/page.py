"""docs/performance.md: its tables and plots, drawn from results.json."""

from __future__ import annotations


def write() -> None:
    """Draw them anew."""
