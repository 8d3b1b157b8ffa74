"""`db.session` inside a step: the dispatcher commits it, and nobody else."""

from __future__ import annotations

from typing import Any

import pytest
from flask import current_app
from flask_sqlalchemy import SQLAlchemy

from flowroute import Continuation, Flow, done, step, worker_step
from tests.flask.support import Line, Site


def db_session() -> Any:
    """The application's own session, as its code names it."""
    extension = current_app.extensions["sqlalchemy"]
    assert isinstance(extension, SQLAlchemy)
    return extension.session


class Eager(Flow):
    """Commits by itself, in a request or on a worker."""

    way: str

    @step(start=True)
    def here(self) -> Continuation[str]:
        return self.commit()

    @worker_step(start=True)
    def elsewhere(self) -> Continuation[str]:
        return self.commit()

    def commit(self) -> Continuation[str]:
        session = db_session()
        session.add(Line(text="half of a step"))
        if self.way == "commit":
            session.commit()
        elif self.way == "begin":
            session.rollback()
            with session.begin():
                session.add(Line(text="half of a step"))
        elif self.way == "inner session":
            session().commit()
        return done("committed")


@pytest.mark.parametrize("way", ["commit", "begin", "inner session"])
@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_a_step_that_commits_the_applications_session_is_refused(
    site: Site, way: str, where: str
) -> None:
    flow = Eager(way=way)
    site.route("/", lambda: site.flows.respond(getattr(flow, where)(), key="k"))
    client = site.client()
    client.post("/")
    site.work()
    error = site.run.error
    assert site.run.state == "failed"
    assert error is not None
    assert error.type == "CommitRefused"
    assert f"The step Eager.{where} called commit()" in error.message
    assert "@worker_step(commits=True)" in error.message
    assert site.lines == []


def test_what_a_step_leaves_in_the_applications_session_is_committed_with_its_checkpoint(
    site: Site,
) -> None:
    """So that what is refused above is refused for the commit."""
    site.route("/", lambda: site.flows.respond(Eager(way="").elsewhere(), key="k"))
    site.client().post("/")
    assert site.lines == []
    site.work()
    assert (site.run.state, site.lines) == ("done", ["half of a step"])
