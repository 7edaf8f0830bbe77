"""Sequential baselines on a real Ray: trials shared by two workers, and what a second fit does."""

from pathlib import Path

import pytest

from msrrec.baselines.sequential.sasrec import SasRec
from msrrec.comparison.compare import compare
from msrrec.comparison.registry import Run
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.evaluation.evaluate import fit_folder
from msrrec.evaluation.results import EvaluationResult
from tests.support.dataset import write_cycle

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_cycle(tmp_path_factory.mktemp("dataset"))


CONFIG = RunConfig.model_validate(
    {"baselines": {"trials": 3, "num_workers": 2, "max_epochs": 40, "batch_size": 64}}
)


def test_workers_share_the_trials_and_a_second_fit_trains_none_again(
    dataset: Dataset, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(
        update={"baselines": CONFIG.baselines.model_copy(update={"max_epochs": 3})}
    )
    first, second = SasRec(config), SasRec(config)
    facts = first.fit(dataset, str(tmp_path / "fit"))
    assert len(facts["trials"]) == 3
    assert facts["best"]["validation"] == max(t["validation"] for t in facts["trials"])
    assert second.fit(dataset, str(tmp_path / "fit")) == facts  # times of epochs and all
    examples = dataset.examples("test")
    assert second.score(examples) == first.score(examples)


def test_a_trained_system_stands_in_the_table_and_leaves_no_work_behind(
    dataset: Dataset, tmp_path: Path
) -> None:
    from msrrec.cluster import ray_session

    out = tmp_path / "out"
    summary = compare(["popularity", "gru4rec"], Run(dataset, str(out), CONFIG), ray_session)
    row = summary["systems"][1]
    assert row["system"] == "gru4rec"
    assert row["hit_ratio"]["value"] > 0.9
    (folder,) = (path for path in (out / "systems").iterdir() if path.name.startswith("gru4rec"))
    assert not Path(fit_folder(str(folder))).exists()
    fit = EvaluationResult.load(str(folder)).fit
    assert fit is not None
    assert fit.sequential is not None
    assert len(fit.sequential.trials) == 3
    page = (out / "report" / "index.html").read_text()
    assert "gru4rec: the best of 3 settings by MRR on validation" in page
