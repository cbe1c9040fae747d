"""A page and answers on the loopback address, for whoever knows the token.

Python's own `http.server`: nothing to install, and a playground has one user. The
address is http://127.0.0.1:PORT/TOKEN/. All requests with another Host, another Origin
or without the token are refused: a page of another site, or another user of this
machine, learns nothing. No file is served.
"""

import errno
import json
import secrets
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from jaxlm.playground.answers import Answers
from jaxlm.types import UserError

_MOST = 1 << 20  # bytes of a request
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


class Server(ThreadingHTTPServer):
    """Serves one page and its answers."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: str, port: int, page: str, answers: Answers):
        self.page, self.answers = page.encode(), answers
        self.token = secrets.token_urlsafe(16)
        try:
            super().__init__((address, port), _Handler)
        except OSError as error:
            remedy = "--port 0 takes one that is free"
            if error.errno == errno.EADDRINUSE:
                raise UserError(f"port {port} is in use: {remedy}") from None
            why = error.strerror or error
            raise UserError(f"cannot listen on {address}:{port}: {why}") from None
        port = self.server_address[1]
        names = {address, "127.0.0.1", "localhost"}
        if ":" in address:
            names = {f"[{address}]", "localhost"}
        self.hosts = {f"{name}:{port}" for name in names}
        # Of all addresses of a machine, the names are not known; the token is.
        self.any_host = address in ("0.0.0.0", "::")
        name = f"[{address}]" if ":" in address else address
        self.url = f"http://{name}:{port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Server  # type: ignore[assignment]
    server_version, sys_version = "jaxlm", ""

    def do_GET(self) -> None:
        """The page."""
        if self._what() != "":
            return self._refuse()
        self._begin(HTTPStatus.OK, "text/html; charset=utf-8")
        self.wfile.write(self.server.page)

    def do_POST(self) -> None:
        """An answer, a record of JSON a line."""
        what = self._what()
        size = self.headers.get("Content-Length", "")
        if what not in self.server.answers.kinds or not size.isdecimal():
            return self._refuse()
        if int(size) > _MOST:
            return self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        try:
            asked = json.loads(self.rfile.read(int(size)))
        except ValueError:
            asked = None
        if not isinstance(asked, dict):
            return self._refuse(HTTPStatus.BAD_REQUEST)
        self._begin(HTTPStatus.OK, "application/x-ndjson; charset=utf-8")
        for record in self.server.answers.answer(what, asked):
            self.wfile.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            self.wfile.flush()

    def _what(self) -> str | None:
        """What is behind the token in the address; None if it is refused."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        ours = self.server.any_host or host in self.server.hosts
        ours &= origin in (None, f"http://{host}")
        _, _, rest = self.path.partition("/")
        token, slash, what = rest.partition("/")
        known = secrets.compare_digest(token.encode(), self.server.token.encode())
        return what if ours and known and slash else None

    def _refuse(self, status: HTTPStatus = HTTPStatus.FORBIDDEN) -> None:
        self._begin(status, "text/plain; charset=utf-8")
        self.wfile.write(f"{status.phrase}\n".encode())

    def _begin(self, status: HTTPStatus, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """The terminal is for the address alone."""


def warm(answers: Answers, examples: Any) -> threading.Thread:
    """Compile what the first tab needs while the user opens the page."""
    kind = next(iter(answers.kinds))

    def run() -> None:
        for _ in answers.answer(kind, examples[kind][0]):
            pass

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
