"""flowroute: durable flows for Python web applications.

Importing it loads no Flask, RQ, Redis or Socket.IO; `flowroute.flask` and `flowroute.rq` do. Each
name is loaded when it is first asked for, and with it the parts of SQLAlchemy and pydantic that it
needs: a command line that only wants the version starts at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowroute.engine.continuation import Continuation, call, done
    from flowroute.engine.engine import Engine
    from flowroute.engine.flow import Flow
    from flowroute.engine.recovery import Recovered
    from flowroute.engine.retry import Retry
    from flowroute.engine.run import Checkpoint, Run
    from flowroute.engine.step import Step, StepFailure, step, worker_step
    from flowroute.errors import FlowrouteError, LeaseLost, StepTimeout

__version__ = "0.1.0"

__all__ = [
    "Checkpoint",
    "Continuation",
    "Engine",
    "Flow",
    "FlowrouteError",
    "LeaseLost",
    "Recovered",
    "Retry",
    "Run",
    "Step",
    "StepFailure",
    "StepTimeout",
    "__version__",
    "call",
    "done",
    "step",
    "worker_step",
]

_HOMES = {
    "Checkpoint": "flowroute.engine.run",
    "Continuation": "flowroute.engine.continuation",
    "Engine": "flowroute.engine.engine",
    "Flow": "flowroute.engine.flow",
    "FlowrouteError": "flowroute.errors",
    "LeaseLost": "flowroute.errors",
    "Recovered": "flowroute.engine.recovery",
    "Retry": "flowroute.engine.retry",
    "Run": "flowroute.engine.run",
    "Step": "flowroute.engine.step",
    "StepFailure": "flowroute.engine.step",
    "StepTimeout": "flowroute.errors",
    "call": "flowroute.engine.continuation",
    "done": "flowroute.engine.continuation",
    "step": "flowroute.engine.step",
    "worker_step": "flowroute.engine.step",
}
"""Where each public name is defined."""


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return __all__
