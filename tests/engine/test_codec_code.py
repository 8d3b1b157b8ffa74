"""Functions, methods, classes and modules: by name where a name will do, by value otherwise."""

from __future__ import annotations

import abc
import collections
import dataclasses
import functools
import json
import operator
import os
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pydantic
import pytest

from flowroute.engine import reductions
from flowroute.engine.codec import PYTHON_TAG, Codec
from flowroute.errors import CheckpointUnreadable, UnstorableValue

CODEC = Codec(["a key"])
ROOT = Path(__file__).parents[2]

counter = 0


def no_session() -> Any:
    pytest.fail("the session was asked for, and there is no row")


def encode(value: Any) -> bytes:
    return CODEC.encode(("pay", {}, {"value": value}), run_id="run", seq=1, session=no_session)


def decode(payload: bytes) -> Any:
    value = CODEC.decode(payload, run_id="run", seq=1, python=PYTHON_TAG, session=no_session)
    return value[2]["value"]


def by_value(value: Any) -> bool:
    return bool(encode(value)[1] & 1)


def shout(text: str) -> str:
    return text.upper()


def loudly(function: Callable[..., str]) -> Callable[..., str]:
    """A decorator of this module, for functions of others."""

    @functools.wraps(function)
    def inner(*args: Any) -> str:
        return shout(function(*args))

    return inner


@functools.cache
def cached(n: int) -> int:
    return n * 2


@loudly
def greet(name: str) -> str:
    return f"hello {name}"


