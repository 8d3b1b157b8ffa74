"""A request that shows a run, against a plain view with one SELECT."""

from __future__ import annotations

from functools import partial

from benchmarks.figure import Figure
from benchmarks.laboratory import Laboratory
from benchmarks.measuring import Measures, Result, at_least, interleave

BAR = at_least(0.7)
#: What is compared with what. A waiting run is shown by a page from templates: beside such a
#: page as well.
PAIRS = {
    "respond on a finished run / a view with one SELECT": ("/finished", "/plain", BAR),
    "respond on a waiting run / a view with one SELECT": ("/waiting", "/plain", BAR),
    "respond on a waiting run / a view with one SELECT and a template": (
        "/waiting",
        "/plain-page",
        None,
    ),
}
EXPECTED = {"/plain": "200 OK", "/plain-page": "200 OK", "/finished": "200 OK"}


def measure(lab: Laboratory) -> Measures:
    """The application is called as a WSGI server calls it, without a network between."""
    repetitions = lab.choose(9, 2)
    count = lab.choose(500, 5)
    for kind, words in (("sqlite", "SQLite"), ("postgresql", "PostgreSQL")):
        url = lab.database_url(kind)
        with lab.contestant("web:web", url=url, synchronous="FULL") as contestant:
            paths = sorted({path for own, plain, _ in PAIRS.values() for path in (own, plain)})
            for path in paths:
                # The first visit starts the run; a later one shows it.
                contestant.ask("visit", path=path)
                seen = contestant.ask("visit", path=path)
                if seen["status"] != EXPECTED.get(path, "202 ACCEPTED"):
                    raise AssertionError(f"{path} answered {seen}")
            conditions = contestant.ask("settings")
            rates = {
                path: partial(contestant.ask, "rate", path=path, count=count) for path in paths
            }
            samples = interleave(rates, repetitions)
        for setting, (own, plain, bar) in PAIRS.items():
            yield Result(
                FIGURE.name,
                f"{words}, {setting}",
                samples.ratio(own, plain),
                "ratio",
                bar,
                {f"{path}, per second": samples.median(path) for path in (own, plain)},
                repetitions,
                conditions,
            )


FIGURE = Figure("request-overhead", "A request that shows a run, against a plain view", measure)
