"""Subprocesses of a test: their output can be waited for, and no descendant outlives the test."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

#: Processes keep what they compile, whatever this one's environment says of that: compiling takes
#: several times as long as all the rest of a start.
COMPILED = {
    "PYTHONDONTWRITEBYTECODE": "",
    "PYTHONPYCACHEPREFIX": str(Path(__file__).parents[1] / "build" / "pycache"),
}

#: In the environment of each process, so that descendants are found even after `setsid`.
MARK = "FLOWROUTE_TEST_PROCESS"


class Process:
    """A running command with captured output (standard output and error in one).

    Args:
        command: program and arguments.
        env: variables added to this process's environment.
        cwd: the working directory, if it is not this process's.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.command = [str(part) for part in command]
        self._mark = secrets.token_hex(8)
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._seen = 0  # lines that wait_for_line has passed
        self._ended = False
        environment = {**os.environ, **COMPILED, "PYTHONUNBUFFERED": "1"}
        environment |= {**(env or {}), MARK: self._mark}
        self._popen = subprocess.Popen(
            self.command,
            env=environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        output = self._popen.stdout
        if output is None:  # cannot be: stdout is a pipe
            raise AssertionError
        self._reader = threading.Thread(
            target=self._read, args=(output,), name=f"output of {self.pid}", daemon=True
        )
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process id of the command itself."""
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while the command runs."""
        return self._popen.poll()

    @property
    def output(self) -> str:
        """All that was printed so far."""
        with self._changed:
            return "".join(self._lines)

    def wait_for_line(self, pattern: str, timeout_seconds: float = 20.0) -> re.Match[str]:
        """Wait for a line that matches, after the line that the previous call found.

        Args:
            pattern: a regular expression, searched for in each line.
            timeout_seconds: how long to wait, in seconds.

        Returns:
            The match.

        Raises:
            AssertionError: no such line came in time, or the output ended without one.
        """
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            while True:
                while self._seen < len(self._lines):
                    line = self._lines[self._seen]
                    self._seen += 1
                    match = re.search(pattern, line)
                    if match:
                        return match
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    why = "the output ended" if self._ended else f"{timeout_seconds} s passed"
                    message = (
                        f"no line matches {pattern!r}: {why}\n$ {' '.join(self.command)}\n"
                        + "".join(self._lines[-100:])
                    )
                    raise AssertionError(message)
                self._changed.wait(left)

    def wait(self, timeout_seconds: float = 20.0) -> int:
        """Wait for the command's end and for the rest of its output.

        Returns:
            The exit code, negative for a signal.

        Raises:
            AssertionError: it still runs when the time is up.
        """
        try:
            code = self._popen.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            message = f"still running after {timeout_seconds} s: {self.command}\n{self.output}"
            raise AssertionError(message) from None
        self._reader.join(1)  # a descendant may hold the pipe open for longer
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the command itself, not to its descendants."""
        self._popen.send_signal(number)

    def interrupt(self) -> None:
        """Do what Ctrl-C in a terminal does: SIGINT to the command's whole process group."""
        os.killpg(self.pid, signal.SIGINT)

    def terminate(self) -> None:
        """Send SIGTERM to the command itself."""
        self._popen.terminate()

    def kill(self) -> None:
        """SIGKILL the command itself and wait for its end; descendants live on."""
        self._popen.kill()
        self._popen.wait()

    def descendants(self) -> list[int]:
        """Return the ids of the living processes that the command started, however indirectly.

        Raises:
            NotImplementedError: this system has no /proc.
        """
        return [pid for pid in self._marked() if pid != self.pid]

    def kill_all(self) -> None:
        """SIGKILL the command and everything that it started."""
        if self._popen.poll() is None:
            self._kill_group()  # the whole of it where there is no /proc
        if Path("/proc/self/environ").exists():
            # More than one round: a process may fork between the listing and its end.
            wait_until(self._kill_marked, 10, what=f"everything of {self.command} has ended")
        self._popen.wait()
        self._reader.join(1)

    def __enter__(self) -> Self:
        """Return the process itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill everything."""
        self.kill_all()

    def _read(self, output: IO[str]) -> None:
        with output:
            for line in output:
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself in between
            os.killpg(self.pid, signal.SIGKILL)

    def _kill_marked(self) -> bool:
        """SIGKILL every marked process; True if there was none."""
        marked = self._marked()
        for pid in marked:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself in between
                os.kill(pid, signal.SIGKILL)
        self._popen.poll()
        return not marked

    def _marked(self) -> list[int]:
        proc = Path("/proc")
        if not (proc / "self" / "environ").exists():
            message = "descendants are found through /proc, which this system lacks"
            raise NotImplementedError(message)
        mark = f"{MARK}={self._mark}".encode()
        found: list[int] = []
        for directory in proc.iterdir():
            if directory.name.isdigit():
                try:
                    variables = (directory / "environ").read_bytes().split(b"\0")
                except (FileNotFoundError, ProcessLookupError, PermissionError):
                    continue  # ended meanwhile, or not ours
                if mark in variables:
                    found.append(int(directory.name))
        return found


class Processes:
    """The processes of one test: call it to start one; `kill_all` ends them all."""

    def __init__(self) -> None:
        self._started: list[Process] = []

    def __call__(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Process:
        """Start a command, as `Process` describes."""
        process = Process(command, env=env, cwd=cwd)
        self._started.append(process)
        return process

    def kill_all(self) -> None:
        """Kill every process, newest first, with everything it started."""
        while self._started:
            self._started.pop().kill_all()
