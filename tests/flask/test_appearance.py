"""How a waiting page looks: per task, step, flow or application; the nearest choice wins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from flask import Blueprint
from flask_socketio import SocketIO
from jinja2 import ChoiceLoader, DictLoader, TemplateNotFound

from flowroute import Continuation, Flow, done, step, worker_step
from flowroute.errors import ArgumentError, ConfigurationError
from flowroute.flask import loading
from flowroute.flask.appearance import image_url
from tests.flask.support import JSON, Site, attributes, soup

if TYPE_CHECKING:
    from collections.abc import Callable

    from werkzeug.test import TestResponse

    from tests.flask.conftest import MakeSite

TEMPLATE = """<!doctype html><html><head><title>{{ run.title }}</title>{{ run.script() }}</head>
<body class="%s"><img class="picture" src="{{ run.loading_img or '' }}"></body></html>"""


class AppearancePlain(Flow):
    """A flow that chose nothing."""

    @worker_step(start=True)
    def first(self) -> Continuation[Any]:
        return done(1)


@loading(template="of-flow.html", loading_img="of-flow.gif")
class AppearanceChosen(Flow):
    """A flow that chose, and so did one of its steps."""

    @step(start=True)
    def begin(self) -> Continuation[Any]:
        return self.like_the_flow()

    @worker_step
    def like_the_flow(self) -> Continuation[Any]:
        return self.of_its_own()

    @loading(template="of-step.html", loading_img="of-step.gif")
    @worker_step
    def of_its_own(self) -> Continuation[Any]:
        return self.half_of_its_own()

    @loading(loading_img="half.gif")
    @worker_step
    def half_of_its_own(self) -> Continuation[Any]:
        return done(1)


class AppearanceInherited(AppearanceChosen):
    """A flow that is built on one that chose."""


@loading(template="of-heir.html")
class AppearanceOfHeir(AppearanceChosen):
    """A flow that chooses for itself what the one that it is built on chose."""


def nap() -> str:
    return "rested"


@pytest.fixture
def painted(make_site: MakeSite, sqlite_url: str) -> Callable[..., Site]:
    """Call it to make a site with templates; config keys may choose for the application."""

    def make(**config: Any) -> Site:
        site = make_site(sqlite_url, socketio=SocketIO(), **config)
        names = ("app", "of-flow", "of-step", "of-heir", "of-task", "changed")
        templates = {f"{name}.html": TEMPLATE % name for name in names}
        bundled = site.app.jinja_env.loader
        assert bundled is not None
        site.app.jinja_env.loader = ChoiceLoader([DictLoader(templates), bundled])
        shop = Blueprint("shop", __name__, url_prefix="/shop", static_folder="static")
        site.app.register_blueprint(shop)
        respond, task = site.flows.respond, site.flows.task
        site.route("/plain", lambda: respond(AppearancePlain().first(), key="k"))
        site.route("/chosen", lambda: respond(AppearanceChosen().begin(), key="k"))
        site.route("/inherited", lambda: respond(AppearanceInherited().begin(), key="k"))
        site.route("/heir", lambda: respond(AppearanceOfHeir().begin(), key="k"))

        def chosen_task() -> Any:
            chosen = task(nap, key="chosen", template="of-task.html", loading_img="of-task.gif")
            return chosen()

        def plain_task() -> Any:
            return task(nap, key="plain")()

        site.route("/task", chosen_task)
        site.route("/plain-task", plain_task)
        return site

    return make


def look(page: TestResponse) -> tuple[str, str | None]:
    """Which template a page is made of, and the picture on it."""
    assert page.status_code == 202
    parsed = soup(page)
    body = parsed.select_one("body")
    picture = parsed.select_one("img.picture")
    assert body is not None
    name = " ".join(body.get_attribute_list("class")) if "class" in body.attrs else "bundled"
    return name, None if picture is None else str(picture["src"])


def looks(site: Site, path: str, *, moves: int = 0) -> tuple[str, str | None]:
    """As `look`, after so many worker steps."""
    client = site.client()
    client.get(path)
    assert site.shelf is not None
    for _ in range(moves):
        site.shelf.work()
    return look(client.get(path))


# -- who chooses -----------------------------------------------------------------------------------


def bundled_look(site: Site, path: str) -> None:
    """Check that a page is flowroute's own, with the spinner."""
    page = site.client().get(path)
    assert soup(page).select(".spinner")
    assert not soup(page).select("img.picture")


