"""A file server on 127.0.0.1 that breaks off, changes its files, ignores ranges or refuses, as a test asks it to."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BLOCK = 1 << 14


class Server(ThreadingHTTPServer):
    """Serves `files` (path -> content) and writes down what was asked and sent.

    Attributes:
        etags: path -> ETag. `ranges`: whether `Range` is known. `if_range`: whether `If-Range` is.
        breaks: answers that still break off in their middle. `statuses`: path -> status to answer instead.
        stall_at: bytes after which an answer waits for `go`. `delay`: seconds between two blocks.
        requests: (path, `Range`) of each. `sent`: bytes of all bodies. `most`: largest number of answers at a time.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.etags, self.statuses = {}, {}, {}
        self.ranges, self.if_range, self.content_range, self.breaks = True, True, True, 0
        self.stall_at, self.go, self.delay, self.encoding = None, threading.Event(), 0.0, None
        self.requests, self.sent, self.now, self.most = [], 0, 0, 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_args) -> None:
        pass  # a client that was killed


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        with server.lock:
            server.requests.append((self.path, self.headers.get("Range")))
        self._answer(server, self.path.lstrip("/"))

    def _answer(self, server, path):
        body = server.files.get(path)
        if path in server.statuses or body is None:
            self.send_error(server.statuses.get(path, 404))
            return
        etag, start = server.etags.get(path), self._start(server, path)
        if start > len(body) or (start and start == len(body)):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start and server.content_range:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if etag:
            self.send_header("ETag", etag)
        if server.encoding:
            self.send_header("Content-Encoding", server.encoding)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end = len(body)
        if server.breaks:
            server.breaks -= 1
            end = start + (len(body) - start) // 2
        self._count(1)
        while start < end:
            time.sleep(server.delay)
            if server.stall_at is not None and start >= server.stall_at:
                server.go.wait(60)
            block = body[start : min(start + BLOCK, end)]
            if start + len(block) == end:
                self._count(-1)  # before the client can ask for the next
            self.wfile.write(block)
            with server.lock:
                server.sent += len(block)
            start += len(block)

    def _count(self, by: int) -> None:
        with self.server.lock:
            self.server.now += by
            self.server.most = max(self.server.most, self.server.now)

    def _start(self, server, path) -> int:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        condition = self.headers.get("If-Range")
        if asked is None or not server.ranges:
            return 0
        if server.if_range and condition is not None and condition != server.etags.get(path):
            return 0
        return int(asked[1])

    def log_message(self, *_args):
        pass


@contextmanager
def serving() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        made.go.set()
        made.shutdown()
        made.server_close()
        thread.join()
