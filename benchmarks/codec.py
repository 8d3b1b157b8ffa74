"""Writing and reading a checkpoint's bytes, against C pickle."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.figure import Figure
from benchmarks.laboratory import Laboratory
from benchmarks.measuring import Measures, Result, at_most, interleave


def measure(lab: Laboratory) -> Measures:
    """Both ways at once, signed and verified, for a value of about 700 bytes."""
    repetitions = lab.choose(31, 3)
    count = lab.choose(400, 20)
    with lab.contestant("codecs:codecs") as contestant:
        conditions = {"payload_bytes": contestant.ask("size")}

        def side(name: str) -> Callable[[], float]:
            return partial(contestant.ask, "both_ways", name=name, count=count)

        names = ("flowroute", "pickle", "dill")
        samples = interleave({name: side(name) for name in names}, repetitions)
    yield Result(
        FIGURE.name,
        "write and read / C pickle",
        samples.ratio("flowroute", "pickle"),
        "ratio",
        at_most(2.0),
        {f"{name}, µs": value * 1e6 for name, value in samples.medians().items()},
        repetitions,
        conditions,
    )


FIGURE = Figure("codec", "The bytes of a checkpoint: write and read, against C pickle", measure)