@pytest.mark.parametrize("path", ["/plain", "/plain-task"])
def test_where_nobody_chose_the_page_is_the_bundled_one_with_a_spinner(
    painted: Callable[..., Site], path: str
) -> None:
    bundled_look(painted(), path)


@pytest.mark.parametrize("path", ["/plain", "/plain-task"])
def test_the_application_chooses_for_all_that_chose_nothing(
    painted: Callable[..., Site], path: str
) -> None:
    site = painted(FLOWROUTE_TEMPLATE="app.html", FLOWROUTE_LOADING_IMG="app.gif")
    assert looks(site, path) == ("app", "/static/app.gif")


@pytest.mark.parametrize(
    ("moves", "expected"),
    [
        (0, ("of-flow", "/static/of-flow.gif")),
        (1, ("of-step", "/static/of-step.gif")),
        (2, ("of-flow", "/static/half.gif")),
    ],
)
def test_a_step_is_nearer_than_its_flow_and_a_flow_nearer_than_the_application(
    painted: Callable[..., Site], moves: int, expected: tuple[str, str]
) -> None:
    site = painted(FLOWROUTE_TEMPLATE="app.html", FLOWROUTE_LOADING_IMG="app.gif")
    assert looks(site, "/chosen", moves=moves) == expected


def test_a_task_is_nearest(painted: Callable[..., Site]) -> None:
    site = painted(FLOWROUTE_TEMPLATE="app.html", FLOWROUTE_LOADING_IMG="app.gif")
    assert looks(site, "/task") == ("of-task", "/static/of-task.gif")


def test_what_the_nearest_leaves_open_comes_from_farther_away(
    painted: Callable[..., Site],
) -> None:
    site = painted(FLOWROUTE_LOADING_IMG="app.gif")
    site.route("/half", lambda: site.flows.task(nap, key="h", template="of-task.html")())  # noqa: PLW0108  # made in the request
    assert looks(site, "/half") == ("of-task", "/static/app.gif")


def test_a_flow_that_is_built_on_another_looks_like_it_unless_it_chooses(
    painted: Callable[..., Site],
) -> None:
    site = painted()
    assert looks(site, "/inherited") == ("of-flow", "/static/of-flow.gif")
    assert looks(site, "/heir")[0] == "of-heir"


def test_a_view_that_is_a_task_chooses_as_a_task_does(painted: Callable[..., Site]) -> None:
    site = painted()
    view = site.flows.task_view(key="v", template="of-task.html", loading_img="shop:v.gif")(nap)
    site.route("/view", view)
    assert looks(site, "/view") == ("of-task", "/shop/static/v.gif")


def test_what_is_neither_flow_nor_step_is_refused_with_where_to_write_it() -> None:
    with pytest.raises(ArgumentError, match="above @step"):
        loading(loading_img="x.gif")(nap)  # type: ignore[type-var]  # that is the mistake
    with pytest.raises(ArgumentError, match="neither"):
        loading(loading_img="x.gif")(Site)  # type: ignore[type-var]  # that is the mistake


def test_a_step_that_chose_how_to_look_is_otherwise_the_same(painted: Callable[..., Site]) -> None:
    site = painted()
    client = site.client()
    client.get("/chosen")
    site.work()
    assert client.get("/chosen", headers=JSON).get_json()["result"] == 1


# -- resolved when rendered ------------------------------------------------------------------------


