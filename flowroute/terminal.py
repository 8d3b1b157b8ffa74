"""What the commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flowroute.engine import schema
from flowroute.engine.graph import StepGraph
from flowroute.engine.records import RunRecord
from flowroute.engine.run import Checkpoint, is_at_rest
from flowroute.engine.step import END, Place

BAR_WIDTH = 10
"""Of a progress bar in a table, in characters."""

SHOWN_CHECKPOINTS = 50
"""How many checkpoints of a run are shown unless more are asked for."""

UNBOUNDED = 1_000
"""The width of what goes to a file or a pipe, in characters: lines are not folded there."""

_NUMBERS = {"seq", "took", "attempt"}

_COLOURS = {
    schema.READY: "cyan",
    schema.RUNNING: "blue",
    schema.WAITING: "yellow",
    schema.DONE: "green",
    schema.FAILED: "red",
    schema.CANCELLED: "bright_black",
    schema.BLOCKED: "magenta",
}

_MINUTE = 60
_UNITS = (
    ("week", 7 * 86_400),
    ("day", 86_400),
    ("hour", 3_600),
    ("minute", _MINUTE),
    ("second", 1),
)

# -- for programs ----------------------------------------------------------------------------------


def print_json(document: object) -> None:
    """Print one document on standard output; instants as ISO 8601."""
    click.echo(json.dumps(document, indent=2, default=datetime.isoformat))


def run_document(record: RunRecord) -> dict[str, Any]:
    """A run: the columns of its row, and whether it is at rest."""
    data = asdict(record) | {"at_rest": is_at_rest(record)}
    del data["now"]
    return data


def checkpoint_document(checkpoint: Checkpoint) -> dict[str, Any]:
    """A checkpoint, its duration in seconds."""
    data = asdict(checkpoint)
    duration = data.pop("duration")
    return data | {"duration_seconds": None if duration is None else duration.total_seconds()}


def graph_document(graph: StepGraph) -> dict[str, Any]:
    """A step graph."""
    return {
        "flow": graph.flow,
        "nodes": [
            {
                "name": node.name,
                "kind": node.place.value,
                "start": node.start,
                "end": node.end,
                "doc": node.doc,
            }
            for node in graph.order()
        ],
        "edges": [asdict(edge) for edge in graph.edges],
    }


# -- for people ------------------------------------------------------------------------------------


def console() -> Console:
    """What the tables are printed to: standard output, whatever it is at the moment."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        # A key in Greek must not end the program where the locale knows only Latin letters.
        reconfigure(errors="replace")
    return Console(
        width=None if sys.stdout.isatty() else UNBOUNDED,
        highlight=False,
        markup=False,
        emoji=False,
    )


