"""The command ``pipeline``, which the command line adds to its own."""

import logging
from typing import Annotated

import typer

from msrrec import stage
from msrrec.arguments import (
    ConfigFile,
    DryRun,
    Interactions,
    Items,
    OutDir,
    Overrides,
    Source,
    Variants,
    expand,
    parse_variants,
)
from msrrec.command import emit, resolve, teacher_keys
from msrrec.console import hint_at_preset

logger = logging.getLogger("msrrec.cli")

SECTIONS = (
    *("data", "teacher", "synthesis", "prompt", "model", "train"),
    *("inference", "evaluate", "judge", "ray"),
)


def pipeline(
    source: Source,
    out: OutDir,
    interactions: Interactions = None,
    items: Items = None,
    score: Annotated[
        bool,
        typer.Option(
            "--score",
            help="Also ask the teacher about the evaluated users, and score the model's reasoning "
            "against its correct paths, as by `msrrec score`.",
        ),
    ] = False,
    variant: Variants = None,
    overrides: Overrides = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
) -> None:
    """Run all stages into one folder, from raw purchases to the report.

    The folders below --out are dataset, reasoning, model, evaluation and report, and references
    with --score. Finished stages are skipped, so the same command goes on after a stop or a
    failure. Missing keys and models are refused before the first stage.
    """
    files = {"interactions": interactions, "items": items}
    run = resolve("pipeline", config, overrides, dry_run, SECTIONS, source=source, out=out)
    if (hint := hint_at_preset(run)) is not None:
        logger.warning("pipeline: %s", hint)
    from msrrec.pipeline.pipeline import run_pipeline
    from msrrec.pipeline.stages import StageRunner

    stage.check_out(expand(out))
    variants = parse_variants(variant or ["user", "item", "full", "fused"])
    named = {name: path and expand(path) for name, path in files.items()}
    stages = StageRunner(expand(out), run, config, teacher_keys(run))
    emit(run_pipeline(stages, source, named, variants, scores=score))