def nameless(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that hides the name of what it decorates."""
    return lambda *args: function(*args)  # noqa: PLW0108  # a wrapper without a name


class Shop:
    def __init__(self, name: str = "shop") -> None:
        self.name = name

    def open(self) -> str:
        return f"{self.name} is open"

    def __private(self) -> str:
        return f"{self.name} in private"

    def private(self) -> Callable[[], str]:
        return self.__private

    @nameless
    def decorated(self) -> str:
        return f"{self.name} decorated"

    @classmethod
    def make(cls) -> Shop:
        return cls("made")

    @staticmethod
    def rate() -> int:
        return 20

    class Till:
        """A class with a dot in its name."""


class Bakery(Shop):
    def open(self) -> str:
        return "bread " + super().open()

    def plainly(self) -> Callable[[], str]:
        return super().open


def plain_function() -> None:
    """Stands for any function of this module."""


def make_dataclass() -> type[Any]:
    @dataclasses.dataclass
    class Local:
        x: int

        def double(self) -> int:
            return self.x * 2

    return Local


# -- by name ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        shout,
        greet,
        cached,
        len,
        json.dumps,
        Shop,
        Shop.Till,
        Shop.rate,
        os.path,
        types,
        operator,
        sys.modules[__name__],
        dict[str, int],
        type(None),
        type(...),
        type(NotImplemented),
        NotImplemented,
        abc.ABCMeta,
        pydantic.BaseModel,
        types.FunctionType,
    ],
    ids=repr,
)
@pytest.mark.parametrize("extra", [None, lambda: 1], ids=["c-pickle", "dill"])
def test_what_has_a_name_comes_back_as_itself(value: object, extra: object) -> None:
    payload = encode([value, extra])
    assert decode(payload)[0] == value
    assert bool(payload[1] & 1) is (extra is not None)
    assert len(payload) < 200 or extra


@pytest.mark.parametrize("extra", [None, lambda: 1], ids=["c-pickle", "dill"])
def test_bound_methods_are_an_object_and_a_name(extra: object) -> None:
    shop = Shop("tea")
    methods = [shop.open, shop.private(), shop.decorated, Shop.make, "x".join, [3].pop, extra]
    payload = encode(methods)
    found = decode(payload)
    assert [method() for method in found[:3]] == [
        "tea is open",
        "tea in private",
        "tea decorated",
    ]
    assert found[3]().name == "made"
    assert found[4]("ab") == "axb"
    assert found[5]() == 3
    assert b"is open" not in payload


def test_methods_of_one_object_share_it_again() -> None:
    shop = Shop()
    first, second, found = decode(encode([shop.open, shop.private(), shop]))
    assert first.__self__ is second.__self__ is found


def test_a_method_reached_through_super_is_that_method() -> None:
    bakery = Bakery("x")
    overridden, plain = decode(encode([bakery.open, bakery.plainly()]))
    assert overridden() == "bread x is open"
    assert plain() == "x is open"
    assert not by_value(bakery.plainly())


def test_a_method_made_of_any_callable_comes_back() -> None:
    method = types.MethodType(functools.partial(operator.add, "a"), "b")
    assert decode(encode(method))() == "ab"


def test_a_method_that_has_no_name_is_stored_by_value() -> None:
    method = types.MethodType(lambda self: self.name, Shop("tea"))
    assert decode(encode(method))() == "tea"


def test_a_module_that_can_not_be_imported_is_refused() -> None:
    with pytest.raises(UnstorableValue, match="a module that can not be imported by name"):
        encode(types.ModuleType("nowhere"))


# -- by value --------------------------------------------------------------------------------------


def test_a_lambda_comes_back() -> None:
    assert decode(encode(lambda n: n + 1))(1) == 2


def test_a_closure_comes_back_with_its_variables() -> None:
    def outer(price: int) -> Callable[..., int]:
        def inner(quantity: int = 2, *, discount: int = 1) -> int:
            return price * quantity - discount

        inner.note = "kept"  # type: ignore[attr-defined]  # functions have attributes
        return inner

    function = outer(5)
    found = decode(encode(function))
    assert (found(), found(3, discount=0)) == (9, 15)
    assert found.note == "kept"
    assert found.__qualname__ == function.__qualname__
    assert found.__module__ == __name__
    assert found.__annotations__ == function.__annotations__


def test_a_nested_function_that_calls_itself_comes_back() -> None:
    def factorial(n: int) -> int:
        return 1 if n < 2 else n * factorial(n - 1)

    found = decode(encode(factorial))
    assert found(5) == 120
    assert found.__closure__[0].cell_contents is found


def test_nested_functions_that_call_each_other_come_back() -> None:
    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n > 0 and even(n - 1)

    first, second = decode(encode([even, odd]))
    assert first(10)
    assert second(7)
    assert first.__closure__[0].cell_contents is second


def test_a_partial_of_a_lambda_comes_back() -> None:
    assert decode(encode(functools.partial(lambda a, b: a - b, 5, b=3)))() == 2


def test_a_variable_without_a_value_stays_without_one() -> None:
    def outer(*, unset: bool) -> Callable[[], int]:
        def inner() -> int:
            return later

        if not unset:
            later = 1
        return inner

    assert decode(encode(outer(unset=False)))() == 1
    with pytest.raises(NameError):
        decode(encode(outer(unset=True)))()


def test_variables_of_the_module_are_read_when_the_function_is_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    payload = encode(lambda: (counter, shout("a")))
    monkeypatch.setattr(f"{__name__}.counter", 42)
    function = decode(payload)
    assert function() == (42, "A")
    assert function.__globals__ is globals()


def test_a_variable_of_the_module_that_is_gone_is_told_on_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    payload = encode(lambda: [shout(each) for each in "ab"])
    assert decode(payload)() == ["A", "B"]
    monkeypatch.delattr(f"{__name__}.shout")
    with pytest.raises(CheckpointUnreadable, match=f"'{__name__}' no longer has 'shout'"):
        decode(payload)


def test_a_decorated_function_finds_the_variables_of_the_decorators_module() -> None:
    module = types.ModuleType("module_of_a_user")
    sys.modules["module_of_a_user"] = module
    try:
        exec("secret = 'not stored'\ndef local(): return lambda: 'hi'", vars(module))  # noqa: S102
        function = loudly(module.local())
        payload = encode(function)
        assert function.__module__ == "module_of_a_user"
        assert b"not stored" not in payload
        assert len(payload) < 3_000  # this module's variables are not in it
        found = decode(payload)
        assert found() == "HI"
        assert found.__module__ == "module_of_a_user"
    finally:
        del sys.modules["module_of_a_user"]


def test_a_function_of_no_module_brings_its_variables() -> None:
    variables: dict[str, Any] = {"rate": 3}
    exec("def price(n):\n    return n * rate", variables)  # noqa: S102
    variables["price"].__module__ = "nowhere"
    assert decode(encode(variables["price"]))(2) == 6


def test_an_instance_of_a_local_class_comes_back() -> None:
    local = make_dataclass()
    first, second = decode(encode([local(2), local(3)]))
    assert (first.double(), second.double()) == (4, 6)
    assert type(first) is type(second)
    assert type(first).__name__ == "Local"


def test_an_instance_of_a_local_class_that_uses_super_comes_back() -> None:
    class Local(Shop):
        def __init__(self) -> None:
            super().__init__("local")

        def open(self) -> str:
            return "really " + super().open()

    found = decode(encode(Local()))
    assert found.open() == "really local is open"
    assert isinstance(found, Shop)


def test_a_local_namedtuple_comes_back() -> None:
    local = collections.namedtuple("local", "a b")  # noqa: PYI024
    assert decode(encode(local(1, 2))) == (1, 2)
    assert not by_value(local(1, 2))


class Renamed(NamedTuple):
    a: int


@pytest.mark.filterwarnings("ignore::dill.PicklingWarning")
def test_a_local_class_that_dill_can_not_write_is_refused_with_a_way_out() -> None:
    class Model(pydantic.BaseModel):
        a: int

    with pytest.raises(UnstorableValue) as caught:
        encode({"deep": [Model(a=1)]})
    assert caught.value.path == "arguments['value']['deep'][0]"
    assert "Define the class at the top level of a module" in str(caught.value)
    with pytest.raises(UnstorableValue) as caught:
        encode({"class": Model})
    assert caught.value.path == "arguments['value']['class']"


def test_an_object_of_an_outdated_class_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop()
    monkeypatch.setattr(f"{__name__}.Shop", type("Shop", (), {}))
    with pytest.raises(
        UnstorableValue, match=r"is of an outdated class .* has another Shop"
    ) as caught:
        encode([1, shop])
    assert caught.value.path == "arguments['value'][1]"
    with pytest.raises(UnstorableValue) as caught:
        encode({"c": type(shop)})
    assert caught.value.path == "arguments['value']['c']"


class Unreadable:
    """Can be written, and not be read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("no number",)


def test_code_that_dill_could_not_read_again_is_refused_on_writing() -> None:
    with pytest.raises(UnstorableValue, match="no number") as caught:
        encode([lambda: 1, Unreadable()])
    assert caught.value.path == "the arguments"


# -- __main__ --------------------------------------------------------------------------------------

SCRIPT = """
import sys
from flowroute.engine.codec import PYTHON_TAG, Codec

class Cart:
    def __init__(self, items):
        self.items = items
    def count(self):
        return len(self.items)

rate = 3
def price(n):
    return n * rate

codec = Codec(["k"])
place = dict(run_id="run", seq=1, session=None)
if sys.argv[1] == "write":
    values = {
        "object": Cart([1]),
        "method": Cart([1, 2]).count,
        "function": price,
        "lambda": lambda n: price(n) + rate,
        "object beside a lambda": [Cart([1]), Cart, lambda: 1],
    }
    for name, value in values.items():
        with open(f"{sys.argv[2]}/{name}", "wb") as file:
            file.write(codec.encode(("s", {}, {"v": value}), **place))
else:
    found = {}
    for name in ("object", "method", "function", "lambda", "object beside a lambda"):
        with open(f"{sys.argv[2]}/{name}", "rb") as file:
            found[name] = codec.decode(file.read(), python=PYTHON_TAG, **place)[2]["v"]
    assert type(found["object"]) is Cart
    assert type(found["method"].__self__) is Cart and found["method"]() == 2
    assert found["function"] is price
    assert found["lambda"](2) == 9
    cart, cls, _ = found["object beside a lambda"]
    assert cls is Cart and isinstance(cart, Cart)
    print("all as before")
"""


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., str]:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT))

    def run(action: str) -> str:
        return subprocess.run(
            [sys.executable, str(path), action, str(tmp_path)],
            check=True,
            text=True,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=60,
        ).stdout

    return run


def test_what_a_script_defines_is_itself_when_the_script_runs_again(
    script: Callable[..., str],
) -> None:
    script("write")
    assert script("read") == "all as before\n"


def test_what_a_script_defines_is_a_clear_error_in_another_program(
    script: Callable[..., str], tmp_path: Path
) -> None:
    script("write")
    codec = Codec(["k"])
    for name, missing in {
        "object": "Cart",
        "method": "Cart",
        "function": "price",
        "lambda": "price",
        "object beside a lambda": "Cart",
    }.items():
        with pytest.raises(CheckpointUnreadable) as caught:
            codec.decode(
                (tmp_path / name).read_bytes(),
                run_id="run",
                seq=1,
                python=PYTHON_TAG,
                session=no_session,
            )
        assert f"it needs '{missing}' of the program that wrote it" in str(caught.value)
        assert "'__main__'" in str(caught.value)
        assert "Move it into a module" in str(caught.value)


# -- the table -------------------------------------------------------------------------------------


def test_the_table_of_classes_does_not_grow_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reductions.Reducers, "LARGEST", 50)
    table = reductions.Reducers()
    for _ in range(200):
        assert table[type("Made", (), {})] is reductions.as_usual
    assert len(table) <= 50
