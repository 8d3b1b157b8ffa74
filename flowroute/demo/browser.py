"""The little of a browser that the check needs: forms, cookies, one Socket.IO subscription."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from html import unescape
from http import HTTPStatus
from http.client import HTTPMessage
from http.cookiejar import CookieJar
from typing import Any
from urllib.parse import urlencode, urljoin

from simple_websocket import Client

NAMESPACE = "/flowroute"

_PACKET = re.compile(r"(?P<kind>4[0-4])(?:/flowroute,)?\d*(?P<data>.*)", re.DOTALL)
"""A Socket.IO packet in an Engine.IO message: its kind, namespace, id and data."""


@dataclass(frozen=True)
class Page:
    """An answer."""

    url: str
    status: int
    headers: HTTPMessage
    text: str

    def value(self, name: str) -> str:
        """The value of an attribute or of a named field, as the browser would read it."""
        field = re.search(rf'name="{re.escape(name)}" value="([^"]*)"', self.text)
        found = field or re.search(rf'{re.escape(name)}="([^"]*)"', self.text)
        return "" if found is None else unescape(found[1])


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow nothing: the check looks at each redirect."""


class Visitor:
    """Somebody with a cookie jar.

    Parameters:
        root: The shop's address.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._cookies = CookieJar()
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPCookieProcessor(self._cookies),
            _Stay(),
            urllib.request.ProxyHandler({}),
        )

    def get(self, path: str, *, accept: str = "text/html") -> Page:
        """Look at a page."""
        return self._open(
            urllib.request.Request(urljoin(self._root, path), headers={"Accept": accept})
        )

    def post(self, path: str, fields: dict[str, str]) -> Page:
        """Send a form."""
        url = urljoin(self._root, path)
        return self._open(
            urllib.request.Request(url, urlencode(fields).encode(), {"Accept": "text/html"})
        )

    def get_at_rest(self, path: str, *, timeout_seconds: float) -> Page:
        """Look until the page is no waiting page any more, at most so long."""
        end = time.monotonic() + timeout_seconds
        while (page := self.get(path)).status == HTTPStatus.ACCEPTED and time.monotonic() < end:
            time.sleep(0.1)
        return page

    def subscribe(self, page: Page) -> Subscription:
        """Do what the waiting page's script does: open a websocket and subscribe to the run."""
        host = self._root.removeprefix("http")
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in self._cookies)
        address = f"ws{host}{page.value('data-socket-path')}/?EIO=4&transport=websocket"
        return Subscription(address, cookies, page.value("data-token"))

    def _open(self, request: urllib.request.Request) -> Page:
        answer: Any  # what urllib calls it depends on the URL
        try:
            answer = self._opener.open(request, timeout=30)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            return Page(
                request.full_url,
                answer.status,
                answer.headers,
                answer.read().decode("utf-8", "replace"),
            )


class Subscription:
    """A websocket that is subscribed to one run.

    Speaks Socket.IO 5 over Engine.IO 4 by itself (https://socket.io/docs/v4/socket-io-protocol/):
    what the server says is then judged by somebody else than the library it says it with.
    """

    def __init__(self, address: str, cookies: str, token: str) -> None:
        self._socket = Client(address, headers=[(b"Cookie", cookies.encode())])
        # Engine.IO's open packet is not waited for: what arrives together with the handshake, this
        # client hands out only once more has arrived.
        self._socket.send(f"40{NAMESPACE},")
        self._next("40", timeout_seconds=10)
        question = json.dumps(["subscribe", {"token": token}])
        self._socket.send(f"42{NAMESPACE},1{question}")
        answer = self._next("43", timeout_seconds=10)
        self.state: dict[str, Any] = {} if answer is None else answer[0]
        """What the server answered: the run's state at that moment."""

    def until_at_rest(self, *, timeout_seconds: float) -> list[dict[str, Any]]:
        """Every event up to the one that tells to leave; without it, those that came in time."""
        heard: list[dict[str, Any]] = []
        end = time.monotonic() + timeout_seconds
        while time.monotonic() < end and not (heard and heard[-1].get("at_rest")):
            event = self._next("42", timeout_seconds=end - time.monotonic())
            if event is not None and event[0] == "moved":
                heard.append(event[1])
        return heard

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _next(self, kind: str, *, timeout_seconds: float) -> Any:
        """The data of the next packet of a kind, others passed over; None when the time is over.

        Parameters:
            kind: "40" connected, "42" an event, "43" an answer.
            timeout_seconds: How long to wait for each packet.
        """
        while (text := self._receive(timeout_seconds)) is not None:
            if text == "2":  # a ping
                self._socket.send("3")
            elif (packet := _PACKET.fullmatch(text)) is not None and packet["kind"] == kind:
                return json.loads(packet["data"] or "null")
        return None

    def _receive(self, timeout_seconds: float) -> str | None:
        message = self._socket.receive(timeout=timeout_seconds)
        return message if isinstance(message, str) else None
