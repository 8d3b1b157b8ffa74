"""Faults that such systems have had: each of these tests is one that can not come back."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from flask import Blueprint, Flask
from flask_socketio import SocketIO
from flask_sqlalchemy import SQLAlchemy
from playwright.sync_api import expect
from redis import Redis
from sqlalchemy import event
from sqlalchemy.orm import Mapped, mapped_column

from flowroute.engine.context import current_run
from flowroute.flask import FlowRoute
from flowroute.flask.sockets import NAMESPACE
from tests.flask.conftest import SECRET
from tests.flask.live import Live
from tests.flask.support import HTML, JSON, Base, Line, Site, at_once, attributes
from tests.waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

    from tests.flask.conftest import MakeSite
    from tests.processes import Process, Processes
    from tests.services import RedisServer

ROOT = Path(__file__).parents[2]
QUEUE = "rq:queue:flowroute"


class Ledger(Base):
    """A row with a long method."""

    __tablename__ = "ledger"

    id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[int] = mapped_column(default=0)

    def add_up(self) -> int:
        self.total = 2 * self.id
        return self.id


class Gate:
    """Where a task waits until its test lets it go on."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()


gates: dict[str, Gate] = {}


@pytest.fixture
def gate() -> Iterator[Callable[[str], Gate]]:
    """Call it with a name for a closed gate; all are open after the test."""

    def make(name: str) -> Gate:
        return gates.setdefault(name, Gate())

    yield make
    for each in gates.values():
        each.opened.set()
    gates.clear()


def pass_gate(name: str) -> str:
    """A task that waits at a gate."""
    gates[name].entered.set()
    assert gates[name].opened.wait(20)
    return f"passed {name}"


def write_after_gate(name: str) -> str:
    """A task that writes a line, waits at a gate, and returns."""
    context = current_run.get()
    assert context is not None
    context.session.add(Line(text=name))
    return pass_gate(name)


def raise_after_gate(name: str) -> str:
    """A task that raises."""
    pass_gate(name)
    raise LookupError("out of ink")


def answer() -> int:
    return 42


# -- an application with a worker of its own -------------------------------------------------------


def create_app() -> Flask:
    """The application of the workers: its database and Redis come from the environment."""
    app, db = Flask(__name__), SQLAlchemy()
    app.config.update(
        SECRET_KEY=SECRET,
        SQLALCHEMY_DATABASE_URI=os.environ["SITE_DATABASE"],
        FLOWROUTE_REDIS_URL=os.environ["SITE_REDIS"],
        FLOWROUTE_LEASE_SECONDS=2,
    )
    db.init_app(app)
    FlowRoute(app, db=db)
    return app


class StartWorker(Protocol):
    """Starts a worker for a site."""

    def __call__(self, database: str, redis_url: str) -> Process:
        """Start it, and wait until it takes jobs."""
        ...


@pytest.fixture
def start_worker(process: Processes) -> StartWorker:
    """Call it to start `flask flow worker`."""

    def start(database: str, redis_url: str) -> Process:
        worker = process(
            [sys.executable, "-m", "flask", "--app", f"{__name__}:create_app", "flow", "worker"],
            env={"SITE_DATABASE": database, "SITE_REDIS": redis_url},
            cwd=ROOT,
        )
        worker.wait_for_line("Listening on", timeout_seconds=60)
        return worker

    return start


def with_queue(make_site: MakeSite, database: str, redis_url: str) -> Site:
    """A site whose tasks go to RQ."""
    return make_site(
        database, executor="rq", FLOWROUTE_REDIS_URL=redis_url, FLOWROUTE_LEASE_SECONDS=2
    )


# -- one run, one job ------------------------------------------------------------------------------


def test_ten_first_requests_at_once_to_a_new_key_are_one_run_and_one_job(
    make_site: MakeSite, database_url: str, redis_url: str
) -> None:
    site = with_queue(make_site, database_url, redis_url)
    together = threading.Barrier(10)

    def view() -> Any:
        task = site.flows.task(answer, key="k")
        assert task.run is None
        together.wait(30)
        return task()

    site.route("/", view)
    statuses = list(at_once(10, lambda _: site.client().get("/").status_code))
    assert statuses == [202] * 10
    assert len(site.runs) == 1
    with Redis.from_url(redis_url) as redis:
        assert redis.llen(QUEUE) == 1
        assert len(redis.keys("rq:job:flowroute-*")) == 1


