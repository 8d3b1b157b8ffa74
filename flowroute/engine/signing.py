"""Secret keys: what proves that bytes and tokens which come back are our own."""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Sequence
from typing import Final

from flowroute.errors import ConfigurationError, SecretKeyMissing, TokenInvalid

MAC_SIZE: Final = 32
"""Bytes of an HMAC-SHA256."""

_TOKEN_TEXT = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@/-]*")


class Signatures:
    """HMAC-SHA256 with several keys, of which the newest signs and all verify.

    Each use has a key of its own, derived from these: what is signed for one is worth nothing for
    another.

    Parameters:
        keys: Secret keys, the newest first. A key that is taken out no longer verifies anything.

    Raises:
        SecretKeyMissing: No key, or an empty one.
        ConfigurationError: `keys` is a text and not a list of them.
    """

    def __init__(self, keys: Sequence[str | bytes]) -> None:
        if isinstance(keys, (str, bytes)):
            raise ConfigurationError(
                "The secret keys are a list, the newest first: write [key] where there is one."
            )
        if not keys or not all(keys):
            raise SecretKeyMissing(
                "Checkpoints are signed, and there is no secret key to sign them with: set "
                "FLOWROUTE_SECRET_KEYS, or SECRET_KEY of the Flask application, or give "
                "Engine(secret_keys=[...]) a long random text. "
                "python -c 'import secrets; print(secrets.token_hex(32))' makes one."
            )
        self._keys = [key.encode() if isinstance(key, str) else key for key in keys]
        # Prepared once: to copy such a state is cheaper than to make it from the key each time.
        self._states = [
            hmac.new(_derive(key, b"flowroute checkpoint"), digestmod="sha256")
            for key in self._keys
        ]
        self._for_tokens: dict[str, list[bytes]] = {}

    def mac(self, place: bytes, content: bytes) -> bytes:
        """The MAC of content at a place, by the newest key.

        Parameters:
            place: Where the content belongs. No place may be the beginning of another one.
            content: What is signed.
        """
        return _mac(self._states[0], place, content)

    def verify(self, mac: bytes, place: bytes, content: bytes) -> bool:
        """Whether one of the keys gives this MAC, compared in constant time."""
        return any(hmac.compare_digest(_mac(state, place, content), mac) for state in self._states)

    def sign(self, text: str, purpose: str) -> str:
        """Sign a short text that will come back from outside, in a URL or in a job.

        Whoever holds the token can read the text.

        Parameters:
            text: Letters, digits and what else a URL carries as it is, slashes included.
            purpose: What the token is for, such as ``"run url"``.

        Returns:
            The text, a dot and the signature.

        Raises:
            ValueError: `text` has a character that a URL would have to escape.
        """
        if _TOKEN_TEXT.fullmatch(text) is None:
            raise ValueError(
                f"A token can not hold {text!r}: only letters, digits and "
                "._~!$&'()*+,;=:@/- are allowed."
            )
        return f"{text}.{_token_mac(self._token_keys(purpose)[0], text)}"

    def unsign(self, token: object, purpose: str) -> str:
        """The text of a token.

        Parameters:
            token: What came from outside. Anything that is not a token is invalid.
            purpose: What the token must have been signed for.

        Raises:
            TokenInvalid: It was forged, altered, signed for another purpose, or signed with a key
                that is no longer configured.
        """
        if isinstance(token, str) and token.isascii():
            text, _, given = token.rpartition(".")
            for key in self._token_keys(purpose):
                # The texts, not the bytes: base64 can spell the same bytes in several ways.
                if hmac.compare_digest(_token_mac(key, text), given):
                    return text
        raise TokenInvalid(
            f"This is not a valid token for {purpose!r}: it was altered, made for something else, "
            "or signed with a secret key that is no longer configured."
        )

    def _token_keys(self, purpose: str) -> list[bytes]:
        """The keys that sign tokens for a purpose. There are few purposes, each named in code."""
        keys = self._for_tokens.get(purpose)
        if keys is None:
            use = b"flowroute token " + purpose.encode()
            keys = self._for_tokens[purpose] = [_derive(key, use) for key in self._keys]
        return keys


def _derive(key: bytes, use: bytes) -> bytes:
    return hmac.digest(key, use, "sha256")


def _mac(state: hmac.HMAC, place: bytes, content: bytes) -> bytes:
    mac = state.copy()
    mac.update(place)
    mac.update(content)
    return mac.digest()


def _token_mac(key: bytes, text: str) -> str:
    mac = hmac.digest(key, text.encode(), "sha256")
    return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()
