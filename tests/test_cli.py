"""The commands: what they print for people and for programs, what they do, how they end."""

from __future__ import annotations

import functools
import json
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import update

from flowroute import Continuation, Engine, Flow, Retry, Run, done, step, worker_step
from flowroute.cli import EXIT_CODES, commands, main
from flowroute.engine.schema import run_table
from flowroute.errors import ConfigurationError, FlowrouteError
from flowroute.flask import page
from flowroute.loading import find_flow, load_engine
from flowroute.terminal import console, exactly, in_words, runs_table
from flowroute.testing import FakeClock, inline_engine
from tests.engine.support import Shelf, crash
from tests.processes import Process, Processes

ROOT = Path(__file__).parent.parent

Invoke = Callable[..., Result]


class CardDeclinedError(Exception):
    """What a bank says."""


class CliOrder(Flow):
    """Charge, then ship."""

    customer: str

    @worker_step(start=True, retry=Retry(2, backoff=timedelta(minutes=3), jitter=0))
    def charge(self, amount: int) -> Continuation[str]:
        """Ask the bank.

        It takes a while.
        """
        if amount > 100:
            raise CardDeclinedError(f"{amount} is too much for {self.customer}")
        return self.ship(amount)

    @step(on_error="refund")
    def ship(self, amount: int) -> Continuation[str]:
        return done(f"{amount} from {self.customer}")

    @step
    def refund(self, failure: Any) -> Continuation[str]:
        return done(f"nothing, {failure}")


class CliSurvey(Flow):
    """A page, then a final one."""

    @step(start=True)
    def begin(self) -> Continuation[None]:
        return self.ask()

    @page
    def ask(self) -> Any:
        return self.thank()

    @page(final=True)
    def thank(self) -> Any:
        return "thank you"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def engine(tmp_path: Path, clock: FakeClock) -> Iterator[Engine]:
    with inline_engine(tmp_path, clock=clock) as engine:
        yield engine


@pytest.fixture
def invoke(engine: Engine) -> Invoke:
    """Run a command on the engine, in this process."""
    return invoking(engine)


