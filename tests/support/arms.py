"""Training that only leaves its settings, and a model that answers as its settings say."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.evaluation import evaluate as evaluation
from msrrec.models import ModelSource
from tests.support.evaluation import predict_here
from tests.support.models import write_safetensors


def fake_training(monkeypatch: pytest.MonkeyPatch, note: Callable[[RunConfig], None]) -> None:
    """Put a fake in the place of training, generating and Ray.

    Models trained at the learning rate 0.001 never name a candidate, nor do those of chains trained
    at 0.02 that answer directly.

    Args:
        monkeypatch: Undoes it after the test.
        note: Called with the settings of each training before it leaves a model.
    """

    def train(dataset: Dataset, reasoning: str, out: str, config: RunConfig) -> dict[str, Any]:
        note(config)
        merged = Path(out) / "merged"
        merged.mkdir(parents=True)
        (merged / "config.json").write_text("{}")
        names = (config.train.arm, str(config.train.learning_rate))
        write_safetensors(merged / "model.safetensors", names)
        counts = {"reasoning": 40, "recommendation": 9}
        settings = {"kind": "msrrec", "prompt": {}, "domain": "Home", "supervised_tokens": counts}
        settings["train"] = config.train.model_dump(mode="json")
        (Path(out) / "config.json").write_text(json.dumps(settings))
        return {"steps_resumed": 0}

    def predict(examples: Any, dataset: Dataset, source: ModelSource, *rest: Any) -> Any:
        parts = predict_here(examples, dataset, source, *rest)
        settings = json.loads((Path(source.path).parent / "config.json").read_text())
        rate, arm, sides = settings["train"]["learning_rate"], settings["train"]["arm"], rest[0]
        is_mute = rate == 0.001 or (rate, arm, *sides) == (0.02, "chain", "direct")
        if not is_mute:
            return parts
        return (
            (part, [replace(p, output=replace(p.output, index=None)) for p in predictions])
            for part, predictions in parts
        )

    monkeypatch.setattr("msrrec.training.loop.train", train)
    monkeypatch.setattr("msrrec.training.model.probe_for_training", lambda *_: None)
    monkeypatch.setattr("msrrec.loading.probe_for_inference", lambda *_: None)
    monkeypatch.setattr(evaluation, "predict", predict)
    monkeypatch.setattr("msrrec.stage.ray_session", lambda *_: contextlib.nullcontext())
