"""Systems to compare with, one file each, on the same frozen examples and in the same rows.

A baseline is fitted on the training split, makes its choices of settings on validation, and then
scores the frozen candidates. Those that learn item vectors live in ``sequential/`` and load torch.
"""

import hashlib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msrrec.baselines.interface import Baseline
from msrrec.config import RunConfig
from msrrec.errors import ConfigError


@dataclass(frozen=True)
class Entry:
    """Where a baseline is, and what its results follow from.

    Attributes:
        place: ``module:class`` below this package, imported only when the baseline is built.
        options: Arguments of the class beside the settings of the run.
        settings: Names in the config's section ``baselines`` that change its scores.
        shared: Files beside its own that do, without their suffix.
        needs_ray: Whether it is fitted on Ray.
    """

    place: str
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    needs_ray: bool = False

    def build(self, config: RunConfig) -> Baseline:
        """The baseline, not fitted yet."""
        module, name = self.place.split(":")
        found = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        baseline: Baseline = found(config, **self.options)
        return baseline

    def code_hash(self) -> str:
        """16 hexadecimal digits that change with the files that make the scores."""
        names = (self.place.split(":")[0], *self.shared)
        folder = Path(__file__).parent
        files = [folder / f"{name.replace('.', '/')}.py" for name in names]
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _sequential(place: str, **options: Any) -> Entry:
    return Entry(
        f"sequential.{place}",
        options,
        ("trials", "max_epochs", "patience", "batch_size", "history_length"),
        ("purchases", *(f"sequential.{name}" for name in ("rows", "loss", "trainer", "system"))),
        needs_ray=True,
    )


BASELINES: dict[str, Entry] = {
    "random": Entry("random:Random"),
    "popularity": Entry("popularity:Popularity"),
    "item-knn": Entry("item_knn:ItemKnn", shared=("purchases",)),
    "category": Entry("category:SameCategory"),
    "bm25-last": Entry("bm25:Bm25", {"uses": "last"}),
    "bm25-mean": Entry("bm25:Bm25", {"uses": "mean"}),
    "embedding-last": Entry("embedding:Embedding", {"uses": "last"}, ("embedding_model",)),
    "embedding-mean": Entry("embedding:Embedding", {"uses": "mean"}, ("embedding_model",)),
    "caser": _sequential("caser:Caser"),
    "gru4rec": _sequential("gru4rec:Gru4Rec"),
    "sasrec": _sequential("sasrec:SasRec"),
    "sasrec-binary": _sequential("sasrec:SasRec", loss="binary"),
}


def build_baseline(name: str, config: RunConfig) -> Baseline:
    """A baseline by its name, not fitted yet.

    Raises:
        ConfigError: If there is no baseline of that name, or it lacks a setting.
    """
    if name not in BASELINES:
        raise ConfigError(f"baseline {name!r}: unknown; expected one of {', '.join(BASELINES)}")
    return BASELINES[name].build(config)