def invoking(engine: Engine) -> Invoke:
    group = click.Group(commands=commands(lambda: engine))

    def invoke(*arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(group, arguments, catch_exceptions=False, **options)

    return invoke


def order(engine: Engine, amount: int = 30, **options: Any) -> Run[str]:
    return engine.start(CliOrder(customer="Ada").charge(amount), **options)


def failed_order(engine: Engine, clock: FakeClock, **options: Any) -> Run[str]:
    run = order(engine, 101, **options)
    clock.advance(180)
    engine.recover()
    assert run.state == "failed"
    return run


def lines(result: Result) -> list[str]:
    """The lines of a table, blanks squeezed."""
    assert result.exit_code == 0, result.output
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


def refusal(result: Result) -> str:
    """What a command that could not do it said."""
    assert result.exit_code == 1
    assert result.stdout == ""
    return result.stderr


# -- list ------------------------------------------------------------------------------------------


def test_list_shows_one_line_a_run_newest_first(
    engine: Engine, clock: FakeClock, invoke: Invoke
) -> None:
    paid = order(engine, key="cart-1")
    clock.advance(59)
    asked = engine.start(CliSurvey().begin())
    clock.advance(2 * 60 + 1)
    retried = order(engine, 101)
    assert lines(invoke("list")) == [
        "id flow step state progress age key",
        f"{retried.id} CliOrder charge waiting for its timer, 3 minutes a moment",
        f"{asked.id} CliSurvey ask waiting for a page 2 minutes",
        f"{paid.id} CliOrder done 3 minutes cart-1",
    ]


def test_list_shows_how_far_a_running_step_is_and_which_attempt_it_is(
    engine: Engine, clock: FakeClock, invoke: Invoke
) -> None:
    run = order(engine, 101)
    clock.advance(180)
    with engine.database.engine.begin() as connection:
        connection.execute(update(run_table).values(state="ready", waiting_for=None))
    crash(engine, run, clock)
    progress = {"done": 3.0, "total": 4.0, "message": "contacting the bank"}
    with engine.database.engine.begin() as connection:
        connection.execute(update(run_table).values(progress=progress))
    (line,) = lines(invoke("list"))[1:]
    assert line == f"{run.id} CliOrder charge, attempt 2 running ━━━━━━━─── 75 % 3 minutes"
    assert "contacting the bank" in invoke("show", run.id).stdout


def test_list_tells_that_the_process_of_a_run_is_silent(
    engine: Engine, clock: FakeClock, invoke: Invoke
) -> None:
    run = failed_order(engine, clock)
    with engine.database.engine.begin() as connection:
        connection.execute(update(run_table).values(state="ready", finished_at=None))
    crash(engine, run, clock)
    assert "running, but its process is silent" not in invoke("list").stdout
    clock.advance(31)
    assert "running, but its process is silent" in invoke("list").stdout


def test_list_says_that_a_timer_is_due(engine: Engine, clock: FakeClock, invoke: Invoke) -> None:
    order(engine, 101)
    clock.advance(180)
    assert "waiting for its timer, due now" in invoke("list").stdout


def test_list_for_programs_is_one_document_with_these_keys(engine: Engine, invoke: Invoke) -> None:
    run = order(engine, 101, key="cart-1", owner="ada")
    (document,) = json.loads(invoke("list", "--json").stdout)
    assert document.pop("error").keys() == {"step", "type", "message", "attempt", "traceback"}
    assert document == {
        "id": run.id,
        "flow": "CliOrder",
        "flow_version": 1,
        "key": "cart-1",
        "owner": "ada",
        "parent_id": None,
        "parent_seq": None,
        "state": "waiting",
        "waiting_for": "timer",
        "at_rest": False,
        "step": "charge",
        "seq": 0,
        "epoch": 3,
        "attempt": 1,
        "progress": None,
        "lease_owner": None,
        "lease_until": None,
        "deadline_at": None,
        "wake_at": "2026-01-01T00:03:00+00:00",
        "created_at": "2026-01-01T00:00:00+00:00",
        "updated_at": "2026-01-01T00:00:00+00:00",
        "finished_at": None,
    }


def test_list_for_programs_is_an_empty_list_where_there_are_no_runs(invoke: Invoke) -> None:
    result = invoke("list", "--json")
    assert (json.loads(result.stdout), result.stderr) == ([], "")


def test_list_takes_flow_states_and_a_limit(
    engine: Engine, clock: FakeClock, invoke: Invoke
) -> None:
    def listed(*arguments: str) -> set[str]:
        return {each["id"] for each in json.loads(invoke("list", "--json", *arguments).stdout)}

    failed = failed_order(engine, clock)
    clock.advance(1)
    asked = engine.start(CliSurvey().begin())
    clock.advance(1)
    paid = order(engine)
    assert listed("--flow", "CliOrder") == {failed.id, paid.id}
    assert listed("--state", "failed") == {failed.id}
    assert listed("--state", "failed", "--state", "waiting") == {failed.id, asked.id}
    assert listed("--limit", "1") == {paid.id}
    assert invoke("list", "--state", "lost").exit_code == 2


def test_list_says_on_standard_error_that_there_may_be_more(engine: Engine, invoke: Invoke) -> None:
    order(engine)
    assert "there may be more" in invoke("list", "--limit", "1").stderr
    assert invoke("list", "--limit", "2").stderr == ""


def test_list_without_runs_prints_nothing_on_standard_output(invoke: Invoke) -> None:
    result = invoke("list")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "No runs.\n")


def test_list_asks_what_an_unknown_flow_without_runs_may_mean(invoke: Invoke) -> None:
    result = invoke("list", "--flow", "CliOder")
    assert result.exit_code == 0
    assert "No flow called 'CliOder' is known here. Did you mean 'CliOrder'?" in result.stderr
    assert invoke("list", "--flow", "CliOrder").stderr == "No runs.\n"


