"""A teacher over HTTP that answers as it is told, after as long as it is told, and logs each call.

Plain asyncio streams and no web framework, so that it is not what a benchmark measures, and so that
it can also break off, answer halves and speak no HTTP at all.
"""

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

Respond = Callable[[int, str], Awaitable[tuple[bytes, str]]]
"""From a request's number (from 1) and prompt to raw bytes and a word for the log. Where the bytes
say ``connection: close`` or are none, the connection ends."""


@dataclass
class Call:
    """One request as the teacher saw it; seconds of the event loop's clock, ``end_s`` 0 till then.

    Attributes:
        kind: What it was answered with.
    """

    prompt: str
    begin_s: float
    end_s: float = 0.0
    kind: str = ""


def http_reply(status: int, body: bytes, **headers: str) -> bytes:
    """A whole HTTP response; names of headers with ``_`` for ``-``."""
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
    """The teacher: its log, and the loop that it runs in.

    Attributes:
        calls: In the order in which they came.
        port: Of loopback, known when it listens.
    """

    def __init__(self, respond: Respond) -> None:
        self.calls: list[Call] = []
        self.port = 0
        self._respond = respond
        self._tasks: set[asyncio.Task[Any] | None] = set()

    @property
    def url(self) -> str:
        """What ``teacher.base_url`` is."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def in_flight(self) -> int:
        """Requests that wait for their answer."""
        return sum(call.end_s == 0 for call in self.calls)

    async def serve(self, port: int, is_ready: Callable[[], Any], stop: asyncio.Event) -> None:
        """Listen until told to stop, then end as if killed: what is in flight is not answered."""
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
        """One request and its answer; whether the connection goes on."""
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
    """The teacher in a thread of its own, on a free port or a given one, as long as the block."""
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
