"""The application under chaos. Its settings come from the environment."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flowroute.errors import RunStateError
from flowroute.flask import FlowRoute
from tests.faults.chaos import variants
from tests.faults.chaos.flows import SHAPES, Base

db = SQLAlchemy(model_class=Base)
flows = FlowRoute()


def create_app() -> Flask:
    """The application, as gunicorn and ``flask flow worker`` load it."""
    variants.prepare()
    app = Flask("chaos")
    app.config.update(
        SECRET_KEY=os.environ["CHAOS_SECRET"],
        SQLALCHEMY_DATABASE_URI=os.environ["CHAOS_DATABASE"],
        SQLALCHEMY_ENGINE_OPTIONS={"pool_pre_ping": True},
        FLOWROUTE_REDIS_URL=os.environ["CHAOS_REDIS"],
        FLOWROUTE_LEASE_SECONDS=variants.lease_seconds(),
    )
    db.init_app(app)
    flows.init_app(app, db=db)

    def start(shape: str, key: str) -> Any:
        flow: Any = SHAPES[shape]()
        answer = flows.respond(flow.begin(), key=key)
        run = flows.engine.find(SHAPES[shape], key)
        if run is None:
            return answer
        return {"id": run.id, "url": flows.url_for(run)}  # whatever the run itself answers

    def cancel(run_id: str) -> Any:
        try:
            flows.engine.cancel(run_id)
        except RunStateError as error:  # it has ended meanwhile
            return str(error), 409
        return "cancelled"

    app.add_url_rule("/start/<shape>/<key>", view_func=start, methods=["POST"])
    app.add_url_rule("/cancel/<run_id>", view_func=cancel, methods=["POST"])
    return app
