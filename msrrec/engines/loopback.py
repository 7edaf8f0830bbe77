"""Serving a web application on a free loopback port, for stand-ins and tests."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from msrrec.errors import EngineError

_START_TIMEOUT_S = 20.0


@contextlib.contextmanager
def serve_on_loopback(app: Any) -> Iterator[str]:
    """Serve an ASGI application on a free loopback port within the block; yields its URL.

    Raises:
        EngineError: If the server does not start.
    """
    import uvicorn  # a web server, for this function alone

    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(app, log_level="error", access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, daemon=True, name="loopback-server"
    )
    thread.start()
    try:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise EngineError("the server on loopback did not start; see the log above")
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listener.close()
