"""Loading the contents of a report: evaluations and sweeps below a folder."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from msrrec import storage
from msrrec.errors import DataError
from msrrec.evaluation.interventions import FaithfulnessResult
from msrrec.evaluation.results import EvaluationResult, ReasoningScores
from msrrec.evaluation.study_results import StudyResult
from msrrec.evaluation.systems import KINDS
from msrrec.report.paper import Statistics
from msrrec.report.plots import CURVES, TrainingPoint
from msrrec.report.results import SweepResult


@dataclass(frozen=True)
class Evaluated:
    """One evaluated system.

    Attributes:
        path: The folder of the evaluation.
        result: Its ``report/metrics.json``.
        training: The lines of the model's metrics.jsonl, if it exists.
        scores: Its ``report/reasoning.json``, if ``msrrec score`` wrote it.
        faithfulness: Its ``report/faithfulness.json``, if ``msrrec faithfulness`` wrote it.
    """

    path: str
    result: EvaluationResult
    training: Sequence[TrainingPoint] = ()
    scores: ReasoningScores | None = None
    faithfulness: FaithfulnessResult | None = None

    @property
    def label(self) -> str:
        """Name of the system in tables."""
        return self.result.system.label

    @property
    def is_permuted(self) -> bool:
        """Whether candidates had another order than the frozen one."""
        return bool(self.result.config.evaluate.permutation)

    @property
    def users(self) -> str:
        """A key that two results must share to be compared user by user."""
        result, dataset = self.result, self.result.dataset
        shared = (dataset.fingerprint, result.split, result.num_users)
        drawn = (dataset.negatives, dataset.num_negatives or 0)
        return "/".join(map(str, shared if dataset.negatives == "frozen" else (*shared, *drawn)))


def load_results(folder: str) -> list[Evaluated]:
    """All evaluations below a folder, except those of sweeps and studies.

    Raises:
        DataError: If there are none, or one can't be read.
    """
    own = (SweepResult.FILE, StudyResult.FILE)
    whole = [path for file in own for path in _find(folder, file)]
    apart = tuple(storage.without_options(path) + "/" for path in whole)
    paths = _find(folder, EvaluationResult.FILE)
    results = [
        load_result(path) for path in paths if not storage.without_options(path).startswith(apart)
    ]
    if not results:
        raise DataError(
            f"{folder}: found no {EvaluationResult.FILE} below it; expected folders made by "
            "`msrrec evaluate`"
        )
    return sorted(results, key=_place)


def load_sweeps(folder: str) -> list[SweepResult]:
    """The results of all sweeps below a folder."""
    return [SweepResult.load(path) for path in _find(folder, SweepResult.FILE)]


_COUNTS = ("num_users", "num_items", "num_interactions", "density")
"""Entries of a dataset's manifest that the paper's Table 1 has too."""


def load_statistics(results: Sequence[Evaluated]) -> list[Statistics]:
    """The size of each evaluated dataset, where its folder still holds what was evaluated."""
    found: dict[str, Statistics] = {}
    for dataset in (evaluated.result.dataset for evaluated in results):
        file = storage.join(dataset.path, storage.MANIFEST)
        if dataset.fingerprint in found or not _is_there(file):
            continue
        manifest = storage.read_object(file)
        if manifest.get("fingerprint") == dataset.fingerprint and manifest.keys() >= {*_COUNTS}:
            counts = {name: manifest[name] for name in _COUNTS}
            found[dataset.fingerprint] = Statistics(dataset.domain, **counts)
    return list(found.values())


def load_result(path: str) -> Evaluated:
    """One evaluation, with its model's training curve if that still exists.

    Raises:
        DataError: If a file is missing, of another kind or another schema version.
    """
    result = EvaluationResult.load(path)
    is_scored = storage.exists(storage.join(path, ReasoningScores.FILE))
    scores = ReasoningScores.load(path) if is_scored else None
    is_tested = storage.exists(storage.join(path, FaithfulnessResult.FILE))
    tested = FaithfulnessResult.load(path) if is_tested else None
    return Evaluated(path, result, _training(result), scores, tested)


def _find(folder: str, file: str) -> list[str]:
    """The folders, at any depth, that hold a file, sorted; not what killed runs have left."""
    root = storage.absolute(folder)
    names = [entry.name for entry in storage.walk(folder)]
    found = [name for name in names if f"/{name}".endswith("/" + file)]
    whole = [name for name in found if not storage.is_leftover(name)]
    folders = [name.removesuffix(file).rstrip("/") for name in whole]
    return sorted(storage.join(root, name) if name else root for name in folders)


def _is_there(path: str) -> bool:
    """Whether a file that the report can do without exists; its store may be out of reach."""
    try:
        return storage.exists(path)
    except DataError:
        return False


def _place(evaluated: Evaluated) -> tuple[int, int, bool, str]:
    """Sort key: baselines (random first), base models, then models with more variants."""
    system, variants = evaluated.result.system, evaluated.result.variants
    return KINDS.index(system.kind), len(variants), system.id != "random", system.label


def _training(result: EvaluationResult) -> list[TrainingPoint]:
    path = storage.join(result.model.model_dir, "metrics.jsonl") if result.model else ""
    if not path or not _is_there(path):
        return []
    lines = storage.read_bytes(path).decode("utf-8", errors="replace").splitlines()
    try:
        found = [json.loads(line) for line in lines if line.strip()]
    except ValueError as error:
        raise DataError(f"{path}: not JSON lines ({error})") from error
    return [
        TrainingPoint(
            float(line["step"]),
            {k: float(line[k]) for k in CURVES if isinstance(line.get(k), int | float)},
        )
        for line in found
        if "step" in line
    ]
