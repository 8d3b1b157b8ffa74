"""A site of the tests, served on loopback."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from werkzeug.serving import WSGIRequestHandler, make_server

if TYPE_CHECKING:
    from tests.flask.support import Site


class Quiet(WSGIRequestHandler):
    """Logs nothing."""

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002  # its name there
        """Keep quiet."""


class Live:
    """A site that is served on loopback, with worker threads and sockets."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._server = make_server("127.0.0.1", 0, site.app, threaded=True, request_handler=Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.url = f"http://127.0.0.1:{self._server.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
