"""On what was measured: the machine and the versions."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.contest import ROOT

PACKAGES = (
    "flask-flowroute",
    "sqlalchemy",
    "psycopg",
    "pydantic",
    "dill",
    "flask",
    "rq",
    "redis",
    "dbos",
    "celery",
    "langgraph",
)
SYNCS = 100


def conditions(directory: Path) -> dict[str, Any]:
    """What every figure depends on.

    Parameters:
        directory: On the disk that databases lie on.
    """
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "fdatasync_microseconds": round(_sync_seconds(directory) * 1e6),
        "versions": {name: _version(name) for name in PACKAGES if _version(name)},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return outcome.stdout.strip() or "unknown"


def _sync_seconds(directory: Path) -> float:
    """How long the disk takes to say that 4 KiB are safe: the floor of every commit."""
    path = directory / "sync"
    with path.open("wb", buffering=0) as file:
        began = time.perf_counter()
        for _ in range(SYNCS):
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
        took = time.perf_counter() - began
    path.unlink()
    return took / SYNCS
