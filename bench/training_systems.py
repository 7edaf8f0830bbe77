"""Four ways to take one training step: ours, packed and plain loops, and TRL's own.

``bench.training`` times them on the same random model and examples.
"""

import inspect
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from msrrec.config import TrainConfig
from msrrec.training.examples import Encoded, ExampleSet
from msrrec.training.loss import packed_loss, weighted_loss

LENGTHS = (700, 640, 590, 540, 480, 430, 380, 317)
REASONING = (230, 220, 210, 205, 190, 184, 170, 0)
RECOMMENDATION = 9
CONFIG = TrainConfig(global_batch_size=8, micro_batch_size=8, max_grad_norm=1.0, learning_rate=1e-4)
Step = Callable[[], None]


def make_examples(vocabulary: int, lengths: tuple[int, ...], reasoning: tuple[int, ...]) -> Any:
    """Examples with random tokens; the last one has no reasoning."""
    rng = np.random.default_rng(0)
    encoded = []
    for length, count in zip(lengths, reasoning, strict=True):
        segments = np.repeat([0, 1, 2], [length - count - RECOMMENDATION, count, RECOMMENDATION])
        encoded.append(Encoded(rng.integers(1, vocabulary, length).tolist(), segments.tolist(), 0))
    return ExampleSet.collect(encoded)


def make_model(vocabulary: int, dtype: torch.dtype) -> Any:
    """A PEFT model with random LoRA matrices, so that no gradient is zero."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        use_cache=False,
    )
    return add_random_lora(LlamaForCausalLM(config).to(dtype))


def add_random_lora(model: Any) -> Any:
    from msrrec.training.model import add_lora

    model = add_lora(model, CONFIG)
    with torch.no_grad():
        for weight in trained(model):
            weight.normal_(std=0.02)
    return model


def trained(model: Any) -> list[torch.Tensor]:
    return [weight for weight in model.parameters() if weight.requires_grad]


# --- The four systems: each makes a function that takes one step ----------------------------------


def make_ours(model: Any, examples: ExampleSet, *, alike: bool, bfloat16: bool) -> Step:
    from msrrec.training import learner as module

    if alike:
        pack = module.pack

        def pack_alike(*args: Any) -> Any:
            row = pack(*args)
            row.shares.copy_(weigh_alike(row.shares.sum(0) > 0))
            return row

        module.pack = pack_alike  # type: ignore[assignment]
    config = CONFIG.model_copy(update={"alpha": 1.0, "beta": 1.0}) if alike else CONFIG
    learner = module.Learner(model, config, bfloat16=bfloat16)
    batch = np.arange(len(examples))
    if alike:
        return lambda: void(learner.sum_gradients(examples, batch))
    return lambda: void(learner.step(0, examples, batch, CONFIG.learning_rate))


def weigh_alike(supervised: torch.Tensor) -> torch.Tensor:
    """Shares that turn Eq. 2 into the mean over supervised tokens."""
    share = supervised * (len(LENGTHS) / supervised.sum())
    return torch.stack([share, torch.zeros_like(share)])


def make_loop(model: Any, bfloat16: bool, loss_of: Callable[[], torch.Tensor]) -> Step:
    """A bare training loop; the gradient of its last step is kept."""
    weights = trained(model)
    optimizer = torch.optim.AdamW(weights, lr=CONFIG.learning_rate, weight_decay=0.0)
    device = weights[0].device.type

    def step() -> None:
        model.train()
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            loss = loss_of()
        loss.backward()  # type: ignore[no-untyped-call]
        if bfloat16:  # timed run; otherwise the gradient itself is needed
            torch.nn.utils.clip_grad_norm_(weights, CONFIG.max_grad_norm)
            optimizer.step()

    return step


def make_packed(model: Any, examples: ExampleSet, *, alike: bool, bfloat16: bool) -> Step:
    from transformers import AttentionInterface

    from msrrec.training.packing import pack

    row = pack([examples[n] for n in range(len(examples))])
    shares = weigh_alike(row.shares.sum(0) > 0) if alike else row.shares
    alpha, beta = (1.0, 1.0) if alike else (CONFIG.alpha, CONFIG.beta)

    def attend(
        module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float, **_: Any
    ) -> Any:
        parts = zip(*(x.split(list(row.lengths), 2) for x in (query, key, value)), strict=True)
        attention = torch.nn.functional.scaled_dot_product_attention
        outputs = [attention(q, k, v, is_causal=True, scale=scaling) for q, k, v in parts]
        return torch.cat(outputs, 2).transpose(1, 2), None

    AttentionInterface.register("bench_packed", attend)
    model.get_base_model().set_attn_implementation("bench_packed")

    def loss_of() -> torch.Tensor:
        logits = model(
            input_ids=row.input_ids, position_ids=row.position_ids, logits_to_keep=row.rows
        ).logits[0]
        return packed_loss(logits, row.targets, shares, alpha, beta)[0] / len(examples)

    return make_loop(model, bfloat16, loss_of)


def make_plain(model: Any, examples: ExampleSet, *, alike: bool, bfloat16: bool) -> Step:
    device = next(model.parameters()).device
    ids, segments, mask = (part.to(device) for part in pad(examples))

    def loss_of() -> torch.Tensor:
        logits = model(input_ids=ids, attention_mask=mask).logits
        if alike:
            kept = segments[:, 1:] > 0
            return torch.nn.functional.cross_entropy(logits[:, :-1][kept].float(), ids[:, 1:][kept])
        return weighted_loss(logits, ids, segments, CONFIG.alpha, CONFIG.beta)

    return make_loop(model, bfloat16, loss_of)


def pad(examples: ExampleSet) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, segments and mask of a padded batch, (B, T)."""
    shape = len(examples), int(examples.lengths.max())
    ids, segments, mask = (torch.zeros(shape, dtype=torch.int64) for _ in range(3))
    for n in range(len(examples)):
        tokens, kinds = examples[n]
        ids[n, : len(tokens)] = torch.from_numpy(tokens)
        segments[n, : len(tokens)] = torch.from_numpy(kinds)
        mask[n, : len(tokens)] = 1
    return ids, segments, mask


