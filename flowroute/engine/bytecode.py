"""Reading code objects: what a method does with `self`, and which objects it names.

Source may be missing where flows are deployed as ``.pyc`` files, so the compiled code is read. A
tiny symbolic machine runs over the instructions of one function, in order and without following
jumps. It knows four kinds of value: `self`, ``super()``, an object that the function names (a
global, a closure cell, an import, an attribute of one of these), and "something else". Where it is
not sure, the value is something else: a reference may be missed in code that hides it well, but
none is invented.
"""

from __future__ import annotations

import builtins
import dis
import importlib.util
import inspect
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from types import CodeType, FunctionType
from typing import Any, ClassVar, Final, TypeAlias, cast


class Access(Enum):
    """What is done with an attribute."""

    LOAD = auto()
    STORE = auto()


@dataclass(frozen=True, slots=True)
class Reference:
    """``self.name``, or ``super().name`` where `after` is given."""

    name: str
    access: Access
    filename: str
    line: int
    after: type | None = None
    """The class whose successors in the method resolution order are searched; None: all of them."""


@dataclass(frozen=True, slots=True)
class Mention:
    """An object that the code names, by whichever name: identity tells what it is."""

    value: object


@dataclass(frozen=True, slots=True)
class Handover:
    """A call of a known function that is given `self`, such as ``finish(self, order)``."""

    function: FunctionType
    argument: int | str
    """The position or the keyword that `self` was given by."""


Found: TypeAlias = Reference | Mention | Handover


def read(function: FunctionType, argument: int | str | None = 0) -> list[Found]:
    """Read one function, with all that is nested in it and all that it wraps (``__wrapped__``).

    Parameters:
        function: A plain function.
        argument: The parameter, by position or name, that holds the flow; None: no parameter does.

    Returns:
        What was found, in the order of the code.
    """
    found: list[Found] = []
    for layer in _layers(function):
        code = layer.__code__
        names: dict[str, _Symbol] = {}
        for name, cell in zip(code.co_freevars, layer.__closure__ or (), strict=True):
            try:
                names[name] = _Object(cell.cell_contents)
            except ValueError:  # assigned only after the class is defined
                names[name] = None
        parameter = _parameter(code, argument)
        if parameter is not None:
            names[parameter] = _SELF
        _Reader(code, names, layer.__globals__, found).read()
    return found


def _layers(function: FunctionType) -> Iterator[FunctionType]:
    seen: set[int] = set()
    layer: object = function
    while isinstance(layer, FunctionType) and id(layer) not in seen:
        seen.add(id(layer))
        yield layer
        layer = layer.__dict__.get("__wrapped__")


def _parameter(code: CodeType, argument: int | str | None) -> str | None:
    positional = code.co_varnames[: code.co_argcount]
    if isinstance(argument, int):
        return positional[argument] if argument < len(positional) else None
    named = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return argument if argument in named else None


# -- the values the machine knows ------------------------------------------------------------------


class _Self(Enum):
    SELF = auto()


@dataclass(frozen=True, slots=True)
class _Super:
    after: type


@dataclass(frozen=True, slots=True)
class _Object:
    value: Any


_SELF: Final = _Self.SELF
_Symbol: TypeAlias = _Self | _Super | _Object | None  # None: something else
_MISSING: Final = object()

# One instruction may move several variables, such as STORE_FAST_LOAD_FAST.
_MOVES: Final = re.compile(
    r"(LOAD|STORE)_(?:FROM_DICT_OR_DEREF|CLASSDEREF|CLOSURE|DEREF|FAST)"
    r"(?:_BORROW|_CHECK|_AND_CLEAR|_MAYBE_NULL)?(?=_LOAD|_STORE|$)"
)

# They move nothing that the machine keeps count of. (A NULL beside a callable is not counted.)
_NEUTRAL: Final = frozenset({
    "CACHE", "COPY_FREE_VARS", "EXTENDED_ARG", "LOAD_LOCALS", "MAKE_CELL", "NOP", "NOT_TAKEN",
    "PRECALL", "PUSH_NULL", "RESUME",
})  # fmt: skip


