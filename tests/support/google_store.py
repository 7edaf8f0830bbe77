"""A server on loopback that speaks as Google Cloud Storage does, and buckets on it."""

import json
import logging
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import ThreadingHTTPServer
from itertools import count

import pytest

_NUMBERS = count(1)


@dataclass(frozen=True)
class GoogleStore:
    """A running server; every bucket is new and empty."""

    port: int

    def make_bucket(self) -> str:
        """The URI of a new bucket, whose options hold the address; nobody signs in."""
        name = f"bucket-{next(_NUMBERS)}"
        urllib.request.urlopen(
            urllib.request.Request(
                f"http://127.0.0.1:{self.port}/storage/v1/b?project=tests",
                data=json.dumps({"name": name}).encode(),
                headers={"content-type": "application/json"},
            )
        ).close()
        return f"gs://anonymous@{name}?scheme=http&endpoint_override=127.0.0.1:{self.port}"


@contextmanager
def serve() -> Iterator[GoogleStore]:
    """Run a server; the test is skipped where the emulator is not installed.

    The emulator's own server handles one connection after the other, and waits for ever for a
    client that keeps one open while it asks through another.
    """
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    logging.getLogger("gcp_storage_emulator").setLevel(logging.ERROR)
    handler = partial(emulator.RequestHandler, emulator.Storage(use_memory_fs=True))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield GoogleStore(server.server_address[1])
        finally:
            server.shutdown()
