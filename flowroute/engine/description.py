"""Arguments as people may see them: secrets left out, long values cut, everything JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

TEXT_LIMIT = 200
"""Longest text shown, in characters."""
ITEM_LIMIT = 20
"""Most items of one collection shown."""
DEPTH_LIMIT = 4
"""Deepest nesting shown."""

_SECRET = re.compile(
    r"passw|secret|token|api_?key|credential|authorization|cookie|private_?key|cvc|cvv|card_?number", re.I
)
_PLAIN = (bool, int, type(None))


def describe(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for the `arguments` column: readable, bounded, never read back.

    Parameters:
        arguments: By name; one whose name sounds like a secret is shown as ``"[redacted]"``.

    Returns:
        JSON values.
    """
    return {name: _named(name, value, 0) for name, value in arguments.items()}


def _named(name: str, value: object, depth: int) -> Any:
    if _SECRET.search(name):
        return "[redacted]"
    return _shown(value, depth)


def _shown(value: object, depth: int) -> Any:
    kind = type(value)
    if kind is str:
        return _cut(value)  # type: ignore[arg-type]
    if kind in _PLAIN or (isinstance(value, float) and math.isfinite(value)):
        return value
    if depth >= DEPTH_LIMIT:
        return _cut(_safe_repr(value))
    if isinstance(value, Mapping):
        shown = {
            _cut(str(key)): _named(str(key), item, depth + 1)
            for key, item in list(value.items())[:ITEM_LIMIT]
        }
        return shown | _more(len(value))
    if isinstance(value, (list, tuple, set, frozenset)):
        items: list[Any] = [_shown(item, depth + 1) for item in list(value)[:ITEM_LIMIT]]
        if len(value) > ITEM_LIMIT:
            items.append(f"… {len(value) - ITEM_LIMIT} more")
        return items
    if isinstance(value, (bytes, bytearray)):
        return f"[{len(value)} bytes]"
    return _cut(_safe_repr(value))


def _more(length: int) -> dict[str, Any]:
    return {"…": f"{length - ITEM_LIMIT} more"} if length > ITEM_LIMIT else {}


def _cut(text: str) -> str:
    # PostgreSQL's jsonb refuses U+0000, and a lone surrogate is no UTF-8.
    text = text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
    return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 1] + "…"


def _safe_repr(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001  # a user's __repr__ may raise anything; a column for people may not
        return f"<{type(value).__name__}, whose repr() raised {type(error).__name__}>"
