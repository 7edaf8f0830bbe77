"""Builds the embedded backbone: tokenizer, model, and its pretraining on ``corpus``.

``make backbone`` runs it; the weights that it writes ship with the package.
"""

import copy
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from msrrec.embedded.backbone.corpus import Segment, iter_documents, make_words
from msrrec.embedded.backbone.tokenizer import MAX_LENGTH, VOCAB_SIZE, train_tokenizer
from msrrec.log import Progress

LOG = "pretraining.jsonl"
LOG_EVERY, SAVE_EVERY = 50, 250

logger = logging.getLogger(__name__)

BATCH_TOKENS = 6144
SHORT_ROW, LONG_ROW = 384, 768
"""Tokens per row in the first 70% of the steps, and afterwards."""

CONTEXT_WEIGHT = 0.05
"""Loss weight of tokens that can't be predicted, such as a page's titles; answers have weight 1."""


def list_vocabulary(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The printable entries of the vocabulary, as words."""
    entries = (tokenizer.decode([i]).strip() for i in range(3, len(tokenizer)))
    return sorted({e for e in entries if e and e.isprintable() and "\ufffd" not in e})


def build_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """The tokenizer, trained on 20,000 documents of the corpus."""
    stream = iter_documents(seed, make_words(seed, []))
    return train_tokenizer(["".join(text for text, _ in next(stream)) for _ in range(20_000)])


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama of about 2.6 million parameters, embeddings tied."""
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


def encode(
    tokenizer: PreTrainedTokenizerFast, document: list[Segment]
) -> tuple[list[int], list[float]]:
    """Token ids of a document and the weight of each in the loss."""
    ids: list[int] = [tokenizer.bos_token_id]
    weights = [0.0]
    for text, is_answer in document:
        piece = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        ids += piece
        weights += [1.0 if is_answer else CONTEXT_WEIGHT] * len(piece)
    return [*ids, tokenizer.eos_token_id], [*weights, 1.0]


@dataclass
class PretrainingSchedule:
    """What changes during pretraining; each value depends only on the step."""

    num_steps: int
    step: int = 0

    @property
    def done(self) -> float:
        """The finished share of the run, from 0 to 1."""
        return self.step / self.num_steps

    @property
    def hardness(self) -> float:
        """Size of the pages, from 0 to 1."""
        return min(1.0, self.done / 0.25)

    @property
    def row_tokens(self) -> int:
        """Tokens per row; long rows come late, as attention over them is slow."""
        return SHORT_ROW if self.done < 0.7 else LONG_ROW

    @property
    def learning_rate(self) -> float:
        """Share of the peak learning rate: warm-up, plateau, and linear decay over the last 60%."""
        return min(1.0, (self.step + 1) / 100, max(0.02, (1 - self.done) / 0.6))


def iter_batches(
    tokenizer: PreTrainedTokenizerFast, seed: int, schedule: PretrainingSchedule
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of rows with consecutive documents: ids and weights, each (rows, row_tokens)."""
    words = make_words(seed, list_vocabulary(tokenizer))
    while schedule.step < schedule.num_steps:
        width = schedule.row_tokens
        height = BATCH_TOKENS // width
        ids: list[int] = []
        weights: list[float] = []
        for document in iter_documents(seed + schedule.step + 1, words, schedule.hardness):
            piece, piece_weights = encode(tokenizer, document)
            room = width - len(ids) % width
            if room < len(piece) and room < width // 4:  # a page without exercises is useless
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


def build_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
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
    """Weighted cross-entropy, and the mean loss and accuracy of the answer tokens."""
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


def pretrain(out: Path, num_steps: int, seed: int = 0) -> None:
    """Pretrain the backbone and write model and tokenizer to ``out``.

    A stopped run resumes from its last saved step; only the optimizers' momentum of a few steps is
    lost.
    """
    torch.manual_seed(seed)
    schedule = PretrainingSchedule(num_steps, step=read_step(out))
    tokenizer, model = load(out) if schedule.step else build(seed)
    logger.info("%d parameters, from step %d", model.num_parameters(), schedule.step)
    optimizers = build_optimizers(model)
    with Progress("pretrain", num_steps - schedule.step, "steps", every_s=30) as progress:
        for ids, weights in iter_batches(tokenizer, seed, schedule):
            loss, accuracy = take_step(model, optimizers, schedule, ids, weights)
            schedule.step += 1
            progress.advance(note=f"loss {loss:.4f}, accuracy {accuracy:.4f}")
            if schedule.step % LOG_EVERY == 0:
                log(out, schedule.step, loss, accuracy)
            if schedule.step % SAVE_EVERY == 0 or schedule.step == num_steps:
                save(out, model, tokenizer)


def take_step(
    model: LlamaForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    schedule: PretrainingSchedule,
    ids: torch.Tensor,
    weights: torch.Tensor,
) -> tuple[float, float]:
    """One step of both optimizers; the loss and accuracy of the answers."""
    loss, answer_loss, accuracy = batch_loss(model, ids, weights)
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = optimizer.defaults["lr"] * schedule.learning_rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return answer_loss, accuracy


def build(seed: int) -> tuple[PreTrainedTokenizerFast, LlamaForCausalLM]:
    """A tokenizer and an untrained model."""
    tokenizer = build_tokenizer(seed)
    return tokenizer, build_model(tokenizer)


def load(out: Path) -> tuple[PreTrainedTokenizerFast, LlamaForCausalLM]:
    """The tokenizer and model that an earlier run saved."""
    model = LlamaForCausalLM.from_pretrained(out, dtype=torch.float32)
    return PreTrainedTokenizerFast.from_pretrained(out), model


def save(out: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write weights in bfloat16, config and tokenizer."""
    rounded = copy.deepcopy(model).to(torch.bfloat16)
    rounded.save_pretrained(out, max_shard_size="3MB")
    tokenizer.save_pretrained(out)


def log(out: Path, step: int, loss: float, accuracy: float) -> None:
    """Append one line to the log that ships with the weights."""
    row = {"step": step, "loss": round(loss, 4), "accuracy": round(accuracy, 4)}
    out.mkdir(parents=True, exist_ok=True)
    with (out / LOG).open("a") as file:
        file.write(json.dumps(row) + "\n")


def read_step(out: Path) -> int:
    """The step of the weights in ``out``; 0 if there are none."""
    if not (out / "config.json").is_file() or not (out / LOG).is_file():
        return 0
    logged = [int(json.loads(line)["step"]) for line in (out / LOG).read_text().splitlines()]
    return max((step for step in logged if step % SAVE_EVERY == 0), default=0)
