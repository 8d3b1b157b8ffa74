"""The commands `flowroute …`, and the same for any other program built with click.

`commands` makes them for whatever knows where its engine is; `main` is the program for applications
without Flask, whose engine ``--engine`` names.
"""

from __future__ import annotations

import copy
import functools
import logging
import queue
import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from types import FrameType
from typing import IO, Any, Final, cast

import click
from sqlalchemy.exc import SQLAlchemyError

from flowroute import __version__, drawing
from flowroute.engine import schema
from flowroute.engine.engine import Engine
from flowroute.engine.identity import process_name
from flowroute.engine.local import ThreadExecutor
from flowroute.engine.records import RunRecord
from flowroute.errors import ConfigurationError, FlowrouteError
from flowroute.loading import find_flow, load_engine
from flowroute.terminal import (
    SHOWN_CHECKPOINTS,
    change_text,
    checkpoint_document,
    console,
    graph_document,
    graph_table,
    print_json,
    printable,
    run_details,
    run_document,
    runs_table,
)

EXIT_CODES: Final = (
    "Exit codes: 0, it was done. 1, it could not be done, and standard error says why in a line. "
    "2, the command was not understood."
)

_RECOVERED: Final = {
    "resubmitted": "hints given again",
    "expired": "attempts whose process died, stalled or ran out of time",
    "timers": "timers that were due",
    "blocked": "blocked runs to be tried with today's code",
    "deleted": "finished runs deleted, their retention being over",
}


def commands(get_engine: Callable[[], Engine]) -> list[click.Command]:
    """The commands list, show, retry, cancel, recover, graph and worker.

    An error of flowroute or of the database becomes a red line on standard error and exit code 1.

    Parameters:
        get_engine: Called when a command runs, inside its click context; not for ``--help``.

    Returns:
        Commands of their own, to be added to a group.

    Example:
        >>> @click.group(epilog=EXIT_CODES)
        ... def flows() -> None:
        ...     "Look at the shop's runs and act on them."
        >>> for command in commands(lambda: load_engine("shop.flows:engine")):
        ...     flows.add_command(command)
    """
    made: list[click.Command] = []
    for template in (_list, _show, _retry, _cancel, _recover, _graph, _worker):
        command = copy.copy(template)
        command.callback = functools.partial(
            _call, cast("Callable[..., None]", template.callback), get_engine
        )
        made.append(command)
    return made


class Refusal(click.ClickException):
    """An error that a command ends with: one red line on standard error, exit code 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it."""
        click.secho(f"Error: {printable(self.message)}", file=file, err=True, fg="red")


def _call(command: Callable[..., None], get_engine: Callable[[], Engine], **options: Any) -> None:
    try:
        command(get_engine(), **options)
    except FlowrouteError as error:
        raise Refusal(str(error)) from error
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        raise Refusal(f"The database could not do it: {reason}") from error


_json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document, for programs."
)
_run_argument = click.argument("run_id", metavar="RUN")


# -- looking ---------------------------------------------------------------------------------------


@click.command("list")
@click.option("--flow", metavar="NAME", help="Only runs of this flow.")
@click.option(
    "--state",
    "states",
    type=click.Choice(schema.STATES),
    multiple=True,
    help="Only runs in this state; may be given several times.",
)
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many."
)
@_json_option
def _list(
    engine: Engine, *, flow: str | None, states: Sequence[str], limit: int, as_json: bool
) -> None:
    """List runs, newest first."""
    records = engine.lookup.records(flow=flow, state=states, limit=limit)
    if flow is not None and not records:
        _note_if_unknown(flow)
    if as_json:
        print_json([run_document(record) for record in records])
        return
    if records:
        console().print(runs_table(records))
    else:
        _note("No runs.")
    if len(records) == limit:
        _note(f"These are the newest {limit}; there may be more: --limit.")


@click.command("show")
@_run_argument
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help=f"At most so many checkpoints, the newest; default {SHOWN_CHECKPOINTS}, in JSON all.",
)
@_json_option
def _show(engine: Engine, *, run_id: str, limit: int | None, as_json: bool) -> None:
    """Show a run: its state, error and checkpoints. RUN is its id."""
    record = engine.lookup.read(run_id)
    checkpoints = engine.lookup.checkpoints_of(run_id)
    if as_json:
        shown = checkpoints if limit is None else checkpoints[-limit:]
        print_json(
            run_document(record) | {"checkpoints": [checkpoint_document(each) for each in shown]}
        )
        return
    console().print(run_details(record, checkpoints, limit=limit or SHOWN_CHECKPOINTS))


@click.command("graph")
@click.argument("flow")
@click.option(
    "--format",
    "style",
    type=click.Choice(["text", "mermaid", "svg"]),
    default="text",
    show_default=True,
    help="A table; text for a Mermaid block; an image.",
)
@_json_option
def _graph(_engine: Engine, *, flow: str, style: str, as_json: bool) -> None:
    """Draw the step graph of a flow.

    A flow is known once the module that defines it has been imported: by the one with the engine.
    """
    graph = find_flow(flow).graph
    if as_json:
        print_json(graph_document(graph))
    elif style == "text":
        console().print(graph_table(graph))
    else:
        draw = drawing.svg if style == "svg" else drawing.mermaid
        click.echo(draw(graph).rstrip("\n"))


# -- acting ----------------------------------------------------------------------------------------


@click.command("retry")
@_run_argument
@_json_option
def _retry(engine: Engine, *, run_id: str, as_json: bool) -> None:
    """Let a failed or blocked run go on.

    RUN is its id. The step where it stands gets all of its attempts again.
    """
    before = engine.lookup.read(run_id)
    with _steps_left_to_others(engine):
        engine.retry(run_id)
    _print_change(before, engine.lookup.read(run_id), as_json=as_json)
    if isinstance(engine.executor, ThreadExecutor):
        _note("The application's own process goes on with it, or the command `worker`.")


