"""Finding what a text names: an engine, such as ``shop.flows:engine``, or a flow."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from flowroute.engine.engine import Engine
from flowroute.engine.flow import Flow
from flowroute.errors import ConfigurationError, FlowrouteError

# Where no line of the application's own is: Python, installed packages, and flowroute itself.
_FOREIGN = tuple(
    f"{directory}{os.sep}"
    for directory in (
        *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")),
        str(Path(__file__).parent),
    )
)


def load_engine(reference: str) -> Engine:
    """Import a module and return the engine in it.

    The working directory is put on the import path first, as ``python -m`` does.

    Parameters:
        reference: ``module:attribute``; the attribute may be a path (``flows.engine``), and what it
            names may be an `Engine` or a function that takes nothing and returns one.

    Returns:
        The engine. Two calls for one object return the same engine; a function is called each time.

    Raises:
        ConfigurationError: There is no such module or attribute, importing or calling it failed, or
            it is something else than an engine. The message says which, and what to write.

    Example:
        >>> load_engine("shop.flows:engine")  # doctest: +SKIP
        <flowroute.engine.engine.Engine object at 0x7f0c5a3d9e50>
    """
    module_name, colon, path = reference.partition(":")
    names = path.split(".")
    if not colon or not all(part.isidentifier() for part in [*module_name.split("."), *names]):
        raise ConfigurationError(
            f"{reference!r} does not say where the engine is. Write module:attribute, such as "
            "shop.flows:engine."
        )
    value: object = _module(module_name, reference)
    for position, name in enumerate(names):
        value = _attribute(value, name, ".".join([module_name, *names[:position]]), reference)
    return _engine(value, reference)


def find_flow(name: str) -> type[Flow]:
    """The flow whose runs are stored under this name.

    Parameters:
        name: The class's name, or the ``name=`` it was given.

    Returns:
        The class.

    Raises:
        FlowrouteError: No module that this process imported defines it. The message says which
            flows it knows.
    """
    known: dict[str, type[Flow]] = {}
    classes: list[type[Flow]] = [Flow]
    while classes:
        cls = classes.pop()
        classes += cls.__subclasses__()
        if "__flow__" in vars(cls):
            known[cls.__flow__.name] = cls
    if name in known:
        return known[name]
    close = get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise FlowrouteError(
        f"No flow called {name!r} is known here.{hint} Known are the flows of the modules that "
        f"were imported along with the engine: {', '.join(sorted(known)) or 'none'}."
    )


def _module(name: str, reference: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _failed(f"importing {name}", reference, error) from error
        raise ConfigurationError(
            f"There is no module {error.name!r} (from {reference!r}), neither in {here} nor among "
            "the installed packages of this Python: start the program from your project's "
            "directory, or install the project."
        ) from error
    except Exception as error:  # any line of the application may fail in any way
        raise _failed(f"importing {name}", reference, error) from error


def _attribute(owner: object, name: str, where: str, reference: str) -> object:
    try:
        value: object = getattr(owner, name)
    except AttributeError as error:
        close = get_close_matches(name, dir(owner), n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigurationError(
            f"{where} has no attribute {name!r} (from {reference!r}).{hint}"
        ) from error
    except Exception as error:  # a property of the application's own
        raise _failed(f"reading {where}.{name}", reference, error) from error
    return value


def _engine(value: object, reference: str) -> Engine:
    if isinstance(value, Engine):
        return value
    if not callable(value) or not _takes_nothing(value):
        raise _other(value, reference, "is")
    try:
        made: object = value()
    except Exception as error:  # a function of the application's own
        raise _failed("calling it", reference, error) from error
    if isinstance(made, Engine):
        return made
    raise _other(made, reference, "returned")


def _takes_nothing(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):  # it takes more; or it is built in, and has no signature
        return False
    return True


def _failed(what: str, reference: str, error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"{reference!r} could not be loaded: {what} failed{_where(error)} with "
        f"{type(error).__name__}: {error}"
    )


def _where(error: Exception) -> str:
    """The last line of the application's own, for whoever sees no traceback."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(("<", *_FOREIGN)):
            return f" at {frame.filename}:{frame.lineno}"
    return ""


def _other(value: object, reference: str, verb: str) -> ConfigurationError:
    kind = type(value)
    message = f"{reference!r} {verb} a {kind.__module__}.{kind.__qualname__}, not an Engine."
    if inspect.getattr_static(value, "engine", None) is not None and verb == "is":
        message += f" Its attribute may be what you mean: {reference}.engine"
    return ConfigurationError(message)
