"""What an authentic checkpoint may hold that the deployed code does not expect."""

from __future__ import annotations

import contextlib
import pickle
import random
import struct
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from flowroute.engine.codec import PYTHON_TAG, STREAM_AT, Codec
from flowroute.engine.pickling import HOLDS_CODE, HOLDS_ROWS

KEYS: Final = ["a secret key of what is odd, long enough to be one"]

BLOCKED: Final = frozenset({"blocked"})
READABLE: Final = frozenset({"blocked", "done"})
"""Odd, but some code can do with it."""
ANYTHING: Final = frozenset({"blocked", "done", "failed"})
"""A valid value of some kind may have come of it, also one that the step does not like."""


@dataclass(frozen=True, slots=True)
class Odd:
    """A stream to sign, and what may become of a run at it."""

    stream: bytes
    accept: frozenset[str]
    flags: int = 0
    version: int = 1
    python: str = PYTHON_TAG


Make: TypeAlias = Callable[[random.Random], Odd]


def _stream(value: Any, rng: random.Random | None = None) -> bytes:
    """A value as the codec pickles it, or, at random, as another pickle protocol does."""
    if rng is not None and rng.random() < 0.3:
        return pickle.dumps(value, rng.randrange(6))
    return pickle.dumps(value, 5)


def _with(value: Any = 7, lines: Any = (3,)) -> tuple[str, dict[str, Any], dict[str, Any]]:
    return "work", {"size": 9}, {"value": value, "lines": list(lines)}


# -- what is gone ----------------------------------------------------------------------------------


CHANGES: Final = (
    (
        "class Thing:\n  __slots__ = ('old',)\ndef make():\n  t = Thing(); t.old = 1; return t\n",
        "class Thing:\n  __slots__ = ('new',)\n",
    ),
    (
        (
            "import typing\nclass Thing(typing.NamedTuple):\n  x: int\n  old: int\n"
            "def make():\n  return Thing(1, 2)\n"
        ),
        "import typing\nclass Thing(typing.NamedTuple):\n  x: int\n",
    ),
    (
        (
            "class Thing:\n  def __reduce__(self):\n    return Thing, (1, 2)\n"
            "  def __init__(self, *a):\n    pass\nmake = Thing\n"
        ),
        "class Thing:\n  def __init__(self):\n    pass\n",
    ),
    (
        (
            "class Thing:\n  def __getstate__(self):\n    return 7\n"
            "  def __setstate__(self, state):\n    pass\nmake = Thing\n"
        ),
        "class Thing:\n  __slots__ = ()\n",
    ),
    (
        "import enum\nclass Thing(enum.Enum):\n  OLD = 'old'\ndef make():\n  return Thing.OLD\n",
        "import enum\nclass Thing(enum.Enum):\n  NEW = 'new'\n",
    ),
)
"""A class as it was when a checkpoint was written, and as it is now."""


@contextlib.contextmanager
def _module(name: str, source: str) -> Iterator[types.ModuleType]:
    """A module that is there for a moment, and then as it was before."""
    module = types.ModuleType(name)
    exec(source, vars(module))  # noqa: S102  # the source is here
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        yield module
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before


def class_gone(rng: random.Random) -> Odd:
    """A class, function, nested class or method, or the whole module, is not there any more."""
    name = f"odd_gone_{rng.randrange(10**5):05}"
    source = (
        "class Cart:\n  class Line:\n    pass\n  def total(self):\n    return 1\n"
        "def price():\n  return 2\nimport enum\nclass Colour(enum.Enum):\n  RED = 1\n"
    )
    with _module(name, source) as module:
        cart = module.Cart()
        value = rng.choice((cart, module.Cart.Line(), module.price, module.Colour.RED, cart.total))
        stream = Codec(KEYS).encode(_with(value), run_id="r", seq=0, session=_no_session)[
            STREAM_AT:
        ]
    if rng.random() < 0.5:  # the module is there, and empty
        emptied = "odd_emptied".ljust(len(name), "_")
        sys.modules.setdefault(emptied, types.ModuleType(emptied))
        stream = stream.replace(name.encode(), emptied.encode())
    return Odd(stream, BLOCKED)


