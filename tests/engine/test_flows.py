"""Flows: declared state, inheritance, names, and what is found when a class is defined."""

# ruff: noqa: ARG002  # what steps take is the point here, not what they do with it
# ruff: noqa: FBT001  # pytest gives parameters by name

from __future__ import annotations

import copy
import inspect
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import BaseModel, Field, ValidationError
from sqlalchemy import String

from flowroute import Continuation, Flow, Step, done, step, worker_step
from flowroute.engine.engine import Engine
from flowroute.engine.flow import NAME_LENGTH, definition_of, flow_named, restore
from flowroute.engine.schema import run_table
from flowroute.errors import (
    ArgumentError,
    CheckpointUnreadable,
    DefinitionError,
    FlowrouteError,
)
from tests.engine.sources import line_of, load
from tests.engine.support import KEYS, Note


@pytest.fixture(autouse=True)
def _no_flows_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flows that a test defines are unknown to the others, so they may have the same names."""
    monkeypatch.setattr("flowroute.engine.flow._flows", {})


class Visa(BaseModel):
    country: str


class Trip(Flow, name="trip of test_flows", version=3):
    MOST: ClassVar[int] = 9
    plain_class_attribute = "not annotated, so no state"

    city: str
    days: int = 1
    stops: list[str] = []  # noqa: RUF012  # pydantic copies it
    notes: dict[str, int] = Field(default_factory=dict)
    percent: Annotated[int, Field(ge=0, le=100)] = 50
    friend: str | None = None

    @step(start=True)
    def begin(self) -> Continuation[str]:
        return self.end(self.days)

    @step
    def end(self, days: int) -> Continuation[str]:
        return done(f"{days} days in {self.city}")

    def helper(self) -> str:
        return self.city.upper()


# -- state -----------------------------------------------------------------------------------------


def test_state_is_given_by_name_and_defaults_fill_the_rest() -> None:
    trip = Trip(city="Rome", days=3)
    assert definition_of(Trip).state_of(trip) == {
        "city": "Rome",
        "days": 3,
        "stops": [],
        "notes": {},
        "percent": 50,
        "friend": None,
    }
    assert repr(trip) == ("Trip(city='Rome', days=3, stops=[], notes={}, percent=50, friend=None)")


def test_state_is_what_pydantic_made_of_it() -> None:
    days: Any = "3"
    assert Trip(city="Rome", days=days).days == 3


def test_mutable_defaults_are_not_shared() -> None:
    first, second = Trip(city="Rome"), Trip(city="Oslo")
    first.stops.append("Milan")
    first.notes["a"] = 1
    assert (second.stops, second.notes) == ([], {})
    assert (Trip(city="Bern").stops, Trip(city="Bern").notes) == ([], {})


def test_a_class_variable_is_no_state() -> None:
    assert "MOST" not in definition_of(Trip).model.fields
    assert Trip(city="Rome").MOST == 9
    with pytest.raises(ArgumentError, match="MOST\n  Extra inputs are not permitted"):
        Trip(city="Rome", MOST=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def test_a_class_attribute_without_annotation_is_no_state() -> None:
    assert "plain_class_attribute" not in definition_of(Trip).model.fields
    assert Trip(city="Rome").plain_class_attribute.startswith("not annotated")


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ({}, "city\n  Field required"),
        ({"city": 3}, "city\n  Input should be a valid string"),
        ({"city": "Rome", "day": 3}, "day\n  Extra inputs are not permitted"),
        ({"city": "Rome", "percent": 101}, "percent\n  Input should be less than or equal to 100"),
    ],
)
def test_state_that_does_not_fit_is_refused_at_the_line_that_gave_it(
    state: dict[str, Any], problem: str
) -> None:
    frame = inspect.currentframe()
    assert frame is not None
    with pytest.raises(ArgumentError) as caught:
        Trip(**state)
    place = f"{__file__}:{frame.f_lineno - 1}"
    text = str(caught.value)
    assert text.startswith(f"Trip was given state that does not fit at {place}.\n")
    assert problem in text
    assert isinstance(caught.value.__cause__, ValidationError)


def test_an_assignment_is_validated() -> None:
    trip = Trip(city="Rome")
    days: Any = "4"
    trip.days = days
    assert trip.days == 4
    many: Any = "many"
    with pytest.raises(ArgumentError) as caught:
        trip.days = many
    text = str(caught.value)
    assert text.startswith(f"Trip.days was set to a value that does not fit at {__file__}:")
    assert "Input should be a valid integer" in text
    assert trip.days == 4


def test_an_assignment_leaves_the_other_fields_alone() -> None:
    trip = Trip(city="Rome")
    stops = trip.stops
    trip.days = 2
    assert trip.stops is stops


def test_assigning_what_is_no_state_is_refused_with_the_line_to_write() -> None:
    trip = Trip(city="Rome")
    with pytest.raises(ArgumentError, match=r"Trip has no state called 'dayz': .* `dayz: int`"):
        trip.dayz = 3  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ArgumentError, match="Trip has no state called 'begin'"):
        trip.begin = None  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]


def test_a_change_inside_a_list_is_caught_when_the_next_continuation_is_made() -> None:
    trip = Trip(city="Rome")
    trip.stops.append(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(ArgumentError) as caught:
        trip.begin()
    text = str(caught.value)
    assert text.startswith(f"Trip was given state that does not fit at {__file__}:")
    assert "stops.0\n  Input should be a valid string" in text


def test_a_deleted_field_is_caught_when_the_next_continuation_is_made() -> None:
    trip = Trip(city="Rome")
    del trip.city
    assert "city" not in repr(trip)
    with pytest.raises(ArgumentError, match="city\n  Field required"):
        trip.begin()


def test_a_flow_can_be_copied() -> None:
    trip = Trip(city="Rome", stops=["a"])
    other = copy.deepcopy(trip)
    other.stops.append("b")
    assert (trip.stops, other.stops) == (["a"], ["a", "b"])
    assert isinstance(other, Trip)


def test_state_may_be_a_row_a_model_or_another_flow() -> None:
    class Rich(Flow):
        note: Note
        trip: Trip
        model: Visa

        @step(start=True)
        def begin(self) -> Continuation[None]:
            return done()

    note, trip, model = Note(text="a"), Trip(city="Rome"), Visa(country="IT")
    rich = Rich(note=note, trip=trip, model=model)
    assert (rich.note, rich.trip, rich.model) == (note, trip, model)
    with pytest.raises(ArgumentError, match="note\n  Input should be an instance of Note"):
        Rich(note=trip, trip=trip, model=model)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_an_alias_is_a_second_name_and_a_checkpoint_keeps_the_first() -> None:
    class Named(Flow):
        name: str = Field(alias="theName")

        @step(start=True)
        def begin(self) -> Continuation[str]:
            return done(self.name)

    flow = Named(theName="Ada")
    state = definition_of(Named).state_of(flow)
    assert state == {"name": "Ada"}
    restored = restore(Named, state)
    assert isinstance(restored, Named)
    assert restored.name == "Ada"


def test_stored_state_is_validated_again_without_naming_a_line() -> None:
    state = {"city": "Rome", "days": "3"}
    restored = restore(Trip, state)
    assert isinstance(restored, Trip)
    assert restored.days == 3
    with pytest.raises(ArgumentError) as caught:
        restore(Trip, {"town": "Rome"})
    assert str(caught.value).startswith("Trip was given state that does not fit.\n")


def test_a_flow_with_a_constructor_of_its_own_is_restored_without_it() -> None:
    class Own(Flow):
        total: int

        def __init__(self, a: int, b: int) -> None:
            super().__init__(total=a + b)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

        @step(start=True)
        def begin(self) -> Continuation[int]:
            return done(self.total)

    assert Own(1, 2).total == 3
    restored = restore(Own, {"total": 3})
    assert isinstance(restored, Own)
    assert restored.total == 3


NAMES = sorted(
    {name for name in dir(BaseModel) if not name.startswith("_")} - {"model_config"}
    | {"cls", "self", "flow", "state", "arguments", "step", "name", "definition"}
)


@pytest.mark.parametrize("default", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_state_may_be_called_what_pydantic_or_flowroute_calls_its_own(
    name: str, default: bool
) -> None:
    def begin(self: Any) -> Continuation[Any]:
        setattr(self, name, getattr(self, name) + 1)
        return done(getattr(self, name))

    body: dict[str, Any] = {"__annotations__": {name: int}, "begin": step(start=True)(begin)}
    if default:
        body[name] = 7
    clash: Any = type("Clash", (Flow,), body)
    flow = clash(**({} if default else {name: 7}))
    assert getattr(flow, name) == 7
    setattr(flow, name, 8)
    assert flow.begin().flow is flow
    assert clash.begin.function(flow).arguments["result"] == 9
    with pytest.raises(ArgumentError):
        setattr(flow, name, "x")
    with pytest.raises(ArgumentError):
        clash(**{name: "x"})


def test_the_one_name_that_pydantic_needs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="the state has the name 'model_config', which pydan"):
        load(
            tmp_path,
            """
            class Odd(Flow):
                model_config: int

                @step(start=True)
                def begin(self) -> Continuation[None]:
                    return done()
            """,
        )


# -- the class -------------------------------------------------------------------------------------


def test_a_flow_has_a_name_a_version_and_a_graph() -> None:
    definition = definition_of(Trip)
    assert (definition.name, definition.version) == ("trip of test_flows", 3)
    assert list(definition.steps) == ["begin", "end"]
    assert [node.name for node in Trip.graph] == ["begin", "end"]
    assert Trip.graph is definition.graph


def test_a_flow_is_found_by_its_name() -> None:
    class Plain(Flow):
        @step(start=True)
        def begin(self) -> Continuation[None]:
            return done()

    class Renamed(Flow, name="old name"):
        @step(start=True)
        def begin(self) -> Continuation[None]:
            return done()

    assert definition_of(Plain).version == 1
    assert flow_named("Plain") is Plain
    assert flow_named("old name") is Renamed
    with pytest.raises(
        CheckpointUnreadable, match=r"'Renamed' is known .* import .*name='Renamed'"
    ):
        flow_named("Renamed")


def test_a_class_without_steps_is_no_flow_itself() -> None:
    class Base(Flow):
        common: int = 1

    with pytest.raises(FlowrouteError, match="Base has no steps of its own or is abstract: derive"):
        Base()
    with pytest.raises(FlowrouteError, match="Base has no steps"):
        _ = Base.graph
    with pytest.raises(FlowrouteError, match="Flow has no steps"):
        _ = Flow.graph


def test_an_abstract_flow_is_not_checked_until_a_flow_derives_from_it() -> None:
    class Base(Flow, abstract=True):
        @step(start=True)
        def begin(self) -> Continuation[int]:
            return self.middle()

        @step
        def middle(self) -> Continuation[int]:
            return self.last()  # type: ignore[attr-defined,no-any-return]  # pyright: ignore[reportAttributeAccessIssue]

    with pytest.raises(FlowrouteError, match="Base has no steps of its own or is abstract"):
        Base()

    class Whole(Base):
        @step
        def last(self) -> Continuation[int]:
            return done(1)

    assert Whole().begin().step is Base.begin
    assert [node.name for node in Whole.graph.order()] == ["begin", "middle", "last"]


def test_a_subclass_has_the_state_and_the_steps_of_its_bases_and_its_own() -> None:
    class Long(Trip):
        weeks: int = 2

        @step(start=True)
        def plan(self) -> Continuation[str]:
            return self.begin()

    definition = definition_of(Long)
    assert (definition.name, definition.version) == ("Long", 1)
    assert definition.model.fields == (*definition_of(Trip).model.fields, "weeks")
    assert list(definition.steps) == ["begin", "end", "plan"]
    assert repr(Long(city="Rome", weeks=3)).endswith("weeks=3)")
    assert Long(city="Rome").begin().flow.__class__ is Long


def test_a_subclass_may_override_steps_state_and_defaults() -> None:
    class Short(Trip):
        city: str = "Bern"
        days = 2  # an inherited field: only its default is new
        percent: int = 500

        @worker_step(timeout=timedelta(seconds=1))
        def end(self, days: int, *, hurry: bool = True) -> Continuation[str]:
            return done(self.helper() * days)

        def helper(self) -> str:
            return "!" if self.percent else "?"

    short = Short()
    assert (short.city, short.days, short.percent) == ("Bern", 2, 500)
    assert short.end(1).arguments == {"days": 1, "hurry": True}
    assert Short.end is not Trip.end
    assert Trip(city="Rome").end(1).arguments == {"days": 1}
    assert Short.end.function(short, 2).arguments["result"] == "!!"


def test_a_step_may_be_overridden_by_a_plain_method() -> None:
    class Direct(Trip):
        def end(self, days: int) -> Continuation[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
            return done(str(days))

    assert list(definition_of(Direct).steps) == ["begin"]
    end = Direct.begin.function(Direct(city="Rome", days=4))
    assert end.arguments == {"result": "4"}


def test_a_mixin_gives_steps_and_methods_but_no_state() -> None:
    class Logged:
        lines: list[str]
        prefix: str = "> "

        @step
        def log(self, line: str) -> Continuation[str]:
            return done(self.prefix + line)

        def shout(self, line: str) -> str:
            return line.upper()

    class Noisy(Flow, Logged):
        @step(start=True)
        def begin(self) -> Continuation[str]:
            return self.log(self.shout("a"))

    assert definition_of(Noisy).model.fields == ()
    assert list(definition_of(Noisy).steps) == ["log", "begin"]
    onward = Noisy.begin.function(Noisy())
    assert onward.arguments == {"line": "A"}
    assert isinstance(onward.step, Step)
    assert onward.step.function(onward.flow, "A").arguments == {"result": "> A"}


def test_a_class_keyword_that_flowroute_does_not_know_goes_to_the_next_class() -> None:
    seen: dict[str, Any] = {}

    class Listening:
        def __init_subclass__(cls, colour: str = "", **kwargs: Any) -> None:
            seen["colour"] = colour
            super().__init_subclass__(**kwargs)

    class Coloured(Flow, Listening, name="c", colour="red"):
        @step(start=True)
        def begin(self) -> Continuation[None]:
            return done()

    assert seen == {"colour": "red"}
    assert flow_named("c") is Coloured
    with pytest.raises(TypeError, match="takes no keyword arguments"):

        class Odd(Flow, colour="red"):  # pyright: ignore[reportUnusedClass, reportGeneralTypeIssues]
            pass


@pytest.mark.parametrize("name", ["", " ", "a\n", " a", "a\x00", "x" * (NAME_LENGTH + 1), 3, b"a"])
def test_a_name_that_no_column_or_person_could_read_is_refused(name: Any) -> None:
    with pytest.raises(
        DefinitionError, match=r"name=.* can not name a flow: give it a text of 1 to"
    ):

        class Odd(Flow, name=name):  # pyright: ignore[reportUnusedClass]
            @step(start=True)
            def begin(self) -> Continuation[None]:
                return done()


def test_a_name_may_be_as_long_as_its_column() -> None:
    class Long(Flow, name="ä" * NAME_LENGTH):
        @step(start=True)
        def begin(self) -> Continuation[None]:
            return done()

    assert flow_named("ä" * NAME_LENGTH) is Long
    assert isinstance(run_table.c.flow.type, String)
    assert run_table.c.flow.type.length == NAME_LENGTH


# -- names that collide ----------------------------------------------------------------------------

TWO = """
class Checkout(Flow):
    @step(start=True)
    def begin(self) -> Continuation[None]:
        return done()
