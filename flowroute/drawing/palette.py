"""The colours and icons of a drawing, for light and dark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# What is painted, in light and in dark.
_COLOURS: Final = {
    "canvas": ("fill", "#f8fafc", "#0f172a"),
    "card": ("fill", "#ffffff", "#1e293b"),
    "rim": ("stroke", "#d5dce6", "#3b4a61"),
    "name": ("fill", "#0f172a", "#f1f5f9"),
    "kind": ("fill", "#5b6779", "#9fb0c7"),
    "edge": ("stroke", "#8a97a9", "#7285a0"),
    "head": ("fill", "#8a97a9", "#7285a0"),
    "error": ("stroke", "#d0453e", "#f08a80"),
    "error-head": ("fill", "#d0453e", "#f08a80"),
    "error-text": ("fill", "#b3312b", "#f5a199"),
    "dot": ("fill", "#475569", "#cbd5e1"),
    "now": ("fill", "#2563eb", "#60a5fa"),
    "now-rim": ("stroke", "#2563eb", "#60a5fa"),
    "now-card": ("fill", "#eff5ff", "#1c2f52"),
    "tick": ("fill", "#178a46", "#3fbf78"),
    "tick-mark": ("stroke", "#ffffff", "#0f172a"),
    "chip-step": ("fill", "#e9eef5", "#334155"),
    "icon-step": ("stroke", "#475569", "#cbd5e1"),
    "chip-worker": ("fill", "#ede9fe", "#3b2f6b"),
    "icon-worker": ("stroke", "#6d35d9", "#c4b5fd"),
    "chip-page": ("fill", "#d9f3f0", "#134b4a"),
    "icon-page": ("stroke", "#0f766e", "#6fe0d2"),
}

DARK_STYLE: Final = (
    "@media (prefers-color-scheme:dark){"
    + "".join(
        f"svg.flowroute .fr-{name}{{{what}:{dark}}}" for name, (what, _, dark) in _COLOURS.items()
    )
    + "}"
)
"""The style sheet for readers in dark mode."""


def paint(names: str) -> str:
    """The attributes that colour an element.

    They carry the light colours themselves, so that these hold where a strict
    Content-Security-Policy keeps the style sheet of an SVG inside a page out.

    Parameters:
        names: Colours, parted by blanks; at most one fills and one strokes.
    """
    chosen = names.split()
    colours = "".join(f' {_COLOURS[name][0]}="{_COLOURS[name][1]}"' for name in chosen)
    return f'class="{" ".join(f"fr-{name}" for name in chosen)}"{colours}'


@dataclass(frozen=True, slots=True)
class Kind:
    """How a kind of step is shown."""

    words: str
    colour: str
    """Of the icon: ``chip-…`` behind it and ``icon-…`` for its lines."""
    icon: str
    """The ``d`` of a path, drawn with lines on 24 by 24 pixels."""


STEP: Final = Kind("step", "step", "M5 12h13M12.5 6.5 18 12l-5.5 5.5")
WORKER: Final = Kind(
    "worker step",
    "worker",
    "M12 8.8a3.2 3.2 0 1 0 0 6.4 3.2 3.2 0 1 0 0-6.4"
    "M10.6 3.5h2.8l.5 2.3 1.8.75 2-1.3 2 2-1.3 2 .75 1.8 2.3.5v2.8"
    "l-2.3.5-.75 1.8 1.3 2-2 2-2-1.3-1.8.75-.5 2.3h-2.8l-.5-2.3-1.8-.75-2 1.3-2-2 1.3-2"
    "-.75-1.8-2.3-.5v-2.8l2.3-.5.75-1.8-1.3-2 2-2 2 1.3 1.8-.75z",
)
PAGE: Final = Kind(
    "page",
    "page",
    "M4 7a2 2 0 0 1 2-2h12a2 2 0 0 1 2 2v10a2 2 0 0 1-2 2H6a2 2 0 0 1-2-2zM4 9.5h16",
)
FINAL_PAGE: Final = Kind("final page", "page", f"{PAGE.icon}M9 14.2l2.2 2.2 4-4.2")
