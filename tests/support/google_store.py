"""A server on loopback that speaks as Google Cloud Storage does, and buckets on it."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import ThreadingHTTPServer
from itertools import count

import pytest

from tests.support.pages import ROOT

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

    It is a process of its own, as pyarrow asks Google's stores for sizes while it holds Python's
    global lock.
    """
    pytest.importorskip("gcp_storage_emulator")
    command = [sys.executable, "-m", "tests.support.google_store"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield GoogleStore(int(server.stdout.readline()))
        finally:
            server.kill()


def main() -> None:
    """Serve until killed; the port is printed.

    The emulator's own server handles one connection after the other, and waits for ever for a
    client that keeps one open while it asks through another.
    """
    from gcp_storage_emulator import server

    class Quiet(server.RequestHandler):  # type: ignore[misc]
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    handler = partial(Quiet, server.Storage(use_memory_fs=True))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        print(running.server_address[1], flush=True)  # noqa: T201
        running.serve_forever()


if __name__ == "__main__":
    main()