def test_a_task_may_take_longer_than_the_180_seconds_that_rq_allows_by_itself(
    make_site: MakeSite, sqlite_url: str, redis_url: str
) -> None:
    site = with_queue(make_site, sqlite_url, redis_url)
    with site.app.app_context():
        site.flows.task(answer, key="k").start()
    with Redis.from_url(redis_url, decode_responses=True) as redis:
        (job,) = redis.keys("rq:job:flowroute-*")
        assert redis.hget(job, "timeout") == "-1"  # RQ's word for: as long as it takes


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_however_slow_the_commit_a_worker_that_waits_for_jobs_finds_every_row(
    make_site: MakeSite, database_url: str, redis_url: str, start_worker: StartWorker
) -> None:
    site = with_queue(make_site, database_url, redis_url)
    worker = start_worker(database_url, redis_url)
    with site.app.app_context():
        event.listen(site.db.engine, "commit", lambda _connection: time.sleep(0.03))  # the fault
        tasks, ids = [], []
        for number in range(100):
            ledger = Ledger()
            site.db.session.add(ledger)
            site.db.session.flush()
            tasks.append(site.flows.task(ledger.add_up, key=f"{number}").start())
            ids.append(ledger.id)
        assert [run.wait(timeout_seconds=60).result for run in tasks] == ids
        site.db.session.expire_all()
        assert [site.db.session.get_one(Ledger, each).total for each in ids] == [2 * i for i in ids]
    assert worker.returncode is None


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["flushed", "restarted empty"])
def test_a_task_that_redis_forgot_is_finished_all_the_same(
    make_site: MakeSite,
    sqlite_url: str,
    redis_server: RedisServer,
    start_worker: StartWorker,
    fault: str,
) -> None:
    site = with_queue(make_site, sqlite_url, redis_server.url)
    with site.app.app_context():
        lost = [site.flows.task(answer, key=f"{n}").start() for n in range(3)]
    with Redis.from_url(redis_server.url) as redis:
        assert redis.llen(QUEUE) == 3
    if fault == "flushed":
        redis_server.flush()
    else:
        redis_server.kill()
        redis_server.start()
    worker = start_worker(sqlite_url, redis_server.url)
    with site.app.app_context():
        assert [run.wait(timeout_seconds=40).result for run in lost] == [42] * 3
    assert worker.returncode is None


# -- resets ----------------------------------------------------------------------------------------


def test_a_task_that_was_reset_while_it_ran_can_not_mark_the_new_one_finished(
    make_site: MakeSite, sqlite_url: str, gate: Callable[[str], Gate]
) -> None:
    site = make_site(sqlite_url, executor="thread")
    old, new = gate("old"), gate("new")
    with site.app.app_context():
        engine = site.flows.engine
        first = site.flows.task(write_after_gate, "old", key="k")
        stale = first.start()
        engine.executor.start()
        assert old.entered.wait(20)
        first.reset()
        second = site.flows.task(pass_gate, "new", key="k")
        fresh = second.start()
        assert new.entered.wait(20)
        old.opened.set()
        last = site.flows.task(answer, key="after the old one").start()
        assert last.wait(timeout_seconds=20).result == 42
        assert (stale.state, second.finished) == ("cancelled", False)
        new.opened.set()
        assert fresh.wait(timeout_seconds=20).result == "passed new"
        assert site.flows.task(answer, key="k").result == "passed new"  # type: ignore[comparison-overlap]  # the key's, not the function's
    site.close()  # the old one's thread has ended, too
    assert stale.state == "cancelled"
    assert site.lines == []


# -- in a browser ----------------------------------------------------------------------------------


@pytest.fixture
def serve() -> Iterator[Callable[[Site], Live]]:
    """Call it to serve a site until the test ends."""
    with ExitStack() as stack:
        yield lambda site: stack.enter_context(Live(site))


