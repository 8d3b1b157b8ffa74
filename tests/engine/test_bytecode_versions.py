"""Reading code objects as each Python version writes them.

An interpreter can only compile its own instructions: those of others are put before the reader.
"""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import CodeType, FunctionType
from typing import Any, cast

import pytest

from flowroute import done
from flowroute.engine.bytecode import read
from tests.engine.reading import compiled, handovers, loaded, mentions, references


class Base:
    def charge(self) -> str:
        return "base"


class Derived(Base):
    def plain(self) -> str:
        return super().charge()


def helper(flow: object) -> object:
    return flow


@dataclass
class Instruction:
    opname: str
    argval: Any = None
    arg: int | None = None
    positions: Any = None
    is_jump_target: bool = False


@dataclass
class Machine:
    """Lets the code of one function appear as other instructions."""

    monkeypatch: pytest.MonkeyPatch
    shown: dict[CodeType, list[Instruction]] = field(default_factory=dict)

    def show(self, function: Callable[..., object], instructions: Iterable[Instruction]) -> None:
        self.shown[function.__code__] = list(instructions)
        real = dis.get_instructions

        def instructions_of(code: CodeType) -> Iterable[object]:
            return self.shown.get(code) or real(code)

        self.monkeypatch.setattr(dis, "get_instructions", instructions_of)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def shell() -> FunctionType:
    return cast("FunctionType", compiled("def function(self, order): return helper", helper=helper))


@pytest.mark.parametrize(
    ("version", "instructions"),
    [
        ("3.11", [Instruction("LOAD_FAST", "self"), Instruction("LOAD_METHOD", "charge")]),
        ("3.12", [Instruction("LOAD_FAST", "self"), Instruction("LOAD_ATTR", "charge")]),
        ("3.12", [Instruction("LOAD_FAST_CHECK", "self"), Instruction("LOAD_ATTR", "charge")]),
        (
            "3.13",
            [
                Instruction("LOAD_FAST_LOAD_FAST", ("order", "self")),
                Instruction("LOAD_ATTR", "charge"),
            ],
        ),
        (
            "3.13",
            [
                Instruction("STORE_FAST_LOAD_FAST", ("total", "self")),
                Instruction("LOAD_ATTR", "charge"),
            ],
        ),
        ("3.14", [Instruction("LOAD_FAST_BORROW", "self"), Instruction("LOAD_ATTR", "charge")]),
        (
            "3.14",
            [
                Instruction("LOAD_FAST_BORROW_LOAD_FAST_BORROW", ("order", "self")),
                Instruction("LOAD_ATTR", "charge"),
            ],
        ),
        (
            "3.14",
            [
                Instruction("NOT_TAKEN"),
                Instruction("LOAD_FAST_BORROW", "self"),
                Instruction("STORE_FAST_LOAD_FAST", ("me", "me")),
                Instruction("LOAD_ATTR", "charge"),
            ],
        ),
    ],
)
def test_a_load_is_read_as_each_python_version_writes_it(
    machine: Machine, version: str, instructions: list[Instruction]
) -> None:
    function = shell()
    machine.show(function, instructions)

    assert loaded(function) == ["charge"], version


def test_two_variables_are_stored_from_the_top_of_the_stack_downwards(machine: Machine) -> None:
    function = shell()
    machine.show(
        function,
        [
            Instruction("LOAD_FAST_LOAD_FAST", ("order", "self")),
            Instruction("STORE_FAST_STORE_FAST", ("first", "second")),
            Instruction("LOAD_FAST_LOAD_FAST", ("first", "second")),
            Instruction("LOAD_ATTR", "no"),
            Instruction("POP_TOP"),
            Instruction("LOAD_FAST", "first"),
            Instruction("LOAD_ATTR", "yes"),
        ],
    )

    assert loaded(function) == ["yes"]


def test_super_is_read_as_python_3_12_and_later_write_it(machine: Machine) -> None:
    function = vars(Derived)["plain"]
    machine.show(
        function,
        [
            Instruction("LOAD_GLOBAL", "super"),
            Instruction("LOAD_DEREF", "__class__"),
            Instruction("LOAD_FAST", "self"),
            Instruction("LOAD_SUPER_ATTR", "charge"),
            Instruction("LOAD_GLOBAL", "super"),
            Instruction("LOAD_DEREF", "__class__"),
            Instruction("LOAD_FAST", "other"),
            Instruction("LOAD_SUPER_ATTR", "never"),
        ],
    )

    (found,) = references(function)
    assert (found.name, found.after) == ("charge", Derived)


@pytest.mark.parametrize(
    "call",
    [
        [Instruction("KW_NAMES", arg=0), Instruction("PRECALL", 1), Instruction("CALL", 1)],
        [Instruction("LOAD_CONST", ("flow",)), Instruction("CALL_KW", 1)],
    ],
    ids=["3.11", "3.13"],
)
def test_keywords_are_read_as_each_python_version_writes_them(
    machine: Machine, call: list[Instruction]
) -> None:
    function = shell()
    function.__code__ = function.__code__.replace(co_consts=(("flow",),))
    machine.show(
        function,
        [
            Instruction("LOAD_GLOBAL", "helper"),
            Instruction("PUSH_NULL"),
            Instruction("LOAD_FAST", "self"),
            *call,
        ],
    )

    assert handovers(function) == [(helper, "flow")]


def test_the_level_of_an_import_is_read_as_python_3_14_writes_it(machine: Machine) -> None:
    function = shell()
    machine.show(
        function,
        [
            Instruction("LOAD_SMALL_INT", 0),
            Instruction("LOAD_CONST", ("done",)),
            Instruction("IMPORT_NAME", "flowroute"),
            Instruction("IMPORT_FROM", "done"),
            Instruction("STORE_FAST", "local"),
            Instruction("POP_TOP"),
            Instruction("LOAD_FAST_BORROW", "local"),
        ],
    )

    assert mentions(function, done)


@pytest.mark.parametrize(
    "instructions",
    [
        [Instruction("SWAP", 3), Instruction("COPY", 4), Instruction("BINARY_OP", 0)],
        [Instruction("IMPORT_NAME", "flowroute"), Instruction("IMPORT_FROM", "done")],
        [Instruction("POP_TOP"), Instruction("IMPORT_FROM", "done")],
        [Instruction("CALL_KW", 2), Instruction("STORE_ATTR", "total")],
        [Instruction("LOAD_OF_THE_FUTURE", "self"), Instruction("LOAD_ATTR", "charge")],
    ],
)
def test_instructions_that_are_not_understood_find_nothing_and_do_no_harm(
    machine: Machine, instructions: list[Instruction]
) -> None:
    function = shell()
    machine.show(function, [*instructions, Instruction("LOAD_FAST", "self"), Instruction("NOP")])

    assert read(function) == []


def test_what_lies_on_the_stack_is_forgotten_where_a_jump_arrives(machine: Machine) -> None:
    function = shell()
    machine.show(
        function,
        [
            Instruction("LOAD_FAST", "self"),
            Instruction("LOAD_ATTR", "charge", is_jump_target=True),
        ],
    )

    assert read(function) == []
