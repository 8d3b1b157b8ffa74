"""A worker that is measured: flowroute's or raw RQ's, of the same class.

python -m benchmarks.worker own|raw fork|each|inline REDIS-URL [DATABASE-URL]
"""

from __future__ import annotations

import logging
import sys

from redis import Redis
from rq import Queue, SimpleWorker, Worker

import benchmarks.peers.jobs  # loaded before the first fork, as flowroute loads its flows
from benchmarks.peers.hinted import engine_on
from flowroute.rq import FlowWorker, InlineFlowWorker
from flowroute.rq.loop import FlowLoop

__all__ = ["benchmarks"]


def main(whose: str, kind: str, redis_url: str, database_url: str = "") -> None:
    """Work until a signal comes."""
    logging.basicConfig(level=logging.WARNING)
    sys.stdout.write("starting\n")
    if whose == "own":
        with engine_on(database_url, redis_url) as engine:
            worker: FlowLoop
            if kind == "inline":
                worker = InlineFlowWorker(engine)
            elif kind == "each":
                worker = FlowWorker(engine, jobs_per_process=1)
            else:
                worker = FlowWorker(engine)
            worker.work(logging_level="INFO")
        return
    raw_class = SimpleWorker if kind == "inline" else Worker
    with Redis.from_url(redis_url) as connection:
        raw_class([Queue("raw", connection=connection)], connection=connection).work(
            logging_level="INFO"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
