"""SocketIO: browsers subscribe to a run, and hear when it moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from flask_socketio import SocketIO, join_room, leave_room

from flowroute.engine import schema
from flowroute.engine.engine import Engine
from flowroute.engine.ports import Move
from flowroute.errors import RunNotFound
from flowroute.flask.presentation import LOOK, state_of
from flowroute.flask.tokens import run_of

NAMESPACE = "/flowroute"


class SocketNotifier:
    """Tells the browsers that watch a run, wherever this process's moves are heard.

    In a worker process the message goes through the SocketIO message queue, if the application's
    SocketIO has one.

    Parameters:
        socketio: The application's.
    """

    def __init__(self, socketio: SocketIO) -> None:
        self._socketio: Any = socketio  # its stubs leave the arguments of emit() untyped

    def moved(self, move: Move) -> None:
        """Emit ``moved`` to the room of the run."""
        at_rest = move.state in (*schema.FINISHED, schema.BLOCKED) or move.waiting_for in LOOK
        body = {
            "id": move.run_id,
            "seq": move.seq,
            "state": move.state,
            "waiting_for": move.waiting_for,
            "step": move.step,
            "progress": move.progress,
            "at_rest": at_rest,
        }
        self._socketio.emit("moved", body, to=room_of(move.run_id), namespace=NAMESPACE)


def room_of(run_id: str) -> str:
    """The room of the browsers that watch a run."""
    return f"run {run_id}"


def listen(socketio: SocketIO, engine_of_app: Callable[[], Engine]) -> None:
    """Answer browsers that subscribe.

    Parameters:
        socketio: The application's.
        engine_of_app: Returns the engine of the current application.
    """

    def subscribe(message: object = None, *_: object) -> dict[str, Any]:
        fields = cast("dict[object, object]", message) if isinstance(message, dict) else {}
        token = fields.get("token")
        engine = engine_of_app()
        try:
            run_id = run_of(engine.codec, token if isinstance(token, str) else "")
        except RunNotFound:
            return {"error": "unknown"}
        # Join, then read, then answer with what was read: a move between joining and reading is
        # heard twice, one between reading and joining would be heard by nobody.
        try:
            join_room(room_of(run_id))
        except ValueError:  # the page was left meanwhile: there is nobody to answer
            return {"error": "unknown"}
        try:
            return state_of(engine.lookup.read(run_id))
        except RunNotFound:  # deleted, its retention was over
            leave_room(room_of(run_id))
            return {"error": "unknown"}

    socketio.on_event("subscribe", subscribe, namespace=NAMESPACE)


def path_of(socketio: SocketIO | None) -> str:
    """The path of the Socket.IO server below the application's root; empty where there is none."""
    if socketio is None:
        return ""
    middleware = getattr(socketio, "sockio_mw", None)  # set by init_app(app)
    path: str = getattr(middleware, "engineio_path", "/socket.io/")
    return path.rstrip("/")


def lacks_message_queue(socketio: SocketIO) -> bool:
    """Whether what other processes emit can not reach this one; False where it is not known yet."""
    if getattr(socketio, "server", None) is None:
        return False  # init_app() comes later
    options: dict[str, object] = getattr(socketio, "server_options", {})
    return not {"message_queue", "client_manager"} & {k for k, v in options.items() if v}
