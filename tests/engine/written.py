"""Flows given as text, in a file ``shop.py`` that does not exist.

So each message about a wrong flow can be held against the line it names, no type checker stumbles
over what is wrong on purpose, and all of it shows that no source is needed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from textwrap import dedent
from types import ModuleType
from typing import Any, TypeAlias
from unittest import mock

import pytest

import flowroute
from flowroute import Continuation, Flow
from flowroute.engine import flow
from flowroute.engine.step import Place, Step, StepFailure, StepOptions, decorate
from flowroute.errors import DefinitionError

Page: TypeAlias = Step[Callable[..., Continuation[Any]], Callable[..., Any]]


def page(
    *, start: bool = False, final: bool = False, on_error: str | None = None
) -> Callable[[Callable[..., Any]], Page]:
    """A page, as a framework's leaf makes it."""
    options = StepOptions(start=start, final=final, on_error=on_error)

    def wrap(function: Callable[..., Any]) -> Page:
        made = decorate(function, Place.REQUEST, options)
        assert isinstance(made, Step)
        return made

    return wrap


def define(source: str, **names: object) -> type[Flow]:
    """Execute a text; the flow it defines last is returned."""
    module = ModuleType("shop")
    vars(module).update(vars(flowroute), page=page, StepFailure=StepFailure, **names)
    vars(module)["__name__"] = "shop"
    code = compile(dedent(source).strip(), "shop.py", "exec", dont_inherit=True)
    # In a registry of its own, so that flows of the same name do not meet.
    with mock.patch.dict(sys.modules, {"shop": module}), mock.patch.object(flow, "_flows", {}):
        exec(code, vars(module))  # noqa: S102  # our own
    defined = [each for each in vars(module).values() if isinstance(each, type)]
    return [each for each in defined if issubclass(each, Flow) and each is not Flow][-1]


def problems(source: str, **names: object) -> list[str]:
    """Execute a text whose flow is wrong; what is said of it is returned."""
    with pytest.raises(DefinitionError) as caught:
        define(source, **names)
    return caught.value.problems


def told(text: str) -> list[str]:
    """Problems as the tests write them, where each may take several lines."""
    return re.split(r" (?=shop\.py:\d)", " ".join(text.split()))
