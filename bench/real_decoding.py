"""Batched sampling and scoring with a Llama and its LoRA matrices, for ``bench.real_backbone``.

This is not the product's path, which generates with vLLM. It is plain torch, for machines that have
no vLLM: weights and LoRA are merged, a batch of outputs is sampled with a cache of keys and values,
and the answers of one prompt are scored in one row in which they do not see each other. Outputs
depend on the seed and on the batch that they are sampled in.

Shapes: B = rows of a batch, T = tokens of a row, E = hidden size, H = heads, G = key heads, D =
head width, V = vocabulary, L = slots of the cache.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

from msrrec.engines.base import Generation

Ids = Sequence[int]
Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

_MASK_ELEMENTS = 2**25
"""Elements of the attention mask of a batch that is scored."""
_ROWS_OF_LOGITS = 2048
_LOOK_EVERY = 8
"""Steps between two looks at which rows are finished."""


@dataclass(frozen=True)
class _Layer:
    """The matrices of a layer, those with the same input joined."""

    norm: torch.Tensor
    qkv: torch.Tensor
    out: torch.Tensor
    norm_mlp: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


@dataclass
class _Cache:
    """Keys and values of each layer, (B, G, L, D), and the hidden states of the prompts."""

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    hidden: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def slots(self) -> int:
        """Most tokens of a row."""
        return self.keys[0].shape[2]

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all other rows."""
        for tensors in (self.keys, self.values):
            for n, tensor in enumerate(tensors):
                tensors[n] = tensor[rows]


