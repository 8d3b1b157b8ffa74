"""Telling others after the commit: the executor to look at a run, the notifier that one moved.

Both are hints. Whatever goes wrong here is logged and costs delay, never work.
"""

from __future__ import annotations

import logging
from typing import Any

from flowroute.engine import schema
from flowroute.engine.ports import Executor, Hint, Move, Notifier
from flowroute.engine.records import RunRecord, Target
from flowroute.engine.step import END, Step

logger = logging.getLogger("flowroute.messenger")


class Messenger:
    """Speaks to the executor and the notifier of one engine."""

    def __init__(self, executor: Executor, notifier: Notifier) -> None:
        self._executor = executor
        self._notifier = notifier

    def submit(self, hint: Hint) -> None:
        """Have the executor look at a run."""
        try:
            self._executor.submit(hint)
        except Exception:  # an executor is foreign code, and a lost hint costs only delay
            logger.warning(
                "run %s: the %s executor did not take step %s; recovery will submit it again",
                hint.run_id,
                self._executor.name,
                hint.step,
                exc_info=True,
            )

    def hint(self, record: RunRecord, step: Step[Any, Any] | None) -> None:
        """Have the executor look at a run that was just read.

        Parameters:
            record: The run.
            step: The step at its bookmark, for its timeout; None if this process does not know it.
        """
        self.submit(
            Hint(
                record.id,
                record.seq,
                record.attempt,
                None if step is None else step.timeout_seconds,
                record.flow,
                record.step or END,
            )
        )

    def tell(
        self, run_id: str, seq: int, flow: str, step: Step[Any, Any] | None, target: Target
    ) -> None:
        """Tell both that a run went on to another bookmark.

        Parameters:
            run_id: The run.
            seq: The bookmark.
            flow: The flow's name.
            step: The step at the bookmark; None if the run ended with a result.
            target: Where the run went.
        """
        if target.waiting_for == schema.FOR_WORKER and step is not None:
            self.submit(Hint(run_id, seq, 0, step.timeout_seconds, flow, step.name))
        name = None if step is None else step.name
        self.announce(Move(run_id, seq, target.state, target.waiting_for, name, None))

    def announce(self, move: Move) -> None:
        """Tell the notifier that a run moved."""
        try:
            self._notifier.moved(move)
        except Exception:  # a notifier is foreign code, and its loss costs only delay
            logger.warning(
                "run %s: the notifier failed; browsers will poll", move.run_id, exc_info=True
            )
