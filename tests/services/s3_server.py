"""An S3 server on loopback, by moto."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@contextmanager
def serving_s3() -> Iterator[tuple[int, Any]]:
    """The server's port, and its file system, with an empty bucket `bucket`, until the block ends.

    The environment must hold CREDENTIALS.
    """
    server_module = pytest.importorskip("moto.server", reason="moto is not installed")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = server_module.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    store = s3fs.S3FileSystem(
        endpoint_url=f"http://127.0.0.1:{port}", skip_instance_cache=True, use_listings_cache=False
    )
    if store.exists("bucket"):  # moto keeps it from one server to the next
        store.rm("bucket", recursive=True)
    store.mkdir("bucket")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        yield port, store
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()


def forget_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """For this process and those that it starts from now on."""
    import s3fs

    for name in CREDENTIALS.keys() - {"AWS_DEFAULT_REGION"}:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    s3fs.S3FileSystem.clear_instance_cache()
