"""HTTP requests that nobody would send, to every endpoint: none of them may be an error of ours.

The application is a Flask application with views of every kind that flowroute answers for, on a
database. An attacker has everything that a visitor called Ada has, and whatever else Hypothesis
thinks of; a visitor called Grace has told nobody her addresses, and nobody may move her run.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from unittest import mock
from urllib.parse import urljoin, urlsplit

import hypothesis
import sqlalchemy as sa
from flask import Flask, got_request_exception, request
from flask_sqlalchemy import SQLAlchemy
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from flowroute.engine.schema import run_table
from flowroute.flask import FlowRoute, extension
from flowroute.flask.tokens import FIELD
from tests.engine.support import Shelf
from tests.faults.report import Report
from tests.flask.flows import SiteCard, SiteForm, SiteParcel, SiteResult
from tests.flask.support import Base, Site, form_field

if TYPE_CHECKING:
    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse

SECRET: Final = "of the doors, and long enough to be a secret"  # noqa: S105
METHODS: Final = (
    *("GET", "GET", "GET", "GET", "POST", "POST", "POST", "POST", "HEAD"),
    *("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"),
)
SAFE: Final = ("GET", "HEAD", "OPTIONS", "TRACE")
FAILED_PAGE: Final = ("Something went wrong", '"state":"failed"')
"""What tells the page of a failed run, and the same for programs, from an error of ours."""
RENEWAL: Final = 200
"""Requests after which Ada has new runs."""

# -- the application -------------------------------------------------------------------------------


def double(number: int) -> int:
    """A task."""
    return 2 * number


def fail() -> None:
    """A task that raises."""
    raise LookupError("<b>out of ink</b>")


@contextmanager
def open_site(database: str) -> Iterator[Site]:
    """A site whose errors are answered with 500, as in production."""
    app, db, flows, shelf = Flask("doors"), SQLAlchemy(), FlowRoute(), Shelf()
    app.config.update(SECRET_KEY=SECRET, SQLALCHEMY_DATABASE_URI=database)
    db.init_app(app)
    with mock.patch.object(extension, "executor_of", return_value=shelf):
        flows.init_app(app, db=db)
    with app.app_context():
        db.create_all()
        Base.metadata.create_all(db.engine)
    site = Site(app, db, flows, shelf=shelf)
    add_views(site)
    try:
        yield site
    finally:
        site.close()


def add_views(site: Site) -> None:  # noqa: C901  # one short view after the other
    """Views of every kind that flowroute answers for."""
    respond, task = site.flows.respond, site.flows.task

    def key(name: str) -> str:  # which every visitor chooses
        return f"{name} {request.cookies.get('whose', '')[:20].encode().hex()}"

    def order() -> Any:
        return respond(SiteForm().address(), key=key("order"))

    def pay() -> Any:
        return respond(SiteCard().charge(), key=key("pay"))

    def parcel() -> Any:
        return respond(SiteParcel(name="<i>").pack(), key=key("parcel"))

    def result() -> Any:
        return respond(SiteResult().end({"a": "<i>"}), key=key("result"))

    def new() -> Any:
        return respond(SiteForm().address())

    def once() -> Any:
        return respond(SiteResult().end("x"), key="once", cache=False)

    def doubled() -> Any:
        return task(double, 21, key=key("task"))()

    def led() -> Any:
        return task(double, 21, key=key("led"), callback="landing")()

    def broken() -> Any:
        return task(fail, key=key("broken"))()

    for each in (order, pay, parcel, result, new, once, doubled, led, broken):
        site.route(f"/{each.__name__}", each)
    site.route("/landing", lambda: "landed")
    view = site.flows.task_view(key="v-{name}")(lambda name: f"hello {len(name)}")
    site.app.add_url_rule("/view/<name>", "view", view, methods=["GET", "POST"])


@dataclass(slots=True)
class Ada:
    """What a visitor has: addresses of her runs, fields of her forms, a cookie."""

    cookie: str
    tokens: list[str]
    fields: list[str]
    failed: str


def visit(site: Site, who: str) -> Ada:
    """A visitor with a run at a page, a waiting one, a failed one and a done one."""
    SiteCard.accepts.clear()
    client = site.client()
    client.set_cookie("whose", who)
    failed = token_of(client.post("/pay"))
    client.post("/broken")
    site.work()
    tokens = [failed, *(token_of(client.post(path)) for path in ("/order", "/parcel", "/result"))]
    with site.app.test_request_context():
        tokens += [
            site.flows.url_for(run, shared=True).removeprefix("/flow/") for run in site.runs[:3]
        ]
    fields = [form_field(client.get(path))[FIELD] for path in ("/pay", "/order")]
    session = client.get_cookie("session")
    assert session is not None
    return Ada(f"session={session.value}; whose={who}", tokens, fields, failed)


def token_of(answer: TestResponse) -> str:
    """The token in the address that an answer leads to."""
    assert answer.location is not None
    return answer.location.removeprefix("/flow/")


# -- what is sent ----------------------------------------------------------------------------------

# What a server hands on: it has refused control characters in the first line and in headers.
header_text = st.text(
    st.characters(codec="latin-1", min_codepoint=32, exclude_characters="\x7f"), max_size=40
)
HEADERS: Final[dict[str, tuple[str, ...]]] = {
    "Accept": ("application/json", "text/html", "*/*", ";q=x,,", "application/json;q=1e999"),
    "Host": ("localhost", "evil.example", "evil.example:99999", "[::1", "a b", "", "user@evil"),
    "X-Forwarded-For": ("evil.example", "::1, 10.0.0.1", ","),
    "X-Forwarded-Host": ("evil.example", "evil.example, localhost"),
    "X-Forwarded-Proto": ("https", "javascript", "evil"),
    "X-Forwarded-Prefix": ("//evil.example", "/x", "javascript:"),
    "X-Forwarded-Port": ("0", "x", "99999"),
    "X-HTTP-Method-Override": ("POST", "DELETE"),
    "Forwarded": ("host=evil.example;proto=https",),
    "Origin": ("null", "http://evil.example", "http://localhost", "http://[evil", ""),
    "Referer": ("http://evil.example/", "//evil.example", "javascript:alert(1)", "http://[x"),
    "Sec-Fetch-Site": ("cross-site", "same-site", "same-origin", "none", "x"),
    "Content-Type": (
        *("application/x-www-form-urlencoded", "multipart/form-data", "application/json"),
        *("multipart/form-data; boundary=x", "application/x-www-form-urlencoded; charset=utf-16"),
        *("text/plain", "", ";;", "multipart/form-data; boundary=" + "b" * 100),
    ),
    "Content-Encoding": ("gzip", "x"),
    "Transfer-Encoding": ("chunked", "x"),
    "Range": ("bytes=0-0", "bytes=5-1", "x"),
    "If-Modified-Since": ("x", "Thu, 01 Jan 1970 00:00:00 GMT"),
    "If-None-Match": ("*", '"x"', "W/"),
    "Cookie": ("session=", "session=x.y.z", "=", ";;;", "whose=\xe4", "session=eyJ4IjoxfQ.x.y"),
}


@dataclass(frozen=True, slots=True)
class Mutation:
    """A way to change a text, or not, as an attacker would try; drawn before there is a text."""

    kind: str
    at: int
    which: int
    text: str

    def of(self, *genuine: str) -> str:
        """One of some texts, changed."""
        chosen = genuine[self.which % len(genuine)]
        at = self.at % max(len(chosen), 1)
        if self.kind == "cut":
            return chosen[:at]
        if self.kind == "inserted":
            return chosen[:at] + self.text[:5] + chosen[at:]
        if self.kind == "flipped":
            return chosen[:at] + "Aa0-_.=/%"[self.which % 9] + chosen[at + 1 :]
        return self.text if self.kind == "replaced" else chosen


KINDS: Final = (*["as it is"] * 6, "cut", "inserted", "flipped", "replaced")
mutations = st.builds(
    Mutation,
    st.sampled_from(KINDS),
    st.integers(0, 300),
    st.integers(0, 100),
    st.text(max_size=100) | st.text(min_size=250, max_size=600),
)


@dataclass(slots=True)
class Plan:
    """One request, but for what the visitor has at that time."""

    argument: Mutation
    around: tuple[str, str]
    headers: dict[str, str]
    cookie: Mutation | None
    method: str
    query: str
    body: bytes | dict[str, str]
    form_field: Mutation | None


plans = st.builds(
    Plan,
    argument=mutations,
    around=st.tuples(
        st.sampled_from([*[""] * 9, "/"]),
        st.sampled_from([*[""] * 15, "/", "//", "/x", "/state", "/retry"]),
    ),
    headers=st.lists(
        st.sampled_from([(name, value) for name, values in HEADERS.items() for value in values])
        | st.tuples(st.sampled_from(sorted(HEADERS)), header_text),
        max_size=4,
    ).map(dict),
    cookie=st.none() | mutations,
    method=st.sampled_from(METHODS),
    query=st.sampled_from(["", "", "next=//evil.example", "_method=POST"]) | header_text,
    body=st.binary(max_size=200)
    | st.dictionaries(st.sampled_from(["street", "x", FIELD]), st.text(max_size=30)),
    form_field=st.none() | mutations,
)


@dataclass(slots=True)
class Sent:
    """One request, as Werkzeug's test client takes it."""

    endpoint: str
    arguments: dict[str, Any]


