"""What no checkpoint can carry is refused at any depth, by both picklers, with its path."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextvars
import copyreg
import ctypes
import dataclasses
import functools
import importlib
import io
import logging
import mmap
import multiprocessing
import queue
import re
import select
import selectors
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import flask
import flask.ctx
import flask.sessions
import flask_socketio
import flask_sqlalchemy
import psycopg
import pydantic
import pytest
import redis
import redis.asyncio
import rq
import sqlalchemy
import sqlalchemy.ext.asyncio
import sqlalchemy.orm
import werkzeug.datastructures
import werkzeug.local
from sqlalchemy.orm import DeclarativeBase, DynamicMapped, Mapped, WriteOnlyMapped

from flowroute.engine import refusals
from flowroute.engine.codec import Codec
from flowroute.errors import UnstorableValue

CODEC = Codec(["a key"])
LOCK = threading.Lock()


def no_session() -> Any:
    pytest.fail("the session was asked for, and there is no row")


def refused(value: Any) -> UnstorableValue:
    with pytest.raises(UnstorableValue) as caught:
        CODEC.encode(("pay", {}, {"value": value}), run_id="run", seq=1, session=no_session)
    return caught.value


def path_to(value: Any) -> str:
    path = refused(value).path
    assert path.startswith("arguments['value']")
    return path.removeprefix("arguments['value']")


class Base(DeclarativeBase):
    pass


class Shelf(Base):
    __tablename__ = "shelf"
    id: Mapped[int] = sqlalchemy.orm.mapped_column(primary_key=True)
    books: DynamicMapped[Book] = sqlalchemy.orm.relationship()
    papers: WriteOnlyMapped[Book] = sqlalchemy.orm.relationship(overlaps="books")


class Book(Base):
    __tablename__ = "book"
    id: Mapped[int] = sqlalchemy.orm.mapped_column(primary_key=True)
    shelf_id: Mapped[int] = sqlalchemy.orm.mapped_column(sqlalchemy.ForeignKey("shelf.id"))


async def coroutine() -> None:
    """A coroutine, for the table below."""


async def async_generator() -> Any:
    yield 1


def generator() -> Iterator[int]:
    yield 1


# Each file is closed by the ExitStack of its test.
def closed(stack: ExitStack, thing: Any, close: str = "close") -> Any:
    stack.callback(getattr(thing, close))
    return thing


def server_engine(stack: ExitStack) -> sqlalchemy.Engine:
    engine = sqlalchemy.create_engine("sqlite://")
    Base.metadata.create_all(engine)
    stack.callback(engine.dispose)
    return engine


def a_session(stack: ExitStack) -> sqlalchemy.orm.Session:
    session: sqlalchemy.orm.Session = closed(stack, sqlalchemy.orm.Session(server_engine(stack)))
    return session


def a_shelf(stack: ExitStack) -> Shelf:
    session = a_session(stack)
    shelf = Shelf()
    session.add(shelf)
    session.flush()
    return shelf


def a_connection(stack: ExitStack) -> sqlalchemy.Connection:
    return stack.enter_context(server_engine(stack).connect())


def an_app(_: ExitStack) -> flask.Flask:
    return flask.Flask("shop")


def in_request(stack: ExitStack, thing: str) -> Any:
    app = flask.Flask("shop")
    app.secret_key = "k"  # noqa: S105  # guards nothing
    context = app.test_request_context("/")
    stack.enter_context(context)
    return {
        "context": context,
        "request": flask.request._get_current_object(),  # type: ignore[attr-defined]  # noqa: SLF001
        "session": flask.session._get_current_object(),  # type: ignore[attr-defined]  # noqa: SLF001
        "g": flask.g._get_current_object(),  # noqa: SLF001
        "proxy": flask.current_app,
    }[thing]


def a_frame(_: ExitStack) -> Any:
    return sys._getframe()  # noqa: SLF001  # frames are what this is about


def a_traceback(_: ExitStack) -> Any:
    return types.TracebackType(None, sys._getframe(), 0, 1)  # noqa: SLF001


def a_capsule(_: ExitStack) -> Any:
    return sys.modules["datetime"].datetime_CAPI


REFUSED: dict[str, tuple[str, Callable[[ExitStack], Any]]] = {
    "lock": ("a lock", lambda _: threading.Lock()),
    "rlock": ("a lock", lambda _: threading.RLock()),
    "process lock": ("a lock", lambda _: multiprocessing.get_context("fork").Lock()),
    "asyncio lock": ("a lock", lambda _: asyncio.Lock()),
    "event": ("something that threads wait for", lambda _: threading.Event()),
    "condition": ("something that threads wait for", lambda _: threading.Condition()),
    "semaphore": ("something that threads wait for", lambda _: threading.BoundedSemaphore()),
    "barrier": ("something that threads wait for", lambda _: threading.Barrier(2)),
    "thread": ("a thread", lambda _: threading.Timer(1, print)),
    "local": ("a thread", lambda _: threading.local()),
    "queue": ("a queue", lambda _: queue.LifoQueue()),
    "simple queue": ("a queue", lambda _: queue.SimpleQueue()),
    "popen": (
        "a process",
        lambda s: closed(s, subprocess.Popen([sys.executable, "-c", ""]), "wait"),
    ),
    "process": ("a process", lambda _: multiprocessing.get_context("spawn").Process()),
    "executor": (
        "a pool",
        lambda s: closed(s, concurrent.futures.ThreadPoolExecutor(1), "shutdown"),
    ),
    "pool": ("a pool", lambda s: closed(s, ThreadPool(1), "terminate")),
    "future": ("a result that is still to come", lambda _: concurrent.futures.Future()),
    "asyncio future": (
        "a result that is still to come",
        lambda s: asyncio.Future(loop=closed(s, asyncio.new_event_loop())),
    ),
    "event loop": ("an event loop", lambda s: closed(s, asyncio.new_event_loop())),
    "text file": ("an open file", lambda s: closed(s, Path(__file__).open())),  # noqa: SIM115
    "binary file": ("an open file", lambda s: closed(s, Path(__file__).open("rb"))),  # noqa: SIM115
    "raw file": ("an open file", lambda s: closed(s, Path(__file__).open("rb", buffering=0))),  # noqa: SIM115
    "written file": ("an open file", lambda s: closed(s, tempfile.TemporaryFile("w"))),  # noqa: SIM115
    "random file": ("an open file", lambda s: closed(s, tempfile.TemporaryFile())),  # noqa: SIM115
    "named file": ("an open file", lambda s: closed(s, tempfile.NamedTemporaryFile())),  # noqa: SIM115
    "spooled file": ("an open file", lambda s: closed(s, tempfile.SpooledTemporaryFile())),  # noqa: SIM115
    "mmap": ("an open file", lambda s: closed(s, mmap.mmap(-1, 10))),
    "stdout": ("an open file", lambda _: sys.__stdout__),
    "upload": ("an uploaded file", lambda _: werkzeug.datastructures.FileStorage(io.BytesIO())),
    "socket": ("a socket", lambda s: closed(s, socket.socket())),
    "ssl": ("a socket", lambda _: ssl.create_default_context()),
    "epoll": ("a socket", lambda s: closed(s, select.epoll())),
    "poll": ("a socket", lambda _: select.poll()),
    "selector": ("a socket", lambda s: closed(s, selectors.DefaultSelector())),
    "generator": ("a generator", lambda _: generator()),
    "async generator": ("a generator", lambda _: async_generator()),
    "coroutine": ("a coroutine", lambda s: closed(s, coroutine())),
    "weak reference": ("a weak reference", lambda _: weakref.ref(Shelf)),
    "weak method": ("a weak reference", lambda _: weakref.WeakMethod(CODEC.encode)),
    "weak proxy": ("a weak reference", lambda _: weakref.proxy(CODEC)),
    "dead proxy": ("a weak reference", lambda _: weakref.proxy(threading.Event())),
    "callable proxy": ("a weak reference", lambda _: weakref.proxy(coroutine)),
    "frame": ("a frame", a_frame),
    "traceback": ("a frame", a_traceback),
    "context": ("a context of this thread", lambda _: contextvars.copy_context()),
    "context variable": ("a context of this thread", lambda _: contextvars.ContextVar("v")),
    "token": ("a context of this thread", lambda _: contextvars.ContextVar[int]("v").set(1)),
    "capsule": ("a pointer", a_capsule),
    "library": ("a pointer", lambda _: ctypes.pythonapi),
    "handler": ("a logging handler", lambda _: logging.StreamHandler()),
    "session": ("an SQLAlchemy session", a_session),
    "sessionmaker": ("an SQLAlchemy session", lambda _: sqlalchemy.orm.sessionmaker()),
    "scoped session": (
        "an SQLAlchemy session",
        lambda _: sqlalchemy.orm.scoped_session(sqlalchemy.orm.sessionmaker()),
    ),
    "async session": (
        "an SQLAlchemy session",
        lambda _: sqlalchemy.ext.asyncio.AsyncSession(),
    ),
    "engine": ("a database connection", server_engine),
    "connection": ("a database connection", a_connection),
    "transaction": ("a database connection", lambda s: a_connection(s).begin()),
    "pool of connections": ("a database connection", lambda s: server_engine(s).pool),
    "sqlite3": ("a database connection", lambda s: closed(s, sqlite3.connect(":memory:"))),
    "query": ("a query", lambda s: a_session(s).query(Shelf)),
    "result": ("a query", lambda s: a_session(s).execute(sqlalchemy.select(Shelf))),
    "scalars": ("a query", lambda s: a_session(s).scalars(sqlalchemy.select(Shelf))),
    "mappings": ("a query", lambda s: a_connection(s).execute(sqlalchemy.select(Shelf)).mappings()),
    "dynamic": ("a query", lambda s: a_shelf(s).books),
    "write-only": ("a query", lambda s: a_shelf(s).papers),
    "row state": ("the inner state", lambda _: sqlalchemy.inspect(Shelf())),
    "app": ("a Flask application", an_app),
    "blueprint": ("a Flask application", lambda _: flask.Blueprint("b", "shop")),
    "db": (
        "a Flask application",
        lambda _: flask_sqlalchemy.SQLAlchemy(model_class=Base),
    ),
    "socketio": ("a Flask application", lambda _: flask_socketio.SocketIO()),
    "app context": ("a context or a session of Flask", lambda s: an_app(s).app_context()),
    "request context": ("a context or a session", lambda s: in_request(s, "context")),
    "flask session": ("a context or a session", lambda s: in_request(s, "session")),
    "g": ("a context or a session", lambda s: in_request(s, "g")),
    "proxy": ("a proxy", lambda s: in_request(s, "proxy")),
    "proxy of nothing": ("a proxy", lambda _: flask.current_app),
    "werkzeug local": ("a proxy", lambda _: werkzeug.local.Local()),
    "local stack": ("a proxy", lambda _: werkzeug.local.LocalStack()),
    "request": ("a request or a response", lambda s: in_request(s, "request")),
    "response": ("a request or a response", lambda _: flask.Response("x")),
    "redis": ("a connection to Redis", lambda s: closed(s, redis.Redis())),
    "pipeline": ("a connection to Redis", lambda s: closed(s, redis.Redis().pipeline(), "reset")),
    "redis pool": ("a connection to Redis", lambda _: redis.ConnectionPool()),
    "async redis": ("a connection to Redis", lambda _: redis.asyncio.Redis()),
    "rq": ("a connection to Redis", lambda s: rq.Queue(connection=closed(s, redis.Redis()))),
    "rq job": (
        "a connection to Redis",
        lambda s: rq.job.Job.create(len, connection=closed(s, redis.Redis())),
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("extra", [None, lambda: 1], ids=["c-pickle", "dill"])
def test_what_belongs_to_a_process_is_refused_with_advice(kind: str, extra: object) -> None:
    what, make = REFUSED[kind]
    with ExitStack() as stack:
        error = refused([extra, {"deep": (make(stack),)}])
    assert error.path == "arguments['value'][1]['deep'][0]"
    assert str(error).startswith(f"{error.path} is {what}")
    assert re.search(r"no checkpoint can carry it\. [A-Z].*\.$", str(error))


def test_every_refused_name_is_the_name_of_a_class_that_exists() -> None:
    """A class that a library renames would otherwise be accepted without a word."""
    proven = {"psycopg2.extensions.connection", "psycopg2.extensions.cursor"}  # not installed
    with ExitStack() as stack:
        for _, make in REFUSED.values():
            for cls in (*type(make(stack)).__mro__, asyncio.futures._PyFuture):  # type: ignore[attr-defined]  # noqa: SLF001
                proven.add(f"{cls.__module__}.{cls.__qualname__}")
    for name in set(refusals.REFUSED_NAMES) - proven:
        module, _, qualname = name.rpartition(".")
        cls = getattr(importlib.import_module(module), qualname)
        assert f"{cls.__module__}.{cls.__qualname__}" == name


def test_a_psycopg_connection_is_refused() -> None:
    assert refusals.refusal_of(psycopg.Connection)
    assert refusals.refusal_of(psycopg.Cursor)


# -- what is accepted ------------------------------------------------------------------------------


class Reopened(threading.Thread):
    """Derives from what is refused, and says how it is made anew."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Reopened, ()


