"""Reading code objects: what a method refers to through `self`, and which objects it names.

The functions read here are never called.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import pytest

import flowroute
import flowroute.engine.continuation
from flowroute import done
from flowroute import done as finish
from flowroute.engine.bytecode import Access, Reference
from tests.engine.reading import compiled, handovers, loaded, mentions, references, stored

# -- what is found ---------------------------------------------------------------------------------


def test_loads_calls_and_stores_are_found_in_order_each_with_its_line() -> None:
    function = compiled(
        "def function(self, order):\n"
        "    self.total = order.total\n"
        "    if self.total > 100:\n"
        "        return self.review(order)\n"
        "    return self.charge\n"
    )

    assert references(function) == [
        Reference("total", Access.STORE, "gone.py", 2),
        Reference("total", Access.LOAD, "gone.py", 3),
        Reference("review", Access.LOAD, "gone.py", 4),
        Reference("charge", Access.LOAD, "gone.py", 5),
    ]


def test_the_first_parameter_may_have_any_name() -> None:
    assert loaded(compiled("def function(checkout, self): return checkout.charge(self.total)")) == [
        "charge"
    ]


def test_the_flow_may_be_another_parameter_by_position_or_by_name() -> None:
    function = compiled("def function(a, b, *rest, c=1): return a.one, b.two, c.three, rest.four")

    assert loaded(function, 1) == ["two"]
    assert loaded(function, "c") == ["three"]
    assert loaded(function, 2) == []
    assert loaded(function, "rest") == []
    assert loaded(function, None) == []


@pytest.mark.parametrize(
    "body",
    [
        "def inner(): return self.charge()\n    return inner",
        "return lambda order: self.charge(order)",
        "return [self.charge(i) for i in items]",
        "return {self.charge(i): i for i in items}",
        "return list(self.charge(i) for i in items)",
        "return [[self.charge(j) for j in i] for i in items]",
        "def outer():\n        def inner(): self.charge()\n        return inner\n    return outer",
        "class Inner:\n        def method(inner): return self.charge()\n    return Inner",
        "return f'{self.charge()!r:>10}'",
        "try: pass\n    except ValueError: return self.charge()\n    return None",
        "try: pass\n    finally: items.append(self.charge())",
        "with open(items) as file: return self.charge(file)",
        "match items:\n        case [first, *_]: return self.charge(first)",
        "return items and (items[0] if items else self.charge())",
        "return (yield self.charge())",
        "return items(1, *items, order=self.charge, **items)",
    ],
)
def test_a_reference_is_found_wherever_it_stands(body: str) -> None:
    assert set(loaded(compiled(f"def function(self, items):\n    {body}\n"))) == {"charge"}


def test_the_self_of_a_nested_function_or_class_is_another() -> None:
    function = compiled(
        "def function(self):\n"
        "    class Inner:\n"
        "        def method(self): return self.other\n"
        "    return Inner, lambda self: self.other\n"
    )

    assert loaded(function) == []


def test_assignments_are_found_in_every_form() -> None:
    function = compiled(
        "def function(self, items):\n"
        "    self.one, self.two = items\n"
        "    self.three = self.four = 1\n"
        "    self.count += len(items) + 1\n"
        "    for self.five in items: pass\n"
        "    with items as self.six: pass\n"
        "    items.seven = items.eight[0] = 1\n"
    )

    assert stored(function) == ["one", "two", "three", "four", "count", "five", "six"]


def test_a_deleted_attribute_is_a_reference_to_it() -> None:
    assert loaded(compiled("def function(self, items):\n    del self.total, items.total")) == [
        "total"
    ]


def test_another_name_for_self_is_followed() -> None:
    function = compiled(
        "def function(self):\n"
        "    me = self\n"
        "    if (again := self):\n"
        "        return me.charge(), again.refund(), lambda: me.ship()\n"
    )

    assert loaded(function) == ["charge", "refund", "ship"]


@pytest.mark.parametrize(
    "source",
    [
        "def function(self, items):\n    me = self if items else items\n    return me.charge",
        "def function(self, items):\n    me = self\n    if items: me = items\n    return me.charge",
        "def function(self, items):\n    self = items\n    return self.charge",
        (
            "def function(self, items):\n"
            "    me = self\n"
            "    def other():\n"
            "        nonlocal me\n"
            "        me = items\n"
            "    other()\n"
            "    return me.charge"
        ),
    ],
)
def test_a_name_that_may_hold_something_else_is_not_taken_for_self(source: str) -> None:
    assert loaded(compiled(source)) == []


def test_code_is_read_where_no_source_exists() -> None:
    function = compiled("def function(self): return self.charge()")

    bare = FunctionType(function.__code__.replace(co_linetable=b""), {})

    assert loaded(bare) == ["charge"]


# -- super() ---------------------------------------------------------------------------------------


class Base:
    def charge(self) -> str:
        return "base"


class Derived(Base):
    def plain(self) -> str:
        return super().charge()

    def explicit(self) -> str:
        return super(Derived, self).charge()  # noqa: UP008  # what is tested

    def kept(self) -> str:
        parent: Any = super()
        return str(parent.charge())

    def inside(self) -> Callable[[], str]:
        return lambda: super(Derived, self).charge()

    def of_another(self) -> Callable[[Derived], str]:
        def inner(other: Derived) -> str:
            return super().charge() if other else super(Derived, other).charge()  # noqa: UP008

        return inner

    def without(self) -> Callable[[], object]:
        def inner() -> object:
            kept = super
            return kept()

        return inner

    def unbound(self) -> object:
        return super(Derived)


@pytest.mark.parametrize("method", ["plain", "explicit", "kept", "inside"])
def test_super_is_a_reference_that_starts_after_the_class(method: str) -> None:
    (found,) = references(vars(Derived)[method])

    assert (found.name, found.access, found.after) == ("charge", Access.LOAD, Derived)


@pytest.mark.parametrize("method", ["of_another", "without", "unbound"])
def test_super_of_something_else_is_no_reference(method: str) -> None:
    assert references(vars(Derived)[method]) == []


# -- objects by identity ---------------------------------------------------------------------------


def by_its_name(_: object) -> object:
    return done(1)


def by_another_name(_: object) -> object:
    return finish(1)


def by_its_package(_: object) -> object:
    return flowroute.done(1)


def by_a_deeper_module(_: object) -> object:
    return flowroute.engine.continuation.done(1)


def imported_inside(_: object) -> object:
    from flowroute import done as local  # noqa: PLC0415  # what is tested

    return local(1)


def package_imported_inside(_: object) -> object:
    import flowroute.engine.continuation  # noqa: PLC0415  # what is tested

    return flowroute.engine.continuation.done(1)


def module_imported_inside(_: object) -> object:
    import flowroute.engine.continuation as module  # noqa: PLC0415  # what is tested

    return module.done(1)


def only_passed_on(_: object) -> object:
    return print, done


@pytest.mark.parametrize(
    "function",
    [
        by_its_name,
        by_another_name,
        by_its_package,
        by_a_deeper_module,
        imported_inside,
        package_imported_inside,
        module_imported_inside,
        only_passed_on,
    ],
)
def test_an_object_is_recognised_by_whichever_name(function: Callable[..., object]) -> None:
    assert mentions(function, done)


def test_an_object_in_a_closure_is_recognised() -> None:
    local = done

    def function(_: object) -> object:
        return [local(i) for i in range(3)]

    assert mentions(function, done)


def test_a_closure_that_is_still_empty_is_read_over() -> None:
    def function(flow: Any) -> object:
        return flow.charge(later)

    assert loaded(function) == ["charge"]
    later = done
    assert mentions(function, later)


def test_another_function_of_the_same_name_is_not_the_same() -> None:
    assert not mentions(compiled("def function(self): return done()", done=lambda: None), done)


def test_names_that_nothing_defines_are_read_over() -> None:
    function = compiled(
        "def function(self):\n"
        "    from nowhere.at.all import thing\n"
        "    return unknown.name, thing.name, sys.no_such_thing, self.charge\n",
        sys=sys,
    )

    assert loaded(function) == ["charge"]


def test_a_relative_import_is_resolved_against_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    helpers = ModuleType("shop.helpers")
    helpers.finish = done  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shop.helpers", helpers)
    source = "def function(self):\n    from .helpers import finish\n    return finish()"

    assert mentions(compiled(source), done)
    assert not mentions(compiled(source, __package__=None), done)


class Proxy:
    """Like a proxy of Flask outside a request: asking it for anything is an error."""

    def __getattribute__(self, name: str) -> object:
        raise RuntimeError(f"asked for {name}")


def test_nothing_that_a_proxy_stands_for_is_touched() -> None:
    function = compiled(
        "def function(self): return proxy.name.other, proxy(self), self.charge", proxy=Proxy()
    )

    assert loaded(function) == ["charge"]


# -- self handed to a function ---------------------------------------------------------------------


def helper(flow: object, order: object = None) -> object:
    return flow, order


def test_a_call_that_hands_over_self_is_found_by_position_and_by_keyword() -> None:
    function = compiled(
        "def function(self, order):\n"
        "    helper(self)\n"
        "    helper(order, self)\n"
        "    helper(order=order, flow=self)\n"
        "    helper(order)\n"
        "    module.helper(self)\n",
        helper=helper,
        module=SimpleNamespace(helper=helper),
    )

    assert handovers(function) == [(helper, 0), (helper, 1), (helper, "flow"), (helper, 0)]


def test_only_plain_functions_are_handed_anything() -> None:
    function = compiled(
        "def function(self, order):\n"
        "    print(self, end='')\n"
        "    order(self)\n"
        "    helper(*order, self)\n",
        helper=helper,
    )

    assert handovers(function) == []


# -- decorated functions ---------------------------------------------------------------------------


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(flow: Any, *args: Any) -> Any:
        return function(flow, *args) if flow.allowed() else flow.refuse()

    return wrapper


def test_a_decorated_function_and_its_wrappers_are_all_read() -> None:
    @logged
    @functools.wraps(helper)
    def function(flow: Any) -> Any:
        return flow.charge()

    assert loaded(function) == ["allowed", "refuse", "charge"]


def test_a_circle_of_wrappers_is_read_once() -> None:
    function = compiled("def function(self): return self.charge()")
    function.__wrapped__ = function

    assert loaded(function) == ["charge"]
