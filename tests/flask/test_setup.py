"""Setting up an application: its config, database and executor, and what can be wrong with them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from flask import Blueprint, Flask
from flask.sessions import SessionInterface
from flask_socketio import SocketIO
from flask_sqlalchemy import SQLAlchemy

from flowroute.engine import schema
from flowroute.errors import (
    ConfigurationError,
    RedisUnreachable,
    SecretKeyMissing,
    TablesMissing,
    UnknownSetting,
)
from flowroute.flask import FlowRoute
from flowroute.flask.config import Settings
from tests.flask.conftest import SECRET
from tests.flask.flows import SiteForm, SiteParcel, SiteResult
from tests.flask.support import Site, attributes, form_field
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.flask.conftest import MakeSite


class Setup:
    """Applications that are set up step by step, on one database."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        self.url = url
        self._stack = stack

    def app(self, name: str = "shop", **config: Any) -> Flask:
        """An application without flowroute."""
        app = Flask(name)
        app.config.update(
            TESTING=True, SECRET_KEY=SECRET, SQLALCHEMY_DATABASE_URI=self.url, **config
        )
        return app

    def database(self, app: Flask) -> SQLAlchemy:
        """Flask-SQLAlchemy of an application, closed after the test."""
        db = SQLAlchemy()
        db.init_app(app)

        def close() -> None:
            with app.app_context():
                db.engine.dispose()

        self._stack.callback(close)
        return db

    def flows(self, app: Flask, **options: Any) -> FlowRoute:
        """Flowroute of an application, closed after the test."""
        flows = FlowRoute(app, db=self.database(app), **options)

        def close() -> None:
            with app.app_context():
                flows.engine.close()

        self._stack.callback(close)
        return flows


@pytest.fixture
def setup(sqlite_url: str) -> Iterator[Setup]:
    """Set an application up step by step."""
    with ExitStack() as stack:
        yield Setup(sqlite_url, stack)


def settings(**config: Any) -> Settings:
    """The settings of an application with this config."""
    app = Flask("shop")
    app.config.update({"SECRET_KEY": SECRET, **config})
    return Settings.of(app)


# -- config ----------------------------------------------------------------------------------------


def test_without_any_key_but_the_secret_the_defaults_hold() -> None:
    assert settings() == Settings()


