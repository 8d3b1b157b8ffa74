"""pydantic at the door: what a step's arguments and a flow's state must look like."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, cast, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model
from pydantic.warnings import ArbitraryTypeWarning
from pydantic_core import SchemaError
from typing_extensions import Format, TypedDict, get_annotations

from flowroute.errors import ArgumentError

# Rows, sessions' objects and other classes pydantic knows nothing of are checked with isinstance().
# A checkpoint holds state and arguments by name, whatever their aliases.
CONFIG = ConfigDict(
    arbitrary_types_allowed=True,
    extra="forbid",
    protected_namespaces=(),
    validate_by_alias=True,
    validate_by_name=True,
)

Namespace = Mapping[str, Any]

_OTHER_FUNCTIONS = (
    inspect.iscoroutinefunction,
    inspect.isgeneratorfunction,
    inspect.isasyncgenfunction,
)


class TypeProblem(Exception):  # never leaves the package: becomes a line of a DefinitionError
    """An annotation that pydantic can not validate; the message says which and why."""


def resolve(name: str, annotation: Any, module: Namespace, local: Namespace) -> Any:
    """Turn an annotation, which may be a string, into a type that pydantic can validate.

    Parameters:
        name: What is annotated.
        annotation: The annotation.
        module: The globals where it was written.
        local: The names of the enclosing function or class, which win.

    Returns:
        The type, `Annotated` and `ClassVar` kept.

    Raises:
        TypeProblem: A name in it is not defined, or pydantic can not handle it.
    """
    # In a class, because only there ClassVar is a type.
    holder = type("holder", (), {"__annotations__": {name: annotation}})
    try:
        found = get_type_hints(holder, dict(module), dict(local), include_extras=True)[name]
    except NameError as error:
        raise TypeProblem(
            f"{name!r} is annotated with {error.name!r}, which is not defined when the class "
            "is: define it above, and import it outside `if TYPE_CHECKING`"
        ) from error
    except Exception as error:
        # Evaluating an annotation runs the user's code, which may raise anything.
        raise TypeProblem(
            f"{name!r} has an annotation that is not a type: {type(error).__name__}: {error}"
        ) from error
    if not is_class_variable(found):
        _mapping_validator(name, {name: found})
    return found


def is_class_variable(annotation: Any) -> bool:
    """Whether an annotation is ``ClassVar`` or ``ClassVar[…]``."""
    return annotation is ClassVar or get_origin(annotation) is ClassVar


def nowhere() -> str:
    """The place of what was read from a checkpoint: no line of code gave it."""
    return ""


def call_site() -> str:
    """Where the user's code was, for messages: the nearest frame outside this package."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("flowroute.engine"):
        frame = frame.f_back
    return "" if frame is None else f" at {frame.f_code.co_filename}:{frame.f_lineno}"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a step, without `self`."""

    name: str
    annotation: Any
    default: Any  # inspect.Parameter.empty where there is none
    positional: bool  # may be given by position
    by_name: bool  # may be given by name


class Signature:
    """The parameters of a step: binds a call to them and validates it.

    Parameters:
        title: ``Flow.step``, for messages.
        parameters: In order, `self` left out.

    Raises:
        TypeProblem: pydantic can not handle one of the types.
    """

    def __init__(self, title: str, parameters: Collection[Parameter]) -> None:
        self.title = title
        self.parameters = tuple(parameters)
        self._positional = tuple(p.name for p in parameters if p.positional)
        self._only_positional = frozenset(p.name for p in parameters if not p.by_name)
        self._by_position = tuple(p.name for p in parameters if not p.by_name)
        self._defaults = {
            p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty
        }
        self._names = frozenset(p.name for p in parameters)
        self._validate = _mapping_validator(title, {p.name: p.annotation for p in parameters})

    @cached_property
    def after_first(self) -> Signature:
        """The same without the first parameter, whose value comes later.

        Raises:
            ArgumentError: There is none that can be given by position.
        """
        if not self._positional:
            raise ArgumentError(
                f"{self.title} has no parameter for the result of a sub-flow: give it one, before "
                "all others."
            )
        return Signature(self.title, self.parameters[1:])

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Bind a call to the parameters, as Python would, and validate it.

        Returns:
            Every argument by name, defaults included, as pydantic returned it.

        Raises:
            ArgumentError: The call does not fit the signature or its types.
        """
        if len(args) > len(self._positional):
            most = len(self._positional)
            raise ArgumentError(
                f"{self.title} takes {most} positional argument{'' if most == 1 else 's'}, "
                f"but {len(args)} were given{call_site()}."
            )
        bound = dict(zip(self._positional, args, strict=False))
        for name in kwargs:
            if name in bound:
                raise ArgumentError(f"{self.title} got two values for {name!r}{call_site()}.")
            if name in self._only_positional:
                raise ArgumentError(f"{self.title} takes {name!r} by position only{call_site()}.")
        bound.update(kwargs)
        return self.validate(bound, call_site)

    def validate(
        self, arguments: dict[str, Any], place: Callable[[], str] = nowhere
    ) -> dict[str, Any]:
        """Validate arguments by name, filling in defaults.

        Parameters:
            arguments: By name.
            place: Says where they were given, for the message; see `call_site`.

        Raises:
            ArgumentError: With pydantic's message.
        """
        if self._defaults:
            arguments = self._defaults | arguments
        try:
            return self._validate(arguments)
        except ValidationError as error:
            raise ArgumentError(
                f"{self.title} was given arguments that do not fit{place()}.\n{error}"
            ) from error

    def call(self, function: Callable[..., Any], flow: object, arguments: dict[str, Any]) -> Any:
        """Call the step's function with validated arguments."""
        if not self._by_position:
            return function(flow, **arguments)
        rest = dict(arguments)
        by_position = [rest.pop(name) for name in self._by_position]
        return function(flow, *by_position, **rest)


