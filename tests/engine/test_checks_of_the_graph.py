"""What is said of a flow whose steps do not make a graph from a start to an end."""

from __future__ import annotations

import re

import pytest

from flowroute.engine.checks import in_order
from flowroute.errors import DefinitionError
from tests.engine.written import define, problems, told

# -- the whole graph -------------------------------------------------------------------------------


def test_a_flow_without_a_start_is_told_which_step_it_could_be() -> None:
    source = """
        class Shop(Flow):
            @step
            def reserve(self):
                return self.charge()

            @step
            def charge(self):
                return {end}
    """

    assert problems(source.format(end="done(1)")) == told(
        """
        shop.py:2: no run of Shop can start: mark 'reserve' with start=True, as in
            @step(start=True).
        """
    )
    assert problems(source.format(end="self.reserve() if self.__dict__ else done(1)")) == told(
        """
        shop.py:2: no run of Shop can start: mark the step it begins with with start=True, as
            in @step(start=True).
        """
    )


def test_the_place_of_a_flow_is_its_own_first_step_else_an_inherited_one() -> None:
    base = """
        class Base(Flow, abstract=True):
            @step
            def reserve(self):
                return done(1)
    """

    assert problems(base + "\n        class Shop(Base): pass")[0].startswith("shop.py:2: no run")
    own = """
        class Shop(Base):
            @step
            def reserve(self):
                return done(1)
    """
    assert problems(base + own)[0].startswith("shop.py:7: no run")


def test_every_unreachable_step_is_reported_with_what_leads_to_it() -> None:
    found = problems(
        """
        class Shop(Flow):
            @step(start=True)
            def reserve(self):
                return done(1)

            @step
            def charge(self):
                return self.ship(), self.charge()

            @step
            def refund(self):
                return self.ship()

            @step
            def ship(self):
                return self.thank()

            @step
            def thank(self):
                return done(1)
        """
    )

    assert found == told(
        """
        shop.py:6: the step 'charge' is unreachable: no step leads to it. Let a step return
            self.charge(…), name it in to=[…] or on_error=, or mark it start=True.
        shop.py:10: the step 'refund' is unreachable: no step leads to it. Let a step return
            self.refund(…), name it in to=[…] or on_error=, or mark it start=True.
        shop.py:14: the step 'ship' is unreachable: only 'charge', 'refund' lead to it, and no
            run gets there. Let a step return self.ship(…), name it in to=[…] or on_error=, or
            mark it start=True.
        shop.py:18: the step 'thank' is unreachable: only 'ship' leads to it, and no run gets
            there. Let a step return self.thank(…), name it in to=[…] or on_error=, or mark it
            start=True.
        """
    )


def test_a_step_that_only_takes_over_is_reachable() -> None:
    assert len(define(REACHABLE_BY_ERROR).graph) == 2


REACHABLE_BY_ERROR = """
    class Shop(Flow):
        @step(start=True, on_error="sorry")
        def reserve(self):
            return done(1)

        @step
        def sorry(self, failure: StepFailure):
            return done(1)
"""


def test_a_step_that_leads_nowhere_is_reported_and_not_those_before_it() -> None:
    found = problems(
        """
        class Shop(Flow):
            @step(start=True)
            def reserve(self):
                return self.charge()

            @step
            def charge(self):
                return self.show()

            @page()
            def show(self):
                return "<p>Thank you</p>"

            @step(start=True)
            def elsewhere(self):
                return build(1)
        """,
        build=lambda value: value,
    )

    assert found == told(
        """
        shop.py:10: no end can be reached from the step 'show', which hands over to nothing:
            make it @page(final=True), return done(…) or self.<step>(…), or, if a function
            elsewhere builds the continuation, say where it leads with to=[…].
        shop.py:14: no end can be reached from the step 'elsewhere', which hands over to
            nothing: return done(…) or self.<step>(…), or, if a function elsewhere builds the
            continuation, say where it leads with to=[…].
        """
    )


def test_a_step_that_goes_on_only_when_it_fails_leads_nowhere() -> None:
    (found,) = problems(REACHABLE_BY_ERROR.replace("return done(1)", "return None", 1))

    assert found.startswith("shop.py:2: no end can be reached from the step 'reserve'")


def test_steps_that_go_round_for_ever_are_reported_once_with_the_way() -> None:
    found = problems(
        """
        class Shop(Flow):
            @step(start=True)
            def before(self):
                return self.one()

            @step
            def one(self):
                return self.two()

            @step
            def two(self):
                return self.three(), self.one()

            @step
            def three(self):
                return self.one()

            @step(start=True)
            def alone(self):
                return self.alone()
        """
    )

    assert found == told(
        """
        shop.py:6: no end can be reached from the step 'one': one → two → one goes round for
            ever. Let one of them return done(…), or lead to a final page.
        shop.py:18: no end can be reached from the step 'alone': alone → alone goes round for
            ever. Let one of them return done(…), or lead to a final page.
        """
    )


def test_a_circle_with_a_way_out_is_fine() -> None:
    graph = define(
        """
        class Shop(Flow):
            @page(start=True)
            def ask(self):
                return self.check()

            @step
            def check(self):
                return self.ask() if self.__dict__ else self.thank()

            @page(final=True)
            def thank(self):
                return "<p>Thank you</p>"
        """
    ).graph

    assert graph.is_final("thank")


def test_a_circle_of_unknown_names_is_not_called_endless() -> None:
    found = problems(
        """
        class Shop(Flow):
            @step(start=True)
            def one(self):
                return self.two()

            @step
            def two(self):
                return self.one(), self.xyz()
        """
    )

    assert len(found) == 1
    assert "self.xyz" in found[0]


# -- one error for all -----------------------------------------------------------------------------


def test_every_problem_is_in_one_error_in_the_order_of_the_source() -> None:
    with pytest.raises(DefinitionError) as caught:
        define(
            """
            class Shop(Flow):
                total: int

                @step
                def reserve(self, *cart):
                    self.totl = 3
                    return self.chrage()

                @step(to=["reciept"])
                def charge(self, order: "Ordr"):
                    return self.receipt()

                @step
                def receipt(self):
                    return self.receipt()
            """
        )

    lines = [
        int(found) for found in re.findall(r"^  shop.py:(\d+): ", str(caught.value), re.MULTILINE)
    ]
    assert lines == sorted(lines)
    assert len(lines) == len(caught.value.problems) == 7
    text = str(caught.value)
    assert text.startswith("Shop is not a flow yet: 7 problems.\n")
    for part in (
        "takes *cart",
        "'order' is annotated with 'Ordr'",
        "self.totl is assigned",
        "self.chrage is not",
        "to=['reciept']",
        "no run of Shop can start",
        "receipt → receipt goes round",
    ):
        assert part in text


def test_problems_without_a_place_come_last_and_no_problem_twice() -> None:
    assert in_order(["no place", "b.py:2: x", "a.py:10: y", "a.py:9: z", "b.py:2: x"]) == [
        "a.py:9: z",
        "a.py:10: y",
        "b.py:2: x",
        "no place",
    ]
