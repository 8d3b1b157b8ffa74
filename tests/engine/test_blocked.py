"""A bookmark that the deployed code can not use: the run waits for a deploy and loses nothing."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from flowroute import Continuation, Engine, Flow, done, step, worker_step
from flowroute.engine import codec, transition
from flowroute.engine import flow as flows
from flowroute.engine.clock import FakeClock
from flowroute.engine.turn import REQUEST
from flowroute.errors import CheckpointUnreadable
from tests.engine.conftest import MakeEngine
from tests.engine.support import KEYS, Note, Shelf, page, payload, set_column, set_payload


def original() -> type[Any]:
    """The flow as it was deployed when the run began."""

    class Import(Flow):
        size: int

        @step(start=True)
        def begin(self) -> Continuation[str]:
            return self.work("a file", 3)

        @worker_step
        def work(self, name: str, lines: int) -> Continuation[str]:
            return done(f"{name}: {lines} of {self.size} at attempt {self.run.attempt}")

    return Import


def renamed_class() -> None:
    """The class has another name now; nothing tells that it is the old one."""

    class NewImport(Flow):
        size: int

        @step(start=True)
        def begin(self) -> Continuation[str]:
            return done("")


def renamed_step() -> None:
    """The step has another name now."""

    class Import(Flow):
        size: int

        @step(start=True)
        def begin(self) -> Continuation[str]:
            return self.process("a file", 3)

        @worker_step
        def process(self, name: str, lines: int) -> Continuation[str]:
            return done(f"{name} {lines}")


def other_argument() -> None:
    """An argument is no number any more."""

    class Import(Flow):
        size: int

        @step(start=True)
        def begin(self) -> Continuation[str]:
            return self.work("a file", [3])

        @worker_step
        def work(self, name: str, lines: list[int]) -> Continuation[str]:
            return done(f"{name} {lines}")


def more_arguments() -> None:
    """The step needs something that the checkpoint does not have."""

    class Import(Flow):
        size: int

        @step(start=True)
        def begin(self) -> Continuation[str]:
            return self.work("a file", 3, encoding="utf-8")

        @worker_step
        def work(self, name: str, lines: int, *, encoding: str) -> Continuation[str]:
            return done(f"{name} {lines} {encoding}")


def other_state() -> None:
    """A field of the state is gone."""

    class Import(Flow):
        bytes_: int

        @step(start=True)
        def begin(self) -> Continuation[str]:
            return self.work("a file", 3)

        @worker_step
        def work(self, name: str, lines: int) -> Continuation[str]:
            return done(f"{name} {lines}")


DEPLOYS: list[tuple[Callable[[], None], str, str]] = [
    (renamed_class, "CheckpointUnreadable", "No flow called 'Import' is known to this process"),
    (renamed_step, "CheckpointUnreadable", "has no step called 'work' any more"),
    (other_argument, "ArgumentError", "Input should be a valid list"),
    (more_arguments, "ArgumentError", "Field required"),
    (other_state, "ArgumentError", "bytes_"),
]


def deploy(define: Callable[[], Any]) -> Any:
    """Replace the flow by another version of it, as a new process would know it."""
    flows._flows.pop("Import", None)  # noqa: SLF001
    return define()


@pytest.fixture
def shelf() -> Shelf:
    """The executor of `engine`."""
    return Shelf()


@pytest.fixture
def engine(make_engine: MakeEngine, shelf: Shelf, clock: FakeClock) -> Engine:
    """An engine whose hints wait and whose time stands still."""
    return make_engine(shelf, clock=clock)


@pytest.mark.parametrize(
    ("change", "kind", "reason"), DEPLOYS, ids=[change.__name__ for change, _, _ in DEPLOYS]
)
def test_code_that_no_longer_fits_blocks_the_run_until_a_deploy_heals_it(
    engine: Engine,
    shelf: Shelf,
    clock: FakeClock,
    *,
    change: Callable[[], None],
    kind: str,
    reason: str,
) -> None:
    run = engine.start(deploy(original)(size=9).begin())
    before = payload(engine, run, 1)
    deploy(change)
    assert shelf.work() == [False]
    assert (run.state, run.step, run.record.attempt) == ("blocked", "work", 0)
    assert run.at_rest
    assert run.error is not None
    assert (run.error.type, run.error.step) == (kind, "work")
    assert reason in run.error.message
    assert payload(engine, run, 1) == before
    # It is tried again now and then, and stays as it is.
    for _ in range(3):
        clock.advance(30)
        assert engine.recover().blocked == 1
        assert shelf.work() == [False]
    assert (run.state, run.record.attempt) == ("blocked", 0)
    # The next deploy brings back what fits.
    deploy(original)
    clock.advance(29)
    assert not engine.recover()
    clock.advance(1)
    assert engine.recover().blocked == 1
    assert shelf.work() == [True]
    assert run.result == "a file: 3 of 9 at attempt 1"
    assert run.error is None


def test_a_blocked_run_that_is_retried_goes_on_at_once(engine: Engine, shelf: Shelf) -> None:
    run = engine.start(deploy(original)(size=9).begin())
    deploy(renamed_step)
    shelf.work()
    deploy(original)
    run.retry()
    assert (run.state, run.error) == ("ready", None)
    assert shelf.work() == [True]
    assert run.result == "a file: 3 of 9 at attempt 1"


def test_attempts_of_before_are_kept_while_a_run_is_blocked(engine: Engine, shelf: Shelf) -> None:
    run = engine.start(deploy(original)(size=9).begin())
    set_column(engine, run, attempt=1)
    deploy(renamed_step)
    shelf.work()
    assert (run.state, run.record.attempt) == ("blocked", 1)
    deploy(original)
    run.resume()
    shelf.work()
    assert run.result == "a file: 3 of 9 at attempt 2"


def test_a_renamed_class_that_keeps_its_old_name_goes_on(engine: Engine, shelf: Shelf) -> None:
    run = engine.start(deploy(original)(size=9).begin())

    def define() -> None:
        class BetterImport(Flow, name="Import"):
            size: int

            @step(start=True)
            def begin(self) -> Continuation[str]:
                return self.work("", 0)

            @worker_step
            def work(self, name: str, lines: int) -> Continuation[str]:
                return done(f"better {name} {lines}")

    deploy(define)
    assert shelf.work() == [True]
    assert run.result == "better a file 3"


def test_a_value_that_is_missing_but_has_a_default_goes_on(engine: Engine, shelf: Shelf) -> None:
    run = engine.start(deploy(original)(size=9).begin())

    def define() -> None:
        class Import(Flow):
            size: int
            encoding: str = "utf-8"

            @step(start=True)
            def begin(self) -> Continuation[str]:
                return self.work("", 0)

            @worker_step
            def work(self, name: str, lines: int, *, end: str = "!") -> Continuation[str]:
                return done(f"{name} {lines} {self.encoding}{end}")

    deploy(define)
    shelf.work()
    assert run.result == "a file 3 utf-8!"


# -- bytes -----------------------------------------------------------------------------------------


def flipped(content: bytes) -> bytes:
    """The bytes with one bit changed."""
    return content[:-1] + bytes([content[-1] ^ 1])


def test_tampered_bytes_block_the_run_and_are_kept(engine: Engine, shelf: Shelf) -> None:
    run = engine.start(deploy(original)(size=9).begin())
    genuine = payload(engine, run, 1)
    set_payload(engine, run, flipped(genuine), 1)
    assert shelf.work() == [False]
    assert run.state == "blocked"
    assert run.error is not None
    assert run.error.type == "CheckpointTampered"
    assert payload(engine, run, 1) == flipped(genuine)
    set_payload(engine, run, genuine, 1)
    run.retry()
    shelf.work()
    assert run.result == "a file: 3 of 9 at attempt 1"


def authentic(engine: Engine, run: Any, seq: int, value: object) -> bytes:
    """Bytes that are signed for their place, whatever they hold."""
    head, stream = b"\x01\x00", pickle.dumps(value)
    place = codec.place_of(head, run.id, seq, codec.PYTHON_TAG)
    return head + engine.codec.mac(place, stream) + stream


@pytest.mark.parametrize("value", [None, ("work", {}), (["work"], {}, {}), ("work", 9, {})])
def test_bytes_that_hold_no_step_with_state_and_arguments_block_the_run(
    engine: Engine, shelf: Shelf, value: object
) -> None:
    run = engine.start(deploy(original)(size=9).begin())
    odd = authentic(engine, run, 1, value)
    set_payload(engine, run, odd, 1)
    assert shelf.work() == [False]
    assert (run.state, payload(engine, run, 1)) == ("blocked", odd)
    assert run.error is not None
    assert run.error.type == "CheckpointUnreadable"


@pytest.mark.parametrize("value", [None, ("", {}, {}), ("", {}, {"resolt": 1}), ("", {}, "result")])
def test_bytes_that_hold_no_result_are_told_when_it_is_asked_for(
    engine: Engine, shelf: Shelf, value: object
) -> None:
    run = engine.start(deploy(original)(size=9).begin())
    shelf.work()
    set_payload(engine, run, authentic(engine, run, 2, value), 2)
    with pytest.raises(CheckpointUnreadable, match=f"Checkpoint 2 of run {run.id}"):
        _ = run.result


def test_another_runs_bytes_block_the_run(engine: Engine, shelf: Shelf) -> None:
    flow = deploy(original)
    first, second = engine.start(flow(size=1).begin()), engine.start(flow(size=2).begin())
    set_payload(engine, first, payload(engine, second, 1), 1)
    shelf.work()
    assert (first.state, second.state) == ("blocked", "done")


def test_a_key_that_was_retired_blocks_and_its_return_heals(
    engine: Engine, make_engine: MakeEngine, shelf: Shelf, clock: FakeClock
) -> None:
    run = engine.start(deploy(original)(size=9).begin())
    other = make_engine(Shelf(), clock=clock, secret_keys=["another key, as long as the first one"])
    assert other.advance(run.id, 1) is False
    assert run.state == "blocked"
    rotated = make_engine(
        Shelf(), clock=clock, secret_keys=["another key, as long as the first one", *KEYS]
    )
    assert rotated.advance(run.id, 1) is True
    assert run.state == "done"
    assert rotated.get(run.id).result == "a file: 3 of 9 at attempt 1"
    assert shelf.work() == [False]


def test_a_row_that_was_deleted_blocks_the_run(engine: Engine, shelf: Shelf) -> None:
    class WithRow(Flow):
        @step(start=True)
        def begin(self) -> Continuation[str]:
            note = Note(id=1, text="here")
            self.session.add(note)
            return self.work(note)

        @worker_step
        def work(self, note: Note) -> Continuation[str]:
            return done(note.text)

    run = engine.start(WithRow().begin())
    with engine.database.engine.begin() as connection:
        connection.execute(sa.delete(Note))
    assert shelf.work() == [False]
    assert run.error is not None
    assert run.error.type == "RowDeleted"
    with engine.database.engine.begin() as connection:
        connection.execute(sa.insert(Note).values(id=1, text="here again"))
    run.retry()
    shelf.work()
    assert run.result == "here again"


def test_code_of_another_python_blocks_the_run_until_that_python_comes(
    engine: Engine, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WithCode(Flow):
        @worker_step(start=True)
        def work(self, function: Any) -> Continuation[int]:
            return done(function())

    def other_python(process: pytest.MonkeyPatch) -> None:
        process.setattr(codec, "PYTHON_TAG", "cp399")
        process.setattr(transition, "PYTHON_TAG", "cp399")

    with monkeypatch.context() as process:
        other_python(process)
        run = engine.start(WithCode().work(lambda: 42))
    shelf.work()
    assert run.state == "blocked"
    assert run.error is not None
    assert run.error.type == "ForeignPython"
    with monkeypatch.context() as process:
        other_python(process)
        run.retry()
        shelf.work()
        assert run.result == 42


# -- who finds it ----------------------------------------------------------------------------------


def test_a_request_that_finds_an_unusable_bookmark_blocks_the_run(engine: Engine) -> None:
    def define() -> Any:
        class Import(Flow):
            @page(start=True, to=("done",))
            def ask(self) -> Any:
                return "?"

        return Import

    run = engine.start(deploy(define)().ask())
    flows._flows.pop("Import")  # noqa: SLF001
    outcome = engine.visit(run.id, REQUEST)
    assert outcome.answered is False
    assert run.state == "blocked"
    deploy(define)
    assert engine.visit(run.id, REQUEST).answer == "?"


def test_a_blocked_run_at_a_page_waits_for_a_request_again(
    engine: Engine, shelf: Shelf, clock: FakeClock
) -> None:
    def define() -> Any:
        class Import(Flow):
            @page(start=True, to=("done",))
            def ask(self) -> Any:
                return "?"

        return Import

    run = engine.start(deploy(define)().ask())
    flows._flows.pop("Import")  # noqa: SLF001
    engine.visit(run.id, REQUEST)
    deploy(define)
    clock.advance(30)
    engine.recover()
    shelf.work()
    assert (run.state, run.waiting_for, run.error) == ("waiting", "page", None)


def test_a_blocked_run_can_be_cancelled(engine: Engine, shelf: Shelf) -> None:
    run = engine.start(deploy(original)(size=9).begin())
    deploy(renamed_class)
    shelf.work()
    assert run.state == "blocked"
    assert run.cancel().state == "cancelled"


def test_two_processes_that_find_it_block_it_once(
    engine: Engine, make_engine: MakeEngine, clock: FakeClock
) -> None:
    run = engine.start(deploy(original)(size=9).begin())
    other = make_engine(Shelf(), clock=clock)
    deploy(renamed_class)
    both = [threading.Thread(target=e.advance, args=(run.id, 1)) for e in (engine, other)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(10)
    assert run.state == "blocked"
    assert run.record.seq == 1
