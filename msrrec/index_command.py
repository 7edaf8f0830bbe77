"""The command ``index``, which the command line adds to its own."""

from typing import Annotated

import typer

from msrrec import stage
from msrrec.arguments import ConfigFile, DatasetDir, DryRun, OutDir, Overrides, Overwrite
from msrrec.command import resolve, run_stage

SECTIONS = ("retrieval", "data", "ray")


def index(
    dataset: DatasetDir,
    out: OutDir,
    items: Annotated[
        str | None,
        typer.Option(
            help="Further items to offer, such as new ones: a file, folder or glob with item_id "
            "and title, and categories and brand if there are any; data.item_columns names other "
            "columns. An item of the dataset gets the text that stands here."
        ),
    ] = None,
    sasrec: Annotated[
        str | None,
        typer.Option(help="Folder made by `msrrec evaluate --model sasrec` on the same dataset."),
    ] = None,
    overrides: Overrides = None,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Build the index that finds candidates in a whole catalogue, for recommend and serve.

    Items are found by what users bought next, what the same users bought, words of titles,
    popularity and, where there are models, meaning (retrieval.embedding_model) and SASRec
    (--sasrec). Their rankings are joined by reciprocal rank; validation chooses the weights. For an
    honest evaluation only training purchases are learned from; a shop sets retrieval.purchases=all,
    and retrieval.repeats=true if its customers buy the same thing again.
    """
    inputs = {"dataset": dataset, "extra_items": items, "sasrec": sasrec}
    shown = {"dataset": dataset, "items": items, "sasrec": sasrec, "out": out}
    run = resolve("index", config, overrides, dry_run, SECTIONS, **shown)
    run_stage(stage.INDEX, out, run, inputs, overwrite)
