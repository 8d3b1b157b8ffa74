"""What a step knows of its run: `self.run`."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, MutableMapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from flowroute.engine.description import readable
from flowroute.errors import ArgumentError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

logger = logging.getLogger("flowroute.step")

current_run: ContextVar[RunContext | None] = ContextVar("flowroute_current_run", default=None)
"""The run whose step is running here: for a framework's leaf, which renders templates in steps."""


class StepLog(logging.LoggerAdapter[logging.Logger]):
    """A logger that opens each line with the flow, run and step, and carries them as fields."""

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Put the run before the message."""
        fields = dict(self.extra or {})
        kwargs["extra"] = {**fields, **kwargs.get("extra", {})}
        prefix = f"[{fields['flow']}.{fields['step']} {fields['run_id']}]"
        # The message is a format: a flow may have any name.
        return f"{prefix.replace('%', '%%')} {msg}", kwargs


class RunContext:
    """The run a step belongs to, as `self.run` inside the step.

    Parameters:
        run_id: The run's id.
        key: The key it was started with, or None.
        flow: The flow's name.
        step: The step's name.
        seq: The number of the checkpoint this step starts from.
        attempt: Which attempt of the step this is, from 1.
        open_session: Opens the session of the run, once.
        report: Takes progress; it must not block.
    """

    __slots__ = ("_log", "_open_session", "_report", "attempt", "flow", "id", "key", "seq", "step")

    def __init__(
        self,
        *,
        run_id: str,
        key: str | None,
        flow: str,
        step: str,
        seq: int,
        attempt: int,
        open_session: Callable[[], Session],
        report: Callable[[dict[str, Any]], None],
    ) -> None:
        self.id = run_id
        self.key = key
        self.flow = flow
        self.step = step
        self.seq = seq
        self.attempt = attempt
        self._open_session = open_session
        self._report = report
        self._log: StepLog | None = None

    @property
    def idempotency_key(self) -> str:
        """The same on every attempt of this step in this run, and on no other.

        Give it to other systems, so that they see that an attempt repeats an earlier one.
        """
        return f"{self.id}-{self.seq}"

    @property
    def session(self) -> Session:
        """The session whose writes commit together with the checkpoint after this step."""
        return self._open_session()

    @property
    def log(self) -> StepLog:
        """A logger whose lines name the run and the step."""
        if self._log is None:
            fields = {
                "run_id": self.id,
                "flow": self.flow,
                "step": self.step,
                "attempt": self.attempt,
            }
            self._log = StepLog(logger, fields)
        return self._log

    def progress(self, done: float, total: float = 1.0, message: str = "") -> None:
        """Say how far the step is. Returns at once; people see it within a fraction of a second.

        Progress is stored beside the run, outside the step's transaction, and reports that come
        faster than they can be stored are merged: only the newest counts.

        Parameters:
            done: How much is done, from 0 to `total`.
            total: How much there is to do, more than 0.
            message: What is being done, for people.

        Raises:
            ArgumentError: The numbers make no sense.

        Example:
            >>> self.run.progress(3, 10, "resizing")  # doctest: +SKIP
        """
        if total <= 0 or not 0 <= done <= total < math.inf:
            raise ArgumentError(
                f"progress({done}, {total}): give 0 ≤ done ≤ total, and total above 0."
            )
        # Other numbers and texts, such as Decimal or a lazy translation, are not JSON.
        self._report(
            {"done": _plain(done), "total": _plain(total), "message": readable(str(message))}
        )


def _plain(number: float) -> float:
    return int(number) if isinstance(number, int) else float(number)
