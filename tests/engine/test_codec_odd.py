"""Bytes that are not our own never reach the unpickler; odd bytes of our own never crash."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import pickle
import struct
import sys
import types
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import dill
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowroute.engine import codec as codec_module
from flowroute.engine.codec import PYTHON_TAG, Codec, place_of
from flowroute.engine.pickling import Reader
from flowroute.errors import CheckpointTampered, CheckpointUnreadable, LeaseLost

CODEC = Codec(["a key"])
VALUE = (
    "charge",
    {"customer_id": 4711, "currency": "EUR", "flags": {"vip": True}},
    {
        "order": {"total": Decimal("149.90"), "at": datetime(2026, 11, 23, tzinfo=UTC)},
        "lines": [{"sku": f"A-{n}", "title": "Teapot", "price": 39.95} for n in range(5)],
        "attempts": [1, 2, 3, 5, 8],
    },
)


def no_session() -> Any:
    pytest.fail("the session was asked for, and there is no row")


def encode(value: Any = VALUE, *, codec: Codec = CODEC, run_id: str = "run", seq: int = 1) -> bytes:
    return codec.encode(value, run_id=run_id, seq=seq, session=no_session)


def decode(payload: bytes, python: str = PYTHON_TAG) -> Any:
    return CODEC.decode(payload, run_id="run", seq=1, python=python, session=no_session)


# -- bytes that are not our own --------------------------------------------------------------------


class Spy:
    """Counts each attempt to unpickle, by any door there is."""

    def __init__(self) -> None:
        self.attempts = 0

    def watch(self, door: Any) -> Any:
        """The same door, counting."""

        def open_door(*args: Any, **kwargs: Any) -> Any:
            self.attempts += 1
            return door(*args, **kwargs)

        return open_door


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    spy = Spy()
    # To make a reader counts already: nothing is made before the signature is verified.
    monkeypatch.setattr(codec_module, "Reader", spy.watch(Reader))
    for module in (pickle, dill):
        for name in ("load", "loads", "Unpickler"):
            monkeypatch.setattr(module, name, spy.watch(getattr(module, name)))
    return spy


def refused(payload: bytes, spy: Spy, python: str = PYTHON_TAG) -> None:
    before = spy.attempts
    with pytest.raises(CheckpointTampered):
        decode(payload, python)
    assert spy.attempts == before


def test_the_spy_sees_a_genuine_payload_reach_the_unpickler(spy: Spy) -> None:
    before = spy.attempts
    assert decode(encode()) == VALUE
    assert spy.attempts > before


def test_no_flip_of_any_one_bit_reaches_the_unpickler(spy: Spy) -> None:
    genuine = encode()
    for bit in range(len(genuine) * 8):
        mutant = bytearray(genuine)
        mutant[bit // 8] ^= 1 << bit % 8
        refused(bytes(mutant), spy)
    assert len(genuine) * 8 > 3_000


def test_no_part_of_a_payload_reaches_the_unpickler(spy: Spy) -> None:
    genuine = encode()
    for size in range(len(genuine)):
        refused(genuine[:size], spy)
        refused(genuine[size + 1 :], spy)


def test_no_genuine_payload_of_another_place_or_key_reaches_the_unpickler(spy: Spy) -> None:
    for seq in range(2, 300):
        refused(encode(seq=seq), spy)
        refused(encode(run_id=f"run{seq}"), spy)
        refused(encode(codec=Codec([f"retired {seq}"])), spy)
        refused(encode(), spy, python=f"cp{seq}")


@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_mixture_of_genuine_payloads_reaches_the_unpickler(
    spy: Spy, data: st.DataObject
) -> None:
    genuine = [encode(), encode(seq=2), encode(run_id="x"), encode(("", {}, {"result": 1}))]
    mutant = b"".join(
        each[slice(*sorted(data.draw(st.tuples(*[st.integers(0, len(each))] * 2))))]
        for each in data.draw(st.lists(st.sampled_from(genuine), max_size=4))
    )
    for _ in range(data.draw(st.integers(0, 5))):
        at = data.draw(st.integers(0, len(mutant)))
        mutant = mutant[:at] + data.draw(st.binary(max_size=3)) + mutant[at + 1 :]
    if mutant not in (genuine[0], genuine[3]):
        refused(mutant, spy)


# -- odd ones that are our own ---------------------------------------------------------------------


def authentic(stream: bytes, flags: int = 0) -> bytes:
    head = bytes((1, flags))
    return head + CODEC.mac(place_of(head, "run", 1, PYTHON_TAG), stream) + stream


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass(slots=True)
class Slotted:
    old: int


class Shop:
    class Till:
        """A class with a dot in its name."""

    def open(self) -> str:
        return "open"


class Fragile:
    """Made anew with whatever error a test wants."""

    error: BaseException | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        if self.error is not None:
            raise self.error


def fragile() -> Fragile:
    value = Fragile()
    value.__dict__["x"] = 1
    return value


def function() -> None:
    """Something with a name."""


def unreadable(payload: bytes) -> CheckpointUnreadable:
    with pytest.raises(CheckpointUnreadable) as caught:
        decode(payload)
    error = caught.value
    assert type(error) is CheckpointUnreadable
    assert str(error).startswith("Checkpoint 1 of run run can not be read: ")
    assert error.run_id == "run"
    return error


@pytest.mark.parametrize(
    ("value", "gone", "missing"),
    [
        (Shop(), "Shop", "no longer has 'Shop'"),
        (Shop.Till(), "Shop.Till", "no longer has 'Shop.Till'"),
        (Shop().open, "Shop.open", "'Shop' object has no attribute 'open'"),
        (function, "function", "no longer has 'function'"),
        (Colour.RED, "Colour", "no longer has 'Colour'"),
        (Point(1, 2), "Point", "no longer has 'Point'"),
    ],
    ids=["class", "nested class", "method", "function", "enum", "namedtuple"],
)
def test_what_is_gone_is_named(
    value: object, gone: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = encode(("s", {}, {"v": value}))
    monkeypatch.delattr(f"{__name__}.{gone}")
    error = unreadable(payload)
    assert missing in str(error)
    assert "retry the run" in str(error)


class OneColour(enum.Enum):
    BLUE = "blue"


class OneCoordinate(NamedTuple):
    x: int


@dataclasses.dataclass(slots=True)
class Renamed:
    new: int


@pytest.mark.parametrize(
    ("value", "name", "changed"),
    [
        (Colour.RED, "Colour", OneColour),
        (Point(1, 2), "Point", OneCoordinate),
        (Slotted(1), "Slotted", Renamed),
        (Shop(), "Shop", 5),
        (Shop(), "Shop", len),
        (Shop(), "Shop", int.__call__),
    ],
    ids=["enum member", "namedtuple field", "slot", "number", "function", "wrapper"],
)
def test_what_has_changed_too_much_is_told_with_the_error(
    value: object, name: str, changed: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = encode(("s", {}, {"v": value}))
    monkeypatch.setattr(f"{__name__}.{name}", changed)
    error = unreadable(payload)
    assert "making its values anew failed with" in str(error)
    assert error.__cause__ is not None
    assert type(error.__cause__).__name__ in str(error)


MODULES = {
    "gone": None,
    "broken": "1 / 0",
    "misspelt": "class",
    "leaving": "import sys; sys.exit(3)",
    "lacking": "import no_such_module_anywhere",
}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gone", "ModuleNotFoundError: No module named 'module_gone'"),
        ("broken", "ZeroDivisionError: division by zero"),
        ("misspelt", "SyntaxError: invalid syntax"),
        ("leaving", "SystemExit: 3"),
        ("lacking", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
    ],
)
def test_a_module_that_can_not_be_imported_is_named_with_the_reason(
    name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType(f"module_{name}")
    exec("class Cart: pass", vars(module))  # noqa: S102
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        payload = encode(("s", {}, {"v": module.Cart()}))
    source = MODULES[name]
    if source is not None:
        (tmp_path / f"module_{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    error = unreadable(payload)
    assert f"it needs 'Cart' of the module 'module_{name}', and the import" in str(error)
    assert reason in str(error)


def test_a_module_that_is_not_imported_yet_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module_new.py").write_text("class Cart:\n    class Line:\n        pass")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("module_new")
    payload = encode(("s", {}, {"v": [module.Cart(), module.Cart.Line()]}))
    monkeypatch.delitem(sys.modules, "module_new")
    cart, line = decode(payload)[2]["v"]
    again = sys.modules["module_new"]
    assert again is not module
    assert (type(cart), type(line)) == (again.Cart, again.Cart.Line)


@pytest.mark.parametrize(
    "error",
    [ValueError("odd"), RecursionError(), MemoryError(), SystemExit(1), AttributeError("x")],
    ids=repr,
)
def test_any_error_of_an_object_that_is_made_anew_is_told(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = encode(("s", {}, {"v": fragile()}))
    monkeypatch.setattr(Fragile, "error", error)
    assert f"failed with {type(error).__name__}" in str(unreadable(payload))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), LeaseLost("taken over")], ids=repr)
def test_an_interruption_is_no_fault_of_the_checkpoint(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = encode(("s", {}, {"v": fragile()}))
    monkeypatch.setattr(Fragile, "error", error)
    with pytest.raises(type(error)):
        decode(payload)


def test_a_long_error_is_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = encode(("s", {}, {"v": fragile()}))
    monkeypatch.setattr(Fragile, "error", ValueError("x" * 100_000))
    assert len(str(unreadable(payload))) < 1_000


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b".",
        b"\x80",
        b"\x80\x63.",
        b"not a pickle",
        b"\x80\x05N",
        pickle.dumps(VALUE)[:-20],
        b"\x80\x05B" + struct.pack("<I", 2**31) + b"short.",
        b"\x80\x05\x8e" + struct.pack("<Q", 2**62) + b"short.",
        b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b"short.",
        b"\x80\x05\x95" + struct.pack("<Q", 2**40) + b"N.",
        b"\x80\x05h\x07.",
        b"\x80\x05K\x00Q.",
        b"\x80\x05Pa\n.",
        b"\x80\x05\x82\x01.",
        b"\x80\x05\x97.",
        b"\x80\x05cbuiltins\nobject\n(K\x01tR.",
        b"\x80\x05cbuiltins\n\n.",
        b"\x80\x05c\nx\n.",
        b"\x80\x05(lp0\ng1\n.",
        b"I" + b"9" * 5_000 + b"\n.",
    ],
    ids=lambda stream: f"{stream[:12]!r} {len(stream)}",
)
@pytest.mark.parametrize("flags", [0, 1, 2, 3])
def test_a_stream_that_is_no_pickle_is_told(stream: bytes, flags: int) -> None:
    assert "failed with" in str(unreadable(authentic(stream, flags)))


def test_a_deeply_nested_stream_does_not_crash_the_process() -> None:
    depth = 200_000
    found = decode(holding(b"]" * depth + b"a" * (depth - 1)))[2]["v"]
    for _ in range(depth - 1):
        (found,) = found
    assert found == []


def test_a_stream_of_objects_nested_in_constructors_does_not_crash_the_process() -> None:
    depth = 50_000
    found = decode(holding(b"cbuiltins\nlist\n(" * depth + b"]" + b"tR" * depth))
    assert found[2]["v"] == []


def holding(opcodes: bytes) -> bytes:
    """A checkpoint whose one argument is what some opcodes make."""
    return authentic(b"\x80\x05X\x01\x00\x00\x00s}}X\x01\x00\x00\x00v" + opcodes + b"s\x87.")


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        "abc",
        (),
        ("s", {}),
        ("s", {}, {}, {}),
        ["s", {}, {}],
        (None, {}, {}),
        (["s"], {}, {}),
        ("s", None, {}),
        ("s", [], {}),
        ("s", {}, [("v", 1)]),
        {"s": 1, "t": 2, "u": 3},
    ],
    ids=repr,
)
def test_what_is_no_step_with_state_and_arguments_is_told(value: object) -> None:
    error = unreadable(authentic(pickle.dumps(value)))
    assert f"it holds a {type(value).__name__} that is not a step with state" in str(error)


@pytest.mark.parametrize(
    "identities",
    [None, 7, "rows", {}, [7], ["ab"], [("a", (1,))], [(1, 2, 3)]],
    ids=repr,
)
def test_what_is_no_list_of_rows_is_told(identities: object) -> None:
    stream = pickle.dumps(identities) + pickle.dumps(("s", {}, {}))
    assert "its list of rows does not fit" in str(unreadable(authentic(stream, 2)))


def test_every_cut_of_an_authentic_stream_is_told() -> None:
    stream = encode(("s", {}, {"v": [Shop(), Colour.RED, lambda: 1]}))[34:]
    for size in range(len(stream)):
        unreadable(authentic(stream[:size], 1))
