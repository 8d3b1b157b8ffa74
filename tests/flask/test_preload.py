"""A server that loads the application before it forks: no worker has its master's connections."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests

if TYPE_CHECKING:
    from tests.processes import Processes

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "control"])
def test_no_worker_of_a_preloaded_application_uses_its_masters_connections(
    process: Processes, database_url: str, free_port: int, *, guarded: bool
) -> None:
    """Without the guard they do: the same look notices that."""
    environment = {"SITE_DATABASE": database_url} | ({} if guarded else {"SITE_UNGUARDED": "1"})
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2"]
    command += ["--bind", f"127.0.0.1:{free_port}", "tests.flask.preloaded:app"]
    server = process(command, env=environment, cwd=ROOT)
    for _ in range(2):
        server.wait_for_line("Booting worker with pid", timeout_seconds=60)
    seen: dict[int, set[int]] = {}
    masters: set[int] = set()
    for _ in range(200):  # until both workers have answered
        try:
            answer = requests.get(f"http://127.0.0.1:{free_port}/look", timeout=20)
            answer.raise_for_status()
        except requests.RequestException:
            assert not guarded
            return  # two processes on one connection: anything may come of that
        told = answer.json()
        seen.setdefault(told["pid"], set()).add(told["opened in"])
        masters.add(told["master"])
        if len(seen) == 2:
            break
    (master,) = masters
    assert master not in seen
    if guarded:
        assert seen == {pid: {pid} for pid in seen}
        assert len(seen) == 2
    else:
        assert any(master in opened_in for opened_in in seen.values())
