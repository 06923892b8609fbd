"""A Hugging Face Hub on this machine: as much of it as an upload meets."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OID = "0" * 40
"""Of every commit."""


class Hub(BaseHTTPRequestHandler):
    """Takes every file in the commit itself, and keeps it; refuses who has no good token."""

    server: "HubServer"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(self.path)
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self._answer({"error": "Invalid credentials"}, status=401)
        if self.path == "/api/repos/create":
            request = json.loads(body)
            name = f"{request.get('organization')}/{request['name']}"
            answer = {"url": f"{self.server.url}/{name}", "id": name, "name": name}
            if self.server.created:
                return self._answer(answer | {"error": "You already created it"}, status=409)
            self.server.created, self.server.visibility = True, request.get("visibility")
            return self._answer(answer)
        if self.path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]
            ]
            return self._answer({"files": [f | {"shouldIgnore": False} for f in files]})
        if "/commit/" in self.path:
            for line in body.splitlines():
                record = json.loads(line)
                if record["key"] == "file":
                    content = base64.b64decode(record["value"]["content"])
                    self.server.files[record["value"]["path"]] = content
            return self._answer(
                {"commitUrl": f"{self.server.url}/owner/tags/commit/{OID}", "commitOid": OID}
            )
        return self._answer({"error": "not found"}, status=404)

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self._answer({"error": "not found"}, status=404)

    def _answer(self, content: dict[str, Any], *, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing to the screen."""


class HubServer(ThreadingHTTPServer):
    def __init__(self, token: str) -> None:
        super().__init__(("127.0.0.1", 0), Hub)
        self.token = token
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.created = False
        self.visibility: str | None = None
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def hub_server(token: str) -> Iterator[HubServer]:
    server = HubServer(token)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