class Silent(threading.Thread):
    """Derives from what is refused, and says nothing."""


def test_a_class_that_says_how_it_is_pickled_is_accepted() -> None:
    for value in (Reopened(), [Reopened(), lambda: 1]):
        CODEC.encode(("pay", {}, {"value": value}), run_id="run", seq=1, session=no_session)
    assert refused(Silent()).path == "arguments['value']"


class Registered(threading.Event):
    """Accepted once a test has registered it."""


def test_a_class_that_is_registered_with_copyreg_is_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused(Registered())
    monkeypatch.setitem(copyreg.dispatch_table, Registered, lambda _: (Registered, ()))
    for value in (Registered(), [Registered(), lambda: 1]):
        CODEC.encode(("pay", {}, {"value": value}), run_id="run", seq=1, session=no_session)


@pytest.mark.parametrize("value", [io.BytesIO(b"x"), io.StringIO("x")])
def test_a_file_in_memory_is_data(value: Any) -> None:
    payload = CODEC.encode(("", {}, {"result": value}), run_id="r", seq=1, session=no_session)
    assert b"x" in payload


# -- paths -----------------------------------------------------------------------------------------


class Cart:
    def __init__(self, items: object) -> None:
        self.items = items

    def total(self) -> int:
        return 0


class Slotted:
    __slots__ = ("empty", "held")

    def __init__(self, held: object) -> None:
        self.held = held


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    held: object


