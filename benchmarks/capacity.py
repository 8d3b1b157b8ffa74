"""The capacity model of docs/scaling.md: its constants, and a simulation that it has to foretell.

The constants are measured on small loads, one thing at a time. Then a load of orders arrives at
random, and what it took is compared with what the model says it would take.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from redis import Redis

from benchmarks.contest import Contestant
from benchmarks.figure import Figure
from benchmarks.laboratory import Laboratory
from benchmarks.measuring import Measures, Result, at_most
from benchmarks.watch import Connections

#: Plain steps before and after the worker step of a simulated order.
BEFORE, AFTER = 3, 2
#: How much of the time the worker of the simulation is busy, as the model has it.
BUSY = 0.5
#: How far what was seen may lie from what was foretold, as a ratio.
NEAR = at_most(1.25)


@dataclass(frozen=True, slots=True)
class Model:
    """What a load takes.

    Parameters:
        run_bytes: Of a run without its checkpoints, indexes included.
        checkpoint_bytes: Of each checkpoint, with what its UPDATE of the run left behind.
        redis_commands: For each worker step.
        drained: Orders that one worker finishes in a second when the queue is never empty.
    """

    run_bytes: float
    checkpoint_bytes: float
    redis_commands: float
    drained: float

    def checkpoints(self, before: int, after: int) -> int:
        """Of one order: the start, and one after each step."""
        return 1 + before + 1 + after

    def bytes(self, runs: int, before: int, after: int) -> float:
        """Of so many orders."""
        each = self.run_bytes + self.checkpoints(before, after) * self.checkpoint_bytes
        return runs * each

    def seconds(self, rate: float) -> float:
        """From start to end of an order on average: one server, arrivals at random, equal work."""
        busy = rate / self.drained
        return (1 + busy / (2 * (1 - busy))) / self.drained


def measure(lab: Laboratory) -> Measures:
    """The constants on both databases; the simulation on PostgreSQL."""
    for kind in ("sqlite", "postgresql"):
        run_bytes, checkpoint_bytes = sizes(lab, kind)
        words = "SQLite" if kind == "sqlite" else "PostgreSQL"
        yield constant(f"{words}, a run without its checkpoints", run_bytes, "bytes")
        yield constant(f"{words}, a checkpoint", checkpoint_bytes, "bytes")
    yield from simulate(lab, run_bytes, checkpoint_bytes)


def constant(setting: str, value: float, unit: str) -> Result:
    """A constant of the model: no bar."""
    return Result(FIGURE.name, setting, value, unit)


def near(what: str, seen: float, foretold: float) -> Result:
    """How far what was seen lies from what was foretold."""
    # A few rows may fit into pages that were there: nothing seen is as far away as can be.
    away = max(seen / foretold, foretold / seen) if seen else math.inf
    peers = {"seen": seen, "foretold": foretold}
    return Result(FIGURE.name, f"simulation, {what}: seen / foretold", away, "ratio", NEAR, peers)


def sizes(lab: Laboratory, kind: str) -> tuple[float, float]:
    """Bytes of a run and of a checkpoint: from short runs and from long ones."""
    count = lab.choose(200, 30)
    lab.redis.flush()
    grown: list[tuple[float, int]] = []
    for before in (1, 21):
        url = lab.database_url(kind)
        with lab.contestant("ordering:ordering", url=url, redis_url=lab.redis.url) as orders:
            # Empty tables have pages too: what counts is the growth.
            orders.ask("start", count=count, before=before, after=1)
            first = orders.ask("totals")
            orders.ask("start", count=count, before=before, after=1)
            second = orders.ask("totals")
        grown.append(((second["bytes"] - first["bytes"]) / count, before + 1))
    (short, few), (long, many) = grown
    checkpoint = (long - short) / (many - few)
    return max(short - few * checkpoint, 0.0), checkpoint


def simulate(lab: Laboratory, run_bytes: float, checkpoint_bytes: float) -> Measures:
    """Calibrate on a queue that is never empty, then let orders arrive at random."""
    lab.redis.flush()
    url = lab.postgres_url()
    few, many = lab.choose((200, 800), (10, 20))
    with ExitStack() as stack:
        redis = stack.enter_context(Redis.from_url(lab.redis.url))
        orders = stack.enter_context(
            lab.contestant("ordering:ordering", url=url, redis_url=lab.redis.url)
        )
        worker = stack.enter_context(
            lab.program("benchmarks.worker", "own", "inline", lab.redis.url, url)
        )
        worker.wait_for_line("Listening on", 60)
        model = calibrated(orders, redis, few, (run_bytes, checkpoint_bytes))
        yield constant("Redis commands for a worker step", model.redis_commands, "commands")
        yield constant("orders that one worker drains", model.drained, "per second")
        rate = BUSY * model.drained
        connections = stack.enter_context(Connections(url))
        before = orders.ask("totals")
        commands = count_commands(redis)
        seconds = orders.ask("start", count=many, before=BEFORE, after=AFTER, rate=rate)
        seconds += orders.ask("until_done", total=before["runs"] + many)
        commands = count_commands(redis) - commands
        after = orders.ask("totals")
        mean = orders.ask("mean_seconds", newest=many)
    rows = after["checkpoints"] - before["checkpoints"]
    yield near("checkpoints", rows, many * model.checkpoints(BEFORE, AFTER))
    grown = after["bytes"] - before["bytes"]
    yield near("bytes", grown, model.bytes(many, BEFORE, AFTER))
    yield near("Redis commands", commands, many * model.redis_commands)
    yield near("orders per second", many / seconds, rate)
    # One of whoever starts, one of the worker, and each may have a heartbeat's beside.
    yield Result(
        FIGURE.name, "simulation, connections", connections.most, "connections", at_most(4)
    )
    yield Result(
        FIGURE.name,
        "simulation, mean seconds from start to end",
        mean,
        "s",
        None,
        {"foretold": model.seconds(rate)},
    )


def calibrated(
    orders: Contestant, redis: Redis, count: int, sizes_found: tuple[float, float]
) -> Model:
    """The model with the worker's constants: from orders that all come at once."""
    orders.ask("start", count=count // 10, before=BEFORE, after=AFTER)
    orders.ask("until_done", total=count // 10)
    commands = count_commands(redis)
    seconds = orders.ask("start", count=count, before=BEFORE, after=AFTER)
    seconds += orders.ask("until_done", total=count + count // 10)
    commands = count_commands(redis) - commands
    run_bytes, checkpoint_bytes = sizes_found
    return Model(run_bytes, checkpoint_bytes, commands / count, count / seconds)


def count_commands(redis: Redis) -> int:
    """How many commands Redis was given so far, those within scripts and transactions too."""
    found: Any = redis.info("commandstats")
    return sum(each["calls"] for each in found.values())


FIGURE = Figure("capacity", "The capacity model, and a simulation that it foretells", measure)
