"""pydantic at the door: what a step's arguments and a flow's state must look like."""

from __future__ import annotations

import inspect
import sys
import types
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticUserError
from typing_extensions import Format, TypedDict, get_annotations

from flowroute.errors import ArgumentError

# Rows, sessions' objects and other classes pydantic knows nothing of are checked with isinstance().
CONFIG = ConfigDict(arbitrary_types_allowed=True, extra="forbid", protected_namespaces=())

Namespace = Mapping[str, Any]


class TypeProblem(Exception):  # noqa: N818  # never leaves the package: it becomes a line of a DefinitionError
    """An annotation that pydantic can not validate; the message says which and why."""


def resolve(
    annotations: Mapping[str, Any], module: Namespace, local: Namespace
) -> dict[str, Any]:
    """Turn annotations, which may be strings, into types.

    Parameters:
        annotations: By name.
        module: The globals where they were written.
        local: The names of the enclosing function or class, which win.

    Returns:
        The types by name, `Annotated` kept.

    Raises:
        TypeProblem: A name in an annotation is not defined.
    """
    resolved: dict[str, Any] = {}
    for name, annotation in annotations.items():
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            resolved |= get_type_hints(holder, dict(module), dict(local), include_extras=True)
        except NameError as error:
            raise TypeProblem(
                f"{name!r} is annotated with {error.name!r}, which is not defined when the class is: "
                "define it above, and import it outside `if TYPE_CHECKING`"
            ) from error
        except (TypeError, SyntaxError) as error:
            raise TypeProblem(f"{name!r} has an annotation that is not a type: {error}") from error
    return resolved


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

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Bind a call to the parameters, as Python would, and validate it.

        Returns:
            Every argument by name, defaults included, as pydantic returned it.

        Raises:
            ArgumentError: The call does not fit the signature or its types.
        """
        if len(args) > len(self._positional):
            raise ArgumentError(
                f"{self.title} takes {len(self._positional)} positional arguments, "
                f"but {len(args)} were given{_call_site()}."
            )
        bound = dict(zip(self._positional, args, strict=False))
        for name in kwargs:
            if name in bound:
                raise ArgumentError(f"{self.title} got two values for {name!r}{_call_site()}.")
            if name in self._only_positional:
                raise ArgumentError(f"{self.title} takes {name!r} by position only{_call_site()}.")
        bound.update(kwargs)
        return self.validate(bound)

    def validate(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Validate arguments by name, filling in defaults.

        Raises:
            ArgumentError: With pydantic's message.
        """
        if self._defaults:
            arguments = self._defaults | arguments
        try:
            return self._validate(arguments)
        except ValidationError as error:
            raise ArgumentError(
                f"{self.title} was given arguments that do not fit{_call_site()}.\n{error}"
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

    def __init__(
        self, title: str, fields: Mapping[str, Any], defaults: Mapping[str, Any]
    ) -> None:
        self.title = title
        self.fields = tuple(fields)
        definitions: dict[str, Any] = {
            name: (annotation, defaults.get(name, ...)) for name, annotation in fields.items()
        }
        with warnings.catch_warnings():
            # A field called `copy` or `json` shadows a method of the *private* model: no one sees it.
            warnings.filterwarnings("ignore", message="Field name", category=UserWarning)
            try:
                model = create_model(title, __config__=CONFIG, **definitions)
            except (PydanticUserError, NameError, TypeError) as error:
                raise TypeProblem(f"state that pydantic can not handle: {_first_line(error)}") from error
        self._validate_model = model.__pydantic_validator__.validate_python
        self._template = model.model_construct
        self._assign = model.__pydantic_validator__.validate_assignment

    def validate(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Validate the whole state, filling in defaults.

        Raises:
            ArgumentError: With pydantic's message.
        """
        try:
            return dict(self._validate_model(dict(state)).__dict__)
        except ValidationError as error:
            raise ArgumentError(
                f"{self.title} was given state that does not fit{_call_site()}.\n{error}"
            ) from error

    def validate_one(self, state: Mapping[str, Any], name: str, value: object) -> Any:
        """Validate one field on assignment.

        Raises:
            ArgumentError: With pydantic's message.
        """
        try:
            return self._assign(self._template(**state), name, value).__dict__[name]
        except ValidationError as error:
            raise ArgumentError(
                f"{self.title}.{name} was set to a value that does not fit{_call_site()}.\n{error}"
            ) from error


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
    if not signature:
        problems.append("takes no `self`")
    for parameter in signature[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            problems.append(
                f"takes {'*' if parameter.kind is parameter.VAR_POSITIONAL else '**'}{parameter.name}: "
                "name each parameter, so that its type can be checked"
            )
            continue
        annotation: Any = Any
        if parameter.name in annotations:
            try:
                annotation = resolve(
                    {parameter.name: annotations[parameter.name]}, _globals_of(function), local
                )[parameter.name]
                _mapping_validator(parameter.name, {parameter.name: annotation})
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
    shape: Any = TypedDict(title.replace(".", "_"), dict(fields))  # type: ignore[operator]
    shape.__pydantic_config__ = CONFIG
    try:
        adapter: TypeAdapter[dict[str, Any]] = TypeAdapter(shape)
    except (PydanticUserError, NameError, TypeError) as error:
        names = ", ".join(repr(name) for name in fields)
        raise TypeProblem(f"{names} has a type that pydantic can not handle: {_first_line(error)}") from error
    return adapter.validator.validate_python


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _call_site() -> str:
    """Where the user's code was, for messages: the nearest frame outside this package."""
    frame = sys._getframe(1)  # noqa: SLF001  # the documented way to look at the caller
    while frame is not None and frame.f_globals.get("__name__", "").startswith("flowroute.engine"):
        frame = frame.f_back  # type: ignore[assignment]
    if frame is None:
        return ""
    return f" at {frame.f_code.co_filename}:{frame.f_lineno}"
