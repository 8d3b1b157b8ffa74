"""`flask flow …`: the commands of `flowroute`, for the engine of the Flask application."""

from __future__ import annotations

import click
from flask import current_app
from flask.cli import ScriptInfo

from flowroute.cli import EXIT_CODES, commands
from flowroute.engine.engine import Engine
from flowroute.flask.application import engine_of


@click.group("flow", epilog=EXIT_CODES)
def flow() -> None:
    """Look at the runs of this application, act on them, and run their worker steps."""


def _engine() -> Engine:
    context = click.get_current_context()
    if not current_app:
        # Commands of installed packages are found without the application; Flask loads it now.
        app = context.ensure_object(ScriptInfo).load_app()
        context.with_resource(app.app_context())
    return engine_of(current_app)


for _command in commands(_engine):
    flow.add_command(_command)