@click.command("cancel")
@_run_argument
@_json_option
def _cancel(engine: Engine, *, run_id: str, as_json: bool) -> None:
    """End a run for good.

    RUN is its id. What its step still writes will not be stored.
    """
    before = engine.lookup.read(run_id)
    engine.cancel(run_id)
    _print_change(before, engine.lookup.read(run_id), as_json=as_json)


@click.command("recover")
@_json_option
def _recover(engine: Engine, *, as_json: bool) -> None:
    """Look once for what crashed or is due.

    Processes that execute steps do this each second by themselves.
    """
    did = engine.recover()
    if as_json:
        print_json(asdict(did))
        return
    for each in fields(did):
        if count := getattr(did, each.name):
            click.echo(f"{count:5d} {_RECOVERED[each.name]}")
    if not did:
        click.echo("There was nothing to recover.")


@contextmanager
def _steps_left_to_others(engine: Engine) -> Generator[None]:
    """Keep the threads of this process from taking a step: a command has to end soon."""
    if not isinstance(engine.executor, ThreadExecutor):
        yield
        return
    engine.executor.close()
    try:
        yield
    finally:
        engine.executor.reset()


# -- the worker ------------------------------------------------------------------------------------


@click.command("worker")
@click.option(
    "--no-fork",
    is_flag=True,
    help="With RQ, run steps in this process: quicker, but a step that crashes it takes it along.",
)
@click.option(
    "--jobs-per-process",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="With RQ, how many steps a forked process runs before a fresh one takes its place.",
)
@click.option(
    "--log-level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    default="INFO",
    show_default=True,
    help="Unless the application has set up logging itself.",
)
def _worker(engine: Engine, *, no_fork: bool, jobs_per_process: int, log_level: str) -> None:
    """Run worker steps, until Ctrl-C or SIGTERM.

    Where they run is the engine's choice of executor: RQ, or threads of this process. Steps that
    run are finished first; a second signal does not wait for them.
    """
    logging.basicConfig(level=log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    engine.check_tables()
    executor = engine.executor
    if isinstance(executor, ThreadExecutor):
        _serve_with_threads(executor)
    elif executor.name == "rq":
        from flowroute.rq import FlowWorker, InlineFlowWorker  # noqa: PLC0415  # RQ is optional

        worker = (
            InlineFlowWorker(engine)
            if no_fork
            else FlowWorker(engine, jobs_per_process=jobs_per_process)
        )
        worker.work(logging_level=log_level)
    else:
        raise ConfigurationError(
            f"The {executor.name!r} executor of this engine has no workers of flowroute's: give "
            "the engine executor='thread' or an RQExecutor."
        )


def _serve_with_threads(executor: ThreadExecutor) -> None:
    signals = (signal.SIGINT, signal.SIGTERM)
    # Its put() may interrupt anything, even itself: that is more than an Event's set() may.
    heard: queue.SimpleQueue[int] = queue.SimpleQueue()

    def hear(number: int, _frame: FrameType | None) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_DFL)
        heard.put(number)

    for each in signals:
        signal.signal(each, hear)
    executor.start()
    _note(
        f"Threads of this process, {process_name()}, run worker steps now. SIGINT (Ctrl-C) or "
        "SIGTERM ends it."
    )
    heard.get()
    _note(
        "Steps that run are finished first. A second signal ends the process at once; another one "
        "goes on when the lease of its runs is over."
    )
    executor.close()


# -- what is printed -------------------------------------------------------------------------------


def _print_change(before: RunRecord, after: RunRecord, *, as_json: bool) -> None:
    if as_json:
        print_json(run_document(after))
        return
    click.echo(change_text(before, after))


def _note(text: str) -> None:
    """What people should know, kept out of standard output."""
    click.echo(printable(text), err=True)


def _note_if_unknown(flow: str) -> None:
    # Only a hint: the runs of a flow that this process did not import are listed all the same.
    try:
        find_flow(flow)
    except FlowrouteError as error:
        _note(str(error))


# -- the program -----------------------------------------------------------------------------------


class _Program(click.Group):
    """Lists its commands in the order they were added, and the demo last."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """The names of all commands."""
        return [*self.commands, "demo"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, or None."""
        if cmd_name == "demo":
            # It needs websockets: what runs without Flask shall not have to.
            from flowroute.demo.command import demo  # noqa: PLC0415

            return demo
        return super().get_command(ctx, cmd_name)


@click.group("flowroute", cls=_Program, epilog=EXIT_CODES)
@click.option(
    "--engine",
    "reference",
    metavar="MODULE:ATTRIBUTE",
    envvar="FLOWROUTE_ENGINE",
    show_envvar=True,
    help="The Engine, or a function that returns it, such as shop.flows:engine.",
)
@click.version_option(__version__, message="flowroute %(version)s")
@click.pass_context
def main(context: click.Context, reference: str | None) -> None:
    """Look at the runs of an application, act on them, and run their worker steps.

    For an application with Flask, `flask flow` has the same commands.
    """
    context.obj = reference


def _named_engine() -> Engine:
    context = click.get_current_context()
    if context.obj is None:
        raise click.UsageError(
            "Which engine? Name it before the command, `flowroute --engine module:attribute …`, or "
            "set FLOWROUTE_ENGINE.",
            context.find_root(),
        )
    engine = load_engine(context.obj)
    context.call_on_close(engine.close)
    return engine


for _command in commands(_named_engine):
    main.add_command(_command)

if __name__ == "__main__":
    main()
