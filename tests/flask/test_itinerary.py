"""The steps that a page lists: which of a graph's ways it shows, and what it calls them."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from flowroute import Continuation, Flow, done, step, worker_step
from flowroute.engine.graph import ON_ERROR, Edge, Node, StepGraph
from flowroute.engine.step import Place
from flowroute.flask import itinerary as module
from flowroute.flask.itinerary import itinerary
from flowroute.flask.presentation import in_words
from tests.engine.support import set_column
from tests.flask.flows import SiteForm, SiteResult
from tests.flask.support import Site

if TYPE_CHECKING:
    from flowroute.flask.presentation import RunView


def graph(*edges: str, ends: str, errors: str = "", start: str = "a") -> StepGraph:
    """A graph of one-letter steps.

    Parameters:
        edges: Such as ``"abc"`` for a to b to c.
        ends: The steps that may end the run.
        errors: Pairs such as ``"ax by"``: on an error of a to x, of b to y.
        start: The start steps.
    """
    pairs = list(dict.fromkeys(pair for way in edges for pair in pairwise(way)))
    failing = [(pair[0], pair[1]) for pair in errors.split()]
    names = sorted({name for pair in [*pairs, *failing] for name in pair} | set(start))
    nodes = tuple(
        Node(name, Place.ANYWHERE, name in start, name in ends, "", "flow.py", 1) for name in names
    )
    ways = [Edge(source, target) for source, target in pairs]
    ways += [Edge(source, target, ON_ERROR) for source, target in failing]
    return StepGraph("Letters", nodes, tuple(ways))


def way(graph: StepGraph, current: str | None) -> str:
    return "".join(itinerary(graph, current))


def test_a_line_is_listed_as_it_is() -> None:
    line = graph("abcd", ends="d")
    assert [way(line, current) for current in ("a", "c", "d", None)] == ["abcd"] * 4


def test_of_two_branches_the_longer_one_is_expected_until_the_run_takes_the_other() -> None:
    fork = graph("abcz", "axz", ends="z")
    assert way(fork, "a") == "abcz"
    assert way(fork, "b") == "abcz"
    assert way(fork, "x") == "axz"


def test_of_branches_of_one_length_the_first_in_the_code_is_expected() -> None:
    fork = graph("abz", "acz", "adz", ends="z")
    assert way(fork, "a") == "abz"
    assert way(fork, "z") == "abz"
    assert way(fork, "c") == "acz"


def test_a_loop_is_gone_through_once() -> None:
    loop = graph("abc", "cb", "bb", "cd", ends="d")
    assert [way(loop, current) for current in "abcd"] == ["abcd"] * 4


def test_a_step_that_only_leads_back_is_listed_while_the_run_is_there() -> None:
    declined = graph("abc", "bx", "xb", ends="c")
    assert way(declined, "b") == "abc"
    assert way(declined, "x") == "abxc"
    assert way(declined, "c") == "abc"


def test_what_an_error_leads_to_is_listed_while_the_run_is_there() -> None:
    errors = graph("abc", "xy", ends="cy", errors="bx")
    assert way(errors, "b") == "abc"
    assert way(errors, "x") == "abxc"
    assert way(errors, "y") == "abcy"


def test_a_step_that_may_end_the_run_or_go_on_is_expected_to_go_on() -> None:
    assert way(graph("abc", ends="abc"), "a") == "abc"


def test_a_run_that_came_from_the_second_start_step_lists_that_one() -> None:
    two = graph("abz", "cz", ends="z", start="ac")
    assert way(two, "c") == "cz"
    assert way(two, "a") == "abz"


def test_at_the_end_only_the_steps_that_every_way_has_are_sure() -> None:
    fork = graph("abcz", "axz", ends="z")
    assert way(fork, None) == "az"
    assert way(graph("abc", ends="abc"), None) == "a"
    assert way(graph("ab", "cb", ends="b", start="ac"), None) == "b"


def test_a_graph_whose_ways_end_by_errors_only_is_listed_whole() -> None:
    errors = graph("ab", "ba", ends="x", errors="bx")
    assert way(errors, "a") == "abx"
    assert way(errors, None) == ""


def test_a_graph_with_too_many_ways_is_listed_whole_and_soon() -> None:
    letters = "bcdefghijklmnop"
    tangle = graph(*(f"a{one}{two}z" for one in letters for two in letters if one != two), ends="z")
    assert way(tangle, "c") == f"a{letters}z"
    assert way(tangle, None) == ""


def test_a_graph_with_many_steps_and_few_ways_is_no_graph_with_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LOOKS", 11)
    assert way(graph("abcdefghijk", ends="k"), "c") == "abcdefghijk"
    assert way(graph("abcdefgh", "axh", ends="h"), "c") == "abcdefgh"
    assert way(graph("abcdefgh", "axyh", ends="h"), "c") == "abcdefgh"
    assert way(graph("abcdefgh", "axyzh", ends="h"), "c") == "abxcydzehfg"  # breadth first


# -- what they are called, and where the run is ----------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("charge", "Charge"),
        ("charge_card", "Charge card"),
        ("ChargeCard", "Charge card"),
        ("_private__name_", "Private name"),
        ("HTTPCharge", "HTTP charge"),
        ("charge_2nd_time", "Charge 2nd time"),
        ("SendVATInvoice", "Send VAT invoice"),
        ("ABTest", "AB test"),
        ("été_là", "Été là"),
        ("a", "A"),
        ("X", "X"),
        ("", ""),
    ],
)
def test_a_name_becomes_words(name: str, words: str) -> None:
    assert in_words(name) == words


class SiteNamedFlow(Flow, name="site.named"):
    @step(start=True)
    def open_the_box(self) -> Continuation[Any]:
        return self.look_inside()

    @worker_step
    def look_inside(self) -> Continuation[Any]:
        """Have a look.

        Nobody knows what is in there.
        """
        return self.close_it()

    @step
    def close_it(self) -> Continuation[Any]:
        return done()


def view_of(site: Site) -> RunView:
    """The view of the only run."""
    with site.app.test_request_context():
        return site.flows.view(site.run)


def steps_of(site: Site) -> list[tuple[str, str, str]]:
    """The steps as a page lists them."""
    return [(each.title, each.kind, each.state) for each in view_of(site).steps]


@pytest.fixture
def named(site: Site) -> Site:
    """A site with a run at its second of three steps."""
    with site.app.app_context():
        site.flows.engine.start(SiteNamedFlow().open_the_box())
    return site


def test_steps_are_called_by_their_docstring_else_by_their_name(named: Site) -> None:
    assert steps_of(named) == [
        ("Open the box", "step", "done"),
        ("Have a look", "worker", "current"),
        ("Close it", "step", "todo"),
    ]
    assert view_of(named).title == "Site named flow"


def test_at_the_end_no_step_is_current(named: Site) -> None:
    named.work()
    assert {state for _, _, state in steps_of(named)} == {"done"}


@pytest.mark.parametrize("state", ["failed", "cancelled", "blocked"])
def test_where_a_run_stopped_is_its_current_step(named: Site, state: str) -> None:
    with named.app.app_context():
        ended_at = None if state == "blocked" else datetime.now(UTC)
        columns = {"state": state, "waiting_for": None, "finished_at": ended_at}
        set_column(named.flows.engine, named.run, **columns)
    assert [each for _, _, each in steps_of(named)] == ["done", "current", "todo"]


def test_a_flow_that_is_not_known_here_has_a_title_and_no_steps(named: Site) -> None:
    with named.app.app_context():
        set_column(named.flows.engine, named.run, flow="GoneAway")
    view = view_of(named)
    assert (view.title, view.steps) == ("Gone away", [])


def test_a_run_at_a_step_that_is_not_known_here_lists_none(named: Site) -> None:
    with named.app.app_context():
        set_column(named.flows.engine, named.run, step="gone")
    assert steps_of(named) == []
    assert view_of(named).title == "Site named flow"


def test_progress_is_in_percent(named: Site) -> None:
    assert view_of(named).progress is None
    with named.app.app_context():
        progress = {"done": 1, "total": 3, "message": "opening"}
        set_column(named.flows.engine, named.run, progress=progress)
    shown = view_of(named).progress
    assert shown is not None
    assert (int(shown.percent), shown.message) == (33, "opening")


def test_a_result_is_shortened_for_people(site: Site) -> None:
    with site.app.app_context():
        run = site.flows.engine.start(SiteResult().end(["x" * 1000] * 1000))
        shown = site.flows.view(run).result
    assert len(str(shown)) < 10_000


def test_a_run_that_has_not_ended_has_no_result(site: Site) -> None:
    with site.app.app_context():
        run = site.flows.engine.start(SiteForm().address())
        assert site.flows.view(run).result is None
