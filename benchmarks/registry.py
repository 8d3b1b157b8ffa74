"""Every figure, in the order in which they are measured."""

from __future__ import annotations

from benchmarks import (
    browser,
    capacity,
    codec,
    cpu,
    database_work,
    drain,
    herd,
    imports,
    one_transition,
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
    one_transition.FIGURE,
    resume.FIGURE,
    round_trip.FIGURE,
    drain.FIGURE,
    browser.FIGURE,
    request_overhead.FIGURE,
    waiting_runs.FIGURE,
    herd.FIGURE,
    capacity.FIGURE,
    codec.FIGURE,
    imports.FIGURE,
)
