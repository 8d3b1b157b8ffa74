"""Following a step's code through its flow: where it may lead, and what it refers to in vain."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from types import FunctionType
from typing import Any, TypeAlias

from typing_extensions import Format, get_annotations

from flowroute.engine.bytecode import Access, Handover, Mention, Reference, read
from flowroute.engine.continuation import done
from flowroute.engine.step import END, Step

Steps: TypeAlias = Mapping[str, Step[Any, Any]]


class Fault(Enum):
    """What is wrong with a reference."""

    UNKNOWN = auto()
    """``self.name`` is read, and the flow has no such attribute."""
    NOT_STATE = auto()
    """``self.name`` is assigned, and is not a field of the flow's state."""
    OVERRIDDEN = auto()
    """``super().name`` is a step that the flow overrides: the override would be called."""


@dataclass(frozen=True, slots=True)
class BadReference:
    """A reference that can not work when the step runs."""

    fault: Fault
    name: str
    filename: str
    line: int


@dataclass(slots=True)
class Trail:
    """What was found on the way through one step's code."""

    targets: list[str] = field(default_factory=list[str])
    """The steps it refers to, and `END` where it refers to `done`; each once, as met."""
    faults: list[BadReference] = field(default_factory=list[BadReference])

    def targets_of(self, step: Step[Any, Any]) -> list[str]:
        """Where the step may hand over to: as declared, else as read from its code."""
        return list(self.targets if step.to is None else dict.fromkeys(step.to))

    def lead_to(self, target: str) -> None:
        """Add a target, once."""
        if target not in self.targets:
            self.targets.append(target)


class Guide:
    """Knows the attributes of one flow class, and follows the code of its steps.

    Parameters:
        flow: The class.
        steps: Its steps by name, inherited ones included.
        fields: The names of its state.
    """

    def __init__(self, flow: type, steps: Steps, fields: Collection[str]) -> None:
        self.flow = flow
        self.steps = steps
        self.fields = tuple(dict.fromkeys(fields))
        self._declared = frozenset(
            name
            for base in flow.__mro__
            for name in get_annotations(base, format=Format.FORWARDREF)
        )
        # With a __getattr__ of the user's own, any name may exist.
        self._open = any(
            "__getattr__" in vars(base) or "__getattribute__" in vars(base)
            for base in flow.__mro__
            if base is not object and not _is_ours(base)
        )

    def follow(self, step: Step[Any, Any]) -> Trail:
        """Read a step, and every method of the flow that it reaches through `self`."""
        trail = Trail()
        _Walk(self, trail).through(step.function)
        return trail

    def find(self, name: str, after: type | None = None) -> tuple[type, object] | None:
        """The class that holds an attribute, and the attribute itself, as it lies in the class.

        Parameters:
            name: The attribute.
            after: Search only what follows this class in the method resolution order.
        """
        order = self.flow.__mro__
        if after is not None:
            order = order[order.index(after) + 1 :] if after in order else ()
        for base in order:
            if name in vars(base):
                return base, vars(base)[name]
        return None

    def is_known(self, name: str) -> bool:
        """Whether an attribute that no class holds may exist all the same."""
        special = name.startswith("__") and name.endswith("__")
        return special or self._open or name in self.fields or name in self._declared

    def names(self) -> list[str]:
        """Every public name that ``self.`` may be followed by."""
        held = {name for base in self.flow.__mro__ if base is not object for name in vars(base)}
        names = held | self._declared | set(self.fields)
        return sorted(name for name in names if not name.startswith("__"))


class _Walk:
    """One way through the code of one step; each function is read once."""

    def __init__(self, guide: Guide, trail: Trail) -> None:
        self._guide = guide
        self._trail = trail
        self._seen: set[tuple[FunctionType, int | str | None, bool]] = set()

    def through(
        self, attribute: object, argument: int | str | None = 0, *, strict: bool = True
    ) -> None:
        """Read what lies behind an attribute of the class.

        Parameters:
            attribute: A function or something that wraps one, such as a property.
            argument: Which parameter holds the flow.
            strict: The function belongs to the flow, so that each name it uses must exist.
        """
        for function, parameter in _functions_of(attribute, argument):
            if (function, parameter, strict) in self._seen:
                continue
            self._seen.add((function, parameter, strict))
            if function is done:
                self._trail.lead_to(END)
                continue
            for found in read(function, parameter):
                if isinstance(found, Reference):
                    self._refer(found, strict=strict)
                elif isinstance(found, Handover):
                    # Others' functions may well ask for attributes that only other objects have.
                    self.through(found.function, found.argument, strict=False)
                else:
                    self._mention(found)

    def _mention(self, found: Mention) -> None:
        if found.value is done:
            self._trail.lead_to(END)

    def _refer(self, found: Reference, *, strict: bool) -> None:
        guide, name = self._guide, found.name
        if found.access is Access.STORE:
            if strict and name not in guide.fields:
                self._fault(Fault.NOT_STATE, found)
        elif found.after is None and name in guide.steps:
            self._trail.lead_to(name)
        elif found.after is None and name in guide.fields:
            pass  # even where the field's default is a function
        elif (place := guide.find(name, found.after)) is not None:
            self._enter(found, *place)
        elif strict and not guide.is_known(name):
            self._fault(Fault.UNKNOWN, found)

    def _enter(self, found: Reference, owner: type, attribute: object) -> None:
        if isinstance(attribute, Step):
            if self._guide.steps.get(found.name) is attribute:
                self._trail.lead_to(found.name)
            else:
                self._fault(Fault.OVERRIDDEN, found)
        elif not _is_ours(owner):
            self.through(attribute)

    def _fault(self, fault: Fault, found: Reference) -> None:
        bad = BadReference(fault, found.name, found.filename, found.line)
        self._trail.faults.append(bad)


def _is_ours(cls: type) -> bool:
    """Whether a class is flowroute's own base class, whose methods lead to no step."""
    return cls.__module__.startswith("flowroute.engine.")


def _functions_of(
    attribute: object, argument: int | str | None
) -> Iterator[tuple[FunctionType, int | str | None]]:
    held: Any = attribute  # each kind holds its functions under another name
    inner: Iterable[object] = ()
    if isinstance(attribute, FunctionType):
        yield attribute, argument
    elif isinstance(attribute, property):
        inner = (held.fget, held.fset, held.fdel)
    elif isinstance(attribute, functools.cached_property | functools.partialmethod):
        inner = (held.func,)
    elif isinstance(attribute, functools.singledispatchmethod):
        inner = held.dispatcher.registry.values()
    elif isinstance(attribute, staticmethod | classmethod):
        # What they are given is no flow; they may still end the run.
        inner, argument = (held.__func__,), None
    else:
        # Such as functools.lru_cache(). Statically: a proxy that needs a request must not be asked.
        wrapped = inspect.getattr_static(attribute, "__wrapped__", None)
        if isinstance(wrapped, FunctionType):
            yield wrapped, argument
    for each in inner:
        yield from _functions_of(each, argument)
