"""A Hugging Face Hub on this machine: as much of it as an upload needs."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "good"


class Hub(BaseHTTPRequestHandler):
    """Keeps the files of each commit; answers 401 to other tokens than `TOKEN`."""

    server: "HubServer"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer({"error": "Invalid credentials"}, status=401)
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            regular, files = (
                {"uploadMode": "regular", "shouldIgnore": False},
                json.loads(body)["files"],
            )
            self._answer({"files": [{"path": file["path"]} | regular for file in files]})
        elif "/commit/" in self.path:
            self._commit([json.loads(line) for line in body.splitlines()])
        else:
            self._answer({"error": "not found"}, status=404)

    def do_GET(self) -> None:
        self._answer({"error": "not found"}, status=404)

    def _create(self, request: dict) -> None:
        name = f"{request.get('organization')}/{request['name']}"
        answer = {"url": f"{self.server.url}/{name}", "id": name, "name": name}
        if self.server.visibility:
            self._answer(answer | {"error": "You already created it"}, status=409)
        else:
            self.server.visibility.append(request.get("visibility"))
            self._answer(answer)

    def _commit(self, records: list[dict]) -> None:
        files = [record["value"] for record in records if record["key"] == "file"]
        self.server.commits.append({f["path"]: base64.b64decode(f["content"]) for f in files})
        oid = "0" * 40
        self._answer({"commitUrl": f"{self.server.url}/a/b/commit/{oid}", "commitOid": oid})

    def _answer(self, content: dict, *, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class HubServer(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hub)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.commits: list[dict[str, bytes]] = []
        self.visibility: list[str | None] = []
        """What the creation of the repository asked for; empty before."""


@contextmanager
def hub_server() -> Iterator[HubServer]:
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
