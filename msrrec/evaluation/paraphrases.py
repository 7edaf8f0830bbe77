"""Chains in other words for the intervention ``paraphrase``: by a program, or by the teacher."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from msrrec import storage
from msrrec.cluster import ray_session
from msrrec.config import RunConfig
from msrrec.data.dataset import Dataset
from msrrec.evaluation.interventions import ParaphraseFacts
from msrrec.evaluation.trials import Case
from msrrec.reasoning.edits import PARAPHRASER, WrittenParaphrase, paraphrase, read_paraphrase
from msrrec.reasoning.prompts import Side, render_paraphrase_prompt
from msrrec.synthesis.journal import JournalEntry, hash_prompt
from msrrec.synthesis.requests import TeacherRequest
from msrrec.synthesis.synthesize import collect

FOLDER = "faithfulness/paraphrases"
"""Folder of the teacher's answers inside an evaluation."""

_BROKEN_OFF = ("length", "content_filter")


@dataclass(frozen=True)
class Paraphrased:
    """Cases with their chains in other words, who wrote these, and how many can be used."""

    cases: tuple[Case, ...]
    paraphraser: str = PARAPHRASER
    facts: ParaphraseFacts | None = None


def write_paraphrases(
    cases: Sequence[Case],
    side: Side,
    dataset: Dataset,
    evaluation: str,
    config: RunConfig,
    keys: Mapping[str, str],
) -> Paraphrased:
    """The cases with their chains in other words, as ``evaluate.paraphraser`` says.

    Args:
        cases: Users with a whole chain.
        side: Whose chains they are.
        dataset: The dataset of the evaluation.
        evaluation: Its folder, where the teacher's answers are kept: none is paid for twice.
        config: Sections ``evaluate``, ``teacher``, ``synthesis`` (its caps) and ``ray``.
        keys: API keys by the names of their environment variables.

    Raises:
        EngineError: If every teacher refuses, can't be reached, or fails call after call.
        DataError: If the answers can't be kept.
        ConfigError: If money is capped and a price is missing.
    """
    asked = config.evaluate
    if asked.paraphraser == "program" or "paraphrase" not in asked.interventions:
        written = (paraphrase(case.until_matching(side), case.titles) for case in cases)
        pairs = zip(cases, written, strict=True)
        return Paraphrased(tuple(replace(case, paraphrase=text) for case, text in pairs))
    requests = {case.key: _request(case, side) for case in cases}
    out = storage.join(evaluation, FOLDER)
    with ray_session(*config.ray.session):
        found = collect(requests, dataset, out, config, keys)
    return read_paraphrases(cases, side, {key: entry for (key, _), entry in found.items()})


def read_paraphrases(
    cases: Sequence[Case], side: Side, answers: Mapping[str, JournalEntry]
) -> Paraphrased:
    """The cases with the paraphrases that a teacher wrote, as far as these can be used.

    A case whose paraphrase can't be used has none: nothing else takes its place.

    Args:
        cases: Users with a whole chain.
        side: Whose chains they are.
        answers: The teacher's answers by example id.
    """
    read = [_read(case, side, answers.get(case.key)) for case in cases]
    flaws = Counter(one.flaw for one in read if one.flaw is not None)
    names = sorted({entry.teacher for entry in answers.values()})
    return Paraphrased(
        tuple(replace(case, paraphrase=one.text) for case, one in zip(cases, read, strict=True)),
        f"teacher: {', '.join(names) or 'no answer'}",
        ParaphraseFacts(
            num_asked=len(cases),
            num_usable=len(cases) - flaws.total(),
            flaws=dict(sorted(flaws.items())),
        ),
    )


def _request(case: Case, side: Side) -> TeacherRequest:
    prompt = render_paraphrase_prompt(case.until_matching(side))
    return TeacherRequest(case.key, prompt, hash_prompt(prompt), case.shown, case.target)


def _read(case: Case, side: Side, entry: JournalEntry | None) -> WrittenParaphrase:
    if entry is None or not entry.text.strip() or entry.finish_reason in _BROKEN_OFF:
        return WrittenParaphrase(flaw="unanswered")
    return read_paraphrase(entry.text, case.until_matching(side), case.titles)
