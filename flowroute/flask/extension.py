"""`FlowRoute`: the Flask extension."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from http import HTTPStatus
from typing import Any, ParamSpec, TypeVar

from flask import Flask, Response, current_app, request, url_for
from flask_socketio import SocketIO
from flask_sqlalchemy import SQLAlchemy
from werkzeug.wrappers import Response as AnyResponse

from flowroute.engine import schema
from flowroute.engine.context import RunContext, current_run
from flowroute.engine.continuation import Continuation
from flowroute.engine.engine import Engine
from flowroute.engine.records import Bookmark, RunRecord
from flowroute.engine.run import Run
from flowroute.engine.turn import REQUEST, SUBMIT
from flowroute.errors import ConfigurationError, RunNotFound
from flowroute.flask.appearance import check_callback
from flowroute.flask.application import EXTENSION, AppState, engine_of, executor_of, state_of_app
from flowroute.flask.config import Settings
from flowroute.flask.presentation import RunView
from flowroute.flask.responses import (
    answer_of,
    json_of,
    page_of,
    result_response,
    see_other,
    wants_json,
)
from flowroute.flask.sockets import SocketNotifier, lacks_message_queue, listen, path_of
from flowroute.flask.tasks import WORK, Task, TaskFlow, key_maker, storable, title_of
from flowroute.flask.tokens import FormToken, here, run_token
from flowroute.flask.views import blueprint, form_sent

P = ParamSpec("P")
T = TypeVar("T")

_OVER = (schema.DONE, schema.CANCELLED)
"""The ends after which ``respond(cache=False)`` starts again; a failed run waits for its retry."""

_LOOKS = ("GET", "HEAD")
"""The methods that are answered in place."""

logger = logging.getLogger("flowroute.flask")


class FlowRoute:
    """Flows in a Flask application.

    Worker steps run on RQ where ``FLOWROUTE_REDIS_URL`` is set, else in threads of the web process.

    Config keys, read by `init_app`; there must be a ``SECRET_KEY``, all else is optional:

    ==================================  ============================================================
    ``FLOWROUTE_REDIS_URL``             Redis for worker steps, ``redis://localhost:6379/0``; none
    ``FLOWROUTE_EXECUTOR``              ``"rq"``, ``"thread"``, or, for tests, ``"inline"``: inside
                                        the request; ``"rq"`` if there is a Redis, else ``"thread"``
    ``FLOWROUTE_QUEUE``                 the RQ queue of worker steps; ``"flowroute"``
    ``FLOWROUTE_THREADS``               worker steps at the same time in a process with threads; 4
    ``FLOWROUTE_SECRET_KEYS``           signing keys, newest first; ``SECRET_KEY`` and
                                        ``SECRET_KEY_FALLBACKS``
    ``FLOWROUTE_LEASE_SECONDS``         how long a silent process keeps its runs; 30
    ``FLOWROUTE_URL_PREFIX``            where the pages of runs are; ``"/flow"``
    ``FLOWROUTE_TEMPLATE``              the waiting page of runs that chose none; flowroute's own
    ``FLOWROUTE_LOADING_IMG``           the picture on it: see `loading`; a spinner
    ``FLOWROUTE_POLL_SECONDS``          how often a page without a socket asks; 2
    ``FLOWROUTE_RETENTION``             how long finished runs are kept, `timedelta` or seconds; for
                                        ever
    ``FLOWROUTE_MAX_CHECKPOINT_BYTES``  largest checkpoint, in bytes; 2,000,000
    ``FLOWROUTE_SHOW_ERRORS``           whether visitors are told what a step raised; only in debug
    ==================================  ============================================================

    Parameters:
        app: The application; without it, call `init_app`.
        db: Flask-SQLAlchemy. Steps write through ``db.session``, and the tables join
            ``db.metadata``.
        socketio: Flask-SocketIO; without it, waiting pages poll.

    Raises:
        ConfigurationError: What is set can not work; the message says what to do.

    Example:
        >>> flows = FlowRoute()
        >>> flows.init_app(app, db=db, socketio=socketio)  # doctest: +SKIP
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
        """Set up one application, after ``db.init_app(app)`` and ``socketio.init_app(app)``.

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
                f"The application {app.name!r} has a FlowRoute already: create one, and call "
                "init_app() once."
            )
        its_own: object = app.extensions.get("sqlalchemy")
        if db is None or its_own is not db:
            raise ConfigurationError(
                "FlowRoute keeps runs in the application's database: call db.init_app(app) first, "
                "then flows.init_app(app, db=db)."
            )
        settings = Settings.of(app)
        schema.add_tables(db.metadata)
        with app.app_context():
            engine = Engine(
                db.session,
                executor=executor_of(settings),
                notifier=None if socketio is None else SocketNotifier(socketio),
                secret_keys=settings.keys(app),
                lease_seconds=settings.lease_seconds,
                scope=app.app_context,
                retention=settings.retention,
                max_checkpoint_bytes=settings.max_checkpoint_bytes,
            )
        app.extensions[EXTENSION] = AppState(engine, settings, socketio)
        app.register_blueprint(blueprint(self, settings.url_prefix))
        app.context_processor(self._template_context)
        # With the first request, not with the import: `flask db migrate` imports the application
        # too.
        app.before_request(engine.executor.start)
        if socketio is not None:
            listen(socketio, lambda: self.engine)
            if engine.executor.name == "rq" and lacks_message_queue(socketio):
                logger.warning(
                    "Worker steps run on RQ, but SocketIO has no message queue: browsers hear of "
                    "them by polling only. Pass SocketIO the message_queue=, such as the URL in "
                    "FLOWROUTE_REDIS_URL."
                )

    # -- for the application -----------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """The current application's engine.

        Raises:
            ConfigurationError: There is no current application, or it was not set up.
        """
        return engine_of(current_app)

    def respond(
        self,
        continuation: Continuation[Any],
        *,
        key: str | None = None,
        cache: bool = True,
        owner: str | None = None,
    ) -> AnyResponse:
        """Start a run, or find the one that holds `key`, and answer the request with where it is.

        A GET with a key is answered in place: with the run's page, its result, or the loading page,
        which leads back to the same address. Any other method is answered with 303 to the run's own
        address, so that a refresh never posts twice; and so is a GET without a key, unless the run
        is done at once. A client that prefers JSON gets JSON.

        A GET that starts a run is as safe as its flow: browsers and crawlers repeat GETs. Give it a
        `key`, or let a POST start it. A HEAD starts nothing.

        A form on a run's page may be posted here, to the application's own address, if it carries
        ``{{ run.hidden_field() }}``: it is then an answer to that page and starts nothing.

        What the view wrote through ``db.session`` before commits together with the start of the
        run, or not at all.

        Parameters:
            continuation: A start step, called: ``Checkout(customer_id=7).reserve(cart)``.
            key: Makes the start idempotent, however often the request is repeated. Whoever asks
                with the same key is shown the same run: put into it whom the run is for.
            cache: Whether later requests with this key get the same run once it is done; if False,
                the end is shown once, and the next request starts again. A failed run is kept
                either way, since it can be retried.
            owner: Who starts it, as the application names people.

        Returns:
            The response: 200 with a page or result, 202 while the run goes on, 303 to the run's
            address, 500 if it failed. A text that the run ended with is sent as HTML, as if a view
            had returned it: escape in it what came from visitors.

        Raises:
            TransitionError: The flow can not start with this step.
            ArgumentError: `key` or `owner` is empty or too long.
            UnstorableValue: An argument can not be part of a checkpoint; nothing was stored.
            TablesMissing: The tables do not exist.
        """
        engine = self.engine
        looks = request.method in _LOOKS
        if not looks and (form := form_sent(engine.codec)) is not None:
            return self._submitted(form)
        bookmark = None if key is None else engine.held_bookmark(continuation, key)
        over = None
        if bookmark is not None and not (looks or cache) and bookmark.record.state in _OVER:
            over = bookmark.record.id
            bookmark = None
        if bookmark is None and request.method == "HEAD":
            return Response(status=HTTPStatus.NO_CONTENT)
        if bookmark is None:
            run = engine.start(continuation, key=key, owner=owner, caller=REQUEST, instead_of=over)
            if not (looks or wants_json()):
                return self._redirect_to(run.id)
            bookmark = engine.lookup.bookmark(run.id)
        response, ended = self._answer(bookmark)
        if ended and not cache and request.method == "GET":
            engine.reset(bookmark.record.id)
        return response

    def answer(self, run: Run[Any]) -> AnyResponse:
        """Answer the request with where a run is, as `respond` does.

        Parameters:
            run: A run that was started before.

        Raises:
            RunNotFound: The run was deleted.
        """
        return self._answer(self.engine.lookup.bookmark(run.id))[0]

    def task(
        self,
        function: Callable[..., T],
        /,
        *args: Any,
        key: str | None = None,
        callback: str | None = None,
        template: str | None = None,
        loading_img: str | None = None,
        owner: str | None = None,
        **kwargs: Any,
    ) -> Task[T]:
        """A long function as a task: a flow of one step, which runs it on a worker.

        Nothing starts before the task is called, or its `Task.start`.

        Parameters:
            function: A function, a method of one of your rows, a `functools.partial`, or a lambda.
                A row is passed by its identity, and what the function changes in it is saved.
            args: Its arguments.
            key: Makes the task one: whoever names it again has the same task and its result.
                Without it, every task is a new one.
            callback: Where the browser goes once it has finished: an endpoint, or a path on this
                site. Default: the page that waits.
            template: A waiting page of its own; see `loading`.
            loading_img: A picture for the waiting page; see `loading`.
            owner: Who starts it, as the application names people.
            kwargs: More of its arguments; use a partial for one named like a parameter here.

        Returns:
            The task.

        Raises:
            ConfigurationError: `callback` leads to another site, or nowhere.

        Example:
            >>> task = flows.task(employer.write_report, year=2026, key="report-2026")
            >>> return f"Report: {task.result}" if task.finished else task()
        """
        if callback is not None:
            check_callback(callback)
        flow = TaskFlow(
            title=title_of(function), template=template, loading_img=loading_img, callback=callback
        )
        return Task(self, flow.work(function, args, kwargs), key=key, owner=owner)

    def task_view(
        self,
        *,
        key: str,
        cache: bool = True,
        template: str | None = None,
        loading_img: str | None = None,
    ) -> Callable[[Callable[P, Any]], Callable[P, AnyResponse]]:
        """Make a view whose work is one long function a task.

        The function runs on a worker, without a request: give it what it needs by the URL's
        parameters. Visitors wait, and are shown what it returned.

        Parameters:
            key: Makes visits one task; the URL's parameters are filled in: ``"report-{year}"``.
            cache: Whether the result is kept; if False, it is shown once, and the next visit starts
                again.
            template: A waiting page of its own; see `loading`.
            loading_img: A picture for the waiting page; see `loading`.

        Returns:
            A decorator, below the route's.

        Raises:
            ConfigurationError: `key` names what the view does not take.

        Example:
            >>> @app.get("/report/<int:year>")
            ... @flows.task_view(key="report-{year}")
            ... def report(year: int) -> str:
            ...     return write_report(year)
        """

        def decorate(view: Callable[P, Any]) -> Callable[P, AnyResponse]:
            key_of = key_maker(view, key)

            @wraps(view)
            def answer(*args: P.args, **kwargs: P.kwargs) -> AnyResponse:
                flow = TaskFlow(title=title_of(view), template=template, loading_img=loading_img)
                start = flow.work(storable(view), args, dict(kwargs))
                return self.respond(start, key=key_of(*args, **kwargs), cache=cache)

            setattr(answer, WORK, view)
            return answer

        return decorate

    def url_for(
        self, run: Run[Any] | RunContext, *, shared: bool = False, external: bool = False
    ) -> str:
        """The run's own address, for a link or a redirect.

        Parameters:
            run: The run; inside a step, `self.run`.
            shared: Good for whoever has the link, such as one sent by mail; otherwise for this
                visitor only. Outside a request, links are always shared.
            external: With scheme and host. Flask takes the host from the request, so set
                ``TRUSTED_HOSTS`` before you send such a link to anybody.
        """
        token = run_token(self.engine.codec, run.id, shared=shared)
        # Outside a request Flask makes external addresses only.
        return url_for("flowroute.show", token=token, _external=external or None)

    def view(self, run: Run[Any], *, shared: bool = False) -> RunView:
        """A run for a template of your own: its steps, progress, links, and ``run.script()``.

        Parameters:
            run: The run.
            shared: Whether its links open the run to whoever has them.

        Raises:
            RunNotFound: The run was deleted.
        """
        return self.view_of(run.record, shared=shared)

    # -- for the views of this package -------------------------------------------------------------

    def view_of(self, run: Bookmark | RunRecord | RunContext, *, shared: bool = False) -> RunView:
        """As `view`, of a run that was read already, or of the step that is running."""
        state = state_of_app(current_app)
        path = path_of(state.socketio)
        return RunView(state.engine, run, state.settings, socket_path=path, shared=shared)

    def present(self, run_id: str) -> AnyResponse:
        """A run as it is now: its page, its result, or the page that waits for it.

        Raises:
            RunNotFound: There is no such run.
        """
        if wants_json():
            # Programs keep no cookies.
            return json_of(self.view_of(self.engine.lookup.bookmark(run_id), shared=True))
        return self._look(run_id)[0]

    def submit(self, run_id: str, *, seq: int | None, back: str) -> AnyResponse:
        """A visitor's answer to the page that a run is at.

        Parameters:
            run_id: The run.
            seq: The bookmark that the form was shown at; None: whichever it is.
            back: Where to look after the answer was taken, a local path.

        Returns:
            What the page answered; or 303 to where the run is now, if the answer was taken or came
            too late.

        Raises:
            RunNotFound: There is no such run.
        """
        outcome = self.engine.visit(run_id, SUBMIT, seq=seq)
        if outcome.answered:
            return answer_of(outcome)
        return see_other(back)

    # -- inside ------------------------------------------------------------------------------------

    def _answer(self, bookmark: Bookmark) -> tuple[AnyResponse, bool]:
        """The answer to a request for a run, and whether it shows the run's end."""
        record = bookmark.record
        if wants_json():
            return json_of(self.view_of(bookmark, shared=True)), record.state in _OVER
        if request.method not in _LOOKS or (record.key is None and record.state != schema.DONE):
            return self._redirect_to(record.id), False
        return self._look(bookmark)

    def _look(self, run: str | Bookmark) -> tuple[AnyResponse, bool]:
        """The page of a run as it is now, and whether it shows the run's end."""
        outcome = self.engine.visit(run, REQUEST)
        if outcome.answered:
            return answer_of(outcome), outcome.ended
        run_id = run if isinstance(run, str) else run.record.id
        view = self.view_of(outcome.bookmark or self._current(run_id))
        if view.state == schema.DONE and view.next_url not in ("", here()):
            return see_other(view.next_url), True
        return result_response(view) or page_of(view), view.state in _OVER

    def _current(self, run_id: str) -> Bookmark:
        return self.engine.lookup.bookmark(self.engine.lookup.current(run_id).id)

    def _redirect_to(self, run_id: str) -> AnyResponse:
        token = run_token(self.engine.codec, run_id)
        return see_other(url_for("flowroute.show", token=token))

    def _submitted(self, form: FormToken) -> AnyResponse:
        """A form of a run's page that was posted to the application's own address."""
        try:
            return self.submit(form.run_id, seq=form.seq, back=form.back)
        except RunNotFound as error:
            if error.run_id != form.run_id:
                raise  # the page looked for some other run
            return see_other(form.back)  # deleted, its retention was over

    def _template_context(self) -> dict[str, Any]:
        context = current_run.get()
        return {} if context is None else {"run": self.view_of(context)}
