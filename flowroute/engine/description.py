"""Arguments as people may see them: secrets left out, long values cut, everything JSON."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar, cast

from pydantic import BaseModel

Item = TypeVar("Item")

TEXT_LIMIT = 200
"""Longest text shown, in characters."""
ITEM_LIMIT = 20
"""Most items of one collection shown."""
DEPTH_LIMIT = 4
"""Deepest nesting shown."""
VALUE_LIMIT = 500
"""Most values shown in all."""
INTEGER_BITS = 64
"""Largest integer shown as a number: what JSON's readers agree on."""

_SECRET = re.compile(
    r"passw|passphrase|pwd|secret|token|api_?key|credential|authorization|cookie"
    r"|private_?key|cvc|cvv|card_?number",
    re.IGNORECASE,
)


def describe(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for the `arguments` column: readable, bounded, never read back.

    Parameters:
        arguments: By name; what has a name that sounds like a secret, at any depth, is shown as
            ``"[redacted]"``.

    Returns:
        JSON values.
    """
    description = _Description()
    return {name: description.named(name, value, 0) for name, value in arguments.items()}


class _Description:
    """Describes values until there are `VALUE_LIMIT` of them."""

    def __init__(self) -> None:
        self._left = VALUE_LIMIT

    def named(self, name: str, value: object, depth: int) -> Any:
        if _SECRET.search(name):
            return "[redacted]"
        try:
            return self._shown(value, depth)
        except Exception as error:  # noqa: BLE001  # users' objects may raise anything; this may not
            return f"<{type(value).__name__}, which could not be shown: {type(error).__name__}>"

    def _shown(self, value: object, depth: int) -> Any:
        self._left -= 1
        if _is_plain(value):
            return value
        if isinstance(value, str):
            return readable(value)
        parts = _parts_of(value)
        if parts is None:
            return readable(_text_of(value))
        if depth == DEPTH_LIMIT or self._left <= 0:
            # Not repr(), which would show what is redacted.
            return f"[{type(value).__name__} of {len(parts)}]"
        if isinstance(parts, Mapping):
            return self._fields(cast("Mapping[object, object]", parts), depth)
        return self._items(parts, depth)

    def _fields(self, fields: Mapping[object, object], depth: int) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        for key, value in self._first(fields.items()):
            name = str(key)
            shown[readable(name)] = self.named(name, value, depth + 1)
        if len(shown) < len(fields):
            shown["…"] = f"{len(fields) - len(shown)} more"
        return shown

    def _items(self, items: Collection[object], depth: int) -> list[Any]:
        shown = [self.named("", item, depth + 1) for item in self._first(items)]
        if len(shown) < len(items):
            shown.append(f"… {len(items) - len(shown)} more")
        return shown

    def _first(self, items: Collection[Item]) -> Iterator[Item]:
        for item in islice(items, ITEM_LIMIT):
            if self._left <= 0:
                return
            yield item


def _is_plain(value: object) -> bool:
    """Whether JSON has the same value. Subclasses, such as enumerations, are shown as text."""
    if type(value) is int:
        return value.bit_length() <= INTEGER_BITS
    return (
        value is None or isinstance(value, bool) or (type(value) is float and math.isfinite(value))
    )


def _parts_of(value: object) -> Mapping[Any, object] | Collection[object] | None:
    """What a value consists of, by name where it has names; None where it has no parts."""
    if _identity_of(value) is not None:
        return None
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {name: getattr(value, name) for name, field in fields.items() if field.repr}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.repr}
    as_dict = getattr(value, "_asdict", None)  # a named tuple
    if callable(as_dict):
        return cast("Mapping[str, object]", as_dict())
    if isinstance(value, (Mapping, list, tuple, set, frozenset, deque)):
        return cast("Collection[object]", value)
    return None


def _identity_of(value: object) -> tuple[Any, ...] | None:
    """The primary key of a database row: its repr() might have to ask the database."""
    state = getattr(value, "_sa_instance_state", None)
    return getattr(state, "identity", None)


def _text_of(value: object) -> str:
    identity = _identity_of(value)
    if identity is not None:
        return f"{type(value).__name__} {', '.join(map(str, identity))}"
    if isinstance(value, (bytes, bytearray)):
        return f"[{len(value)} bytes]"
    return repr(value)


def readable(text: str) -> str:
    """A text that every database's JSON takes, cut to `TEXT_LIMIT`."""
    # PostgreSQL's jsonb refuses U+0000, and a lone surrogate is no UTF-8.
    text = text[: TEXT_LIMIT + 1].replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
    return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 1] + "…"