@pytest.fixture
def lively(make_site: MakeSite, sqlite_url: str) -> Site:
    """A site with threads, sockets, and a route whose task waits at a gate."""
    site = make_site(sqlite_url, executor="thread", socketio=SocketIO())
    task = site.flows.task

    def report(year: int) -> Any:
        waiting = task(pass_gate, f"{year}", key=f"{year}")
        return f"report of {year}: {waiting.result}" if waiting.finished else waiting()

    def broken() -> Any:
        return task(raise_after_gate, "broken", key="broken", callback="landing")()

    site.app.add_url_rule("/report/<int:year>", "report", report)

    def led() -> Any:
        return task(pass_gate, "led", key="led", callback="landing")()

    site.app.add_url_rule("/broken", "broken", broken)
    site.app.add_url_rule("/led", "led", led)
    site.app.add_url_rule("/landing/here", "landing", lambda: "landed")
    site.app.add_url_rule("/favicon.ico", "icon", lambda: ("", 204))
    return site


@pytest.fixture
def page(serve: Callable[[Site], Live], page: Page) -> Page:  # noqa: ARG001  # closed before it
    """A page that is closed before the site is."""
    return page


def expect_live(page: Page) -> None:
    """Wait until the loading page follows its run over a socket."""
    expect(page.get_by_text("Live", exact=True)).to_be_visible(timeout=15_000)


def test_a_task_that_raises_leaves_the_loading_page_within_two_seconds(
    page: Page,
    problems: Any,
    lively: Site,
    serve: Callable[[Site], Live],
    gate: Callable[[str], Gate],
) -> None:
    waiting = gate("broken")
    live = serve(lively)
    problems.allow("500")
    page.goto(f"{live.url}/broken")
    expect_live(page)
    began = time.monotonic()
    waiting.opened.set()
    expect(page.get_by_role("button", name="Try again")).to_be_visible(timeout=2_000)
    assert time.monotonic() - began < 2
    assert page.url == f"{live.url}/broken"
    expect(page.locator("#flowroute")).to_have_count(0)  # nothing goes on waiting


def test_a_route_with_parameters_and_a_query_is_returned_to_at_the_very_same_address(
    page: Page, lively: Site, serve: Callable[[Site], Live], gate: Callable[[str], Gate]
) -> None:
    waiting = gate("2026")
    address = f"{serve(lively).url}/report/2026?tab=a%20b&x=1&x=%26"
    page.goto(address)
    expect_live(page)
    waiting.opened.set()
    expect(page.locator("body")).to_have_text("report of 2026: passed 2026", timeout=15_000)
    assert page.url == address


def test_a_task_that_is_done_before_its_page_connects_is_not_missed(
    page: Page, lively: Site, serve: Callable[[Site], Live], gate: Callable[[str], Gate]
) -> None:
    waiting = gate("2026")
    live = serve(lively)

    def finish_first(route: Route) -> None:
        waiting.opened.set()
        wait_until(lambda: lively.run.state == "done")
        route.continue_()

    page.route("**/flowroute.js", finish_first)
    page.goto(f"{live.url}/report/2026")
    expect(page.locator("body")).to_have_text("report of 2026: passed 2026", timeout=15_000)


def test_the_browser_lands_at_the_callback_of_a_task(
    page: Page, lively: Site, serve: Callable[[Site], Live], gate: Callable[[str], Gate]
) -> None:
    waiting = gate("led")
    live = serve(lively)
    page.goto(f"{live.url}/led")
    expect_live(page)
    waiting.opened.set()
    expect(page.locator("body")).to_have_text("landed", timeout=15_000)
    assert page.url == f"{live.url}/landing/here"


# -- visitors --------------------------------------------------------------------------------------


