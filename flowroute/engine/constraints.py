"""Conditions of CHECK constraints, written so that they cost little."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Boolean
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


class words(FunctionElement[bool]):  # noqa: N801  # SQL functions are lower case
    """A condition in which ``{}`` stands for the test whether a column holds one of some words.

    PostgreSQL reads the conditions of a table anew for each statement that writes to it, and takes
    longer for a list of seven words than for one array of them.

    Parameters:
        condition: Such as ``state {}``.
        allowed: The words, of letters.

    Example::

        CheckConstraint(words("state {}", ("ready", "running")))
    """

    type = Boolean()
    inherit_cache = False

    def __init__(self, condition: str, allowed: tuple[str, ...]) -> None:
        super().__init__()
        self.condition = condition
        self.allowed = allowed


@compiles(words)
def _(element: words, _compiler: SQLCompiler, **_: Any) -> str:
    return element.condition.format(f"IN ({', '.join(repr(word) for word in element.allowed)})")


@compiles(words, "postgresql")
def _(element: words, _compiler: SQLCompiler, **_: Any) -> str:
    return element.condition.format(f"= ANY ('{{{','.join(element.allowed)}}}'::text[])")
