"""Every exception of flowroute, in one tree.

A message says what happened, to which run and step, and what to do next. The run and the step are
also attributes, so that a program need not parse the sentence.
"""

from __future__ import annotations

from collections.abc import Sequence


class FlowrouteError(Exception):
    """The root of every error that flowroute raises.

    Parameters:
        message: What happened and what to do next, as whole sentences.
        run_id: The run concerned, or None.
        step: The step concerned, or None.
    """

    def __init__(self, message: str, *, run_id: str | None = None, step: str | None = None) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.step = step


# -- what a developer wrote ------------------------------------------------------------------------


class DefinitionError(FlowrouteError, TypeError):
    """A flow class is wrong. Raised once, at class definition, with every problem found.

    Parameters:
        flow: The name of the class.
        problems: One sentence each, opening with ``file:line:``.
    """

    def __init__(self, flow: str, problems: Sequence[str]) -> None:
        lines = "\n".join(f"  {problem}" for problem in problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{flow} is not a flow yet: {count}.\n{lines}")
        self.flow = flow
        self.problems = list(problems)


class ArgumentError(FlowrouteError, TypeError, ValueError):
    """Arguments of a step, or the state of a flow, do not fit their declared types.

    The cause (``__cause__``) is pydantic's ``ValidationError`` where pydantic refused them.
    """


class TransitionError(FlowrouteError):
    """A step returned something that its flow's step graph does not allow."""


class CommitRefused(FlowrouteError):
    """A step called ``commit()`` on the run's session.

    The dispatcher commits a step's writes together with the checkpoint after it. A commit of the
    step's own would part the two, and a crash between them would do the writes twice.
    """


# -- the life of a run -----------------------------------------------------------------------------


class RunError(FlowrouteError):
    """Something about one run."""


class RunNotFound(RunError, LookupError):
    """No run has this id."""


class RunFailed(RunError):
    """The run's result was asked for, and the run had failed."""


class RunNotFinished(RunError):
    """The run's result was asked for before the run was done."""


class RunStateError(RunError):
    """The run's state does not allow what was asked, such as retrying a run that is done."""


class WaitTimeout(RunError, TimeoutError):
    """The run was not at rest when the time given to ``Run.wait`` was over."""


# -- stored values ---------------------------------------------------------------------------------


class CodecError(FlowrouteError):
    """A value could not be written to, or read from, a checkpoint."""


class UnstorableValue(CodecError, TypeError):
    """A value that no checkpoint can carry, such as a lock or an open file.

    Parameters:
        message: What happened and what to do next.
        path: Where the value was met, such as ``arguments['cart'][2].lock``.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str,
        run_id: str | None = None,
        step: str | None = None,
    ) -> None:
        super().__init__(message, run_id=run_id, step=step)
        self.path = path


class PayloadTooLarge(UnstorableValue):
    """A checkpoint would exceed the configured size."""


class CheckpointUnreadable(CodecError):
    """A checkpoint can not be used by the code that is deployed. Its run becomes ``blocked``."""


class CheckpointTampered(CheckpointUnreadable):
    """A checkpoint's signature does not match its bytes, or its key is no longer configured."""


class ForeignPython(CheckpointUnreadable):
    """A checkpoint holds code by value that another Python minor version wrote."""


class RowDeleted(CheckpointUnreadable):
    """A checkpoint refers to a database row that no longer exists."""


class TokenInvalid(FlowrouteError):
    """A token was forged, altered, made for another purpose, or signed with a retired key."""


# -- configuration ---------------------------------------------------------------------------------


class ConfigurationError(FlowrouteError):
    """flowroute was set up in a way that can not work."""


class SecretKeyMissing(ConfigurationError):
    """No secret key to sign checkpoints with."""


class TablesMissing(ConfigurationError):
    """flowroute's tables do not exist in the database, or belong to another version."""


class UnknownSetting(ConfigurationError):
    """A setting whose name flowroute does not know."""


class RedisUnreachable(ConfigurationError):
    """Redis did not answer."""


# -- interruptions of a running step ---------------------------------------------------------------


class Interruption(BaseException):
    """Raised *inside* a running step from outside it.

    Not an ``Exception``, so that ``except Exception`` in a step can not swallow it.
    """


class LeaseLost(Interruption):
    """The run was taken over, cancelled or reset: what this step still does will not be stored."""


class StepTimeout(Interruption):
    """The step ran for longer than its ``timeout``."""