def test_another_visitor_can_neither_look_at_nor_subscribe_to_a_task(
    make_site: MakeSite, sqlite_url: str
) -> None:
    socketio = SocketIO()
    site = make_site(sqlite_url, socketio=socketio)

    def start() -> Any:
        return site.flows.task(answer)()

    site.route("/start", start, ("POST",))
    ada, eve = site.client(), site.client()
    own = ada.post("/start").location
    token = attributes(ada.get(own), "#flowroute")["data-token"]
    eve.post("/start")  # a visitor who has a session and a task of her own
    for path in (own, f"{own}/state"):
        assert eve.get(path).status_code == 404
        assert ada.get(path).status_code in (200, 202)
    assert eve.post(f"{own}/retry").status_code == 404
    for client, expected in ((eve, "error"), (ada, "state")):
        socket = socketio.test_client(site.app, namespace=NAMESPACE, flask_test_client=client)
        told = socket.emit("subscribe", {"token": token}, namespace=NAMESPACE, callback=True)
        assert expected in (told or {})
        socket.disconnect(NAMESPACE)


@pytest.mark.parametrize(
    "address",
    [
        "/flow/1",
        "/flow/01a20000-0000-7000-8000-000000000000",
        "/flow/01a20000-0000-7000-8000-000000000000.c2lnbmVk",
    ],
)
@pytest.mark.parametrize("rest", ["", "/state"])
def test_the_id_of_a_task_opens_nothing_known_or_not(site: Site, address: str, rest: str) -> None:
    with site.app.app_context():
        known = site.flows.task(answer).start()
    client = site.client()
    for path in (address, f"/flow/{known.id}"):
        for headers in (HTML, JSON):
            assert client.get(path + rest, headers=headers).status_code == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "user@evil.example"])
def test_a_hostile_host_header_gets_into_no_page_and_no_redirect_of_a_task(
    site: Site, host: str
) -> None:
    def start() -> Any:
        return site.flows.task(answer, key="k", callback="landing")()

    site.route("/start", start)
    site.route("/landing", lambda: "landed")
    client = site.app.test_client(use_cookies=False)
    answers = [
        client.open("/start", method=method, headers=headers | {"Host": host})
        for method in ("GET", "POST")
        for headers in (HTML, JSON)
    ]
    site.work()
    answers.append(client.get("/start", headers=HTML | {"Host": host}))
    assert [each.status_code for each in answers] == [202, 202, 303, 202, 303]
    for each in answers:
        assert "evil" not in each.text
        assert "evil" not in str(each.headers)
    assert answers[-1].headers["Location"] == "/landing"


def test_a_task_for_posts_only_starts_by_no_get_and_is_waited_for_where_a_refresh_posts_nothing(
    site: Site,
) -> None:
    def start() -> Any:
        return site.flows.task(answer, key="k")()

    site.route("/start", start, ("POST",))
    client = site.client()
    assert client.get("/start").status_code == 405
    assert site.runs == []
    own = client.post("/start").location
    for _ in range(2):
        waiting = client.get(own)
        assert waiting.status_code == 202
        assert waiting.headers["Cache-Control"] == "no-store"
        assert attributes(waiting, "#flowroute")["data-next"] == ""
    site.work()
    assert "42" in client.get(own).text
    assert len(site.runs) == 1


# -- company ---------------------------------------------------------------------------------------


def test_two_applications_in_one_process_may_use_one_key_for_two_tasks(
    make_site: MakeSite, tmp_path: Path
) -> None:
    sites = [make_site(f"sqlite:///{tmp_path / name}.db") for name in ("a", "b")]
    for site in sites:
        with site.app.app_context():
            site.flows.task(len, "abc", key="k").start()
    sites[0].work()
    with sites[0].app.app_context():
        assert sites[0].flows.task(answer, key="k").finished
    with sites[1].app.app_context():
        assert not sites[1].flows.task(answer, key="k").finished
    sites[1].work()
    with sites[1].app.app_context():
        assert sites[1].flows.task(answer, key="k").result == 3


def test_a_blueprint_of_the_application_may_be_named_worker(site: Site) -> None:
    worker = Blueprint("worker", __name__, url_prefix="/worker", static_folder="static")
    worker.add_url_rule("/", "index", lambda: "the application's own")
    site.app.register_blueprint(worker)

    def start() -> Any:
        return site.flows.task(
            answer, key="k", callback="worker.index", loading_img="worker:w.gif"
        )()

    site.route("/start", start)
    client = site.client()
    waiting = client.get("/start")
    assert attributes(waiting, "img.picture")["src"] == "/worker/static/w.gif"
    site.work()
    assert client.get(client.get("/start").location).text == "the application's own"
