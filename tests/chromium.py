"""Chromium for tests, and what went wrong in its pages."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.services import ServiceMissingError

if TYPE_CHECKING:
    from playwright.sync_api import (
        Browser,
        BrowserContext,
        ConsoleMessage,
        Playwright,
        Request,
        WebError,
    )

#: Chromium's own calls home would only fail on a machine without a network, many at a time.
QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)
#: A page that asks any other host for anything fails, as it would for a user who is offline.
LOOPBACK_ONLY = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"


def launch_chromium(playwright: Playwright) -> Browser:
    """Start the system's Chromium, or the one that Playwright has downloaded.

    Raises:
        ServiceMissingError: there is neither.
    """
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    program = found or playwright.chromium.executable_path
    if not Path(program).is_file():
        message = "no Chromium: install your system's (Debian: chromium)"
        raise ServiceMissingError(message)
    root = ("--no-sandbox",) if os.geteuid() == 0 else ()  # Chromium's sandbox refuses root
    return playwright.chromium.launch(executable_path=program, args=[*QUIET, LOOPBACK_ONLY, *root])


@dataclass
class Problems:
    """What a browser reported: console errors, uncaught exceptions, requests that failed.

    The `page` fixture fails its test if any is left at the end, so that no test has to look.
    """

    found: list[str] = field(default_factory=list)
    _allowed: list[re.Pattern[str]] = field(default_factory=list)

    def watch(self, context: BrowserContext) -> None:
        """Record what goes wrong in every page of a context, from now on."""
        context.on("console", self._console)
        context.on("weberror", self._uncaught)
        context.on("requestfailed", self._request_failed)

    def allow(self, pattern: str) -> None:
        """Do not count problems that match a regular expression: this test provokes them."""
        self._allowed.append(re.compile(pattern))

    def unexpected(self) -> list[str]:
        """Return the problems that no `allow` covers."""
        return [text for text in self.found if not any(p.search(text) for p in self._allowed)]

    def _add(self, text: str) -> None:
        self.found.append(text)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._add(f"console: {message.text} ({message.location['url']})")

    def _uncaught(self, error: WebError) -> None:
        name = getattr(error.error, "name", "")  # a page may throw anything, also a number
        self._add(f"uncaught: {name}: {error.error}")

    def _request_failed(self, request: Request) -> None:
        # A page that is left takes its open requests with it: the browser's doing, no fault.
        if request.failure != "net::ERR_ABORTED":
            self._add(f"failed: {request.method} {request.url}: {request.failure}")
