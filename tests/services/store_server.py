"""A web server for shards, on loopback, with the faults of real ones."""

import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Fault = str
"""503, 429, 403 or 404; reset, truncated, slow, whole, silent: see `_Handler`."""


@dataclass
class Store:
    """What the server answers, and what it was asked."""

    folder: Path
    port: int = 0
    latency_s: float = 0.0
    fault: Callable[[str, int], Fault | None] = lambda _path, _number: None
    """The fault of request `number` (0, 1, ...) for the same bytes of a path."""
    requests: Counter[str] = field(default_factory=Counter)
    tries: Counter[tuple[str, str]] = field(default_factory=Counter)
    sent_bytes: int = 0
    end: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, folder: str = "shards") -> str:
        return f"http://127.0.0.1:{self.port}/{folder}"


@contextmanager
def serving(folder: Path) -> Iterator[Store]:
    """Serves a folder until the block ends."""
    store = Store(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"store": store}))
    server.daemon_threads = True
    store.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield store
    finally:
        store.end.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or answers of two parts take 40 ms
    store: Store

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        store = self.store
        with store.lock:
            asked = self.path, self.headers.get("Range", "")
            number = store.tries[asked]
            store.tries[asked] += 1
            store.requests[self.path] += 1
        time.sleep(store.latency_s)
        fault = store.fault(self.path, number) or ""
        path = store.folder / self.path.lstrip("/").partition("/")[2]
        if fault.isdigit():
            self._refuse(int(fault))
        elif fault == "reset":
            linger = struct.pack("ii", 1, 0)  # closing sends RST
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
        elif fault == "silent":
            store.end.wait(60)
            self.close_connection = True
        elif not path.is_file():
            self._refuse(404)
        else:
            self._send(path, fault)

    def _refuse(self, status: int, content_range: str | None = None) -> None:
        self.send_response(status)
        if content_range:
            self.send_header("Content-Range", content_range)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, path: Path, fault: Fault) -> None:
        content = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked and fault != "whole":
            start, stop = int(asked[1]), min(int(asked[2]) + 1, len(content))
            if start >= len(content):
                self._refuse(416, f"bytes */{len(content)}")
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
            content = content[start:stop]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault == "truncated":
            content = content[: len(content) // 2]
            self.close_connection = True
        if fault == "slow":
            for i in range(0, len(content), 2000):
                self._write(content[i : i + 2000])
                time.sleep(0.005)
        else:
            self._write(content)

    def _write(self, content: bytes) -> None:
        try:
            for i in range(0, len(content), 65536):
                # Counted first: a reader that has its bytes may look at the count at once.
                with self.store.lock:
                    self.store.sent_bytes += len(content[i : i + 65536])
                self.wfile.write(content[i : i + 65536])
        except OSError:
            self.close_connection = True
