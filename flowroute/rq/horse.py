"""The forked process that runs one job: RQ calls it the work-horse."""

from __future__ import annotations

import os
import select
import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

#: The first and the longest pause while the pipe of a process is closed and the process still
#: lives, in seconds.
FIRST_PAUSE_SECONDS = 0.001
LONGEST_PAUSE_SECONDS = 0.5

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Horse:
    """A forked process whose end can be waited for in short stretches.

    RQ sets an alarm that raises an exception out of the wait. Here the process's end closes a pipe,
    so that the wait returns at once, or after a given time in which nothing happened.

    Create it before the fork and call `forked` in the parent after it.
    """

    def __init__(self) -> None:
        self.pid = 0
        self._code: int | None = None
        self._pause = FIRST_PAUSE_SECONDS
        # The child inherits the writing end and never writes. A grandchild may hold it for longer
        # than the child lives, or the child may close it early: the pipe only says when to look.
        self._ended, self._alive = os.pipe()
        self._poll = select.poll()
        self._poll.register(self._ended, select.POLLHUP)

    def forked(self, pid: int) -> None:
        """Say which process it is."""
        self.pid = pid
        os.close(self._alive)

    def give_up(self) -> None:
        """Release the pipe: there was no fork."""
        os.close(self._alive)
        os.close(self._ended)

    def wait(self, seconds: float) -> int | None:
        """Wait for the end of the process.

        Parameters:
            seconds: How long at most.

        Returns:
            Its exit code, negative for a signal; None if it still runs.
        """
        until = time.monotonic() + seconds
        left = seconds
        while self._code is None and left >= 0:
            closed = self._poll.poll(left * 1000)
            self._reap()
            if closed and self._code is None:
                # It is about to end, or has closed what it had no reason to close.
                time.sleep(min(self._pause, left))
                self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)
                self._reap()
            left = until - time.monotonic()
        return self._code

    def _reap(self) -> None:
        pid, status, _ = os.wait4(self.pid, os.WNOHANG)
        if pid:
            self._code = os.waitstatus_to_exitcode(status)
            os.close(self._ended)


def describe_end(code: int) -> str:
    """Put an exit code other than 0 into words."""
    if code < 0:
        return f"it was killed by {signal.Signals(-code).name}"
    return f"it ended with exit code {code}; its log says why"


def outlive_signals() -> None:
    """Let SIGTERM and SIGINT pass this process by, for the worker lets its current job finish.

    Service managers send them to every process of a service. What the job starts is not meant, and
    dies of them as usual: a program, for which the handler is gone, and a process that it forks.
    """

    def pass_by(_number: int, _frame: FrameType | None) -> None:
        """Do nothing."""

    def hold_back() -> None:
        # Python forgets a signal that comes to a child before it is set up; the system does not.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

    def go_on() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def be_mortal() -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        go_on()

    for number in _SIGNALS:
        signal.signal(number, pass_by)
    os.register_at_fork(before=hold_back, after_in_parent=go_on, after_in_child=be_mortal)
