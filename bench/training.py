"""Time a training step beside transformers + PEFT loops and TRL's SFTTrainer.

    python -m bench.training --rounds 2 --trl runs/trl-venv

The model is a random Llama of 6 layers x 384 in bfloat16 with LoRA on all linear layers, the batch
8 examples of 4,077 tokens, 1,481 of them supervised. Systems:

    ours     this project's step
    packed   transformers + PEFT, one row without padding, causal attention an example, the
             vocabulary projection on supervised positions only: what a careful loop does
    packed_kept  the same with the C library told to keep freed memory, as in ours
    plain    transformers + PEFT, a padded batch, all logits
    trl      SFTTrainer as it is, gradient checkpointing off, in an environment of its own with this
             one's torch, transformers and PEFT

Every figure comes from a fresh process with one thread, and systems take turns in each round:
processor seconds of a step, the best of each process; the peak of the resident set during the first
step over what it was before; and the share of the machine's ceiling in matrix products, measured
in the same process, that the products no method can leave out would take of the step.

First all four give their gradients in float32, which must agree within 1e-4. TRL's loss is the mean
over all supervised tokens, so there the others weigh tokens alike; in the timed steps ours, packed
and plain have Eq. 1-2.

    python -m bench.training --gpu

times ours and plain on a GPU for Llama-3-8B's shape with random weights (``training_gpu``). The
systems themselves are in ``training_systems``.
"""

import argparse
import gc
import json
import os
import site
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import numpy as np
import torch

from bench.record import Aim, Result, Row, Table, add_option, keep
from bench.training_gpu import GPU_SYSTEMS, time_on_gpu
from bench.training_systems import (
    LENGTHS,
    MAKERS,
    REASONING,
    SYSTEMS,
    make_examples,
    make_model,
    needed_flops,
    run_trl,
    trained,
)
from msrrec.cluster import WORKER_ENVIRONMENT

Values = dict[str, float]

NAMES = {
    "ours": "ours",
    "packed": "packed transformers + PEFT",
    "packed_kept": "packed transformers + PEFT, freed memory kept",
    "plain": "plain transformers + PEFT",
    "trl": "TRL's SFTTrainer",
}
HEADS = ("vocabulary", "", "s", "slower", "step memory", "of the ceiling", "all rounds")


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


def run_process(python: Path, system: str, *arguments: str) -> None:
    """This file in a fresh process of one thread, for a system."""
    kept = WORKER_ENVIRONMENT if system in ("ours", "packed_kept") else {}
    environment = os.environ | {
        **kept,
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
        arguments = ["--gradient", system, "--vocabulary", str(vocabulary), "--out", str(out)]
        run_process(python, system, *arguments)
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
            run_process(python, system, "--time", system, *arguments)
            values = json.loads(out.read_text())
            print(f"{vocabulary:,} {system}: {json.dumps(values)}", file=sys.stderr)
            found[system].append(values)
    return found


def describe(vocabulary: int, found: dict[str, list[Values]]) -> tuple[list[Row], list[list[str]]]:
    """Rows that are kept, and the lines of the table of all systems."""
    flops = needed_flops(
        make_model(vocabulary, torch.bfloat16), make_examples(vocabulary, LENGTHS, REASONING)
    )
    seconds = {name: [v["seconds"] for v in values] for name, values in found.items()}
    memory = {name: min(v["memory_bytes"] for v in values) for name, values in found.items()}
    # A round's ceiling is the best that any of its processes saw.
    ceilings = [
        max(v["ceiling_flops"] for v in values) for values in zip(*found.values(), strict=True)
    ]
    what, ours = f"LoRA step, vocabulary {vocabulary:,}", seconds["ours"]
    rows = [
        Row(
            f"{what}: of the machine's ceiling",
            [flops / of / 1e9 for of in ours],
            [ceiling / 1e9 for ceiling in ceilings],
            "matrix products alone",
            "GFLOP/s",
            aim=Aim("at least", 0.7),
        )
    ]
    aims = {32_000: 1.6, 128_000: 1.8}
    aim = Aim("at least", aims[vocabulary]) if vocabulary in aims else None
    rows += [
        Row(what, ours, seconds[name], NAMES[name], "s", ratio_of="peer / ours", aim=aim)
        for name in ("packed", "packed_kept")
        if name in seconds
    ]
    lines = []
    for name, times in seconds.items():
        middle = statistics.median(times)
        slower = statistics.median(a / b for a, b in zip(times, ours, strict=True))
        lines.append(
            [
                f"{vocabulary:,}",
                NAMES[name],
                f"{middle:.2f}",
                "" if name == "ours" else f"{slower:.2f}×",
                f"{memory[name] / 1e9:.2f} GB",
                f"{flops / statistics.median(ceilings) / middle:.0%}",
                " ".join(f"{t:.2f}" for t in times),
            ]
        )
    return rows, lines


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
    add_option(parser)
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
        rows, lines = [], []
        for vocabulary in args.vocabularies:
            if not args.no_gradients:
                compare_gradients(pythons, vocabulary, folder)
            found = measure(pythons, vocabulary, args.rounds, args.steps, folder)
            more, of_systems = describe(vocabulary, found)
            rows += more
            lines += of_systems
    table = Table(HEADS, lines)
    print("\n".join("  ".join(line) for line in (HEADS, *lines)))
    keep(
        args.result,
        Result(rows, args.rounds, ("torch", "transformers", "peft"), {"systems": table}),
    )
    return None


if __name__ == "__main__":
    main()
