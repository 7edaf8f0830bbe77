"""Check that an exported model gives the trainer's log-probabilities, token by token.

    python -m bench.parity --dataset DIR --reasoning DIR --model DIR

Natural log-probabilities of the supervised tokens of some training examples, in four ways:

    trainer   the training step's own forward pass, base and adapter
    adapter   transformers and PEFT on base and adapter/
    merged    transformers on merged/, where it is there
    vllm      the engine of evaluation and service, on merged/ or else adapter/, made to write them

Printed are the largest and the mean distance of each from the trainer's. All is computed in
float32, so more than 1e-3 is an error and the exit code 1; merged weights that were written in
bfloat16 are rounded once more and need a larger --tolerance.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from msrrec.config import RunConfig, load_config
from msrrec.models import ModelSource, locate_base, locate_model, read_settings
from msrrec.training.packing import Pair

Logprobs = list[list[float]]
"""Log-probabilities of each example's supervised tokens."""


def trainer_logprobs(
    source: ModelSource, adapter: str, config: RunConfig, pairs: Sequence[Pair]
) -> Logprobs:
    """Log-probabilities from the learner that training uses."""
    from msrrec.training.checkpoint import load_adapter
    from msrrec.training.learner import Learner
    from msrrec.training.model import add_lora, load_base

    model = add_lora(load_base(source, "float32", on_gpu=False), config.train)
    load_adapter(adapter, model)
    learner = Learner(model, config.train, bfloat16=False)
    return [learner.token_logprobs(pair) for pair in pairs]


def transformers_logprobs(path: str, adapter: str | None, pairs: Sequence[Pair]) -> Logprobs:
    """Log-probabilities from transformers, with PEFT if an adapter is given."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    found = []
    for ids, segments in pairs:
        places = np.flatnonzero(segments)
        with torch.no_grad():
            logits = model.eval()(input_ids=torch.from_numpy(ids)[None].long()).logits[0]
        found.append(logits.log_softmax(-1)[places - 1, ids[places]].tolist())
    return found


def engine_logprobs(engine: Any, pairs: Sequence[Pair], adapter: str | None = None) -> Logprobs:
    """Log-probabilities from an engine whose only allowed answer is each example's output."""
    from msrrec.inference.scoring import dictate

    requests = []
    for ids, segments in pairs:
        prompt, output = np.split(ids, [np.flatnonzero(segments)[0]])
        asked = dictate(tuple(prompt.tolist()), tuple(output[:-1].tolist()))
        requests.append(replace(asked, adapter=adapter))
    return [[*g.token_logprobs, g.end_logprob] for g in engine.generate(requests)]


def distance(ours: Logprobs, expected: Logprobs) -> dict[str, float]:
    """Largest and mean distance over all tokens, in natural log-probability."""
    off = [np.subtract(a, b) for a, b in zip(ours, expected, strict=True)]
    flat = np.abs(np.concatenate(off))
    return {"largest": float(flat.max()), "mean": float(flat.mean())}


def check(dataset: str, reasoning: str | None, model: str, count: int) -> dict[str, Any]:
    """The distances of a model's folder, by way of computation."""
    from msrrec.data.dataset import Dataset
    from msrrec.engines.vllm import VllmEngine
    from msrrec.training.loop import prepare_examples

    folder = Path(model)
    settings = read_settings(str(folder))
    if settings is None:
        sys.exit(f"{folder}: no folder that `msrrec train` has finished")
    config = load_config().model_validate({key: settings[key] for key in ("model", "train")})
    source, adapter = locate_base(config.model), str(folder / "adapter")
    examples = prepare_examples(Dataset.load(dataset), reasoning, source, config)
    pairs = [examples[n] for n in range(min(count, len(examples)))]
    expected = trainer_logprobs(source, adapter, config, pairs)
    found = {"adapter": transformers_logprobs(source.path, adapter, pairs)}
    if (folder / "merged" / "config.json").is_file():
        found["merged"] = transformers_logprobs(str(folder / "merged"), None, pairs)
    inference = config.inference.model_copy(
        update={"constrained": True, "vllm_kwargs": {"dtype": "float32"}}
    )
    found["vllm"] = engine_logprobs(VllmEngine(locate_model(model), inference), pairs)
    distances = {name: distance(logprobs, expected) for name, logprobs in found.items()}
    return {"examples": len(pairs), "tokens": sum(map(len, expected)), **distances}


def main() -> None:
    """Print the distances; the exit code is 1 if one is too large."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True, help="made by msrrec prepare")
    parser.add_argument("--reasoning", help="made by msrrec synthesize")
    parser.add_argument("--model", required=True, help="made by msrrec train")
    parser.add_argument("--examples", type=int, default=16)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    args = parser.parse_args()
    found = check(args.dataset, args.reasoning, args.model, args.examples)
    print(json.dumps(found))
    worst = max(found[name]["largest"] for name in ("adapter", "merged", "vllm") if name in found)
    if worst > args.tolerance:
        sys.exit(f"off by {worst:.1e}, more than {args.tolerance:.0e}")


if __name__ == "__main__":
    main()