@pytest.mark.parametrize(
    ("key", "given", "read"),
    [
        ("REDIS_URL", "redis://localhost:1/0", "redis://localhost:1/0"),
        ("REDIS_URL", "", None),
        ("REDIS_URL", None, None),
        ("EXECUTOR", "inline", "inline"),
        ("EXECUTOR", "", None),
        ("QUEUE", "mails", "mails"),
        ("THREADS", 1, 1),
        ("THREADS", "8", 8),
        ("SECRET_KEYS", ["a", b"\xff"], ["a", b"\xff"]),
        ("LEASE_SECONDS", "2.5", 2.5),
        ("URL_PREFIX", "/my/runs", "/my/runs"),
        ("POLL_SECONDS", 1, 1.0),
        ("RETENTION", timedelta(days=7), timedelta(days=7)),
        ("RETENTION", 3600, timedelta(hours=1)),
        ("RETENTION", None, None),
        ("MAX_CHECKPOINT_BYTES", 1000, 1000),
        ("SHOW_ERRORS", "true", True),
    ],
    ids=str,
)
def test_a_setting_is_read_also_as_the_environment_writes_it(
    key: str, given: Any, read: Any
) -> None:
    assert getattr(settings(**{f"FLOWROUTE_{key}": given}), key.lower()) == read


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("REDIS_URL", 6379),
        ("EXECUTOR", "celery"),
        ("EXECUTOR", "rq"),  # without a Redis
        ("QUEUE", ""),
        ("QUEUE", None),
        ("THREADS", 0),
        ("THREADS", "many"),
        ("SECRET_KEYS", "one text"),
        ("SECRET_KEYS", ["", "a"]),
        ("LEASE_SECONDS", 0),
        ("LEASE_SECONDS", float("inf")),
        ("LEASE_SECONDS", "soon"),
        ("URL_PREFIX", ""),
        ("URL_PREFIX", "/"),
        ("URL_PREFIX", "runs"),
        ("URL_PREFIX", "/runs/"),
        ("URL_PREFIX", "//runs"),
        ("URL_PREFIX", "/<runs>"),
        ("POLL_SECONDS", -1),
        ("RETENTION", 0),
        ("RETENTION", "for ever"),
        ("MAX_CHECKPOINT_BYTES", 0),
        ("SHOW_ERRORS", "perhaps"),
    ],
    ids=str,
)
def test_a_value_that_can_not_work_is_refused_by_the_name_of_its_key(key: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"FLOWROUTE_{key} is ") as refused:
        settings(**{f"FLOWROUTE_{key}": value})
    assert str(refused.value).endswith(".")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [("SECRET_KEYS", "the-secret-itself"), ("REDIS_URL", ["redis://:the-secret-itself@host"])],
)
def test_no_message_holds_a_secret(key: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=key) as refused:
        settings(**{f"FLOWROUTE_{key}": value})
    assert "the-secret-itself" not in str(refused.value)
    assert refused.value.__suppress_context__


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("FLOWROUTE_REDIS", "FLOWROUTE_REDIS_URL"),
        ("FLOWROUTE_LEASE_SECOND", "FLOWROUTE_LEASE_SECONDS"),
        ("FLOWROUTE_SECRET_KEY", "FLOWROUTE_SECRET_KEYS"),
        ("FLOWROUTE_SHOW_ERROR", "FLOWROUTE_SHOW_ERRORS"),
    ],
)
def test_a_misspelt_key_is_refused_with_the_one_that_was_meant(misspelt: str, meant: str) -> None:
    with pytest.raises(UnknownSetting, match=f"{misspelt}: did you mean {meant}\\?"):
        settings(**{misspelt: "x"})


def test_a_key_like_no_other_is_refused_with_all_there_are() -> None:
    with pytest.raises(UnknownSetting) as refused:
        settings(FLOWROUTE_ZZZ=1)
    for name in Settings.__dataclass_fields__:
        assert f"FLOWROUTE_{name.upper()}" in str(refused.value)


def test_every_setting_is_listed_in_the_docstring_of_the_extension() -> None:
    for name in Settings.__dataclass_fields__:
        assert f"``FLOWROUTE_{name.upper()}``" in str(FlowRoute.__doc__)


def test_without_a_secret_key_it_says_how_to_make_one() -> None:
    with pytest.raises(SecretKeyMissing, match=r"SECRET_KEY.*token_hex"):
        settings(SECRET_KEY=None)


def test_keys_of_its_own_do_not_replace_the_key_that_flask_signs_sessions_with() -> None:
    with pytest.raises(SecretKeyMissing, match="session cookie"):
        settings(SECRET_KEY=None, FLOWROUTE_SECRET_KEYS=["a"])


def test_with_sessions_that_need_no_secret_key_its_own_keys_are_enough() -> None:
    class ServerSide(SessionInterface):
        """Sessions that are kept elsewhere; in this case nowhere."""

    app = Flask("shop")
    app.session_interface = ServerSide()
    app.config["FLOWROUTE_SECRET_KEYS"] = ["a"]
    assert Settings.of(app).keys(app) == ["a"]


def test_the_secret_key_signs_and_its_fallbacks_still_verify() -> None:
    app = Flask("shop")
    app.config.from_mapping({"SECRET_KEY": "new", "SECRET_KEY_FALLBACKS": ["old", "older"]})
    assert Settings.of(app).keys(app) == ["new", "old", "older"]


# -- init_app --------------------------------------------------------------------------------------


def test_an_application_is_set_up_once(setup: Setup) -> None:
    app = setup.app()
    flows = setup.flows(app)
    with pytest.raises(ConfigurationError, match=r"'shop' has a FlowRoute already"):
        flows.init_app(app)


