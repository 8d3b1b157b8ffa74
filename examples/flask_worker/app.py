"""The application: a route for each example. ``flask --app flask_worker.app run``."""

from __future__ import annotations

import os
from pathlib import Path

from flask import Flask, request
from flask.typing import ResponseReturnValue
from flask_socketio import SocketIO

from flowroute.flask import FlowRoute

from .flows import Contract, Hello
from .models import SECONDS, db, get_employer

socketio = SocketIO()
flows = FlowRoute()


def create_app() -> Flask:
    """Make the application; the environment may say where its data and its Redis are."""
    app = Flask(__name__)
    home = Path(os.environ.get("EXAMPLE_HOME", app.instance_path)).absolute()
    home.mkdir(parents=True, exist_ok=True)
    redis_url = os.environ.get("EXAMPLE_REDIS_URL")
    app.config.update(
        SECRET_KEY="an example's key is no secret",  # noqa: S106
        SQLALCHEMY_DATABASE_URI=f"sqlite:///{home / 'data.db'}",
        FLOWROUTE_REDIS_URL=redis_url,
    )
    app.config.from_prefixed_env()
    db.init_app(app)
    socketio.init_app(app, async_mode="threading", message_queue=redis_url)
    flows.init_app(app, db=db, socketio=socketio)
    with app.app_context():
        db.create_all()
    for view in (
        example1_no_worker,
        example1,
        example2,
        example3,
        callback_route,
        example4_no_router,
        example4,
        example5,
        example6,
    ):
        app.add_url_rule("/" + view.__name__.replace("_", "-"), view_func=view)
    app.before_request(_announce)
    return app


def _announce() -> None:
    print(f"Request for {request.path}", flush=True)


# -- example 1: a complex task before the page -----------------------------------------------------


def example1_no_worker() -> ResponseReturnValue:
    """The problem: every request runs the task, and the browser waits for it."""
    get_employer("employer1-no-worker").complex_task(SECONDS)
    return "Example 1 (no worker) finished"


def example1() -> ResponseReturnValue:
    """The task runs once, however often this is requested, and its result is kept."""
    task = flows.task(get_employer("employer1").complex_task, seconds=SECONDS, key="example1")
    if not task.finished:
        return task()
    return "Example 1 finished"


# -- example 2: without caching --------------------------------------------------------------------


def example2() -> ResponseReturnValue:
    """The next visit after the end starts the task again."""
    task = flows.task(get_employer("employer2").complex_task, seconds=SECONDS, key="example2")
    if not task.finished:
        return task()
    task.reset()
    return "Example 2 finished"


# -- example 3: a callback -------------------------------------------------------------------------


def example3() -> ResponseReturnValue:
    """When the task has finished, the browser goes to the callback."""
    employer = get_employer("employer3")
    return flows.task(
        employer.complex_task, seconds=SECONDS, key="example3", callback="callback_route"
    )()


def callback_route() -> ResponseReturnValue:
    """An early visit waits here as well."""
    task = flows.task(get_employer("employer3").complex_task, seconds=SECONDS, key="example3")
    if not task.finished:
        return task()
    task.reset()
    return "Example 3 finished"


# -- example 4: functions that call one another ----------------------------------------------------


def example4_no_router() -> ResponseReturnValue:
    """The problem: every request runs all of them again."""
    for hello in ("hello world", "hello moon"):
        print(hello, flush=True)
    get_employer("employer4-no-router").complex_task(SECONDS)
    print("hello star", flush=True)
    return "Example 4 (no router) finished"


def example4() -> ResponseReturnValue:
    """Each function runs once; a refresh runs nothing again."""
    start = Hello(number=4).func1(get_employer("employer4"), "hello world")
    return flows.respond(start, key="example4")


# -- example 5: the same, starting anew after the end ----------------------------------------------


def example5() -> ResponseReturnValue:
    """As example 4, and the next visit after the end starts again."""
    start = Hello(number=5).func1(get_employer("employer5"), "hello world")
    return flows.respond(start, key="example5", cache=False)


# -- example 6: a flow that hands over to another --------------------------------------------------


def example6() -> ResponseReturnValue:
    """The other flow's page is shown here, and its result comes back."""
    return flows.respond(Contract().draft(get_employer("employer6")), key="example6")
