"""The whole pipeline in one run: prepare, synthesize, train, evaluate, perhaps score, report.

Stages are those of their own commands, in folders below the output folder. A finished one is
skipped, so the same command goes on where a killed or stopped run ended. Each stage takes its
resources while it runs and gives them back, and what would refuse a later stage is looked for
before the first one begins.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from msrrec.chat.keys import find_key, require_key
from msrrec.cluster import ray_session
from msrrec.config import for_references
from msrrec.errors import ConfigError
from msrrec.inference.recommender import Mode
from msrrec.models import locate_base
from msrrec.pipeline.stages import StageRunner
from msrrec.stage import Summary, is_finished
from msrrec.weights import check_source

logger = logging.getLogger(__name__)

DATASET, REASONING, MODEL, EVALUATION = "dataset", "reasoning", "model", "evaluation"
REFERENCES = "references"


def run_pipeline(
    stages: StageRunner,
    source: str,
    files: Mapping[str, str | None],
    variants: Sequence[Mode],
    *,
    scores: bool = False,
) -> Summary:
    """Run every stage that is not finished, then write the report.

    Args:
        stages: The output folder, the settings and the keys.
        source: As ``prepare`` takes it.
        files: ``interactions`` and ``items``, where the source reads files.
        variants: Variants to evaluate.
        scores: Whether the teacher also writes references about the evaluated users, against which
            the model's reasoning is scored.

    Returns:
        The summary of each stage, by its command's name.

    Raises:
        MsrRecError: What a stage raised; the finished ones stay.
    """
    check_ahead(stages, scores=scores)
    begin, config, done = time.monotonic(), stages.config, {}
    names = (REASONING, MODEL, EVALUATION, REFERENCES)
    reasoning, model, evaluation, references = map(stages.place, names)

    def step(name: str, run: Callable[[], Summary]) -> None:
        done[name] = run()
        logger.info("%s: %s", name, json.dumps(done[name], ensure_ascii=False))

    with ray_session(*config.ray.session):
        step("prepare", lambda: stages.prepare(source, files))
        step("synthesize", lambda: stages.synthesize(reasoning, config))
        step("train", lambda: stages.train(model, reasoning, config))
        step("evaluate", lambda: stages.evaluate(evaluation, model, variants))
        if scores:
            wanted = for_references(config)
            step("synthesize references", lambda: stages.synthesize(references, wanted))
            step("score", lambda: stages.score(evaluation, references))
    from msrrec.report.page import report_folder

    done["report"] = report_folder(stages.out)
    seconds = round(time.monotonic() - begin, 1)
    return {"out": stages.out, "page": done["report"]["page"], "seconds": seconds, "stages": done}


def check_ahead(stages: StageRunner, *, scores: bool) -> None:
    """Refuse before the first stage what would else be refused hours later.

    Raises:
        ConfigError: If a key is missing for calls that are still to be made.
        ModelError: If the base model is missing or damaged.
    """
    from msrrec.synthesis.synthesize import require_keys

    config, keys = stages.config, stages.keys
    asking = (REASONING, REFERENCES) if scores else (REASONING,)
    if not all(is_finished(stages.place(name)) for name in asking):
        require_keys(config.teacher, keys)
    if scores and not is_finished(stages.place(EVALUATION, "score")):
        require_key("judge", config.judge, find_key(config.judge, keys))
    if scores and config.synthesis.split == config.evaluate.split:
        raise ConfigError(
            f"synthesis.split={config.synthesis.split}: is the split that is evaluated; expected "
            "another, as the model would learn from the references it is scored against"
        )
    if not is_finished(stages.place(MODEL)):
        check_source(locate_base(config.model))