def field_gone(rng: random.Random) -> Odd:
    """A field of the state, a slot, or an argument of a constructor is not there any more."""
    if rng.random() < 0.5:
        state = rng.choice(
            (
                {},
                {"size": 9, "gone": 1},
                {"sise": 9},
                {"size": "nine"},
                {"size": None},
                {"size": [9]},
                {"size": 9.5},
                {9: "size"},
                {"size": 9, b"size": 9},
            )
        )
        return Odd(_stream(("work", state, _with()[2]), rng), BLOCKED)
    number = rng.randrange(len(CHANGES))
    old, new = CHANGES[number]
    name = f"odd_changed_{number}"
    with _module(name, old) as module:
        thing = module.make()
        stream = _stream(_with(thing))
    if name not in sys.modules:  # as it was deployed since; it stays, for the children to find
        module = sys.modules[name] = types.ModuleType(name)
        exec(new, vars(module))  # noqa: S102  # the source is above
    return Odd(stream, BLOCKED)


def step_gone(rng: random.Random) -> Odd:
    """The step's name is none of the flow's, or no name at all."""
    name = rng.choice(
        (
            *("", "pack", "Work", "work ", "__init__", "run", "x" * 5_000, "w\N{DUCK}", "\ud800"),
            *(None, 7, b"work", ("work",), 1.5, True),
            *(["work"], {"work": 1}, {1}),  # can not even be looked up
        )
    )
    return Odd(_stream((name, {"size": 9}, _with()[2]), rng), BLOCKED)


def arguments_do_not_fit(rng: random.Random) -> Odd:
    """Too few, too many, of another type, or not by name."""
    arguments = rng.choice(
        (
            {},
            {"value": 1},
            {"lines": [1]},
            {"value": 1, "lines": [1], "more": 2},
            {"value": 1, "lines": "no list"},
            {"value": 1, "lines": [1, "two"]},
            {"value": 1, "lines": None},
            {"value": 1, "lines": {"a": 1}},
            {1: 2},
            {"value": 1, "lines": [1], None: 2},
            {("value",): 1},
            {"value": 1, "lines": [2**5000, "x"]},
        )
    )
    return Odd(_stream(("work", {"size": 9}, arguments), rng), BLOCKED)


def wrong_shape(rng: random.Random) -> Odd:
    """Not a step, a state and arguments: something else that pickle can say."""
    good = _with()
    value: object = rng.choice(
        (
            *(None, 7, 1.5, "abc", b"abc", "work", (), [], {}, {1, 2, 3}),
            *(good[:2], (*good, None), list(good), dict(enumerate(good)), {"work": good}),
            *((good[0], good[1], None), (good[0], None, good[2]), (good[0], [], good[2])),
            *((good[0], good[1], []), (good[0], good[1], [("value", 1), ("lines", [1])])),
            *((good[0], good[1], "ab"), (good[0], "ab", good[2]), (good[0], good[1], 7)),
            *((good[0], 7, good[2]), good[::-1], (good,), range(3), object, ...),
        )
    )
    return Odd(_stream(value, rng), BLOCKED)


# -- what is foreign -------------------------------------------------------------------------------


def _no_session() -> Any:
    raise AssertionError("there is no row in it")


def other_python(rng: random.Random) -> Odd:
    """Another interpreter's tag, with and without code by value; other flags, another format."""
    kind = rng.randrange(4)
    tag = rng.choice(("cp27", "cp39", "cp399", "pp311", "", "x"))
    if kind == 0:
        value = _with(lambda: 42)
        stream = Codec(KEYS).encode(value, run_id="r", seq=0, session=_no_session)[STREAM_AT:]
        return Odd(stream, BLOCKED, HOLDS_CODE, python=tag)
    if kind == 1:
        return Odd(_stream(_with()), READABLE, python=tag)
    if kind == 2:
        return Odd(_stream(_with()), BLOCKED, version=rng.choice((0, 2, 9, 128, 255)))
    return Odd(_stream(_with()), READABLE, flags=rng.randrange(256))


