"""RecSAVER's verification (Tsai et al. 2024): of several rationales, keep a verified one.

The teacher writes several rationales per user, each with a choice. In every rationale the
candidates are masked, and the teacher, without the history, names the candidate that the rest
recommends. The answer is the choice that is recovered most often. The target is not used.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from msrrec.comparison.teacher import (
    ONLY_FROZEN,
    name_model,
    read_choice,
    settings_for,
    to_prediction,
)
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.evaluation.examples import check_frozen
from msrrec.evaluation.results import ApiFacts, Details
from msrrec.evaluation.systems import SystemId
from msrrec.evaluation.write import EvaluatedPart, Evaluation, write_evaluation
from msrrec.reasoning.parsing import split_completion
from msrrec.reasoning.prompts import render_recovery_prompt
from msrrec.stage import Summary
from msrrec.synthesis.journal import JournalEntry, hash_prompt
from msrrec.synthesis.requests import TeacherRequest, build_requests
from msrrec.synthesis.synthesize import collect
from msrrec.titles import mask_titles


@dataclass(frozen=True)
class Sample:
    """A completion that names a candidate.

    Attributes:
        choice: 0-based.
        check: The request to name the candidate that the masked rationale recommends, shared by
            equal rationales of a user; None if the rationale is empty.
    """

    entry: JournalEntry
    choice: int
    check: TeacherRequest | None

    def recovered_choice(self, recovered: Mapping[str, int | None]) -> int | None:
        """The candidate recovered from the rationale alone; None for no candidate."""
        return None if self.check is None else recovered.get(self.check.example_id)


def evaluate_verified(
    dataset: Dataset, out: str, answers: str, config: RunConfig, keys: Mapping[str, str]
) -> Summary:
    """Evaluate RecSAVER with verification: sample, verify, and write the kept completions.

    ``evaluate.recsaver_samples`` rationales are requested per user. Each rationale that is not
    empty is verified by one more call; equal ones share the call. Arguments and errors are those of
    ``evaluate_teacher``.
    """
    check_frozen(config, ONLY_FROZEN)
    asked = settings_for(config, "plain")
    requests = build_requests(dataset, asked)
    found = collect(requests, dataset, answers, asked, keys, config.evaluate.recsaver_samples)
    samples = [
        sample
        for (example_id, _), entry in sorted(found.items())
        if (sample := read_sample(dataset, requests[example_id], entry, asked))
    ]
    checks = {sample.check.example_id: sample.check for sample in samples if sample.check}
    verified = collect(checks, dataset, answers, asked, keys)
    recovered = {
        check_id: read_choice(entry, checks[check_id].candidates)
        for (check_id, _), entry in verified.items()
    }
    kept = keep_best(samples, recovered)
    examples = dataset.examples(config.evaluate.split, config.evaluate.num_users)
    predictions = [
        to_prediction(dataset, e, kept.get(e.example_id), config.prompt) for e in examples
    ]
    facts = ApiFacts(
        calls=len(found) + len(verified),
        samples=len(samples),
        verified=sum(s.check is not None and s.check.example_id in recovered for s in samples),
        recovered=sum(s.choice == s.recovered_choice(recovered) for s in samples),
        unanswered=len(examples) - len({example_id for example_id, _ in found}),
    )
    system = identify_verified(name_model(kept, asked))
    part = EvaluatedPart(examples, {"full": predictions})
    evaluation = Evaluation(system, [part], lambda: Details(api=facts), form=config.prompt)
    return write_evaluation(evaluation, dataset, out, config)


def identify_verified(model: str) -> SystemId:
    """The identity of RecSAVER with verification, which has no row in the paper."""
    label = f"RecSAVER verified ({model})"
    return SystemId(id="recsaver-verified", kind="api", label=label, paper_row=None)


def read_sample(
    dataset: Dataset, request: TeacherRequest, entry: JournalEntry, config: RunConfig
) -> Sample | None:
    """A completion with its choice, and the request that verifies its rationale.

    None for a completion that names no candidate.
    """
    choice = read_choice(entry, request.candidates)
    if choice is None:
        return None
    written = split_completion(entry.text).reasoning
    for text in (written, entry.reasoning_content or ""):
        rationale = mask_titles(text, request.candidates)
        if re.search(r"\w", rationale.replace("[item]", "")):
            break
    else:
        return Sample(entry, choice, None)
    prompt = render_recovery_prompt(dataset.domain, rationale, request.candidates, config.prompt)
    key = hash_prompt(prompt)
    check_id = f"{request.example_id}, rationale {key}"
    check = TeacherRequest(check_id, prompt, key, request.candidates, request.target)
    return Sample(entry, choice, check)


def keep_best(
    samples: Iterable[Sample], recovered: Mapping[str, int | None]
) -> dict[str, JournalEntry]:
    """The kept completion of each user, by example id; see ``choose``."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.entry.example_id, []).append(sample)
    return {
        example_id: group[choose([(s.choice, s.recovered_choice(recovered)) for s in group])].entry
        for example_id, group in groups.items()
    }


def choose(samples: Sequence[tuple[int, int | None]]) -> int:
    """Index of the sample of a user that is kept.

    The choice recovered most often wins, then the choice made more often, then the one made first.
    Of its samples the first recovered one is kept, or else the first.

    Args:
        samples: The choice of each sample, and the candidate recovered from its rationale or None.
    """
    made = [choice for choice, _ in samples]
    held = Counter(choice for choice, recovered in samples if choice == recovered)
    best = max(made, key=lambda choice: (held[choice], made.count(choice), -made.index(choice)))
    return samples.index((best, best)) if held[best] else made.index(best)
