"""Scripts written into every field that a page shows: none of them runs, in a real browser.

A canary is told of each call of a function that the scripts call, of each dialog, of each request
to another site, and of each violation of a strict policy, which is only reported, so that what it
would have stopped still runs.
"""

from __future__ import annotations

import types
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from flask_socketio import SocketIO
from jinja2 import ChoiceLoader, DictLoader
from markupsafe import Markup

from flowroute import Continuation, Flow, done, worker_step
from flowroute.engine import schema
from flowroute.engine.ports import Move
from flowroute.errors import ConfigurationError
from flowroute.flask.sockets import SocketNotifier
from tests.engine.support import set_column
from tests.flask.hostile import SCRIPTS
from tests.flask.live import Live
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Dialog, Page

    from flowroute import Run
    from tests.chromium import Problems
    from tests.flask.conftest import MakeSite
    from tests.flask.support import Site

POLICY = "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'self'"
WATCH = """
for (const name of ["alert", "confirm", "prompt", "print"]) {
  window[name] = (text) => canary(`${name} ${text}`);
}
document.addEventListener("securitypolicyviolation", (violation) =>
  canary(`policy ${violation.violatedDirective} ${violation.blockedURI} ${violation.sample}`));
"""
#: What would run once a visitor points, clicks or types, is found without doing so.
SEARCH = """() => [...document.querySelectorAll("*")].flatMap((element) => [
  ...[...element.attributes].filter(({name, value}) =>
    /^on/i.test(name) || name === "srcdoc" ||
    (/^(src|href|action|formaction|data)$/i.test(name) &&
      /^\\s*(javascript|data|vbscript):/i.test(value))
  ).map(({name, value}) => `${element.tagName} ${name}=${value}`),
  ...(element.tagName === "SCRIPT" && !element.src ? ["inline script"] : []),
])"""
OWN_TEMPLATE = (
    "<!doctype html><html><head>{{ run.script() }}<title>{{ run.title }}</title></head><body>"
    '<p title="{{ run.flow }}">{{ run.progress.message }}</p><p>{{ run.error }}</p>'
    "{{ run.hidden_field() }}{% for step in run.steps %}<i title='{{ step.title }}'></i>"
    "{% endfor %}<a href='{{ run.url }}'>{{ run.step }}</a></body></html>"
)


def hostile_flow(text: str, number: int) -> type[Any]:
    """A flow whose name and documentation are an attacker's."""

    def work(self: Any, argument: str) -> Continuation[Any]:
        del self
        return done((argument, Markup(argument), {argument: argument}))  # noqa: S704  # that is the attack

    work.__doc__ = text
    name = "".join(each for each in f"{number} {text}" if each.isprintable()).strip()[:100]

    def body(namespace: dict[str, Any]) -> None:
        namespace.update(__doc__=text, work=worker_step(start=True)(work), __module__=__name__)

    made: type[Any] = types.new_class("Hostile", (Flow,), {"name": name}, body)
    return made


class Canary:
    """What happened in the browser that should not."""

    def __init__(self, page: Page, site: Live) -> None:
        self.songs: list[str] = []
        self._page = page
        page.expose_function("canary", lambda *what: self.songs.append(str(what)))
        page.add_init_script(WATCH)
        page.on("dialog", self._opened)
        page.on("request", lambda request: self._asked(request.url, site.url))

    def _opened(self, dialog: Dialog) -> None:
        self.songs.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def _asked(self, url: str, own: str) -> None:
        if not url.startswith(f"{own}/"):
            self.songs.append(f"asked for {url}")

    def open(self, url: str) -> None:
        """Open a page, and search it for what waits for a visitor."""
        self._page.goto(url)
        self.songs += self._page.evaluate(SEARCH)


@contextmanager
def served(site: Site) -> Iterator[Live]:
    """Serve a site that reports what would violate a strict policy."""

    @site.app.after_request
    def protect(response: Any) -> Any:
        response.headers["Content-Security-Policy-Report-Only"] = POLICY
        return response

    site.app.add_url_rule("/favicon.ico", "icon", lambda: ("", 204))
    site.app.jinja_env.loader = ChoiceLoader(
        [DictLoader({"own.html": OWN_TEMPLATE}), site.app.jinja_env.loader or DictLoader({})]
    )
    with Live(site) as live:
        yield live


