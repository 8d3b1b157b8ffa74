"""Every figure, in the order in which they are measured."""

from __future__ import annotations

from benchmarks import (
    codec,
    cpu,
    database_work,
    drain,
    herd,
    imports,
    request_overhead,
    resume,
    round_trip,
    short_runs,
    transitions,
    waiting_runs,
)

FIGURES = (
    transitions.FIGURE,
    cpu.FIGURE,
    short_runs.FIGURE,
    database_work.FIGURE,
    resume.FIGURE,
    round_trip.FIGURE,
    drain.FIGURE,
    request_overhead.FIGURE,
    waiting_runs.FIGURE,
    herd.FIGURE,
    codec.FIGURE,
    imports.FIGURE,
)
