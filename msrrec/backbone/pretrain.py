"""Makes the embedded backbone: tokenizer, model, and its pretraining on ``corpus``.

Runs once, when the package is built; the weights ship with it.
"""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from msrrec.backbone.corpus import Segment, iter_documents, make_words
from msrrec.backbone.tokenizer import MAX_LENGTH, VOCAB_SIZE, train_tokenizer

if TYPE_CHECKING:
    from torch.optim import Optimizer

logger = logging.getLogger(__name__)

BATCH_TOKENS = 6144
SHORT_ROW, LONG_ROW = 384, 768
"""Tokens a row in the first 70% of the time, and after it."""

CONTEXT_WEIGHT = 0.05
"""Weight of tokens that can't be foretold, such as the titles of a page; answers weigh 1."""


def list_vocabulary(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The printable entries of the vocabulary, as words."""
    entries = (tokenizer.decode([i]).strip() for i in range(3, len(tokenizer)))
    return sorted({e for e in entries if e and e.isprintable() and "\ufffd" not in e})


def build_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """The tokenizer, trained on 20,000 documents of the corpus."""
    stream = iter_documents(seed, make_words(seed, []))
    return train_tokenizer(
        ["".join(text for text, _ in next(stream)) for _ in range(20_000)]
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama of about two million parameters, embeddings tied."""
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=6,
        head_dim=32,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def encode(tokenizer: PreTrainedTokenizerFast, document: list[Segment]) -> tuple[list[int], list[float]]:
    """Token ids of a document and the weight of each in the loss."""
    ids: list[int] = [tokenizer.bos_token_id]
    weights = [0.0]
    for text, is_answer in document:
        piece = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        ids += piece
        weights += [1.0 if is_answer else CONTEXT_WEIGHT] * len(piece)
    return [*ids, tokenizer.eos_token_id], [*weights, 1.0]


class Schedule:
    """What grows as pretraining goes on; ``done`` runs from 0 to 1."""

    done = 0.0

    @property
    def hardness(self) -> float:
        """How large the pages are."""
        return min(1.0, self.done / 0.1)

    @property
    def row_tokens(self) -> int:
        """Long rows come late: attention over them is dear."""
        return SHORT_ROW if self.done < 0.7 else LONG_ROW

    @property
    def learning_rate(self) -> float:
        """Share of the peak: constant, then a straight line to a fiftieth over the last 60%."""
        return min(1.0, max(0.02, (1 - self.done) / 0.6))


def iter_batches(
    tokenizer: PreTrainedTokenizerFast, seed: int, schedule: Schedule
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Rows of documents one after another: ids and weights, each (rows, row_tokens)."""
    words = make_words(seed, list_vocabulary(tokenizer))
    while True:
        seed += 1
        width = schedule.row_tokens
        height = BATCH_TOKENS // width
        ids: list[int] = []
        weights: list[float] = []
        for document in iter_documents(seed, words, schedule.hardness):
            piece, piece_weights = encode(tokenizer, document)
            room = width - len(ids) % width
            if room < len(piece) and room < width // 4:  # a page cut before its questions is wasted
                ids += [tokenizer.pad_token_id] * room
                weights += [0.0] * room
                room = width
            ids += piece[:room]
            weights += piece_weights[:room]
            if len(ids) >= height * width:
                break
        shape = (height, width)
        yield (
            torch.tensor(ids[: height * width]).view(shape),
            torch.tensor(weights[: height * width]).view(shape),
        )


def build_optimizers(model: LlamaForCausalLM) -> "list[Optimizer]":
    """Muon for the matrices of the layers, AdamW for the rest."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=0.01, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(rest, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def batch_loss(
    model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, float, float]:
    """Weighted cross-entropy; and the mean loss and accuracy of the answer tokens alone."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
        targets, weights = ids[:, 1:], weights[:, 1:]
        kept = weights > 0
        logits = model.lm_head(hidden[kept]).float()
    losses = torch.nn.functional.cross_entropy(logits, targets[kept], reduction="none")
    kept_weights = weights[kept]
    answers = kept_weights == 1
    right = (logits[answers].argmax(-1) == targets[kept][answers]).float().mean()
    loss = (losses * kept_weights).sum() / kept_weights.sum()
    return loss, losses[answers].mean().item(), right.item()


def pretrain(out: Path, minutes: float, seed: int = 0, log_every: int = 50) -> None:
    """Pretrain for a time and write model and tokenizer to ``out``, every few minutes anew."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(seed)
    model = build_model(tokenizer)
    logger.info("%d parameters", sum(p.numel() for p in model.parameters()))
    optimizers = build_optimizers(model)
    peaks = [o.param_groups[0]["lr"] for o in optimizers]
    schedule = Schedule()
    begin, step, log = time.monotonic(), 0, []
    for ids, weights in iter_batches(tokenizer, seed, schedule):
        schedule.done = (time.monotonic() - begin) / (60 * minutes)
        if schedule.done >= 1:
            break
        rate = min(1.0, (step + 1) / 100) * schedule.learning_rate
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * rate
        loss, answer_loss, accuracy = batch_loss(model, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step % log_every == 0:
            log.append({"step": step, "minutes": round(schedule.done * minutes, 2), "loss": round(answer_loss, 4), "accuracy": round(accuracy, 4)})
            logger.info("%s", json.dumps(log[-1]))
        if step % 500 == 499:
            save(out, model, tokenizer)
        step += 1
    save(out, model, tokenizer)
    (out / "pretraining.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))


def save(out: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write bf16 weights, config and tokenizer."""
    import copy

    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(out, max_shard_size="3MB")
    tokenizer.save_pretrained(out)
