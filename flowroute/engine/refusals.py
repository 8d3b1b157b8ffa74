"""What no checkpoint can carry, and where in the arguments it was met."""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

DEEPEST_PATH: Final = 12
"""Parts of a path that are spelt out; what lies deeper is written as an ellipsis."""


class Refusal(NamedTuple):
    """Why a kind of value is refused."""

    what: str
    """What the value is, with its article: "a lock"."""
    advice: str
    """What to do instead, as a whole sentence."""


class Refused(Exception):
    """Raised by a pickler at the value that is refused.

    It never leaves the codec, which turns it into `UnstorableValue` with the path of the value.
    """

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.what)
        self.refusal = refusal


_MAKE = "It belongs to this process: make it inside the step that needs it."
_OPEN = "It belongs to this process: open it inside the step that needs it."
_SESSION = "Use self.session inside the step."
_FETCH = "Fetch first, and pass the rows or values: list(query) or result.all()."
_EXTRACT = "Take out of it what the run needs, and pass that."
_IMPORT = "Import it inside the step that needs it."

# By name, so that nothing is imported to be refused. Classes derived from these are refused too.
_REFUSED: Final[Mapping[Refusal, str]] = {
    Refusal("a lock", _MAKE): """
        _thread.lock _thread.RLock threading._RLock asyncio.locks.Lock
        multiprocessing.synchronize.SemLock
    """,
    Refusal("something that threads wait for", _MAKE): """
        threading.Condition threading.Semaphore threading.Event threading.Barrier
        asyncio.locks.Condition asyncio.locks.Semaphore asyncio.locks.Event asyncio.locks.Barrier
    """,
    Refusal("a thread or what belongs to one", _MAKE): """
        threading.Thread _thread._local
    """,
    Refusal("a queue of this process", "Pass a list."): """
        queue.Queue _queue.SimpleQueue asyncio.queues.Queue multiprocessing.queues.Queue
    """,
    Refusal("a process", "Pass its id."): """
        subprocess.Popen multiprocessing.process.BaseProcess
    """,
    Refusal("a pool of threads or processes", _MAKE): """
        concurrent.futures._base.Executor multiprocessing.pool.Pool
    """,
    Refusal("a result that is still to come", "Wait for it, and pass the result."): """
        concurrent.futures._base.Future _asyncio.Future asyncio.futures.Future
    """,
    Refusal("an event loop", _MAKE): """
        asyncio.events.AbstractEventLoop
    """,
    Refusal("an open file", "Pass its path, or what it contains."): """
        _io.FileIO _io.BufferedReader _io.BufferedWriter _io.BufferedRandom _io.BufferedRWPair
        _io.TextIOWrapper _pyio.IOBase mmap.mmap
        tempfile._TemporaryFileWrapper tempfile.SpooledTemporaryFile
    """,
    Refusal("an uploaded file", "Save it and pass its path, or pass file.read()."): """
        werkzeug.datastructures.file_storage.FileStorage
    """,
    Refusal("a socket or what watches one", _OPEN): """
        socket.socket _socket.socket _ssl._SSLContext
        select.epoll select.poll selectors.BaseSelector
    """,
    Refusal("a generator", "Pass list(...) of it."): """
        builtins.generator builtins.async_generator
    """,
    Refusal("a coroutine", "Await it, and pass the result."): """
        builtins.coroutine
    """,
    Refusal("a weak reference", "Pass what it refers to."): """
        weakref.ReferenceType weakref.ProxyType weakref.CallableProxyType
    """,
    Refusal("a frame or a traceback", "Pass the text of traceback.format_exc()."): """
        builtins.frame builtins.traceback
    """,
    Refusal("a context of this thread", "Pass the values in it."): """
        _contextvars.Context _contextvars.ContextVar _contextvars.Token
    """,
    Refusal("a pointer into this process", _MAKE): """
        builtins.PyCapsule ctypes.CDLL
    """,
    Refusal("a logging handler", "Log through logging.getLogger(name)."): """
        logging.Handler
    """,
    Refusal("an SQLAlchemy session", _SESSION): """
        sqlalchemy.orm.session.Session sqlalchemy.orm.session.sessionmaker
        sqlalchemy.orm.scoping.scoped_session sqlalchemy.ext.asyncio.session.AsyncSession
    """,
    Refusal("a database connection or what makes them", _SESSION): """
        sqlalchemy.engine.base.Engine sqlalchemy.engine.base.Connection
        sqlalchemy.engine.base.Transaction sqlalchemy.pool.base.Pool
        sqlalchemy.ext.asyncio.engine.AsyncEngine sqlalchemy.ext.asyncio.engine.AsyncConnection
        sqlite3.Connection sqlite3.Cursor
        psycopg._connection_base.BaseConnection psycopg._cursor_base.BaseCursor
        psycopg2.extensions.connection psycopg2.extensions.cursor
    """,
    Refusal("a query, or a result that is still being read", _FETCH): """
        sqlalchemy.orm.query.Query sqlalchemy.engine.result.ResultInternal
        sqlalchemy.orm.writeonly.WriteOnlyCollection
    """,
    Refusal("the inner state of a database row", "Pass the row itself."): """
        sqlalchemy.orm.state.InstanceState sqlalchemy.orm.collections.CollectionAdapter
    """,
    Refusal("a Flask application, a blueprint or an extension", _IMPORT): """
        flask.sansio.scaffold.Scaffold flask_sqlalchemy.extension.SQLAlchemy
        flask_socketio.SocketIO
    """,
    Refusal("a context or a session of Flask", _EXTRACT): """
        flask.ctx.AppContext flask.ctx.RequestContext flask.ctx._AppCtxGlobals
        flask.sessions.SessionMixin
    """,
    Refusal(
        "a proxy for something of this request or thread",
        "Pass what stands behind it, such as current_user._get_current_object().",
    ): """
        werkzeug.local.LocalProxy werkzeug.local.Local werkzeug.local.LocalStack
    """,
    Refusal("a request or a response", _EXTRACT): """
        werkzeug.sansio.request.Request werkzeug.sansio.response.Response
    """,
    Refusal("a connection to Redis", _OPEN): """
        redis.client.Redis redis.client.Pipeline redis.connection.ConnectionPool
        redis.asyncio.client.Redis
        rq.queue.Queue rq.worker.base.BaseWorker rq.job.Job
    """,
    Refusal("flowroute's engine", _IMPORT): """
        flowroute.engine.engine.Engine
    """,
}

