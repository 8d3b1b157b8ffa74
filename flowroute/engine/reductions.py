"""How values are written that pickle would write otherwise, or not at all.

One table, by type, serves both picklers: it says what is refused, and how database rows, bound
methods, modules and classes are written. The C pickler looks it up without calling Python, which a
``reducer_override`` in Python would cost it for each date and decimal.
"""

from __future__ import annotations

import copyreg
import dis
import importlib
import operator
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NoReturn, TypeAlias, cast

from flowroute.engine.refusals import Refusal, Refused, refusal_of
from flowroute.engine.rows import is_mapped

PROTOCOL: Final = 5
"""Of pickle. Every Python that runs flowroute reads it."""

Reduction: TypeAlias = str | tuple[Any, ...]
"""What ``__reduce__`` returns: a name, or a callable and its arguments."""

Reducer: TypeAlias = Callable[[Any], Reduction]


class Missing(Exception):
    """Something that a stream refers to by name is not there.

    Parameters:
        module: Where it was looked for.
        name: What was looked for, with dots for what is nested.
    """

    def __init__(self, module: str, name: str) -> None:
        super().__init__(f"{module}.{name}")
        self.module = module
        self.name = name


class RowMet(Exception):
    """A pickler that can not write database rows met one."""


def find(module: str | None, qualname: str | None) -> object:
    """What a module that is imported has under a name, or None."""
    found: object = sys.modules.get(module or "")
    for name in (qualname or "<nothing>").split("."):
        found = getattr(found, name, None)
    return found


def is_importable(thing: object) -> bool:
    """Whether a class or function can be found again by its name."""
    module = getattr(thing, "__module__", None)
    return find(module, getattr(thing, "__qualname__", None)) is thing


# -- by type ---------------------------------------------------------------------------------------

as_usual: Final[Reducer] = operator.methodcaller("__reduce_ex__", PROTOCOL)
"""What pickle does anyway. Being C, it keeps the C pickler from calling Python for each object."""


def meet_row(_row: object) -> NoReturn:
    """The reducer of database rows, for a pickler that can not write them."""
    raise RowMet


def reduce_method(method: types.MethodType) -> Reduction:
    """A bound method: its object and a name, and never its code where a name will do.

    The name under which the class has the function may be another than the function's own: a
    private name is mangled, a decorated function may be called after its wrapper. Where no name
    gives back this very method, as for one reached through ``super()``, the function is written.
    """
    owner, function = method.__self__, method.__func__
    own_name = getattr(function, "__name__", None)
    names = [] if own_name is None else [own_name]
    for name in (*names, *_names_in_class(function, owner)):
        found = getattr(owner, name, None)
        if isinstance(found, types.MethodType) and found.__func__ is function:
            return getattr, (owner, name)
    return types.MethodType, (function, owner)


def _names_in_class(function: object, owner: object) -> Iterator[str]:
    for base in type(owner).__mro__:
        for name, value in vars(base).items():
            if value is function:
                yield name


def reduce_module(module: types.ModuleType) -> Reduction:
    """A module: its name. dill alone would write the values of all its variables."""
    if sys.modules.get(module.__name__) is not module:
        raise Refused(
            Refusal("a module that can not be imported by name", "Import it inside the step.")
        )
    return importlib.import_module, (module.__name__,)


def reduce_class(cls: type) -> Reduction:
    """A class: its name; for a parametrised pydantic model, how to make it."""
    generic = getattr(cls, "__pydantic_generic_metadata__", None)
    if generic and generic["origin"] is not None:
        return operator.getitem, (generic["origin"], generic["args"])
    return cls.__qualname__


def reduce_collection(rows: Any) -> Reduction:
    """The collection of a relationship: the plain list, set or dict of its rows."""
    plain = next(base for base in (list, set, dict) if isinstance(rows, base))
    return plain, (plain(rows),)


def _refusing(refusal: Refusal) -> Reducer:
    def refuse(_value: object) -> NoReturn:
        raise Refused(refusal)

    return refuse


_REDUCERS: Final[dict[type, Reducer]] = {
    types.MethodType: reduce_method,
    types.ModuleType: reduce_module,
}


def _reducer_of(cls: type[Any]) -> Reducer:
    if issubclass(cls, type):
        return reduce_class
    if is_mapped(cls):
        return meet_row
    registered = cast("Reducer | None", copyreg.dispatch_table.get(cls))
    if registered is not None:
        return registered
    refusal = refusal_of(cls)
    if refusal is not None:
        return _refusing(refusal)
    if hasattr(cls, "_sa_instrumented") and issubclass(cls, (list, set, dict)):
        return reduce_collection
    return _REDUCERS.get(cls, as_usual)


class Reducers(dict[type, Reducer]):
    """The table. It looks at a class once, and begins anew when copyreg has learned a class."""

    LARGEST: Final = 10_000
    """Classes kept. Programs that make classes as they run would otherwise fill the memory."""

    def __init__(self) -> None:
        super().__init__()
        self._registered = 0

    def refresh(self) -> None:
        """Take notice of what was registered with copyreg."""
        if len(copyreg.dispatch_table) != self._registered:
            self.clear()
            self._registered = len(copyreg.dispatch_table)

    def __missing__(self, cls: type) -> Reducer:
        """Look at a class."""
        if len(self) >= self.LARGEST:
            self.clear()
        reducer = self[cls] = _reducer_of(cls)
        return reducer


REDUCERS: Final = Reducers()


# -- functions by value ----------------------------------------------------------------------------
#
# Of a lambda or a nested function, the code and the variables of enclosing functions are stored.
# The variables of its module are not: the function finds them in the module, as they are by then.
#
# dill would take the module from __module__, which functools.wraps sets to that of the function
# inside; it would then store every variable of the module where the decorator is defined. Therefore
# dill is given a copy that tells the truth, and reading puts the name right again.


def truthful_copy(function: types.FunctionType) -> types.FunctionType:
    """The function, with the name of the module that its variables are in."""
    copy = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__annotations__ = function.__annotations__
    copy.__qualname__ = function.__qualname__
    copy.__doc__ = function.__doc__
    copy.__dict__.update(function.__dict__)
    copy.__module__ = function.__globals__.get("__name__", function.__module__)
    return copy


def module_variables(function: types.FunctionType) -> tuple[str, ...]:
    """The variables of its module that a function uses; none if it is in no module."""
    found = function.__globals__
    module = sys.modules.get(str(found.get("__name__")))
    if module is None or vars(module) is not found:
        return ()
    return tuple(sorted(_globals_in(function.__code__).intersection(found)))


def _globals_in(code: types.CodeType) -> set[str]:
    names = {each.argval for each in dis.get_instructions(code) if each.opname == "LOAD_GLOBAL"}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _globals_in(constant)
    return names


def restore_function(
    function: types.FunctionType, module: str, variables: Sequence[str]
) -> types.FunctionType:
    """Make a function whole that was stored by value. Streams refer to this by name.

    Parameters:
        function: What `truthful_copy` gave.
        module: Its ``__module__``.
        variables: What `module_variables` gave.

    Raises:
        Missing: One of the variables is gone. The function would fail when it is called.
    """
    for name in variables:
        if name not in function.__globals__:
            raise Missing(function.__module__, name)
    function.__module__ = module
    return function
