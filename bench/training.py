"""Time a training step beside transformers + PEFT loops and TRL's SFTTrainer.

    python -m bench.training --rounds 2 --trl runs/trl-venv

The model is a random Llama of 6 layers x 384 in bfloat16 with LoRA on all linear layers, the batch
8 examples of 4,077 tokens, 1,481 of them supervised. Systems:

    ours     this project's step
    packed   transformers + PEFT, one row without padding, causal attention an example, the
             vocabulary projection on supervised positions only: what a careful loop does
    plain    transformers + PEFT, a padded batch, all logits
    trl      SFTTrainer as it is, gradient checkpointing off, in an environment of its own with this
             one's torch, transformers and PEFT

Every figure comes from a fresh process with one thread, and systems take turns in each round:
processor seconds of a step, the best of all rounds; the peak of the resident set during the first
step over what it was before; and the share of the machine's ceiling in matrix products, measured
in the same process, that the products no method can leave out would take of the step.

First all four give their gradients in float32, which must agree within 1e-4. TRL's loss is the mean
over all supervised tokens, so there the others weigh tokens alike; in the timed steps ours, packed
and plain have Eq. 1-2.

    python -m bench.training --gpu

times ours and plain on a GPU for Llama-3-8B's shape with random weights.
"""

import argparse
import gc
import json
import os
import site
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
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
Values = dict[str, float]


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


MAKERS = {"ours": make_ours, "packed": make_packed, "plain": make_plain}
SYSTEMS = (*MAKERS, "trl")


# --- One process: a gradient, or a timing ---------------------------------------------------------


def save_gradient(system: str, vocabulary: int, out: Path) -> None:
    """Save the gradient of every LoRA matrix in float32."""
    examples = make_examples(vocabulary, LENGTHS, REASONING)
    model = make_model(vocabulary, torch.float32)

    def save() -> None:
        flat = [weight.grad.flatten() for weight in trained(model) if weight.grad is not None]
        np.save(out, torch.cat(flat).numpy())

    if system == "trl":
        run_trl(model, examples, bfloat16=False, steps=1, begin=lambda: None, end=save)
        return
    MAKERS[system](model, examples, alike=True, bfloat16=False)()
    save()


def time_steps(system: str, vocabulary: int, steps: int, out: Path) -> None:
    """Measure memory of the first step, CPU seconds of the others, and the ceiling."""
    examples = make_examples(vocabulary, LENGTHS, REASONING)
    model = make_model(vocabulary, torch.bfloat16)
    begins, seconds, memory = [], [], []

    def begin() -> None:
        if not begins:
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current size
            memory.append(-status_bytes("VmRSS"))
        begins.append(time.process_time())

    def end() -> None:
        seconds.append(time.process_time() - begins[-1])
        if len(begins) == 1:
            memory[0] += status_bytes("VmHWM")

    if system == "trl":
        run_trl(model, examples, bfloat16=True, steps=steps + 1, begin=begin, end=end)
    else:
        step = MAKERS[system](model, examples, alike=False, bfloat16=True)
        for _ in range(steps + 1):
            begin()
            step()
            end()
    values = {
        "seconds": min(seconds[1:]),
        "memory_bytes": memory[0],
        "ceiling_flops": matrix_ceiling(),
    }
    out.write_text(json.dumps(values))


def status_bytes(key: str) -> int:
    """A value from this process's status in Linux, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def matrix_ceiling() -> float:
    """Most floating-point operations a second in bfloat16 products of several large shapes."""
    best = 0.0
    for n, k, m in ((2048, 1024, 2048), (2048, 2048, 2048), (4096, 1024, 4096)):
        a, b = torch.randn(n, k).bfloat16(), torch.randn(k, m).bfloat16()
        a @ b
        for _ in range(3):
            begin = time.process_time()
            for _ in range(5):
                a @ b
            best = max(best, 10 * n * k * m / (time.process_time() - begin))
    return best


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


# --- All processes, and the table -----------------------------------------------------------------


def make_trl_python(folder: Path) -> Path:
    """Python of an environment that adds TRL to this one's packages."""
    python = folder / "bin" / "python"
    if not (folder / ".complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        (packages,) = folder.glob("lib/python*/site-packages")
        (packages / "base.pth").write_text("\n".join(site.getsitepackages()) + "\n")
        pins = Path(__file__).parents[1] / "requirements" / "bench-trl.txt"
        install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "-r", str(pins)]
        subprocess.run(install, check=True)
        (folder / ".complete").touch()
    return python


def run_process(python: Path, *arguments: str) -> None:
    """This file in a fresh process of one thread."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PYTHONWARNINGS": "ignore",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    command = [str(python), "-m", "bench.training", *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(command)}\n{result.stderr}")


def compare_gradients(pythons: dict[str, Path], vocabulary: int, folder: Path) -> None:
    """Print the relative distance of each float32 gradient from the plain loop's."""
    gradients = {}
    for system, python in pythons.items():
        out = folder / f"{system}.npy"
        run_process(
            python, "--gradient", system, "--vocabulary", str(vocabulary), "--out", str(out)
        )
        gradients[system] = np.load(out).astype(np.float64)
    reference = gradients["plain"]
    for system, gradient in gradients.items():
        distance = np.linalg.norm(gradient - reference) / np.linalg.norm(reference)
        print(f"vocabulary {vocabulary:,}: gradient of {system} off plain's by {distance:.1e}")
        if distance > 1e-4:
            sys.exit("the gradients differ, so times would not compare")


