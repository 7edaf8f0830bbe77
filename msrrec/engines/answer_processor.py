"""A logits processor that constrains vLLM's outputs to given answers; vLLM imports it by name.

vLLM's structured outputs could do the same, but they compile a grammar for every request's titles
and return log-probabilities after masking. Here they are the model's own, as vLLM records them
before any logits processor.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import torch
from vllm import SamplingParams
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, process_dict_updates

from msrrec.engines.constraint import Ending, Marker
from msrrec.engines.vllm import ANSWERS

if TYPE_CHECKING:
    from vllm.config import VllmConfig


class Answers(TypedDict):
    """The fields of an ``AnswerChoice``, as vLLM carries them to its own process."""

    closing: Sequence[int]
    answers: Sequence[Sequence[int]]


class _Row:
    """The state of one request of the batch."""

    def __init__(self, ending: Ending, output_ids: list[int], stop_ids: tuple[int, ...]) -> None:
        self.ending, self.stop_ids = ending, stop_ids
        self.is_ending: torch.Tensor | None = None
        """Whether at its latest token the model preferred the end token to the marker's first
        token."""
        self._output_ids = output_ids  # vLLM's own list, which it extends
        self._num_fed = 0

    def catch_up(self) -> None:
        """Process the tokens sampled since the last call."""
        for token_id in self._output_ids[self._num_fed :]:
            if token_id < 0:  # a placeholder: vLLM has yet to sample it
                return
            self._num_fed += 1
            self.ending.feed(token_id)
            is_begun = self.ending.allowed is None and token_id == self.ending.closing[0]
            if is_begun and self.is_ending is not None and self.is_ending:
                self.ending.close(written=1)


class AnswerProcessor(LogitsProcessor):  # type: ignore[misc]
    """Enforces free reasoning, then one of the request's answers, then the end token."""

    def __init__(self, vllm_config: "VllmConfig", device: torch.device, is_pin_memory: bool):
        """Called by vLLM, in the process of its engine."""
        self._device = device
        self._marker = Marker(cached_tokenizer_from_config(vllm_config.model_config))
        self._rows: dict[int, _Row] = {}

    def is_argmax_invariant(self) -> bool:
        """Called by vLLM: False, as a greedy choice is constrained too."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Called by vLLM before each step."""
        process_dict_updates(self._rows, batch_update, self._new_row)

    def _new_row(
        self, params: SamplingParams, prompt_ids: list[int] | None, output_ids: list[int]
    ) -> _Row | None:
        found: Answers | None = (params.extra_args or {}).get(ANSWERS)
        if found is None:
            return None
        assert params.max_tokens is not None
        assert params.eos_token_id is not None
        ending = Ending(
            self._marker,
            found["closing"],
            found["answers"],
            params.eos_token_id,
            params.max_tokens,
        )
        return _Row(ending, output_ids, tuple(params.all_stop_token_ids))

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Called by vLLM at each step; logits of shape (B, V) are changed in place."""
        free: list[int] = []
        bound: list[tuple[int, int]] = []
        for index, row in self._rows.items():
            row.catch_up()
            allowed = row.ending.allowed
            if allowed is None:
                free.append(index)
            else:
                bound += [(index, token_id) for token_id in allowed]
        if bound:
            self._keep(logits, bound)
        if free:
            self._divert_ends(logits, free)
        return logits

    def _keep(self, logits: torch.Tensor, bound: list[tuple[int, int]]) -> None:
        """Forbid all tokens but some, in some rows."""
        rows, tokens = torch.tensor(bound, device=self._device).T
        kept = logits[rows, tokens]
        logits[rows] = -torch.inf
        logits[rows, tokens] = kept

    def _divert_ends(self, logits: torch.Tensor, free: list[int]) -> None:
        """Begin the end marker where the model would end without an answer."""
        first = self._rows[free[0]]
        rows = torch.tensor(free, device=self._device)
        stops = torch.tensor(first.stop_ids, device=self._device)
        closings = torch.tensor(
            [self._rows[index].ending.closing[0] for index in free], device=self._device
        )
        ends = logits[rows[:, None], stops].logsumexp(-1)
        own = logits[rows, closings]
        logits[rows[:, None], stops] = -torch.inf
        logits[rows, closings] = torch.logaddexp(own, ends)
        for index, is_ending in zip(free, ends > own, strict=True):
            self._rows[index].is_ending = is_ending
