"""Connections to Redis that fail quickly, and names for them that show no password."""

# pyright: reportUnknownMemberType=false
# rq and redis leave many parameters without a type, so that their methods are partly unknown.

from __future__ import annotations

from typing import Any, cast

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry
from rq.connections import get_connection_kwargs  # pyright: ignore[reportUnknownVariableType]

from flowroute.errors import ConfigurationError, RedisUnreachable

#: How long Redis may take to accept a connection or to answer, in seconds.
ANSWER_SECONDS = 1.0

#: How old a Redis server may be: `BLMOVE`, with which a popped job is never lost, came with 6.2.
OLDEST_SERVER = (6, 2)


def connect(url: str) -> redis.Redis:
    """Make a client that gives up within about a second; the library may try for a minute.

    Nothing is sent yet. A connection that broke while it lay idle is replaced once, silently; a
    server that does not answer is not asked twice.

    Parameters:
        url: ``redis://``, ``rediss://`` or ``unix://``; timeouts in its query string win over the
            ones here.

    Raises:
        ConfigurationError: that is no URL of a Redis. The message does not repeat it: it may hold a
            password.
    """
    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=ANSWER_SECONDS,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        )
    except ValueError:
        # Its text may quote a part of the password, as the port of a URL whose password holds a
        # slash.
        message = (
            "That is not the URL of a Redis. Write redis://host:6379/0 (rediss:// for TLS, unix:// "
            "for a socket), and percent-encode what is special in a password."
        )
        raise ConfigurationError(message) from None


def separate(connection: redis.Redis, *, answer_seconds: float) -> redis.Redis:
    """Make a second client of the same server, so that one's timeouts are not the other's.

    Parameters:
        connection: The client to copy; one with a pool of an unusual kind (Sentinel) is returned as
            it is.
        answer_seconds: How long the copy waits for an answer.
    """
    pool = connection.connection_pool
    if type(pool) not in {redis.ConnectionPool, redis.BlockingConnectionPool}:
        return connection
    settings = cast("dict[str, Any]", get_connection_kwargs(connection))
    settings["socket_timeout"] = answer_seconds
    copy = redis.ConnectionPool(connection_class=pool.connection_class, **settings)
    return redis.Redis.from_pool(copy)


def describe(connection: redis.Redis) -> str:
    """Name the server of a client, without user, password and query string.

    >>> describe(connect("redis://:secret@cache.example:6380/2"))
    'redis://cache.example:6380/2'
    """
    settings: dict[str, Any] = connection.connection_pool.connection_kwargs
    database = settings.get("db") or 0
    if path := settings.get("path"):
        return f"unix://{path}?db={database}"
    kind = connection.connection_pool.connection_class
    scheme = "rediss" if issubclass(kind, redis.SSLConnection) else "redis"
    host = str(settings.get("host", "localhost"))
    if ":" in host:
        host = f"[{host}]"
    return f"{scheme}://{host}:{settings.get('port', 6379)}/{database}"


def unreachable(connection: redis.Redis, error: redis.RedisError) -> RedisUnreachable:
    """Say which Redis did not do what was asked, why, and what to do."""
    name = describe(connection)
    if isinstance(error, redis.AuthenticationError):
        return RedisUnreachable(
            f"Redis at {name} refused user or password ({error}). Correct them in the Redis URL."
        )
    if isinstance(error, (redis.ConnectionError, redis.TimeoutError)):
        return RedisUnreachable(
            f"Redis at {name} does not answer ({error}). Start it, or correct the Redis URL."
        )
    return RedisUnreachable(f"Redis at {name} refused a command ({error}). Look into its log.")


def check(connection: redis.Redis) -> None:
    """Make sure that the server answers and is new enough.

    Raises:
        RedisUnreachable: it does not answer, or refuses.
        ConfigurationError: it is older than 6.2.
    """
    try:
        version = str(connection.info("server")["redis_version"])
    except redis.RedisError as error:
        raise unreachable(connection, error) from error
    found = tuple(int(part) for part in version.split(".")[:2])
    if found < OLDEST_SERVER:
        oldest = ".".join(map(str, OLDEST_SERVER))
        message = (
            f"Redis at {describe(connection)} is version {version}; flowroute needs {oldest} or "
            "newer. Upgrade the server."
        )
        raise ConfigurationError(message)