def request_of(plan: Plan, number: int, site: Site, ada: Ada) -> Sent:
    """A planned request, with parts of what Ada has, to each endpoint in turn."""
    rules = [rule for rule in site.app.url_map.iter_rules() if rule.endpoint != "static"]
    rule = sorted(rules, key=repr)[number % len(rules)]
    path = str(rule.rule)
    genuine = {"token": ada.tokens, "filename": ["flowroute.js", "../views.py", "vendor/x"]}
    for name in rule.arguments:
        value = plan.argument.of(*genuine.get(name, ["Ada"]))
        path = path.replace(f"<path:{name}>", value).replace(f"<{name}>", value)
    path = path.join(plan.around)
    headers = dict(plan.headers)
    if plan.cookie is not None:
        cookie = plan.cookie.of(ada.cookie).encode("latin-1", "ignore").decode("latin-1")
        headers["Cookie"] = "".join(each for each in cookie if each.isprintable())
    data: bytes | dict[str, str] = plan.body
    if isinstance(data, dict):
        headers.pop("Content-Type", None)  # Werkzeug sets the right one
        if plan.form_field is not None:
            data = data | {FIELD: plan.form_field.of(*ada.fields)}
        if data.get("street") == "raise":
            data = data | {"street": ""}  # the page's own error
    environ = {
        "PATH_INFO": path.encode("utf-8", "replace").decode("latin-1"),
        "QUERY_STRING": plan.query,
    }
    arguments = {
        "method": plan.method,
        "headers": headers,
        "data": data,
        "environ_overrides": environ,
    }
    return Sent(rule.endpoint, arguments)


