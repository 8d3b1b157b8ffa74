"""The settings of one application: ``FLOWROUTE_*`` in its config, validated."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

from pydantic import TypeAdapter, ValidationError

from flowroute.errors import ConfigurationError, SecretKeyMissing, UnknownSetting

PREFIX = "FLOWROUTE_"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What ``app.config`` says about flowroute; each field is the key ``FLOWROUTE_<NAME>``."""

    redis_url: str | None = None
    """Redis for worker steps, such as ``redis://localhost:6379/0``. None: threads of this process run them."""
    queue: str = "flowroute"
    """The RQ queue of worker steps; a worker serves exactly one."""
    threads: int = 4
    """How many worker steps run at the same time in this process, where there is no Redis."""
    secret_keys: list[str] | None = None
    """Keys that checkpoints and links are signed with, newest first. None: ``SECRET_KEY`` and its fallbacks."""
    lease_seconds: float = 30.0
    """How long a run belongs to a process that gives no sign of life, in seconds."""
    url_prefix: str = "/flow"
    """Where the pages of runs are, below the application's root."""
    poll_seconds: float = 2.0
    """How often a waiting page asks while no socket is connected, in seconds."""
    retention: timedelta | None = None
    """How long finished runs are kept, a `timedelta` or seconds. None: for ever."""
    max_checkpoint_bytes: int = 2_000_000
    """Largest checkpoint that is stored, in bytes."""
    show_errors: bool = False
    """Whether a failed run's page tells visitors what its step raised."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Settings:
        """Read and check the settings of an application.

        Parameters:
            config: ``app.config``.

        Raises:
            UnknownSetting: A ``FLOWROUTE_`` key that means nothing; the message suggests the nearest.
            ConfigurationError: A value of the wrong type.
            SecretKeyMissing: There is nothing to sign with.
        """
        known = {PREFIX + each.name.upper(): each.name for each in fields(cls)}
        given = {key: value for key, value in config.items() if key.startswith(PREFIX)}
        for key in given:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                advice = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(known)}."
                raise UnknownSetting(f"There is no setting {key}: {advice}")
        try:
            settings = _adapter.validate_python({known[k]: v for k, v in given.items()})
        except ValidationError as error:
            first = error.errors()[0]
            key = PREFIX + str(first["loc"][0]).upper()
            raise ConfigurationError(f"{key} is {given[key]!r}: {first['msg']}.") from error
        if settings.secret_keys or config.get("SECRET_KEY"):
            return settings
        raise SecretKeyMissing(
            "flowroute signs checkpoints and links, and has no key: set app.config['SECRET_KEY'] (python -c 'import "
            "secrets; print(secrets.token_hex())' prints a good one), or FLOWROUTE_SECRET_KEYS, before init_app()."
        )

    def keys(self, config: Mapping[str, Any]) -> list[str | bytes]:
        """The signing keys, newest first."""
        if self.secret_keys:
            return list(self.secret_keys)
        return [config["SECRET_KEY"], *(config.get("SECRET_KEY_FALLBACKS") or ())]


_adapter = TypeAdapter(Settings)
