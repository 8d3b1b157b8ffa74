"""Database rows in checkpoints: by identity at any depth, with the values of the day."""

from __future__ import annotations

import dataclasses
import functools
import io
import pickletools
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pydantic
import pytest
from sqlalchemy import Engine, ForeignKey, create_engine, event, func, inspect, select, update
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    attribute_keyed_dict,
    mapped_column,
    relationship,
)

from flowroute.engine import rows as rows_module
from flowroute.engine.codec import PYTHON_TAG, Codec
from flowroute.errors import CheckpointUnreadable, PayloadTooLarge, RowDeleted, UnstorableValue

CODEC = Codec(["a key"])


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "order"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str] = mapped_column(unique=True)
    note: Mapped[str | None]
    lines: Mapped[list[Line]] = relationship(back_populates="order", order_by="Line.position")
    by_sku: Mapped[dict[str, Line]] = relationship(
        collection_class=attribute_keyed_dict("sku"), viewonly=True
    )
    distinct: Mapped[set[Line]] = relationship(viewonly=True)

    def describe(self, greeting: str = "order") -> str:
        return f"{greeting} {self.number}"

    def __secret(self) -> str:
        return f"secret {self.number}"

    def secret(self) -> Callable[[], str]:
        return self.__secret

    @classmethod
    def kind(cls) -> str:
        return cls.__name__


