"""Step graphs of flows that inherit steps, override them, and call their bases."""

from __future__ import annotations

from tests.engine.test_graph import ways
from tests.engine.written import define, problems, told

BASE = """
    class Audited:
        @step
        def audit(self, order: int):
            return self.finish_audit(order)

        def finish_audit(self, order):
            return self.ship(order)

    class Base(Flow, abstract=True):
        @step(start=True)
        def begin(self, order: int):
            return self.charge(order)

        @step
        def charge(self, order: int):
            return self.ship(order)
"""


def test_inherited_steps_belong_to_the_graph_and_overriding_ones_replace_them() -> None:
    graph = define(
        BASE
        + """
    class Shop(Audited, Base):
        @step
        def charge(self, order: int):
            return self.audit(order)

        @step
        def ship(self, order: int):
            return done(order)
    """
    ).graph

    assert sorted(ways(graph)) == [
        "audit -> ship",
        "begin -> charge",
        "charge -> audit",
        "ship -> done",
    ]


def test_super_reaches_helpers_and_steps_of_the_base() -> None:
    graph = define(
        BASE
        + """
    class Shop(Audited, Base):
        @step
        def ship(self, order: int):
            return self.again(order) if order else done(order)

        def finish_audit(self, order):
            return super().finish_audit(order)

        @step
        def again(self, order: int):
            return super().audit(order)
    """
    ).graph

    assert graph.successors("again") == {"audit"}
    assert graph.successors("audit") == {"ship"}


def test_the_code_of_an_overridden_step_is_followed_where_it_is_called() -> None:
    graph = define(
        BASE
        + """
    class Shop(Base):
        @step
        def charge(self, order: int):
            return Base.charge.function(self, order + 1)

        @step
        def ship(self, order: int):
            return done(order)
    """
    ).graph

    assert graph.successors("charge") == {"ship"}


def test_super_of_an_overridden_step_is_refused_as_it_would_go_round() -> None:
    found = problems(
        """
        class Base(Flow, abstract=True):
            @step(start=True)
            def charge(self, order: int):
                return done(order)

        class Shop(Base):
            @step(start=True)
            def charge(self, order: int):
                return super().charge(order) if order else done(0)
        """
    )

    assert found == told(
        """
        shop.py:9: super().charge would hand over to the step 'charge' of Shop again, since a
            continuation knows its step by name: to run the base class's code here, write
            Base.charge.function(self, …).
        """
    )
