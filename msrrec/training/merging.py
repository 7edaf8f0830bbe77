"""Base and adapter as one model, compared with the two before anything is made of it."""

import math
from typing import Any

import torch

from msrrec import storage
from msrrec.config import PromptConfig
from msrrec.errors import ModelError
from msrrec.reasoning.encoding import encode_prompt
from msrrec.reasoning.prompts import render_prompt

_HISTORY = ("The Left Hand of Darkness", "Solaris")
_CANDIDATES = ("Roadside Picnic", "A Cast-Iron Pan", "Dune")
_MAX_TOKENS = 128


def merge_adapter(base: Any, checkpoint: str, ids: list[int]) -> tuple[Any, torch.Tensor]:
    """The merged model, and the logits of base and adapter after a prompt, (tokens, vocabulary).

    Args:
        base: A transformers model; it becomes the merged one.
        checkpoint: Folder of the adapter.
        ids: The prompt's token ids.

    Raises:
        ModelError: If the merged model computes something else than base and adapter did.
    """
    from peft import PeftModel

    with torch.no_grad():
        with storage.local_copy(checkpoint) as folder:
            adapted = PeftModel.from_pretrained(base, folder).eval()
        expected = compute_logits(adapted, ids)
        merged = adapted.merge_and_unload()
    check_logits(compute_logits(merged, ids), expected, base.dtype, checkpoint)
    return merged, expected


def comparison_prompt(tokenizer: Any, form: PromptConfig) -> list[int]:
    """Token ids of a short recommendation prompt, on which models are compared."""
    prompt = render_prompt("full", "Shopping", _HISTORY, _CANDIDATES, form)
    ids = encode_prompt(tokenizer, prompt, use_chat_template=form.use_chat_template)
    return ids[-_MAX_TOKENS:]


def compute_logits(model: Any, ids: list[int]) -> torch.Tensor:
    """The logits after each token of a prompt, (tokens, vocabulary), in double precision."""
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([ids], device=model.device)).logits[0]
    return logits.double()


def check_logits(
    found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype, where: str
) -> None:
    """Refuse a merged model whose logits are not those of base and adapter.

    Both are centred at each token, as a constant changes no probability. Their difference, as a
    share of the expected ones' norm, may be the square root of the weights' machine epsilon: half
    the type's digits, 3e-4 for float32 and 9e-2 for bfloat16, as each merged weight is rounded once
    and layers multiply what that leaves.

    Args:
        found: Of the merged model, (tokens, vocabulary).
        expected: Of base and adapter, of the same shape.
        dtype: Of the merged weights.
        where: The adapter's folder, for the error.

    Raises:
        ModelError: If the difference is greater, or not a number.
    """
    found, expected = (logits - logits.mean(-1, keepdim=True) for logits in (found, expected))
    difference = float((found - expected).norm() / expected.norm())
    allowed = math.sqrt(torch.finfo(dtype).eps)
    if not difference <= allowed:
        raise ModelError(
            f"{where}: the merged model is not the one that was trained: its logits differ by "
            f"{difference:.2g} of their size; expected at most {allowed:.2g} in {dtype}; use "
            "train.export_merged=false, or other lora.targets"
        )