def measure(
    pythons: dict[str, Path], vocabulary: int, rounds: int, steps: int, folder: Path
) -> dict[str, list[Values]]:
    """Results of each system's processes, one per round."""
    found: dict[str, list[Values]] = {system: [] for system in pythons}
    for _ in range(rounds):
        for system, python in pythons.items():
            out = folder / "values.json"
            arguments = ["--vocabulary", str(vocabulary), "--steps", str(steps), "--out", str(out)]
            run_process(python, "--time", system, *arguments)
            values = json.loads(out.read_text())
            print(f"{vocabulary:,} {system}: {json.dumps(values)}", file=sys.stderr)
            found[system].append(values)
    return found


def print_table(vocabulary: int, found: dict[str, list[Values]]) -> None:
    flops = needed_flops(
        make_model(vocabulary, torch.bfloat16), make_examples(vocabulary, LENGTHS, REASONING)
    )
    best = {name: min(v["seconds"] for v in values) for name, values in found.items()}
    memory = {name: min(v["memory_bytes"] for v in values) for name, values in found.items()}
    ceiling = max(v["ceiling_flops"] for values in found.values() for v in values)
    print(f"\nvocabulary {vocabulary:,}; ceiling {ceiling / 1e9:.0f} GFLOP/s")
    print(
        f"{'':8}{'CPU s':>8}{'examples/s':>12}{'of ceiling':>12}{'memory GB':>11}{'x slower':>10}"
        f"{'x memory':>10}   all rounds"
    )
    for name, values in found.items():
        print(
            f"{name:8}{best[name]:8.2f}{len(LENGTHS) / best[name]:12.2f}"
            f"{flops / ceiling / best[name]:12.0%}{memory[name] / 1e9:11.2f}"
            f"{best[name] / best['ours']:10.2f}{memory[name] / memory['ours']:10.1f}   "
            f"{' '.join(format(v['seconds'], '.2f') for v in values)}"
        )


# --- On a GPU -------------------------------------------------------------------------------------

GPU_SYSTEMS = ("ours", "plain")
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 operations per second, from the makers' data sheets."""


def time_on_gpu(system: str, num_examples: int, steps: int, checkpointing: bool) -> None:
    """Print tokens per second, utilisation and peak memory for Llama-3-8B's shape."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        rope_theta=500_000.0,
        use_cache=False,
        dtype="bfloat16",
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        base = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model = add_random_lora(base)
    rng = np.random.default_rng(1)
    lengths = tuple(rng.integers(400, 731, num_examples).tolist())
    reasoning = tuple(rng.integers(150, 251, num_examples).tolist())
    examples = make_examples(config.vocab_size, lengths, reasoning)
    flops = needed_flops(model, examples)
    step = make_gpu_step(system, model, examples, checkpointing)
    step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(steps):
        begin = time.perf_counter()
        step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    name = torch.cuda.get_device_name()
    peak = next((peak for key, peak in PEAK_FLOPS.items() if key in name), float("nan"))
    print(
        f"{system} on {name}: {sum(lengths) / min(seconds):,.0f} tokens/s, "
        f"{num_examples / min(seconds):.2f} examples/s, {flops / min(seconds) / peak:.1%} of the "
        f"peak, {torch.cuda.max_memory_allocated() / 1e9:.1f} GB"
    )


def make_gpu_step(system: str, model: Any, examples: ExampleSet, checkpointing: bool) -> Step:
    if system == "plain":
        if checkpointing:
            model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
        return make_plain(model, examples, alike=False, bfloat16=True)
    from msrrec.training.learner import Learner

    settings = {
        "global_batch_size": len(examples),
        "micro_batch_size": len(examples),
        "gradient_checkpointing": checkpointing,
    }
    learner = Learner(model, CONFIG.model_copy(update=settings), bfloat16=True)
    batch = np.arange(len(examples))
    return lambda: void(learner.step(0, examples, batch, CONFIG.learning_rate))


def void(_: object) -> None:
    """Discard a result."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[32_000, 128_000])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each process")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument(
        "--trl", type=Path, help="keeps TRL's environment; default: a temporary one"
    )
    parser.add_argument(
        "--no-gradients", action="store_true", help="skip the comparison in float32"
    )
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--examples", type=int, default=8, help="of a step, with --gpu")
    parser.add_argument("--checkpointing", action="store_true", help="with --gpu")
    for name in ("--gradient", "--time"):  # selects the role of a process
        parser.add_argument(name, choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--vocabulary", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Compare gradients, measure, print the tables."""
    args = parse()
    if args.gradient:
        return save_gradient(args.gradient, args.vocabulary, args.out)
    if args.time:
        return time_steps(args.time, args.vocabulary, args.steps, args.out)
    if args.gpu:
        for system in (name for name in args.systems if name in GPU_SYSTEMS):
            time_on_gpu(system, args.examples, args.steps, args.checkpointing)
            gc.collect()  # frees the model, which has reference cycles
            torch.cuda.empty_cache()
        return None
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pythons = {system: Path(sys.executable) for system in args.systems}
        if "trl" in pythons:
            pythons["trl"] = make_trl_python(args.trl or folder / "trl")
        for vocabulary in args.vocabularies:
            if not args.no_gradients:
                compare_gradients(pythons, vocabulary, folder)
            found = measure(pythons, vocabulary, args.rounds, args.steps, folder)
            print_table(vocabulary, found)
    return None


if __name__ == "__main__":
    main()
