"""Deliberate mistakes of the application under chaos, by the name in ``CHAOS_VARIANT``."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any, Final

from flowroute.engine.engine import Engine
from flowroute.engine.recovery import Recovered, Recovery
from flowroute.engine.store import Store
from tests.faults.chaos.flows import TWO_COMMITS

NO_RECOVERY: Final = "no recovery"
LOST_HINTS: Final = "hints lost and not given again"
ENDLESS_LEASE: Final = "a lease never ends"
NO_HEARTBEAT: Final = "leases are not extended"
DEAF: Final = "a lost lease is not noticed"

ENDLESS_SECONDS: Final = 1e6


def _no_recovery() -> None:
    whole: Any = Engine
    whole.recover = lambda _engine: Recovered()


def _lost_hints() -> None:
    whole: Any = Recovery
    whole._hint_again = lambda *_: 0  # noqa: SLF001


def _no_heartbeat() -> None:
    whole: Any = Store
    whole.pulse = lambda *_, **__: True


def _deaf() -> None:
    """A process whose run was taken over takes its write for stored, and commits the rest."""
    whole: Any = Store
    advance = whole.advance

    def deaf(*arguments: Any) -> bool:
        advance(*arguments)
        return True

    whole.advance = deaf
    _no_heartbeat()  # which would tell, too


_VARIANTS: Final[dict[str, Callable[[], None]]] = {
    "": lambda: None,
    TWO_COMMITS: lambda: None,  # see `flows.work`
    ENDLESS_LEASE: lambda: None,  # see `lease_seconds`
    NO_RECOVERY: _no_recovery,
    LOST_HINTS: _lost_hints,
    NO_HEARTBEAT: _no_heartbeat,
    DEAF: _deaf,
}


def lease_seconds() -> float:
    """How long a silent process keeps its runs."""
    if os.environ["CHAOS_VARIANT"] == ENDLESS_LEASE:
        return ENDLESS_SECONDS
    return float(os.environ["CHAOS_LEASE"])


class _Fenced(logging.Handler):
    """Prints which run a process had lost, and under which epoch it held it."""

    def emit(self, record: logging.LogRecord) -> None:
        epoch = getattr(record, "epoch", None)
        if epoch is not None:
            run_id = record.run_id  # type: ignore[attr-defined]  # both or neither
            logging.getLogger("chaos").info("refused: run %s epoch %d", run_id, epoch)


def prepare() -> None:
    """Print for the harness, and make the mistake, if any."""
    line = "%(asctime)s.%(msecs)03d %(process)d %(levelname)s %(name)s %(message)s"
    logging.basicConfig(level=logging.INFO, format=line, datefmt="%H:%M:%S")
    logging.getLogger("flowroute.dispatcher").addHandler(_Fenced())
    _VARIANTS[os.environ["CHAOS_VARIANT"]]()
