"""Systems that tune the backbone, on a real Ray: a few steps, answers, and one table."""

from pathlib import Path
from typing import Any

import pytest

from msrrec.comparison.compare import compare
from msrrec.comparison.registry import Run
from msrrec.config import load_config
from msrrec.evaluation.evaluate import fit_folder
from msrrec.evaluation.results import EvaluationResult
from tests.support.dataset import write_cycle

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]

SYSTEMS = ("tallrec-gen", "tallrec-pointwise", "llara")
SETTINGS = (
    "model.dtype=float32",
    "train.micro_batch_size=8",
    "train.max_failures=0",
    *(f"{s}.{v}" for s in ("tallrec", "llara") for v in ("num_epochs=1", "global_batch_size=16")),
    "baselines.trials=1",
    "baselines.max_epochs=3",
    "evaluate.num_users=12",
)


def test_each_trains_answers_and_stands_in_the_table(base: str, tmp_path: Path) -> None:
    from msrrec.cluster import ray_session

    dataset, out = write_cycle(tmp_path / "dataset"), tmp_path / "out"
    config = load_config(overrides=[*SETTINGS, f"model.name_or_path={base}"])
    run = Run(dataset, str(out), config)
    summary = compare(SYSTEMS, run, ray_session)
    assert summary["failures"] == {}
    assert [row["label"] for row in summary["systems"]] == list(SYSTEMS)
    found: dict[str, EvaluationResult] = {}
    for folder in (out / "systems").glob("*-*[0-9a-f]"):
        assert not Path(fit_folder(str(folder))).exists()
        result = EvaluationResult.load(str(folder))
        found[result.system.id] = result
    # 48 examples in batches of 16; the pointwise one has two prompts of each.
    facts: dict[str, Any] = {name: found[name].fit.facts for name in SYSTEMS}
    assert {name: facts[name]["steps"] for name in SYSTEMS} == dict(
        zip(SYSTEMS, (3, 6, 3), strict=True)
    )
    assert facts["llara"]["sasrec"]["size"] == 64
    assert {result.system.kind for result in found.values()} == {"trained"}
    pointwise = found["tallrec-pointwise"].variants["tallrec-pointwise"]
    assert pointwise.valid_ratio.value == 1
    assert pointwise.ranking.num_scored == 12
    assert found["llara"].variants["llara"].ranking is None
