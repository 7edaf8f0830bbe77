"""The command line: parse, call the library once, print one JSON line.

Exit codes: 0 done, 2 bad input (one sentence on stderr), 1 failure.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from msrrec import log
from msrrec.baselines import BASELINES
from msrrec.config import PRESETS, Config, RunConfig, load_config
from msrrec.data.sources import SOURCES
from msrrec.errors import ConfigError, MsrRecError
from msrrec.stage import Summary, run_stage

if TYPE_CHECKING:
    from msrrec.inference.fusion import SideOutput

logger = logging.getLogger("msrrec.cli")

app = typer.Typer(
    name="msrrec",
    help="Multi-step reasoning for LLM sequential recommendation, on Ray and vLLM.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML file of settings, sections as below.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SECTION.KEY=VALUE]...", help="Settings that go before the YAML file's."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings and stop.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Run a finished stage again.")]
DatasetDir = Annotated[str, typer.Option("--dataset", help="Folder made by `msrrec prepare`.")]
OutDir = Annotated[str, typer.Option("--out", help="Folder to write, local or s3:// or gs://.")]
Source = Annotated[
    str,
    typer.Option(
        metavar=f"[{'|'.join(SOURCES)}]",
        help="What the files are; demo is the embedded world and needs none.",
    ),
]
Interactions = Annotated[
    str | None, typer.Option(help="Reviews or ratings: a file, folder or glob.")
]
Items = Annotated[str | None, typer.Option(help="Titles: a file, folder or glob.")]
ModelDir = Annotated[
    str,
    typer.Option(
        "--model",
        help="Folder made by `msrrec train`, a base model's, `embedded`; evaluate also takes the "
        "name of a baseline, such as `popularity`.",
    ),
]


def settings_help(*sections: str) -> str:
    """The settings of some sections with defaults and meaning, for ``--help``."""
    defaults = RunConfig()
    lines = [
        line for section in sections for line in _describe(section, getattr(defaults, section))
    ]
    return "\n\n".join(["[bold]Settings[/bold]", *lines])


def _describe(name: str, config: Config) -> Iterator[str]:
    """One line a setting: its dotted name, its default and what it means."""
    for key, field in type(config).model_fields.items():
        value = getattr(config, key)
        if isinstance(value, Config):
            yield from _describe(f"{name}.{key}", value)
            continue
        default = json.dumps(value, default=str).replace("[", r"\[")
        yield f"[cyan]{name}.{key}[/cyan]={default}  {' '.join((field.description or '').split())}"


def resolve(
    config: Path | None, overrides: Sequence[str] | None, dry_run: bool, **arguments: Any
) -> RunConfig:
    """The settings of a run; with ``--dry-run`` they are printed and the command ends."""
    resolved = load_config(config, overrides or ())
    if dry_run:
        print(json.dumps({**arguments, **resolved.model_dump(mode="json")}))
        raise typer.Exit
    return resolved


def emit(summary: Summary) -> None:
    """The one line of stdout."""
    print(json.dumps(summary, ensure_ascii=False))


def teacher_keys(config: RunConfig) -> dict[str, str]:
    """The API keys of the teachers that the environment has, by its names for them."""
    names = {endpoint.api_key_env for endpoint in config.teacher.endpoints}
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def with_ray(config: RunConfig, work: Callable[[], Summary]) -> Callable[[], Summary]:
    """Work that runs on a cluster, started only when the work is not finished already."""

    def run() -> Summary:
        from msrrec.cluster import ray_session

        with ray_session(config.ray.address, config.ray.num_cpus):
            return work()

    return run


@app.command(epilog=settings_help("data", "ray"))
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
    """Raw purchases to a frozen dataset: k-core, users, splits, candidates."""
    run = resolve(config, overrides, dry_run, source=source, interactions=interactions, items=items)

    def work() -> Summary:
        from msrrec.data.prepare import check, prepare

        def make() -> Summary:
            return prepare(source, interactions, items, out, run.data)

        inputs = check(source, interactions, items, out, run.data)
        return with_ray(run, make)() if inputs.needs_ray else make()

    settings = {
        "source": source,
        "interactions": interactions,
        "items": items,
        "data": run.data.model_dump(mode="json"),
    }
    emit(run_stage("prepare", out, settings, work, overwrite=overwrite))


@app.command(epilog=settings_help("teacher", "synthesis", "inference", "ray"))
def synthesize(
    dataset: DatasetDir,
    out: OutDir,
    overrides: Overrides = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """A teacher's reasoning paths for the training examples, pruned.

    Answers are journaled as they arrive; a rerun goes on where the last one stopped.
    --overwrite judges the journal anew and pays for no answer again.
    --dry-run also estimates calls, tokens, cost and time, without a call.
    """
    run = load_config(config, overrides or ())
    if dry_run:
        from msrrec.data.dataset import Dataset
        from msrrec.synthesis.synthesize import estimate_run

        estimated = estimate_run(Dataset.load(dataset), out, run)
        emit({"dataset": dataset, "estimate": estimated, **run.model_dump(mode="json")})
        return

    def work() -> Summary:
        from msrrec.data.dataset import Dataset
        from msrrec.synthesis.synthesize import synthesize

        return synthesize(Dataset.load(dataset), out, run, teacher_keys(run))

    settings = dataset_settings(dataset) | run.model_dump(
        mode="json", include={"teacher": True, "synthesis": True, "model": {"answer_format"}}
    )
    emit(run_stage("synthesize", out, settings, with_ray(run, work), overwrite=overwrite))


@app.command(epilog=settings_help("model", "train", "ray"))
def train(
    dataset: DatasetDir,
    out: OutDir,
    reasoning: Annotated[
        str | None,
        typer.Option(help="Folder made by `msrrec synthesize`; not with train.reasoning=false."),
    ] = None,
    overrides: Overrides = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """LoRA fine-tuning on reasoning and behaviour with the weighted loss of Eq. 1-2."""
    run = resolve(config, overrides, dry_run, dataset=dataset, reasoning=reasoning)
    if run.train.reasoning and reasoning is None:
        raise ConfigError(
            "--reasoning: missing; give the folder made by `msrrec synthesize`, "
            "or set train.reasoning=false to train without"
        )

    def work() -> Summary:
        from msrrec.data.dataset import Dataset
        from msrrec.training.loop import train

        return train(Dataset.load(dataset), reasoning, out, run)

    settings = dataset_settings(dataset) | run.model_dump(mode="json", include={"model", "train"})
    settings["reasoning"] = reasoning
    emit(run_stage("train", out, settings, with_ray(run, work), overwrite=overwrite))


@app.command(epilog=settings_help("inference", "evaluate", "baselines", "model", "ray"))
def evaluate(
    dataset: DatasetDir,
    model: ModelDir,
    out: OutDir,
    name: Annotated[str | None, typer.Option(help="What tables call the system.")] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(help="fused, user, item, full or direct; repeat it for several."),
    ] = None,
    overrides: Overrides = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """HitRatio@1 and ValidRatio on the frozen candidates, one row a user."""
    run = resolve(config, overrides, dry_run, dataset=dataset, model=model)
    variants = parse_variants(variant or ["user", "item", "full", "fused"])

    def work() -> Summary:
        from msrrec.data.dataset import Dataset
        from msrrec.evaluation.evaluate import evaluate_system

        return evaluate_system(Dataset.load(dataset), model, out, run, variants, name=name)

    learned = {"baselines", "tallrec", "llara", "train"} if model in BASELINES else set()
    sections = {"inference", "evaluate", "model"} | learned
    settings = dataset_settings(dataset) | run.model_dump(mode="json", include=sections)
    settings |= {"model_dir": model, "variants": list(variants), "name": name}
    emit(run_stage("evaluate", out, settings, with_ray(run, work), overwrite=overwrite))


@app.command(epilog=settings_help("sweep", "train", "model", "inference", "ray"))
def sweep(
    dataset: DatasetDir,
    reasoning: Annotated[str, typer.Option(help="Folder made by `msrrec synthesize`.")],
    out: OutDir,
    variant: Annotated[
        list[str] | None, typer.Option(help="As of `msrrec evaluate`; unset: full and fused.")
    ] = None,
    overrides: Overrides = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Train and evaluate with different weights of reasoning and recommendation (Figure 6).

    Finished runs of a killed sweep are kept, and so are those of a narrower one.
    """
    run = resolve(config, overrides, dry_run, dataset=dataset, reasoning=reasoning)
    variants = parse_variants(variant or ["full", "fused"])

    def work() -> Summary:
        from msrrec.pipeline.sweep import sweep

        return sweep(dataset, reasoning, out, run, variants)

    settings = dataset_settings(dataset) | run.model_dump(
        mode="json", include={"sweep", "train", "model", "inference", "evaluate"}
    )
    settings |= {"reasoning": reasoning, "variants": list(variants)}
    emit(run_stage("sweep", out, settings, with_ray(run, work), overwrite=overwrite))