def printable(text: str) -> str:
    """Text with what could command a terminal written out: keys and messages come from anywhere."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def in_words(seconds: float) -> str:
    """How long something takes or is ago, such as ``3 minutes``; its largest unit counts."""
    for name, size in _UNITS:
        count = int(seconds // size)
        if count > 0:
            return f"{count} {name}{'' if count == 1 else 's'}"
    return "a moment"


def exactly(duration: timedelta) -> str:
    """How long a step ran, such as ``12 ms``, ``3.25 s`` or ``1:02:03``."""
    seconds = duration.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < _MINUTE:
        return f"{seconds:.2f} s"
    return str(timedelta(seconds=round(seconds)))


def runs_table(records: Iterable[RunRecord]) -> Table:
    """One line a run.

    Parameters:
        records: The runs, in the order to show.
    """
    table = _table("id", "flow", "step", "state", "progress", "age", "key")
    for record in records:
        table.add_row(
            Text(record.id),
            _text(record.flow),
            _text(_step(record)),
            state_text(record),
            _bar(record.progress),
            Text(in_words(_seconds(record.created_at, record.now))),
            _text(record.key),
        )
    return table


def state_text(record: RunRecord) -> Text:
    """The state of a run in its colour, with what it waits for."""
    words = record.state
    if record.waiting_for == schema.FOR_TIMER and record.wake_at is not None:
        left = _seconds(record.now, record.wake_at)
        words += " for its timer, due now" if left <= 0 else f" for its timer, {in_words(left)}"
    elif record.waiting_for == schema.FOR_CHILDREN:
        words += " for a sub-flow"
    elif record.waiting_for is not None:
        words += f" for a {record.waiting_for}"
    elif record.lease_over:
        words += ", but its process is silent"
    return Text(words, style=_COLOURS[record.state])


def run_details(
    record: RunRecord, checkpoints: Sequence[Checkpoint], *, limit: int
) -> RenderableType:
    """Everything about one run.

    Parameters:
        record: The run.
        checkpoints: All of its checkpoints, oldest first.
        limit: At most so many of them are shown, the newest.
    """
    parts: list[RenderableType] = [
        Text.assemble((printable(record.flow), "bold"), " ", record.id),
        _indented(_facts(record, checkpoints)),
    ]
    if record.error is not None:
        parts += ["", *_error(record.error)]
    hidden = len(checkpoints) - limit
    title = "Checkpoints" if hidden <= 0 else f"The last {limit} of {len(checkpoints)} checkpoints"
    parts += ["", Text(title, style="bold"), _checkpoints_table(checkpoints[-limit:])]
    return Group(*parts)


def change_text(before: RunRecord, after: RunRecord) -> str:
    """What a command did to a run, as a sentence."""
    step = "" if after.step is None else f" at step {after.step}"
    flow = printable(after.flow)
    return f"Run {after.id} of {flow} was {before.state}, and is {after.state}{step}."


def graph_table(graph: StepGraph) -> Table:
    """One line a step, in the order that a run may meet them.

    Parameters:
        graph: The flow's step graph.
    """
    table = _table("step", "kind", "then", "what it does")
    for node in graph.order():
        ways = [
            f"{edge.target} ({edge.label})" if edge.label else _end(edge.target)
            for edge in graph.edges
            if edge.source == node.name
        ]
        ends = node.end and END not in graph.successors(node.name)
        kind = [node.place.value, *(["start"] if node.start else []), *(["final"] if ends else [])]
        table.add_row(
            Text(node.name, style="bold" if node.place is Place.EXECUTOR else ""),
            Text(", ".join(kind)),
            Text(", ".join(ways)),
            _text(node.doc.partition("\n")[0]),
        )
    return table


def _end(name: str) -> str:
    return "the end" if name == END else name


def _facts(record: RunRecord, checkpoints: Sequence[Checkpoint]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bright_black")
    table.add_column()
    for name, value in _fact_lines(record, checkpoints):
        table.add_row(Text(name), value)
    return table


def _fact_lines(
    record: RunRecord, checkpoints: Sequence[Checkpoint]
) -> Iterator[tuple[str, RenderableType]]:
    yield "state", state_text(record)
    if record.step is not None:
        yield "step", _text(_step(record))
    if record.progress is not None:
        message = printable(str(record.progress["message"]))
        yield "progress", Text.assemble(_bar(record.progress), "  ", message)
    if record.key is not None:
        yield "key", _text(record.key)
    if record.owner is not None:
        yield "owner", _text(record.owner)
    yield "started", Text(_ago(record.created_at, record.now))
    if record.lease_owner is not None and record.lease_until is not None:
        yield "runs in", _text(f"{record.lease_owner}, leased until {_instant(record.lease_until)}")
    if record.finished_at is not None:
        yield "finished", Text(_ago(record.finished_at, record.now))
    if record.state == schema.DONE and record.step is None:
        yield "result", _text(_value(checkpoints[-1].arguments["result"]))


def _error(error: Mapping[str, Any]) -> Iterator[RenderableType]:
    yield Text.assemble(
        ("Error", "bold red"), printable(f" in step {error['step']}, attempt {error['attempt']}")
    )
    lines = error["traceback"].rstrip() or f"{error['type']}: {error['message']}"
    yield _indented(_text(lines))


def _checkpoints_table(checkpoints: Iterable[Checkpoint]) -> Table:
    table = _table("seq", "step", "arguments", "stored", "took", "attempt", "executor")
    for each in checkpoints:
        table.add_row(
            Text(str(each.seq)),
            _text("the end" if each.step is None else each.step),
            _text(", ".join(f"{name}={_value(value)}" for name, value in each.arguments.items())),
            Text(_instant(each.created_at)),
            Text("" if each.duration is None else exactly(each.duration)),
            Text("" if each.attempt is None else str(each.attempt)),
            _text(each.executor),
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for name in columns:
        table.add_column(
            name,
            no_wrap=name == "id",  # one that is cut can not be copied
            overflow="fold",
            justify="right" if name in _NUMBERS else "left",
        )
    return table


def _indented(content: RenderableType) -> Padding:
    return Padding(content, (0, 0, 0, 2), expand=False)


def _step(record: RunRecord) -> str:
    if record.step is None:
        return ""
    return record.step if record.attempt <= 1 else f"{record.step}, attempt {record.attempt}"


def _bar(progress: Mapping[str, Any] | None) -> Text:
    if progress is None:
        return Text("")
    part = progress["done"] / progress["total"]
    full = int(part * BAR_WIDTH)
    return Text.assemble(
        ("━" * full, "green"),
        ("─" * (BAR_WIDTH - full), "bright_black"),
        f" {int(part * 100):3d} %",
    )


def _text(text: str | None) -> Text:
    return Text(printable(text or ""))


def _value(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def _instant(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC"


def _ago(instant: datetime, now: datetime) -> str:
    return f"{_instant(instant)}, {in_words(_seconds(instant, now))} ago"


def _seconds(earlier: datetime, later: datetime) -> float:
    return (later - earlier).total_seconds()
