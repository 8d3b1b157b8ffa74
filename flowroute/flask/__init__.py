"""flowroute in a Flask application: `FlowRoute` and `page`."""

from flowroute.flask.appearance import loading
from flowroute.flask.extension import FlowRoute
from flowroute.flask.pages import page

__all__ = ["FlowRoute", "loading", "page"]
