"""The ticket in a job, and the one function that a job calls."""

from __future__ import annotations

import logging
import re
import signal
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rq.timeouts import UnixSignalDeathPenalty

from flowroute.engine.codec import Codec
from flowroute.engine.identity import new_run_id
from flowroute.errors import ConfigurationError, TokenInvalid
from flowroute.rq import job
from flowroute.rq.job import PURPOSE, Ticket, advance
from tests.rq.application import SECRET, Greeting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowroute import Engine

Asked: TypeAlias = tuple[str, int, float | None]

CODEC = Codec([SECRET])
RUN = new_run_id()


def signed(text: str, purpose: str = PURPOSE) -> str:
    """A text as a job's id, signed with the right key."""
    return CODEC.sign(text, purpose=purpose).replace(".", "-")


@pytest.fixture
def served(engine: Engine) -> Iterator[Engine]:
    """An engine that is this process's, as in a worker."""
    job.serve(engine)
    yield engine
    job._engine = None  # noqa: SLF001 - there is no way back in a worker


@pytest.fixture
def advanced(served: Engine, monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """What the engine was asked to advance."""
    asked: list[Asked] = []

    def note(run_id: str, seq: int, timeout_seconds: float | None) -> bool:
        asked.append((run_id, seq, timeout_seconds))
        return False

    monkeypatch.setattr(served, "advance", note)
    return asked


# -- tickets ---------------------------------------------------------------------------------------


@given(
    st.builds(
        Ticket,
        st.just(RUN),
        st.integers(0, 10**18 - 1),
        st.integers(0, 32767),
        st.none() | st.integers(1, 10**15).map(lambda milliseconds: milliseconds / 1000),
    )
)
def test_a_ticket_survives_its_job_id(ticket: Ticket) -> None:
    job_id = ticket.sign(CODEC)

    assert Ticket.read(job_id, CODEC) == ticket
    assert re.fullmatch("[A-Za-z0-9_-]+", job_id)  # what RQ takes for an id
    assert Ticket.parse(ticket.text) == ticket


@given(st.integers(1, 10**9))
def test_a_timeout_of_whole_milliseconds_comes_back_as_it_was(milliseconds: int) -> None:
    seconds = timedelta(milliseconds=milliseconds).total_seconds()

    assert Ticket.parse(Ticket(RUN, 3, 0, seconds).text).timeout_seconds == seconds


def test_a_timeout_between_two_milliseconds_is_the_longer_one() -> None:
    assert Ticket.parse(Ticket(RUN, 3, 0, 0.0004).text).timeout_seconds == 0.001
    assert Ticket.parse(Ticket(RUN, 3, 0, 2.5001).text).timeout_seconds == 2.501


@given(st.one_of(st.text(), st.none(), st.integers(), st.binary(), st.lists(st.text())))
def test_what_is_no_token_is_refused(token: object) -> None:
    with pytest.raises(TokenInvalid):
        Ticket.read(token, CODEC)


@given(st.data())
def test_a_token_with_one_character_changed_is_refused(data: st.DataObject) -> None:
    token = Ticket(RUN, 3).sign(CODEC)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda each: each != token[at]))

    with pytest.raises(TokenInvalid):
        Ticket.read(token[:at] + other + token[at + 1 :], CODEC)


@pytest.mark.parametrize(
    "token",
    [
        Ticket(RUN, 3).sign(Codec(["another secret"])),
        signed(Ticket(RUN, 3).text, purpose="run url"),
        signed(f"{Ticket(RUN, 3).text}-4"),
        signed(f"flowroute-{RUN}--1-0-0"),
        signed(f"flowroute-{RUN}-3-0"),
        signed(f"flowroute-{RUN}-3-0-"),
        signed(f"flowroute-{RUN}-" + "9" * 19 + "-0-0"),
        signed(f"flowroute-{RUN}-" + "9" * 4400 + "-0-0"),
        signed(f"flowroute-{RUN.replace('-', 'a')}-3-0-0"),
        signed("flowroute-run-7-3-0-0"),
        signed(""),
    ],
)
def test_a_token_of_another_key_purpose_or_form_is_refused(token: str) -> None:
    with pytest.raises(TokenInvalid):
        Ticket.read(token, CODEC)


def test_a_token_of_an_older_key_is_good_until_the_key_is_retired() -> None:
    token = Ticket(RUN, 3).sign(Codec(["older"]))

    assert Ticket.read(token, Codec(["newest", "older"])) == Ticket(RUN, 3)
    with pytest.raises(TokenInvalid):
        Ticket.read(token, Codec(["newest"]))


# -- the function ----------------------------------------------------------------------------------