class Model(pydantic.BaseModel):
    held: Any
    _private: Any = pydantic.PrivateAttr(default=None)


class OwnState:
    def __getstate__(self) -> dict[str, object]:
        return {"made_up": LOCK}


class OwnReduce:
    def __reduce__(self) -> tuple[Any, ...]:
        return Cart, ([LOCK],)


class ListOf(list[Any]):
    """A list with attributes."""

    held: object


class DictOf(dict[str, Any]):
    """A dict with attributes."""

    held: object


class Key:
    """A key that has no short form."""


class Hostile:
    """Compares, prints and reads attributes with an error."""

    def __init__(self) -> None:
        self.__dict__["lock"] = LOCK

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError

    def __hash__(self) -> int:
        return 1

    def __repr__(self) -> str:
        raise ZeroDivisionError

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ZeroDivisionError


def private(model: Model) -> Model:
    model._private = [LOCK]  # noqa: SLF001  # what this is about
    return model


def list_of(*items: object, held: object) -> ListOf:
    made = ListOf(items)
    made.held = held
    return made


def dict_of(held: object, **items: object) -> DictOf:
    made = DictOf(items)
    made.held = held
    return made


def closure(lock: object, *, unset: bool = False) -> Callable[[], object]:
    def inner(default: object = None) -> object:
        return lock, default, later

    if not unset:
        later = 1
    return inner


