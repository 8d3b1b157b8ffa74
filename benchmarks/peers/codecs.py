"""The codec, C pickle and dill on the same value."""

from __future__ import annotations

import pickle
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import dill

from benchmarks.peers.settings import SECRET
from flowroute.engine.codec import PYTHON_TAG, Codec
from flowroute.engine.identity import new_run_id


@dataclass
class Item:
    """A line of an order."""

    sku: str
    title: str
    quantity: int
    price: Decimal


Value = tuple[str, dict[str, Any], dict[str, Any]]

VALUE: Value = (
    "charge",
    {"customer_id": 4711, "locale": "en_GB", "coupon": None},
    {
        "items": [
            Item("MUG-11", "A mug, white", 2, Decimal("8.50")),
            Item("TEA-03", "Darjeeling, second flush, 250 g", 1, Decimal("14.90")),
            Item("POT-07", "A pot for four cups", 1, Decimal("39.00")),
        ],
        "address": {"name": "A. Reader", "street": "1 High Street", "city": "York", "zip": "YO1"},
        "ordered_at": datetime(2026, 11, 23, 17, 20, tzinfo=UTC),
        "deliver_on": date(2026, 12, 1),
        "reference": uuid.UUID("019a8f3c-5e7b-7d10-a3c4-e5f60718293a"),
        "tags": ["gift", "fragile"],
        "weight": 1.75,
        "note": "Please ring twice; the bell is broken and the door is green.",
    },
)


class Codecs:
    """Each by its name."""

    def __init__(self) -> None:
        self._codec = Codec([SECRET])
        self._run_id = new_run_id()

    def size(self) -> int:
        """How many bytes the codec makes of the value."""
        return len(self._encoded())

    def both_ways(self, name: str, count: int) -> float:
        """Seconds that writing and reading took, of one."""
        once: Callable[[], object] = {
            "flowroute": self._own,
            "pickle": _pickle,
            "dill": _dill,
        }[name]
        began = time.perf_counter()
        for _ in range(count):
            once()
        return (time.perf_counter() - began) / count

    def _encoded(self) -> bytes:
        return self._codec.encode(VALUE, run_id=self._run_id, seq=1, session=_no_session)

    def _own(self) -> object:
        return self._codec.decode(
            self._encoded(), run_id=self._run_id, seq=1, python=PYTHON_TAG, session=_no_session
        )


def _no_session() -> Any:
    raise AssertionError("no row is among these values")


def _pickle() -> object:
    return pickle.loads(pickle.dumps(VALUE, pickle.HIGHEST_PROTOCOL))  # noqa: S301 - its own bytes


def _dill() -> object:
    return dill.loads(dill.dumps(VALUE))  # noqa: S301 - its own bytes


@contextmanager
def codecs() -> Iterator[Codecs]:
    """The three."""
    yield Codecs()
