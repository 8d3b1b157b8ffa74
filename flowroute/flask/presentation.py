"""A run as templates and programs see it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flask import current_app, render_template, request, url_for
from markupsafe import Markup

from flowroute.engine import schema
from flowroute.engine.description import describe
from flowroute.engine.engine import Engine
from flowroute.engine.flow import definition_of, flow_named
from flowroute.engine.graph import StepGraph
from flowroute.engine.run import is_at_rest
from flowroute.engine.store import RunRecord
from flowroute.errors import CheckpointUnreadable
from flowroute.flask.config import Settings
from flowroute.flask.itinerary import itinerary
from flowroute.flask.tokens import FIELD, FormToken, form_token, run_token


@dataclass(frozen=True, slots=True)
class StepView:
    """One step in the list that a waiting page shows."""

    name: str
    title: str
    """The first line of its docstring, else its name in words."""
    kind: str
    """step, worker or page."""
    state: str
    """done, current or todo."""


@dataclass(frozen=True, slots=True)
class ProgressView:
    """What the running step said last."""

    done: float
    total: float
    message: str

    @property
    def percent(self) -> float:
        """How much is done, from 0 to 100."""
        return 100 * self.done / self.total


class RunView:
    """A run, as `run` in templates.

    Parameters:
        engine: The run's engine.
        record: Its row.
        settings: The application's.
        socket_path: Path of the Socket.IO server, without the application's prefix; empty if there is none.
        next_url: Where a waiting page goes once the run is at rest; empty: the page that is open.
        shared: Whether its links open the run to whoever has them.
    """

    def __init__(
        self,
        engine: Engine,
        record: RunRecord,
        settings: Settings,
        *,
        socket_path: str = "",
        next_url: str = "",
        shared: bool = False,
    ) -> None:
        self._engine = engine
        self._record = record
        self._settings = settings
        self._socket_path = socket_path
        self._next_url = next_url
        self._shared = shared
        self.id = record.id
        self.flow = record.flow
        self.step = record.step
        self.state = record.state
        self.waiting_for = record.waiting_for
        self.seq = record.seq

    @property
    def title(self) -> str:
        """The first line of the flow's docstring, else its name in words."""
        try:
            flow = flow_named(self.flow)
        except CheckpointUnreadable:
            return in_words(self.flow)
        own = flow.__dict__.get("__doc__") or ""
        return own.strip().partition("\n")[0].rstrip(".") or in_words(flow.__name__)

    @cached_property
    def steps(self) -> list[StepView]:
        """The steps on the way, in order, and where the run is."""
        try:
            graph = definition_of(flow_named(self.flow)).graph
        except CheckpointUnreadable:
            return []
        return _steps(graph, self.step, finished=self.state == schema.DONE)

    @property
    def progress(self) -> ProgressView | None:
        """What the running step said last, or None."""
        progress = self._record.progress
        return None if progress is None else ProgressView(**progress)

    @property
    def error(self) -> str | None:
        """What the step raised, or why the run is blocked; None unless ``FLOWROUTE_SHOW_ERRORS`` is set."""
        error = self._record.error
        if error is None or not (self._settings.show_errors or current_app.debug):
            return None
        return f"{error['type']}: {error['message']}"

    @cached_property
    def result(self) -> Any:
        """What the run ended with, for people; None if it has not or had none."""
        if self.state != schema.DONE or self.step is not None:
            return None
        return describe({"result": self._engine.result_of(self.id)})["result"]

    @property
    def age_seconds(self) -> float:
        """How long ago the run started, by the database's clock."""
        return round((self._record.now - self._record.created_at).total_seconds(), 1)

    @cached_property
    def token(self) -> str:
        """What opens this run to this visitor, and to no other."""
        return run_token(self._engine.codec, self.id, shared=self._shared)

    @property
    def url(self) -> str:
        """The run's own address."""
        return url_for("flowroute.show", token=self.token)

    @property
    def state_url(self) -> str:
        """Where programs ask for the run's state."""
        return url_for("flowroute.state", token=self.token)

    @property
    def retry_url(self) -> str:
        """Where a form asks for another try."""
        return url_for("flowroute.retry", token=self.token)

    def hidden_field(self) -> Markup:
        """The hidden field that makes a form good for this run, at this page, once."""
        form = FormToken(self.id, self.seq, _here())
        token = form_token(self._engine.codec, form)
        return Markup('<input type="hidden" name="{}" value="{}">').format(FIELD, token)

    def script(self) -> Markup:
        """What makes any page live: put it into the head of your own loading template."""
        return Markup(  # noqa: S704  # it is the output of our own escaping template
            render_template(
                "flowroute/script.html",
                run=self,
                next_url=self._next_url,
                socket_path=request.script_root + self._socket_path if self._socket_path else "",
                poll_seconds=self._settings.poll_seconds,
            )
        )

    def as_json(self) -> dict[str, Any]:
        """The run for programs."""
        body = state_of(self._record)
        body["error"] = self.error
        body["links"] = {"self": self.url, "state": self.state_url, "retry": self.retry_url}
        if self.state == schema.DONE:
            body["result"] = self.result
        return body


def state_of(record: RunRecord) -> dict[str, Any]:
    """What a waiting page is told of a run: nothing that is not for the visitor's eyes."""
    return {
        "id": record.id,
        "seq": record.seq,
        "state": record.state,
        "waiting_for": record.waiting_for,
        "step": record.step,
        "progress": record.progress,
        "at_rest": is_at_rest(record),
        "created_at": record.created_at.isoformat(),
    }


def in_words(name: str) -> str:
    """``charge_card`` and ``ChargeCard`` as "Charge card"."""
    spaced = "".join(f" {c}" if c.isupper() and i and not name[i - 1].isupper() else c for i, c in enumerate(name))
    text = " ".join(spaced.replace("_", " ").split())
    return text[:1].upper() + text[1:].lower() if not text.isupper() else text


def _steps(graph: StepGraph, current: str | None, *, finished: bool) -> list[StepView]:
    listed = [graph.node(name) for name in itinerary(graph, current)]
    names = [node.name for node in listed]
    at = names.index(current) if current in names else len(names)
    views: list[StepView] = []
    for index, node in enumerate(listed):
        state = "done" if index < at else "current" if index == at else "todo"
        if finished and index == at:
            state = "done"
        title = node.doc.partition("\n")[0].rstrip(".") or in_words(node.name)
        views.append(StepView(node.name, title, node.place.value, state))
    return views


def _here() -> str:
    """The local address of the page that is being shown, prefix included."""
    query = request.query_string.decode("ascii", "replace")
    path = request.script_root + request.path
    return f"{path}?{query}" if query else path
