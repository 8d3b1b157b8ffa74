"""What can be wrong with the steps of a flow: each problem one line, with its place and a hint.

All checks run, so that one error names everything. The checks of the whole graph take a misspelt
name for the one that was probably meant, so that a typing error is not reported three times.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from flowroute.engine.references import BadReference, Fault, Guide, Trail
from flowroute.engine.shape import Shape, meant
from flowroute.engine.step import END, Place, Step

RESERVED: Final = {
    "run": "the run that a step belongs to",
    "session": "the session of the run",
    "graph": "the step graph",
}
"""What flowroute puts on every flow."""

_LISTED: Final = 8  # names in a hint
_PLACE: Final = re.compile(r"(.+?):(\d+): ")


def location(step: Step[Any, Any]) -> tuple[str, int]:
    """The file and line where a step is written."""
    code = inspect.unwrap(step.function).__code__
    return code.co_filename, code.co_firstlineno


def check(guide: Guide, trails: Mapping[str, Trail]) -> list[str]:
    """Every problem of a flow's steps.

    Parameters:
        guide: The flow.
        trails: What was read in the code of each step.

    Returns:
        Sentences that open with ``file:line:``.
    """
    shape = Shape(guide, trails)
    return [
        *_names(guide),
        *_references(guide, trails),
        *_declarations(guide),
        *_error_steps(guide),
        *_final_pages(guide, trails),
        *_starts(guide, shape),
        *_unreachable(guide, shape),
        *_endless(guide, shape),
    ]


def in_order(problems: Iterable[str]) -> list[str]:
    """Problems in the order of the source, each once."""

    def place(problem: str) -> tuple[bool, str, int]:
        match = _PLACE.match(problem)
        return (False, match[1], int(match[2])) if match else (True, "", 0)

    return sorted(dict.fromkeys(problems), key=place)


# -- names -----------------------------------------------------------------------------------------


def _names(guide: Guide) -> Iterator[str]:
    for name, step in guide.steps.items():
        opening = f"{_at(step)} the step {name!r}"
        if name in RESERVED:
            yield f"{opening} hides self.{name}, {RESERVED[name]}: give it another name."
        elif name == END:
            yield f"{opening} is named like the end of every graph: give it another name."
        elif name in guide.fields:
            yield f"{opening} has the name of a state of {_flow(guide)}: rename one of them."
    for name in guide.fields:
        if name in RESERVED:
            text = f"the state {name!r} hides self.{name}, {RESERVED[name]}"
            yield f"{_at_flow(guide)} {text}: give it another name."


def _references(guide: Guide, trails: Mapping[str, Trail]) -> Iterator[str]:
    for trail in trails.values():
        for bad in trail.faults:
            yield f"{bad.filename}:{bad.line}: {_FAULTS[bad.fault](guide, bad)}"


def _unknown(guide: Guide, bad: BadReference) -> str:
    text = f"self.{bad.name} is not a step, state or method of {_flow(guide)}"
    probably = meant(bad.name, guide.names())
    if probably in guide.steps:
        return f"{text}: did you mean the step {probably!r}?"
    if probably is not None:
        return f"{text}: did you mean {probably!r}?"
    state = f"; its state is {_listed(guide.fields)}" if guide.fields else ""
    return f"{text}. Its steps are {_listed(guide.steps)}{state}."


def _not_state(guide: Guide, bad: BadReference) -> str:
    name = bad.name
    text = f"self.{name} is assigned, but {name!r} is not state of {_flow(guide)}"
    if name in guide.steps:
        return f"{text}, it is a step: choose another name."
    probably = None if guide.find(name) else meant(name, guide.fields)
    if probably is not None:
        return f"{text}: did you mean {probably!r}?"
    declared = f"declare it in the class body, as `{name}: …`"
    return f"{text}: {declared}, so that it is part of every checkpoint."


def _overridden(guide: Guide, bad: BadReference) -> str:
    name = bad.name
    return (
        f"super().{name} would hand over to the step {name!r} of {_flow(guide)} again, since a "
        "continuation knows its step by name: to run the base class's code here, write "
        f"Base.{name}.function(self, …)."
    )


_FAULTS: Final[dict[Fault, Callable[[Guide, BadReference], str]]] = {
    Fault.UNKNOWN: _unknown,
    Fault.NOT_STATE: _not_state,
    Fault.OVERRIDDEN: _overridden,
}


# -- what the decorators were given ----------------------------------------------------------------


def _declarations(guide: Guide) -> Iterator[str]:
    ends = [*guide.steps, END]
    for name, step in guide.steps.items():
        opening = f"{_at(step)} the step {name!r} has"
        no_step = f"which is no step of {_flow(guide)}"
        for target in dict.fromkeys(step.to or ()):
            if target not in ends:
                yield f"{opening} to=[{target!r}], {no_step}{_hint(target, ends)}"
        if step.on_error and step.on_error not in guide.steps:
            hint = _hint(step.on_error, guide.steps)
            yield f"{opening} on_error={step.on_error!r}, {no_step}{hint}"


def _error_steps(guide: Guide) -> Iterator[str]:
    for name, step in guide.steps.items():
        target = guide.steps.get(step.on_error or "")
        if target is step:
            yield (
                f"{_at(step)} the step {name!r} has itself as on_error, and would fail for ever: "
                "name another step, or give it retry=Retry(…)."
            )
        elif target is not None and (taken := _takes_no_failure(target)):
            yield (
                f"{_at(target)} the step {step.on_error!r} takes over when {name!r} fails, but "
                f"takes {taken}: give it exactly one required parameter, such as "
                "`failure: StepFailure`."
            )


def _takes_no_failure(step: Step[Any, Any]) -> str:
    parameters = list(inspect.signature(step.function).parameters.values())[1:]
    required = [
        parameter
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if not required:
        return "no required parameter"
    if len(required) > 1:
        return f"the required parameters {_listed(parameter.name for parameter in required)}"
    if required[0].kind is inspect.Parameter.KEYWORD_ONLY:
        return f"{required[0].name!r} by keyword only"
    return ""


def _final_pages(guide: Guide, trails: Mapping[str, Trail]) -> Iterator[str]:
    for name, step in guide.steps.items():
        onward = [
            "done(…)" if target == END else f"self.{target}"
            for target in trails[name].targets_of(step)
        ]
        onward += [f"on_error={step.on_error!r}"] if step.on_error else []
        if step.final and onward:
            yield (
                f"{_at(step)} the page {name!r} is final, so the run ends there, but it leads on "
                f"to {', '.join(onward)}: let it return a response only, or take final=True away."
            )


# -- the whole graph -------------------------------------------------------------------------------


def _starts(guide: Guide, shape: Shape) -> Iterator[str]:
    if not shape.starts:
        first = [name for name in guide.steps if not shape.before(name)]
        which = f"{first[0]!r}" if len(first) == 1 else "the step it begins with"
        text = f"no run of {_flow(guide)} can start: mark {which} with start=True"
        yield f"{_at_flow(guide)} {text}, as in @step(start=True)."


def _unreachable(guide: Guide, shape: Shape) -> Iterator[str]:
    reached = shape.reach(shape.starts) if shape.starts else guide.steps
    for name, step in guide.steps.items():
        if name in reached:
            continue
        before = shape.before(name)
        reason = "no step leads to it"
        if before:
            verb = "leads" if len(before) == 1 else "lead"
            reason = f"only {_listed(before)} {verb} to it, and no run gets there"
        yield (
            f"{_at(step)} the step {name!r} is unreachable: {reason}. Let a step return "
            f"self.{name}(…), name it in to=[…] or on_error=, or mark it start=True."
        )


def _endless(guide: Guide, shape: Shape) -> Iterator[str]:
    for name in shape.nowhere():
        step = guide.steps[name]
        page = " make it @page(final=True)," if step.place is Place.REQUEST else ""
        yield (
            f"{_at(step)} no end can be reached from the step {name!r}, which hands over to "
            f"nothing:{page} return done(…) or self.<step>(…), or, if a function elsewhere builds "
            "the continuation, say where it leads with to=[…]."
        )
    for way in shape.circles():
        yield (
            f"{_at(guide.steps[way[0]])} no end can be reached from the step {way[0]!r}: "
            f"{' → '.join(way)} goes round for ever. Let one of them return done(…), or lead to a "
            "final page."
        )


# -- words -----------------------------------------------------------------------------------------


def _at(step: Step[Any, Any]) -> str:
    filename, line = location(step)
    return f"{filename}:{line}:"


def _at_flow(guide: Guide) -> str:
    own = [step for name, step in guide.steps.items() if name in vars(guide.flow)]
    return _at((own or list(guide.steps.values()))[0])


def _flow(guide: Guide) -> str:
    return guide.flow.__name__


def _hint(name: str, names: Iterable[str]) -> str:
    probably = meant(name, names)
    return f": did you mean {probably!r}?" if probably else f". There is {_listed(names)}."


def _listed(names: Iterable[str]) -> str:
    shown = [repr(name) for name in names]
    rest = [f"{len(shown) - _LISTED} more"] if len(shown) > _LISTED else []
    return ", ".join(shown[:_LISTED] + rest)