# -- what is answered ------------------------------------------------------------------------------


@dataclass
class Fuzz:
    """The site under fire, and what it answered."""

    site: Site
    grace: Ada
    ada: Ada
    client: FlaskClient
    bind: sa.Engine
    raised: list[BaseException] = field(default_factory=list[BaseException])
    answers: Counter[str] = field(default_factory=Counter[str])
    endpoints: Counter[str] = field(default_factory=Counter[str])
    broken: list[str] = field(default_factory=list[str])
    sent: int = 0

    def renew(self) -> None:
        """Give Ada new runs."""
        self.ada = visit(self.site, f"ada{self.sent}")

    def places(self) -> list[tuple[str, int]]:
        """Where Ada's runs and Grace's are, as the database says."""
        ids = [t.partition(".")[0] for t in (*self.ada.tokens[:4], *self.grace.tokens[:4])]
        where = sa.select(run_table.c.id, run_table.c.seq).where(run_table.c.id.in_(ids))
        with self.bind.connect() as connection:
            found = {row.id: row.seq for row in connection.execute(where)}
        return [(each, found[each]) for each in ids]

    def send(self, plan: Plan) -> None:
        """Send a request, and look at what comes back."""
        if self.sent % RENEWAL == RENEWAL - 1:
            self.renew()
        self.sent += 1
        sent = request_of(plan, self.sent, self.site, self.ada)
        before = self.places()
        self.raised.clear()
        answer = self.client.open("/", **sent.arguments)
        self.endpoints[sent.endpoint] += 1
        self.answers[str(answer.status_code)] += 1
        for problem in self._problems(sent, answer, before):
            self.broken.append(f"request {self.sent}: {problem}: {sent}")
        answer.close()
        if self.sent % 20 == 0:
            self.site.work()  # retries fail again

    def _problems(
        self, sent: Sent, answer: TestResponse, before: list[tuple[str, int]]
    ) -> Iterator[str]:
        method = sent.arguments["method"]
        if self.raised:
            yield f"raised {self.raised[0]!r}"
        elif answer.status_code >= 500 and method != "HEAD":
            text = answer.text
            if not any(mark in text for mark in FAILED_PAGE):
                yield f"answered {answer.status}"
        location = answer.headers.get("Location")
        # 308 is Werkzeug's own, for doubled slashes.
        if location is not None and answer.status_code != 308 and not stays(location):
            yield f"leads to {location!r}"
        after = self.places()
        if method in SAFE and after != before:
            yield "moved a run by looking at it"
        if after[4:] != before[4:]:
            yield "moved somebody else's run"


