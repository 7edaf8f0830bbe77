"""A server on loopback that speaks as Google Cloud Storage does, and buckets on it."""

import json
import logging
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
    """Run a server; the test is skipped where the emulator is not installed."""
    server = pytest.importorskip("gcp_storage_emulator.server")
    logging.getLogger("gcp_storage_emulator").setLevel(logging.ERROR)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with server.create_server("127.0.0.1", port, in_memory=True):
        yield GoogleStore(port)
