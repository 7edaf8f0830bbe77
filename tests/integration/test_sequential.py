"""Sequential baselines on a real Ray: trials shared by two workers, and what a second fit does."""

from pathlib import Path

import pyarrow as pa
import pytest

from msrrec import schema, storage
from msrrec.baselines.sequential.sasrec import SasRec
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.evaluation.compare import compare
from msrrec.evaluation.evaluate import fit_folder
from msrrec.evaluation.systems import Run

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]

NUM_ITEMS, NUM_USERS = 12, 48


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Everybody buys item n + 1 after item n; the last of twelve is followed by the first."""
    folder = str(tmp_path_factory.mktemp("dataset"))
    items = [{"item_id": f"i{n:02d}", "title": f"Thing {n}"} for n in range(NUM_ITEMS)]
    storage.write_table(f"{folder}/items.parquet", pa.Table.from_pylist(items, schema.ITEMS))
    for split, last in (("train", 5), ("validation", 6), ("test", 7)):
        rows = []
        for user in range(NUM_USERS):
            bought = [f"i{(user + k) % NUM_ITEMS:02d}" for k in range(last)]
            others = [f"i{(user + k) % NUM_ITEMS:02d}" for k in range(8, 11)]
            slot = user % 4
            rows.append(
                {
                    "example_id": f"{user}:{split}",
                    "user_id": f"u{user}",
                    "history": bought[:-1],
                    "target": bought[-1],
                    "candidates": [*others[:slot], bought[-1], *others[slot:]],
                }
            )
        table = pa.Table.from_pylist(rows, schema.EXAMPLES)
        storage.write_table(f"{folder}/{split}.parquet", table)
    manifest = {"schema_version": 1, "domain": "Things", "fingerprint": "cycle"}
    storage.write_json(f"{folder}/manifest.json", manifest)
    return Dataset.load(folder)


CONFIG = RunConfig.model_validate(
    {"baselines": {"trials": 3, "num_workers": 2, "max_epochs": 40, "batch_size": 64}}
)


def test_workers_share_the_trials_and_a_second_fit_trains_none_again(
    dataset: Dataset, tmp_path: Path
) -> None:
    first, second = SasRec(CONFIG), SasRec(CONFIG)
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
    metrics = storage.read_json(str(folder / "report" / "metrics.json"))
    assert len(metrics["fit"]["trials"]) == 3
    page = (out / "report" / "index.html").read_text()
    assert "gru4rec: the best of 3 settings by MRR on validation" in page
