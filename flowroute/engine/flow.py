"""Flows: classes whose methods are steps and whose annotated attributes are state."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast
from weakref import WeakKeyDictionary

from pydantic import Field
from typing_extensions import Format, dataclass_transform, get_annotations

from flowroute.engine import graph as graphs
from flowroute.engine.step import Step
from flowroute.engine.validation import (
    StateModel,
    TypeProblem,
    call_site,
    is_class_variable,
    resolve,
)
from flowroute.errors import (
    ArgumentError,
    CheckpointUnreadable,
    DefinitionError,
    FlowrouteError,
)

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from flowroute.engine.context import RunContext

_flows: dict[str, type[Flow]] = {}

_resolved: WeakKeyDictionary[type, dict[str, Any]] = WeakKeyDictionary()
"""The types of the annotations in each class body, as they were where the class was defined."""

CHECKPOINTS = ("step", "suspension")
"""When the plain steps of a flow commit."""

NAME_LENGTH = 200
"""Longest name of a flow, in characters: what its column takes."""


class FlowDefinition:
    """What a flow class turned out to be: its name, state, steps and step graph.

    Kept off the class itself, so that steps and fields may have any other name.
    """

    __slots__ = ("checkpoint", "graph", "model", "name", "steps", "version")

    def __init__(
        self,
        *,
        name: str,
        version: int,
        checkpoint: str,
        model: StateModel,
        steps: Mapping[str, Step[Any, Any]],
        graph: graphs.StepGraph,
    ) -> None:
        self.name = name
        self.version = version
        self.checkpoint = checkpoint
        self.model = model
        self.steps = steps
        self.graph = graph

    def state_of(self, flow: Flow) -> dict[str, Any]:
        """The state as it is now, by field."""
        held = flow.__dict__
        return {name: held[name] for name in self.model.fields if name in held}

    def check_state(self, flow: Flow) -> None:
        """Validate the whole state: a list in it may have changed since it was assigned.

        Raises:
            ArgumentError: With pydantic's message.
        """
        if self.model.fields:
            self.model.validate(self.state_of(flow), call_site)


class GraphOfFlow:
    """``Checkout.graph``: the step graph, known when the class is defined."""

    def __get__(self, flow: object | None, owner: type[Flow]) -> graphs.StepGraph:
        return definition_of(owner).graph


@dataclass_transform(kw_only_default=True, field_specifiers=(Field,))
class Flow:
    """The base class of flows.

    Annotated attributes are the flow's **state**: declared, validated by pydantic, and part of
    every checkpoint; those of a mixin that is no flow are not. Methods under `step`, `worker_step`
    or `flowroute.flask.page` are its **steps**, also those of a mixin.

    Class keywords:
        name: What runs of this flow are stored under; default the class's name. Keep it when the
            class is renamed, and runs under way go on.
        version: A number for people, stored with each run; default 1.
        checkpoint: When plain steps commit: ``"step"``, each by itself, the default; or
            ``"suspension"``, those that follow one another together, where the run leaves the
            process. Then a crash runs all of them again, and what they wrote commits exactly once
            all the same.
        abstract: This class is a base for flows and not one itself; default: a class without any
            step.

    Raises:
        DefinitionError: At the definition of a class, with every problem of its steps and state.

    Example:
        >>> class Checkout(Flow):
        ...     customer_id: int
        ...
        ...     @step(start=True)
        ...     def reserve(self, cart: list[str]) -> Continuation[int]:
        ...         return done(len(cart))
        >>> Checkout(customer_id=7).reserve(["book"])
        <Continuation Checkout.reserve(cart=['book'])>
    """

    __flow__: ClassVar[FlowDefinition]
    graph: ClassVar[GraphOfFlow] = GraphOfFlow()
    """The step graph: walks as data, draws with `flowroute.drawing`."""

    def __init_subclass__(
        cls,
        *,
        name: str | None = None,
        version: int = 1,
        checkpoint: Literal["step", "suspension"] = "step",
        abstract: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init_subclass__(**kwargs)
        steps = _steps_of(cls)
        caller = cast("FrameType", cast("FrameType", inspect.currentframe()).f_back)
        # Annotations may name what the function around the class defines.
        around = {} if caller.f_locals is caller.f_globals else caller.f_locals
        problems: list[str] = []
        if name is not None and not _can_name_a_flow(name):
            problems.append(
                f"{_where(cls)}: name={name!r} can not name a flow: give it a text of 1 to "
                f"{NAME_LENGTH} printable characters."
            )
        if checkpoint not in CHECKPOINTS:
            problems.append(
                f"{_where(cls)}: checkpoint={checkpoint!r} is no time to commit: give it "
                f"{' or '.join(map(repr, CHECKPOINTS))}."
            )
        for each in steps.values():
            names = _names_in(each.owner or cls, cls, around)
            problems += [_problem(each, what) for what in each.prepare(names)]
        fields, defaults = _fields_of(cls, around, problems)
        if abstract or not steps:
            return  # what is wrong with it is said of the flows that derive from it
        model = _model_of(cls, fields, defaults, problems)
        graph = graphs.build(cls, steps, fields, problems)
        cls.__flow__ = FlowDefinition(
            name=name or cls.__name__,
            version=version,
            checkpoint=checkpoint,
            model=model,
            steps=steps,
            graph=graph,
        )
        _register(cls)

    @property
    def run(self) -> RunContext:
        """The run this step belongs to: id, attempt, idempotency key, progress and log.

        Raises:
            FlowrouteError: Outside a step.
        """
        context: RunContext | None = self.__dict__.get("__run__")
        if context is None:
            raise FlowrouteError(
                f"{type(self).__name__}.run is known only while a step runs: in a unit test, give "
                "the flow a run with flowroute.testing.run_step()."
            )
        return context

    @property
    def session(self) -> Session:
        """The session whose writes commit together with the checkpoint after this step.

        Raises:
            FlowrouteError: Outside a step.
        """
        return self.run.session

    if not TYPE_CHECKING:  # pragma: no branch
        # Hidden from type checkers, which would otherwise stop finding misspelt names.

        def __init__(self, /, **state: Any) -> None:
            definition = definition_of(type(self))
            self.__dict__.update(definition.model.validate(state, call_site))

        def __setattr__(self, name: str, value: Any) -> None:
            definition = definition_of(type(self))
            if name not in definition.model.fields:
                raise ArgumentError(
                    f"{type(self).__name__} has no state called {name!r}: declare it in the class "
                    f"body, as `{name}: {type(value).__name__}`, so that it is part of every "
                    "checkpoint."
                )
            state = definition.state_of(self)
            self.__dict__[name] = definition.model.validate_one(state, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        # What it knows of its run stays behind: a flow as an argument is its state.
        return restore, (type(self), definition_of(type(self)).state_of(self))

    def __repr__(self) -> str:
        state = ", ".join(f"{n}={v!r}" for n, v in definition_of(type(self)).state_of(self).items())
        return f"{type(self).__name__}({state})"


def definition_of(flow: type[Flow]) -> FlowDefinition:
    """The definition of a flow class.

    Raises:
        FlowrouteError: The class is abstract.
    """
    definition = flow.__dict__.get("__flow__")
    if definition is None:
        raise FlowrouteError(
            f"{flow.__name__} has no steps of its own or is abstract: derive a flow with a start "
            "step from it."
        )
    return definition  # type: ignore[no-any-return]


def flow_named(name: str) -> type[Flow]:
    """The flow class that runs are stored under this name.

    Raises:
        CheckpointUnreadable: This process has imported no such flow.
    """
    try:
        return _flows[name]
    except KeyError:
        raise CheckpointUnreadable(
            f"No flow called {name!r} is known to this process: import the module that defines it, "
            f"or, if the class was renamed, give it the old name: class …(Flow, name={name!r})."
        ) from None


def restore(flow: type[Flow], state: Mapping[str, Any]) -> Flow:
    """A flow object with stored state, validated again.

    Raises:
        ArgumentError: The state no longer fits the class.
    """
    restored = flow.__new__(flow)  # not __init__, which a flow may have changed
    restored.__dict__.update(definition_of(flow).model.validate(state))
    return restored


def _can_name_a_flow(name: object) -> bool:
    return (
        isinstance(name, str)
        and name.isprintable()
        and name == name.strip()
        and 0 < len(name) <= NAME_LENGTH
    )


def _steps_of(cls: type) -> dict[str, Step[Any, Any]]:
    found: dict[str, Step[Any, Any]] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, Step):
                found[name] = value
            else:
                found.pop(name, None)  # overridden by something that is no step
    return found


def _names_in(base: type, cls: type, around: Mapping[str, Any]) -> dict[str, Any]:
    """What the annotations of a class may name besides the globals of its module.

    Parameters:
        base: The class: `cls` or a base class of it.
        cls: The class being defined.
        around: The names of the function around `cls`.
    """
    names = dict(around) if base.__module__ == cls.__module__ else {}
    nested = {name: value for name, value in vars(base).items() if isinstance(value, type)}
    return {**names, cls.__name__: cls, base.__name__: base, **nested}


def _problem(step: Step[Any, Any], what: str) -> str:
    code = inspect.unwrap(step.function).__code__
    where = f"{code.co_filename}:{code.co_firstlineno}"
    if what.startswith("'"):
        return f"{where}: in the step {step.name!r}, {what}."
    return f"{where}: the step {step.name!r} {what}."


def _fields_of(
    cls: type, around: Mapping[str, Any], problems: list[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    fields: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for base in _flow_bases(cls):
        module = vars(sys.modules.get(base.__module__, sys))
        names = _names_in(base, cls, around)
        known = _resolved.setdefault(base, {})
        for name, annotation in get_annotations(base, format=Format.FORWARDREF).items():
            try:
                if name not in known:
                    known[name] = resolve(name, annotation, module, names)
                resolved = known[name]
            except TypeProblem as problem:
                problems.append(
                    f"{_where(base, name)}: in the state of {base.__name__}, {problem}."
                )
                resolved = Any
            if is_class_variable(resolved):
                continue
            if name.startswith("_"):
                problems.append(
                    f"{_where(base, name)}: the state {name!r} begins with an underscore: pydantic "
                    "keeps such names private; rename it, or annotate it as ClassVar."
                )
                continue
            fields[name] = resolved
        for name in fields.keys() & vars(base).keys():
            # Also where a subclass only gives an inherited field another default.
            defaults[name] = vars(base)[name]
    return fields, defaults


def _model_of(
    cls: type, fields: Mapping[str, Any], defaults: Mapping[str, Any], problems: list[str]
) -> StateModel:
    try:
        return StateModel(cls.__name__, fields, defaults)
    except TypeProblem as problem:
        problems.append(f"{_where(cls)}: in {cls.__name__}, {problem}.")
        return StateModel(cls.__name__, {}, {})


def _flow_bases(cls: type) -> Iterator[type]:
    """The classes whose annotations are state; those of a mixin are not, as in a dataclass."""
    for base in reversed(cls.__mro__):
        if issubclass(base, Flow) and base is not Flow:
            yield base


def _where(cls: type, field: str = "") -> str:
    """file:line of a class or of one of its fields, as near as can be told."""
    try:
        filename = inspect.getfile(cls)
        lines, first = inspect.getsourcelines(cls)
    except (OSError, TypeError):  # no source, as in an interactive session
        return _where_its_code_is(cls)
    for number, line in enumerate(lines, first):
        if field and re.match(rf"\s*{field}\s*:", line):
            return f"{filename}:{number}"
    return f"{filename}:{first}"


def _where_its_code_is(cls: type) -> str:
    for value in vars(cls).values():
        code = getattr(getattr(value, "function", value), "__code__", None)
        if code is not None:
            return f"{code.co_filename}:{code.co_firstlineno}"
    return cls.__module__


def _register(cls: type[Flow]) -> None:
    name = cls.__flow__.name
    known = _flows.get(name)
    if known is not None and _source(known) != _source(cls):
        raise DefinitionError(
            cls.__name__,
            [
                (
                    f"{_where(cls)}: a flow called {name!r} is defined at {_where(known)} already: "
                    f"give one of them a name of its own, class {cls.__name__}(Flow, name=…)."
                )
            ],
        )
    _flows[name] = cls


def _source(cls: type) -> tuple[str | None, str]:
    # A reload, and a script imported both as __main__ and by name, define the same flow again.
    module = sys.modules.get(cls.__module__)
    return getattr(module, "__file__", cls.__module__), cls.__qualname__
