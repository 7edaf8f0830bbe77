"""RecSAVER's verification (Tsai et al. 2024) as a system: of several rationales, one that holds.

The teacher reasons as often as it is told and chooses each time. In every rationale the candidates
are masked, and the teacher must tell from what is left, without the history, which of them it
speaks for. The choice that is brought back most often is the answer. What the user did buy is in
none of this.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.evaluation.evaluate import Evaluation, write_evaluation
from msrrec.evaluation.teacher import (
    KIND,
    check_frozen,
    name_model,
    read_choice,
    settings_for,
    to_row,
)
from msrrec.reasoning.parsing import split_output
from msrrec.reasoning.prompts import render_recovery_prompt
from msrrec.reasoning.titles import mask_titles
from msrrec.stages import Summary
from msrrec.synthesis.calls import Question
from msrrec.synthesis.journal import Record, hash_prompt
from msrrec.synthesis.synthesize import build_questions, collect

Samples = list[tuple[Record, int]]
"""Of one user: answers that name a candidate, and its 0-based number, in the order asked."""


def evaluate_verified(
    dataset: Dataset, out: str, answers: str, config: RunConfig, keys: Mapping[str, str]
) -> Summary:
    """Ask, verify, and write the answers that hold.

    ``evaluate.recsaver_samples`` rationales a user are asked for, and each is verified by one more
    call. Arguments and errors are those of ``evaluate_teacher``.
    """
    check_frozen(config)
    asked = settings_for(config, "plain")
    examples = dataset.examples(config.evaluate.split, config.evaluate.num_users)
    questions = build_questions(dataset, asked)
    found = collect(questions, dataset, answers, asked, keys, config.evaluate.recsaver_samples)
    samples: dict[str, Samples] = {}
    for (example_id, _), record in sorted(found.items()):
        choice = read_choice(record, questions[example_id].candidates)
        if choice is not None:
            samples.setdefault(example_id, []).append((record, choice))
    checks = {
        _check_id(record): mask(dataset, questions[record.example_id], record, asked)
        for group in samples.values()
        for record, _ in group
    }
    recovered = {
        check_id: read_choice(record, checks[check_id].candidates)
        for (check_id, _), record in collect(checks, dataset, answers, asked, keys).items()
    }
    kept = {
        example_id: group[choose([(n, recovered.get(_check_id(r))) for r, n in group])][0]
        for example_id, group in samples.items()
    }
    rows = [to_row(dataset, example, kept.get(example.example_id)) for example in examples]
    choices = [(n, recovered.get(_check_id(r))) for group in samples.values() for r, n in group]
    facts = {
        "calls": len(found) + len(recovered),
        "samples": len(choices),
        "recovered": sum(chosen == back for chosen, back in choices),
        "unanswered": len(examples) - len(kept),
    }
    name = name_model(kept, asked)
    evaluation = Evaluation(f"RecSAVER verified ({name})", KIND, examples, {"full": rows})
    return write_evaluation(evaluation, dataset, out, config, {"api": facts})


def mask(dataset: Dataset, question: Question, record: Record, config: RunConfig) -> Question:
    """The question which candidate an answer's rationale speaks for."""
    reasoning = split_output(record.text).reasoning
    prompt = render_recovery_prompt(
        dataset.domain,
        mask_titles(reasoning, question.candidates),
        question.candidates,
        config.model.answer_format,
    )
    return Question(
        _check_id(record), prompt, hash_prompt(prompt), question.candidates, question.target
    )


def _check_id(record: Record) -> str:
    return f"{record.example_id}, sample {record.attempt}"


def choose(samples: Sequence[tuple[int, int | None]]) -> int:
    """Which of a user's samples is kept.

    The first one of the choice that was recovered most often; between equals, the choice that was
    made more often, then the one made first. A sample that was recovered itself comes first.

    Args:
        samples: What each chose, and what its rationale brought back; None for no candidate.
    """
    held = Counter(choice for choice, back in samples if choice == back)
    made = Counter(choice for choice, _ in samples)

    def worth(n: int) -> tuple[int, int, bool, int]:
        choice, back = samples[n]
        return held[choice], made[choice], choice == back, -n

    return max(range(len(samples)), key=worth)