REFUSED_NAMES: Final = {
    name: refusal for refusal, names in _REFUSED.items() for name in names.split()
}

_OWN_PICKLING: Final = frozenset(("__reduce__", "__reduce_ex__", "__getstate__"))


def refusal_of(cls: type) -> Refusal | None:
    """Why instances of a class are refused, or None.

    A class that derives from a refused one and says itself how it is pickled (``__reduce__`` or
    ``__getstate__``) is accepted: its author knows how to make it anew.
    """
    for base in cls.__mro__[:-1]:  # all but object
        refusal = REFUSED_NAMES.get(f"{base.__module__}.{base.__qualname__}")
        if refusal is not None:
            return refusal
        if not _OWN_PICKLING.isdisjoint(vars(base)):
            return None
    return None


# -- paths -----------------------------------------------------------------------------------------
#
# A trail is the stack of a pure-Python pickler at the value that it could not write: that value
# last, before it what holds it, and so on up to the tuple (step, state, arguments). Between two
# values that the user knows stand parts that only pickle knows: a tuple of arguments for a
# constructor, a dict of an object's attributes. The path leaves those out.


def is_class(value: object) -> bool:
    """Whether a value is a class. isinstance() would ask a proxy for what stands behind it."""
    return issubclass(type(value), type)


def class_of(value: object) -> type:
    """A class itself; of anything else, its class."""
    return cast("type", value) if is_class(value) else type(value)


def path_of(trail: Sequence[object]) -> str:
    """Where the last value of a trail stands, as the user would write it.

    Parameters:
        trail: From ``(step, state, arguments)`` down to the value.

    Returns:
        Such as ``arguments['cart'][2].lock``; "the arguments" if the trail does not reach them.
    """
    root, names, *rest = (*trail, None, None)
    for name, value in _items(names):
        if value is rest[0] and len(trail) > len(("root", "names")):
            parts = list(_parts(rest[:-2]))
            if len(parts) > DEEPEST_PATH:
                parts = [*parts[:DEEPEST_PATH], "…"]
            start = name_of(cast("Sequence[Any]", root), names, name)
            return start + "".join(parts)
    return "the arguments"