@pytest.fixture
def live(make_site: MakeSite, sqlite_url: str, request: pytest.FixtureRequest) -> Iterator[Live]:
    """A site that shows errors; with sockets where a test is about what they bring."""
    config: dict[str, Any] = {"FLOWROUTE_SHOW_ERRORS": True, "FLOWROUTE_POLL_SECONDS": 3600}
    if request.node.name.startswith("test_no_script_that_is_pushed"):
        config["socketio"] = SocketIO()
    if request.node.name.endswith("[own]"):
        config["FLOWROUTE_TEMPLATE"] = "own.html"
    with served(make_site(sqlite_url, **config)) as live:
        yield live


@pytest.fixture
def canary(page: Page, live: Live, problems: Problems) -> Canary:
    """The page that is watched."""
    problems.allow("the server responded with a status of")  # pages of runs that failed, pictures
    return Canary(page, live)


def start(site: Site, text: str, number: int) -> Run[Any]:
    """A run that waits, with an attacker's text wherever there is room for it."""
    flow = hostile_flow(text, number)
    short = text.replace("\x00", "")[:200]
    return site.flows.engine.start(flow().work(text), key=f"{number}{short}"[:200], owner=short)


def a_task(site: Site, text: str) -> Run[Any]:
    """A task with an attacker's name, picture and callback."""

    def function() -> str:
        return "done"

    function.__name__ = text
    try:
        return site.flows.task(
            function, loading_img=f"/pictures/{text}", callback=f"/{text}"
        ).start()
    except ConfigurationError:  # no address of this site, and so refused
        return site.flows.task(function, loading_img=f"/pictures/{text}").start()


def become(site: Site, run: Run[Any], kind: str, text: str) -> None:
    """Bring a run to where a page of some kind is shown, with an attacker's text on it."""
    engine = site.flows.engine
    error = {"step": "work", "type": text[:100], "message": text, "attempt": 1, "traceback": text}
    if kind in ("loading", "own"):
        progress = {"done": 1.0, "total": 2.0, "message": text}
        set_column(engine, run, progress=progress, error=error)
    elif kind == "finished":
        engine.advance(run.id, 0)
    else:
        state = {
            "failed": {"finished_at": run.record.now},
            "cancelled": {"finished_at": run.record.now},
            "blocked": {},
        }[kind]
        set_column(engine, run, state=kind, waiting_for=None, error=error, **state)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "kind", ["loading", "own", "failed", "blocked", "cancelled", "finished", "task"]
)
def test_no_script_in_any_field_runs_on_the_page_of_a_run_that_is(
    live: Live, canary: Canary, kind: str
) -> None:
    site = live.site
    addresses: list[str] = []
    with site.app.test_request_context():
        for number, text in enumerate(SCRIPTS):
            run = a_task(site, text) if kind == "task" else start(site, text, number)
            if kind != "task":
                become(site, run, kind, text)
            addresses.append(site.flows.url_for(run, shared=True))
    for address, text in zip(addresses, SCRIPTS, strict=True):
        canary.open(live.url + address)
        assert canary.songs == [], text
    assert len(SCRIPTS) >= 40


def test_no_script_that_is_pushed_to_an_open_page_runs(
    page: Page, live: Live, canary: Canary
) -> None:
    site = live.site
    assert site.socketio is not None
    notifier = SocketNotifier(site.socketio)
    with site.app.test_request_context():
        run = start(site, "harmless", 0)
        address = site.flows.url_for(run, shared=True)
    canary.open(live.url + address)
    page.get_by_text("Live", exact=True).wait_for(state="visible")
    for number, text in enumerate(SCRIPTS, 1):
        progress = {"done": float(number), "total": 100.0, "message": text}
        notifier.moved(Move(run.id, 0, schema.RUNNING, None, text, progress))
        shown = page.locator("[data-flowroute=message]")
        wait_until(lambda shown=shown, text=text: shown.text_content() == text, what=text)  # type: ignore[misc]
    canary.songs += page.evaluate(SEARCH)
    assert canary.songs == []


def test_the_canary_sings_on_a_page_that_is_written_without_care(
    page: Page, live: Live, canary: Canary, problems: Problems
) -> None:
    problems.allow("Policy|policy|ERR_|uncaught|violat|Refused to")
    app = live.site.app
    heard = 0
    for number, text in enumerate(SCRIPTS):
        rule, endpoint = f"/unsafe/{number}", f"unsafe{number}"
        written = f"<!doctype html><title>x</title><p>{text}</p><p title='{text}'></p>"
        app.view_functions[endpoint] = lambda written=written: written
        app.url_map.add(app.url_rule_class(rule, endpoint=endpoint))
        canary.songs.clear()
        canary.open(f"{live.url}{rule}")
        page.wait_for_timeout(20)
        heard += bool(canary.songs)
    assert heard > 35
