"""A stream of events that another replica goes on with where the first one was lost."""

import json

from msrrec.reasoning.prompts import Side
from serve.events import render_delta, render_event
from serve.fan_out import SentText
from serve.http_models import ErrorBody

_END = b"\n\n"


class SentEvents:
    """The events that a client has received of an answer.

    Answers are seeded, so a second replica writes the same text again; the client gets what it does
    not have yet. If the text is another one after all, a delta's offset says where it begins.

    Attributes:
        is_ended: Whether the client has the result or an error.
    """

    def __init__(self) -> None:
        self.is_ended = False
        self._is_anew = False
        self._rest = b""
        self._texts: dict[Side, str] = {}
        self._sent: dict[Side, SentText] = {}

    def begin_anew(self) -> None:
        """Say that what comes next is the stream of another replica, from its beginning."""
        self._is_anew, self._rest = True, b""
        self._texts = {}

    def take(self, body: bytes) -> bytes:
        """The whole events that the client needs of the next bytes of a stream."""
        *whole, self._rest = (self._rest + body).split(_END)
        return b"".join(map(self._take_event, whole))

    def end_with(self, error: ErrorBody) -> bytes:
        """The event of an error, which is the last one."""
        self.is_ended = True
        return render_event("error", dict(error)).encode()

    def _take_event(self, event: bytes) -> bytes:
        name, _, data = event.partition(b"\n")
        if name != b"event: delta":
            self.is_ended |= name in (b"event: result", b"event: error")
            return event + _END
        delta = json.loads(data.removeprefix(b"data: "))
        side: Side = delta["side"]
        text = self._texts.get(side, "")[: delta["offset"]] + delta["text"]
        self._texts[side] = text
        sent = self._sent.setdefault(side, SentText(side))
        needed = sent.advance(text, is_final=not self._is_anew)
        if not self._is_anew:
            return event + _END
        return render_delta(needed).encode() if needed else b""
