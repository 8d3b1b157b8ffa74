"""A relay in front of PostgreSQL that counts round trips, whatever driver and mode is used."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
CHUNK = 65536


class Relay:
    """Forwards connections, and counts how often a client spoke after the server had.

    Parameters:
        port: The server's.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self.round_trips = 0
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            server = socket.create_connection((HOST, self._target))
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [client, server]
            turn = _Turn(self)
            for source, target, asks in ((client, server, True), (server, client, False)):
                threading.Thread(
                    target=self._forward,
                    args=(source, target, turn),
                    kwargs={"asks": asks},
                    daemon=True,
                ).start()

    def _forward(
        self, source: socket.socket, target: socket.socket, turn: _Turn, *, asks: bool
    ) -> None:
        with contextlib.suppress(OSError):  # either side may break off
            while data := source.recv(CHUNK):
                turn.spoke(asks=asks)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def count(self) -> None:
        """One round trip more."""
        with self._lock:
            self.round_trips += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.close()
        for each in self._sockets:
            each.close()


class _Turn:
    """Who spoke last on one connection."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._asked = False

    def spoke(self, *, asks: bool) -> None:
        """The client (`asks`) or the server sent something."""
        if asks and not self._asked:
            self._relay.count()
        self._asked = asks
