"""Shards on nginx and on an S3 server, behind a network that breaks connections."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from services.faulty_proxy import faulty_proxy
from services.s3_server import CREDENTIALS, forget_credentials, serving_s3

from psla_wds.errors import ShardError, StaleIndexError
from psla_wds.reading.reader import Reader
from psla_wds.shards.index import ShardIndex
from psla_wds.shards.index_files import open_indexes, read_index

pytestmark = pytest.mark.slow

NGINX_CONF = """
daemon off; user root; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port}; root {root};
        location /secret/ {{ return 403; }}
        location /whole/ {{ max_ranges 0; alias {root}/shards/; }}
    }}
}}
"""


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("psla_wds.io.remote.RETRY_PAUSES_S", (0.01, 0.02, 0.05, 0.1, 0.1, 0.1))


@pytest.fixture
def nginx(shards: Path, tmp_path: Path) -> Iterator[int]:
    """The port of an nginx that serves /shards."""
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        pytest.skip("nginx is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = tmp_path / "nginx.conf"
    settings.write_text(NGINX_CONF.format(folder=tmp_path, port=port, root=shards.parent))
    process = subprocess.Popen([program, "-c", str(settings), "-p", str(tmp_path)])
    try:
        _await_port(port)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _await_port(port: int) -> None:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"nothing listens on port {port}")


@pytest.fixture
def s3(shards: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of an S3 server with the shards in s3://bucket/some/shards."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with serving_s3() as (port, store):
        store.put(str(shards), "bucket/some/shards", recursive=True)
        yield port


def all_clips(index: ShardIndex, passes: int = 1) -> list[bytes]:
    reader = Reader(index, threads=4)
    rows = np.tile(np.arange(len(index)), passes)
    try:
        return [clip.tobytes() for clip in reader.start(rows).wait()]
    finally:
        reader.close()


@pytest.mark.parametrize("server", ["nginx", "s3"])
def test_clips_through_faults_are_those_of_the_disk(
    shards: Path, server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    with faulty_proxy(request.getfixturevalue(server)) as proxy:
        there = f"http://127.0.0.1:{proxy.port}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", there)
        url = f"{there}/shards" if server == "nginx" else "s3://bucket/some/shards"
        index = open_indexes([f"{url}:train"])
        index.check_shards()
        assert all_clips(index, passes=5) == all_clips(open_indexes([f"{shards}:train"]), passes=5)
        assert proxy.faults > 5


@pytest.mark.parametrize(
    ("place", "error", "words"),
    [
        ("elsewhere", StaleIndexError, "no index here"),
        ("secret/shards", ShardError, "refuses access"),
        ("whole", ShardError, "sends whole files"),
    ],
)
def test_mistakes_with_nginx_are_reported(
    nginx: int, place: str, error: type[Exception], words: str
):
    with pytest.raises(error, match=words):
        read_index(f"http://127.0.0.1:{nginx}/{place}")


def test_mistakes_with_s3_are_reported(s3: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3}")
    index = read_index("s3://bucket/some/shards")
    for url in ("s3://bucket/elsewhere", "s3://nobucket/shards"):
        with pytest.raises(StaleIndexError, match="no such folder"):
            read_index(url)
    index.shards[1].fs.rm(index.shards[1].path)
    with pytest.raises(StaleIndexError, match="it is missing"):
        index.check_shards()
    with pytest.raises(ShardError, match="no such shard"):
        all_clips(index)
    forget_credentials(monkeypatch)
    with pytest.raises(ShardError, match="refuses access"):
        read_index("s3://bucket/some/shards")
