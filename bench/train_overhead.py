"""Measure the overhead of Ray Train, metrics and checkpoints over a bare loop of optimizer steps.

    python -m bench.train_overhead

Both train the same model (a random Llama of 6 layers x 384, vocabulary 32,000, bfloat16 where the
processor has it) on the same batches with as many threads, and take turns, each time in a fresh
process. "bare" calls the step and nothing else; "ray" is a Ray Train worker of ``msrrec train``
with a line of metrics after every step and a checkpoint after every second. A step in Ray holds its
metrics; checkpoints are told apart, as reports: adapter and optimizer written, flushed to disk,
renamed, an old one removed. Overheads are of the best and of the median step, in wall time and in
processor time of the worker's own process. Where wall time grows and processor time does not, the
worker waited for a core: "others_cores" is how many cores all other processes used meanwhile.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from bench.record import Aim, Result, Row, add_option, keep
from msrrec.cluster import WORKER_ENVIRONMENT
from msrrec.config import TrainConfig
from msrrec.models import ModelSource

NUM_EXAMPLES = 2
CONFIG = TrainConfig(
    global_batch_size=NUM_EXAMPLES,
    micro_batch_size=NUM_EXAMPLES,
    log_every_steps=1,
    checkpoint_every_steps=2,
    max_failures=0,
)


def save_model(folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def make_job(model: str, steps: int) -> tuple[Any, Any]:
    from bench.training_systems import LENGTHS, REASONING, make_examples
    from msrrec.training.worker import TrainingJob

    source = ModelSource("random", model, None)
    config = CONFIG.model_copy(update={"num_epochs": steps})
    return TrainingJob(source, "auto", config), make_examples(
        32000, LENGTHS[:NUM_EXAMPLES], REASONING[:NUM_EXAMPLES]
    )


class Clock:
    """Seconds of wall time, of CPU time of this process, and of the whole machine."""

    def __init__(self) -> None:
        self.last = self._read()

    def lap(self) -> list[float]:
        """Seconds since the last lap."""
        now = self._read()
        lap = [b - a for a, b in zip(self.last, now, strict=True)]
        self.last = now
        return lap

    @staticmethod
    def _read() -> list[float]:
        times = psutil.cpu_times()
        busy = times.user + times.nice + times.system
        return [time.perf_counter(), time.process_time(), busy]


def time_bare(model: str, steps: int) -> list[list[float]]:
    """Times of every step in the bare loop."""
    import torch

    from msrrec.training.learner import Learner
    from msrrec.training.model import add_lora, load_base, multiplies_in_bfloat16
    from msrrec.training.schedule import iter_batches

    job, examples = make_job(model, steps)
    torch.set_num_threads(os.cpu_count() or 1)
    bfloat16 = multiplies_in_bfloat16(job.dtype, torch.device("cpu"))
    base = load_base(job.source, job.dtype, on_gpu=False)
    learner = Learner(add_lora(base, job.config), job.config, bfloat16=bfloat16)
    clock, laps = Clock(), []
    for step, (_, batch) in enumerate(iter_batches(len(examples), job.config)):
        learner.step(step, examples, batch, 1e-4)
        laps.append(clock.lap())
    return laps


def timed_worker(settings: dict[str, Any]) -> dict[str, list[Any]]:
    """The worker of ``msrrec train``, with times of every step and checkpoint."""
    from msrrec.training import worker

    laps: list[list[float]] = []
    reports: list[float] = []
    clock = Clock()
    run_steps, keep_checkpoint = worker.run_steps, worker.keep_checkpoint

    def noted_steps(*args: Any) -> Any:
        clock.lap()
        for made in run_steps(*args):
            laps.append(clock.lap())
            yield made
            laps[-1] = [a + b for a, b in zip(laps[-1], clock.lap(), strict=True)]

    def noted_checkpoint(*args: Any) -> None:
        laps[-1] = [a + b for a, b in zip(laps[-1], clock.lap(), strict=True)]
        keep_checkpoint(*args)
        reports.append(clock.lap()[0])

    worker.run_steps, worker.keep_checkpoint = noted_steps, noted_checkpoint
    if error := worker.run_worker(settings):
        raise error
    return {"steps": laps, "reports": reports}


def time_ray(model: str, steps: int) -> dict[str, list[Any]]:
    """Times of every step with its metrics, and of every checkpoint, in Ray Train."""
    import ray
    import ray.train
    from ray.train.torch import TorchTrainer

    from msrrec.cluster import ray_session

    job, examples = make_job(model, steps)
    with ray_session(num_cpus=os.cpu_count()), tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "checkpoints" / "run"
        run.mkdir(parents=True)
        trainer = TorchTrainer(
            timed_worker,
            train_loop_config={
                "data": ray.put((job, examples, None)),
                "run": str(run),
                "folder": folder,
            },
            scaling_config=ray.train.ScalingConfig(num_workers=1),
            run_config=ray.train.RunConfig(name="run", storage_path=str(run.parent)),
        )
        return dict(trainer.fit().return_value)


def measure(system: str, model: str, steps: int) -> Any:
    """Times from a fresh process."""
    command = [sys.executable, "-m", "bench.train_overhead", "--time", system, "--model", model]
    command += ["--steps", str(steps)]
    environment = os.environ | WORKER_ENVIRONMENT
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def compare(rounds: int, steps: int) -> dict[str, list[dict[str, float]]]:
    """Figures of each side in each round; the first two steps fill caches and are left out."""
    found: dict[str, list[dict[str, float]]] = {"bare": [], "ray": []}
    with tempfile.TemporaryDirectory() as model:
        save_model(Path(model))
        for _ in range(rounds):
            found["bare"].append(summarise(measure("bare", model, steps)[2:], []))
            told = measure("ray", model, steps)
            found["ray"].append(summarise(told["steps"][2:], told["reports"]))
            print(json.dumps({side: rows[-1] for side, rows in found.items()}), file=sys.stderr)
    return found


def summarise(laps: list[list[float]], reports: list[float]) -> dict[str, float]:
    """The best and the median step of a process, by both clocks, and what others used."""
    wall, own, busy = zip(*laps, strict=True)
    told = {
        f"{kind}_{name}": of(times)
        for kind, times in (("wall", wall), ("own_cpu", own))
        for name, of in (("best", min), ("median", statistics.median))
    }
    told["others_cores"] = (sum(busy) - sum(own)) / sum(wall)
    if reports:
        told["report_ms"] = 1000 * statistics.median(reports)
    return told


def describe(found: dict[str, list[dict[str, float]]]) -> Result:
    """What is kept of the measurements."""
    rows = []
    for kind, clock in (("wall", "wall time"), ("own_cpu", "processor time of the worker")):
        for name in ("median", "best"):
            ours, bare = ([r[f"{kind}_{name}"] for r in found[side]] for side in ("ray", "bare"))
            rows.append(
                Row(
                    f"a step inside Ray Train, {name}, {clock}",
                    ours,
                    bare,
                    "bare loop",
                    "s",
                    aim=Aim("at most", 1.03),
                    is_headline=kind == "wall",
                )
            )
    notes = {
        f"others_cores_{side}": round(statistics.median(r["others_cores"] for r in told), 2)
        for side, told in found.items()
    }
    notes["report_ms"] = round(statistics.median(r["report_ms"] for r in found["ray"]))
    return Result(rows, len(found["ray"]), ("ray", "torch"), notes=notes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--time", choices=("bare", "ray"), help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    add_option(parser)
    options = parser.parse_args()
    if options.time == "bare":
        print(json.dumps(time_bare(options.model, options.steps)))
    elif options.time == "ray":
        print(json.dumps(time_ray(options.model, options.steps)))
    else:
        result = describe(compare(options.rounds, options.steps))
        keep(options.result, result)
        for row in result.rows:
            print(f"{row.what}: {' '.join(format(ratio, '.3f') for ratio in row.ratios())}")
        print(json.dumps(result.notes))


if __name__ == "__main__":
    main()
