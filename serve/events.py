"""Answers over HTTP: JSON at once, or server-sent events."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from serve.fan_out import Delta
from serve.http_models import RecommendResponse

_STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def answer_whole(answer: RecommendResponse, *, stream: bool) -> Response:
    """An answer that is there already; as a stream it is the result alone."""
    found = answer.model_dump()
    if not stream:
        return JSONResponse(found)
    media = "text/event-stream"
    return Response(render_event("result", found), headers=_STREAM_HEADERS, media_type=media)


class EventStream(StreamingResponse):
    """Server-sent events; ``leave`` is called once the client has received all or is gone."""

    def __init__(self, events: AsyncIterator[str], leave: Callable[[], Awaitable[None]]) -> None:
        super().__init__(events, headers=_STREAM_HEADERS, media_type="text/event-stream")
        self._events, self._leave = events, leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, and leave even if the generator never started."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._leave()
            await self._events.aclose()  # type: ignore[attr-defined]


def render_delta(delta: Delta) -> str:
    """The event of a delta."""
    return render_event("delta", {"side": delta.side, "offset": delta.offset, "text": delta.text})


def render_event(event: str, data: Mapping[str, object]) -> str:
    """An event with a name and JSON as its data."""
    return f"event: {event}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
