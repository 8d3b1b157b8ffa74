"""What `import flowroute` costs, against what it stands on; and that it loads no leaf's library."""

from __future__ import annotations

import json
from functools import partial

from benchmarks.figure import Figure
from benchmarks.laboratory import Laboratory
from benchmarks.measuring import Measures, Result, at_most, exactly, interleave

FORBIDDEN = ("flask", "rq", "redis", "socketio")

TIMED = """
import time
began = time.perf_counter()
import {modules}
print(time.perf_counter() - began)
"""
LOADED = """
import json, sys
import flowroute
print(json.dumps(sorted(name for name in sys.modules if "." not in name)))
"""


def measure(lab: Laboratory) -> Measures:
    """The import statement alone, in a new process each time."""
    repetitions = lab.choose(15, 2)

    def seconds(modules: str) -> float:
        return float(lab.python("-c", TIMED.format(modules=modules)))

    sides = {
        modules: partial(seconds, modules) for modules in ("flowroute", "sqlalchemy, pydantic")
    }
    samples = interleave(sides, repetitions)
    yield Result(
        FIGURE.name,
        "import flowroute / import sqlalchemy, pydantic",
        samples.ratio(*sides),
        "ratio",
        at_most(1.15),
        {f"{name}, ms": value * 1000 for name, value in samples.medians().items()},
        repetitions,
    )
    loaded: list[str] = json.loads(lab.python("-c", LOADED))
    found = [name for name in loaded if name in FORBIDDEN]
    yield Result(
        FIGURE.name,
        f"loaded of {', '.join(FORBIDDEN)}",
        len(found),
        "modules",
        exactly(0),
        conditions={"loaded": [name for name in loaded if not name.startswith("_")]},
    )


FIGURE = Figure("import", "Importing flowroute, against importing what it stands on", measure)
