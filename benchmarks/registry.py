"""Every figure, in the order in which they are measured."""

from __future__ import annotations

from benchmarks import (
    codec,
    cpu,
    database_work,
    drain,
    imports,
    resume,
    round_trip,
    short_runs,
    transitions,
)

FIGURES = (
    transitions.FIGURE,
    cpu.FIGURE,
    short_runs.FIGURE,
    database_work.FIGURE,
    resume.FIGURE,
    round_trip.FIGURE,
    drain.FIGURE,
    codec.FIGURE,
    imports.FIGURE,
)
