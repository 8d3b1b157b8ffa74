"""The forked process that runs jobs, one after another: RQ calls it the work-horse."""

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

#: What a process writes when it has followed an order and waits for the next.
_DONE = b"."

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Horse:
    """A process forked ahead of its jobs, each of which can be waited for in short stretches.

    A fork, a connection and the first statement on it take longer than most steps: they are done
    by the time a job comes, and once for several jobs.

    RQ sets an alarm that raises an exception out of the wait. Here the process writes into a pipe,
    and its end closes it, so that the wait returns at once, or after a given time in which nothing
    happened.

    Parameters:
        prepare: What the process does first.
        work: What it does with an order. An exception ends the process with exit code 1, and is
            told of by whoever raises it.
        orders: How many orders it follows before it ends, at least 1.

    Raises:
        OSError: The system has no room for another process.
    """

    def __init__(
        self, prepare: Callable[[], None], work: Callable[[bytes], None], orders: int = 1
    ) -> None:
        self._code: int | None = None
        self._left = orders
        self._busy = False
        self._pause = FIRST_PAUSE_SECONDS
        # A grandchild may hold the writing end for longer than the child lives, or the child may
        # close it early: that the pipe is closed only says when to look.
        self._ended, alive = os.pipe()
        given, self._orders = os.pipe()
        # What is buffered would be printed twice.
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            self.pid = os.fork()
        except OSError:
            for each in (self._ended, alive, given, self._orders):
                os.close(each)
            raise
        if self.pid == 0:
            os.close(self._ended)
            os.close(self._orders)  # else it would not notice the worker's end
            _serve(given, alive, prepare, work, orders)
        os.close(alive)
        os.close(given)
        self._poll = select.poll()
        self._poll.register(self._ended, select.POLLIN | select.POLLHUP)

    @property
    def takes_more(self) -> bool:
        """Whether it will take another order, after the one that it follows."""
        return self._code is None and self._left > 0

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
        self._busy = True
        self._left -= 1
        if not self._left:
            os.close(self._orders)
        return True

    def dismiss(self) -> None:
        """End a process that follows no order."""
        os.close(self._orders)
        os.kill(self.pid, signal.SIGKILL)
        self.wait(inf)

    def wait(self, seconds: float) -> int | None:
        """Wait until the process has followed its order, or has ended.

        Parameters:
            seconds: How long at most.

        Returns:
            0 if it waits for another order; its exit code, negative for a signal, if it has ended;
            None if it is still busy.
        """
        until = time.monotonic() + seconds
        left = seconds
        while self._code is None and left >= 0:
            closed = self._poll.poll(None if left == inf else left * 1000)
            if closed and self._busy and os.read(self._ended, 1):
                self._busy = False
                return os.EX_OK
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
            if self._left and self._busy:  # else it was closed with the last order, or a dismissal
                os.close(self._orders)


def _serve(
    given: int,
    tell: int,
    prepare: Callable[[], None],
    work: Callable[[bytes], None],
    orders: int,
) -> NoReturn:
    """In the child: wait for orders, follow them, and end. Without one, end with the worker."""
    code = os.EX_OK
    try:
        os.setpgrp()  # what the job starts is killed with it
        outlive_signals()
        prepare()
        while orders and (order := os.read(given, LONGEST_ORDER)):
            work(order)
            # What a step printed is there when its job is over.
            sys.stdout.flush()
            sys.stderr.flush()
            orders -= 1
            if orders and not _told(tell):
                break  # its end tells as much
    except BaseException:  # noqa: BLE001 - a fork has no caller to raise to; the exit code tells
        code = 1
    finally:
        # A fork ends without the interpreter's clean-up, and what a step printed would be lost.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _told(tell: int) -> bool:
    """Say that an order was followed; False if that can not be said any more."""
    try:
        os.write(tell, _DONE)
    except OSError:  # the job closed what it did not open, or the worker has died
        return False
    return True


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
