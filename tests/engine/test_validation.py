"""What a step's arguments must look like: bound as in Python, validated where the call is."""

# ruff: noqa: ARG002  # what steps take is the point here, not what they do with it
# ruff: noqa: FBT001  # pytest gives parameters by name

from __future__ import annotations

import inspect
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column

from flowroute import Continuation, Flow, done, step
from flowroute.engine.validation import call_site
from flowroute.errors import ArgumentError, DefinitionError
from tests.engine.sources import line_of, load
from tests.engine.support import Note


class Base(MappedAsDataclass, DeclarativeBase):
    """Rows that are dataclasses, too."""


class Label(Base):
    __tablename__ = "label_of_validation"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


@dataclass
class Item:
    name: str
    price: Decimal


class Address(BaseModel):
    street: str


class Opaque:
    """A class that pydantic knows nothing of."""


class Order(Flow, name="engine.validation.Order"):
    @step(start=True)
    def place(
        self,
        item: str,
        /,
        count: int,
        note: str = "none",
        *,
        gift: bool,
        tags: tuple[str, ...] = (),
    ) -> Continuation[str]:
        return done(f"{count} {item} {note} {gift} {tags}")

    @step(start=True)
    def single(self, item: str) -> Continuation[str]:
        return done(item)

    @step(start=True)
    def empty(self) -> Continuation[None]:
        return done()

    @step(start=True)
    def rich(
        self,
        items: list[Item],
        address: Address,
        day: date,
        size: Literal["S", "L"],
        percent: Annotated[int, Field(ge=0, le=100)],
    ) -> Continuation[None]:
        return done()

    @step(start=True)
    def row(self, note: Note, label: Label | None = None) -> Continuation[None]:
        return done()

    @step(start=True)
    def opaque(self, what: Opaque) -> Continuation[None]:
        return done()

    @step(start=True)
    def untyped(self, a, b=3):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        return done((a, b))

    @step(start=True)
    def alias(self, name: Annotated[str, Field(alias="theName")]) -> Continuation[str]:
        return done(name)


# -- binding, as Python does -----------------------------------------------------------------------