class StateModel:
    """The declared state of a flow, over a private pydantic model.

    Parameters:
        title: The flow's name, for messages.
        fields: Types by name.
        defaults: Default values or pydantic `Field`s by name.

    Raises:
        TypeProblem: pydantic can not handle one of the types.
    """

    def __init__(self, title: str, fields: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.title = title
        self.fields = tuple(fields)
        definitions: dict[str, Any] = {
            name: (annotation, defaults.get(name, ...)) for name, annotation in fields.items()
        }
        with _schema_problems("the state"):
            model = create_model(title, __config__=CONFIG, **definitions)
            model.model_rebuild()  # does nothing unless a type in it was incomplete
        if reserved := fields.keys() - model.model_fields.keys():
            names = ", ".join(map(repr, sorted(reserved)))
            raise TypeProblem(f"the state has the name {names}, which pydantic needs: rename it")
        self._model = model
        self._validate_model = model.__pydantic_validator__.validate_python
        self._assign = model.__pydantic_validator__.validate_assignment

    def validate(
        self, state: Mapping[str, Any], place: Callable[[], str] = nowhere
    ) -> dict[str, Any]:
        """Validate the whole state, filling in defaults.

        Parameters:
            state: By name.
            place: Says where it was given, for the message; see `call_site`.

        Raises:
            ArgumentError: With pydantic's message.
        """
        try:
            return dict(self._validate_model(dict(state)).__dict__)
        except ValidationError as error:
            raise ArgumentError(
                f"{self.title} was given state that does not fit{place()}.\n{error}"
            ) from error

    def validate_one(self, state: Mapping[str, Any], name: str, value: object) -> Any:
        """Validate one field on assignment.

        Raises:
            ArgumentError: With pydantic's message.
        """
        try:
            return self._assign(self._held(state), name, value).__dict__[name]
        except ValidationError as error:
            raise ArgumentError(
                f"{self.title}.{name} was set to a value that does not fit{call_site()}.\n{error}"
            ) from error

    def _held(self, state: Mapping[str, Any]) -> BaseModel:
        """The private model with state that is not validated now."""
        # Not model_construct(), whose own parameter leaves no room for state called `cls`.
        held: BaseModel = self._model.__new__(self._model)
        object.__setattr__(held, "__dict__", dict(state))
        object.__setattr__(held, "__pydantic_fields_set__", set(state))
        object.__setattr__(held, "__pydantic_extra__", None)
        return held


def parameters_of(
    function: Callable[..., Any], local: Namespace
) -> tuple[list[Parameter], list[str]]:
    """Read the parameters of a step's function.

    Parameters:
        function: The plain function; its first parameter is the flow.
        local: The names of the enclosing scope, for annotations written as strings.

    Returns:
        The parameters without the first, and a sentence for each that a checkpoint can not carry.
    """
    problems: list[str] = []
    found: list[Parameter] = []
    annotations = get_annotations(function, format=Format.FORWARDREF)
    signature = list(inspect.signature(function).parameters.values())
    if not signature or signature[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        problems.append("takes no `self`")
    if any(is_other(function) for is_other in _OTHER_FUNCTIONS):
        problems.append("is no plain function: leave out `async` and `yield`")
    for parameter in signature[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            problems.append(
                "takes "
                f"{'*' if parameter.kind is parameter.VAR_POSITIONAL else '**'}{parameter.name}: "
                "name each parameter, so that its type can be checked"
            )
            continue
        annotation: Any = Any
        if parameter.name in annotations:
            try:
                annotation = resolve(
                    parameter.name, annotations[parameter.name], _globals_of(function), local
                )
            except TypeProblem as problem:
                problems.append(str(problem))
                continue
        found.append(
            Parameter(
                parameter.name,
                annotation,
                parameter.default,
                positional=parameter.kind is not parameter.KEYWORD_ONLY,
                by_name=parameter.kind is not parameter.POSITIONAL_ONLY,
            )
        )
    return found, problems


def _globals_of(function: Callable[..., Any]) -> dict[str, Any]:
    return getattr(inspect.unwrap(function), "__globals__", {})


def _mapping_validator(
    title: str, fields: Mapping[str, Any]
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    # A TypedDict, not a model: its keys may be called `copy`, `json` or `_private`.
    make = cast("Callable[..., Any]", TypedDict)
    with _schema_problems(", ".join(repr(name) for name in fields)):
        shape = make(title.replace(".", "_"), dict(fields))
        shape.__pydantic_config__ = CONFIG
        adapter: TypeAdapter[dict[str, Any]] = TypeAdapter(shape)
        adapter.rebuild()
    return adapter.validator.validate_python


@contextmanager
def _schema_problems(what: str) -> Generator[None]:
    """Turn whatever pydantic says of types into a `TypeProblem`."""
    with warnings.catch_warnings():
        # A field called `copy` or `json` shadows a method of the *private* model: no one sees it.
        warnings.filterwarnings("ignore", message="Field name", category=UserWarning)
        # `any` for `Any`, say: pydantic would accept every value.
        warnings.simplefilter("error", ArbitraryTypeWarning)
        try:
            yield
        except Exception as error:
            # Any: types may bring code of their own for this.
            raise TypeProblem(
                f"{what} has a type that pydantic can not handle: {_brief(error)}"
            ) from error


def _brief(error: Exception) -> str:
    text = str(error).strip()
    # The first line says it all, except that a SchemaError begins with where it was met.
    return " ".join(text.split()) if isinstance(error, SchemaError) else text.partition("\n")[0]
