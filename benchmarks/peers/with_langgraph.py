"""LangGraph with its SQLite checkpointer."""

# pyright: reportMissingImports=false
# The peers are no part of the environment in which types are checked.

from __future__ import annotations

import gc
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, TypedDict

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph

from benchmarks.flows import TEXT
from benchmarks.peers.settings import set_pragmas

entered: list[float] = []


class State(TypedDict):
    """What the nodes hand on."""

    left: int
    text: str


def work(state: State) -> dict[str, int]:
    """One trivial node."""
    return {"left": state["left"] - 1}


def rest(state: State) -> dict[str, int]:
    """The node that a restart enters."""
    entered.append(time.perf_counter())
    return {"left": state["left"]}


class Resuming:
    """A thread that many supersteps lie behind.

    Parameters:
        path: The database file.
        synchronous: SQLite's setting.
    """

    def __init__(self, path: str, synchronous: str) -> None:
        self._path = path
        self._synchronous = synchronous

    def prepare(self, steps: int) -> None:
        """Start it and bring it so far."""
        with closing(self._connect()) as connection:
            config: Any = {"configurable": {"thread_id": "1"}, "recursion_limit": steps + 10}
            graph = self._graph(connection)
            graph.invoke({"left": steps, "text": TEXT}, config, durability="sync")

    def restart(self) -> float:
        """Seconds from making the graph to the node."""
        gc.collect()
        began = time.perf_counter()
        with closing(self._connect()) as connection:
            config: Any = {"configurable": {"thread_id": "1"}}
            self._graph(connection).invoke(None, config, durability="sync")
        return entered.pop() - began

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, check_same_thread=False)
        set_pragmas(connection, self._synchronous)
        return connection

    def _graph(self, connection: sqlite3.Connection) -> Any:
        builder = StateGraph(State)
        builder.add_node("work", work)
        builder.add_node("rest", rest)
        builder.add_edge(START, "work")
        builder.add_conditional_edges(
            "work", lambda state: "work" if state["left"] else "rest", ["work", "rest"]
        )
        builder.add_edge("rest", END)
        return builder.compile(checkpointer=SqliteSaver(connection), interrupt_before=["rest"])


@contextmanager
def resuming(path: str, synchronous: str) -> Iterator[Resuming]:
    """On one file."""
    yield Resuming(path, synchronous)