def test_arguments_are_bound_by_position_by_name_and_by_default() -> None:
    assert Order().place("book", 2, gift=True).arguments == {
        "item": "book",
        "count": 2,
        "note": "none",
        "gift": True,
        "tags": (),
    }
    assert Order().place("book", gift=False, count=1, tags=("a",)).arguments == {
        "item": "book",
        "count": 1,
        "note": "none",
        "gift": False,
        "tags": ("a",),
    }
    assert Order().place("book", 1, "for you", gift=False).arguments["note"] == "for you"
    assert Order().empty().arguments == {}


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (
            ("a", 1, "n", True),
            {},
            r"Order\.place takes 3 positional arguments, but 4 were given at ",
        ),
        (("a", 1), {"count": 2, "gift": True}, r"Order\.place got two values for 'count' at "),
        ((), {"item": "a", "count": 1, "gift": True}, r"place takes 'item' by position only at "),
        (("a",), {"gift": True}, r"count\n  Field required"),
        (("a", 1), {}, r"gift\n  Field required"),
        ((), {"count": 1, "gift": True}, r"item\n  Field required"),
        (("a", 1), {"gift": True, "colour": "red"}, r"colour\n  Extra inputs are not permitted"),
    ],
)
def test_a_call_that_does_not_fit_the_signature_is_refused(
    args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        Order().place(*args, **kwargs)


def test_one_argument_is_counted_in_the_singular() -> None:
    with pytest.raises(ArgumentError, match="takes 1 positional argument, but 2 were given"):
        Order().single("a", "b")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    with pytest.raises(ArgumentError, match="takes 0 positional arguments, but 1 were given"):
        Order().empty(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    ("args", "kwargs"), [(("book", 2), {"gift": True}), (("book",), {"count": 2, "gift": True})]
)
def test_the_function_is_called_with_what_was_bound(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    flow = Order()
    arguments = flow.place(*args, **kwargs).arguments
    end = Order.place.signature.call(Order.place.function, flow, arguments)
    assert end.arguments["result"] == "2 book none True ()"
    end = Order.single.signature.call(Order.single.function, flow, {"item": "a"})
    assert end.arguments["result"] == "a"


# -- validation ------------------------------------------------------------------------------------


def test_arguments_are_what_pydantic_made_of_them() -> None:
    items: Any = [{"name": "book", "price": "9.99"}]
    address: Any = {"street": "High Street"}
    day: Any = "2026-11-23"
    assert Order().rich(items, address, day, "S", 50).arguments == {
        "items": [Item("book", Decimal("9.99"))],
        "address": Address(street="High Street"),
        "day": date(2026, 11, 23),
        "size": "S",
        "percent": 50,
    }


def test_the_message_names_the_step_the_line_of_the_call_and_what_pydantic_said() -> None:
    frame = inspect.currentframe()
    assert frame is not None
    many: Any = "many"
    with pytest.raises(ArgumentError) as caught:
        Order().place("book", many, gift=True)
    here = f"{__file__}:{frame.f_lineno - 1}"
    first, _, rest = str(caught.value).partition("\n")
    assert first == f"Order.place was given arguments that do not fit at {here}."
    assert "count\n  Input should be a valid integer" in rest
    assert "input_value='many'" in rest
    assert isinstance(caught.value.__cause__, ValidationError)


def test_an_argument_error_is_a_type_error_and_a_value_error() -> None:
    with pytest.raises(TypeError):
        Order().rich([], 3, date.max, "S", 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="less than or equal to 100"):
        Order().rich([], Address(street=""), date.max, "S", 101)


def test_every_argument_that_does_not_fit_is_reported_at_once() -> None:
    arguments: Any = [[{}], {}, "S", "M", 1]
    with pytest.raises(ArgumentError, match="5 validation errors") as caught:
        Order().rich(*arguments)
    assert "items.0.name" in str(caught.value)


def test_arguments_read_from_a_checkpoint_are_validated_without_naming_a_line() -> None:
    signature = Order.place.signature
    assert signature.validate({"item": "a", "count": "2", "gift": 0})["count"] == 2
    with pytest.raises(ArgumentError) as caught:
        signature.validate({"item": "a", "gift": True})
    first = str(caught.value).splitlines()[0]
    assert first == "Order.place was given arguments that do not fit."


def test_a_default_is_not_shared_between_calls() -> None:
    class Collect(Flow):
        @step(start=True)
        def begin(self, found: list[str] = []) -> Continuation[None]:  # noqa: B006
            return done()

    Collect().begin().arguments["found"].append("x")
    assert Collect().begin().arguments == {"found": []}


def test_what_has_no_type_is_taken_as_it_is() -> None:
    marker = object()
    assert Order().untyped(marker).arguments == {"a": marker, "b": 3}


def test_an_alias_is_a_second_name_and_a_checkpoint_keeps_the_first() -> None:
    arguments = Order().alias("Ada").arguments
    assert arguments == {"name": "Ada"}
    assert Order.alias.signature.validate(arguments) == {"name": "Ada"}
    assert Order().alias(theName="Ada").arguments == {"name": "Ada"}  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


# -- types that pydantic does not know -------------------------------------------------------------


def test_a_row_is_checked_by_its_class_and_stays_the_same_object() -> None:
    note, label = Note(text="a"), Label(id=1, text="b")
    arguments = Order().row(note, label).arguments
    assert arguments["note"] is note
    assert arguments["label"] is label
    with pytest.raises(ArgumentError, match="note\n  Input should be an instance of Note"):
        Order().row(label)  # pyright: ignore[reportArgumentType]


def test_an_object_of_any_class_is_checked_by_its_class() -> None:
    what = Opaque()
    assert Order().opaque(what).arguments["what"] is what
    with pytest.raises(ArgumentError, match="instance of Opaque"):
        Order().opaque("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# -- types that can not be used --------------------------------------------------------------------


def test_a_type_that_pydantic_can_not_handle_is_found_at_the_definition(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError) as caught:
        load(
            tmp_path,
            """
            class Odd(Flow):
                @step(start=True)
                def go(self, fine: int, number: 3) -> Continuation[None]:
                    return self.stop(4)

                @step
                def stop(self, number: "lisst[int]", other: "1 +") -> Continuation[None]:
                    return done()
            """,
        )
    go, stop, stop_too = caught.value.problems
    filename = go.partition(":")[0]
    assert go.startswith(
        f"{filename}:{line_of('@step(start', filename)}: in the step 'go', 'number' "
    )
    assert stop.startswith(f"{filename}:{line_of('    @step', filename) + 4}: in the step 'stop', ")
    assert "'number' is annotated with 'lisst', which is not defined when the class is" in stop
    assert "'other' has an annotation that is not a type: SyntaxError: " in stop_too
    assert "3 problems" in str(caught.value)


@pytest.mark.parametrize(
    ("annotation", "problem"),
    [
        ("any", "<built-in function any> is not a Python type"),
        ("Annotated[str, Field(pattern='(')]", "SchemaError: regex parse error: ( ^ error: unclo"),
        ("Broken", "boom"),
        ("Early", "name 'Late' is not defined"),
        ("Literal", "Plain typing.Literal is not valid as type argument"),
    ],
)
@pytest.mark.parametrize("where", ["parameter", "state"])
@pytest.mark.filterwarnings("default")  # what pydantic only warns of is refused all the same
def test_pydantic_says_why_a_type_can_not_be_handled(
    tmp_path: Path, annotation: str, problem: str, where: str
) -> None:
    with pytest.raises(DefinitionError) as caught:
        load(
            tmp_path,
            f"""
            from typing import Annotated, Literal
            from pydantic import BaseModel, Field

            class Broken:
                @classmethod
                def __get_pydantic_core_schema__(cls, *args):
                    raise RuntimeError("boom")

            class Early(BaseModel):
                late: "Late"

            class Odd(Flow):
                {f"wrong: {annotation}" if where == "state" else ""}

                @step(start=True)
                def go(self, {f"wrong: {annotation}" if where != "state" else ""}):
                    return done()
            """,
        )
    assert len(caught.value.problems) == 1
    assert problem in caught.value.problems[0]
    assert "'wrong' " in caught.value.problems[0]


@pytest.mark.parametrize("kind", ["*rest", "**rest", "*rest: int"])
def test_each_parameter_is_named(tmp_path: Path, kind: str) -> None:
    stars = kind.partition("rest")[0]
    with pytest.raises(DefinitionError) as caught:
        load(
            tmp_path,
            f"""
            class Odd(Flow):
                @step(start=True)
                def go(self, {kind}) -> Continuation[None]:
                    return done()
            """,
        )
    assert f"the step 'go' takes {stars}rest: name each parameter" in caught.value.problems[0]


@pytest.mark.parametrize("future", [False, True])
def test_an_annotation_may_name_what_is_defined_below_the_class_only_as_a_later_class(
    tmp_path: Path,
    future: bool,
) -> None:
    with pytest.raises(DefinitionError, match="'item' is annotated with 'Item', which is not defi"):
        load(
            tmp_path,
            """
            class Odd(Flow):
                @step(start=True)
                def go(self, item: "Item") -> Continuation[None]:
                    return done()

            class Item:
                pass
            """,
            future=future,
        )


@pytest.mark.parametrize("future", [False, True])
def test_a_name_imported_for_type_checkers_only_is_refused_with_a_way_out(
    tmp_path: Path,
    future: bool,
) -> None:
    with pytest.raises(DefinitionError) as caught:
        load(
            tmp_path,
            """
            if TYPE_CHECKING:
                from decimal import Decimal

            class Odd(Flow):
                total: "Decimal"

                @step(start=True)
                def go(self, price: "list[Decimal]") -> Continuation[None]:
                    return done()
            """,
            future=future,
        )
    state, argument = caught.value.problems
    filename = state.partition(":")[0]
    assert state.startswith(
        f"{filename}:{line_of('total:', filename)}: in the state of Odd, 'total'"
    )
    assert "import it outside `if TYPE_CHECKING`" in state
    assert argument.startswith(
        f"{filename}:{line_of('@step', filename)}: in the step 'go', 'price'"
    )


def test_an_annotation_that_raises_is_no_type(tmp_path: Path) -> None:
    with pytest.raises(
        DefinitionError, match=r"'a' has an annotation that is not a type: Attribut"
    ):
        load(
            tmp_path,
            """
            import decimal

            class Odd(Flow):
                @step(start=True)
                def go(self, a: decimal.Decimall) -> Continuation[None]:
                    return done()
            """,
            future=True,
        )


# -- where annotations are looked up ---------------------------------------------------------------


@pytest.mark.parametrize("future", [False, True])
def test_types_may_be_local_to_the_function_around_the_flow(
    tmp_path: Path,
    future: bool,
) -> None:
    module = load(
        tmp_path,
        """
        from pydantic import BaseModel

        def make():
            class Item(BaseModel):
                name: str

            class Local(Flow):
                first: Item
                others: list[Item] = []

                @step(start=True)
                def go(self, item: Item, again: "Optional[Local]" = None) -> Continuation[None]:
                    return done()

            return Local, Item
        """,
        future=future,
    )
    local, item = module.make()
    flow = local(first={"name": "a"})
    assert flow.first == item(name="a")
    assert flow.go({"name": "b"}).arguments["item"] == item(name="b")
    assert flow.go({"name": "b"}, flow).arguments["again"] is flow
    with pytest.raises(ArgumentError):
        flow.go({"name": 3})


@pytest.mark.parametrize("future", [False, True])
def test_types_may_be_nested_in_the_flow(
    tmp_path: Path,
    future: bool,
) -> None:
    module = load(
        tmp_path,
        """
        from pydantic import BaseModel

        class Outer(Flow):
            class Item(BaseModel):
                name: str

            first: Item

            @step(start=True)
            def go(self, item: Item) -> Continuation[None]:
                return done()
        """,
        future=future,
    )
    flow = module.Outer(first={"name": "a"})
    assert flow.go({"name": "b"}).arguments["item"] == module.Outer.Item(name="b")


def test_an_inherited_annotation_means_what_it_meant_where_it_was_written(tmp_path: Path) -> None:
    base = load(
        tmp_path,
        """
        class Item:
            pass

        class Mixin:
            @step
            def end(self, item: Item) -> Continuation[None]:
                return done()

        class Base(Flow, Mixin, abstract=True):
            first: Item

            @step(start=True)
            def go(self, item: Item) -> Continuation[None]:
                return self.end(item)
        """,
        future=True,
    )
    other = load(
        tmp_path,
        f"""
        from {base.__name__} import Base

        class Item:
            pass

        class Other(Base):
            second: Item

        def make():
            class Item:
                pass

            class Third(Base):
                second: Item

            return Third, Item
        """,
        future=True,
    )
    flow = other.Other(first=base.Item(), second=other.Item())
    assert flow.go(base.Item()).step is base.Base.go
    assert flow.end(base.Item()).step.name == "end"
    for call in (flow.go, flow.end):
        with pytest.raises(ArgumentError, match="should be an instance of Item"):
            call(other.Item())
    third, local_item = other.make()
    third(first=base.Item(), second=local_item())
    with pytest.raises(ArgumentError):
        third(first=local_item(), second=local_item())


def test_an_annotation_inherited_from_another_function_means_what_it_meant_there() -> None:
    def make_base(name: str, *, abstract: bool) -> Any:
        class Item:
            pass

        class Base(Flow, name=name, abstract=abstract):
            first: Item

            @step(start=True)
            def go(self, item: Item) -> Continuation[None]:
                return done()

        return Base, Item

    def derive(base: Any, name: str) -> Any:
        class Item:
            pass

        class Derived(base, name=name):  # type: ignore[misc,call-arg]
            second: Item | None = None

        return Derived, Item

    for abstract in (False, True):
        base, first = make_base(f"base {abstract}", abstract=abstract)
        derived, second = derive(base, f"derived {abstract}")
        flow = derived(first=first(), second=second())
        assert flow.go(first()).flow is flow
        with pytest.raises(ArgumentError, match=r"should be an instance of .*make_base"):
            flow.go(second())
        with pytest.raises(ArgumentError, match=r"should be an instance of .*make_base"):
            derived(first=second())


def test_an_abstract_flow_may_name_what_is_defined_before_a_flow_derives_from_it(
    tmp_path: Path,
) -> None:
    module = load(
        tmp_path,
        """
        class Base(Flow, abstract=True):
            first: "Item"

            @step(start=True)
            def go(self, item: "Item") -> Continuation[None]:
                return done()

        class Item:
            pass

        class Whole(Base):
            pass
        """,
    )
    item = module.Item()
    assert module.Whole(first=item).go(item).arguments == {"item": item}


def test_a_call_from_outside_every_frame_has_no_place() -> None:
    # Every frame of the test lies outside the engine, so the nearest one is this line.
    assert call_site().startswith(f" at {__file__}:")