def test_a_genuine_token_advances_the_run(advanced: list[Asked]) -> None:
    advance(Ticket(RUN, 3, 1, 2.5).sign(CODEC))

    assert advanced == [(RUN, 3, 2.5)]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), {}),
        (("forged",), {}),
        ((Ticket(RUN, 3).sign(Codec(["another secret"])),), {}),
        ((Ticket(RUN, 3).text,), {}),
        ((Ticket(RUN, 3).sign(CODEC), 1), {}),
        ((Ticket(RUN, 3).sign(CODEC),), {"shell": True}),
        ((None,), {}),
    ],
)
def test_a_forged_call_is_logged_and_ends_without_effect_or_error(
    advanced: list[Asked],
    caplog: pytest.LogCaptureFixture,
    arguments: tuple[object, ...],
    named: dict[str, object],
) -> None:
    with caplog.at_level(logging.ERROR, "flowroute.rq"):
        advance(*arguments, **named)

    assert advanced == []
    assert "Refused RQ job" in caplog.text
    assert "Traceback" not in caplog.text


def test_a_hint_that_came_twice_or_late_is_a_quiet_no_op(
    served: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    run = served.start(Greeting(name="ada").begin())
    token = Ticket(run.id, 1).sign(CODEC)
    advance(token)
    assert run.state == "done"
    checkpoints = run.checkpoints

    with caplog.at_level(logging.INFO):
        advance(token)  # twice
        advance(Ticket(run.id, 0).sign(CODEC))  # late
        advance(Ticket(RUN, 3).sign(CODEC))  # of a run that was deleted

    assert run.checkpoints == checkpoints
    assert caplog.records == []


def test_what_the_engine_can_not_do_is_raised(
    served: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(run_id: str, seq: int, _timeout_seconds: float | None) -> bool:
        raise ConnectionError(run_id, seq)

    monkeypatch.setattr(served, "advance", broken)

    with pytest.raises(ConnectionError):
        advance(Ticket(RUN, 3).sign(CODEC))


# -- the engine of the process ---------------------------------------------------------------------


def test_a_process_without_an_engine_says_how_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOWROUTE_ENGINE", raising=False)

    with pytest.raises(ConfigurationError, match=r"FLOWROUTE_ENGINE=module:attribute"):
        advance(Ticket(RUN, 3).sign(CODEC))


def test_the_engine_is_loaded_from_the_environment_once(
    monkeypatch: pytest.MonkeyPatch, sqlite_url: str, redis_url: str
) -> None:
    monkeypatch.setenv("FLOWROUTE_ENGINE", "tests.rq.application:make_engine")
    monkeypatch.setenv("TEST_DATABASE", sqlite_url)
    monkeypatch.setenv("TEST_REDIS", redis_url)
    try:
        with job.served_engine() as loaded:
            assert job.served_engine() is loaded
            assert loaded.executor.name == "rq"
    finally:
        job._engine = None  # noqa: SLF001 - there is no way back in a worker


# -- the alarm -------------------------------------------------------------------------------------


def test_the_alarm_of_a_stock_worker_is_taken_back(
    advanced: list[Asked], keep_signals: None
) -> None:
    del keep_signals
    with UnixSignalDeathPenalty(30):  # type: ignore[no-untyped-call]  # RQ leaves it untyped
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0

        advance(Ticket(RUN, 3).sign(CODEC))

        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert advanced


def test_the_alarm_of_a_stock_worker_is_taken_back_before_the_application_is_loaded(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, keep_signals: None
) -> None:
    del keep_signals
    left: list[float] = []

    def load(reference: str) -> Engine:
        assert reference == "shop:engine"
        left.append(signal.getitimer(signal.ITIMER_REAL)[0])
        return engine

    monkeypatch.setenv("FLOWROUTE_ENGINE", "shop:engine")
    monkeypatch.setattr(job, "load_engine", load)
    try:
        with UnixSignalDeathPenalty(30):  # type: ignore[no-untyped-call]  # RQ leaves it untyped
            advance(Ticket(RUN, 3).sign(CODEC))
    finally:
        job._engine = None  # noqa: SLF001 - there is no way back in a worker

    assert left == [0]


def test_an_alarm_that_is_not_rqs_is_left_alone(advanced: list[Asked], keep_signals: None) -> None:
    del keep_signals
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    left = signal.alarm(30)
    try:
        advance(Ticket(RUN, 3).sign(CODEC))

        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.alarm(left)
    assert advanced


def test_a_job_in_another_thread_leaves_the_alarm_alone(
    advanced: list[Asked], keep_signals: None
) -> None:
    del keep_signals
    with UnixSignalDeathPenalty(30):  # type: ignore[no-untyped-call]  # RQ leaves it untyped
        thread = threading.Thread(target=advance, args=(Ticket(RUN, 3).sign(CODEC),))
        thread.start()
        thread.join()

        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert advanced
