"""Starting a run: one commit, one run for a key, nothing stored for what can not be started."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from flowroute import Continuation, Engine, Flow, done, step, worker_step
from flowroute.engine.schema import run_table
from flowroute.errors import ArgumentError, RunNotFound, TransitionError, UnstorableValue
from tests.engine.conftest import MakeEngine
from tests.engine.support import Note, Shelf, count, counting, notes, stored


class Order(Flow, version=3):
    """Waits for a worker right after its start."""

    customer_id: int

    @worker_step(start=True)
    def ship(self, items: list[str]) -> Continuation[int]:
        return self.receipt(len(items))

    @step
    def receipt(self, count: int) -> Continuation[int]:
        return done(count)


class OtherOrder(Flow):
    """Another flow, for keys."""

    @worker_step(start=True)
    def ship(self) -> Continuation[None]:
        return done()


class NoteOrder(Flow):
    """Starts with a row."""

    @worker_step(start=True)
    def ship(self, note: Note) -> Continuation[str]:
        return done(note.text)


@pytest.fixture
def engine(make_engine: MakeEngine) -> Engine:
    """An engine whose worker steps wait."""
    return make_engine(Shelf())


@pytest.fixture
def session(bind: sa.Engine) -> Iterator[scoped_session[Session]]:
    """An application's own session, as Flask-SQLAlchemy has it."""
    registry = scoped_session(sessionmaker(bind))
    yield registry
    registry.remove()


def test_a_start_stores_run_and_first_checkpoint_in_one_commit(engine: Engine) -> None:
    engine.check_tables()
    with counting(engine) as counted:
        run = engine.start(Order(customer_id=7).ship(["book"]))
    both = ["INSERT INTO flowroute_run", "INSERT INTO flowroute_checkpoint"]
    if engine.database.engine.dialect.name == "postgresql":
        both = ["WITH moved AS"]  # one statement for both tables
    assert counted.writes == both
    assert counted.commits == 1
    assert stored(engine) == (1, 1)
    assert (run.state, run.waiting_for, run.step) == ("waiting", "worker", "ship")


def test_what_the_applications_session_holds_is_committed_with_the_start(
    make_engine: MakeEngine, session: scoped_session[Session]
) -> None:
    engine = make_engine(shelf := Shelf(), database=session)
    engine.check_tables()
    session.add(note := Note(text="two books"))
    with counting(engine) as counted:
        run = engine.start(NoteOrder().ship(note))
    assert counted.commits == 1
    assert notes(engine) == ["two books"]
    assert shelf.work() == [True]
    assert run.result == "two books"


def test_a_start_that_can_not_be_stored_leaves_nothing_of_the_session_behind(
    make_engine: MakeEngine, session: scoped_session[Session]
) -> None:
    engine = make_engine(Shelf(), database=session)
    session.add(Note(id=1, text="first"))
    session.commit()
    session.execute(sa.insert(Note), {"id": 2, "text": "never stored"})
    session.add(Note(id=1, text="a second row with this key"))
    with pytest.raises(IntegrityError):
        engine.start(Order(customer_id=7).ship(["book"]))
    assert notes(engine) == ["first"]
    assert stored(engine) == (0, 0)


def test_a_run_records_flow_version_key_and_owner(engine: Engine) -> None:
    run = engine.start(Order(customer_id=7).ship([]), key="cart-1", owner="ann")
    record = run.record
    assert (record.flow, record.flow_version, record.key, record.owner) == (
        "Order",
        3,
        "cart-1",
        "ann",
    )
    assert run.flow == "Order"
    assert run.key == "cart-1"


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: Order(customer_id=7).ship("book"),  # type: ignore[arg-type]
        lambda: Order(customer_id=7).ship([], []),  # type: ignore[call-arg]
        lambda: Order(customer_id="seven").ship([]),  # type: ignore[arg-type]
        lambda: Order().ship([]),  # type: ignore[call-arg]
    ],
    ids=["argument", "surplus", "state", "missing state"],
)
def test_a_wrong_argument_is_refused_where_the_continuation_is_made(
    engine: Engine, make: Callable[[], Continuation[int]]
) -> None:
    with pytest.raises(ArgumentError, match=r"test_start\.py:\d+"):
        engine.start(make())
    assert stored(engine) == (0, 0)


def test_state_changed_to_something_wrong_is_refused_at_the_next_continuation() -> None:
    class Basket(Flow):
        items: list[int]

        @step(start=True)
        def add(self) -> Continuation[None]:
            return done()

    basket = Basket(items=[1])
    basket.items.append("two")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"items\.1"):
        basket.add()


@pytest.mark.parametrize("key", [None, "key"])
def test_only_a_start_step_starts_a_run(engine: Engine, key: str | None) -> None:
    with pytest.raises(TransitionError, match=r"Order\.receipt is no start step: start with ship"):
        engine.start(Order(customer_id=7).receipt(1), key=key)
    with pytest.raises(TransitionError, match="ends a run"):
        engine.start(done(1), key=key)
    with pytest.raises(TransitionError, match="takes a continuation, not 'Order'"):
        engine.start("Order", key=key)  # type: ignore[arg-type]
    assert stored(engine) == (0, 0)


