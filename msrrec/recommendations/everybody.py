"""Recommending for every user of a dataset: retrieval, chains, ranking, files and a page."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from msrrec import storage
from msrrec.config import InferenceConfig, RunConfig
from msrrec.data.dataset import Dataset
from msrrec.data.partitions import Partitions
from msrrec.errors import ConfigError
from msrrec.fingerprint import hash_parts, identify_dataset, identify_model
from msrrec.inference.batch import Answered, BuildRecommender, open_journal, predict
from msrrec.inference.journal import OutputJournal
from msrrec.inference.predictions import Prediction
from msrrec.inference.ranking import confidence
from msrrec.inference.recommender import Mode, Recommender, sides_of
from msrrec.models import ModelSource, locate_model
from msrrec.recommendations.candidates import CandidateSearch, find_candidates, read_reasons
from msrrec.recommendations.page import Sample, write_page
from msrrec.recommendations.rows import Offer, Versions, make_offers, to_table
from msrrec.retrieval.folder import load_index
from msrrec.retrieval.index import Index
from msrrec.schema import Example
from msrrec.stage import Summary

PAGE, DEAD_LETTERS = "index.html", "dead_letters.jsonl"
NAMES = ("part-*.parquet", PAGE, DEAD_LETTERS, storage.RECORD)
"""Names in a folder of recommendations."""


def recommend_everybody(
    dataset: Dataset,
    index_path: str,
    model_dir: str,
    out: str,
    config: RunConfig,
    *,
    mode: Mode = "fused",
    users: Sequence[str] | None = None,
    build: BuildRecommender = Recommender.from_source,
) -> Summary:
    """Write the best items of a catalogue for each user, in partitions, and a page with a sample.

    What is found and generated is kept beside ``out`` until all is written, so a run that was
    killed goes on where it ended.

    Args:
        dataset: Every purchase of its users counts, held-out ones too.
        index_path: Folder of an index that was built on this dataset.
        model_dir: The model, as for ``Recommender.from_pretrained``.
        out: Folder of the result.
        config: Settings; ``recommend`` and ``inference`` count.
        mode: Which chains are written; ``routed`` is not for this.
        users: Ids of the users; None for all.
        build: Makes the recommender of each engine.

    Raises:
        DataError: If a user is unknown, or the index is of another dataset.
        ConfigError: If the mode is ``routed``.
        EngineError: If the engines fail.
    """
    if mode == "routed":
        raise ConfigError("--mode: is routed; expected fused, user, item, full or direct")
    index = load_index(index_path)
    index.require_dataset(dataset.fingerprint, dataset.path)
    source = locate_model(model_dir, config.model, config.prompt)
    wanted = _wanted(dataset, index, index_path, config, users)
    found = find_candidates(dataset, wanted, storage.beside(out, ".candidates"))
    catalogue = {item.item_id: item for item in index.catalogue.items}
    whole = replace(dataset, items=dataset.items | catalogue)
    work = _Work(
        whole, source, mode, config, wanted, Versions(identify_model(source), index.version)
    )
    return work.run(found, out, build)


def _wanted(
    dataset: Dataset,
    index: Index,
    path: str,
    config: RunConfig,
    users: Sequence[str] | None,
) -> CandidateSearch:
    count, length = config.recommend.num_candidates, _history_length(dataset)
    listed = sorted(set(users)) if users is not None else []
    facts = [identify_dataset(dataset), index.version, str((count, length, users is None))]
    identity = hash_parts([*facts, *listed])
    return CandidateSearch(
        identity,
        storage.absolute(path),
        count,
        length,
        frozenset(listed) if users is not None else None,
    )


def _history_length(dataset: Dataset) -> int:
    """The purchases that examples of this dataset show, with which its models were trained."""
    return int(dataset.manifest.get("config", {}).get("history_length") or 10)


@dataclass(frozen=True)
class _Work:
    """One run over all users, after retrieval."""

    dataset: Dataset
    source: ModelSource
    mode: Mode
    config: RunConfig
    wanted: CandidateSearch
    versions: Versions

    def run(self, found: Partitions, out: str, build: BuildRecommender) -> Summary:
        """Generate, write, and return the summary."""
        journal, candidates = self._journal(out), storage.beside(out, ".candidates")
        sides = sides_of(self.mode)
        answered = predict(found, self.dataset, self.source, sides, self._settings, journal, build)
        tally = Tally()
        with storage.atomic_folder(out, NAMES) as folder:
            with OfferWriter(folder) as writer:
                for part in self._decide(answered):
                    writer.write(part)
                    tally.add(part)
                    self._add_sample(tally, part)
            summary = self._describe(tally)
            reasons = read_reasons(candidates, [one.user_id for one in tally.sample])
            write_page(storage.join(folder, PAGE), summary, tally.sample, reasons)
        journal.delete()
        storage.delete_folder(candidates)
        return {"out": out, **summary}

    @property
    def _settings(self) -> InferenceConfig:
        """The settings of inference, with what names a candidate in any case and ranks them all."""
        always = {"constrained": True, "candidate_logprobs": True}
        return self.config.inference.model_copy(update=always)

    def _journal(self, out: str) -> OutputJournal:
        identity = {
            "candidates": self.wanted.identity,
            "model": self.versions.model,
            "sides": list(sides_of(self.mode)),
        }
        return open_journal(storage.beside(out, ".journal"), identity, self._settings)

    def _decide(self, answered: Iterator[Answered]) -> Iterator[list["Decided"]]:
        sides = len(sides_of(self.mode))
        for examples, predictions in answered:
            groups = [predictions[n : n + sides] for n in range(0, len(predictions), sides)]
            yield [self._decide_one(*pair) for pair in zip(examples, groups, strict=True)]

    def _decide_one(self, example: Example, outputs: Sequence[Prediction]) -> "Decided":
        error = next((p.error for p in outputs if p.error), None)
        if error is not None:
            return Decided(example, (), error, is_valid=False)
        by_side = {p.output.side: p.output for p in outputs}
        found = Recommender.decide(self.mode, by_side)  # type: ignore[arg-type]
        settings, is_valid = self.config.recommend, found.index is not None
        sure = confidence(found, settings.confidence_temperature)
        if settings.min_confidence and (sure or 0.0) < settings.min_confidence:
            return Decided(example, (), None, is_valid=is_valid)
        items = self.dataset.items
        offers = make_offers(example, found, items, settings.top_k, self.versions, sure)
        return Decided(example, tuple(offers), None, is_valid=is_valid)

    def _add_sample(self, tally: "Tally", part: Sequence["Decided"]) -> None:
        left = max(self.config.recommend.sample_users - len(tally.sample), 0)
        tally.sample += [
            Sample(one.example.user_id, tuple(self.dataset.titles(one.example.history)), one.offers)
            for one in [one for one in part if one.offers][:left]
        ]

    def _describe(self, tally: "Tally") -> Summary:
        """What the run was, and what came out."""
        return {
            **tally.counts,
            "domain": self.dataset.domain,
            "num_candidates": self.wanted.count,
            "top_k": self.config.recommend.top_k,
            "mode": self.mode,
            "model": self.versions.model,
            "index": self.versions.index,
        }


@dataclass(frozen=True)
class Decided:
    """What one user is offered.

    Attributes:
        example: The user, with purchases and candidates.
        offers: The best items; none if the user was refused, or the best one is too unsure.
        error: Why the user was refused, or None.
        is_valid: Whether an output names a candidate; if none does, likelihood alone ranks.
    """

    example: Example
    offers: tuple[Offer, ...]
    error: str | None
    is_valid: bool


@dataclass
class Tally:
    """The users so far, by what became of them, and those on the page."""

    counts: dict[str, int] = field(
        default_factory=lambda: {"users": 0, "offered": 0, "invalid": 0, "refused": 0}
    )
    sample: list[Sample] = field(default_factory=list)

    def add(self, part: Sequence[Decided]) -> None:
        """Count the users of a partition."""
        self.counts["users"] += len(part)
        self.counts["offered"] += sum(bool(one.offers) for one in part)
        self.counts["invalid"] += sum(not one.is_valid and one.error is None for one in part)
        self.counts["refused"] += sum(one.error is not None for one in part)


class OfferWriter:
    """The files of offers and of refused users, written partition by partition."""

    def __init__(self, folder: str) -> None:
        self._folder, self._files = folder, ExitStack()
        self._num_parts = 0
        self._dead_letters: Any = None

    def __enter__(self) -> "OfferWriter":
        return self

    def __exit__(self, *raised: Any) -> None:
        self._files.__exit__(*raised)

    def write(self, part: Sequence[Decided]) -> None:
        """Write a partition into a file of its own, and its refused users."""
        path = storage.join(self._folder, f"part-{self._num_parts:05d}.parquet")
        table = to_table([offer for one in part for offer in one.offers])
        storage.write_bytes(path, storage.table_bytes(table))
        self._num_parts += 1
        if refused := [one for one in part if one.error]:
            self._write_refused(refused)

    def _write_refused(self, refused: Sequence[Decided]) -> None:
        self._dead_letters = self._dead_letters or self._files.enter_context(
            storage.open_output(storage.join(self._folder, DEAD_LETTERS))
        )
        rows = ({"user_id": one.example.user_id, "error": one.error} for one in refused)
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self._dead_letters.write("".join(lines).encode())
