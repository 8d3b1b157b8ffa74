"""Processes that are forked to be killed, and what they report before that."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class Child:
    """A forked process."""

    pid: int
    reading: int
    """Where its result can be read from."""

    def result(self) -> Any:
        """Wait for its end.

        Returns:
            What its function returned; None if it was killed.

        Raises:
            RuntimeError: It failed.
        """
        with os.fdopen(self.reading, "rb") as pipe:
            data = pipe.read()
        _, status = os.waitpid(self.pid, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            return None
        if status != 0:
            message = f"a child of the harness failed:\n{pickle.loads(data) if data else status}"  # noqa: S301  # our own child's
            raise RuntimeError(message)
        return pickle.loads(data)  # noqa: S301  # our own child's


def fork(act: Callable[[], Any]) -> Child:
    """Call a function in a forked process that ends with it."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(writing)
        return Child(pid, reading)
    code, result = 0, None
    try:
        os.close(reading)
        result = act()
    except BaseException:  # noqa: BLE001  # told to the parent
        code, result = 1, traceback.format_exc()
    finally:
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump(result, pipe)
        os._exit(code)


class Gate:
    """Where one process waits until another lets it go on."""

    def __init__(self) -> None:
        self._arrived, self._arrive = os.pipe()
        self._leave, self._let_go = os.pipe()

    def wait(self) -> None:
        """In the child: say that it is here, and wait."""
        os.write(self._arrive, b".")
        os.read(self._leave, 1)

    def entered(self) -> bool:
        """In the parent: wait until the child is here; False if it ended without coming."""
        os.close(self._arrive)
        return bool(os.read(self._arrived, 1))

    def open(self) -> None:
        """In the parent: let the child go on."""
        os.write(self._let_go, b".")  # a closed end would not do: the child has one as well
        for end in (self._let_go, self._arrived, self._leave):
            os.close(end)
