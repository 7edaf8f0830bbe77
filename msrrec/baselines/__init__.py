"""Baselines: systems to compare with, one file each, on the same frozen examples.

A baseline is fitted on the training split and chooses its settings on validation. Then it scores
the frozen candidates, or writes which one it chooses. Baselines that learn item vectors are in
``sequential/``, those that fine-tune a language model in ``language/``; both import torch.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from msrrec.baselines.interface import Baseline, Writer
from msrrec.baselines.language import Section, tuning_config
from msrrec.config import RunConfig
from msrrec.errors import ConfigError
from msrrec.fingerprint import fingerprint_setting


@dataclass(frozen=True)
class Entry:
    """Where a baseline is implemented, and what decides its results.

    Attributes:
        place: ``module:class`` below this package, imported only when the baseline is built.
        options: Arguments of the class besides the settings of the run.
        settings: Names in the config's section ``baselines`` that change its scores.
        needs_ray: Whether it is fitted on Ray.
        tunes: The section of settings for fine-tuning the backbone; None if it does not.
        kind: Whether it is a plain baseline, or a base or a trained language model.
        revision: Number to raise when changed code gives other results for the same data.
        paper_row: The row of the paper's tables that it corresponds to, see ``evaluation.systems``.
    """

    place: str
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    needs_ray: bool = False
    tunes: Section | None = None
    kind: Literal["baseline", "base", "trained"] = "baseline"
    revision: int = 1
    paper_row: str | None = None

    def build(self, config: RunConfig) -> Baseline | Writer:
        """The baseline, not fitted yet."""
        module, name = self.place.split(":")
        found = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        baseline: Baseline | Writer = found(config, **self.options)
        return baseline

    def decisive(self, config: RunConfig) -> dict[str, Any]:
        """The settings of a run that affect its results, besides the seed; JSON values only."""
        values = config.baselines.decisive(fingerprint_setting)
        found: dict[str, Any] = {"baselines": {name: values[name] for name in self.settings}}
        if self.tunes:
            own = getattr(config, self.tunes).decisive(fingerprint_setting)
            train = tuning_config(config, self.tunes).decisive(fingerprint_setting)
            model = config.model.decisive(fingerprint_setting)
            form = config.prompt.decisive(fingerprint_setting)
            found |= {"model": model, "prompt": form, self.tunes: own, "train": train}
        return found


_TRIALS = ("trials", "max_epochs", "patience", "batch_size", "history_length")


def _sequential(
    place: str, paper_row: str | None = None, *, revision: int = 1, **options: Any
) -> Entry:
    return Entry(
        f"sequential.{place}",
        options,
        _TRIALS,
        needs_ray=True,
        revision=revision,
        paper_row=paper_row,
    )


def _tallrec(place: str, paper_row: str | None = None, *, trains: bool = True) -> Entry:
    return Entry(
        f"language.{place}",
        {"trains": trains},
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
        needs_ray=True,
        tunes="llara",
        kind="trained",
        paper_row=paper_row,
    )


def _likelihood(*, gain: bool) -> Entry:
    place, options = "language.likelihood:Likelihood", {"gain": gain}
    return Entry(place, options, needs_ray=True, tunes="tallrec", kind="base")


BASELINES: dict[str, Entry] = {
    "random": Entry("random:Random"),
    "popularity": Entry("popularity:Popularity"),
    "item-knn": Entry("item_knn:ItemKnn"),
    "category": Entry("category:SameCategory"),
    "bm25-last": Entry("bm25:Bm25", {"uses": "last"}),
    "bm25-mean": Entry("bm25:Bm25", {"uses": "mean"}),
    "embedding-last": Entry("embedding:Embedding", {"uses": "last"}, ("embedding_model",)),
    "embedding-mean": Entry("embedding:Embedding", {"uses": "mean"}, ("embedding_model",)),
    "bm25-tuned": Entry("bm25:TunedBm25", {}, ("trials",)),
    "item-knn-tuned": Entry("item_knn:TunedItemKnn", {}, ("trials",)),
    "graph": Entry("graph:Graph", {}, ("trials",)),
    "embedding-max": Entry("embedding:Embedding", {"uses": "max"}, ("embedding_model",)),
    "caser": _sequential("caser:Caser", "Caser"),
    "gru4rec": _sequential("gru4rec:Gru4Rec", "GRU4Rec"),
    "sasrec": _sequential("sasrec:SasRec"),
    "sasrec-binary": _sequential("sasrec:SasRec", "SASRec", loss="binary"),
    "sasrec-official": _sequential("sasrec_official:SasRecOfficial", loss="binary"),
    "sasrec-sampled": _sequential("sasrec_official:SasRecOneBlock", loss="sampled", revision=2),
    "gsasrec": _sequential("sasrec_official:GSasRec", loss="gbce", revision=2),
    "esasrec": _sequential("esasrec:ESasRec", loss="sampled", revision=2),
    "tallrec-gen": _tallrec("tallrec_gen:TallrecGen", "TALLRec (7B)"),
    "tallrec-gen-untrained": _tallrec("tallrec_gen:TallrecGen", trains=False),
    "tallrec-pointwise": _tallrec("tallrec_pointwise:TallrecPointwise"),
    "tallrec-pointwise-untrained": _tallrec("tallrec_pointwise:TallrecPointwise", trains=False),
    "lm-likelihood": _likelihood(gain=False),
    "lm-gain": _likelihood(gain=True),
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
        raise ConfigError(f"baseline {name!r}: is unknown; expected one of {', '.join(BASELINES)}")
    return BASELINES[name].build(config)
