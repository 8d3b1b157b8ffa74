"""Bounded waits on a condition: what tests use where others would sleep."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T],
    timeout_seconds: float = 10.0,
    *,
    what: str = "",
    poll_seconds: float = 0.01,
) -> T:
    """Poll a condition until it is true.

    Args:
        condition: called until what it returns is true; its exceptions are not caught.
        timeout_seconds: how long to go on, in seconds.
        what: the condition in words, for the message when the time is up.
        poll_seconds: the pause between two calls, in seconds.

    Returns:
        The first true value of the condition.

    Raises:
        AssertionError: the time is up; the message holds the last value seen.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            what = what or repr(condition)
            message = f"not within {timeout_seconds} s: {what}; last: {value!r}"
            raise AssertionError(message)
        time.sleep(poll_seconds)


def free_port() -> int:
    """Return a TCP port of the loopback interface that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