@app.command(epilog=settings_help("evaluate", "judge"))
def score(
    evaluation: Annotated[
        str, typer.Argument(metavar="DIR", help="Folder made by `msrrec evaluate`.")
    ],
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
    """METEOR, BERTScore, GPTScore and a judge's marks of the reasoning.

    The references are the teacher's correct paths for the same users. Votes of the judge are kept;
    a rerun, also with --overwrite, pays for none again.
    """
    run = resolve(config, overrides, dry_run, dataset=dataset, references=references)

    def work() -> Summary:
        from msrrec.data.dataset import Dataset
        from msrrec.evaluation.score import score_evaluation

        api_key = os.environ.get(run.judge.api_key_env)
        return score_evaluation(Dataset.load(dataset), evaluation, references, run, api_key)

    settings = dataset_settings(dataset) | run.model_dump(
        mode="json", include={"evaluate", "judge"}
    )
    settings["references"] = references
    record = f"{evaluation.rstrip('/')}/score"
    emit(run_stage("score", record, settings, work, overwrite=overwrite))


@app.command(
    epilog=settings_help(
        *("baselines", "tallrec", "llara", "inference", "evaluate"),
        *("model", "train", "teacher", "ray"),
    )
)
def compare(
    dataset: DatasetDir,
    out: OutDir,
    systems: Annotated[
        str,
        typer.Option(
            help="Names with commas between, in the order of the table: "
            + ", ".join(BASELINES)
            + "."
        ),
    ],
    reasoning: Annotated[
        str | None,
        typer.Option(help="Folder made by `msrrec synthesize`, for msrrec trained on the spot."),
    ] = None,
    overrides: Overrides = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Any list of systems on the same frozen examples: one table, intervals, paired tests.

    Each is run once: its result is found again by the hash of system, settings and data. A failing
    one is shown in the table, leaves the rest, and makes the exit code 1.
    """
    names = [name.strip() for name in systems.split(",") if name.strip()]
    run = resolve(config, overrides, dry_run, dataset=dataset, systems=names, reasoning=reasoning)
    from msrrec.cluster import ray_session
    from msrrec.comparison.compare import compare as compare_systems
    from msrrec.comparison.registry import Run
    from msrrec.data.dataset import Dataset

    def session() -> AbstractContextManager[None]:
        return ray_session(run.ray.address, run.ray.num_cpus)

    shared = Run(Dataset.load(dataset), out, run, reasoning, teacher_keys(run))
    summary = compare_systems(names, shared, session, overwrite=overwrite)
    emit(summary)
    if summary["failures"]:
        raise typer.Exit(1)


@app.command()
def report(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Evaluations below this folder.")],
) -> None:
    """One HTML page and JSON from all evaluations below a folder."""
    from msrrec.report.page import report_folder

    emit(report_folder(folder))


@app.command(epilog=settings_help("inference", "model"))
def recommend(
    model: ModelDir,
    history: Annotated[str, typer.Option(help="Titles, oldest first, between | signs.")],
    candidates: Annotated[str, typer.Option(help="Titles between | signs.")],
    domain: Annotated[
        str | None, typer.Option(help="What the prompt calls the shop; unset: the model's own.")
    ] = None,
    mode: Annotated[str, typer.Option(help="fused, user, item, full or direct.")] = "fused",
    overrides: Overrides = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
) -> None:
    """One recommendation with its reasoning."""
    run = resolve(config, overrides, dry_run, model=model)
    from msrrec.inference.recommender import Recommender

    chosen_mode = parse_variants([mode])[0]
    titles = [title.strip() for title in candidates.split("|")]
    recommender = Recommender.from_pretrained(model, run.inference)
    result = recommender.recommend(
        [title.strip() for title in history.split("|")], titles, domain=domain, mode=chosen_mode
    )
    if result.index is None:
        logger.warning("recommend: no output names exactly one of the candidates")
    emit(
        {
            "item": None if result.index is None else titles[result.index],
            "index": result.index,
            "side": result.side,
            "agreement": result.agreement,
            "reasoning": result.chosen.reasoning if result.chosen else None,
            "perplexity": result.chosen.perplexity if result.chosen else None,
            "sides": {output.side: describe_side(titles, output) for output in result.sides},
            "ranking": rank_titles(titles, result.chosen) if result.chosen else None,
        }
    )


def describe_side(titles: Sequence[str], output: "SideOutput") -> dict[str, Any]:
    """What one side said; its whole text where that names no candidate."""
    said = {"reasoning": output.reasoning, "perplexity": output.perplexity}
    if output.index is None:
        return {"item": None, **said, "text": output.text}
    return {"item": titles[output.index], **said}


def rank_titles(titles: Sequence[str], chosen: "SideOutput") -> list[dict[str, Any]] | None:
    """All candidates with their probability, likeliest first; None where it was not measured."""
    from msrrec.inference.fusion import candidate_probabilities

    shares = zip(titles, candidate_probabilities(chosen), strict=False)
    ranked = sorted(shares, key=lambda pair: -pair[1])
    return [{"item": title, "probability": share} for title, share in ranked] or None


@app.command(epilog=settings_help("serve", "inference", "ray"))
def serve(
    model: ModelDir,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="HTTP port.")] = None,
    overrides: Overrides = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
) -> None:
    """The online service: POST /v1/recommend and a web page."""
    given = [f"serve.{k}={v}" for k, v in (("host", host), ("port", port)) if v is not None]
    run = resolve(config, [*(overrides or ()), *given], dry_run, model=model)
    from serve.app import run as run_service

    run_service(model, run)


@app.command(epilog=settings_help("data", "synthesis", "train", "evaluate"))
def demo(
    out: OutDir = "runs/demo",
    source: Source = "demo",
    interactions: Interactions = None,
    items: Items = None,
    overrides: Overrides = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
) -> None:
    """The whole road on the embedded world, in minutes, then a page to look at.

    With another --source it goes through purchases of your own.
    """
    from msrrec.pipeline.demo import run_demo

    settings = config or PRESETS / "demo.yaml"
    run = resolve(settings, overrides, dry_run, out=out)
    emit(run_demo(out, run, source, interactions, items))


def dataset_settings(dataset: str) -> dict[str, Any]:
    """A dataset in a stage's settings: its folder and the hash of its files."""
    from msrrec.data.dataset import Dataset

    return {"dataset": dataset, "dataset_fingerprint": Dataset.load(dataset).fingerprint}


def parse_variants(names: Sequence[str]) -> tuple[Any, ...]:
    """Known variants, in the order given, commas allowed."""
    from msrrec.inference.recommender import MODES

    variants = tuple(part.strip() for name in names for part in name.split(","))
    for name in variants:
        if name not in MODES:
            raise ConfigError(f"variant {name!r}: unknown; expected one of {', '.join(MODES)}")
    return variants


def main(command: str | None = None) -> None:
    """Run the command line; with a command's name, its arguments are all of argv."""
    log.setup()
    arguments = [*([command] if command else []), *sys.argv[1:]]
    try:
        app(arguments, standalone_mode=True)
    except MsrRecError as error:
        print(f"msrrec: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