def stays(location: str) -> bool:
    """Whether a redirect stays on the site, as the strictest of browsers would read it."""
    return (
        location.isascii()
        and location.isprintable()
        and " " not in location
        and "\\" not in location
        and location.startswith("/")
        and not location.startswith("//")
        and urlsplit(urljoin("http://shop.example/x", location)).netloc == "shop.example"
    )


def campaign(database: str, *, seed: int, requests_sent: int = 10_500) -> Report:
    """Send requests to every endpoint.

    Args:
        database: URL of an empty database.
        seed: repeats the campaign.
        requests_sent: how many.

    Returns:
        The report; an error of ours, a redirect off the site and a run that was moved by whom it
        does not concern are among `broken`.
    """
    report = Report("doors", sa.make_url(database).get_backend_name(), seed)
    began = time.monotonic()
    with open_site(database) as site:
        grace = visit(site, "grace")
        with site.app.app_context():
            bind = site.db.engine
        client = site.app.test_client(use_cookies=False)
        fuzz = Fuzz(site, grace, visit(site, "ada"), client, bind)

        def note(_app: Flask, exception: BaseException) -> None:
            fuzz.raised.append(exception)

        @hypothesis.seed(seed)
        @settings(
            max_examples=requests_sent,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=[HealthCheck.too_slow],
        )
        @hypothesis.given(plans)
        def send(plan: Plan) -> None:
            fuzz.send(plan)

        site.app.logger.disabled = True  # what is raised is in the report
        with got_request_exception.connected_to(note, site.app):
            send()
    report.points = report.injected = fuzz.sent
    report.broken = fuzz.broken
    report.notes = {
        "requests": dict(sorted(fuzz.endpoints.items())),
        "answers": dict(sorted(fuzz.answers.items())),
        "seconds": round(time.monotonic() - began, 1),
    }
    return report