def with_default(default: object) -> Callable[..., object]:
    def inner(one: object = default, *, two: object = None) -> object:
        return one, two

    return inner


def with_keyword(default: object) -> Callable[..., object]:
    def inner(*, two: object = default) -> object:
        return two

    return inner


def holder(lock: object) -> type:
    class Local:
        held = lock

    return Local


PATHS: list[tuple[object, str]] = [
    (LOCK, ""),
    ([0, [LOCK]], "[1][0]"),
    ({"k": (1, LOCK)}, "['k'][1]"),
    ({3: LOCK}, "[3]"),
    ({b"b": LOCK}, "[b'b']"),
    ({None: LOCK}, "[None]"),
    ({Key(): LOCK}, "[<Key>]"),
    ({"x": {LOCK: 1}}, "['x'] (a key)"),
    ({LOCK}, " (an element)"),
    (frozenset({LOCK}), " (an element)"),
    (collections.deque([1, LOCK]), "[1]"),
    (collections.defaultdict(list, a=[LOCK]), "['a'][0]"),
    (collections.OrderedDict(a=LOCK), "['a']"),
    (collections.UserList([LOCK]), ".data[0]"),
    (Cart([1, 2, Cart(LOCK)]), ".items[2].items"),
    (Cart(LOCK).total, ".__self__.items"),
    (Slotted(LOCK), ".held"),
    (Slotted([Slotted(LOCK)]), ".held[0].held"),
    (Frozen({"a": LOCK}), ".held['a']"),
    (Model(held=[LOCK]), ".held[0]"),
    (private(Model(held=1)), "._private[0]"),
    (OwnState(), ".made_up"),
    (OwnReduce(), "[0]"),
    (list_of(1, LOCK, held=2), "[1]"),
    (list_of(1, held={"x": LOCK}), ".held['x']"),
    (dict_of([LOCK], a=1), ".held[0]"),
    (dict_of(1, a=LOCK), "['a']"),
    (Hostile(), ".lock"),
    (functools.partial(print, 1, LOCK), ".args[1]"),
    (functools.partial(dict, end=LOCK), ".keywords['end']"),
    (functools.partial(Cart(LOCK).total), ".func.__self__.items"),
    (closure(LOCK), " (its variable 'lock')"),
    (closure([LOCK], unset=True), " (its variable 'lock')[0]"),
    (with_default(LOCK), ".__defaults__[0]"),
    (with_keyword(LOCK), ".__kwdefaults__['two']"),
    (holder(LOCK), ".held"),
    ([LOCK for _ in range(3)], "[0]"),
]


