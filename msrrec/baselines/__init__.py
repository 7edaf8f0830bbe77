"""Systems to compare with, one file each, on the same frozen examples and in the same rows.

A baseline is fitted on the training split, makes its choices of settings on validation, and then
scores the frozen candidates, or writes which one it chooses. Those that learn item vectors live in
``sequential/``, those that tune a language model in ``language/``; both load torch.
"""

import hashlib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from msrrec.baselines.interface import Baseline, Writer
from msrrec.baselines.language import Section, tuning_config
from msrrec.config import RunConfig
from msrrec.errors import ConfigError


@dataclass(frozen=True)
class Entry:
    """Where a baseline is, and what its results follow from.

    Attributes:
        place: ``module:class`` below this package, imported only when the baseline is built.
        options: Arguments of the class beside the settings of the run.
        settings: Names in the config's section ``baselines`` that change its scores.
        shared: Files beside its own that do, from the package's folder and without their suffix;
            ``*`` stands for any name.
        needs_ray: Whether it is fitted on Ray.
        tunes: The config's section by which it tunes the backbone; None where it does not.
        kind: Whether it is a plain baseline, or a base or a trained language model.
        paper_row: The row of the paper's tables that it stands for, see ``evaluation.systems``.
    """

    place: str
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    needs_ray: bool = False
    tunes: Section | None = None
    kind: Literal["baseline", "base", "trained"] = "baseline"
    paper_row: str | None = None

    def build(self, config: RunConfig) -> Baseline | Writer:
        """The baseline, not fitted yet."""
        module, name = self.place.split(":")
        found = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        baseline: Baseline | Writer = found(config, **self.options)
        return baseline

    def chosen(self, config: RunConfig) -> dict[str, Any]:
        """The settings of a run that change its results, beside the seed; JSON values only."""
        found = {"baselines": config.baselines.model_dump(mode="json", include=set(self.settings))}
        if self.tunes:
            found |= config.model_dump(mode="json", include={"model", self.tunes})
            found["train"] = tuning_config(config, self.tunes).model_dump(mode="json")
        return found

    def code_hash(self) -> str:
        """16 hexadecimal digits that change with the files that make the scores."""
        return hash_code(f"baselines.{self.place.split(':')[0]}", *self.shared)


def hash_code(*names: str) -> str:
    """16 hexadecimal digits that change with the package's files of these names.

    Args:
        names: Such as ``training.loop``, or ``training.*`` for all of a folder.
    """
    folder = Path(__file__).parents[1]
    found = (sorted(folder.glob(f"{name.replace('.', '/')}.py")) for name in names)
    files = [file for some in found for file in some]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


_TRIALS = ("trials", "max_epochs", "patience", "batch_size", "history_length")
_PURCHASES = "baselines.purchases"
_SEQUENTIAL = (
    _PURCHASES,
    *(f"baselines.sequential.{name}" for name in ("rows", "loss", "trainer", "system")),
)
_LANGUAGE = (
    *(f"baselines.language.{name}" for name in ("tuning", "speaker")),
    *("training.*", "reasoning.*", "titles", "inference.codec"),
)


def _sequential(place: str, paper_row: str | None = None, **options: Any) -> Entry:
    return Entry(
        f"sequential.{place}", options, _TRIALS, _SEQUENTIAL, needs_ray=True, paper_row=paper_row
    )


def _tallrec(place: str, paper_row: str | None = None, *, trains: bool = True) -> Entry:
    return Entry(
        f"language.{place}",
        {"trains": trains},
        shared=("baselines.language.alpaca", *_LANGUAGE),
        needs_ray=True,
        tunes="tallrec",
        kind="trained" if trains else "base",
        paper_row=paper_row,
    )


def _llara(prompts: str, paper_row: str | None = None) -> Entry:
    return Entry(
        "language.llara:Llara",
        {"prompts": prompts},
        () if prompts == "text" else _TRIALS,
        (
            *("baselines.language.items", *_LANGUAGE),
            *("baselines.sequential.sasrec", *_SEQUENTIAL),
        ),
        needs_ray=True,
        tunes="llara",
        kind="trained",
        paper_row=paper_row,
    )


BASELINES: dict[str, Entry] = {
    "random": Entry("random:Random"),
    "popularity": Entry("popularity:Popularity", shared=(_PURCHASES,)),
    "item-knn": Entry("item_knn:ItemKnn", shared=(_PURCHASES,)),
    "category": Entry("category:SameCategory"),
    "bm25-last": Entry("bm25:Bm25", {"uses": "last"}),
    "bm25-mean": Entry("bm25:Bm25", {"uses": "mean"}),
    "embedding-last": Entry("embedding:Embedding", {"uses": "last"}, ("embedding_model",)),
    "embedding-mean": Entry("embedding:Embedding", {"uses": "mean"}, ("embedding_model",)),
    "caser": _sequential("caser:Caser", "Caser"),
    "gru4rec": _sequential("gru4rec:Gru4Rec", "GRU4Rec"),
    "sasrec": _sequential("sasrec:SasRec"),
    "sasrec-binary": _sequential("sasrec:SasRec", "SASRec", loss="binary"),
    "tallrec-gen": _tallrec("tallrec_gen:TallrecGen", "TALLRec (7B)"),
    "tallrec-gen-untrained": _tallrec("tallrec_gen:TallrecGen", trains=False),
    "tallrec-pointwise": _tallrec("tallrec_pointwise:TallrecPointwise"),
    "tallrec-pointwise-untrained": _tallrec("tallrec_pointwise:TallrecPointwise", trains=False),
    "llara": _llara("curriculum", "LLaRA (7B)"),
    "llara-text": _llara("text"),
    "llara-hybrid": _llara("hybrid"),
}


def build_baseline(name: str, config: RunConfig) -> Baseline | Writer:
    """A baseline by its name, not fitted yet.

    Raises:
        ConfigError: If there is no baseline of that name, or it lacks a setting.
    """
    if name not in BASELINES:
        raise ConfigError(f"baseline {name!r}: unknown; expected one of {', '.join(BASELINES)}")
    return BASELINES[name].build(config)