# -- what is huge, deep or no pickle ---------------------------------------------------------------


def huge(rng: random.Random) -> Odd:
    """More than any checkpoint may have; or a few bytes that claim to be."""
    kind = rng.randrange(4)
    if kind == 0:
        return Odd(_stream(_with(rng.choice((bytes(3_000_000), list(range(100_000)))))), READABLE)
    if kind == 1:
        return Odd(_stream(_with(lines=["x" * 1_000_000])), BLOCKED)
    many = struct.pack("<Q", rng.choice((2**31, 2**33, 2**40, 2**62, 2**63, 2**64 - 1)))
    fewer = struct.pack("<I", rng.choice((2**31 - 1, 2**31, 2**32 - 1)))
    claim = rng.choice(
        (
            *(opcode + many for opcode in (b"\x8d", b"\x8e", b"\x95", b"\x96")),
            *(opcode + fewer for opcode in (b"B", b"X", b"T", b"\x8b")),
            b"Nr" + fewer,  # a place in the memo: reading would make room for all before it
            b"I" + b"9" * 20_000 + b"\n",
        )
    )
    return Odd(b"\x80\x05" + claim + b"short.", BLOCKED)


def deeply_nested(rng: random.Random) -> Odd:
    """Lists, tuples, dicts, calls or objects in each other, more than any stack has room for."""
    depth = rng.choice((1_000, 5_000, 20_000))
    lists = b"]" * depth + b"a" * (depth - 1)
    kind = rng.randrange(6)
    if kind == 0:
        value = lists
    elif kind == 1:
        value = b"]" + b"\x85" * depth
    elif kind == 2:
        value = b"}K\x01" * depth + b"}" + b"s" * depth
    elif kind == 3:
        value = b"cbuiltins\nlist\n(" * depth + b"]" + b"tR" * depth
    elif kind == 4:  # an object in an attribute of an object in …
        value = b"ctypes\nSimpleNamespace\n)R}X\x01\x00\x00\x00a" * depth + b"N" + b"sb" * depth
    else:  # where a list of numbers belongs
        stream = (
            b"\x80\x05X\x04\x00\x00\x00work}X\x04\x00\x00\x00sizeK\x09s}(X\x05\x00\x00\x00value"
        )
        stream += b"K\x01X\x05\x00\x00\x00lines" + lists + b"u\x87."
        return Odd(stream, BLOCKED)
    stream = b"\x80\x05X\x04\x00\x00\x00work}X\x04\x00\x00\x00sizeK\x09s}(X\x05\x00\x00\x00value"
    stream += value + b"X\x05\x00\x00\x00lines]u\x87."
    return Odd(stream, ANYTHING)


def no_pickle(rng: random.Random) -> Odd:
    """Noise, opcodes in no order, and pickles that were cut or in which bits were turned."""
    kind = rng.randrange(4)
    flags = rng.choice((0, 0, HOLDS_ROWS, HOLDS_CODE, HOLDS_CODE | HOLDS_ROWS))
    if kind == 0:
        return Odd(rng.randbytes(rng.randrange(200)), ANYTHING, flags)
    if kind == 1:
        opcodes = b"(.012NK\x01}]s)aetlu\x85\x86\x87\x88\x89\x8f\x90\x91\x94bRbq\x00h\x00d"
        soup = bytes(rng.choice(opcodes) for _ in range(rng.randrange(1, 120)))
        return Odd(b"\x80\x05" + soup + b".", ANYTHING, flags)
    stream = bytearray(_stream(_with({"order": [1.5, "tea", {"a": b"x"}], "n": range(3)}), rng))
    if kind == 2:
        return Odd(bytes(stream[: rng.randrange(len(stream))]), BLOCKED, flags)
    for _ in range(rng.randint(1, 3)):
        stream[rng.randrange(len(stream))] ^= 1 << rng.randrange(8)
    return Odd(bytes(stream), ANYTHING, flags)


KINDS: Final[tuple[Make, ...]] = (
    *(class_gone, field_gone, step_gone, arguments_do_not_fit, wrong_shape, other_python),
    *(huge, deeply_nested, no_pickle),
)