def test_the_database_comes_first(setup: Setup) -> None:
    for flows, db in (
        (FlowRoute(), None),
        (FlowRoute(), SQLAlchemy()),
        (FlowRoute(db=SQLAlchemy()), None),
    ):
        with pytest.raises(ConfigurationError, match=r"call db\.init_app\(app\) first"):
            flows.init_app(setup.app(), db=db)


def test_a_database_that_is_not_the_applications_is_refused(setup: Setup) -> None:
    app = setup.app()
    setup.database(app)
    with pytest.raises(ConfigurationError, match=r"db\.init_app"):
        FlowRoute(app, db=SQLAlchemy())


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_that_forgets_is_refused(setup: Setup, url: str) -> None:
    setup.url = url
    app = setup.app()
    db = setup.database(app)
    with pytest.raises(ConfigurationError, match="SQLite in memory"):
        FlowRoute(app, db=db)


def test_outside_an_application_it_asks_for_one() -> None:
    flows = FlowRoute()
    with pytest.raises(ConfigurationError, match="app_context"):
        _ = flows.engine
    with Flask("bare").app_context(), pytest.raises(ConfigurationError, match="init_app"):
        _ = flows.engine


def test_without_tables_a_start_says_how_to_make_them(setup: Setup) -> None:
    app = setup.app()
    flows = setup.flows(app)
    app.add_url_rule("/", "go", lambda: flows.respond(SiteResult().end(1)), methods=["POST"])
    with pytest.raises(TablesMissing, match=r"db\.create_all\(\)"):
        app.test_client().post("/")


@pytest.mark.parametrize("name", ["worker", "flow", "flowroute_admin", "runs"])
def test_blueprints_of_the_application_keep_their_names_and_addresses(
    setup: Setup, name: str
) -> None:
    app = setup.app()
    host = Blueprint(name, __name__, url_prefix=f"/{name}s", static_folder="static")
    host.add_url_rule("/", "index", lambda: "the application's own")
    app.register_blueprint(host)
    setup.flows(app)
    client = app.test_client()
    assert client.get(f"/{name}s/").text == "the application's own"
    with client.get("/flow/-/static/flowroute.js") as script:
        assert script.status_code == 200


def test_templates_of_the_application_come_before_the_bundled_ones(
    make_site: MakeSite, sqlite_url: str, tmp_path: Any
) -> None:
    site = make_site(sqlite_url)
    folder = tmp_path / "flowroute"
    folder.mkdir()
    (folder / "loading.html").write_text("my own page of {{ run.title }}")
    site.app.template_folder = str(tmp_path)
    site.route("/", lambda: site.flows.respond(SiteParcel(name="x").pack(), key="k"))
    answer = site.client().get("/")
    assert (answer.status_code, answer.text) == (202, "my own page of Your parcel")


def test_two_applications_in_one_process_have_nothing_in_common(
    make_site: MakeSite, tmp_path: Any
) -> None:
    sites = [make_site(f"sqlite:///{tmp_path / name}.db", socketio=SocketIO()) for name in "ab"]
    for site in sites:
        respond = site.flows.respond
        site.route("/", lambda respond=respond: respond(SiteForm().address(), key="k"))
    clients = [site.client() for site in sites]
    pages = [client.get("/") for client in clients]
    assert len({site.run.id for site in sites}) == 2
    own = attributes(pages[0], "#own")["href"]
    # Two browsers' worth of cookies, one secret key: the token is good, the run is not there.
    with clients[0].session_transaction() as cookie:
        visitor = dict(cookie)
    with clients[1].session_transaction() as cookie:
        cookie.update(visitor)
    assert clients[1].get(own).status_code == 404
    clients[0].post(own, data={"street": "Elm"} | form_field(pages[0]))
    assert [site.run.step for site in sites] == ["confirm", "address"]
    assert [site.lines for site in sites] == [["address Elm"], []]


