"""A stand-in teacher over HTTP with a given answer and latency, which logs each call.

It uses plain asyncio streams and no web framework, to add little time to a benchmark, and to be
able to break off, send incomplete responses or not speak HTTP at all.
"""

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

Respond = Callable[[int, str], Awaitable[tuple[bytes, str]]]
"""Function from a request's number (from 1) and prompt to raw bytes and a word for the log. If the
bytes contain ``connection: close`` or are empty, the connection ends."""


@dataclass
class Call:
    """One request as the teacher saw it; times in seconds of the event loop.

    ``end_s`` is 0 until the request is answered.

    Attributes:
        kind: The kind of the response.
    """

    prompt: str
    begin_s: float
    end_s: float = 0.0
    kind: str = ""


def http_reply(status: int, body: bytes, **headers: str) -> bytes:
    """A whole HTTP response; ``_`` in header names stands for ``-``."""
    fields = {"content-type": "application/json", "content-length": str(len(body))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Said\r\n{lines}\r\n".encode() + body


def completion(text: str, **message: Any) -> dict[str, Any]:
    """The body of a chat completion."""
    row = {"role": "assistant", "content": text, **message}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "stand-in",
        "choices": [{"index": 0, "message": row, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
    }


class StandIn:
    """The stand-in teacher: its log, and its event loop.

    Attributes:
        calls: Calls in order of arrival.
        port: Port on loopback, known once it listens.
    """

    def __init__(self, respond: Respond) -> None:
        self.calls: list[Call] = []
        self.port = 0
        self._respond = respond
        self._tasks: set[asyncio.Task[Any] | None] = set()

    @property
    def url(self) -> str:
        """Value for ``teacher.base_url``."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def in_flight(self) -> int:
        """Number of unanswered requests."""
        return sum(call.end_s == 0 for call in self.calls)

    async def serve(self, port: int, is_ready: Callable[[], Any], stop: asyncio.Event) -> None:
        """Listen until told to stop; requests in flight are then dropped."""
        server = await asyncio.start_server(self._handle, "127.0.0.1", port, backlog=2048)
        self.port = server.sockets[0].getsockname()[1]
        is_ready()
        await stop.wait()
        server.close()
        for task in self._tasks:
            if task:
                task.cancel()
        await asyncio.gather(*(t for t in self._tasks if t), return_exceptions=True)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        gone = (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError)
        with contextlib.suppress(*gone):
            while await self._exchange(reader, writer):
                pass
        writer.close()
        self._tasks.discard(asyncio.current_task())

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Handle one request; whether the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        body = json.loads(await reader.readexactly(length))
        clock = asyncio.get_running_loop().time
        call = Call(body["messages"][0]["content"], clock())
        self.calls.append(call)
        try:
            raw, call.kind = await self._respond(len(self.calls), call.prompt)
            writer.write(raw)
            await writer.drain()
        finally:
            call.end_s = clock()
        return bool(raw) and b"connection: close" not in raw


@contextlib.contextmanager
def running(stand_in: StandIn, port: int = 0) -> Iterator[StandIn]:
    """Run the teacher in a thread within the block, on a free or a given port."""
    ready, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(stand_in.serve(port, ready.set, stop))
        loop.close()

    thread = threading.Thread(target=run, daemon=True, name="stand-in")
    thread.start()
    if not ready.wait(10):
        raise RuntimeError("the stand-in did not start")
    try:
        yield stand_in
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
