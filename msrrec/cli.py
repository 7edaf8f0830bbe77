"""The command line: parse arguments, run one stage or library function, print one JSON line.

Exit codes: see ``msrrec.console.run_guarded``, which ends every command.
"""

import logging
import sys
from functools import partial
from typing import Annotated, Literal

import typer

from msrrec import (
    __version__,
    index_command,
    log,
    pipeline_command,
    recommend_command,
    rollout_command,
    stage,
)
from msrrec.arguments import (
    AdapterDirs,
    ConfigFile,
    DatasetDir,
    DryRun,
    EvaluationDir,
    Interactions,
    Items,
    ModelDir,
    OutDir,
    Overrides,
    Overwrite,
    Source,
    Variants,
    check_baseline_name,
    expand,
    parse_variants,
)
from msrrec.baselines import BASELINES
from msrrec.command import emit, resolve, run_stage, teacher_keys
from msrrec.comparison.registry import system_names
from msrrec.console import hint_at_preset, run_guarded, settings_help, show_settings
from msrrec.data.columns import describe_columns
from msrrec.errors import ConfigError

logger = logging.getLogger("msrrec.cli")

app = typer.Typer(
    name="msrrec",
    help="Multi-step reasoning for LLM sequential recommendation, on Ray and vLLM.",
    epilog="In order: prepare, synthesize, train, evaluate, compare, report, recommend, serve. "
    "`msrrec pipeline` runs prepare, synthesize, train, evaluate and report on your purchases, "
    "`msrrec demo` on generated ones; `msrrec study` tells whether reasoning helps.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

_PREPARE = ("data", "ray")
_COLUMNS = "\n\n[bold]Columns of --source table[/bold]\n" + describe_columns()


@app.command(epilog=settings_help(*_PREPARE) + _COLUMNS.replace("\n", "\n\n"))
def prepare(
    source: Source,
    out: OutDir,
    interactions: Interactions = None,
    items: Items = None,
    overrides: Overrides = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Turn raw purchases into a frozen dataset: k-core, users, splits, candidates."""
    inputs = {"interactions": interactions, "items": items}
    run = resolve("prepare", config, overrides, dry_run, _PREPARE, source=source, **inputs)
    run_stage(stage.PREPARE, out, run, inputs, overwrite, source=source)


_SYNTHESIZE = ("teacher", "synthesis", "prompt", "inference", "ray")


@app.command(epilog=settings_help(*_SYNTHESIZE))
def synthesize(
    dataset: DatasetDir,
    out: OutDir,
    overrides: Overrides = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Ask a teacher for reasoning paths on the training examples, and prune them.

    Completions are journaled as they arrive; a rerun continues where the last one stopped.
    --overwrite judges the journal again without paying for a completion twice. --dry-run also
    estimates calls, tokens, cost and time, without a call.
    """
    run = resolve("synthesize", config, overrides, False, _SYNTHESIZE)
    if dry_run:
        from msrrec.data.dataset import Dataset
        from msrrec.synthesis.synthesize import estimate_run

        estimated = estimate_run(Dataset.load(dataset), out, run)
        show_settings("synthesize", run, _SYNTHESIZE)
        emit({"dataset": dataset, "estimate": estimated, **run.model_dump(mode="json")})
        return
    run_stage(stage.SYNTHESIZE, out, run, {"dataset": dataset}, overwrite)


_TRAIN = ("model", "prompt", "train", "ray")


@app.command(epilog=settings_help(*_TRAIN))
def train(
    dataset: DatasetDir,
    out: OutDir,
    reasoning: Annotated[
        str | None,
        typer.Option(help="Folder made by `msrrec synthesize`; train.arm=none may do without."),
    ] = None,
    overrides: Overrides = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Fine-tune the student with LoRA on reasoning and purchases (weighted loss, Eq. 1-2)."""
    inputs = {"dataset": dataset, "reasoning": reasoning}
    run = resolve("train", config, overrides, dry_run, _TRAIN, **inputs)
    if (hint := hint_at_preset(run)) is not None:
        logger.warning("train: %s", hint)
    run_stage(stage.TRAIN, out, run, inputs, overwrite)


_FITTED = dict.fromkeys(name for entry in BASELINES.values() for name in entry.settings)
_EVALUATE = (
    *stage.EVALUATE.sections,
    *("model", "prompt", *(f"baselines.{name}" for name in _FITTED), "baselines.num_workers"),
    *("tallrec", "llara", "train", "ray"),
)


@app.command(epilog=settings_help(*_EVALUATE))
def evaluate(
    dataset: DatasetDir,
    model: ModelDir,
    out: OutDir,
    name: Annotated[str | None, typer.Option(help="Name of the system in tables.")] = None,
    variant: Variants = None,
    overrides: Overrides = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Measure HitRatio@1 and ValidRatio on the frozen candidates of every user.

    The default variants are user, item, full and fused. The settings of the sections baselines,
    tallrec, llara and train are those of baselines that are fitted.
    """
    run = resolve("evaluate", config, overrides, dry_run, _EVALUATE, dataset=dataset, model=model)
    check_baseline_name(model)
    if model not in BASELINES:
        variants = list(parse_variants(variant or ["user", "item", "full", "fused"]))
        inputs = {"dataset": dataset, "model": model}
        run_stage(stage.EVALUATE, out, run, inputs, overwrite, variants=variants, name=name)
        return
    for option, value in (("--variant", variant), ("--name", name)):
        if value:
            raise ConfigError(
                f"{option}: {model} is a baseline, which does not take this option; leave it out"
            )
    run_stage(stage.EVALUATE_BASELINE, out, run, {"dataset": dataset}, overwrite, system=model)


_SWEEP = ("sweep", "train", "model", "prompt", "inference", "evaluate", "judge", "ray")


@app.command(epilog=settings_help(*_SWEEP))
def sweep(
    dataset: DatasetDir,
    reasoning: Annotated[str, typer.Option(help="Folder made by `msrrec synthesize`.")],
    out: OutDir,
    references: Annotated[
        str | None,
        typer.Option(
            help="Folder made by `msrrec synthesize` with synthesis.split set to that of the "
            "sweep: the reasoning of every run is scored against it, as by `msrrec score`."
        ),
    ] = None,
    variant: Variants = None,
    overrides: Overrides = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Train and evaluate with several weights of reasoning and recommendation (Figure 6).

    The default variants are full and fused. Finished runs of a killed or smaller sweep are reused.
    """
    inputs = {"dataset": dataset, "reasoning": reasoning, "references": references}
    run = resolve("sweep", config, overrides, dry_run, _SWEEP, **inputs)
    variants = list(parse_variants(variant or ["full", "fused"]))
    run_stage(stage.SWEEP, out, run, inputs, overwrite, variants=variants)


@app.command(epilog=settings_help(*stage.SCORE.sections))
def score(
    evaluation: EvaluationDir,
    dataset: DatasetDir,
    references: Annotated[
        str,
        typer.Option(help="Folder made by `msrrec synthesize` with synthesis.split=test."),
    ],
    overrides: Overrides = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Score the reasoning: METEOR, BERTScore, GPTScore and the marks of a judge.

    The references are the teacher's correct paths for the same users. The judge's votes are kept,
    so a rerun, even with --overwrite, pays for none again.
    """
    inputs = {"dataset": dataset, "references": references}
    run = resolve("score", config, overrides, dry_run, stage.SCORE.sections, **inputs)
    run_stage(stage.SCORE, evaluation, run, {**inputs, "evaluation": evaluation}, overwrite)


_FAITHFULNESS = (
    *(*stage.FAITHFULNESS.sections, "evaluate.paraphraser"),
    *("model", "prompt", "inference", "teacher", "synthesis", "ray"),
)


@app.command(epilog=settings_help(*_FAITHFULNESS))
def faithfulness(
    evaluation: EvaluationDir,
    dataset: DatasetDir,
    model: ModelDir,
    side: Annotated[
        Literal["full", "user", "item"] | None,
        typer.Option(help="Whose chains are changed. Unset: the first that was evaluated."),
    ] = None,
    overrides: Overrides = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Change a model's chains, and measure how often its choices change with them.

    Chains are cut, misled, reworded or replaced by filler, and purchases left out or shuffled
    (after Lanham et al. 2023); each share stands beside that of a control. With
    evaluate.paraphraser=teacher the teacher of the settings words them anew, and is paid once.
    """
    inputs = {"dataset": dataset, "evaluation": evaluation, "model": model}
    run = resolve("faithfulness", config, overrides, dry_run, _FAITHFULNESS, **inputs)
    run_stage(stage.FAITHFULNESS, evaluation, run, inputs, overwrite, side=side)


_COMPARE = (
    *("baselines", "tallrec", "llara", "inference", "evaluate"),
    *("model", "prompt", "train", "teacher", "synthesis", "ray"),
)


@app.command(epilog=settings_help(*_COMPARE))
def compare(
    dataset: DatasetDir,
    out: OutDir,
    systems: Annotated[
        str,
        typer.Option(
            help="Comma-separated names, in the order of the table: "
            f"{', '.join(system_names())}, LABEL=FOLDER of a trained model, or "
            "LABEL=FILE of predictions (.parquet, .csv, .jsonl)."
        ),
    ],
    reasoning: Annotated[
        str | None,
        typer.Option(
            help="Folder made by `msrrec synthesize`; needed by systems that are trained on it."
        ),
    ] = None,
    overrides: Overrides = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Compare systems on the same frozen examples: one table, intervals, paired tests.

    Each system runs once; its result is reused while its inputs and settings are unchanged. A
    system that fails is shown in the table, does not stop the others, and makes the exit code 1.
    """
    names = [name.strip() for name in systems.split(",") if name.strip()]
    arguments = {"dataset": dataset, "systems": names, "reasoning": reasoning}
    run = resolve("compare", config, overrides, dry_run, _COMPARE, **arguments)
    from msrrec.cluster import ray_session
    from msrrec.comparison.compare import compare as compare_systems
    from msrrec.comparison.registry import Run
    from msrrec.data.dataset import Dataset
    from msrrec.lock import locked

    session = partial(ray_session, *run.ray.session)
    stage.check_out(out)
    with locked(out):
        shared = Run(Dataset.load(dataset), out, run, reasoning, teacher_keys(run))
        summary = compare_systems(names, shared, session, overwrite=overwrite)
    emit(summary)
    if summary["failures"]:
        raise typer.Exit(1)


_STUDY = (
    *("study", "data", "teacher", "synthesis", "model", "prompt"),
    *("train", "baselines", "inference", "evaluate", "ray"),
)


@app.command(epilog=settings_help("study", "baselines", "evaluate"))
def study(
    out: OutDir,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder made by `msrrec prepare`; repeat it for several. Unset: the generated "
            "worlds of study.worlds."
        ),
    ] = None,
    hits: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="A hits.parquet of another study or script; repeat it for several. Nothing is "
            "trained: only the verdict, JSON and page are made.",
        ),
    ] = None,
    reading: Annotated[
        list[str] | None,
        typer.Option(
            help="With --hits: the readings to compare; repeat it, as an arm is compared under the "
            "first that it has. Unset: full, fused, user, item, direct."
        ),
    ] = None,
    overrides: Overrides = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Does reasoning help, by itself? Arms, prompt orders, seeds and datasets to one verdict.

    Each arm trains on the same purchases in as many steps; only the text before the answer differs.
    Each learns at the rate that is best on validation (baselines.arm_learning_rates). Reasoning is
    then compared with purchases alone, with another user's reasoning and with facts asked apart, on
    the same users and seeds, corrected by Holm. The first key of the JSON line is the verdict.
    Finished trainings and evaluations are reused, so a killed or extended study goes on. The page
    is written after each seed. --dry-run shows what is left to do, for how long, and what
    differences can be found. The default settings are those of --config study.
    """
    _check_hits(hits, reading, "--dataset" if dataset else "--dry-run" if dry_run else "")
    run = resolve("study", config or "study", overrides, False, _STUDY)
    from msrrec.lock import locked
    from msrrec.pipeline.study import run_study, tell_hits
    from msrrec.pipeline.study_plan import plan_study

    folders, out = [expand(path) for path in dataset or ()], expand(out)
    if dry_run:
        show_settings("study", run, ("study",))
        emit({**plan_study(folders, out, run), **run.model_dump(mode="json")})
        return
    stage.check_out(out)
    with locked(out):
        if hits:
            summary = tell_hits([expand(path) for path in hits], out, reading or ())
        else:
            summary = run_study(folders, out, run, teacher_keys(run), overwrite=overwrite)
    emit(summary)
    if summary["failures"]:
        raise typer.Exit(1)


def _check_hits(hits: list[str] | None, reading: list[str] | None, other: str) -> None:
    """Refuse options of ``msrrec study`` that do not go together.

    Args:
        hits: Values of ``--hits``.
        reading: Values of ``--reading``.
        other: An option that is given and means that something is run; empty for none.

    Raises:
        ConfigError: If they don't.
    """
    if hits and other:
        raise ConfigError(
            f"--hits: found {other} beside it; expected it alone, as files of hits are read and "
            "nothing is run; leave one of the two out"
        )
    if reading and not hits:
        raise ConfigError(
            "--reading: found no --hits; expected files of hits, whose readings it chooses; set "
            "study.reading for arms that are run"
        )


@app.command()
def report(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Folder with evaluations below it.")],
) -> None:
    """Write one HTML page and a JSON file about all evaluations below a folder."""
    from msrrec.report.page import report_folder

    emit(report_folder(folder))


_EXPORT = (*stage.EVALUATE_BASELINE.sections, "prompt")


@app.command("export-lm-eval", epilog=settings_help(*_EXPORT))
def export_lm_eval(
    dataset: DatasetDir, out: OutDir, overrides: Overrides = None, config: ConfigFile = None
) -> None:
    """Write the frozen candidates as tasks of lm-eval, for any model that it can load."""
    run = resolve("export-lm-eval", config, overrides, False, _EXPORT)
    from msrrec.evaluation.lm_eval import export_tasks

    emit(export_tasks(dataset, out, run.evaluate, run.prompt))


app.command(epilog=settings_help(*recommend_command.SECTIONS))(recommend_command.recommend)

_SERVE = ("serve", "inference", "recommend", "model", "prompt", "ray")


@app.command(epilog=settings_help(*_SERVE))
def serve(
    model: ModelDir,
    adapter: AdapterDirs = None,
    index: Annotated[
        str | None,
        typer.Option(help="Folder made by `msrrec index`: candidates of requests without any."),
    ] = None,
    recommendations: Annotated[
        str | None,
        typer.Option(
            help="Folder made by `msrrec recommend --out`: answers to requests with user_id alone."
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Network address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="HTTP port.")] = None,
    overrides: Overrides = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
) -> None:
    """Start the online service: POST /v1/recommend and a web page."""
    given = [f"serve.{k}={v}" for k, v in (("host", host), ("port", port)) if v is not None]
    given = [*(overrides or ()), *given]
    run = resolve("serve", config, given, dry_run, _SERVE, model=model)
    from msrrec.own_packages import import_own

    shop = {"index": index and expand(index)}
    shop["recommendations"] = recommendations and expand(recommendations)
    import_own("serve.own_ray").prepare_serve()  # before Ray Serve is imported, which reads it then
    adapters = import_own("serve.adapters").name_adapters([*map(expand, adapter or ())])
    import_own("serve.app").run(model, run, **shop, adapters=adapters)


_DEMO = (
    *(*_PREPARE, "teacher", "synthesis", "model", "prompt"),
    *("train", "inference", "evaluate", "serve"),
)


@app.command(epilog=settings_help("data", "synthesis", "prompt", "train", "evaluate"))
def demo(
    out: OutDir = "runs/demo",
    source: Source = "demo",
    interactions: Interactions = None,
    items: Items = None,
    overrides: Overrides = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
) -> None:
    """Run every stage on the embedded world, in minutes: report, service, one recommendation.

    The page is report/index.html below --out. With another --source it runs on your own purchases.
    The default settings are those of --config demo.
    """
    preset = config or "demo"
    run = resolve("demo", preset, overrides, dry_run, (*_DEMO, "judge"), out=out)
    from msrrec.pipeline.demo import run_demo

    files = {"interactions": interactions, "items": items}
    emit(run_demo(out, run, preset, source, files))


app.command(epilog=settings_help(*pipeline_command.SECTIONS))(pipeline_command.pipeline)
app.command(epilog=settings_help("retrieval", "ray"))(index_command.index)
app.command(epilog=rollout_command.HELP)(rollout_command.rollout)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"msrrec {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also show the logs of Ray, Serve and vLLM.")
    ] = False,
) -> None:
    """Options of all commands."""
    if not verbose:
        log.quiet_libraries()


def main(command: str | None = None) -> None:
    """Run the command line; given a command's name, all of argv are its arguments."""
    log.setup()
    run_guarded(lambda: app([*([command] if command else []), *sys.argv[1:]], standalone_mode=True))