def test_one_extension_serves_the_applications_of_a_factory(setup: Setup, tmp_path: Any) -> None:
    db, flows = SQLAlchemy(), FlowRoute()
    engines = []
    for name in ("one", "two"):
        setup.url = f"sqlite:///{tmp_path / name}.db"
        app = setup.app(name)
        db.init_app(app)
        flows.init_app(app, db=db)
        app.add_url_rule(
            "/", "go", lambda: flows.respond(SiteResult().end("done"), key="k"), methods=["GET"]
        )
        with app.app_context():
            db.create_all()
            engines.append((app, flows.engine))
        assert app.test_client().get("/").text == "done"
    for app, engine in engines:
        with app.app_context():
            assert flows.engine is engine
            assert len(engine.runs()) == 1
            engine.close()
            db.engine.dispose()


# -- tables ----------------------------------------------------------------------------------------


def test_the_tables_are_the_applications_and_exactly_what_create_all_makes(
    make_site: MakeSite, database_url: str
) -> None:
    site = make_site(database_url)
    tables = site.db.metadata.tables
    assert {table.name for table in schema.TABLES} <= set(tables)
    with site.app.app_context():
        found = sa.inspect(site.db.engine)
        for table in schema.TABLES:
            ours = tables[table.name]
            columns = {column["name"]: column for column in found.get_columns(table.name)}
            assert set(columns) == set(ours.columns.keys())
            for column in ours.columns:
                there = columns[column.name]
                assert there["nullable"] is column.nullable, column
                compiled = column.type.compile(site.db.engine.dialect)
                assert there["type"].compile(site.db.engine.dialect) == compiled, column
            indexes = {index["name"] for index in found.get_indexes(table.name)}
            assert indexes == {index.name for index in ours.indexes}
            assert found.get_pk_constraint(table.name)["constrained_columns"] == [
                column.name for column in ours.primary_key
            ]


def test_making_the_tables_twice_and_setting_up_twice_changes_nothing(
    make_site: MakeSite, sqlite_url: str
) -> None:
    site = make_site(sqlite_url)
    schema.add_tables(site.db.metadata)
    with site.app.app_context():
        site.db.create_all()
        assert site.flows.engine.runs() == []


# -- executors -------------------------------------------------------------------------------------


def executor_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("flowroute-")]


def test_threads_start_with_the_first_request_and_not_with_the_import(
    make_site: MakeSite, sqlite_url: str
) -> None:
    before = executor_threads()
    site = make_site(sqlite_url, executor="thread", FLOWROUTE_THREADS=3)
    site.route("/", lambda: "hello")
    assert executor_threads() == before
    site.client().get("/")
    assert len(executor_threads()) == len(before) + 4  # three, and one that recovers
    site.client().get("/")
    assert len(executor_threads()) == len(before) + 4


def test_a_run_that_waited_when_the_process_ended_is_finished_by_the_next_one(
    make_site: MakeSite, database_url: str
) -> None:
    before = make_site(database_url)  # its worker steps stay on the shelf for ever
    before.route("/", lambda: before.flows.respond(SiteParcel(name="x").pack(), key="k"))
    assert before.client().get("/").status_code == 202
    after = make_site(database_url, executor="thread")
    after.route("/", lambda: after.flows.respond(SiteParcel(name="x").pack(), key="k"))
    client = after.client()
    assert client.get("/").status_code == 202
    wait_until(
        lambda: client.get("/").text == "<p>x weighs 1</p>",
        20,
        what="the result is shown",
        poll_seconds=0.1,
    )
    assert after.lines == ["packed x", "sent x"]


def test_inline_runs_the_worker_step_inside_the_request(
    make_site: MakeSite, database_url: str
) -> None:
    site = make_site(database_url, executor="inline")
    site.route("/", lambda: site.flows.respond(SiteParcel(name="x").pack(), key="k"))
    assert site.client().get("/").text == "<p>x weighs 1</p>"


