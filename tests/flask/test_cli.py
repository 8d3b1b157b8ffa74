"""`flask flow …`: the commands, for the engine of the Flask application."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from flask import Flask
from flask.cli import ScriptInfo

from flowroute.flask.cli import flow
from tests.flask.flows import SiteCard, SiteParcel
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

    from tests.flask.conftest import MakeSite
    from tests.flask.support import Site
    from tests.processes import Processes

ROOT = Path(__file__).parents[2]
UNKNOWN = "01a20000-0000-7000-8000-000000000000"


@pytest.fixture
def cli(site: Site) -> Callable[..., Result]:
    """Run a command of the site's."""
    return lambda *arguments: invoke(site.app, *arguments)


def invoke(app: Flask, *arguments: str) -> Result:
    """Run a command as `flask flow` does: no application has been loaded before."""
    return CliRunner().invoke(flow, arguments, obj=ScriptInfo(create_app=lambda: app))


@pytest.fixture
def failed(site: Site) -> str:
    """The id of a run that failed, at a bank that accepts the card from now on."""
    SiteCard.accepts.clear()
    with site.app.app_context():
        run = site.flows.engine.start(SiteCard().charge(), key="card")
        site.work()
    SiteCard.accepts.set()
    assert run.state == "failed"
    return run.id


def test_list_shows_the_runs_of_the_application(cli: Callable[..., Result], failed: str) -> None:
    listed = cli("list")
    assert listed.exit_code == 0, listed.output
    assert failed in listed.output
    assert "failed" in listed.output
    (document,) = json.loads(cli("list", "--json").stdout)
    assert (document["id"], document["state"], document["key"]) == (failed, "failed", "card")
    assert json.loads(cli("list", "--state", "done", "--json").stdout) == []


def test_show_tells_why_a_run_failed(cli: Callable[..., Result], failed: str) -> None:
    shown = cli("show", failed)
    assert shown.exit_code == 0, shown.output
    assert "CardRefusedError" in shown.output
    assert len(json.loads(cli("show", failed, "--json").stdout)["checkpoints"]) == 1


def test_retry_lets_it_go_on(cli: Callable[..., Result], site: Site, failed: str) -> None:
    assert cli("retry", failed).exit_code == 0
    site.work()
    with site.app.app_context():
        assert site.run.result == "charged"


def test_cancel_ends_it(cli: Callable[..., Result], site: Site) -> None:
    with site.app.app_context():
        run = site.flows.engine.start(SiteParcel(name="x").pack())
    assert cli("cancel", run.id).exit_code == 0
    assert site.run.state == "cancelled"


def test_recover_looks_once(cli: Callable[..., Result]) -> None:
    looked = cli("recover")
    assert (looked.exit_code, looked.output) == (0, "There was nothing to recover.\n")


def test_graph_draws_a_flow_of_the_application(cli: Callable[..., Result]) -> None:
    drawn = cli("graph", "SiteParcel", "--format", "mermaid")
    assert drawn.exit_code == 0, drawn.output
    assert "pack" in drawn.output
    assert "send" in drawn.output


@pytest.mark.parametrize("command", ["show", "retry", "cancel"])
@pytest.mark.parametrize("run_id", [UNKNOWN, "no-id", "\x00"])
def test_an_unknown_run_is_one_line_and_exit_code_1(
    cli: Callable[..., Result], command: str, run_id: str
) -> None:
    refused = cli(command, run_id)
    assert refused.exit_code == 1
    assert refused.stdout == ""
    assert refused.stderr.startswith("Error: There is no run ")
    assert refused.stderr.count("\n") == 1


def test_an_unknown_flow_is_one_line_and_exit_code_1(cli: Callable[..., Result]) -> None:
    refused = cli("graph", "SiteParcell")
    assert refused.exit_code == 1
    assert "SiteParcel" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_run_that_is_done_can_not_be_retried_and_says_so(
    cli: Callable[..., Result], site: Site, failed: str
) -> None:
    cli("retry", failed)
    site.work()
    refused = cli("retry", failed)
    assert refused.exit_code == 1
    assert "is done" in refused.stderr


def test_an_application_without_flowroute_is_one_line_and_exit_code_1() -> None:
    refused = invoke(Flask("bare"), "list")
    assert refused.exit_code == 1
    assert "flows.init_app" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_an_application_without_tables_is_one_line_and_exit_code_1(
    make_site: MakeSite, sqlite_url: str
) -> None:
    site = make_site(sqlite_url)
    with site.app.app_context():
        site.db.drop_all()
    refused = invoke(site.app, "list")
    assert refused.exit_code == 1
    assert "db.create_all()" in refused.stderr


def test_a_command_leaves_the_application_usable(
    cli: Callable[..., Result], site: Site, failed: str
) -> None:
    site.route("/", lambda: site.flows.respond(SiteParcel(name="x").pack(), key="k"))
    for _ in range(2):
        assert cli("show", failed).exit_code == 0
    assert site.client().get("/").status_code == 202


def test_help_needs_no_application() -> None:
    helped = CliRunner().invoke(flow, ["retry", "--help"])
    assert helped.exit_code == 0
    assert "Let a failed or blocked run go on" in helped.output
    listed = CliRunner().invoke(flow, ["--help"]).output
    for command in ("list", "show", "retry", "cancel", "recover", "graph", "worker"):
        assert f"\n  {command} " in listed


def test_flask_flow_is_there_once_it_is_installed_and_its_worker_runs_the_steps(
    make_site: MakeSite, sqlite_url: str, process: Processes
) -> None:
    site = make_site(sqlite_url)  # a web process whose own executor does nothing
    with site.app.app_context():
        run = site.flows.engine.start(SiteParcel(name="x").pack())
    command = [sys.executable, "-m", "flask", "--app", "tests.flask.application", "flow"]
    worker = process([*command, "worker"], env={"SITE_DATABASE": sqlite_url}, cwd=ROOT)
    with site.app.app_context():
        wait_until(lambda: run.state == "done", 60, what="the worker has run the step")
        assert [checkpoint.executor for checkpoint in run.checkpoints][:2] == ["script", "thread"]
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0, worker.output
