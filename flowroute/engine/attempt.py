"""One attempt of one step: its run, its timeout, its session."""

from __future__ import annotations

from typing import Any

from flowroute.engine.context import RunContext, current_run
from flowroute.engine.flow import definition_of
from flowroute.engine.heartbeat import Heartbeat
from flowroute.engine.step import Place
from flowroute.engine.turn import Turn, Upcoming
from flowroute.engine.work import Work


def attempt(heartbeat: Heartbeat, work: Work, turn: Turn, upcoming: Upcoming) -> Any:
    """Call the step that a turn has come to.

    Parameters:
        heartbeat: Keeps the turn's lease meanwhile, and ends the attempt at its deadline.
        work: Gives the step its session.
        turn: The turn.
        upcoming: The step.

    Returns:
        What the step returned.

    Raises:
        LeaseLost: Somebody else owns the run now.
        StepTimeout: The step's timeout is over.
        Exception: Whatever the step raised.
    """
    flow, step, arguments = upcoming
    title = f"{step.flow_name}.{step.name}"
    if step.place is not Place.ANYWHERE:
        work.let_go()
    with (
        heartbeat.watch(turn.guard, step.name, timeout_seconds=step.timeout_seconds) as pulse,
        work.step(title, commits=step.commits),
    ):
        context = RunContext(
            run_id=turn.run_id,
            key=turn.key,
            flow=definition_of(type(flow)).name,
            step=step.name,
            seq=turn.seq_now,
            attempt=turn.attempt_now,
            open_session=work.session,
            report=lambda progress: heartbeat.report(pulse, progress),
        )
        flow.__dict__["__run__"] = context
        current = current_run.set(context)
        try:
            return step.signature.call(step.function, flow, arguments)
        finally:
            current_run.reset(current)
            flow.__dict__.pop("__run__", None)