def redis_setup(setup: Setup, url: str, **options: Any) -> tuple[Flask, FlowRoute]:
    """An application whose worker steps run on RQ."""
    app = setup.app(FLOWROUTE_REDIS_URL=url)
    flows = setup.flows(app, **options)
    app.add_url_rule(
        "/", "go", lambda: flows.respond(SiteParcel(name="x").pack(), key="k"), methods=["GET"]
    )
    with app.app_context():
        app.extensions["sqlalchemy"].create_all()
        from tests.flask.support import Base  # noqa: PLC0415

        Base.metadata.create_all(app.extensions["sqlalchemy"].engine)
    return app, flows


def test_with_a_redis_worker_steps_go_to_its_queue(setup: Setup, redis_url: str) -> None:
    app, flows = redis_setup(setup, redis_url)
    assert app.test_client().get("/").status_code == 202
    with app.app_context():
        executor: Any = flows.engine.executor
    assert (executor.name, executor.queue.name, len(executor.queue)) == ("rq", "flowroute", 1)


def test_tests_may_choose_inline_whatever_else_is_configured(setup: Setup) -> None:
    app = setup.app(FLOWROUTE_REDIS_URL="redis://localhost:1", FLOWROUTE_EXECUTOR="inline")
    with app.app_context():
        assert setup.flows(app).engine.executor.name == "inline"


def test_a_redis_that_is_down_is_one_warning_and_the_site_still_serves(
    setup: Setup, free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        app, _ = redis_setup(setup, f"redis://:password@127.0.0.1:{free_port}/0")
    (warning,) = caplog.records
    assert warning.name == "flowroute.flask"
    assert str(free_port) in warning.getMessage()
    assert "password" not in warning.getMessage()
    client = app.test_client()
    assert client.get("/").status_code == 202  # accepted: the database is what counts
    assert client.get("/").status_code == 202


def test_a_redis_url_that_can_not_work_is_refused(setup: Setup) -> None:
    app = setup.app(FLOWROUTE_REDIS_URL="localhost:6379")
    with pytest.raises(ConfigurationError) as refused:
        FlowRoute(app, db=setup.database(app))
    assert not isinstance(refused.value, RedisUnreachable)


def test_a_socketio_that_workers_can_not_reach_is_one_warning(
    setup: Setup, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    def warnings(**options: Any) -> list[str]:
        caplog.clear()
        app = setup.app(FLOWROUTE_REDIS_URL=redis_url)
        socketio = SocketIO()
        socketio.init_app(app, async_mode="threading", **options)
        setup.flows(app, socketio=socketio)
        return [record.getMessage() for record in caplog.records]

    (warning,) = warnings()
    assert "message_queue=" in warning
    assert warnings(message_queue=redis_url) == []


def test_a_socketio_that_is_set_up_later_is_warned_of_by_nobody(
    setup: Setup, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = setup.app(FLOWROUTE_REDIS_URL=redis_url)
    socketio = SocketIO()
    flows = setup.flows(app, socketio=socketio)
    assert caplog.records == []
    socketio.init_app(app, async_mode="threading", path="/late")
    app.add_url_rule("/", "go", lambda: flows.respond(SiteParcel(name="x").pack(), key="k"))
    with app.app_context():
        app.extensions["sqlalchemy"].create_all()
    with app.test_request_context():
        from flowroute.flask.sockets import path_of  # noqa: PLC0415

        assert path_of(socketio) == "/late"


def test_a_site_can_be_used_without_a_request(site: Site) -> None:
    with site.app.app_context():
        run = site.flows.engine.start(SiteParcel(name="x").pack())
        site.work()
        assert run.result == "<p>x weighs 1</p>"


def test_an_engine_can_be_used_outside_an_application_context(site: Site) -> None:
    engine = site.app.extensions["flowroute"].engine
    assert not engine.recover()  # as its executor's threads and workers do
    assert engine.runs() == []
