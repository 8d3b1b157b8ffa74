"""The settings of one application: ``FLOWROUTE_*`` in its config, validated."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Annotated, Any, Literal, TypeAlias, cast

from flask import Flask
from flask.sessions import SecureCookieSessionInterface
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from flowroute.errors import ConfigurationError, SecretKeyMissing, UnknownSetting

PREFIX = "FLOWROUTE_"

_SECRET = frozenset({"FLOWROUTE_SECRET_KEYS", "FLOWROUTE_REDIS_URL"})
"""Keys whose values are no business of a log; the URL of Redis may hold a password."""

_MAKE_A_KEY = "(python -c 'import secrets; print(secrets.token_hex())' prints a good one)"


def _none_if_empty(value: object) -> object:
    return None if value == "" else value  # an environment variable that is set to nothing


_Seconds: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Duration: TypeAlias = Annotated[timedelta, Field(gt=timedelta(0))]
_OrNone = BeforeValidator(_none_if_empty)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What ``app.config`` says about flowroute; each field is the key ``FLOWROUTE_<NAME>``."""

    redis_url: Annotated[str | None, _OrNone] = None
    """Redis for worker steps, such as ``redis://localhost:6379/0``. None: there is none."""
    executor: Annotated[Literal["rq", "thread", "inline"] | None, _OrNone] = None
    """Where worker steps run; None: on RQ if there is a Redis, else in threads of this process.
    ``inline``: at once, inside the request; for tests."""
    queue: Annotated[str, Field(min_length=1)] = "flowroute"
    """The RQ queue of worker steps; a worker serves exactly one."""
    threads: Annotated[int, Field(gt=0)] = 4
    """How many worker steps run at the same time in this process, where threads run them."""
    secret_keys: list[Annotated[str | bytes, Field(min_length=1)]] | None = None
    """Keys that checkpoints and links are signed with, newest first. None: ``SECRET_KEY`` and its
    fallbacks."""
    lease_seconds: _Seconds = 30.0
    """How long a run belongs to a process that gives no sign of life, in seconds."""
    url_prefix: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._~-]+)+$")] = "/flow"
    """Where the pages of runs are, below the application's root."""
    template: Annotated[str | None, _OrNone] = None
    """The waiting page of every run that chose none. None: flowroute's own."""
    loading_img: Annotated[str | None, _OrNone] = None
    """The picture on it: see `flowroute.flask.loading`. None: a spinner."""
    poll_seconds: _Seconds = 2.0
    """How often a waiting page asks while no socket is connected, in seconds."""
    retention: Annotated[_Duration | None, _OrNone] = None
    """How long finished runs are kept, a `timedelta` or seconds. None: for ever."""
    max_checkpoint_bytes: Annotated[int, Field(gt=0)] = 2_000_000
    """Largest checkpoint that is stored, in bytes."""
    show_errors: bool = False
    """Whether a failed run's page tells visitors what its step raised."""

    @classmethod
    def of(cls, app: Flask) -> Settings:
        """Read and check the settings of an application.

        Parameters:
            app: The application.

        Raises:
            UnknownSetting: A ``FLOWROUTE_`` key means nothing; the message suggests the nearest.
            ConfigurationError: A value is of the wrong type, or makes no sense.
            SecretKeyMissing: There is nothing to sign with.
        """
        settings = _validated(app.config)
        if settings.executor == "rq" and settings.redis_url is None:
            raise ConfigurationError(
                "FLOWROUTE_EXECUTOR is 'rq', and FLOWROUTE_REDIS_URL is not set: RQ needs a Redis, "
                "such as redis://localhost:6379/0."
            )
        config = cast("Mapping[str, Any]", app.config)
        if config.get("SECRET_KEY"):
            return settings
        if not settings.secret_keys:
            raise SecretKeyMissing(
                "flowroute signs checkpoints and links, and has no key: set "
                f"app.config['SECRET_KEY'] {_MAKE_A_KEY}, or FLOWROUTE_SECRET_KEYS, before "
                "init_app()."
            )
        if isinstance(app.session_interface, SecureCookieSessionInterface):
            raise SecretKeyMissing(
                "The address of a run is good for one visitor, whom Flask knows by a session "
                "cookie, and there is no key to sign that with: set app.config['SECRET_KEY'] "
                f"{_MAKE_A_KEY} beside FLOWROUTE_SECRET_KEYS, before init_app()."
            )
        return settings

    def keys(self, app: Flask) -> list[str | bytes]:
        """The signing keys, newest first."""
        if self.secret_keys:
            return list(self.secret_keys)
        config = cast("Mapping[str, Any]", app.config)
        return [config["SECRET_KEY"], *(config.get("SECRET_KEY_FALLBACKS") or ())]


def _validated(config: Mapping[str, Any]) -> Settings:
    known = {PREFIX + each.name.upper(): each.name for each in fields(Settings)}
    given = {key: value for key, value in config.items() if key.startswith(PREFIX)}
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key.removeprefix(PREFIX).lower(), known.values(), n=1)
            advice = (
                f"did you mean {PREFIX}{near[0].upper()}?"
                if near
                else f"the keys are {', '.join(known)}."
            )
            raise UnknownSetting(f"There is no setting {key}: {advice}")
    try:
        return _adapter.validate_python({known[key]: value for key, value in given.items()})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = PREFIX + str(first["loc"][0]).upper()
        value = "not what it should be" if key in _SECRET else repr(given[key])
        # The cause would show the value as well.
        raise ConfigurationError(f"{key} is {value}: {first['msg']}.") from None


_adapter = TypeAdapter(Settings)
