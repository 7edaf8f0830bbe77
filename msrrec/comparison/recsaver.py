"""RecSAVER's verification (Tsai et al. 2024) as a system: of several rationales, one that holds.

The teacher gives several rationales a user, each with a choice. In every rationale the candidates
are masked, and the teacher, without the history, names the candidate that the rest speaks for. The
choice that is recovered most often is the answer. What the user did buy is in none of this.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from msrrec.comparison.teacher import (
    check_frozen,
    name_model,
    read_choice,
    settings_for,
    to_prediction,
)
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.evaluation.results import ApiFacts, Details
from msrrec.evaluation.systems import SystemId
from msrrec.evaluation.write import Evaluation, write_evaluation
from msrrec.reasoning.parsing import split_completion
from msrrec.reasoning.prompts import render_recovery_prompt
from msrrec.stage import Summary
from msrrec.synthesis.journal import JournalEntry, hash_prompt
from msrrec.synthesis.requests import TeacherRequest, build_requests
from msrrec.synthesis.synthesize import collect
from msrrec.titles import mask_titles


@dataclass(frozen=True)
class Sample:
    """An answer that names a candidate.

    Attributes:
        choice: 0-based.
        check: The question which candidate the masked rationale speaks for, the same one for equal
            rationales of a user; None where the rationale says nothing.
    """

    record: JournalEntry
    choice: int
    check: TeacherRequest | None

    def recovered_choice(self, recovered: Mapping[str, int | None]) -> int | None:
        """The candidate that the rationale alone led to; None for no candidate."""
        return None if self.check is None else recovered.get(self.check.example_id)


def evaluate_verified(
    dataset: Dataset, out: str, answers: str, config: RunConfig, keys: Mapping[str, str]
) -> Summary:
    """Evaluate RecSAVER with verification: sample, verify, and write what was kept.

    ``evaluate.recsaver_samples`` rationales a user are asked for; each one that says something is
    verified by one more call, equal ones by the same. Arguments and errors are those of
    ``evaluate_teacher``.
    """
    check_frozen(config)
    asked = settings_for(config, "plain")
    questions = build_requests(dataset, asked)
    found = collect(questions, dataset, answers, asked, keys, config.evaluate.recsaver_samples)
    samples = [
        sample
        for (example_id, _), record in sorted(found.items())
        if (sample := read_sample(dataset, questions[example_id], record, asked))
    ]
    checks = {sample.check.example_id: sample.check for sample in samples if sample.check}
    verified = collect(checks, dataset, answers, asked, keys)
    recovered = {
        check_id: read_choice(record, checks[check_id].candidates)
        for (check_id, _), record in verified.items()
    }
    kept = keep_best(samples, recovered)
    examples = dataset.examples(config.evaluate.split, config.evaluate.num_users)
    predictions = [to_prediction(dataset, e, kept.get(e.example_id)) for e in examples]
    facts = ApiFacts(
        calls=len(found) + len(verified),
        samples=len(samples),
        verified=sum(s.check is not None and s.check.example_id in recovered for s in samples),
        recovered=sum(s.choice == s.recovered_choice(recovered) for s in samples),
        unanswered=len(examples) - len(kept),
    )
    system = identify_verified(name_model(kept, asked))
    evaluation = Evaluation(system, examples, {"full": predictions}, details=Details(api=facts))
    return write_evaluation(evaluation, dataset, out, config)


def identify_verified(model: str) -> SystemId:
    """RecSAVER with verification, which the paper's RecSAVER does not name."""
    label = f"RecSAVER verified ({model})"
    return SystemId(id="recsaver-verified", kind="api", label=label, paper_row=None)


def read_sample(
    dataset: Dataset, question: TeacherRequest, record: JournalEntry, config: RunConfig
) -> Sample | None:
    """An answer, and the question which candidate its rationale speaks for.

    None for an answer that names no candidate.
    """
    choice = read_choice(record, question.candidates)
    if choice is None:
        return None
    written = split_completion(record.text).reasoning
    for text in (written, record.reasoning_content or ""):
        rationale = mask_titles(text, question.candidates)
        if re.search(r"\w", rationale.replace("[item]", "")):
            break
    else:
        return Sample(record, choice, None)
    answer_format = config.model.answer_format
    prompt = render_recovery_prompt(dataset.domain, rationale, question.candidates, answer_format)
    key = hash_prompt(prompt)
    check_id = f"{question.example_id}, rationale {key}"
    check = TeacherRequest(check_id, prompt, key, question.candidates, question.target)
    return Sample(record, choice, check)


def keep_best(
    samples: Iterable[Sample], recovered: Mapping[str, int | None]
) -> dict[str, JournalEntry]:
    """The answer that is kept of each user, by example id; see ``choose``."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.record.example_id, []).append(sample)
    return {
        example_id: group[choose([(s.choice, s.recovered_choice(recovered)) for s in group])].record
        for example_id, group in groups.items()
    }


def choose(samples: Sequence[tuple[int, int | None]]) -> int:
    """Which of a user's samples is kept.

    One of the choice that was recovered most often; between equals, of the choice that was made
    more often, then of the one made first. Of its samples the first that was recovered, if any.

    Args:
        samples: What each chose, and what its rationale alone led to; None for no candidate.
    """
    made = [choice for choice, _ in samples]
    held = Counter(choice for choice, recovered in samples if choice == recovered)
    best = max(made, key=lambda choice: (held[choice], made.count(choice), -made.index(choice)))
    return samples.index((best, best)) if held[best] else made.index(best)
