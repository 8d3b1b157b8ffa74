"""flowroute: durable flows for Python web applications.

Importing it loads no Flask, RQ, Redis or Socket.IO; `flowroute.flask` and `flowroute.rq` do.
"""

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