"""


def test_two_flows_can_not_have_the_same_name(tmp_path: Path) -> None:
    first = load(tmp_path, TWO)
    with pytest.raises(DefinitionError) as caught:
        load(tmp_path, TWO)
    (problem,) = caught.value.problems
    line = line_of("class Checkout", str(first.__file__))
    assert f"'Checkout' is defined at {first.__file__}:{line} already" in problem
    assert "class Checkout(Flow, name=…)" in problem
    assert flow_named("Checkout") is first.Checkout


def test_the_same_class_may_be_defined_again() -> None:
    def define() -> type[Flow]:
        class Twice(Flow):
            @step(start=True)
            def begin(self) -> Continuation[None]:
                return done()

        return Twice

    define()
    second = define()
    assert flow_named("Twice") is second


def test_a_script_may_import_itself_by_name(tmp_path: Path) -> None:
    script = tmp_path / "shop.py"
    script.write_text(
        "from flowroute import Continuation, Flow, done, step\n"
        f"{TWO}\n"
        "if __name__ == '__main__':\n"
        "    import shop\n"
        "    from flowroute.engine.flow import flow_named\n"
        "    print(flow_named('Checkout') is shop.Checkout, shop.Checkout is Checkout)\n"
    )
    found = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert (found.stdout, found.stderr) == ("True False\n", "")


def test_a_flow_may_be_defined_where_there_is_no_source() -> None:
    names: dict[str, Any] = {"__name__": "nowhere"}
    header = "from flowroute import Flow, step, done, Continuation\n"
    exec(compile(header + TWO, "<console>", "exec"), names)  # noqa: S102  # as a console does
    assert names["Checkout"]().begin().step.name == "begin"
    with pytest.raises(DefinitionError, match=r"<console>:\d+: in the state of Checkout, 'x' is"):
        exec(compile(header + TWO + "    x: 'Gone'\n", "<console>", "exec"), names)  # noqa: S102
    with pytest.raises(DefinitionError, match=r"nowhere: in the state of Base, 'x' is annotated"):
        exec(  # noqa: S102
            compile(
                f"{header}class Base(Flow):\n    x: 'Gone'\n{TWO.replace('Flow', 'Base')}",
                "<console>",
                "exec",
            ),
            names,
        )


# -- what is found when a class is defined ---------------------------------------------------------


def test_every_problem_of_a_class_is_reported_at_once_each_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError) as caught:
        load(
            tmp_path,
            """
            class Odd(Flow):
                size: int = 3
                gone: "Missing"
                _hidden: int = 3
                bad: any

                @step(start=True, retry=5)
                def begin(self, count: "Lost") -> Continuation[None]:
                    self.gone = self.bad
                    return self.finsh()

                @step
                def finish(self, *rest) -> Continuation[None]:
                    return done()
            """,
        )
    found = {}
    for problem in caught.value.problems:
        filename, line, text = problem.split(":", 2)
        found[text.strip()] = Path(filename).read_text().splitlines()[int(line) - 1].strip()
    starts = {text.partition(" is ")[0][:40]: line for text, line in found.items()}
    assert starts == {
        "in the state of Odd, 'gone'": 'gone: "Missing"',
        "the state '_hidden' begins with an under": "_hidden: int = 3",
        "in the state of Odd, 'bad' has a type th": "bad: any",
        "in the step 'begin', 'count'": "@step(start=True, retry=5)",
        "the step 'begin' has retry=5: give it a ": "@step(start=True, retry=5)",
        "self.finsh": "return self.finsh()",
        "the step 'finish' takes *rest: name each": "@step",
    }
    assert "Odd is not a flow yet: 7 problems." in str(caught.value)


def test_a_constraint_that_pydantic_refuses_is_a_problem_of_the_class(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError) as caught:
        load(
            tmp_path,
            """
            from pydantic import Field

            class Odd(Flow):
                text: str = Field(pattern="(")

                @step(start=True)
                def begin(self) -> Continuation[None]:
                    return done(self.text)
            """,
        )
    (problem,) = caught.value.problems
    filename, line, text = problem.split(":", 2)
    assert int(line) == line_of("class Odd", filename)
    assert "in Odd, the state has a type that pydantic can not handle" in text
    assert "regex parse error" in text


def test_a_name_is_either_a_step_or_state(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="'begin' has the name of a state of Odd"):
        load(
            tmp_path,
            """
            class Odd(Flow):
                begin: int

                @step(start=True)
                def begin(self) -> Continuation[None]:
                    return done()
            """,
        )


@pytest.mark.parametrize("future", [False, True])
@pytest.mark.parametrize("annotation", ["ClassVar", "ClassVar[int]", "'ClassVar[int]'"])
def test_a_class_variable_is_recognised_in_every_spelling(
    tmp_path: Path,
    annotation: str,
    future: bool,
) -> None:
    module = load(
        tmp_path,
        f"""
        class Counted(Flow):
            limit: {annotation} = 3
            _private: {annotation} = 4

            @step(start=True)
            def begin(self) -> Continuation[None]:
                return done(self.limit)
        """,
        future=future,
    )
    assert definition_of(module.Counted).model.fields == ()


# -- a flow and its run ----------------------------------------------------------------------------


def test_the_run_and_the_session_are_known_only_while_a_step_runs() -> None:
    trip = Trip(city="Rome")
    for name in ("run", "session"):
        with pytest.raises(
            FlowrouteError, match=r"Trip\.run is known only while a step runs: .*run_st"
        ):
            getattr(trip, name)


def test_an_inherited_step_runs_under_the_name_of_the_flow_it_runs_in(sqlite_url: str) -> None:
    class Base(Flow, abstract=True):
        @step(start=True)
        def begin(self) -> Continuation[list[str]]:
            return done([self.run.flow, self.run.step, type(self).__name__])

    class Derived(Base, name="derived flow"):
        pass

    with Engine(sqlite_url, executor="inline", secret_keys=KEYS) as engine:
        engine.create_all()
        run = engine.start(Derived().begin())
        assert run.flow == "derived flow"
        assert run.result == ["derived flow", "begin", "Derived"]
