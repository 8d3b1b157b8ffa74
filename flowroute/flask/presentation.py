"""A run as templates and programs see it."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast
from weakref import WeakKeyDictionary

from flask import current_app, request, url_for
from markupsafe import Markup
from pydantic_core import PydanticSerializationError, to_jsonable_python

from flowroute.engine import schema
from flowroute.engine.context import RunContext
from flowroute.engine.description import describe
from flowroute.engine.engine import Engine
from flowroute.engine.flow import Flow, definition_of, flow_named
from flowroute.engine.graph import StepGraph
from flowroute.engine.records import Bookmark, RunRecord
from flowroute.engine.run import is_at_rest
from flowroute.errors import ArgumentError, CheckpointUnreadable
from flowroute.flask.appearance import Appearance, callback_url, chosen_for, image_url
from flowroute.flask.config import Settings
from flowroute.flask.itinerary import itinerary
from flowroute.flask.tasks import TaskFlow
from flowroute.flask.tokens import FIELD, FormToken, form_token, here, run_token

logger = logging.getLogger("flowroute.flask")

LOOK = (schema.FOR_PAGE, schema.FOR_CHILDREN)
"""What a waiting page leads away from: something else is to be seen at its address."""


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


_found: WeakKeyDictionary[type[Flow], dict[tuple[str | None, bool], list[StepView]]] = (
    WeakKeyDictionary()
)
"""The steps to show, by flow, step, and whether the run is done."""


class RunView:
    """A run, as `run` in templates.

    Parameters:
        engine: The run's engine.
        run: Its row, with or without its bookmark; or what one of its steps knows of it, and the
            row is read once it is needed.
        settings: The application's.
        socket_path: Path of the Socket.IO server below the application's root; empty: none.
        shared: Whether its links open the run to whoever has them.
    """

    def __init__(
        self,
        engine: Engine,
        run: Bookmark | RunRecord | RunContext,
        settings: Settings,
        *,
        socket_path: str = "",
        shared: bool = False,
    ) -> None:
        self._engine = engine
        self._run = run
        self._settings = settings
        self._socket_path = socket_path
        self._shared = shared
        known = run.record if isinstance(run, Bookmark) else run
        self.id = known.id
        self.step = known.step
        self.seq = known.seq

    @cached_property
    def _record(self) -> RunRecord:
        if isinstance(self._run, Bookmark):
            return self._run.record
        return self._run if isinstance(self._run, RunRecord) else self._engine.lookup.read(self.id)

    @property
    def flow(self) -> str:
        """The flow's name."""
        return self._record.flow

    @property
    def state(self) -> str:
        """ready, running, waiting, done, failed, cancelled or blocked."""
        return self._record.state

    @property
    def waiting_for(self) -> str | None:
        """What a waiting run waits for: worker, timer or page; else None."""
        return self._record.waiting_for

    @cached_property
    def title(self) -> str:
        """The first line of the flow's docstring, else its name in words."""
        try:
            flow = flow_named(self.flow)
        except CheckpointUnreadable:
            return in_words(self.flow)
        if flow is TaskFlow and self._own is not None:
            return in_words(self._own.title)
        return _first_line(flow.__dict__.get("__doc__")) or in_words(flow.__name__)

    @cached_property
    def _own(self) -> TaskFlow | None:
        """The run's task, with what it chose for itself; None if it is no task, or unreadable."""
        if self.flow != definition_of(TaskFlow).name:
            return None
        try:
            known = (
                self._run
                if isinstance(self._run, Bookmark)
                else self._engine.lookup.bookmark(self.id)
            )
            return cast("TaskFlow", self._engine.lookup.flow_of(known))
        except (CheckpointUnreadable, ArgumentError):
            logger.exception("run %s: what its task chose can not be read", self.id)
            return None

    @cached_property
    def appearance(self) -> Appearance:
        """What was chosen for the waiting page; the nearest choice wins."""
        own = Appearance() if self._own is None else self._own.appearance
        settings = self._settings
        of_app = Appearance(template=settings.template, loading_img=settings.loading_img)
        return own.over(chosen_for(self.flow, self.step)).over(of_app)

    @cached_property
    def loading_img(self) -> str | None:
        """The address of the picture on the waiting page; None: a spinner."""
        chosen = self.appearance.loading_img
        return None if chosen is None else image_url(chosen)

    @property
    def next_url(self) -> str:
        """Where a waiting page goes once the run is at rest; empty: the page that is open."""
        callback = self.appearance.callback
        return "" if callback is None else callback_url(callback)

    @cached_property
    def steps(self) -> list[StepView]:
        """The steps on the way, in order, and where the run is."""
        try:
            flow = flow_named(self.flow)
        except CheckpointUnreadable:
            return []
        # The same for every run there: found once, since a graph may have many ways.
        found = _found.setdefault(flow, {})
        place = self.step, self.state == schema.DONE
        if place not in found:
            graph = definition_of(flow).graph
            found[place] = _steps(graph, self.step, finished=self.state == schema.DONE)
        return list(found[place])

    @cached_property
    def progress(self) -> ProgressView | None:
        """What the running step said last, or None."""
        progress = self._record.progress
        return None if progress is None else ProgressView(**progress)

    @property
    def error(self) -> str | None:
        """What the step raised, or why the run is blocked.

        None if neither is so, or if visitors are not to know: see ``FLOWROUTE_SHOW_ERRORS``.
        """
        error = self._record.error
        if error is None or not (self._settings.show_errors or current_app.debug):
            return None
        return f"{error['type']}: {error['message']}"

    @cached_property
    def results(self) -> tuple[Any, ...]:
        """What the run ended with, as the only item. Empty if it has not ended with a result.

        Empty as well, and logged, if the code that is deployed can not read it.
        """
        if self.state != schema.DONE or self.step is not None:
            return ()
        known = self._run if isinstance(self._run, Bookmark) else self.id
        try:
            return (self._engine.lookup.result_of(known),)
        except CheckpointUnreadable:
            logger.exception("run %s: its result can not be shown", self.id)
            return ()

    @cached_property
    def result(self) -> Any:
        """What the run ended with, shortened for people; None if it has not or had none."""
        return describe({"result": self.results[0]})["result"] if self.results else None

    @cached_property
    def age_seconds(self) -> float:
        """How long ago the run started, by the database's clock."""
        return round((self._record.now - self._record.created_at).total_seconds(), 1)

    @cached_property
    def token(self) -> str:
        """What opens this run to this visitor and to no other, or, if shared, to anyone."""
        return run_token(self._engine.codec, self.id, shared=self._shared)

    @cached_property
    def url(self) -> str:
        """The run's own address."""
        return url_for("flowroute.show", token=self.token)

    @property
    def state_url(self) -> str:
        """Where programs ask for the run's state."""
        return f"{self.url}/state"

    @property
    def retry_url(self) -> str:
        """Where a form asks for another try."""
        return f"{self.url}/retry"

    def hidden_field(self) -> Markup:
        """The hidden field that makes a form good for this run, at this page, once."""
        token = form_token(self._engine.codec, FormToken(self.id, self.seq, here()))
        return Markup('<input type="hidden" name="{}" value="{}">').format(FIELD, token)

    def script(self) -> Markup:
        """What makes any page live: put it into the head of your own loading template."""
        # Not render_template(): it needs nothing of what the application adds to every template.
        template = current_app.jinja_env.get_template("flowroute/script.html")
        return Markup(  # noqa: S704  # it is the output of our own escaping template
            template.render(
                run=self,
                next_url=self.next_url,
                socket_path=request.script_root + self._socket_path if self._socket_path else "",
                poll_seconds=self._settings.poll_seconds,
            )
        )

    def as_json(self) -> dict[str, Any]:
        """The run for programs, without its result."""
        body = state_of(self._record)
        body["error"] = self.error
        body["links"] = {"self": self.url, "state": self.state_url, "retry": self.retry_url}
        if self.waiting_for == schema.FOR_CHILDREN:
            child = self._engine.lookup.child_of(self._record)
            if child is not None:
                token = run_token(self._engine.codec, child.id, shared=self._shared)
                body["links"]["child"] = url_for("flowroute.show", token=token)
        return body

    def result_as_json(self) -> Any:
        """The whole result for programs; of what JSON can not say, what people are shown."""
        try:
            return to_jsonable_python(self.results[0], inf_nan_mode="null")
        except (PydanticSerializationError, ValueError):  # a row, an object, a circle
            return self.result