class Decoder:
    """Samples and scores with a copy of a model in which its LoRA matrices are merged.

    Args:
        model: A Llama of transformers, with or without PEFT's LoRA.
        device: Where to compute.
        dtype: Type of the matrix products; logits are float32.
        end: The end token.
        max_len: Most tokens of a row.
    """

    def __init__(
        self, model: Any, device: torch.device, dtype: torch.dtype, end: int, max_len: int
    ) -> None:
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        config, decoder = base.config, base.get_decoder()
        self.device, self.dtype, self.end, self.max_len = device, dtype, end, max_len
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.eps = config.rms_norm_eps

        def join(*modules: Any) -> torch.Tensor:
            return torch.cat([merged(m) for m in modules]).to(device, dtype)

        def copy(weight: torch.Tensor) -> torch.Tensor:
            return weight.detach().to(device, dtype)

        self.layers = [
            _Layer(
                copy(layer.input_layernorm.weight),
                join(*(getattr(layer.self_attn, f"{name}_proj") for name in "qkv")),
                join(layer.self_attn.o_proj),
                copy(layer.post_attention_layernorm.weight),
                join(layer.mlp.gate_proj, layer.mlp.up_proj),
                join(layer.mlp.down_proj),
            )
            for layer in decoder.layers
        ]
        self.embedding = copy(decoder.embed_tokens.weight)
        self.norm = copy(decoder.norm.weight)
        self.head = base.get_output_embeddings().weight.detach().to(device, torch.float32)
        there = next(decoder.rotary_emb.buffers()).device
        with torch.no_grad():
            angles = decoder.rotary_emb(
                torch.zeros(1, device=there), torch.arange(max_len, device=there)[None]
            )
        self.cos, self.sin = (part[0].to(device, dtype) for part in angles)

    @property
    def width(self) -> int:
        """Width of a head."""
        return int(self.cos.shape[-1])

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[Ids],
        max_new_tokens: int,
        temperature: float,
        seed: int,
        slots: int,
    ) -> list[Generation]:
        """One output per prompt, in order.

        Args:
            prompts: Token ids; prompts of similar length share a batch.
            max_new_tokens: Most tokens of an output.
            temperature: 0 takes the likeliest token.
            seed: Of all draws.
            slots: Most tokens that the cache of a batch holds; one row is always allowed.
        """
        torch.manual_seed(seed)
        sizes = [_round_up(len(prompt), 16) + max_new_tokens for prompt in prompts]
        found: dict[int, Generation] = {}
        for places in _batches(sizes, lambda rows, size: rows * size <= slots):
            batch = self._sample([prompts[n] for n in places], max_new_tokens, temperature)
            found |= dict(zip(places, batch, strict=True))
        return [found[n] for n in range(len(prompts))]

    def _sample(
        self, prompts: Sequence[Ids], max_new_tokens: int, temperature: float
    ) -> list[Generation]:
        ids, places = self._pad(prompts)
        cache = self._fill(ids, max_new_tokens)
        count, longest = ids.shape
        hidden = cache.hidden[torch.arange(count, device=self.device), places - 1]
        tokens = torch.full((count, max_new_tokens), self.end, device=self.device)
        scores = torch.zeros((count, max_new_tokens), device=self.device)
        rows = torch.arange(count, device=self.device)  # of what is not finished
        for step in range(max_new_tokens):
            token, scores[rows, step] = self._draw(hidden, temperature)
            tokens[rows, step] = token
            if step % _LOOK_EVERY == _LOOK_EVERY - 1:
                left = (tokens[rows, : step + 1] != self.end).all(1).nonzero()[:, 0]
                if not len(left):
                    break
                if len(left) <= 0.7 * len(rows):
                    rows, places, token = rows[left], places[left], token[left]
                    cache.keep(left)
            slots = min(_round_up(longest + step + 1, 64), cache.slots)
            hidden = self._extend(cache, token, places, slots)
            places = places + 1
        return self._collect(tokens.tolist(), scores.tolist())

    def _fill(self, ids: torch.Tensor, max_new_tokens: int) -> "_Cache":
        """The cache after all prompts."""
        count, longest = ids.shape
        shape = (count, self.key_heads, _round_up(longest + max_new_tokens, 64), self.width)
        cache = _Cache(
            [torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in self.layers],
            [torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in self.layers],
        )

        def fill(n: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            cache.keys[n][:, :, :longest] = k.transpose(1, 2)
            cache.values[n][:, :, :longest] = v.transpose(1, 2)
            return self._attend(q, k, v, None)

        cache.hidden = self._run(ids, torch.arange(longest, device=self.device)[None], fill)
        return cache

    def _extend(
        self, cache: "_Cache", token: torch.Tensor, places: torch.Tensor, slots: int
    ) -> torch.Tensor:
        """The hidden state after one more token of each row, (B, E)."""
        rows = torch.arange(len(token), device=self.device)
        mask = torch.arange(slots, device=self.device) <= places[:, None]
        mask = mask[:, None, None].expand(-1, -1, self.heads // self.key_heads, -1)

        def extend(n: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            keys, values = cache.keys[n], cache.values[n]
            keys[rows, :, places], values[rows, :, places] = k[:, 0], v[:, 0]
            grouped = q.view(len(q), self.key_heads, -1, self.width)  # heads of a key as queries
            out = scaled_dot_product_attention(
                grouped, keys[:, :, :slots], values[:, :, :slots], attn_mask=mask
            )
            return out.reshape(q.shape)

        return self._run(token[:, None], places[:, None], extend)[:, 0]

    def _draw(self, hidden: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The next token of each row, and its log-probability at temperature 1."""
        logits = linear(hidden.float(), self.head)
        if temperature:
            noise = -torch.empty_like(logits).exponential_().log()  # Gumbel's
            token = (logits / temperature + noise).argmax(-1)
        else:
            token = logits.argmax(-1)
        return token, logits.gather(1, token[:, None])[:, 0] - logits.logsumexp(-1)

    def _collect(
        self, tokens: Sequence[list[int]], scores: Sequence[list[float]]
    ) -> list[Generation]:
        found = []
        for ids, logprobs in zip(tokens, scores, strict=True):
            ends = self.end in ids
            count = ids.index(self.end) if ends else len(ids)
            reason, last = ("stop", logprobs[count]) if ends else ("length", None)
            found.append(Generation(tuple(ids[:count]), tuple(logprobs[:count]), reason, last))
        return found

    @torch.inference_mode()
    def score(
        self, prefixes: Sequence[Ids], answers: Sequence[Sequence[Ids]]
    ) -> list[tuple[float, ...]]:
        """The log-likelihood of each answer after its prefix.

        Args:
            prefixes: One or more tokens each.
            answers: For each prefix its answers, each of one or more tokens.
        """
        sizes = [len(p) + sum(map(len, a)) for p, a in zip(prefixes, answers, strict=True)]
        found: dict[int, tuple[float, ...]] = {}
        for places in _batches(sizes, lambda rows, size: rows * size**2 <= _MASK_ELEMENTS):
            some = self._score([prefixes[n] for n in places], [answers[n] for n in places])
            found |= dict(zip(places, some, strict=True))
        return [found[n] for n in range(len(prefixes))]

    def _score(
        self, prefixes: Sequence[Ids], answers: Sequence[Sequence[Ids]]
    ) -> list[tuple[float, ...]]:
        ids, _ = self._pad(
            [[*p, *(t for a in some for t in a)] for p, some in zip(prefixes, answers, strict=True)]
        )
        places, parts = torch.zeros_like(ids, device="cpu"), torch.zeros_like(ids, device="cpu")
        asked: list[tuple[int, int, int, int]] = []  # row, place before, token, answer
        count = 0
        for row, (prefix, some) in enumerate(zip(prefixes, answers, strict=True)):
            begin = len(prefix)
            places[row, :begin] = torch.arange(begin)
            for n, answer in enumerate(some, 1):
                end = begin + len(answer)
                places[row, begin:end] = torch.arange(len(prefix), len(prefix) + len(answer))
                parts[row, begin:end] = n
                before = [len(prefix) - 1, *range(begin, end - 1)]
                asked += [(row, b, t, count) for b, t in zip(before, answer, strict=True)]
                begin, count = end, count + 1
        places, parts = places.to(self.device), parts.to(self.device)
        slots = torch.arange(ids.shape[1], device=self.device)
        mask = (parts[:, None] == 0) | (parts[:, None] == parts[:, :, None])
        mask = (mask & (slots[None] <= slots[:, None]))[:, None]  # (B, 1, T, T)
        hidden = self._run(ids, places, lambda n, q, k, v: self._attend(q, k, v, mask))
        sums = self._sum_scores(hidden, torch.tensor(asked, device=self.device), count).tolist()
        values = iter(sums)
        return [tuple(next(values) for _ in some) for some in answers]

    def _sum_scores(self, hidden: torch.Tensor, asked: torch.Tensor, count: int) -> torch.Tensor:
        sums = torch.zeros(count, dtype=torch.float64, device=self.device)
        for some in asked.split(_ROWS_OF_LOGITS):
            logits = linear(hidden[some[:, 0], some[:, 1]].float(), self.head)
            scores = logits.gather(1, some[:, 2:3])[:, 0] - logits.logsumexp(-1)
            sums.index_add_(0, some[:, 3], scores.double())
        return sums

    def _pad(self, rows: Sequence[Ids]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids filled up at the right, (B, T), and the rows' lengths, (B,)."""
        lengths = [len(row) for row in rows]
        longest = _round_up(max(lengths), 16)  # which attention with a mask is fast for
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        return ids.to(self.device), torch.tensor(lengths, device=self.device)

    def _run(self, ids: torch.Tensor, places: torch.Tensor, attend: Attend) -> torch.Tensor:
        """The normalised hidden states after the last layer, (B, T, E)."""
        x = self.embedding[ids]
        cos, sin = self.cos[places][:, :, None], self.sin[places][:, :, None]
        sizes = (self.heads, self.key_heads, self.key_heads)
        for n, layer in enumerate(self.layers):
            normal = rms_norm(x, x.shape[-1:], layer.norm, self.eps)
            heads = linear(normal, layer.qkv).unflatten(-1, (-1, self.width))
            q, k, v = heads.split(sizes, 2)
            q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
            x = x + linear(attend(n, q, k, v).flatten(2), layer.out)
            normal = rms_norm(x, x.shape[-1:], layer.norm_mlp, self.eps)
            gate, up = linear(normal, layer.gate_up).chunk(2, -1)
            x = x + linear(silu(gate) * up, layer.down)
        return rms_norm(x, x.shape[-1:], self.norm, self.eps)

    def _attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Attention within rows, causal where there is no mask; all (B, T, heads, D)."""
        times = self.heads // self.key_heads
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        k, v = (x.repeat_interleave(times, 1) for x in (k, v))
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return out.transpose(1, 2)


def merged(module: Any) -> torch.Tensor:
    """The weight of a linear layer with its LoRA matrices added, in float32."""
    base = getattr(module, "base_layer", module)
    weight: torch.Tensor = base.weight.detach().float()
    for name in getattr(module, "active_adapters", ()):
        update = module.lora_B[name].weight.detach() @ module.lora_A[name].weight.detach()
        weight = weight + module.scaling[name] * update.float()
    return weight


def _batches(sizes: Sequence[int], fits: Callable[[int, int], bool]) -> Iterator[list[int]]:
    """Places in order of size, in batches.

    Args:
        sizes: Of each place.
        fits: Whether a number of rows, the longest of some size, may share a batch.
    """
    some: list[int] = []
    for n in sorted(range(len(sizes)), key=sizes.__getitem__):
        if some and not fits(len(some) + 1, sizes[n]):
            yield some
            some = []
        some.append(n)
    if some:
        yield some


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin
