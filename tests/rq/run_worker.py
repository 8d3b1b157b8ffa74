"""A program of the tests: run one of flowroute's workers, as the command line does.

python -m tests.rq.run_worker FlowWorker [kill-after-seconds]
"""

from __future__ import annotations

import logging
import sys

import flowroute.rq
from flowroute.rq import worker
from tests.rq.application import make_engine


def main(kind: str, kill_after_seconds: str | None = None) -> None:
    """Serve until a signal comes."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    if kill_after_seconds is not None:
        worker.KILL_AFTER_SECONDS = float(kill_after_seconds)
    with make_engine() as engine:
        worker_class: type[flowroute.rq.FlowWorker] = getattr(flowroute.rq, kind)
        worker_class(engine, recover_seconds=0.2).work()


if __name__ == "__main__":
    main(*sys.argv[1:])