def test_list_shows_the_runs_of_a_flow_that_this_process_does_not_know(
    engine: Engine, invoke: Invoke
) -> None:
    run = order(engine)
    with engine.database.engine.begin() as connection:
        connection.execute(update(run_table).values(flow="Elsewhere"))
    result = invoke("list", "--flow", "Elsewhere")
    assert run.id in result.stdout
    assert result.stderr == ""


def test_what_could_command_a_terminal_is_written_out(engine: Engine, invoke: Invoke) -> None:
    order(engine, key="\x1b[2J\u202e[red]")
    output = invoke("list").stdout
    assert r"\x1b[2J\u202e[red]" in output
    assert "\x1b" not in output


# -- show ------------------------------------------------------------------------------------------


def test_show_prints_a_runs_life(engine: Engine, clock: FakeClock, invoke: Invoke) -> None:
    run = order(engine, key="cart-1", owner="ada")
    clock.advance(2 * 86_400)
    printed = lines(invoke("show", run.id))
    assert printed[:8] == [
        f"CliOrder {run.id}",
        "state done",
        "key cart-1",
        "owner ada",
        "started 2026-01-01 00:00:00 UTC, 2 days ago",
        "finished 2026-01-01 00:00:00 UTC, 2 days ago",
        "result 30 from Ada",
        "",
    ]
    assert printed[8:10] == ["Checkpoints", "seq step arguments stored took attempt executor"]
    first, second, last = printed[10:]
    assert first.startswith("0 charge amount=30 2026-01-01 00:00:00 UTC ")
    assert first.endswith(" ms 1 inline")
    assert second.startswith("1 ship amount=30 2026-01-01 00:00:00 UTC ")
    assert last == "2 the end result=30 from Ada 2026-01-01 00:00:00 UTC"


def test_show_prints_the_traceback_of_what_failed(
    engine: Engine, clock: FakeClock, invoke: Invoke
) -> None:
    run = failed_order(engine, clock)
    output = invoke("show", run.id).stdout
    assert "Error in step charge, attempt 2" in output
    assert "CardDeclinedError: 101 is too much for Ada" in output
    assert "Traceback (most recent call last):" in output
    assert "step      charge, attempt 2" in output


def test_show_prints_why_a_process_lost_its_run_though_there_is_no_traceback(
    engine: Engine, clock: FakeClock, invoke: Invoke
) -> None:
    run = failed_order(engine, clock)
    with engine.database.engine.begin() as connection:
        connection.execute(update(run_table).values(state="ready", finished_at=None))
    crash(engine, run, clock)
    assert "runs in" in (output := invoke("show", run.id).stdout)
    assert "gone:1, leased until 2026-01-01 00:03:30 UTC" in output
    clock.advance(31)
    engine.recover()
    assert "ProcessDied: The process gone:1 died" in invoke("show", run.id).stdout


def test_show_of_a_run_that_ended_at_a_page_has_no_result(engine: Engine, invoke: Invoke) -> None:
    run = engine.start(CliSurvey().begin())
    with engine.database.engine.begin() as connection:
        ended = {"state": "done", "waiting_for": None, "finished_at": datetime.now(UTC)}
        connection.execute(update(run_table).values(ended))
    printed = lines(invoke("show", run.id))
    assert "step ask" in printed
    assert not any(line.startswith("result") for line in printed)


def test_show_prints_the_newest_checkpoints_and_how_many_there_are(
    engine: Engine, invoke: Invoke
) -> None:
    run = order(engine)
    printed = lines(invoke("show", run.id, "--limit", "1"))
    assert printed[-3] == "The last 1 of 3 checkpoints"
    assert printed[-1].startswith("2 the end")


