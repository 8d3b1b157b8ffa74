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
{statement}
print(time.perf_counter() - began)
"""
#: What a module of flows asks for, and a program that runs them.
NAMES = "from flowroute import Continuation, Engine, Flow, done, step, worker_step"
LOADED = """
import json, sys
import flowroute
print(json.dumps(sorted(name for name in sys.modules if "." not in name)))
"""


def measure(lab: Laboratory) -> Measures:
    """The import statement alone, in a new process each time."""
    repetitions = lab.choose(15, 2)

    def seconds(statement: str) -> float:
        return float(lab.python("-c", TIMED.format(statement=statement)))

    own, base = "flowroute", "sqlalchemy, pydantic"
    sides = {what: partial(seconds, f"import {what}") for what in (own, base)}
    sides[NAMES] = partial(seconds, NAMES)
    samples = interleave(sides, repetitions)
    yield Result(
        FIGURE.name,
        "import flowroute / import sqlalchemy, pydantic",
        samples.ratio(own, base),
        "ratio",
        at_most(1.15),
        {f"{name}, ms": value * 1000 for name, value in samples.medians().items()},
        repetitions,
    )
    yield Result(
        FIGURE.name,
        "what a module of flows imports / import sqlalchemy, pydantic",
        samples.ratio(NAMES, base),
        "ratio",
        None,
        {NAMES + ", ms": samples.median(NAMES) * 1000},
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
