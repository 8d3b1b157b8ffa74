"""The fixtures of the browser tests: a site, and as many more as a test wants."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from playwright.sync_api import expect

from tests.browser.fake_site import FakeSite
from tests.waiting import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

expect.set_options(timeout=15_000)  # milliseconds: a busy machine is slow, that is no fault


class OpenSite(Protocol):
    def __call__(self, **settings: Any) -> FakeSite:
        """Serve a site with these settings until the test ends."""
        ...


@pytest.fixture
def open_site() -> Iterator[OpenSite]:
    """Call it to serve a site; each ends with the test."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(FakeSite(free_port(), **settings))


@pytest.fixture
def site(open_site: OpenSite) -> FakeSite:
    """A site with sockets."""
    return open_site()


@pytest.fixture
def page(open_site: OpenSite, page: Page) -> Page:  # noqa: ARG001  # to be closed after the page
    """The page of every test, closed before the sites: what it still asks for is answered."""
    return page