class Line(Base):
    """Has a composite key."""

    __tablename__ = "line"
    order_id: Mapped[int] = mapped_column(ForeignKey("order.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    sku: Mapped[str]
    order: Mapped[Order] = relationship(back_populates="lines")


class Country(Base):
    """Has a string for a key."""

    __tablename__ = "country"
    code: Mapped[str] = mapped_column(primary_key=True)


class Voucher(Base):
    """Has a UUID for a key."""

    __tablename__ = "voucher"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)


class Person(Base):
    __tablename__ = "person"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    kind: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012


class Engineer(Person):
    """Joined-table inheritance."""

    __tablename__ = "engineer"
    id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
    language: Mapped[str]
    __mapper_args__ = {"polymorphic_identity": "engineer"}  # noqa: RUF012


class Manager(Person):
    """Single-table inheritance."""

    __mapper_args__ = {"polymorphic_identity": "manager"}  # noqa: RUF012


@dataclasses.dataclass(frozen=True)
class Parcel:
    order: Order


class Shipment(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    order: Order
    lines: list[Line]


@pytest.fixture
def database(database_url: str) -> Iterator[Engine]:
    engine = create_engine(database_url)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def session(database: Engine) -> Iterator[Session]:
    with Session(database) as session:
        session.add_all(
            [
                Order(
                    number="A1",
                    lines=[Line(position=1, sku="tea"), Line(position=2, sku="cups")],
                ),
                Country(code="GB"),
                Engineer(name="Ada", language="notes"),
                Manager(name="Grace"),
            ]
        )
        session.commit()
        yield session


def encode(value: Any, session: Session, codec: Codec = CODEC) -> bytes:
    return codec.encode(("pay", {}, {"value": value}), run_id="run", seq=1, session=lambda: session)


def decode(payload: bytes, session: Session) -> Any:
    value = CODEC.decode(payload, run_id="run", seq=1, python=PYTHON_TAG, session=lambda: session)
    return value[2]["value"]


@pytest.fixture
def elsewhere(database: Engine) -> Iterator[Session]:
    """The session of another process."""
    with Session(database) as session:
        yield session


@pytest.fixture
def empty() -> Iterator[Session]:
    """A session on a database without tables."""
    engine = create_engine("sqlite://")
    with Session(engine) as session:
        yield session
    engine.dispose()


def the_order(session: Session) -> Order:
    return session.scalars(select(Order)).one()


def selects(session: Session) -> list[str]:
    """The SELECTs that a session's engine is sent from here on."""
    seen: list[str] = []

    @event.listens_for(session.get_bind(), "before_cursor_execute")
    def note(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT"):
            seen.append(statement)

    return seen


# -- identity --------------------------------------------------------------------------------------


def test_a_row_comes_back_attached_to_the_session_with_current_values(
    session: Session, elsewhere: Session
) -> None:
    order = the_order(session)
    payload = encode(order, session)
    order.note = "changed since"
    session.commit()
    found = decode(payload, elsewhere)
    assert found in elsewhere
    assert (found.number, found.note) == ("A1", "changed since")


def test_a_row_that_the_session_has_is_that_object(session: Session) -> None:
    order = the_order(session)
    assert decode(encode(order, session), session) is order


def test_no_value_of_a_row_is_stored(session: Session) -> None:
    order = the_order(session)
    order.note = "a secret of the customer"
    session.commit()
    assert order.note
    assert b"a secret of the customer" not in encode([order, order.lines, order.describe], session)


def test_the_same_row_twice_is_one_object(session: Session, elsewhere: Session) -> None:
    order = the_order(session)
    first, second = decode(encode([order, {"again": (order,)}], session), elsewhere)
    assert first is second["again"][0]


def test_rows_of_every_kind_of_key_come_back(session: Session, elsewhere: Session) -> None:
    voucher = Voucher()
    session.add(voucher)
    session.commit()
    rows = [
        the_order(session),
        session.get_one(Line, (1, 2)),
        session.get_one(Country, "GB"),
        voucher,
    ]
    found = decode(encode(rows, session), elsewhere)
    assert [inspect(row).identity for row in found] == [(1,), (1, 2), ("GB",), (voucher.id,)]
    assert [type(row) for row in found] == [Order, Line, Country, Voucher]


def test_inheritance_comes_back_as_the_class_it_was(session: Session, elsewhere: Session) -> None:
    people = session.scalars(select(Person).order_by(Person.id)).all()
    ada, grace = decode(encode(people, session), elsewhere)
    assert (type(ada), ada.name, ada.language) == (Engineer, "Ada", "notes")
    assert (type(grace), grace.name) == (Manager, "Grace")


def test_rows_inside_anything_come_back(session: Session, elsewhere: Session) -> None:
    order = the_order(session)
    value = {
        "set": {order},
        "frozenset": frozenset({order}),
        "tuple": ((order,),),
        "dataclass": Parcel(order),
        "model": Shipment(order=order, lines=order.lines),
        "partial": functools.partial(Order.describe, order),
        "key": {order: 1},
        "closure": lambda: order,
    }
    found = decode(encode(value, session), elsewhere)
    again = the_order(elsewhere)
    assert found["set"] == {again}
    assert found["frozenset"] == {again}
    assert found["tuple"][0][0] is again
    assert found["dataclass"].order is again
    assert found["model"].order is again
    assert found["model"].lines == again.lines
    assert found["partial"]() == "order A1"
    assert found["key"] == {again: 1}
    assert found["closure"]() is again


@pytest.mark.parametrize("extra", [None, lambda: 1], ids=["c-pickle", "dill"])
def test_a_bound_method_of_a_row_is_the_row_and_a_name(
    session: Session, elsewhere: Session, extra: object
) -> None:
    order = the_order(session)
    payload = encode((order.describe, order.secret(), order.kind, extra), session)
    describe, secret, kind, _ = decode(payload, elsewhere)
    assert describe.__self__ is the_order(elsewhere)
    assert describe("parcel") == "parcel A1"
    assert secret() == "secret A1"
    assert kind() == "Order"
    assert bool(payload[1] & 1) is (extra is not None)


def test_collections_of_a_row_come_back_as_plain_ones(session: Session, elsewhere: Session) -> None:
    order = the_order(session)
    found = decode(encode([order.lines, order.by_sku, order.distinct], session), elsewhere)
    again = the_order(elsewhere)
    assert [type(each) for each in found] == [list, dict, set]
    assert found[0] == list(again.lines)
    assert found[1] == dict(again.by_sku)
    assert found[2] == set(again.lines)


def test_result_rows_of_a_query_come_back(session: Session, elsewhere: Session) -> None:
    row = session.execute(select(Order, Order.number)).one()
    found = decode(encode(tuple(row), session), elsewhere)
    assert found == (the_order(elsewhere), "A1")


def test_a_detached_row_still_has_its_identity(session: Session, elsewhere: Session) -> None:
    order = the_order(session)
    session.expunge(order)
    assert decode(encode(order, session), elsewhere) is the_order(elsewhere)


def test_a_row_of_another_session_is_the_row_of_this_one(
    session: Session, elsewhere: Session
) -> None:
    found = decode(encode(the_order(elsewhere), session), session)
    assert found is the_order(session)


# -- new rows --------------------------------------------------------------------------------------


def test_a_pending_row_is_flushed_and_then_has_a_key(session: Session, elsewhere: Session) -> None:
    order = Order(number="B2")
    session.add(order)
    payload = encode(order, session)
    assert inspect(order).persistent
    session.commit()
    assert decode(payload, elsewhere).number == "B2"


def test_a_row_of_no_session_is_added_and_flushed(session: Session, elsewhere: Session) -> None:
    payload = encode([the_order(session), Order(number="B2"), Country(code="FR")], session)
    session.commit()
    assert [inspect(row).identity for row in decode(payload, elsewhere)] == [(1,), (2,), ("FR",)]


def test_the_flush_is_part_of_the_transaction(session: Session, elsewhere: Session) -> None:
    payload = encode(Order(number="B2"), session)
    session.rollback()
    with pytest.raises(RowDeleted):
        decode(payload, elsewhere)


def test_a_key_that_changes_is_stored_as_it_will_be(session: Session, elsewhere: Session) -> None:
    country = session.get_one(Country, "GB")
    country.code = "UK"
    payload = encode(country, session)
    session.commit()
    assert decode(payload, elsewhere).code == "UK"


@pytest.mark.parametrize("extra", [None, lambda: 1], ids=["c-pickle", "dill"])
def test_what_the_flush_raises_is_raised_as_it_is(session: Session, extra: object) -> None:
    with pytest.raises(IntegrityError):
        encode([extra, Order(number="A1")], session)


@pytest.mark.parametrize("extra", [None, lambda: 1], ids=["c-pickle", "dill"])
def test_what_the_users_own_event_raises_is_raised_as_it_is(
    session: Session, extra: object
) -> None:
    flushes = []

    @event.listens_for(session, "before_flush")
    def refuse(*_: object) -> None:
        flushes.append(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        encode([extra, Order(number="B2")], session)
    assert flushes == [1]


def test_a_new_row_of_another_session_is_refused(session: Session, elsewhere: Session) -> None:
    order = Order(number="B2")
    elsewhere.add(order)
    with pytest.raises(UnstorableValue, match="Commit that session first") as caught:
        encode({"order": order}, session)
    assert caught.value.path == "arguments['value']['order']"


class MadeOnDeparture:
    """An object that holds no row, and names one when it is written."""

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, ([Country(code="NL")],)


def test_a_row_that_nothing_else_holds_is_kept_until_it_is_written(
    session: Session, elsewhere: Session
) -> None:
    payload = encode([MadeOnDeparture(), MadeOnDeparture.__name__, Country(code="BE")], session)
    session.commit()
    (dutch,), _, belgian = decode(payload, elsewhere)
    assert (dutch.code, belgian.code) == ("NL", "BE")


def test_the_list_of_rows_counts_towards_the_size(session: Session) -> None:
    orders = fifty_orders(session)
    size = len(encode(orders, session))
    assert len(encode(orders, session, Codec(["k"], max_bytes=size))) == size
    with pytest.raises(PayloadTooLarge, match=r"arguments\['value'\]"):
        encode(orders, session, Codec(["k"], max_bytes=size - 1))


def test_the_session_is_asked_for_once(session: Session) -> None:
    asked = []

    def source() -> Session:
        asked.append(1)
        return session

    lines = list(the_order(session).lines)
    CODEC.encode(("pay", {}, {"value": lines}), run_id="run", seq=1, session=source)
    assert asked == [1]


# -- deleted rows ----------------------------------------------------------------------------------


def delete_and_keep(order: Order, session: Session) -> None:
    for line in list(order.lines):
        session.delete(line)
    session.delete(order)


@pytest.mark.parametrize("when", ["marked", "flushed", "committed", "marked elsewhere"])
def test_a_deleted_row_is_refused_on_writing(
    session: Session, elsewhere: Session, when: str
) -> None:
    owner = elsewhere if when == "marked elsewhere" else session
    order = the_order(owner)
    delete_and_keep(order, owner)
    if when == "flushed":
        session.flush()
    if when == "committed":
        session.commit()
    with pytest.raises(UnstorableValue, match="a database row that is deleted") as caught:
        encode([order], session)
    assert caught.value.path == "arguments['value'][0]"


def test_a_row_deleted_since_is_a_clear_error_on_reading(
    session: Session, elsewhere: Session
) -> None:
    line = session.get_one(Line, (1, 2))
    payload = encode([the_order(session), line, line.order.describe], session)
    session.delete(line)
    session.commit()
    with pytest.raises(
        RowDeleted, match=r"the row Line \(1, 2\), which no longer exists"
    ) as caught:
        decode(payload, elsewhere)
    assert caught.value.run_id == "run"
    with pytest.raises(RowDeleted, match="Checkpoint 1 of run run"):
        decode(payload, session)


def test_a_row_of_another_kind_by_now_is_a_clear_error(
    session: Session, elsewhere: Session
) -> None:
    grace = session.scalars(select(Manager)).one()
    payload = encode(grace, session)
    session.execute(update(Person).values(kind="person"))
    session.commit()
    with pytest.raises(RowDeleted, match="Manager 2"):
        decode(payload, elsewhere)


# -- classes ---------------------------------------------------------------------------------------


def test_a_row_whose_class_can_not_be_imported_is_refused(session: Session) -> None:
    class LocalBase(DeclarativeBase):
        pass

    class Local(LocalBase):
        __tablename__ = "local"
        id: Mapped[int] = mapped_column(primary_key=True)

    with pytest.raises(UnstorableValue, match="top level of a module") as caught:
        encode({"a": [Local(id=1)]}, session)
    assert caught.value.path == "arguments['value']['a'][0]"


def test_a_class_that_is_gone_is_a_clear_error(
    session: Session, elsewhere: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = encode(the_order(session), session)
    monkeypatch.delattr(f"{__name__}.Order")
    with pytest.raises(CheckpointUnreadable, match="no longer has 'Order'"):
        decode(payload, elsewhere)


def test_a_class_that_is_no_longer_mapped_is_a_clear_error(
    session: Session, elsewhere: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = encode(the_order(session), session)
    monkeypatch.setattr(f"{__name__}.Order", type("Order", (), {}))
    with pytest.raises(CheckpointUnreadable, match="no longer mapped to a table"):
        decode(payload, elsewhere)


def test_a_class_with_another_primary_key_by_now_is_a_clear_error(
    session: Session, elsewhere: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = encode(the_order(session), session)
    monkeypatch.setattr(f"{__name__}.Order", Line)  # whose key has two columns
    with pytest.raises(CheckpointUnreadable, match="another primary key by now"):
        decode(payload, elsewhere)


# -- statements ------------------------------------------------------------------------------------


def fifty_orders(session: Session) -> list[Order]:
    orders = [Order(number=f"N{n}", lines=[Line(position=1, sku="s")]) for n in range(50)]
    session.add_all(orders)
    session.commit()
    return orders


@pytest.mark.parametrize("at_once", [200, 20])
def test_many_rows_are_fetched_together(
    session: Session, elsewhere: Session, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(rows_module, "ROWS_AT_ONCE", at_once)
    orders = fifty_orders(session)
    value = [[order, order.lines[0]] for order in orders] * 2
    payload = encode(value, session)
    seen = selects(elsewhere)
    found = decode(payload, elsewhere)
    assert [(order.number, line.order_id) for order, line in found] == [
        (order.number, order.id) for order in orders
    ] * 2
    assert len(seen) == (2 if at_once == 200 else 6)


def test_rows_that_the_session_has_are_not_fetched_again(
    session: Session, elsewhere: Session
) -> None:
    payload = encode(list(the_order(session).lines), session)
    held = [the_order(elsewhere), *the_order(elsewhere).lines]
    seen = selects(elsewhere)
    assert decode(payload, elsewhere) == held[1:]
    assert not seen
    elsewhere.expire_all()
    assert decode(payload, elsewhere) == held[1:]
    assert len(seen) == 1


def test_rows_are_found_again_even_if_nobody_else_holds_them(
    session: Session, elsewhere: Session
) -> None:
    payload = encode([order.describe for order in fifty_orders(session)], session)
    assert len({method() for method in decode(payload, elsewhere)}) == 50


def test_a_database_that_can_not_be_asked_is_no_fault_of_the_checkpoint(
    session: Session, empty: Session
) -> None:
    payload = encode(the_order(session), session)
    with pytest.raises(OperationalError, match="no such table"):
        decode(payload, empty)


class AsksOnArrival:
    """An object that reads the database while it is made anew."""

    session: Session | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        assert self.session is not None
        self.session.execute(select(func.count()).select_from(Order))


class AsksOnDeparture:
    """An object that reads the database while it is written."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def __getstate__(self) -> dict[str, Any]:
        return {"count": self.session.scalar(select(func.count()).select_from(Order))}


def test_an_object_that_meets_a_database_error_is_no_fault_of_the_checkpoint(
    session: Session, empty: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = AsksOnArrival()
    value.__dict__["x"] = 1
    payload = encode(value, session)
    monkeypatch.setattr(AsksOnArrival, "session", empty)
    with pytest.raises(OperationalError, match="no such table"):
        decode(payload, session)
    with pytest.raises(OperationalError, match="no such table"):
        encode([value, lambda: 1], session)  # what dill writes is read once
    for extra in (None, the_order(session), lambda: 1):
        with pytest.raises(OperationalError, match="no such table"):
            encode([extra, AsksOnDeparture(empty)], session)


def test_rows_stand_in_a_stream_as_persistent_ids(session: Session) -> None:
    payload = encode([the_order(session), lambda: 1], session)
    assert payload[1] == 3
    file = io.BytesIO(payload[34:])
    assert "BINPERSID" not in [op.name for op, _, _ in pickletools.genops(file)]
    assert "BINPERSID" in [op.name for op, _, _ in pickletools.genops(file)]
    assert not file.read()
