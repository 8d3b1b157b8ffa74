"""A worker that is measured: flowroute's or raw RQ's, of the same class.

python -m benchmarks.worker own|raw fork|inline REDIS-URL [DATABASE-URL]
"""

from __future__ import annotations

import logging
import sys

from redis import Redis
from rq import Queue, SimpleWorker, Worker

import benchmarks.peers.jobs  # loaded before the first fork, as flowroute loads its flows
from benchmarks.peers.hinted import engine_on
from flowroute.rq import FlowWorker, InlineFlowWorker

__all__ = ["benchmarks"]


def main(whose: str, kind: str, redis_url: str, database_url: str = "") -> None:
    """Work until a signal comes."""
    logging.basicConfig(level=logging.WARNING)
    sys.stdout.write("starting\n")
    if whose == "own":
        own_class = {"fork": FlowWorker, "inline": InlineFlowWorker}[kind]
        with engine_on(database_url, redis_url) as engine:
            own_class(engine).work(logging_level="INFO")
        return
    raw_class = {"fork": Worker, "inline": SimpleWorker}[kind]
    with Redis.from_url(redis_url) as connection:
        raw_class([Queue("raw", connection=connection)], connection=connection).work(
            logging_level="INFO"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
