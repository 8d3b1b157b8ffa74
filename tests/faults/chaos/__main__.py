"""``python -m tests.faults.chaos --database sqlite --seed 1 --seconds 60``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Final

from tests.faults.chaos.campaign import campaign

FULL_SECONDS: Final = 60.0
"""From how many seconds on a campaign has to meet enough."""


def main() -> int:
    """Run one campaign and print its figures; 1 if a promise did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos", description=__doc__)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--output", type=Path, help="where what the processes printed is kept")
    arguments = parser.parse_args()
    # So that all that was started is ended too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    report = campaign(
        arguments.database,
        seed=arguments.seed,
        seconds=arguments.seconds,
        floors=arguments.seconds >= FULL_SECONDS,
        output=arguments.output,
    )
    print(json.dumps(report.as_json(), indent=2, default=str))  # noqa: T201
    return 0 if report.clean else 1


if __name__ == "__main__":
    sys.exit(main())
