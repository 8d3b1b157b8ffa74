"""A program of the tests: run one of flowroute's workers, as the command line does.

python -m tests.rq.run_worker FlowWorker [kill-after-seconds [jobs-per-process]]
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import flowroute.rq
from flowroute.rq import worker
from tests.rq.application import make_engine


def main(kind: str, kill_after_seconds: str = "60", jobs_per_process: str | None = None) -> None:
    """Serve until a signal comes."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    worker.KILL_AFTER_SECONDS = float(kill_after_seconds)
    options: dict[str, Any] = (
        {} if jobs_per_process is None else {"jobs_per_process": int(jobs_per_process)}
    )
    with make_engine() as engine:
        worker_class: type[flowroute.rq.FlowWorker] = getattr(flowroute.rq, kind)
        worker_class(engine, recover_seconds=0.2, **options).work()


if __name__ == "__main__":
    main(*sys.argv[1:])
