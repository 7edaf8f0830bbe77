"""The command ``recommend``, which the command line adds to its own."""

import logging
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from msrrec import stage
from msrrec.arguments import (
    ConfigFile,
    DryRun,
    ModelDir,
    Overrides,
    Overwrite,
    expand,
    parse_mode,
)
from msrrec.command import emit, resolve, run_stage
from msrrec.config import RunConfig
from msrrec.errors import ConfigError
from msrrec.inference.describe import describe
from msrrec.inference.recommender import MODES, RequestMode

logger = logging.getLogger("msrrec.cli")

SECTIONS = ("inference", "prompt", "recommend", "ray")


def recommend(
    model: ModelDir,
    history: Annotated[
        list[str] | None,
        typer.Option(
            help="Title of a purchase, or with --index its item id; repeat it, oldest first."
        ),
    ] = None,
    candidate: Annotated[
        list[str] | None, typer.Option(help="Title of a candidate; repeat it, at least twice.")
    ] = None,
    index: Annotated[
        str | None,
        typer.Option(help="Folder made by `msrrec index`, whose catalogue gives the candidates."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Folder made by `msrrec prepare`: recommend for its users, into --out."),
    ] = None,
    users: Annotated[
        str | None,
        typer.Option(help="File with a user id on each line. Unset: all users of --dataset."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="Folder to write with --dataset, local or s3:// or gs://."),
    ] = None,
    domain: Annotated[
        str | None, typer.Option(help="What the prompt calls the shop. Unset: as in training.")
    ] = None,
    mode: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(MODES)}; or fast, which ranks the candidates without reasoning."
        ),
    ] = "fused",
    overrides: Overrides = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Recommend what a customer buys next, with the reasoning.

    One of given candidates: --history and --candidate. The best of a whole catalogue: --history and
    --index. For every user of a dataset, or those that a file lists: --dataset, --index and --out,
    which goes on where it ended after a stop.
    """
    given = {"index": index, "dataset": dataset, "users": users}
    run = resolve("recommend", config, overrides, dry_run, SECTIONS, model=model, **given)
    chosen = parse_mode(mode)
    if dataset or out or users:
        _check_everybody({**given, "out": out}, [*(history or ()), *(candidate or ())], chosen)
        inputs = {**given, "model": model}
        run_stage(stage.RECOMMEND, out or "", run, inputs, overwrite, mode=chosen)
    elif index and candidate:
        raise ConfigError("--candidate: does not go with --index, which finds the candidates")
    elif index:
        _recommend_from_index(model, index, history or [], domain, chosen, run)
    else:
        _recommend_one(model, history or [], candidate or [], domain, chosen, run)


def _check_everybody(
    given: Mapping[str, str | None], titles: Sequence[str], mode: RequestMode
) -> None:
    """Refuse what does not go together with a dataset.

    Raises:
        ConfigError: If an option is missing, or belongs to one customer.
    """
    missing = [f"--{name}" for name in ("dataset", "index", "out") if not given[name]]
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)}: missing; recommending for many users needs --dataset, "
            "--index and --out"
        )
    if mode == "fast":
        raise ConfigError(
            "--mode fast: is of one customer; expected direct, which ranks alike with the answer "
            "sampled, or a mode that reasons"
        )
    if titles:
        raise ConfigError(
            "--history and --candidate: are of one customer; leave them out, as the users of "
            "--dataset have their own purchases and the index finds the candidates"
        )


def _recommend_one(
    model: str,
    history: Sequence[str],
    candidates: Sequence[str],
    domain: str | None,
    mode: RequestMode,
    run: RunConfig,
) -> None:
    from msrrec.inference.recommender import Recommender
    from msrrec.reasoning.encoding import Query, check_query

    check_query(Query("", domain or "", tuple(history), tuple(candidates)))
    recommender = Recommender.from_pretrained(model, run.inference, run.prompt)
    result = recommender.recommend(history, candidates, domain=domain, mode=mode)
    if result.index is None:
        logger.warning("recommend: no output names exactly one of the candidates")
    emit(describe(candidates, result))


def _recommend_from_index(
    model: str,
    index: str,
    history: Sequence[str],
    domain: str | None,
    mode: RequestMode,
    run: RunConfig,
) -> None:
    from msrrec.recommendations.catalogue import CatalogueRecommender

    recommender = CatalogueRecommender.from_pretrained(
        model, expand(index), run.inference, run.recommend, run.prompt
    )
    found = recommender.recommend(history, domain=domain, mode=mode)
    emit(found.describe())
