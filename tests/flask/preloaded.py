"""An application that a server loads, and uses, before it forks its workers."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, jsonify
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import event

from flowroute import Continuation, Flow, done, step
from flowroute.flask import FlowRoute
from tests.flask.conftest import SECRET

UNGUARDED = "SITE_UNGUARDED"
"""If set, forked processes keep their parent's connections: to see that a test notices."""

MASTER = os.getpid()

db = SQLAlchemy()
app = Flask(__name__)
app.config.update(SECRET_KEY=SECRET, SQLALCHEMY_DATABASE_URI=os.environ["SITE_DATABASE"])
db.init_app(app)
flows = FlowRoute(app, db=db)


def remember_opener(_connection: Any, record: Any) -> None:
    record.info["opened in"] = os.getpid()


class Preloaded(Flow):
    """Tells which process it is in, and which one opened the connection that it has."""

    @step(start=True)
    def look(self) -> Continuation[dict[str, int]]:
        opened_in = self.session.connection().info["opened in"]
        return done({"pid": os.getpid(), "opened in": opened_in, "master": MASTER})


@app.get("/look")
def look() -> Any:
    return jsonify(flows.engine.start(Preloaded().look()).result)


with app.app_context():
    event.listen(db.engine, "connect", remember_opener)
    if UNGUARDED in os.environ:
        flows.engine.after_fork = lambda: None  # type: ignore[method-assign]
    db.create_all()
    flows.engine.runs()  # and so there is a connection to inherit
