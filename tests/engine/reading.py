"""Short ways to say what was read in a function's code."""

from __future__ import annotations

from types import FunctionType
from typing import Any, cast

from flowroute.engine.bytecode import Access, Handover, Mention, Reference, read


def references(function: object, argument: int | str | None = 0) -> list[Reference]:
    found = read(cast("FunctionType", function), argument)
    return [each for each in found if isinstance(each, Reference)]


def loaded(function: object, argument: int | str | None = 0) -> list[str]:
    return [each.name for each in references(function, argument) if each.access is Access.LOAD]


def stored(function: object) -> list[str]:
    return [each.name for each in references(function) if each.access is Access.STORE]


def mentions(function: object, value: object) -> bool:
    found = read(cast("FunctionType", function))
    return any(isinstance(each, Mention) and each.value is value for each in found)


def handovers(function: object) -> list[tuple[object, int | str]]:
    found = read(cast("FunctionType", function))
    return [(each.function, each.argument) for each in found if isinstance(each, Handover)]


def compiled(source: str, name: str = "function", **names: object) -> Any:
    """A function whose source no longer exists anywhere."""
    namespace: dict[str, Any] = {"__name__": "gone", "__package__": "shop", **names}
    exec(compile(source, "gone.py", "exec", dont_inherit=True), namespace)  # noqa: S102  # our own
    return namespace[name]
