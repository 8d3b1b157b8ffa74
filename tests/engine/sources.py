"""Modules made from source text, for what only a module's own header can say."""

from __future__ import annotations

import importlib
import itertools
import sys
from pathlib import Path
from textwrap import dedent
from types import ModuleType

HEADER = """\
from typing import Any, ClassVar, Optional, TYPE_CHECKING
from flowroute import Continuation, Flow, Retry, StepFailure, done, step, worker_step
"""
"""What each module begins with, after its `from __future__` if it has one."""

_numbers = itertools.count()


def load(directory: Path, source: str, *, future: bool = False) -> ModuleType:
    """Write a module and import it.

    Parameters:
        directory: Where to.
        source: What follows `HEADER`; it may be indented.
        future: Whether it begins with ``from __future__ import annotations``.

    Returns:
        The module, under a name of its own.
    """
    name = f"flows_of_a_test_{next(_numbers)}"
    begin = "from __future__ import annotations\n" if future else ""
    (directory / f"{name}.py").write_text(begin + HEADER + dedent(source))
    sys.path.insert(0, str(directory))
    try:
        importlib.invalidate_caches()
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(directory))


def line_of(text: str, path: str) -> int:
    """The number of the first line in a file that contains a text."""
    for number, line in enumerate(Path(path).read_text().splitlines(), 1):
        if text in line:
            return number
    raise AssertionError(f"{path} has no line with {text!r}")