@pytest.mark.parametrize(
    ("value", "path"),
    PATHS,
    ids=[f"{n}-{type(each).__name__}" for n, (each, _) in enumerate(PATHS)],
)
def test_the_path_leads_to_the_value(value: object, path: str) -> None:
    assert path_to(value) == path


def test_the_state_has_paths_of_its_own() -> None:
    with pytest.raises(UnstorableValue) as caught:
        CODEC.encode(("s", {"cart": [LOCK]}, {"n": 1}), run_id="r", seq=1, session=no_session)
    assert caught.value.path == "state['cart'][0]"


def test_a_result_has_a_path_of_its_own() -> None:
    with pytest.raises(UnstorableValue) as caught:
        CODEC.encode(("", {}, {"result": [LOCK]}), run_id="r", seq=1, session=no_session)
    assert caught.value.path == "result[0]"


def test_a_long_path_is_shortened() -> None:
    value: Any = LOCK
    for _ in range(30):
        value = [value]
    assert path_to(value) == "[0]" * refusals.DEEPEST_PATH + "…"


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_path_that_does_not_reach_an_argument_is_the_arguments(depth: int) -> None:
    arguments = {"value": LOCK}
    assert refusals.path_of([("pay", {}, arguments), arguments][:depth]) == "the arguments"


# -- what can not be written for other reasons -----------------------------------------------------


class Failing:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("not today")


class Lying:
    def __reduce__(self) -> Any:
        return 5


@pytest.mark.parametrize("cls", [Failing, Lying])
def test_an_object_that_can_not_be_pickled_is_named_with_its_error(cls: type) -> None:
    error = refused({"x": [cls()]})
    assert error.path == "arguments['value']['x'][0]"
    assert f"({__name__}.{cls.__name__}) can not be stored" in str(error)
    assert "give the class a __reduce__ method" in str(error)
    assert error.__cause__ is not None


def test_a_value_that_is_nested_too_deeply_is_refused() -> None:
    value: list[Any] = []
    for _ in range(10_000):
        value = [value]
    error = refused(value)
    assert "nested too deeply" in str(error)
    assert error.path.endswith("…")


def test_a_value_that_no_pickler_knows_is_named() -> None:
    error = refused([memoryview(b"x")])
    assert error.path == "arguments['value'][0]"
    assert "(builtins.memoryview) can not be stored" in str(error)
