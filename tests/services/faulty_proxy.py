"""A proxy on loopback that breaks connections, by a seeded plan, between a client and a store."""

import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

ANSWER_503 = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass
class Proxy:
    """Each connection is answered 503, cut or reset after some bytes, or slowed down."""

    upstream_port: int
    port: int = 0
    plan: random.Random = field(default_factory=lambda: random.Random(0))
    faults: int = 0
    """Connections that ended in a fault so far."""


@contextmanager
def faulty_proxy(upstream_port: int) -> Iterator[Proxy]:
    """A proxy until the block ends."""
    proxy = Proxy(upstream_port)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy.port = listener.getsockname()[1]
        threading.Thread(target=_accept, args=(listener, proxy), daemon=True).start()
        yield proxy


def _accept(listener: socket.socket, proxy: Proxy) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        fault = proxy.plan.choice(["503", "cut", "reset", "slow", "cut", "reset"])
        after_bytes = proxy.plan.randrange(20_000, 200_000)
        arguments = (client, proxy, fault, after_bytes)
        threading.Thread(target=_serve, args=arguments, daemon=True).start()


def _serve(client: socket.socket, proxy: Proxy, fault: str, after_bytes: int) -> None:
    with client:
        if fault == "503":
            proxy.faults += 1
            client.recv(65536)
            client.sendall(ANSWER_503)
            return
        with socket.create_connection(("127.0.0.1", proxy.upstream_port)) as store:
            threading.Thread(target=_pump, args=(client, store), daemon=True).start()
            _answer(client, store, proxy, fault, after_bytes)


def _answer(
    client: socket.socket, store: socket.socket, proxy: Proxy, fault: str, after_bytes: int
) -> None:
    try:
        while after_bytes > 0 and (content := store.recv(min(after_bytes, 4096))):
            after_bytes -= len(content)
            client.sendall(content)
            if fault == "slow":
                time.sleep(0.002)
        if after_bytes <= 0:
            proxy.faults += 1
        if fault == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # A socket that another thread receives from is not closed before that thread wakes up.
        client.shutdown(socket.SHUT_RD if fault == "reset" else socket.SHUT_RDWR)
        store.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while content := source.recv(65536):
            target.sendall(content)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return
