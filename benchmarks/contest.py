"""Asks contestants, each in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.processes import COMPILED

ROOT = Path(__file__).parents[1]


class ContestantFailed(Exception):
    """A contestant raised, or its process ended."""


class Contestant:
    """A contestant in a process of its own, which ends with the `with` block.

    Parameters:
        reference: What makes it there, ``benchmarks.peers.core:chain``.
        log: The file that its output goes to.
        environment: Variables added to this process's.
        arguments: Of what makes it; JSON must be able to hold them.

    Raises:
        ContestantFailed: It could not be made.
    """

    def __init__(
        self,
        reference: str,
        log: Path,
        environment: dict[str, str] | None = None,
        **arguments: Any,
    ) -> None:
        self.reference = reference
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.contestant", reference, json.dumps(arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                cwd=ROOT,
                env={**os.environ, **COMPILED, **(environment or {})},
                start_new_session=True,  # so that Ctrl-C reaches the one who asks only
            )
        self._answer()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def ask(self, method: str, **arguments: Any) -> Any:
        """Call a method there, and wait for what it returns.

        Raises:
            ContestantFailed: It raised, or the process ended.
        """
        if self._process.stdin is None:  # cannot be: it is a pipe
            raise AssertionError
        question = json.dumps({"method": method, "arguments": arguments})
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        if self._process.stdout is None:  # cannot be: it is a pipe
            raise AssertionError
        line = self._process.stdout.readline()
        if not line:
            tail = self._log.read_text(errors="replace")[-3000:]
            code = self._process.wait()
            raise ContestantFailed(f"{self.reference} ended with {code}:\n{tail}")
        answer = json.loads(line)
        if "error" in answer:
            raise ContestantFailed(f"{self.reference} raised:\n{answer['error']}")
        return answer["result"]

    def kill(self) -> None:
        """SIGKILL it, as a crash does."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it: cleanly, or by SIGKILL if that takes too long."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it was killed
                self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
