"""What is said of a flow whose step decorators are given what can not work."""

from __future__ import annotations

import pytest

from tests.engine.written import define, problems, told


def test_unknown_targets_are_reported_with_what_was_meant() -> None:
    found = problems(
        """
        class Shop(Flow):
            @step(start=True, to=["chrage", "don", "xyz", "xyz"], on_error="sory")
            def reserve(self):
                return elsewhere(self)

            @step(on_error="xyz")
            def charge(self):
                return done(1)

            @step
            def sorry(self, failure: StepFailure):
                return done(1)
        """
    )

    assert found == told(
        """
        shop.py:2: the step 'reserve' has to=['chrage'], which is no step of Shop: did you
            mean 'charge'?
        shop.py:2: the step 'reserve' has to=['don'], which is no step of Shop: did you mean
            'done'?
        shop.py:2: the step 'reserve' has to=['xyz'], which is no step of Shop. There is
            'reserve', 'charge', 'sorry', 'done'.
        shop.py:2: the step 'reserve' has on_error='sory', which is no step of Shop: did you
            mean 'sorry'?
        shop.py:6: the step 'charge' has on_error='xyz', which is no step of Shop. There is
            'reserve', 'charge', 'sorry'.
        """
    )


@pytest.mark.parametrize(
    ("parameters", "taken"),
    [
        ("self", "no required parameter"),
        ("self, failure=None", "no required parameter"),
        ("self, order: int, failure: StepFailure", "the required parameters 'order', 'failure'"),
        ("self, *, failure: StepFailure", "'failure' by keyword only"),
    ],
)
def test_a_step_that_takes_over_takes_the_failure_and_nothing_else(
    parameters: str, taken: str
) -> None:
    found = problems(
        f"""
        class Shop(Flow):
            @step(start=True, on_error="sorry")
            def reserve(self):
                return done(1)

            @step
            def sorry({parameters}):
                return done(1)
        """
    )

    assert found == told(
        f"""
        shop.py:6: the step 'sorry' takes over when 'reserve' fails, but takes {taken}: give it
            exactly one required parameter, such as `failure: StepFailure`.
        """
    )


def test_a_step_that_takes_over_may_have_more_parameters_with_defaults() -> None:
    graph = define(
        """
        class Shop(Flow):
            @step(start=True, on_error="sorry")
            def reserve(self):
                return done(1)

            @step
            def sorry(self, failure: StepFailure, polite: bool = True):
                return done(1)
        """
    ).graph

    assert graph.allows("reserve", "sorry")


def test_a_step_does_not_take_over_from_itself() -> None:
    found = problems(
        """
        class Shop(Flow):
            @step(start=True, on_error="reserve")
            def reserve(self, failure: StepFailure):
                return done(1)
        """
    )

    assert found == told(
        """
        shop.py:2: the step 'reserve' has itself as on_error, and would fail for ever: name
            another step, or give it retry=Retry(…).
        """
    )


def test_a_final_page_that_leads_on_is_reported() -> None:
    found = problems(
        """
        class Shop(Flow):
            @page(start=True, final=True, on_error="sorry")
            def receipt(self):
                return self.sorry(None) if self.__dict__ else done(1)

            @step
            def sorry(self, failure: object):
                return done(1)
        """
    )

    assert found == told(
        """
        shop.py:2: the page 'receipt' is final, so the run ends there, but it leads on to
            self.sorry, done(…), on_error='sorry': let it return a response only, or take
            final=True away.
        """
    )
