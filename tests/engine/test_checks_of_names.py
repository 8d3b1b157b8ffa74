"""What is said of a flow whose code refers to what does not exist, or whose names are taken."""

from __future__ import annotations

from typing import ClassVar

import pytest

from tests.engine.written import define, problems, told

# -- names that do not exist -----------------------------------------------------------------------


def test_a_misspelt_step_is_reported_once_with_the_step_that_was_meant() -> None:
    found = problems(
        """
        class Shop(Flow):
            @step(start=True)
            def reserve(self, cart: list):
                return self.chrage(cart)

            @step
            def charge(self, order: int):
                return done(order)
        """
    )

    assert found == told(
        """
        shop.py:4: self.chrage is not a step, state or method of Shop: did you mean the step
            'charge'?
        """
    )


def test_a_name_like_no_other_is_reported_with_what_there_is() -> None:
    source = """
        class Shop(Flow):
            {state}
            @step(start=True)
            def reserve(self):
                return self.xyz and self.xyz
    """

    assert problems(source.format(state="owner: str; total: int")) == told(
        """
        shop.py:5: self.xyz is not a step, state or method of Shop. Its steps are 'reserve';
            its state is 'owner', 'total'.
        """
    )
    assert problems(source.format(state="")) == told(
        """
        shop.py:5: self.xyz is not a step, state or method of Shop. Its steps are 'reserve'.
        """
    )


def test_a_long_list_of_names_is_cut() -> None:
    steps = "\n".join(f"    @step\n    def s{i}(self): return self.s{i + 1}" for i in range(11))
    end = "    @step\n    def s11(self): return done(1)\n"
    found = problems(
        "class Shop(Flow):\n    @step(start=True)\n    def a(self): return self.s0, self.xyz\n"
        + steps
        + "\n"
        + end
    )

    (text,) = found
    assert "'a', 's0', 's1', 's2', 's3', 's4', 's5', 's6', 5 more." in text


def test_misspelt_state_and_methods_are_reported_wherever_the_code_leads() -> None:
    found = problems(
        """
        class Shop(Flow):
            total: int

            @step(start=True)
            def reserve(self, cart: list):
                return [self._price(i) for i in cart if self.totl] and done(1)

            def _price(self, item):
                return self._discout(item)

            def _discount(self, item):
                return super().no_such_method(item)
        """
    )

    assert found == told(
        """
        shop.py:6: self.totl is not a step, state or method of Shop: did you mean 'total'?
        shop.py:9: self._discout is not a step, state or method of Shop: did you mean
            '_discount'?
        """
    )


def test_a_helper_that_two_steps_use_is_reported_once() -> None:
    found = problems(
        """
        class Shop(Flow):
            @step(start=True)
            def one(self):
                return self._help(), self.two()

            @step
            def two(self):
                return self._help(), done(1)

            def _help(self):
                return self.xyz, self.xyz
        """
    )

    assert [text.partition(". Its")[0] for text in found] == told(
        """
        shop.py:11: self.xyz is not a step, state or method of Shop
        """
    )


def test_everything_that_exists_may_be_referred_to() -> None:
    graph = define(
        """
        class Mixin:
            limit = 3

            def shared(self):
                return self.limit

        class Shop(Mixin, Flow):
            total: int
            callback: object = len
            HOUSE: ClassVar[str]
            names: ClassVar[list] = []

            @step(start=True)
            def reserve(self):
                self.total = self.total + self.limit + self.shared() + len(self.names)
                self.run.log.info(self.HOUSE, self.__class__, self.__flow__, self.callback)
                self.session.add(self.graph)
                return done(super().__repr__())
        """,
        ClassVar=ClassVar,
    ).graph

    assert graph.successors("reserve") == {"done"}


@pytest.mark.parametrize("method", ["__getattr__", "__getattribute__"])
def test_a_flow_that_makes_up_its_attributes_is_not_judged(method: str) -> None:
    graph = define(
        f"""
        class Shop(Flow):
            def {method}(self, name):
                return object()

            @step(start=True)
            def reserve(self):
                return self.anything, done(1)
        """
    ).graph

    assert len(graph) == 1


def test_a_function_that_is_state_is_not_taken_for_a_method() -> None:
    graph = define(
        """
        def price(item):
            return item.amount

        class Shop(Flow):
            pricing: object = price

            @step(start=True)
            def reserve(self, item: object):
                return done(self.pricing(item))
        """
    ).graph

    assert len(graph) == 1


def test_flowroute_s_own_classes_are_neither_read_nor_do_they_hide_a_misspelt_name() -> None:
    found = problems(
        """
        class Internal:
            __module__ = "flowroute.engine.internal"

            def helper(self):
                return self.known_only_inside

            def __getattr__(self, name):
                raise AttributeError(name)

        class Shop(Internal, Flow):
            @step(start=True)
            def reserve(self):
                return done(self.helper(), self.hepler())
        """
    )

    assert found == told(
        """
        shop.py:13: self.hepler is not a step, state or method of Shop: did you mean 'helper'?
        """
    )


def test_the_class_that_a_class_method_is_given_is_not_taken_for_a_flow() -> None:
    graph = define(
        """
        class Shop(Flow):
            @classmethod
            def bases(cls):
                return cls.mro()

            @step(start=True)
            def reserve(self):
                return done(self.bases())
        """
    ).graph

    assert len(graph) == 1


def test_super_of_a_class_outside_the_flow_is_not_followed() -> None:
    found = problems(
        """
        class Other:
            def shared(self): return 1

        class Shop(Flow):
            @step(start=True)
            def reserve(self):
                return super(Other, self).shared(), done(1)
        """
    )

    assert found == told(
        """
        shop.py:7: self.shared is not a step, state or method of Shop. Its steps are
            'reserve'.
        """
    )


# -- assignments -----------------------------------------------------------------------------------


def test_an_assignment_to_anything_but_state_is_reported() -> None:
    found = problems(
        """
        class Shop(Flow):
            total: int
            totals = 3

            @step(start=True)
            def reserve(self):
                self.total = 1
                self.totl = 3
                self.xyz = 3
                self.totals += 1
                self.charge = 1
                return self.charge()

            @step
            def charge(self):
                return done(1)
        """
    )

    assert found == told(
        """
        shop.py:8: self.totl is assigned, but 'totl' is not state of Shop: did you mean
            'total'?
        shop.py:9: self.xyz is assigned, but 'xyz' is not state of Shop: declare it in the
            class body, as `xyz: …`, so that it is part of every checkpoint.
        shop.py:10: self.totals is assigned, but 'totals' is not state of Shop: declare it in
            the class body, as `totals: …`, so that it is part of every checkpoint.
        shop.py:11: self.charge is assigned, but 'charge' is not state of Shop, it is a step:
            choose another name.
        """
    )


# -- names that are taken --------------------------------------------------------------------------


def test_names_of_flowroute_are_neither_steps_nor_state() -> None:
    found = problems(
        """
        class Shop(Flow):
            graph: str

            @step(start=True)
            def run(self):
                return self.done()

            @step
            def done(self):
                return done(1)
        """
    )

    assert found == told(
        """
        shop.py:4: the step 'run' hides self.run, the run that a step belongs to: give it
            another name.
        shop.py:4: the state 'graph' hides self.graph, the step graph: give it another name.
        shop.py:8: the step 'done' is named like the end of every graph: give it another name.
        """
    )


def test_a_step_and_a_state_of_one_name_are_reported() -> None:
    found = problems(
        """
        class Shop(Flow):
            total: int

            @step(start=True)
            def total(self):
                return done(1)
        """
    )

    assert found == told(
        """
        shop.py:4: the step 'total' has the name of a state of Shop: rename one of them.
        """
    )