def test_show_for_programs_is_the_run_and_its_checkpoints(engine: Engine, invoke: Invoke) -> None:
    run = order(engine)
    document = json.loads(invoke("show", run.id, "--json").stdout)
    (listed,) = json.loads(invoke("list", "--json").stdout)
    checkpoints = document.pop("checkpoints")
    assert document == listed
    assert [each["seq"] for each in checkpoints] == [0, 1, 2]
    assert 0 < checkpoints[0].pop("duration_seconds") < 60
    assert checkpoints[0] == {
        "seq": 0,
        "step": "charge",
        "arguments": {"amount": 30},
        "created_at": "2026-01-01T00:00:00+00:00",
        "attempt": 1,
        "executor": "inline",
    }
    assert checkpoints[2]["step"] is None
    assert checkpoints[2]["duration_seconds"] is None
    limited = json.loads(invoke("show", run.id, "--json", "--limit", "1").stdout)
    assert limited["checkpoints"] == checkpoints[2:]


@pytest.mark.parametrize("command", ["show", "retry", "cancel"])
def test_a_run_that_there_is_not_is_one_red_line_and_exit_code_1(
    invoke: Invoke, command: str
) -> None:
    assert refusal(invoke(command, "7")) == "Error: There is no run '7'.\n"
    coloured = refusal(invoke(command, "7", color=True))
    assert coloured == "\x1b[31mError: There is no run '7'.\x1b[0m\n"


# -- graph -----------------------------------------------------------------------------------------


def test_graph_is_a_table_of_steps(invoke: Invoke) -> None:
    assert lines(invoke("graph", "CliOrder")) == [
        "step kind then what it does",
        "charge worker, start ship Ask the bank.",
        "ship step the end, refund (on error)",
        "refund step the end",
    ]
    assert "thank page, final" in lines(invoke("graph", "CliSurvey"))


def test_graph_draws_through_the_drawing_module(invoke: Invoke) -> None:
    assert invoke("graph", "CliOrder", "--format", "mermaid").stdout.startswith("flowchart TD\n")
    picture = invoke("graph", "CliOrder", "--format", "svg").stdout
    assert picture.startswith("<svg")
    assert picture.endswith("</svg>\n")


def test_graph_for_programs_is_nodes_and_edges(invoke: Invoke) -> None:
    document = json.loads(invoke("graph", "CliOrder", "--json").stdout)
    assert document["flow"] == "CliOrder"
    assert document["nodes"][0] == {
        "name": "charge",
        "kind": "worker",
        "start": True,
        "end": False,
        "doc": CliOrder.charge.doc,
    }
    assert {"source": "ship", "target": "refund", "label": "on error"} in document["edges"]


def test_graph_of_an_unknown_flow_names_those_that_are_known(invoke: Invoke) -> None:
    message = refusal(invoke("graph", "Cliorder"))
    assert "Did you mean 'CliOrder'?" in message
    assert "CliSurvey" in message


def test_no_flow_being_known_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lonely:
        """A root without flows."""

    monkeypatch.setattr("flowroute.loading.Flow", Lonely)
    with pytest.raises(FlowrouteError, match="imported along with the engine: none"):
        find_flow("Order")


# -- retry, cancel, recover ------------------------------------------------------------------------