def run_trl(
    model: Any, examples: ExampleSet, *, bfloat16: bool, steps: int, begin: Step, end: Step
) -> None:
    """SFTTrainer's own loop; ``begin`` and ``end`` are called around every step."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Around(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            begin()

        def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            if not bfloat16:
                end()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            if bfloat16:
                end()

    rows = [examples[n] for n in range(len(examples))]
    columns = {
        "input_ids": [ids.tolist() for ids, _ in rows],
        "completion_mask": [(segments > 0).astype(int).tolist() for _, segments in rows],
    }
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=len(rows),
            max_steps=steps,
            learning_rate=CONFIG.learning_rate,
            max_grad_norm=CONFIG.max_grad_norm if bfloat16 else 0.0,
            max_length=None,
            completion_only_loss=True,
            bf16=bfloat16,
            use_cpu=True,
            gradient_checkpointing=False,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
        )
        SFTTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_dict(columns),
            processing_class=PreTrainedTokenizerFast(
                tokenizer_object=words, pad_token="<pad>", eos_token="<eos>"
            ),
            callbacks=[Around()],
        ).train()


MAKERS = {
    "ours": make_ours,
    "packed": make_packed,
    "packed_kept": make_packed,
    "plain": make_plain,
}
SYSTEMS = (*MAKERS, "trl")


def needed_flops(model: Any, examples: ExampleSet) -> float:
    """Floating-point operations of the products that no method can avoid.

    Forward and backward through the frozen matrices on all tokens, but in the last layer's queries
    and all after them on supervised ones only, and backward to no embedding; twice the vocabulary
    on supervised tokens; six products of causal attention. LoRA's own small ones are left out.
    """
    base = model.get_base_model()
    config = base.config
    tokens = int(examples.lengths.sum())
    supervised = sum(int((examples[n][1] > 0).sum()) for n in range(len(examples)))
    layer = base.get_decoder().layers[0]
    sizes = {
        name.split(".")[-2]: module.weight.numel()
        for name, module in layer.named_modules()
        if name.endswith("base_layer")
    }
    keys = sizes["k_proj"] + sizes["v_proj"]
    queries = sizes["q_proj"]
    rest = sum(sizes.values()) - keys - queries
    layers = config.num_hidden_layers
    rows = 2 * tokens * ((layers - 1) * (queries + rest) + layers * keys)
    rows += 2 * supervised * (queries + rest) - tokens * (queries + keys)
    width = config.num_attention_heads * layer.self_attn.head_dim
    pairs = sum(int(length) ** 2 / 2 for length in examples.lengths)
    attention = 6 * 2 * pairs * width * (layers - 1)
    return float(2 * rows + 4 * supervised * config.vocab_size * config.hidden_size + attention)


def void(_: object) -> None:
    """Discard a result."""


def accept_gqa() -> None:
    """Let torch's flash attention over packed rows take fewer key heads in older versions too."""
    from torch.nn.attention import varlen

    original = varlen.varlen_attn
    if "enable_gqa" in inspect.signature(original).parameters:
        return

    def attend(q: Any, k: Any, v: Any, *rest: Any, enable_gqa: bool = False, **named: Any) -> Any:
        if enable_gqa:
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        return original(q, k, v, *rest, **named)

    varlen.varlen_attn = attend  # type: ignore[assignment]
