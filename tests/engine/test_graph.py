"""Step graphs: how they are read from the code of a flow, and walked as data."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

import flowroute
from flowroute import Continuation, Flow, done, step, worker_step
from flowroute.engine.graph import ON_ERROR, Edge, Node, StepGraph
from flowroute.engine.step import END, Place, StepFailure
from tests.engine.written import define, page, problems


def ways(graph: StepGraph) -> list[str]:
    return [f"{e.source} -> {e.target}{' on error' if e.label else ''}" for e in graph.edges]


# -- the graph as data -----------------------------------------------------------------------------


class Straight(Flow):
    """Reserve, charge on a worker, show the receipt."""

    customer_id: int

    @step(start=True)
    def reserve(self, cart: list[str]) -> Continuation[None]:
        """Put the cart aside."""
        return self.charge(len(cart), currency="EUR")

    @worker_step(on_error="apologise")
    def charge(self, order: int, *, currency: str) -> Continuation[None]:
        return self.receipt(f"{order} {currency}")

    @page(final=True)
    def receipt(self, charge_id: str) -> str:
        return charge_id

    @step
    def apologise(self, failure: StepFailure) -> Continuation[None]:
        self.run.log.error(failure.message)
        return done(None)


def test_a_graph_knows_each_step_with_its_kind_and_place_in_the_source() -> None:
    nodes = {node.name: node for node in Straight.graph}
    code = Straight.reserve.function.__code__

    assert [*nodes] == ["reserve", "charge", "receipt", "apologise"]
    assert nodes["reserve"] == Node(
        name="reserve",
        place=Place.ANYWHERE,
        start=True,
        end=False,
        doc="Put the cart aside.",
        filename=code.co_filename,
        line=code.co_firstlineno,
    )
    assert nodes["charge"].place is Place.EXECUTOR
    assert nodes["receipt"].place is Place.REQUEST
    assert [node.name for node in Straight.graph if node.end] == ["receipt", "apologise"]


def test_a_graph_knows_the_ways_between_steps() -> None:
    graph = Straight.graph

    assert graph.flow == "Straight"
    assert graph.edges == (
        Edge("reserve", "charge"),
        Edge("charge", "receipt"),
        Edge("charge", "apologise", ON_ERROR),
        Edge("apologise", END),
    )
    assert graph.successors("charge") == {"receipt", "apologise"}
    assert graph.successors("apologise") == {END}
    assert graph.successors("receipt") == frozenset()
    assert graph.node("charge").name == "charge"
    assert len(graph) == 4


def test_a_graph_allows_its_ways_and_no_others() -> None:
    graph = Straight.graph

    assert graph.allows("reserve", "charge")
    assert graph.allows("charge", "apologise")
    assert graph.allows("apologise", END)
    assert not graph.allows("reserve", "receipt")
    assert not graph.allows("reserve", END)
    assert not graph.allows("gone", "charge")
    assert not graph.allows("reserve", "gone")


def test_only_a_page_that_ends_the_run_by_being_reached_is_final() -> None:
    graph = Straight.graph

    assert [node.name for node in graph if graph.is_final(node.name)] == ["receipt"]


def test_a_name_that_is_no_step_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="gone"):
        Straight.graph.node("gone")
    with pytest.raises(KeyError, match="gone"):
        Straight.graph.successors("gone")


def test_the_order_is_breadth_first_from_the_start() -> None:
    class Spread(Flow):
        @step
        def last(self) -> Continuation[None]:
            return done(None)

        @step
        def left(self) -> Continuation[None]:
            return self.left() if self.__dict__ else self.last()

        @step
        def right(self) -> Continuation[None]:
            return self.last()

        @step(start=True)
        def first(self) -> Continuation[None]:
            return self.right() if self.__dict__ else self.left()

    assert [node.name for node in Spread.graph.order()] == ["first", "right", "left", "last"]
    assert [node.name for node in Spread.graph] == ["last", "left", "right", "first"]


def test_graphs_are_equal_by_value_and_hashable() -> None:
    copied = StepGraph(Straight.graph.flow, Straight.graph.nodes, Straight.graph.edges)

    assert copied == Straight.graph
    assert hash(copied) == hash(Straight.graph)


# -- where edges come from -------------------------------------------------------------------------


def finish(value: object) -> Continuation[object]:
    return done(value)


def onward(flow: Any, order: int) -> Any:
    _ = getattr(flow, "x", None), flow.name_that_only_other_objects_have
    flow.name_of_theirs = 1
    return flow.helped(order)


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(flow: Any, *args: Any) -> Any:
        return function(flow, *args) if args else flow.refused()

    return wrapper


REACH = """
    class Reach(Flow):
        @step(start=True)
        def begin(self, order: int):
            {body}

        @step
        def charge(self, order: int):
            return done(order)

        def _helper(self, order):
            return self._deeper(order)

        def _deeper(self, order):
            return self.charge(order) if order else self._helper(order)

        @property
        def shortcut(self):
            return self.charge(1)

        @shortcut.setter
        def shortcut(self, value):
            pass

        @functools.cached_property
        def kept(self):
            return self.charge(1)

        partly = functools.partialmethod(_helper, 1)

        @functools.lru_cache
        def remembered(self):
            return self.charge(1)

        @functools.singledispatchmethod
        def by_type(self, order):
            return 1

        @by_type.register(int)
        def _(self, order):
            return self.charge(order)

        @logged
        def careful(self, order):
            return self.charge(order)
"""


@pytest.mark.parametrize(
    "body",
    [
        "return self.charge(order)",
        "return self.charge(order).after(timedelta(days=1))",
        "return gather([self.charge(i) for i in range(order)])",
        "return wait(self.charge, order)",
        "return self._helper(order)",
        "return self.shortcut",
        "return self.kept",
        "return self.partly()",
        "return self.remembered()",
        "return self.by_type(order)",
        "return Reach._helper(self, order)",
    ],
)
def test_a_step_is_reached_through_whatever_its_code_reaches(body: str) -> None:
    source = REACH.format(body=body).replace("Reach._helper", "helper")
    source = source.replace("@logged\n", "\n")
    names = {"functools": functools, "gather": None, "wait": None, "timedelta": None}

    def helper(flow: Any, order: int) -> Any:
        return flow._helper(order)  # noqa: SLF001  # what is tested

    graph = define(source, helper=helper, **names).graph

    assert ways(graph) == ["begin -> charge", "charge -> done"]


def test_a_decorated_step_is_read_with_its_decorator() -> None:
    graph = define(
        """
        class Careful(Flow):
            @step(start=True)
            @logged
            def begin(self, order: int):
                return self.charge(order)

            @step
            def charge(self, order: int):
                return done(order)

            @step
            def refused(self):
                return done(None)
        """,
        logged=logged,
    ).graph

    assert graph.successors("begin") == {"charge", "refused"}
    assert (graph.node("begin").filename, graph.node("begin").line) == ("shop.py", 2)


def test_a_function_that_is_given_the_flow_is_followed_but_not_judged() -> None:
    graph = define(
        """
        class Helped(Flow):
            @step(start=True)
            def begin(self, order: int):
                return onward(self, order)

            @step
            def helped(self, order: int):
                return done(order)
        """,
        onward=onward,
    ).graph

    assert ways(graph) == ["begin -> helped", "helped -> done"]


@pytest.mark.parametrize(
    "end",
    ["done(1)", "flowroute.done(1)", "self.finish(1)", "self.static(1)", "self.of_class(1)"],
)
def test_the_end_is_found_by_identity_whatever_done_is_called(end: str) -> None:
    graph = define(
        f"""
        class Ends(Flow):
            finish = staticmethod(done)

            @staticmethod
            def static(value):
                return done(value)

            @classmethod
            def of_class(cls, value):
                return done(value)

            @step(start=True)
            def begin(self):
                return {end}
        """,
        flowroute=flowroute,
    ).graph

    assert ways(graph) == ["begin -> done"]


def test_declared_targets_replace_those_in_the_code() -> None:
    class Declared(Flow):
        @step(start=True, to=["middle", "middle", done])
        def begin(self) -> Continuation[object]:
            return finish(self.last)

        @step(to=["last"])
        def middle(self) -> Continuation[object]:
            return finish(self)

        @step(to=[done])
        def last(self) -> Continuation[object]:
            return finish(1)

    assert ways(Declared.graph) == [
        "begin -> middle",
        "begin -> done",
        "middle -> last",
        "last -> done",
    ]


def test_a_step_that_is_declared_to_lead_nowhere_is_taken_at_its_word() -> None:
    (found,) = problems(
        """
        class Shop(Flow):
            @step(start=True, to=[])
            def reserve(self):
                return done(1)
        """
    )

    assert found.startswith("shop.py:2: no end can be reached from the step 'reserve', which hands")


def test_timers_do_not_change_the_ways() -> None:
    graph = define(
        """
        class Later(Flow):
            @step(start=True)
            def begin(self):
                return self.remind().after(delay)

            @step
            def remind(self):
                return self.remind().at(instant) if self.__dict__ else done(None)
        """
    ).graph

    assert ways(graph) == ["begin -> remind", "remind -> remind", "remind -> done"]


def test_each_way_is_drawn_once_and_the_one_of_an_error_beside_it() -> None:
    graph = define(
        """
        class Twice(Flow):
            @step(start=True, on_error="again")
            def begin(self):
                return self.again(None) if self.__dict__ else self.again(1)

            @step
            def again(self, failure: object):
                return done(1) if failure else done(2)
        """
    ).graph

    assert ways(graph) == ["begin -> again", "begin -> again on error", "again -> done"]
