"""Worker steps on RQ: the executor that submits them, the workers that run them.

The only part of flowroute that imports ``rq`` and ``redis``. It knows the engine, and nothing of
Flask.
"""

from __future__ import annotations

from flowroute.rq.executor import RQExecutor
from flowroute.rq.worker import FlowWorker, InlineFlowWorker

__all__ = ["FlowWorker", "InlineFlowWorker", "RQExecutor"]