def test_retry_lets_a_failed_run_go_on(
    engine: Engine, clock: FakeClock, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = failed_order(engine, clock)
    monkeypatch.setattr(CliOrder.charge, "function", lambda flow, amount: flow.ship(amount))
    result = invoke("retry", run.id)
    assert result.stdout == f"Run {run.id} of CliOrder was failed, and is done.\n"
    assert run.result == "101 from Ada"


def test_retry_and_cancel_for_programs_print_the_run_as_it_is_then(
    engine: Engine, clock: FakeClock, invoke: Invoke
) -> None:
    run = failed_order(engine, clock)
    assert json.loads(invoke("retry", run.id, "--json").stdout)["state"] == "waiting"
    assert json.loads(invoke("cancel", run.id, "--json").stdout)["state"] == "cancelled"


def test_retry_of_a_run_that_is_done_is_refused(engine: Engine, invoke: Invoke) -> None:
    run = order(engine)
    assert "is done and can not be retried" in refusal(invoke("retry", run.id))


def test_retry_leaves_the_step_to_a_process_that_stays(tmp_path: Path) -> None:
    with inline_engine(tmp_path, executor="thread") as engine:
        with inline_engine(tmp_path, clock=(clock := FakeClock())) as other:
            run = failed_order(other, clock)
        threads = set(threading.enumerate())
        result = invoking(engine)("retry", run.id)
        assert set(threading.enumerate()) == threads
        change = f"Run {run.id} of CliOrder was failed, and is ready at step charge.\n"
        assert result.stdout == change
        assert "The application's own process goes on with it" in result.stderr
        # … and this process can be the one that stays.
        assert engine.start(CliSurvey().begin()).wait(timeout_seconds=10).state == "waiting"


def test_cancel_ends_a_run_and_is_refused_once_it_has_ended(engine: Engine, invoke: Invoke) -> None:
    run = engine.start(CliSurvey().begin())
    result = invoke("cancel", run.id)
    assert (
        result.stdout == f"Run {run.id} of CliSurvey was waiting, and is cancelled at step ask.\n"
    )
    assert "has finished" in refusal(invoke("cancel", run.id))


def test_recover_says_what_it_did(engine: Engine, clock: FakeClock, invoke: Invoke) -> None:
    assert invoke("recover").stdout == "There was nothing to recover.\n"
    order(engine, 101)
    clock.advance(180)
    assert invoke("recover").stdout == "    1 timers that were due\n"
    assert json.loads(invoke("recover", "--json").stdout) == {
        "resubmitted": 0,
        "expired": 0,
        "timers": 0,
        "blocked": 0,
        "deleted": 0,
    }


# -- errors ----------------------------------------------------------------------------------------


def test_missing_tables_are_one_line_that_says_how_to_make_them(tmp_path: Path) -> None:
    with Engine(f"sqlite:///{tmp_path}/empty.db", secret_keys=["k"]) as engine:
        message = refusal(invoking(engine)("list"))
    assert "has no flowroute tables: create them" in message


def test_a_database_that_can_not_do_it_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "flows.db").write_text("this is no database" * 1000)
    with Engine(f"sqlite:///{tmp_path}/flows.db", secret_keys=["k"]) as engine:
        message = refusal(invoking(engine)("list"))
    assert message == "Error: The database could not do it: file is not a database\n"


def test_an_inline_engine_has_no_worker(invoke: Invoke) -> None:
    assert "The 'inline' executor of this engine has no workers" in refusal(invoke("worker"))


def test_an_executor_of_somebody_elses_has_no_worker(tmp_path: Path) -> None:
    with inline_engine(tmp_path, executor=Shelf()) as engine:
        assert "The 'shelf' executor" in refusal(invoking(engine)("worker"))


# -- words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, "a moment"),
        (0.9, "a moment"),
        (1, "1 second"),
        (59.9, "59 seconds"),
        (60, "1 minute"),
        (7_199, "1 hour"),
        (86_400, "1 day"),
        (13 * 86_400, "1 week"),
        (1_000 * 86_400, "142 weeks"),
    ],
)
def test_an_age_is_told_in_its_largest_unit(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0123, "12 ms"), (3.256, "3.26 s"), (250, "0:04:10"), (7_505, "2:05:05")],
)
def test_a_duration_is_told_to_about_three_digits(seconds: float, words: str) -> None:
    assert exactly(timedelta(seconds=seconds)) == words