def test_an_argument_that_no_checkpoint_can_carry_stores_nothing(engine: Engine) -> None:
    class Locked(Flow):
        @step(start=True)
        def begin(self, lock: object) -> Continuation[object]:
            return done(lock)

    with pytest.raises(UnstorableValue) as refusal:
        engine.start(Locked().begin(threading.Lock()), key="k")
    assert refusal.value.path == "arguments['lock']"
    assert stored(engine) == (0, 0)


@pytest.mark.parametrize("text", ["k" * 201, "nul\x00", "", 7])
def test_a_key_that_the_table_can_not_hold_is_refused(engine: Engine, text: Any) -> None:
    with pytest.raises(ArgumentError, match=r"start\(key="):
        engine.start(Order(customer_id=7).ship([]), key=text)
    assert stored(engine) == (0, 0)


def test_an_owner_that_the_table_can_not_hold_is_refused(engine: Engine) -> None:
    with pytest.raises(ArgumentError, match=r"start\(owner="):
        engine.start(Order(customer_id=7).ship([]), owner="o" * 201)
    assert engine.start(Order(customer_id=7).ship([]), owner="").record.owner == ""


# -- keys ------------------------------------------------------------------------------------------


def test_a_key_that_is_held_returns_its_run_and_starts_nothing(engine: Engine) -> None:
    first = engine.start(Order(customer_id=7).ship([]), key="cart-1")
    again = engine.start(Order(customer_id=8).ship(["other"]), key="cart-1")
    assert again.id == first.id
    assert stored(engine) == (1, 1)
    found = engine.find(Order, "cart-1")
    assert found is not None
    assert found.id == first.id


def test_keys_of_different_flows_are_independent(engine: Engine) -> None:
    first = engine.start(Order(customer_id=7).ship([]), key="cart-1")
    other = engine.start(OtherOrder().ship(), key="cart-1")
    assert other.id != first.id
    assert engine.find(OtherOrder, "cart-2") is None


def test_runs_without_a_key_are_independent(engine: Engine) -> None:
    runs = {engine.start(Order(customer_id=7).ship([])).id for _ in range(3)}
    assert len(runs) == 3


def test_a_finished_run_holds_its_key(make_engine: MakeEngine) -> None:
    engine = make_engine("inline")
    first = engine.start(Order(customer_id=7).ship([]), key="cart-1")
    assert first.state == "done"
    assert engine.start(Order(customer_id=7).ship([]), key="cart-1").id == first.id


def test_reset_lets_go_of_the_key_and_cancels_what_is_unfinished(engine: Engine) -> None:
    first = engine.start(Order(customer_id=7).ship([]), key="cart-1")
    assert first.reset() is first
    assert (first.state, first.key) == ("cancelled", None)
    assert engine.find(Order, "cart-1") is None
    second = engine.start(Order(customer_id=7).ship([]), key="cart-1")
    assert second.id != first.id
    assert second.state == "waiting"


def test_reset_keeps_the_result_of_a_finished_run(make_engine: MakeEngine) -> None:
    engine = make_engine("inline")
    first = engine.start(Order(customer_id=7).ship(["book"]), key="cart-1")
    first.reset().reset()
    assert (first.state, first.key, first.result) == ("done", None, 1)


def test_fifty_simultaneous_starts_with_one_key_are_one_run(make_engine: MakeEngine) -> None:
    shelf = Shelf()
    engine = make_engine(shelf)
    engine.check_tables()
    started = together(50, lambda _: engine.start(Order(customer_id=7).ship(["book"]), key="k").id)
    assert len(set(started)) == 1
    assert stored(engine) == (1, 1)
    assert [hint.run_id for hint in shelf.hints] == [started[0]]


def test_losing_the_race_for_a_key_commits_nothing_of_the_losers_session(
    make_engine: MakeEngine, session: scoped_session[Session]
) -> None:
    engine = make_engine(Shelf(), database=session)
    engine.check_tables()

    def start(number: int) -> str:
        session.add(note := Note(text=f"order of {number}"))
        run = engine.start(NoteOrder().ship(note), key="k")
        session.remove()
        return run.id

    started = together(8, start)
    assert len(set(started)) == 1
    assert count(engine, run_table) == 1
    assert len(notes(engine)) == 1


def test_a_key_that_is_let_go_of_during_the_race_asks_for_another_try(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = engine.start(Order(customer_id=7).ship([]), key="k")
    # The look before the start came too early, and before the look after it the key is let go of.
    monkeypatch.setattr(engine.lookup, "holder", lambda *_: None)
    monkeypatch.setattr(engine.dispatcher._store, "find", lambda *_: None)  # noqa: SLF001
    with pytest.raises(RunNotFound, match="start again"):
        engine.start(Order(customer_id=7).ship([]), key="k")
    assert [run.id for run in engine.runs()] == [first.id]


def together(number: int, act: Callable[[int], str]) -> list[str]:
    """Call a function in so many threads at the same moment; returns what the calls returned."""
    barrier = threading.Barrier(number)
    returned: list[str] = []
    raised: list[BaseException] = []

    def body(index: int) -> None:
        barrier.wait(10)
        try:
            returned.append(act(index))
        except BaseException as error:  # noqa: BLE001  # shown by the assertion below
            raised.append(error)

    threads = [threading.Thread(target=body, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not raised
    assert len(returned) == number
    return returned
