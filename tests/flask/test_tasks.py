"""Tasks: a long function without a flow around it, run once on a worker and waited for."""

from __future__ import annotations

import datetime as dt
import functools
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
import sqlalchemy as sa
from flask import Blueprint, request, url_for
from sqlalchemy.orm import Mapped, mapped_column

from flowroute.errors import ConfigurationError, RunFailed, RunNotFinished, UnstorableValue
from flowroute.flask import FlowRoute
from tests.flask.support import HTML, JSON, Base, Site, attributes, form_field, soup

if TYPE_CHECKING:
    from collections.abc import Callable

    from werkzeug.test import TestResponse

    from flowroute.flask.tasks import Task
    from tests.flask.conftest import MakeSite


class Clerk(Base):
    """Somebody with a long method."""

    __tablename__ = "clerk"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    pages: Mapped[int] = mapped_column(default=0)

    def write(self, pages: int, *, style: str = "plain") -> str:
        self.pages += pages
        return f"{self.name} wrote {pages} {style} pages"


def hire(site: Site, name: str = "Ada") -> int:
    """A clerk in the database; returns the id."""
    with site.app.app_context():
        clerk = Clerk(name=name)
        site.db.session.add(clerk)
        site.db.session.commit()
        return clerk.id


def clerk_of(site: Site, clerk_id: int) -> Clerk:
    """The clerk, in the session of the request or of the context."""
    return site.db.session.get_one(Clerk, clerk_id)


def stored_pages(site: Site) -> list[int]:
    """What is committed of the clerks' pages."""
    with site.app.app_context(), site.db.engine.connect() as connection:
        return list(connection.execute(sa.select(Clerk.pages).order_by(Clerk.id)).scalars())


def double(number: int) -> int:
    return 2 * number


def oops(reason: str = "out of ink") -> None:
    raise LookupError(reason)


class Doubler:
    """An object that can be called."""

    def __call__(self, number: int) -> int:
        return 2 * number

    @classmethod
    def of_class(cls, number: int) -> int:
        return 2 * number

    def method(self, number: int) -> int:
        return 2 * number


def show(task: Task[Any]) -> Any:
    """What a view of Flask-Worker's first example does."""
    return f"result: {task.result!r}" if task.finished else task()


def serve(site: Site, rule: str, function: Callable[..., Any], *args: Any, **options: Any) -> None:
    """Add a view that is nothing but a task."""

    def view() -> Any:
        return site.flows.task(function, *args, **options)()

    site.route(rule, view)


