"""`FlowRoute`: the Flask extension."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import Any, TypeVar, cast

from flask import Flask, Response, current_app, redirect, request
from flask_socketio import SocketIO
from flask_sqlalchemy import SQLAlchemy
from werkzeug.local import LocalProxy
from werkzeug.wrappers import Response as AnyResponse

from flowroute.engine import schema
from flowroute.engine.context import current_run
from flowroute.engine.continuation import Continuation
from flowroute.engine.engine import Engine
from flowroute.engine.local import ThreadExecutor
from flowroute.engine.ports import Executor
from flowroute.engine.run import Run
from flowroute.engine.turn import REQUEST, SUBMIT
from flowroute.errors import ConfigurationError, RedisUnreachable, TokenInvalid
from flowroute.flask.config import Settings
from flowroute.flask.presentation import RunView
from flowroute.flask.responses import answer_of, json_of, page_of, result_response, wants_json
from flowroute.flask.sockets import SocketNotifier, listen, path_of
from flowroute.flask.tokens import FIELD, form_of
from flowroute.flask.views import blueprint

T = TypeVar("T")

EXTENSION = "flowroute"
"""Key of ``app.extensions``."""

logger = logging.getLogger("flowroute.flask")


@dataclass(frozen=True)
class AppState:
    """What the extension keeps of one application, in ``app.extensions["flowroute"]``."""

    engine: Engine
    settings: Settings
    socketio: SocketIO | None


class FlowRoute:
    """Flows in a Flask application.

    Worker steps run on RQ where ``FLOWROUTE_REDIS_URL`` is set, else in threads of the web process.

    Config keys, all optional except that there must be a ``SECRET_KEY`` or ``FLOWROUTE_SECRET_KEYS``:

    =================================  ==========================================================================
    ``FLOWROUTE_REDIS_URL``            Redis for worker steps, such as ``redis://localhost:6379/0``
    ``FLOWROUTE_QUEUE``                the RQ queue of worker steps; ``"flowroute"``
    ``FLOWROUTE_THREADS``              worker steps at the same time in a process without Redis; 4
    ``FLOWROUTE_SECRET_KEYS``          signing keys, newest first; ``SECRET_KEY`` and ``SECRET_KEY_FALLBACKS``
    ``FLOWROUTE_LEASE_SECONDS``        how long a silent process keeps its runs; 30
    ``FLOWROUTE_URL_PREFIX``           where the pages of runs are; ``"/flow"``
    ``FLOWROUTE_POLL_SECONDS``         how often a page without a socket asks; 2
    ``FLOWROUTE_RETENTION``            how long finished runs are kept, `timedelta` or seconds; for ever
    ``FLOWROUTE_MAX_CHECKPOINT_BYTES`` largest checkpoint, in bytes; 2,000,000
    ``FLOWROUTE_SHOW_ERRORS``          whether a failed run's page tells visitors what was raised; only in debug
    =================================  ==========================================================================

    Parameters:
        app: The application; without it, call `init_app`.
        db: Flask-SQLAlchemy. Steps write through ``db.session``, and the tables join ``db.metadata``.
        socketio: Flask-SocketIO; without it, waiting pages poll.

    Raises:
        ConfigurationError: What is set can not work; the message says what to do.

    Example:
        >>> flows = FlowRoute()
        >>> flows.init_app(app, db=db, socketio=socketio)           # doctest: +SKIP
    """

    def __init__(
        self,
        app: Flask | None = None,
        db: SQLAlchemy | None = None,
        socketio: SocketIO | None = None,
    ) -> None:
        self._db = db
        self._socketio = socketio
        if app is not None:
            self.init_app(app)

    def init_app(
        self, app: Flask, db: SQLAlchemy | None = None, socketio: SocketIO | None = None
    ) -> None:
        """Set up one application; call it after ``db.init_app(app)``.

        Parameters:
            app: The application.
            db: Flask-SQLAlchemy, unless given to the constructor.
            socketio: Flask-SocketIO, unless given to the constructor.

        Raises:
            ConfigurationError: What is set can not work; the message says what to do.
        """
        db, socketio = db or self._db, socketio or self._socketio
        if EXTENSION in app.extensions:
            raise ConfigurationError(
                f"The application {app.name!r} has a FlowRoute already: create one, and call init_app() once."
            )
        if db is None or "sqlalchemy" not in app.extensions:
            raise ConfigurationError(
                "FlowRoute keeps runs in the application's database: call db.init_app(app) first, then "
                "flows.init_app(app, db=db)."
            )
        settings = Settings.from_config(app.config)
        schema.add_tables(db.metadata)
        with app.app_context():
            engine = Engine(
                db.session,
                executor=_executor(settings),
                notifier=None if socketio is None else SocketNotifier(socketio),
                secret_keys=settings.keys(app.config),
                lease_seconds=settings.lease_seconds,
                scope=app.app_context,
                retention=settings.retention,
                max_checkpoint_bytes=settings.max_checkpoint_bytes,
            )
        app.extensions[EXTENSION] = AppState(engine, settings, socketio)
        app.register_blueprint(blueprint(self, settings.url_prefix))
        app.context_processor(self._template_context)
        # With the first request, not with the import: `flask db migrate` imports the application too.
        app.before_request(engine.executor.start)
        if socketio is not None:
            listen(socketio, lambda: self.engine)
            _warn_without_message_queue(settings, socketio)

    # -- for the application --------------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """The current application's engine.

        Raises:
            ConfigurationError: There is no current application, or it was not set up.
        """
        return self._state.engine

    def respond(
        self,
        continuation: Continuation[Any],
        *,
        key: str | None = None,
        cache: bool = True,
        owner: str | None = None,
    ) -> AnyResponse:
        """Start a run, or find the one that holds `key`, and answer the request with where it is.

        A GET is answered in place, with the run's page, its result, or the loading page. Any other method is answered
        with 303 to the run's own address, so that a refresh never posts twice. A client that prefers JSON gets JSON.

        A GET that starts a run is as safe as its flow: browsers and crawlers repeat GETs. Give it a `key`, or let a
        POST start it.

        Parameters:
            continuation: A start step, called: ``Checkout(customer_id=7).reserve(cart)``.
            key: Makes the start idempotent, however often the request is repeated.
            cache: Whether later requests with this key get the same finished run; if False, the end is shown once, and
                the next request starts again.
            owner: Who starts it, as the application names people.

        Returns:
            The response: 200 with a page or result, 202 while the run goes on, 303 after a POST, 500 if it failed.
        """
        engine = self.engine
        posted = request.method not in ("GET", "HEAD")
        if posted and FIELD in request.form:
            return self._submitted(continuation, key)
        held = None if key is None or continuation.flow is None else engine.find(type(continuation.flow), key)
        if held is not None and posted and not cache and held.record.finished:
            held = held.reset() and None
        run = held or engine.start(continuation, key=key, owner=owner, caller=REQUEST)
        if wants_json():
            response: AnyResponse = json_of(self.view(run, shared=True))
        elif posted:
            return redirect(self.url_for(run), HTTPStatus.SEE_OTHER)
        else:
            response = self.present(run.id)
        if not cache and not posted and run.record.finished:
            run.reset()
        return response

    def url_for(self, run: Run[Any], *, shared: bool = False) -> str:
        """The run's own address, for a link or a redirect.

        Parameters:
            run: The run.
            shared: Good for whoever has the link, such as one sent by mail; otherwise for this visitor only.
        """
        return self.view(run, shared=shared).url

    def view(self, run: Run[Any], *, shared: bool = False) -> RunView:
        """A run for a template of your own: its steps, progress, links, and ``run.script()``."""
        return self._view(run.id, shared=shared)

    # -- for the views of this package ------------------------------------------------------------------

    def present(self, run_id: str) -> Response:
        """A run as it is now: its page, its result, or the page that waits for it.

        Raises:
            RunNotFound: There is no such run.
        """
        if wants_json():
            return json_of(self._view(run_id, shared=True))
        outcome = self.engine.visit(run_id, REQUEST)
        if outcome.answered:
            return answer_of(outcome)
        view = self._view(run_id)
        if view.state == schema.DONE:
            response = result_response(self.engine.result_of(run_id))
            if response is not None:
                return response
        return page_of(view, "flowroute/loading.html")

    def submit(self, run_id: str, *, seq: int | None, back: str) -> AnyResponse:
        """A visitor's answer to the page that a run is at.

        Parameters:
            run_id: The run.
            seq: The bookmark that the form was shown at; None: whichever it is.
            back: Where to look after the answer was taken, a local path.

        Returns:
            What the page answered, or 303 to where the run is now: the answer was taken, or was stale.
        """
        outcome = self.engine.visit(run_id, SUBMIT, seq=seq)
        if outcome.answered and not self.engine.read(run_id).finished:
            return answer_of(outcome)
        return redirect(back, HTTPStatus.SEE_OTHER)

    # -- inside -----------------------------------------------------------------------------------------

    @property
    def _state(self) -> AppState:
        state = current_app.extensions.get(EXTENSION) if current_app else None
        if state is None:
            raise ConfigurationError(
                "There is no application set up for flowroute here: call flows.init_app(app, db=db), and outside a "
                "request use `with app.app_context():`."
            )
        return cast("AppState", state)

    def _submitted(self, continuation: Continuation[Any], key: str | None) -> AnyResponse:
        """A form of a run's page that was posted to the application's own route."""
        try:
            form = form_of(self.engine.codec, request.form[FIELD])
        except TokenInvalid:
            return redirect(request.script_root + request.full_path, HTTPStatus.SEE_OTHER)
        return self.submit(form.run_id, seq=form.seq, back=form.back)

    def _view(self, run_id: str, *, shared: bool = False) -> RunView:
        state = self._state
        return RunView(
            state.engine,
            state.engine.read(run_id),
            state.settings,
            socket_path=path_of(state.socketio),
            shared=shared,
        )

    def _template_context(self) -> dict[str, Any]:
        context = current_run.get()
        if context is None:
            return {}
        view = cache(lambda: self._view(context.id))
        return {"run": LocalProxy(view)}  # read when a template asks for it


def _executor(settings: Settings) -> Executor:
    if settings.redis_url is None:
        return ThreadExecutor(settings.threads)
    from flowroute.rq import RQExecutor  # an application without Redis need not load it

    executor = RQExecutor(settings.redis_url, queue=settings.queue)
    try:
        executor.ping()
    except RedisUnreachable as error:
        # Not the end: runs are accepted, and recovery submits their steps once Redis is back.
        logger.warning("%s", error)
    return executor


def _warn_without_message_queue(settings: Settings, socketio: SocketIO) -> None:
    if settings.redis_url is not None and not (socketio.server_options or {}).get("message_queue"):
        logger.warning(
            "Worker steps run on RQ, but SocketIO has no message queue: browsers hear of them by polling only. Pass "
            "message_queue=%r to SocketIO.",
            "redis://…",
        )