class _Reader:
    """Runs over the code of one function, and of what is nested in it."""

    def __init__(
        self,
        code: CodeType,
        names: Mapping[str, _Symbol],
        module: Mapping[str, Any],
        found: list[Found],
    ) -> None:
        self._code = code
        self._module = module
        self._found = found
        self._stack: list[_Symbol] = []
        self._keywords: tuple[str, ...] = ()
        self._line = code.co_firstlineno
        self._instructions = list(dis.get_instructions(code))
        # Jumps are not followed: a variable that is assigned twice may hold either value.
        self._assigned = _assignments(code)
        self._names = {n: symbol for n, symbol in names.items() if not self._assigned[n]}
        self._foreign = frozenset(names)

    def read(self) -> None:
        for instruction in self._instructions:
            positions = instruction.positions
            if positions is not None and positions.lineno is not None:
                self._line = positions.lineno
            if instruction.is_jump_target:
                self._stack.clear()
            self._run(instruction)

    def _run(self, instruction: dis.Instruction) -> None:
        operation = instruction.opname
        if operation in _NEUTRAL:
            return
        moves = _moves(instruction)
        handle = self._handlers.get(operation)
        for kind, name in moves:
            if kind == "LOAD":
                self._push_named(self._names.get(name))
            else:
                self._store(name, self._pop())
        if handle is not None:
            handle(self, instruction)
        elif not moves:
            # Jumps, returns, loops: what lies on the stack after them is something else.
            self._stack.clear()

    # Each push may meet an object by name; each pop may meet what was forgotten.

    def _push_named(self, symbol: _Symbol) -> None:
        if isinstance(symbol, _Object):
            self._found.append(Mention(symbol.value))
        self._stack.append(symbol)

    def _pop(self) -> _Symbol:
        return self._stack.pop() if self._stack else None

    def _pop_several(self, count: int) -> list[_Symbol]:
        return [self._pop() for _ in range(count)][::-1]

    def _store(self, name: str, symbol: _Symbol) -> None:
        if self._assigned[name] == 1 and name not in self._foreign:
            self._names[name] = symbol

    def _refer(self, name: str, access: Access, after: type | None = None) -> None:
        filename = self._code.co_filename
        self._found.append(Reference(name, access, filename, self._line, after))

    # -- one method an instruction ---------------------------------------------------------------

    def _constant(self, instruction: dis.Instruction) -> None:
        value = instruction.argval
        if isinstance(value, CodeType):
            names = {name: self._names.get(name) for name in value.co_freevars}
            _Reader(value, names, self._module, self._found).read()
            self._stack.append(None)
        else:
            self._stack.append(_Object(value))

    def _global(self, instruction: dis.Instruction) -> None:
        name = instruction.argval
        value = self._module.get(name, _MISSING)
        if value is _MISSING:
            value = vars(builtins).get(name, _MISSING)
        self._push_named(None if value is _MISSING else _Object(value))

    def _load_attribute(self, instruction: dis.Instruction) -> None:
        name = instruction.argval
        symbol = self._pop()
        if symbol is _SELF:
            self._refer(name, Access.LOAD)
        elif isinstance(symbol, _Super):
            self._refer(name, Access.LOAD, symbol.after)
        self._push_named(_attribute(symbol, name))

    def _store_attribute(self, instruction: dis.Instruction) -> None:
        target = self._pop()
        self._pop()
        if target is _SELF:
            self._refer(instruction.argval, Access.STORE)

    def _delete_attribute(self, instruction: dis.Instruction) -> None:
        if self._pop() is _SELF:
            self._refer(instruction.argval, Access.LOAD)

    def _load_super_attribute(self, instruction: dis.Instruction) -> None:
        _, cls, flow = self._pop_several(3)
        symbol = _super_of(cls, flow)
        if symbol is not None:
            self._refer(instruction.argval, Access.LOAD, symbol.after)
        self._stack.append(None)

    def _import(self, instruction: dis.Instruction) -> None:
        level, names = self._pop_several(2)
        if isinstance(level, _Object) and isinstance(names, _Object):
            package = self._module.get("__package__")
            module = _imported(instruction.argval, level.value, names.value, package)
            self._stack.append(None if module is None else _Object(module))
        else:
            self._stack.append(None)

    def _import_from(self, instruction: dis.Instruction) -> None:
        module = self._stack[-1] if self._stack else None
        self._stack.append(_attribute(module, instruction.argval))

    def _copy(self, instruction: dis.Instruction) -> None:
        depth: int = instruction.argval
        self._stack.append(self._stack[-depth] if depth <= len(self._stack) else None)

    def _swap(self, instruction: dis.Instruction) -> None:
        depth = instruction.argval
        while len(self._stack) < depth:
            self._stack.insert(0, None)
        stack = self._stack
        stack[-1], stack[-depth] = stack[-depth], stack[-1]

    def _drop(self, _: dis.Instruction) -> None:
        self._pop()

    def _binary(self, _: dis.Instruction) -> None:
        self._pop_several(2)
        self._stack.append(None)

    def _name_keywords(self, instruction: dis.Instruction) -> None:
        # Python 3.11 and 3.12: for the call that follows. They do not look the constant up.
        self._keywords = self._code.co_consts[instruction.arg or 0]

    def _call_with_keywords(self, instruction: dis.Instruction) -> None:
        names = self._pop()  # Python 3.13 and later: a constant on the stack
        self._keywords = names.value if isinstance(names, _Object) else ()
        self._call(instruction)

    def _call(self, instruction: dis.Instruction) -> None:
        arguments = self._pop_several(instruction.argval)
        keywords, self._keywords = self._keywords, ()
        called = self._pop()
        function: object = called.value if isinstance(called, _Object) else None
        result: _Symbol = None
        if function is super:
            result = self._super(arguments)
        elif type(function) is FunctionType:  # isinstance() would ask a proxy for its class
            first_keyword = len(arguments) - len(keywords)
            for position, symbol in enumerate(arguments):
                if symbol is _SELF:
                    by_name = position >= first_keyword
                    argument = keywords[position - first_keyword] if by_name else position
                    self._found.append(Handover(function, argument))
        self._stack.append(result)

    def _super(self, arguments: list[_Symbol]) -> _Symbol:
        if not arguments:
            # super() takes the first argument of the function it stands in.
            first = self._code.co_varnames[:1] if self._code.co_argcount else ()
            flow = self._names.get(first[0]) if first else None
            return _super_of(self._names.get("__class__"), flow)
        return _super_of(arguments[0], arguments[-1])

    _handlers: ClassVar[dict[str, Callable[[_Reader, dis.Instruction], None]]] = {
        "BINARY_OP": _binary,
        "CALL": _call,
        "CALL_KW": _call_with_keywords,
        "COPY": _copy,
        "DELETE_ATTR": _delete_attribute,
        "IMPORT_FROM": _import_from,
        "IMPORT_NAME": _import,
        "KW_NAMES": _name_keywords,
        "LOAD_ATTR": _load_attribute,
        "LOAD_CONST": _constant,
        "LOAD_GLOBAL": _global,
        "LOAD_METHOD": _load_attribute,
        "LOAD_SMALL_INT": _constant,
        "LOAD_SUPER_ATTR": _load_super_attribute,
        "POP_TOP": _drop,
        "STORE_ATTR": _store_attribute,
        "SWAP": _swap,
    }


