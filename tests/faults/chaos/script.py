"""A program with an engine and no web: it starts one run after another, and works at runs itself.

Where it was killed, it asks for the same run again, by the number in its file.
"""

from __future__ import annotations

import logging
import os
import random
import time
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from flowroute import Engine
from flowroute.engine.local import ThreadExecutor
from flowroute.errors import FlowrouteError
from tests.faults.chaos import variants
from tests.faults.chaos.flows import SHAPES

STARTED: Final = ("Inline", "Middle", "Several", "Retried", "Timer", "CallsMiddle", "SentTogether")
WAIT_SECONDS: Final = 5.0

logger = logging.getLogger("chaos")


def main() -> None:
    """Start runs until killed."""
    variants.prepare()
    place = Path(os.environ["CHAOS_SCRIPT"])
    bind = sa.create_engine(os.environ["CHAOS_DATABASE"], pool_pre_ping=True)
    engine = Engine(
        bind,
        executor=ThreadExecutor(2),
        secret_keys=[os.environ["CHAOS_SECRET"]],
        lease_seconds=variants.lease_seconds(),
    )
    number = int(place.read_text(encoding="ascii") or 0)
    while place.with_suffix(".go").exists():
        try:
            _start(engine, number)
        except (FlowrouteError, DBAPIError) as error:  # the database is away: the same once more
            logger.info("not started: %s", error)
            time.sleep(0.2)
            continue
        number += 1
        new = place.with_suffix(".new")
        new.write_text(str(number), encoding="ascii")
        new.replace(place)  # never half written
    logger.info("starts nothing more")
    while True:  # its threads work on
        time.sleep(60)


def _start(engine: Engine, number: int) -> None:
    shape = STARTED[random.Random(number).randrange(len(STARTED))]  # noqa: S311  # guards nothing
    flow: Any = SHAPES[shape]()
    key = f"script-{number}"
    run = engine.start(flow.begin(), key=key)
    logger.info("accepted: %s %s %s", key, shape, run.id)
    try:
        run.wait(timeout_seconds=WAIT_SECONDS)
    except FlowrouteError as error:
        logger.info("run %s: %s", run.id, error)


if __name__ == "__main__":
    main()
