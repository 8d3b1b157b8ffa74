"""Flows: classes whose methods are steps and whose annotated attributes are state."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, get_origin

from pydantic import Field
from typing_extensions import Format, dataclass_transform, get_annotations

from flowroute.engine import graph as graphs
from flowroute.engine.step import Step
from flowroute.engine.validation import StateModel, TypeProblem, resolve
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


class FlowDefinition:
    """What a flow class turned out to be: its name, state, steps and step graph.

    Kept off the class itself, so that steps and fields may have any other name.
    """

    __slots__ = ("graph", "model", "name", "steps", "version")

    def __init__(
        self,
        name: str,
        version: int,
        model: StateModel,
        steps: Mapping[str, Step[Any, Any]],
        graph: graphs.StepGraph,
    ) -> None:
        self.name = name
        self.version = version
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
            self.model.validate(self.state_of(flow))


class GraphOfFlow:
    """``Checkout.graph``: the step graph, known when the class is defined."""

    def __get__(self, flow: object | None, owner: type[Flow]) -> graphs.StepGraph:
        return definition_of(owner).graph


@dataclass_transform(kw_only_default=True, field_specifiers=(Field,))
class Flow:
    """The base class of flows.

    Annotated attributes are the flow's **state**: declared, validated by pydantic, and part of every
    checkpoint. Methods under `step`, `worker_step` or `flowroute.flask.page` are its **steps**.

    Class keywords:
        name: What runs of this flow are stored under; default the class's name. Keep it when the class is
            renamed, and runs under way go on.
        version: A number for people, stored with each run; default 1.
        abstract: This class is a base for flows and not one itself; default: a class without any step.

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
        cls, *, name: str | None = None, version: int = 1, abstract: bool = False, **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
        steps = _steps_of(cls)
        if abstract or not steps:
            return
        scope = sys._getframe(1)  # noqa: SLF001  # annotations may name what the enclosing function defines
        local = {**scope.f_locals, cls.__name__: cls}
        problems: list[str] = []
        fields, defaults = _fields_of(cls, local, problems)
        for each in steps.values():
            code = each.function.__code__
            problems += [
                f"{code.co_filename}:{code.co_firstlineno}: the step {each.name!r} {problem}."
                if problem.startswith("takes ")
                else f"{code.co_filename}:{code.co_firstlineno}: in the step {each.name!r}, {problem}."
                for problem in each.prepare(local)
            ]
        graph = graphs.build(cls, steps, fields, problems)
        try:
            model = StateModel(cls.__name__, fields, defaults)
        except TypeProblem as problem:
            raise DefinitionError(cls.__name__, [f"{_where(cls)}: {problem}."]) from problem
        cls.__flow__ = FlowDefinition(name or cls.__name__, version, model, steps, graph)
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
                f"{type(self).__name__}.run is known only while a step runs: in a unit test, give the flow "
                "a run with flowroute.testing.run_step()."
            )
        return context

    @property
    def session(self) -> Session:
        """The session whose writes commit together with the checkpoint after this step.

        Raises:
            FlowrouteError: Outside a step.
        """
        return self.run.session

    if not TYPE_CHECKING:
        # Hidden from type checkers, which would otherwise stop finding misspelt names.

        def __init__(self, **state: Any) -> None:
            definition = definition_of(type(self))
            self.__dict__.update(definition.model.validate(state))

        def __setattr__(self, name: str, value: Any) -> None:
            definition = definition_of(type(self))
            if name not in definition.model.fields:
                raise ArgumentError(
                    f"{type(self).__name__} has no state called {name!r}: declare it in the class body, "
                    f"as `{name}: {type(value).__name__}`, so that it is part of every checkpoint."
                )
            state = definition.state_of(self)
            self.__dict__[name] = definition.model.validate_one(state, name, value)

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
            f"{flow.__name__} has no steps of its own or is abstract: derive a flow with a start step from it."
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
            f"No flow called {name!r} is known to this process: import the module that defines it, or, if the "
            f"class was renamed, give it the old name: class …(Flow, name={name!r})."
        ) from None


def restore(flow: type[Flow], state: Mapping[str, Any]) -> Flow:
    """A flow object with stored state, validated again.

    Raises:
        ArgumentError: The state no longer fits the class.
    """
    return flow(**state)


def _steps_of(cls: type) -> dict[str, Step[Any, Any]]:
    found: dict[str, Step[Any, Any]] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, Step):
                found[name] = value
            else:
                found.pop(name, None)  # overridden by something that is no step
    return found


def _fields_of(
    cls: type, local: Mapping[str, Any], problems: list[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    fields: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for base in _flow_bases(cls):
        module = vars(sys.modules.get(base.__module__, sys))
        for name, annotation in get_annotations(base, format=Format.FORWARDREF).items():
            try:
                resolved = resolve({name: annotation}, module, local)[name]
            except TypeProblem as problem:
                problems.append(f"{_where(base)}: in the state of {base.__name__}, {problem}.")
                continue
            if get_origin(resolved) is ClassVar or resolved is ClassVar:
                continue
            if name.startswith("_"):
                problems.append(
                    f"{_where(base)}: the state {name!r} begins with an underscore: pydantic keeps such "
                    "names private; rename it, or annotate it as ClassVar."
                )
                continue
            fields[name] = resolved
            if name in vars(base) and not isinstance(vars(base)[name], Step):
                defaults[name] = vars(base)[name]
    return fields, defaults


def _flow_bases(cls: type) -> Iterator[type]:
    for base in reversed(cls.__mro__):
        if base is not Flow and base is not object:
            yield base


def _where(cls: type) -> str:
    """file:line of a class, as near as its code objects tell."""
    for value in vars(cls).values():
        code = getattr(getattr(value, "function", value), "__code__", None)
        if code is not None:
            return f"{code.co_filename}:{code.co_firstlineno}"
    return getattr(sys.modules.get(cls.__module__), "__file__", None) or cls.__module__


def _register(cls: type[Flow]) -> None:
    name = cls.__flow__.name
    known = _flows.get(name)
    if known is not None and _source(known) != _source(cls):
        raise DefinitionError(
            cls.__name__,
            [
                f"{_where(cls)}: a flow called {name!r} is defined at {_where(known)} already: "
                f"give one of them a name of its own, class {cls.__name__}(Flow, name=…)."
            ],
        )
    _flows[name] = cls


def _source(cls: type) -> tuple[str | None, str]:
    # A reload, and a script imported both as __main__ and by name, define the same flow again.
    module = sys.modules.get(cls.__module__)
    return getattr(module, "__file__", cls.__module__), cls.__qualname__