def _moves(instruction: dis.Instruction) -> list[tuple[str, str]]:
    kinds: list[str] = _MOVES.findall(instruction.opname)
    named = instruction.argval
    names = cast("tuple[str, ...]", named) if isinstance(named, tuple) else (named,)
    return list(zip(kinds, names, strict=False))


def _assignments(code: CodeType) -> Counter[str]:
    count = Counter(
        name
        for instruction in dis.get_instructions(code)
        for kind, name in _moves(instruction)
        if kind == "STORE"
    )
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner = _assignments(constant)  # `nonlocal` reaches out
            count.update({name: inner[name] for name in constant.co_freevars})
    return count


def _attribute(symbol: _Symbol, name: str) -> _Object | None:
    if not isinstance(symbol, _Object):
        return None
    # Statically: a property, or a proxy that needs a request, must not run here.
    value = inspect.getattr_static(symbol.value, name, _MISSING)
    return None if value is _MISSING else _Object(value)


def _super_of(cls: _Symbol, flow: _Symbol) -> _Super | None:
    if flow is _SELF and isinstance(cls, _Object) and isinstance(cls.value, type):
        return _Super(cls.value)
    return None


def _imported(name: str, level: int, names: object, package: str | None) -> object | None:
    """The module that an import inside a function will bind, if it is loaded already."""
    if level:
        try:
            name = importlib.util.resolve_name("." * level + name, package)
        except ImportError:  # the step will say so when it runs
            return None
    # `import a.b` binds a; `from a.b import c` looks into a.b.
    return sys.modules.get(name if names else name.partition(".")[0])
