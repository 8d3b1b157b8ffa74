"""A program that runs a flow in threads of its own. `test_processes` kills it and starts it again.

Arguments: the URL of the database, and a directory; the step in the middle goes on once that
directory holds a file called "go".
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from flowroute import Continuation, Engine, Flow, done, step, worker_step
from tests.engine.support import KEYS, Base, Note


class Journey(Flow):
    """Leaves, travels for as long as it takes, arrives."""

    directory: Path

    @step(start=True)
    def leave(self) -> Continuation[str]:
        self.session.add(Note(text="left"))
        return self.travel()

    @worker_step
    def travel(self) -> Continuation[str]:
        self.session.add(Note(text=f"travelled at attempt {self.run.attempt}"))
        say(f"travelling, attempt {self.run.attempt}")
        while not (self.directory / "go").exists():
            time.sleep(0.01)
        say("arriving")
        return self.arrive()

    @worker_step
    def arrive(self) -> Continuation[str]:
        self.session.add(Note(text="arrived"))
        return done("arrived")


def say(text: str) -> None:
    """Print at once, whatever the thread."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(url: str, directory: str) -> None:
    """Start the journey, or go on with it, and wait for its end."""
    with Engine(url, secret_keys=KEYS, lease_seconds=1) as engine:
        engine.create_all()
        Base.metadata.create_all(engine.database.engine)
        run = engine.start(Journey(directory=Path(directory)).leave(), key="journey")
        say(f"result {run.wait(timeout_seconds=60).result}")


if __name__ == "__main__":
    main(*sys.argv[1:])
