"""What flowroute keeps of one Flask application."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import cast

from flask import Flask
from flask_socketio import SocketIO

from flowroute.engine.engine import Engine
from flowroute.engine.local import InlineExecutor, ThreadExecutor
from flowroute.engine.ports import Executor
from flowroute.errors import ConfigurationError, RedisUnreachable
from flowroute.flask.config import Settings

EXTENSION = "flowroute"
"""Key of ``app.extensions``."""

logger = logging.getLogger("flowroute.flask")


@dataclass(frozen=True)
class AppState:
    """What the extension keeps of one application, in ``app.extensions["flowroute"]``."""

    engine: Engine
    settings: Settings
    socketio: SocketIO | None


def engine_of(app: Flask) -> Engine:
    """The engine of an application.

    Parameters:
        app: The application, or ``current_app``.

    Raises:
        ConfigurationError: There is no current application, or flowroute was not set up for it.
    """
    return state_of_app(app).engine


def state_of_app(app: Flask) -> AppState:
    """What `FlowRoute.init_app` left in an application.

    Raises:
        ConfigurationError: There is no current application, or flowroute was not set up for it.
    """
    state = app.extensions.get(EXTENSION) if app else None  # the proxy is false without one
    if state is None:
        raise ConfigurationError(
            "There is no application set up for flowroute here: call flows.init_app(app, db=db), "
            "and outside a request use `with app.app_context():`."
        )
    return cast("AppState", state)


def executor_of(settings: Settings) -> Executor:
    """The executor that the settings ask for."""
    if settings.executor == "inline":
        return InlineExecutor()
    if settings.executor == "thread" or settings.redis_url is None:
        return ThreadExecutor(settings.threads)
    from flowroute.rq import RQExecutor  # noqa: PLC0415  # an application without Redis needs no RQ

    executor = RQExecutor(settings.redis_url, queue=settings.queue)
    try:
        executor.ping()
    except RedisUnreachable as error:
        # Not the end: runs are accepted, and recovery submits their steps once Redis is back.
        logger.warning("%s", error)
    return executor