def name_of(value: Sequence[Any], names: object, name: object) -> str:
    """How a path begins.

    Parameters:
        value: ``(step, state, arguments)``, or ``("", {}, {"result": ...})``.
        names: The state or the arguments, as they stand in `value`.
        name: A name in it.
    """
    step, state, _ = value
    if names is state:
        return f"state[{name!r}]"
    return "result" if not step and name == "result" else f"arguments[{name!r}]"


def cut_to_class(trail: Sequence[object]) -> Sequence[object]:
    """The trail up to where a class had to be written by value.

    A class that dill takes apart fails at something inside that says nothing to the user. What the
    user can change is the class, or the object of that class.
    """
    for depth, met in enumerate(trail):
        if is_class(met):
            for above in range(depth):
                if met is type(trail[above]):
                    return trail[: above + 1]
            return trail[: depth + 1]
    return trail


def _parts(trail: Sequence[object]) -> Iterator[str]:
    """The parts of a path below the first value of a trail."""
    at = 0
    known = True  # the user knows trail[at]; False: only pickle does
    while at + 1 < len(trail):
        here = trail[at]
        part = _item_part(here, trail[at + 1], known=known)
        if part is not None:
            at += 1
            # pydantic writes dicts of attributes inside another; only pickle knows those too.
            known = known or bool(part) or not isinstance(here, dict)
        else:
            part, down = _attribute_part(here, trail[at + 1 :])
            at += down
            known = bool(part)
        yield part


def _item_part(here: object, below: object, *, known: bool) -> str | None:
    """The part from a container to something in it; None if it is not in there."""
    if isinstance(here, dict):
        for key, value in _items(cast("object", here)):
            if value is below:
                return _key_part(key) if known else _state_part(key)
            if key is below:
                return " (a key)"
    elif isinstance(here, (list, tuple, deque)):
        for index, each in enumerate(cast("Sequence[object]", here)):
            if each is below:
                return f"[{index}]" if known else ""
    elif isinstance(here, (set, frozenset)):
        return " (an element)"
    return None


def _key_part(key: object) -> str:
    simple = isinstance(key, (str, int, float, bytes, type(None)))
    return f"[{key!r}]" if simple else f"[<{type(key).__name__}>]"


def _state_part(key: object) -> str:
    name = str(key)
    return "" if name.startswith("__") else f".{name}"


def _attribute_part(here: object, below: Sequence[object]) -> tuple[str, int]:
    """The part from an object to the nearest value below it that one of its attributes holds.

    Returns:
        The part, and how far down it leads; an empty part and one down where no attribute does.
    """
    attributes = {id(value): part for part, value in _attributes(here)}
    for down, value in enumerate(below, 1):
        if id(value) in attributes:
            return attributes[id(value)], down
    return "", 1


def _attributes(of: object) -> Iterator[tuple[str, object]]:
    """Each attribute that pickle may visit, found without running code of the object's class."""
    yield from _innards(of)
    try:
        held: object = object.__getattribute__(of, "__dict__")
    except AttributeError:  # all its attributes are slots
        held = None
    yield from ((f".{name}", value) for name, value in _items(held))
    for base in type(of).__mro__:
        for name, descriptor in vars(base).items():
            if isinstance(descriptor, types.MemberDescriptorType):
                try:
                    yield f".{name}", object.__getattribute__(of, name)
                except AttributeError:  # a slot that was never filled
                    continue


def _innards(of: object) -> Iterator[tuple[str, object]]:
    """What a callable or a class holds."""
    if isinstance(of, functools.partial):
        whole = cast("functools.partial[object]", of)
        yield from ((".func", whole.func), (".args", whole.args), (".keywords", whole.keywords))
    elif isinstance(of, types.MethodType):
        yield from ((".__self__", of.__self__), (".__func__", of.__func__))
    elif is_class(of):
        yield from ((f".{name}", value) for name, value in vars(cast("type", of)).items())
    elif isinstance(of, types.FunctionType):
        for name, cell in zip(of.__code__.co_freevars, of.__closure__ or (), strict=True):
            try:
                yield f" (its variable {name!r})", cell.cell_contents
            except ValueError:  # a variable that has no value yet
                continue
        yield from ((".__defaults__", of.__defaults__), (".__kwdefaults__", of.__kwdefaults__))


def _items(of: object) -> Iterator[tuple[object, object]]:
    # dict.items: a subclass may have made its own items() something else
    if isinstance(of, dict):
        yield from dict[object, object].items(cast("dict[object, object]", of))
