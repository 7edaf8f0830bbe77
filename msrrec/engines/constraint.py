"""Follows an output token by token so that it ends in one of a few answers.

Reasoning is free. After its end marker, in any tokenisation, only tokens of the answers may follow.
If the marker does not come in time it is inserted, so every output has an answer.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from msrrec.titles import REASONING_END

Node = dict[int, Any]
"""A prefix tree: the tokens that may come next, and the node after each."""

_LINE_BREAK = "\n"


class Marker:
    """The tokenisations of the end marker and the line break after it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._may_complete: dict[int, bool] = {}
        self._rests: dict[str, tuple[int, ...]] = {
            rest: tuple(tokenizer.encode(rest, add_special_tokens=False)) if rest else ()
            for rest in ("", _LINE_BREAK, REASONING_END[-1] + _LINE_BREAK)
        }

    def find_rest(self, ids: Sequence[int]) -> tuple[int, ...] | None:
        """Token ids that complete the marker at the end of ``ids``; None if there is none.

        The last character of the marker is inserted, as some vocabularies have tokens that join it
        with text that must not follow.
        """
        if not self._can_complete(ids[-1]):
            return None
        tail = self._decode(ids[-len(REASONING_END) - 1 :])
        _, marker, after = tail.rpartition(REASONING_END)
        if marker and not after.strip():
            return self._rests["" if after else _LINE_BREAK]
        is_begun = tail.endswith(REASONING_END[:-1])
        return self._rests[REASONING_END[-1] + _LINE_BREAK] if is_begun else None

    def _can_complete(self, token_id: int) -> bool:
        found = self._may_complete.get(token_id)
        if found is None:
            text = self._decode([token_id])
            found = REASONING_END[-1] in text or text.endswith(REASONING_END[-2])
            self._may_complete[token_id] = found
        return found

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))


class Ending:
    """Follows one output token by token and tells which tokens may come next."""

    def __init__(
        self,
        marker: Marker,
        closing: Sequence[int],
        answers: Iterable[Sequence[int]],
        end_id: int,
        max_tokens: int,
    ) -> None:
        """Start with an empty output.

        Args:
            marker: The end marker as the model's tokenizer spells it.
            closing: Token ids of the end marker and its line break, which are inserted if needed;
                empty if the prompt ends in them.
            answers: Token ids of each answer, all different, at least one.
            end_id: The end token, which follows every answer.
            max_tokens: Maximum number of tokens, including closing and answer.
        """
        self.closing = tuple(closing)
        self._marker = marker
        self._answers = [(*answer, end_id) for answer in answers]
        self._room = max_tokens - len(closing) - max(map(len, self._answers))
        self._ids: list[int] = []
        self._node: Node | None = None
        if self._room <= 0:
            self.close()

    @property
    def allowed(self) -> tuple[int, ...] | None:
        """The tokens that may come next; None if any may."""
        return None if self._node is None else tuple(self._node)

    def close(self, written: int = 0) -> None:
        """End the reasoning; ``written`` tokens of the closing are already there."""
        self._node = _tree(self.closing[written:], self._answers)

    def feed(self, token_id: int) -> None:
        """Process one token of the output."""
        if self._node is not None:
            self._node = self._node.get(token_id, {})
            return
        self._ids.append(token_id)
        rest = self._marker.find_rest(self._ids)
        if rest is not None:
            self._node = _tree(rest, self._answers)
        elif len(self._ids) >= self._room:
            self.close()


def _tree(before: Sequence[int], answers: Iterable[Sequence[int]]) -> Node:
    """The prefix tree of the answers, each preceded by the tokens ``before``."""
    root: Node = {}
    for answer in answers:
        node = root
        for token_id in (*before, *answer):
            node = node.setdefault(token_id, {})
    return root