def done_with(site: Site, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The result of a task, asked for in another context than it was started in."""
    with site.app.app_context():
        site.flows.task(function, *args, key="done_with", **kwargs).start()
    site.work()
    with site.app.app_context():
        return site.flows.task(double, key="done_with").result


# -- what can be a task ----------------------------------------------------------------------------


def test_a_method_of_a_row_gets_the_row_with_current_values_and_its_changes_are_saved(
    make_site: MakeSite, database_url: str
) -> None:
    site = make_site(database_url)
    ada = hire(site)
    site.route(
        "/",
        lambda: show(site.flows.task(clerk_of(site, ada).write, 3, style="purple", key="report-7")),
    )
    client = site.client()
    assert client.get("/").status_code == 202
    with site.app.app_context():
        clerk_of(site, ada).name = "Grace"  # after the start, before the work
        site.db.session.commit()
    assert stored_pages(site) == [0]
    site.work()
    assert client.get("/").text == "result: 'Grace wrote 3 purple pages'"
    assert stored_pages(site) == [3]
    client.get("/")
    site.work()
    assert stored_pages(site) == [3]


def test_a_row_that_the_view_has_just_made_is_there_when_the_task_runs(site: Site) -> None:
    def view() -> Any:
        task = site.flows.task(double, key="k")
        if task.run is not None:
            return show(task)
        clerk = Clerk(name="new")
        site.db.session.add(clerk)
        return site.flows.task(clerk.write, 2, key="k")()

    site.route("/", view)
    client = site.client()
    client.get("/")
    site.work()
    assert client.get("/").text == "result: 'new wrote 2 plain pages'"
    assert stored_pages(site) == [2]


def ids_of(first: Clerk, *others: Clerk, boss: Clerk, team: dict[str, list[Clerk]]) -> set[int]:
    """How many objects the clerk is: all are changed together, or not."""
    everybody = [first, *others, boss, *team["all"]]
    first.pages += 1
    return {id(clerk) for clerk in everybody} | {clerk.pages for clerk in everybody}


def test_a_row_is_the_same_row_in_every_position(site: Site) -> None:
    ada = hire(site)
    with site.app.app_context():
        clerk = clerk_of(site, ada)
        task = site.flows.task(
            functools.partial(ids_of, clerk), clerk, boss=clerk, team={"all": [clerk, clerk]}
        )
        run = task.start()
    site.work()
    with site.app.app_context():
        assert len(run.result) == 2  # one object, with one number of pages
        assert 1 in run.result
    assert stored_pages(site) == [1]


def test_a_row_that_a_closure_holds_is_the_row_too(site: Site) -> None:
    ada = hire(site)
    with site.app.app_context():
        clerk = clerk_of(site, ada)
        task = site.flows.task(lambda: clerk.write(4), key="k")
        task.start()
        clerk.name = "Grace"
        site.db.session.commit()
    site.work()
    with site.app.app_context():
        assert site.flows.task(write_by_name, key="k").result == "Grace wrote 4 plain pages"
    assert stored_pages(site) == [4]


def a_closure(factor: int) -> Callable[[int], int]:
    def times(number: int) -> int:
        return factor * number

    return times


@pytest.mark.parametrize(
    ("function", "title"),
    [
        (double, "Double"),
        (functools.partial(functools.partial(double)), "Double"),
        (lambda number: 2 * number, "Working on it"),
        (a_closure(2), "Times"),
        (Doubler(), "Doubler"),
        (Doubler().method, "Method"),
        (Doubler.of_class, "Of class"),
        (int("2").__mul__, "Mul"),
    ],
    ids=["function", "partial", "lambda", "closure", "object", "method", "classmethod", "builtin"],
)
def test_anything_that_can_be_called_can_be_a_task_and_the_page_is_named_after_it(
    site: Site, function: Callable[[int], int], title: str
) -> None:
    site.route("/", lambda: show(site.flows.task(function, 21, key="k")))
    client = site.client()
    heading = soup(client.get("/")).select_one("h1")
    assert heading is not None
    assert heading.text.strip() == title
    site.work()
    assert client.get("/").text == "result: 42"


def test_what_no_checkpoint_can_hold_is_refused_by_the_name_of_the_argument(site: Site) -> None:
    with site.app.app_context(), pytest.raises(UnstorableValue, match="generator"):
        site.flows.task(double, (n for n in range(3)), key="k").start()
    assert site.runs == []


def test_an_argument_may_be_named_like_a_parameter_of_task_by_way_of_a_partial(site: Site) -> None:
    assert done_with(site, functools.partial(dict, key=1, callback="c")) == {
        "key": 1,
        "callback": "c",
    }


# -- results ---------------------------------------------------------------------------------------


VALUES = [
    None,
    False,
    0,
    "",
    b"\x00\xff",
    {1, "two"},
    frozenset({3}),
    Decimal("1.10"),
    dt.date(2026, 2, 28),
    dt.datetime(2026, 2, 28, 12, tzinfo=dt.UTC),
    dt.timedelta(days=2),
    uuid.UUID(int=7),
    (1, [2, {"three": 4.5}]),
    float("inf"),
]


def test_results_are_kept_in_the_database_as_they_were(
    make_site: MakeSite, database_url: str
) -> None:
    site = make_site(database_url)
    with site.app.app_context():
        for number, value in enumerate(VALUES):
            site.flows.task(functools.partial(VALUES.__getitem__, number), key=repr(value)).start()
    site.work()
    # Nothing but the database is left: another process, no worker, no Redis.
    later = make_site(database_url)
    with later.app.app_context():
        for value in VALUES:
            task = later.flows.task(double, key=repr(value))
            assert task.finished
            assert task.result == value
            assert type(task.result) is type(value)


def test_any_result_ends_the_waiting_of_people_and_of_programs(site: Site) -> None:
    site.app.add_url_rule(
        "/<int:number>",
        "value",
        lambda number: site.flows.task(lambda: VALUES[number], key=str(number))(),
    )
    client = site.client()
    for number, value in enumerate(VALUES):
        assert client.get(f"/{number}", headers=HTML).status_code == 202
        site.work()
        page = client.get(f"/{number}", headers=HTML)
        assert page.status_code == 200, value
        assert b'id="flowroute"' not in page.data
        answer = client.get(f"/{number}", headers=JSON)
        assert answer.get_json()["state"] == "done"
        assert "result" in answer.get_json()


def test_a_result_may_hold_a_row(site: Site) -> None:
    ada = hire(site)
    with site.app.app_context():
        clerk = clerk_of(site, ada)
        site.flows.task(lambda: [clerk], key="k").start()
    site.work()
    with site.app.app_context():
        assert site.flows.task(write_by_name, key="k").result == [clerk_of(site, ada)]


# -- the handle ------------------------------------------------------------------------------------


def test_before_it_is_called_a_task_is_only_a_plan(site: Site) -> None:
    with site.app.app_context():
        task = site.flows.task(double, 21, key="k")
        assert (task.run, task.finished, task.error) == (None, False, None)
        with pytest.raises(RunNotFinished, match="k has not been started"):
            task.result  # noqa: B018  # reading it is what raises
        task.reset()
    assert site.runs == []


def test_while_it_waits_a_task_has_no_result(site: Site) -> None:
    with site.app.app_context():
        task = site.flows.task(double, 21, key="k")
        task.start()
        assert (task.finished, task.error) == (False, None)
        with pytest.raises(RunNotFinished):
            task.result  # noqa: B018  # reading it is what raises
        site.work()
        assert task.finished  # the same handle sees it
        assert task.result == 42


def test_a_task_that_raised_tells_what_and_has_no_result(site: Site) -> None:
    with site.app.app_context():
        task = site.flows.task(oops, key="k")
        task.start()
        site.work()
        assert not task.finished
        assert task.error is not None
        assert (task.error.type, task.error.message) == ("LookupError", "out of ink")
        with pytest.raises(RunFailed, match="out of ink"):
            task.result  # noqa: B018  # reading it is what raises


def test_one_key_is_one_task_and_another_key_is_another(site: Site) -> None:
    with site.app.app_context():
        first = site.flows.task(double, 1, key="a").start()
        again = site.flows.task(double, 2, key="a").start()
        other = site.flows.task(double, 3, key="b").start()
        site.work()
        assert (first.id, first.result) == (again.id, 2)
        assert other.result == 6
    assert len(site.runs) == 2


def test_without_a_key_each_task_is_a_new_one_and_a_handle_starts_once(site: Site) -> None:
    with site.app.app_context():
        task = site.flows.task(double, 1)
        assert task.start().id == task.start().id
        site.flows.task(double, 1).start()
    assert len(site.runs) == 2


def test_the_owner_of_a_task_is_kept(site: Site) -> None:
    with site.app.app_context():
        assert site.flows.task(double, 1, owner="ada").start().record.owner == "ada"


@pytest.mark.parametrize("function", [double, oops])
def test_after_a_reset_the_next_call_starts_again(site: Site, function: Callable[..., Any]) -> None:
    argument = 21 if function is double else "no"
    with site.app.app_context():
        task = site.flows.task(function, argument, key="k")
        before = task.start()
        site.work()
        task.reset()
        assert (task.run, task.finished, task.error) == (None, False, None)
        after = task.start()
        assert after.id != before.id
        site.work()
        assert after.at_rest
        assert before.key is None


def test_a_reset_cancels_what_still_waits_or_runs(site: Site) -> None:
    with site.app.app_context():
        task = site.flows.task(double, 21, key="k")
        before = task.start()
        task.reset()
        site.work()
        assert before.state == "cancelled"


# -- the answer ------------------------------------------------------------------------------------


def test_with_a_key_a_get_waits_in_place_and_then_shows_the_result(site: Site) -> None:
    serve(site, "/", lambda: "<p>text</p>", key="k")
    client = site.client()
    waiting = client.get("/")
    assert waiting.status_code == 202
    assert waiting.headers["Cache-Control"] == "no-store"
    assert attributes(waiting, "#flowroute")["data-next"] == ""
    site.work()
    assert (client.get("/").status_code, client.get("/").text) == (200, "<p>text</p>")
    assert len(site.runs) == 1


@pytest.mark.parametrize(("method", "key"), [("POST", "k"), ("POST", None), ("GET", None)])
def test_a_post_or_a_get_without_a_key_leads_to_the_tasks_own_address(
    site: Site, method: str, key: str | None
) -> None:
    serve(site, "/", double, 21, key=key)
    client = site.client()
    started = client.open("/", method=method)
    assert started.status_code == 303
    assert client.get(started.location).status_code == 202
    site.work()
    assert "42" in client.get(started.location).text
    assert len(site.runs) == 1


@pytest.mark.parametrize("key", ["k", None])
def test_a_head_starts_no_task(site: Site, key: str | None) -> None:
    serve(site, "/", double, 21, key=key)
    assert site.client().head("/").status_code == 204
    assert site.runs == []


def test_a_program_gets_the_task_as_json(site: Site) -> None:
    serve(site, "/", double, 21, key="k")
    client = site.client()
    waiting = client.get("/", headers=JSON)
    assert (waiting.status_code, waiting.get_json()["state"]) == (202, "waiting")
    site.work()
    answer = client.get("/", headers=JSON)
    assert (answer.status_code, answer.get_json()["result"]) == (200, 42)


def test_a_task_that_raised_shows_an_error_with_a_retry_and_a_retry_runs_it_again(
    site: Site,
) -> None:
    ada = hire(site)

    def write() -> str:
        clerk = site.db.session.get_one(Clerk, ada)
        if clerk.name == "Ada":
            raise LookupError("out of ink")
        return clerk.name

    # The function is called in this process, and the site is no part of a checkpoint.
    globals()["write_it"] = write
    serve(site, "/", write_by_name, key="k")
    client = site.client()
    client.get("/")
    site.work()
    failed = client.get("/")
    assert failed.status_code == 500
    assert not soup(failed).select("#flowroute")
    with site.app.app_context():
        clerk_of(site, ada).name = "Grace"
        site.db.session.commit()
    form = attributes(failed, "form")
    assert form["method"].lower() == "post"
    tried = client.post(form["action"], data=form_field(failed))
    assert tried.status_code == 303
    assert client.get(tried.location).status_code == 202
    site.work()
    assert client.get("/").text == "Grace"
    assert len(site.runs) == 1


def write_by_name() -> Any:
    return globals()["write_it"]()


# -- callbacks -------------------------------------------------------------------------------------


@pytest.fixture
def thanks(site: Site) -> Site:
    """A site with pages to go to when a task has finished."""
    site.route("/thanks", lambda: "thank you")
    shop = Blueprint("shop", __name__, url_prefix="/shop")
    shop.add_url_rule("/bye", "bye", lambda: "goodbye")
    site.app.register_blueprint(shop)
    site.app.add_url_rule("/for/<name>", "for_name", lambda name: f"for {name}")
    return site


def start_with(site: Site, callback: str) -> TestResponse:
    """The waiting page of a task with a callback."""
    serve(site, "/start", double, 21, key="k", callback=callback)
    return site.client().get("/start")


@pytest.mark.parametrize(
    ("callback", "address", "text"),
    [
        ("thanks", "/thanks", "thank you"),
        ("shop.bye", "/shop/bye", "goodbye"),
        ("/for/Ada?tab=1&x=%20#top", "/for/Ada?tab=1&x=%20#top", "for Ada"),
    ],
)
def test_when_a_task_has_finished_the_browser_is_led_to_its_callback(
    thanks: Site, callback: str, address: str, text: str
) -> None:
    waiting = start_with(thanks, callback)
    assert waiting.status_code == 202
    assert attributes(waiting, "#flowroute")["data-next"] == address
    thanks.work()
    led = thanks.client().get("/start")
    assert (led.status_code, led.location) == (303, address)
    assert thanks.client().get(led.location).text == text


def test_an_early_visit_to_the_callback_waits_there_and_then_sees_the_result(site: Site) -> None:
    serve(site, "/", double, 21, key="k", callback="landing")
    site.route("/landing", lambda: show(site.flows.task(double, 21, key="k")))
    client = site.client()
    client.get("/")
    early = client.get("/landing")
    assert early.status_code == 202
    assert attributes(early, "#flowroute")["data-next"] == "/landing"
    site.work()
    assert client.get("/landing").text == "result: 42"


def test_a_callback_that_calls_the_task_itself_is_not_led_in_circles(site: Site) -> None:
    serve(site, "/", double, 21, key="k", callback="/")
    client = site.client()
    client.get("/")
    site.work()
    assert client.get("/").status_code == 200


def test_a_task_that_raised_does_not_lead_to_its_callback(thanks: Site) -> None:
    serve(thanks, "/", oops, key="k", callback="thanks")
    client = thanks.client()
    client.get("/")
    thanks.work()
    failed = client.get("/")
    assert failed.status_code == 500
    assert soup(failed).select("form")


def test_a_callback_is_resolved_when_rendered(thanks: Site) -> None:
    start_with(thanks, "thanks")
    below = thanks.client().get("/start", environ_overrides={"SCRIPT_NAME": "/prefix"})
    assert attributes(below, "#flowroute")["data-next"] == "/prefix/thanks"


def test_a_callback_may_be_an_endpoint_where_there_is_no_request(thanks: Site) -> None:
    with thanks.app.app_context():
        thanks.flows.task(double, 21, key="k", callback="thanks").start()
        with pytest.raises(ConfigurationError, match="neither an endpoint"):
            thanks.flows.task(double, 21, key="other", callback="https://evil.example/")
    thanks.work()
    serve(thanks, "/", double, key="k")
    assert thanks.client().get("/").location == "/thanks"


def test_an_endpoint_that_needs_more_is_refused_with_what_to_write(thanks: Site) -> None:
    with (
        thanks.app.test_request_context(),
        pytest.raises(ConfigurationError, match=r"url_for\('for_name', …\)"),
    ):
        thanks.flows.task(double, callback="for_name")
    with thanks.app.test_request_context():
        assert thanks.flows.task(double, callback=url_for("for_name", name="x")).run is None


@pytest.mark.parametrize(
    "hostile",
    [
        "",
        " /thanks",
        "no_such_view",
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        "java\nscript:alert(1)",
        "data:text/html,<script>alert(1)</script>",
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "\\/evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "https://evil.example/",
        "https:evil.example",
        "evil.example",
        "/thanks\r\nSet-Cookie: a=b",
        "/thanks\nX: y",
        "/thanks\x00",
        "/a\\..\\b",
    ],
)
def test_a_hostile_callback_is_refused_and_nothing_starts(thanks: Site, hostile: str) -> None:
    with pytest.raises(ConfigurationError, match="neither an endpoint"):
        start_with(thanks, hostile)
    assert thanks.runs == []


@pytest.mark.parametrize(
    "odd",
    [
        '/"onload="alert(1)',
        "/'onload='alert(1)",
        "/</script><script>alert(1)</script>",
        "/?next=//evil.example",
        "/@evil.example",
        "/.//evil.example",
        "/%0d%0aSet-Cookie:a=b",
        "/\u2028/evil.example",
        "/\uff0fevil.example",
    ],
)
def test_an_odd_path_is_only_a_path_and_injects_nothing(thanks: Site, odd: str) -> None:
    serve(thanks, "/plain", double, 1, key="p", callback="/thanks")
    serve(thanks, "/odd", double, 1, key="o", callback=odd)
    client = thanks.client()
    plain, waiting = client.get("/plain"), client.get("/odd")
    assert attributes(waiting, "#flowroute")["data-next"] == odd
    tags = [element.name for element in soup(waiting).select("*")]
    assert tags == [element.name for element in soup(plain).select("*")]
    thanks.work()
    location = client.get("/odd").headers["Location"]
    assert location.isascii()
    assert location.startswith("/")
    assert not location.startswith(("//", "/\\"))
    assert not any(character in location for character in '\r\n"<>\\ \t')


# -- a view that is a task -------------------------------------------------------------------------


of_module = FlowRoute()


def polite(view: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator above the task's, as one for logging in."""

    @functools.wraps(view)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return ("please say please", 403) if "please" not in request.args else view(*args, **kwargs)

    return wrapper


@of_module.task_view(key="task_view {year}")
def yearly(year: int) -> str:
    """Write the report of a year."""
    return f"report of {year}"


@polite
@of_module.task_view(key="task_view polite {year}", cache=False)
def yearly_politely(year: int) -> str:
    return f"polite report of {year}"


def test_a_view_whose_work_is_one_long_function_is_a_task_of_its_parameters(site: Site) -> None:
    site.app.add_url_rule("/report/<int:year>", view_func=yearly)
    client = site.client()
    for year in (2025, 2026):
        waiting = client.get(f"/report/{year}?a=1")
        assert waiting.status_code == 202
        heading = soup(waiting).select_one("h1")
        assert heading is not None
        assert heading.text.strip() == "Yearly"
    client.get("/report/2026")
    site.work()
    assert client.get("/report/2025").text == "report of 2025"
    assert client.get("/report/2026").text == "report of 2026"
    assert {run.key for run in site.runs} == {"task_view 2025", "task_view 2026"}


def test_a_task_view_may_have_decorators_above_it_and_start_again_after_the_end(
    site: Site,
) -> None:
    site.app.add_url_rule("/report/<int:year>", view_func=yearly_politely)
    client = site.client()
    assert client.get("/report/2026").status_code == 403
    assert site.runs == []
    for _ in range(2):
        assert client.get("/report/2026?please=1").status_code == 202
        site.work()
        assert client.get("/report/2026?please=1").text == "polite report of 2026"
    assert len(site.runs) == 2


def test_a_task_view_may_be_made_inside_a_factory(site: Site) -> None:
    factor = 2

    @site.app.get("/double/<int:number>")
    @site.flows.task_view(key="factory {number}")
    def twice(number: int) -> str:
        return f"{factor * number}"

    client = site.client()
    assert client.get("/double/21").status_code == 202
    site.work()
    assert client.get("/double/21").text == "42"


@pytest.mark.parametrize("view", [yearly, yearly_politely])
def test_a_view_that_its_name_leads_to_is_stored_by_name(
    view: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, site: Site
) -> None:
    site.app.add_url_rule("/report/<int:year>", view_func=view)
    client = site.client()
    client.get("/report/2026?please=1")
    later = site.flows.task_view(key="later")(lambda year: f"today's report of {year}")
    monkeypatch.setitem(globals(), view.__name__, later)  # deployed while the task waits
    site.work()
    assert client.get("/report/2026?please=1").text == "today's report of 2026"


@pytest.mark.parametrize("name", ["x" * 5_000, "nul%00", "%F0%9F%A6%86" * 500])
def test_a_task_view_serves_urls_of_any_length(site: Site, name: str) -> None:
    view = site.flows.task_view(key="of {name}")(lambda name: f"hello {len(name)}")
    site.app.add_url_rule("/hello/<name>", "hello", view)
    client = site.client()
    for path in (name, f"{name}y", name):
        assert client.get(f"/hello/{path}").status_code == 202
    assert len({run.key for run in site.runs}) == len(site.runs) == 2
    site.work()
    assert client.get(f"/hello/{name}").text == f"hello {len(unquote(name))}"


def test_a_post_to_a_task_view_leads_to_the_tasks_own_address(site: Site) -> None:
    site.app.add_url_rule("/report/<int:year>", view_func=yearly, methods=["POST"])
    client = site.client()
    started = client.post("/report/2026")
    assert started.status_code == 303
    site.work()
    assert client.get(started.location).text == "report of 2026"


def test_the_key_of_a_task_view_is_made_of_its_defaults_too(site: Site) -> None:
    @site.app.get("/report")
    @site.app.get("/report/<int:year>")
    @site.flows.task_view(key="{year}-{style}")
    def styled(year: int = 2026, style: str = "plain") -> str:
        return f"{style} {year}"

    client = site.client()
    assert client.get("/report").status_code == 202
    assert client.get("/report/2026").status_code == 202
    assert site.run.key == "2026-plain"
    site.work()
    assert client.get("/report").text == "plain 2026"


def test_a_key_that_names_what_the_view_does_not_take_is_refused_at_once(site: Site) -> None:
    with pytest.raises(ConfigurationError, match=r"names 'yeer', and the view takes year"):
        site.flows.task_view(key="report-{yeer}")(yearly)


def test_a_view_that_takes_any_parameter_may_have_it_in_its_key(site: Site) -> None:
    @site.app.get("/any/<name>")
    @site.flows.task_view(key="any-{name}")
    def anything(**parameters: str) -> str:
        return parameters["name"]

    client = site.client()
    client.get("/any/Ada")
    assert site.run.key == "any-Ada"
    site.work()
    assert client.get("/any/Ada").text == "Ada"
