"""The forked process that runs one job: RQ calls it the work-horse."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from math import inf
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

#: The first and the longest pause while the pipe of a process is closed and the process still
#: lives, in seconds.
FIRST_PAUSE_SECONDS = 0.001
LONGEST_PAUSE_SECONDS = 0.5

#: What a pipe takes at once, in bytes (POSIX asks for 512, Linux has 4096).
LONGEST_ORDER = 512

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Horse:
    """A process forked ahead of its job, whose end can be waited for in short stretches.

    A fork, a connection and the first statement on it take longer than most steps: they are done
    by the time a job comes.

    RQ sets an alarm that raises an exception out of the wait. Here the process's end closes a pipe,
    so that the wait returns at once, or after a given time in which nothing happened.

    Parameters:
        prepare: What the process does first.
        work: What it does with its order, and then ends. An exception makes its exit code 1, and is
            told of by whoever raises it.

    Raises:
        OSError: The system has no room for another process.
    """

    def __init__(self, prepare: Callable[[], None], work: Callable[[bytes], None]) -> None:
        self._code: int | None = None
        self._pause = FIRST_PAUSE_SECONDS
        # The child inherits the writing end and never writes. A grandchild may hold it for longer
        # than the child lives, or the child may close it early: the pipe only says when to look.
        self._ended, alive = os.pipe()
        orders, self._orders = os.pipe()
        # What is buffered would be printed twice.
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            self.pid = os.fork()
        except OSError:
            for each in (self._ended, alive, orders, self._orders):
                os.close(each)
            raise
        if self.pid == 0:
            os.close(self._ended)
            os.close(self._orders)  # else it would not notice the worker's end
            _serve(orders, prepare, work)
        os.close(alive)
        os.close(orders)
        self._poll = select.poll()
        self._poll.register(self._ended, select.POLLHUP)

    def give(self, order: bytes) -> bool:
        """Have the process do its work; False if it has died while it waited.

        Parameters:
            order: At most `LONGEST_ORDER` bytes, and not none.
        """
        try:
            os.write(self._orders, order)
        except BrokenPipeError:
            self.dismiss()
            return False
        os.close(self._orders)
        return True

    def dismiss(self) -> None:
        """End a process that was given nothing."""
        os.close(self._orders)
        os.kill(self.pid, signal.SIGKILL)
        self.wait(inf)

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
            closed = self._poll.poll(None if left == inf else left * 1000)
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


def _serve(orders: int, prepare: Callable[[], None], work: Callable[[bytes], None]) -> NoReturn:
    """In the child: wait for an order, follow it, and end. Without one, end with the worker."""
    code = os.EX_OK
    try:
        os.setpgrp()  # what the job starts is killed with it
        outlive_signals()
        prepare()
        order = os.read(orders, LONGEST_ORDER)
        os.close(orders)
        if order:
            work(order)
    except BaseException:  # noqa: BLE001 - a fork has no caller to raise to; the exit code tells
        code = 1
    finally:
        # A fork ends without the interpreter's clean-up, and what a step printed would be lost.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


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
