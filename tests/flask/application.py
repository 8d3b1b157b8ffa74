"""The application that `flask flow` loads in tests; its database comes from the environment."""

from __future__ import annotations

import os

from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flowroute.flask import FlowRoute
from tests.flask import flows as flows_of_the_tests
from tests.flask.conftest import SECRET

__all__ = ["app", "flows_of_the_tests"]

db = SQLAlchemy()
app = Flask(__name__)
app.config.update(SECRET_KEY=SECRET, SQLALCHEMY_DATABASE_URI=os.environ["SITE_DATABASE"])
db.init_app(app)
FlowRoute(app, db=db)
