"""How long something takes in a contestant: in all its threads, by the wall and in CPU time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


def timed(work: Callable[[], object], threads: int = 1) -> dict[str, float]:
    """Run something once in each of so many threads.

    Parameters:
        work: What each thread runs.
        threads: How many; one is the calling thread itself.

    Returns:
        ``seconds`` from the first to the last of it, and ``cpu_seconds`` of the process meanwhile.

    Raises:
        Exception: What a thread raised.
    """
    if threads == 1:
        cpu, began = time.process_time(), time.perf_counter()
        work()
        return {
            "seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - cpu,
        }
    errors: list[BaseException] = []
    gate = threading.Barrier(threads + 1)

    def run() -> None:
        gate.wait()
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    cpu, began = time.process_time(), time.perf_counter()
    gate.wait()
    for thread in running:
        thread.join()
    if errors:
        raise errors[0]
    return {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
