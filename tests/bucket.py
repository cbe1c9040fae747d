"""A fake `gs://`: gcp-storage-emulator in this process, for tests marked `bucket`.

bucket   the path of an empty folder, `gs://bkt/…`; commands of a test reach it, too
flaky    the faults of the server during a test, as a `Faults` to set
"""

import functools
import io
import json
import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import uuid4

import pytest


@dataclass
class Faults:
    """What goes wrong with requests; as made, nothing does."""

    every: int = 0  # each n-th request is answered by 429 or 503
    cut: str = ""  # half of an upload to a name that this pattern finds is lost
    denied: str = ""  # all requests are refused with this message
    times: int = 0  # how often the server ends the connection of such an upload
    unheard: str = ""  # one answer to an upload to a name that this finds is lost
    seen: list[int | str] = field(default_factory=list)  # statuses, names cut
    count: int = 0

    def status(self) -> int:
        """The status of a request that fails, or 0."""
        self.count += 1
        if not self.every or self.count % self.every:
            return 0
        self.seen.append((429, 503)[self.count // self.every % 2])
        return self.seen[-1]

    def cuts(self, name: str) -> bool:
        """Whether an upload is lost."""
        if not (self.times and self.cut and re.search(self.cut, name)):
            return False
        self.times -= 1
        self.seen.append(name)
        return True


FAULTS = Faults()


def _handler(storage):
    """A handler of requests with the preconditions that the emulator ignores."""
    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.server import RequestHandler

    lock = threading.RLock()

    class Handler(RequestHandler):
        def __init__(self, *args):
            super().__init__(storage, *args)

        def address_string(self):
            return self.client_address[0]  # no look-up of a name

        def _facts(self):
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            found = re.search(r"/b/([^/]+)/o(?:/(.*))?$", url.path)
            bucket, name = found.groups() if found else ("", "")
            name = unquote(name or query.get("name", [""])[0])
            return bucket, name, query.get("ifGenerationMatch", [None])[0]

        def _answer(self, status: int, message: str = "a fault of the test"):
            """An answer without the emulator."""
            if size := int(self.headers.get("Content-Length") or 0):
                self.rfile.read(size)
            error = {"error": {"code": status, "message": message}}
            body = json.dumps(error).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _generation(self, bucket: str, name: str) -> str:
            with suppress(NotFound):
                return str(storage.get_file_obj(bucket, name)["generation"])
            return "0"

        def end_headers(self):
            bucket, name, _ = self._facts()
            if self.command == "GET" and name:
                generation = self._generation(bucket, name)
                self.send_header("x-goog-generation", generation)
            super().end_headers()

        def _do(self, method):
            with lock:
                bucket, name, wanted = self._facts()
                if FAULTS.denied:
                    return self._answer(401, FAULTS.denied)
                if status := FAULTS.status():
                    return self._answer(status)
                if method in ("POST", "PUT") and "/upload/" in self.path:
                    size = int(self.headers.get("Content-Length") or 0)
                    body = self.rfile.peek(4096) if size else b""
                    named = name or str(re.findall(rb'"name": ?"([^"]+)"', body))
                    if FAULTS.cuts(named):
                        self.rfile.read(size // 2)
                        self.close_connection = True
                        return self.connection.close()
                if wanted is not None and wanted != self._generation(bucket, name):
                    return self._answer(412)
                if self.headers.get("Content-Range") == "bytes */0":
                    # An empty object; the emulator takes it for a question.
                    del self.headers["Content-Range"]
                lost = FAULTS.unheard and re.search(FAULTS.unheard, name)
                if lost and method == "POST":
                    FAULTS.unheard, self.wfile = "", io.BytesIO()
                    self.close_connection = True
                with suppress(BrokenPipeError, ConnectionResetError):
                    getattr(RequestHandler, f"do_{method}")(self)

        def do_GET(self):  # noqa: N802
            self._do("GET")

        def do_POST(self):  # noqa: N802
            self._do("POST")

        def do_PUT(self):  # noqa: N802
            self._do("PUT")

        def do_DELETE(self):  # noqa: N802
            self._do("DELETE")

    return Handler


def _whole(read, handler, *args):
    """A request's data; to the emulator a final "\\r" is part of a line end."""
    kind, name = handler.headers.get("Content-Type", ""), "multipart/related"
    if not kind.startswith(name):
        return read(handler, *args)
    body = handler.rfile.read(int(handler.headers["Content-Length"]))
    mark = b"--" + re.findall(r"boundary=[\"']?([^\"';]+)", kind)[0].encode()
    meta, file = (part.partition(b"\n\n") for part in body.split(mark)[1:3])
    found = re.findall(rb"(?i)content-type: *([^\n;]+)", file[0])
    return {
        "meta": json.loads(meta[2]),
        "content": file[2].removesuffix(b"\n"),
        "content-type": found[0].decode() if found else "",
    }


class _Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that was killed is no error."""


@contextmanager
def serving() -> Iterator[str]:
    """The address of the server; the environment of this process names it."""
    from gcp_storage_emulator import server as emulator
    from gcp_storage_emulator.handlers import buckets
    from gcp_storage_emulator.storage import Storage

    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    emulator._read_data = functools.partial(_whole, emulator._read_data)
    storage = Storage(use_memory_fs=True)
    # Else each request writes the facts of all objects, though none is read again.
    storage._write_config_to_file = lambda: None
    buckets.create_bucket("bkt", storage)
    server = _Server(("127.0.0.1", 0), _handler(storage))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    settings = {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    yield address
    for name, value in before.items():
        os.environ.pop(name)
        if value is not None:
            os.environ[name] = value
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def bucket_server() -> Iterator[str]:
    """The server, see `serving`."""
    with serving() as address:
        yield address


@pytest.fixture
def bucket(bucket_server) -> str:
    """The path of an empty folder."""
    return f"gs://bkt/{uuid4().hex[:8]}"


@pytest.fixture
def flaky(bucket) -> Iterator[Faults]:
    """The faults of the server while the test runs."""
    FAULTS.__init__()
    yield FAULTS
    FAULTS.__init__()