def test_the_choice_of_the_code_that_is_deployed_now_is_shown(
    painted: Callable[..., Site],
) -> None:
    site = painted()
    bundled_look(site, "/plain")
    before = AppearancePlain.first.options
    try:
        loading(template="changed.html", loading_img="changed.gif")(AppearancePlain.first)
        assert looks(site, "/plain") == ("changed", "/static/changed.gif")
    finally:
        AppearancePlain.first.options = before


def test_a_change_of_the_applications_choice_reaches_runs_that_wait(
    painted: Callable[..., Site], make_site: MakeSite, sqlite_url: str
) -> None:
    bundled_look(painted(), "/plain-task")
    later = make_site(sqlite_url, FLOWROUTE_LOADING_IMG="later.gif")
    later.route("/", lambda: later.flows.task(nap, key="plain")())  # noqa: PLW0108  # made in the request
    picture = attributes(later.client().get("/"), "img.picture")
    assert picture["src"] == "/static/later.gif"


def test_below_a_prefix_the_picture_is_there_too(painted: Callable[..., Site]) -> None:
    site = painted()
    looks(site, "/task")
    page = site.client().get("/task", environ_overrides={"SCRIPT_NAME": "/prefix"})
    assert look(page) == ("of-task", "/prefix/static/of-task.gif")


# -- pictures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loading_img", "address"),
    [
        ("wait.gif", "/static/wait.gif"),
        ("folder/wait a bit.gif", "/static/folder/wait%20a%20bit.gif"),
        ("shop:wait.gif", "/shop/static/wait.gif"),
        ("https://cdn.example/wait.gif?a=1&b=2", "https://cdn.example/wait.gif?a=1&b=2"),
        ("HTTP://cdn.example/wait.gif", "HTTP://cdn.example/wait.gif"),
        ("/pictures/wait.gif", "/pictures/wait.gif"),
        ('"><script>alert(1)</script>', "/static/%22%3E%3Cscript%3Ealert(1)%3C/script%3E"),
    ],
)
def test_a_picture_comes_from_the_application_a_blueprint_or_an_address(
    painted: Callable[..., Site], loading_img: str, address: str
) -> None:
    site = painted(FLOWROUTE_LOADING_IMG=loading_img)
    page = site.client().get("/plain")
    assert attributes(page, "img.picture")["src"] == address
    assert all(script.get("src") for script in soup(page).select("script"))


@pytest.mark.parametrize(
    ("loading_img", "whose"),
    [
        ("nowhere:wait.gif", "'nowhere'"),
        ("javascript:alert(1)", "'javascript'"),
        ("data:image/gif;base64,R0lGOD", "'data'"),
    ],
)
def test_a_picture_of_nobodys_is_refused_by_name(
    painted: Callable[..., Site], loading_img: str, whose: str
) -> None:
    with (
        painted().app.test_request_context(),
        pytest.raises(ConfigurationError, match=f"blueprint {whose} serves no static folder"),
    ):
        image_url(loading_img)


# -- anyone's template -----------------------------------------------------------------------------


def test_the_script_in_the_head_of_anyones_template_is_enough_to_make_it_live(
    painted: Callable[..., Site],
) -> None:
    site = painted()
    client = site.client()
    page = client.get("/task")
    script = attributes(page, "head script#flowroute")
    assert script["data-socket-path"] == "/socket.io"
    assert [s["src"] for s in soup(page).select("script")] == [
        "/flow/-/static/vendor/socket.io.min.js",
        "/flow/-/static/flowroute.js",
    ]
    assert soup(page).select("head noscript meta[http-equiv=refresh]")
    state = client.get(script["data-state-url"]).get_json()
    assert (state["at_rest"], state["id"]) == (False, site.run.id)
    site.work()
    assert client.get(script["data-state-url"]).get_json()["at_rest"] is True
    assert client.get("/task").text == "rested"


def test_a_template_that_is_not_there_is_named(painted: Callable[..., Site]) -> None:
    site = painted(FLOWROUTE_TEMPLATE="missing.html")
    with pytest.raises(TemplateNotFound, match=r"missing\.html"):
        site.client().get("/plain")