def state_of(record: RunRecord) -> dict[str, Any]:
    """What a waiting page is told of a run: nothing that is not for the visitor's eyes."""
    return {
        "id": record.id,
        "seq": record.seq,
        "state": record.state,
        "waiting_for": record.waiting_for,
        "step": record.step,
        "progress": record.progress,
        "at_rest": is_at_rest(record) or record.waiting_for in LOOK,
        "created_at": record.created_at.isoformat(),
    }


def in_words(name: str) -> str:
    """``charge_card``, ``ChargeCard`` and ``HTTPCharge`` as "Charge card" and "HTTP charge"."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^A-Z_]+", name)
    lowered = [word if len(word) > 1 and word.isupper() else word.lower() for word in words]
    text = " ".join(lowered)
    return text[:1].upper() + text[1:]


def _steps(graph: StepGraph, current: str | None, *, finished: bool) -> list[StepView]:
    if current is not None and all(node.name != current for node in graph):
        return []  # a step of yesterday's code: where that would be today, nobody knows
    listed = [graph.node(name) for name in itinerary(graph, current)]
    names = [node.name for node in listed]
    at = names.index(current) if current in names else len(names)
    views: list[StepView] = []
    for index, node in enumerate(listed):
        state = "done" if index < at else "current" if index == at else "todo"
        if finished and index == at:
            state = "done"
        title = _first_line(node.doc) or in_words(node.name)
        views.append(StepView(node.name, title, node.place.value, state))
    return views


def _first_line(doc: str | None) -> str:
    return (doc or "").strip().partition("\n")[0].rstrip(".")
