"""A site with one run on it that a test moves by hand, for tests of the pages and their script.

It speaks the protocol of flowroute's own views over real HTTP and real websockets, and renders
flowroute's own templates, but no engine stands behind it: the test says what the run does, what the
server answers, and when.
"""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    make_response,
    redirect,
    render_template,
    render_template_string,
    request,
    url_for,
)
from flask_socketio import SocketIO, join_room
from jinja2 import StrictUndefined
from markupsafe import Markup
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from wsgiref.types import StartResponse, WSGIEnvironment

    from werkzeug.wrappers import Response as AnyResponse

LEAF = Path(__file__).parents[2] / "flowroute" / "flask"
NAMESPACE = "/flowroute"
TOKEN = "the-token.of-the-run"  # noqa: S105  # nothing is protected by it
HIDDEN_NAME, HIDDEN_VALUE = "flowroute_seq", "4.signed"
STRICT_POLICY = (
    "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)


@dataclass
class Progress:
    done: float
    total: float
    message: str

    @property
    def percent(self) -> float:
        """How much is done, in percent."""
        return 100 * self.done / self.total


@dataclass
class Step:
    name: str
    title: str
    kind: str
    state: str


def checkout_steps() -> list[Step]:
    return [
        Step("reserve", "Reserve the items", "step", "done"),
        Step("charge", "Charge the card", "worker", "current"),
        Step("pack", "Pack the parcel", "worker", "todo"),
        Step("receipt", "Receipt", "page", "todo"),
    ]


@dataclass
class FakeRun:
    """The view model that templates get, made of plain values."""

    site: FakeSite
    id: str = "019a8f3c5e7b7d10a3c4e5f60718293a"
    flow: str = "Checkout"
    title: str = "Your order"
    step: str = "charge"
    state: str = "waiting"
    waiting_for: str | None = "worker"
    seq: int = 2
    steps: list[Step] = field(default_factory=checkout_steps)
    progress: Progress | None = None
    error: str | None = None
    result: object = None
    at_rest: bool = False
    age_seconds: float = 7.0
    token: str = TOKEN

    @property
    def url(self) -> str:
        return url_for("run", token=TOKEN)

    @property
    def state_url(self) -> str:
        return url_for("state", token=TOKEN)

    @property
    def retry_url(self) -> str:
        return url_for("retry", token=TOKEN)

    def hidden_field(self) -> Markup:
        """Return the field that a form carries."""
        return Markup('<input type="hidden" name="{}" value="{}">').format(
            HIDDEN_NAME, HIDDEN_VALUE
        )

    def script(self) -> Markup:
        """Return what makes a page live."""
        settings = self.site.settings
        path = f"{request.script_root}/socket.io" if settings.offers_socket else ""
        return Markup(  # noqa: S704  # rendered by a template, which escapes
            render_template(
                "flowroute/script.html",
                run=self,
                next_url=settings.next_url,
                socket_path=path,
                poll_seconds=settings.poll_seconds,
            )
        )


@dataclass
class Settings:
    """How a site behaves; a test may change it while the site runs."""

    prefix: str = ""
    next_url: str = ""
    poll_seconds: float = 0.2
    offers_socket: bool = True  # pages name a socket
    accepts_socket: bool = True  # and the server answers there
    policy: str = STRICT_POLICY
    template: str | None = None  # a page of the application's own, instead of the bundled ones
    state_status: int = 200
    subscribe_error: str | None = None


class QuietHandler(WSGIRequestHandler):
    """A request handler that does not write a line for each request."""

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002  # Werkzeug's name
        """Write nothing."""


class FakeSite:
    """The site; a context manager that serves it on a loopback port.

    Attributes:
        run: what the database would hold.
        visits: the path of each page that was asked for, oldest first.
        polls: how often the state was asked for over HTTP.
        subscriptions: the token of each subscription over the socket.
        forms: what was posted to the retry address.
        reports: what scripts of the tests have sent from inside a page.
        slow_page: `/slow` answers once it is set.
        poll_gate: polls answer, with what they read before, once it is set, as it is at first.
    """

    def __init__(self, port: int, **settings: Any) -> None:
        self.settings = Settings(**settings)
        self.run = FakeRun(self)
        self.visits: list[str] = []
        self.polls = 0
        self.subscriptions: list[str] = []
        self.forms: list[dict[str, str]] = []
        self.reports: list[str] = []
        self.slow_page = threading.Event()
        self.poll_gate = threading.Event()
        self.poll_gate.set()
        self.app = self._make_app()
        self.sockets = SocketIO(self.app, async_mode="threading")
        self.sockets.on_event("subscribe", self._subscribe, namespace=NAMESPACE)
        self._server = make_server(
            "127.0.0.1",
            port,
            Front(self),
            threaded=True,
            request_handler=QuietHandler,
        )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.origin = f"http://127.0.0.1:{port}"

    @property
    def url(self) -> str:
        """The address of the run's page."""
        return f"{self.origin}{self.settings.prefix}/flow/{TOKEN}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.slow_page.set()
        self.poll_gate.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    # ---- what a test does with the run

    def state(self, **changes: Any) -> dict[str, Any]:
        """Return the state as the protocol has it, with some fields changed."""
        run = self.run
        progress = run.progress
        root = f"{self.settings.prefix}/flow/{TOKEN}"
        return {
            "id": run.id,
            "seq": run.seq,
            "state": run.state,
            "waiting_for": run.waiting_for,
            "step": run.step,
            "progress": asdict(progress) if progress else None,
            "error": run.error,
            "at_rest": run.at_rest,
            "created_at": "2026-11-01T12:00:00+00:00",
            "links": {"self": root, "state": f"{root}/state", "retry": f"{root}/retry"},
        } | changes

    def move(self, *, tell: bool = True, **changes: Any) -> None:
        """Change the run, and tell the pages that watch it, unless the hint is to be lost."""
        run = self.run = replace(self.run, **changes)
        at = next((i for i, step in enumerate(run.steps) if step.name == run.step), None)
        if at is not None:
            for index, step in enumerate(run.steps):
                step.state = "done" if index < at else "current" if index == at else "todo"
        if tell:
            self.push(self.state())

    def finish(self, *, tell: bool = True) -> None:
        """Bring the run to its last page."""
        self.move(
            tell=tell,
            seq=self.run.seq + 1,
            step="receipt",
            waiting_for="page",
            progress=None,
            at_rest=True,
        )

    def push(self, state: dict[str, Any]) -> None:
        """Send a state to the pages that watch, true or not."""
        self.sockets.emit("moved", state, to=TOKEN, namespace=NAMESPACE)

    def wait_for_subscriptions(self, count: int = 1) -> None:
        """Wait until so many subscriptions have been made since the start."""
        wait_until(lambda: len(self.subscriptions) >= count, what=f"{count} subscriptions")

    def cut_sockets(self) -> None:
        """Break every websocket, as a server does that goes away."""
        connections = self.app.extensions["socketio"].server.eio.sockets
        for connection in list(connections.values()):
            connection.close(wait=False, abort=True)

    # ---- what the site answers

    def _subscribe(self, message: dict[str, str]) -> dict[str, Any]:
        self.subscriptions.append(message["token"])
        if self.settings.subscribe_error or message["token"] != TOKEN:
            return {"error": self.settings.subscribe_error or "unknown"}
        join_room(TOKEN, namespace=NAMESPACE)
        return self.state()

    def _page(self) -> tuple[str, int] | str:
        run, settings = self.run, self.settings
        if settings.template is not None:
            return render_template_string(settings.template, run=run)
        if run.state == "done":
            return render_template("flowroute/finished.html", run=run)
        if run.state in {"failed", "blocked", "cancelled"}:
            return render_template(f"flowroute/{run.state}.html", run=run)
        return render_template("flowroute/loading.html", run=run), 202

    def _make_app(self) -> Flask:
        app = Flask("site", static_folder=None)
        app.jinja_env.undefined = StrictUndefined  # as an application may have set it
        app.register_blueprint(
            Blueprint(
                "flowroute",
                __name__,
                template_folder=str(LEAF / "templates"),
                static_folder=str(LEAF / "static"),
                static_url_path="/flowroute/static",
            )
        )
        app.after_request(self._protect)
        app.add_url_rule("/flow/<token>", "run", self._run)
        app.add_url_rule("/flow/<token>/state", "state", self._state)
        app.add_url_rule("/flow/<token>/retry", "retry", self._retry, methods=["POST"])
        app.add_url_rule("/landed", view_func=self._landed)
        app.add_url_rule("/slow", view_func=self._slow)
        app.add_url_rule("/download", view_func=self._download)
        app.add_url_rule("/report", view_func=self._report, methods=["POST"])
        app.add_url_rule("/favicon.ico", "icon", lambda: ("", 204))
        app.add_url_rule("/<path:other>", view_func=self._elsewhere)
        return app

    def _protect(self, response: Response) -> Response:
        if self.settings.policy:
            response.headers["Content-Security-Policy"] = self.settings.policy
        if request.endpoint != "flowroute.static":
            response.headers["Cache-Control"] = "no-store"
        return response

    def _run(self, token: str) -> tuple[str, int] | str:
        self._known(token)
        if self.run.at_rest and self.run.waiting_for == "page":
            return self._landed()
        self.visits.append(request.path)
        return self._page()

    def _state(self, token: str) -> AnyResponse:
        self._known(token)
        answer, code = self.state(), self.settings.state_status
        self.polls += 1
        self.poll_gate.wait(30)
        return make_response(answer) if code == 200 else make_response("no state", code)

    def _retry(self, token: str) -> AnyResponse:
        self._known(token)
        self.forms.append(dict(request.form))
        self.move(state="waiting", waiting_for="worker", error=None, at_rest=False)
        return redirect(url_for("run", token=token), 303)

    def _landed(self) -> str:
        self.visits.append(request.path)
        return "<!doctype html><title>Landed</title><h1>Landed</h1>"

    def _slow(self) -> str:
        self.visits.append(request.path)
        self.slow_page.wait(60)
        return "<!doctype html><title>Landed</title><h1>Landed late</h1>"

    def _download(self) -> Response:
        self.visits.append(request.path)
        disposition = {"Content-Disposition": "attachment; filename=report.csv"}
        return Response("a,b\n", headers=disposition)

    def _report(self) -> tuple[str, int]:
        self.reports.append(request.get_data(as_text=True))
        return "", 204

    def _elsewhere(self, other: str) -> str:
        self.visits.append(f"/{other}")
        return "<!doctype html><title>Elsewhere on the site</title>"

    def _known(self, token: str) -> None:
        if token != TOKEN:
            abort(404)


class Front:
    """The WSGI side of the site: its prefix, as a proxy would give it, and the door to sockets."""

    def __init__(self, site: FakeSite) -> None:
        self.site = site

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        settings = self.site.settings
        path: str = environ["PATH_INFO"]
        if not path.startswith(settings.prefix):
            start("204 No Content", [])  # Chromium asks for /favicon.ico here
            return []
        environ["SCRIPT_NAME"] = settings.prefix
        environ["PATH_INFO"] = path = path.removeprefix(settings.prefix)
        if path.startswith("/socket.io") and not settings.accepts_socket:
            start("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"no sockets here"]
        answer: Callable[..., Iterable[bytes]] = self.site.app
        return answer(environ, start)