def test_on_a_narrow_terminal_an_id_is_never_cut(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    run = order(engine, key="a key that is quite long for a terminal of this width")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    console().print(runs_table(engine.lookup.records()))
    assert run.id in terminal.getvalue()
    assert max(map(len, terminal.getvalue().splitlines())) > 36


# -- the program -----------------------------------------------------------------------------------

SHOP = """
import os
import time
from pathlib import Path

from flowroute import Continuation, Engine, Flow, done, worker_step

executor = "thread"
if "SHOP_REDIS" in os.environ:
    from flowroute.rq import RQExecutor
    executor = RQExecutor(os.environ["SHOP_REDIS"])
engine = Engine("sqlite:///shop.db", secret_keys=["k"], executor=executor)


class CliGate(Flow):
    gate: Path

    @worker_step(start=True)
    def hold(self) -> Continuation[int]:
        print("holding", flush=True)
        while not self.gate.exists():
            time.sleep(0.01)
        return done(os.getpid())
"""


class CliGate(Flow):
    """The flow of the shop, as the process knows it that starts the run."""

    gate: Path

    @worker_step(start=True)
    def hold(self) -> Continuation[int]:
        return done(0)


class Shop:
    """An application in a folder of its own, whose commands run as processes; it has one run."""

    def __init__(self, process: Processes, folder: Path, engine: Engine) -> None:
        (folder / "shop.py").write_text(SHOP, encoding="utf-8")
        self.gate = folder / "gate"
        self.env = {"PYTHONPATH": str(ROOT)}
        self.run = engine.start(CliGate(gate=self.gate).hold(), key="κλειδί")
        self._process = process
        self._folder = folder

    def python(self, *arguments: str) -> Process:
        return self._process([sys.executable, *arguments], cwd=self._folder, env=self.env)

    def flowroute(self, *arguments: str) -> Process:
        return self.python("-m", "flowroute.cli", *arguments)


@pytest.fixture
def shop(process: Processes, tmp_path: Path) -> Iterator[Shop]:
    shelf = Shelf()  # nothing runs in the process that starts the run
    with inline_engine(tmp_path / "shop.db", executor=shelf, secret_keys=["k"]) as engine:
        yield Shop(process, tmp_path, engine)


def test_the_program_finds_its_engine_by_option_or_environment(shop: Shop) -> None:
    listing = shop.flowroute("--engine", "shop:engine", "list")
    assert listing.wait(60) == 0, listing.output
    assert shop.run.id in listing.output
    shop.env["FLOWROUTE_ENGINE"] = "shop:engine"
    listing = shop.flowroute("list")
    assert listing.wait(60) == 0, listing.output
    assert "waiting for a worker" in listing.output


def test_the_program_without_an_engine_asks_for_it() -> None:
    result = CliRunner().invoke(main, ["list"], env={"FLOWROUTE_ENGINE": None})
    assert result.exit_code == 2
    assert "Which engine? Name it before the command" in result.stderr


def test_an_engine_that_there_is_not_is_one_line(shop: Shop) -> None:
    listing = shop.flowroute("--engine", "shop:engin", "list")
    assert listing.wait(60) == 1
    assert listing.output == (
        "Error: shop has no attribute 'engin' (from 'shop:engin'). Did you mean 'engine'?\n"
    )


def test_the_line_of_the_application_that_failed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop_without_secret.py").write_text(
        "from flowroute import Engine\n\n\ndef make():\n    return Engine('sqlite:///x.db')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigurationError) as caught:
        load_engine("shop_without_secret:make")
    assert f"calling it failed at {tmp_path}/shop_without_secret.py:5 with SecretKeyMissing" in str(
        caught.value
    )


def test_where_no_line_of_the_application_failed_none_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = SimpleNamespace(make=functools.partial(json.loads, "{"))
    monkeypatch.setitem(sys.modules, "shop_of_json", module)
    with pytest.raises(ConfigurationError, match="calling it failed with JSONDecodeError"):
        load_engine("shop_of_json:make")


def test_help_lists_the_commands_in_order_and_documents_the_exit_codes() -> None:
    output = CliRunner().invoke(main, ["--help"]).stdout
    listed = output.partition("Commands:\n")[2].splitlines()
    names = [line.split()[0] for line in listed if line[:2] == "  " and line[2:3].strip()]
    assert names[:8] == ["list", "show", "retry", "cancel", "recover", "graph", "worker", "demo"]
    assert " ".join(EXIT_CODES.split()) in " ".join(output.split())


def test_the_demo_is_a_command_of_the_program() -> None:
    assert "--check" in CliRunner().invoke(main, ["demo", "--help"]).stdout


def test_a_command_that_there_is_not_is_exit_code_2() -> None:
    assert CliRunner().invoke(main, ["lst"]).exit_code == 2


def test_the_version_is_told() -> None:
    assert CliRunner().invoke(main, ["--version"]).stdout == "flowroute 0.1.0\n"


def test_looking_at_runs_loads_neither_flask_nor_rq(shop: Shop) -> None:
    looking = shop.python(
        "-c",
        "import sys\n"
        "from flowroute.cli import main\n"
        "main(['--engine', 'shop:engine', 'list'], standalone_mode=False)\n"
        "print({'flask', 'rq', 'redis', 'socketio'} & set(sys.modules))",
    )
    assert looking.wait(60) == 0, looking.output
    assert looking.output.endswith("set()\n")


def test_a_key_that_the_locale_can_not_write_does_not_end_the_program(shop: Shop) -> None:
    shop.env["PYTHONIOENCODING"] = "latin-1"
    listing = shop.flowroute("--engine", "shop:engine", "list")
    assert listing.wait(60) == 0, listing.output
    assert "??????" in listing.output


# -- worker ----------------------------------------------------------------------------------------


OWN_PROGRAM = """
import click
import shop
from flowroute.cli import commands
click.Group(commands=commands(lambda: shop.engine))()
"""


@pytest.mark.parametrize(
    ("program", "number"),
    [
        (("-m", "flowroute.cli", "--engine", "shop:engine"), signal.SIGTERM),
        (("-c", OWN_PROGRAM), signal.SIGINT),
    ],
    ids=["flowroute", "own program"],
)
def test_a_worker_of_threads_finishes_its_step_when_it_is_asked_to_end(
    shop: Shop, program: tuple[str, ...], number: signal.Signals
) -> None:
    worker = shop.python(*program, "worker")
    worker.wait_for_line("run worker steps now", 60)
    worker.wait_for_line("holding", 60)
    worker.send_signal(number)
    worker.wait_for_line("finished first", 60)
    shop.gate.touch()
    assert worker.wait(60) == 0, worker.output
    assert shop.run.result == worker.pid


def test_a_second_signal_ends_a_worker_of_threads_at_once(shop: Shop) -> None:
    worker = shop.flowroute("--engine", "shop:engine", "worker")
    worker.wait_for_line("holding", 60)
    worker.terminate()
    worker.wait_for_line("finished first", 60)
    worker.terminate()
    assert worker.wait(60) == -signal.SIGTERM
    assert shop.run.state == "running"  # until its lease is over


@pytest.mark.parametrize("arguments", [(), ("--no-fork",), ("--jobs-per-process", "1")])
def test_a_worker_of_rq_runs_what_redis_holds(
    shop: Shop, redis_url: str, arguments: tuple[str, ...]
) -> None:
    shop.env["SHOP_REDIS"] = redis_url
    shop.gate.touch()
    worker = shop.flowroute("--engine", "shop:engine", "worker", *arguments)
    worker.wait_for_line("holding", 60)
    worker.terminate()
    assert worker.wait(60) == 0, worker.output
    assert (shop.run.result == worker.pid) == (arguments == ("--no-fork",))


def test_a_worker_says_so_where_the_tables_are_missing(shop: Shop, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute("UPDATE flowroute_schema SET version = 99")
    connection.close()
    worker = shop.flowroute("--engine", "shop:engine", "worker")
    assert worker.wait(60) == 1
    assert "of version 99" in worker.output
    assert "Traceback" not in worker.output
