"""How much room a text takes, without asking a font."""

from __future__ import annotations

import unicodedata
from typing import Final

# In ems, from DejaVu Sans and Verdana in bold: the widest fonts that a browser is likely to take.
_WIDTHS: Final = {
    character: width
    for characters, width in (
        ("ijl.,:;'|!`", 0.42),
        ("frtI()[]{}/\\- ", 0.56),
        ("…—→", 1.0),
        ("mwM@%", 1.07),
        ("W", 1.14),
        ("ÆŒ", 1.25),
    )
    for character in characters
}
_CAPITAL: Final = 0.86
_SMALL: Final = 0.73
_FOREIGN: Final = 1.25  # other scripts; half of their characters are narrower by far
_DIGRAPH: Final = 1.75  # such as U+01C4, and emoji
_LATIN: Final = 0x17F
_DIGRAPHS: Final = 0x24F
_BASIC_PLANE: Final = 0xFFFF
_ENDS: Final = 2


def measure(text: str, size: float) -> float:
    """How wide a text is at most, in any of the usual sans-serif fonts and half-bold.

    Parameters:
        text: One line.
        size: The font size in pixels.

    Returns:
        Pixels.
    """
    return sum(map(_ems, text)) * size


def shorten(text: str, room: float, size: float) -> str:
    """A text, or as much of its two ends as there is room for.

    Parameters:
        text: One line.
        room: Pixels.
        size: The font size in pixels.
    """
    if measure(text, size) <= room:
        return text
    keep = len(text) - 1
    while keep > _ENDS and measure(_halves(text, keep), size) > room:
        keep -= 1
    return _halves(text, keep)


def _ems(character: str) -> float:
    code = ord(character)
    if unicodedata.combining(character):
        return 0.0
    if character in _WIDTHS:
        return _WIDTHS[character]
    if code > _LATIN:
        return _FOREIGN if _DIGRAPHS < code <= _BASIC_PLANE else _DIGRAPH
    return _CAPITAL if character.isupper() else _SMALL


def _halves(text: str, keep: int) -> str:
    end = keep // 2
    return f"{text[: keep - end]}…{text[len(text) - end :]}"
