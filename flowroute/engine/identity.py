"""Names of runs and of processes."""

from __future__ import annotations

import os
import socket
import time
from functools import cache
from uuid import UUID

_RANDOM_BITS = 74


def new_run_id() -> str:
    """A fresh UUIDv7 (RFC 9562, section 5.7): milliseconds since 1970, then 74 random bits.

    Time-ordered, so that new rows land side by side in the index; random enough that none can be
    guessed.
    """
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big") >> (80 - _RANDOM_BITS)
    high, low = random >> 62, random & ((1 << 62) - 1)
    text = f"{milliseconds << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def is_run_id(text: str) -> bool:
    """Whether a text could be a run's id."""
    # PostgreSQL would refuse the whole statement for one that can not.
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def process_name() -> str:
    """Host and process id: who holds a lease, for people."""
    return f"{_host()}:{os.getpid()}"


@cache
def _host() -> str:
    return socket.gethostname()
