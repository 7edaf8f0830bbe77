"""Trainer, adapter, merged model and vLLM give the same log-probabilities to the same tokens.

vLLM has the adapter merged, and beside its base.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.parity import distance, engine_logprobs, trainer_logprobs, transformers_logprobs
from msrrec.config import InferenceConfig, PromptConfig
from msrrec.models import ModelSource, locate_model
from tests.support.dataset import write_dataset
from tests.support.training import make_config, write_paths

if TYPE_CHECKING:
    from msrrec.engines.vllm import VllmEngine

pytestmark = pytest.mark.integration


@contextmanager
def serving(engine: "VllmEngine", path: str, usual: str) -> Iterator[None]:
    """The one engine with other weights of the same shape for a while."""
    try:
        reload_weights(engine, path)
        yield
    finally:
        reload_weights(engine, usual)


def reload_weights(engine: "VllmEngine", path: str) -> None:
    engine.llm.collective_rpc("reload_weights", kwargs={"weights_path": path})
    assert engine.llm.reset_prefix_cache()


def test_what_is_exported_gives_the_trainers_log_probabilities(
    tmp_path: Path, embedded_source: ModelSource, vllm_engine: "VllmEngine"
) -> None:
    import numpy as np

    from msrrec.engines.vllm import VllmEngine
    from msrrec.training.checkpoint import save_checkpoint
    from msrrec.training.examples import build_examples, load_paths
    from msrrec.training.export import begin_folder, export_model
    from msrrec.training.learner import Learner
    from msrrec.training.model import add_lora, load_base, load_tokenizer

    dataset = write_dataset(tmp_path / "dataset", 8)
    write_paths(str(tmp_path / "paths"), dataset, 5)
    paths = load_paths(str(tmp_path / "paths"), dataset.examples("train"))
    source = embedded_source
    config = make_config(source.path, "train.learning_rate=0.03")
    examples = build_examples(dataset, paths, load_tokenizer(source), config.train, PromptConfig())
    model = add_lora(load_base(source, "float32", on_gpu=False), config.train)
    learner = Learner(model, config.train, bfloat16=False)
    for step in range(3):
        learner.step(step, examples, np.arange(len(examples)), 0.03)
    folder = begin_folder(str(tmp_path / "model"))
    (tmp_path / "checkpoint").mkdir()
    save_checkpoint(str(tmp_path / "checkpoint"), learner, 3, [])
    settings: dict[str, Any] = {"prompt": {}, "domain": dataset.domain}
    export_model(
        *(folder, str(tmp_path / "checkpoint"), [], source, "float32", settings),
        merged=True,
        on_gpu=False,
    )

    pairs = [examples[n] for n in range(len(examples))]
    adapter, merged = f"{folder}/adapter", locate_model(folder).path
    trained = trainer_logprobs(source, adapter, config, pairs)
    found = [
        transformers_logprobs(source.path, adapter, pairs),
        transformers_logprobs(merged, None, pairs),
    ]
    with serving(vllm_engine, merged, source.path):
        found.append(engine_logprobs(vllm_engine, pairs))
    assert [distance(ours, trained)["largest"] for ours in found] == pytest.approx(
        [0] * 3, abs=1e-3
    )
    untrained = engine_logprobs(vllm_engine, pairs)  # its own weights are back
    assert distance(untrained, transformers_logprobs(source.path, None, pairs))["largest"] < 1e-3
    assert distance(untrained, trained)["mean"] > 0.1

    options = InferenceConfig(constrained=True, vllm_kwargs={"dtype": "float32"})
    beside = VllmEngine(source, options, {"Toys": adapter})
    for name, expected in (("Toys", trained), (None, untrained), ("Toys", trained)):
        ours = engine_logprobs(beside, pairs, name)  # the prompts are in its cache
        assert distance(ours, expected)["largest"] < 1e-3, name
