"""Arguments that several commands of the command line share, and checks of them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from msrrec import storage
from msrrec.baselines import BASELINES
from msrrec.config import EMBEDDED, did_you_mean
from msrrec.data.sources import SOURCES
from msrrec.errors import ConfigError
from msrrec.inference.recommender import MODES, Mode, RequestMode

ConfigFile = Annotated[
    str | None,
    typer.Option("--config", help="A preset's name, such as demo, or a YAML file of settings."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Settings; they override the file's."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the settings and stop.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Run a finished stage again.")]
DatasetDir = Annotated[str, typer.Option("--dataset", help="Folder made by `msrrec prepare`.")]
EvaluationDir = Annotated[
    str, typer.Argument(metavar="DIR", help="Folder made by `msrrec evaluate`.")
]
OutDir = Annotated[str, typer.Option("--out", help="Folder to write, local or s3:// or gs://.")]
Source = Annotated[
    str,
    typer.Option(
        metavar=f"[{'|'.join(SOURCES)}]",
        help="Format of the files; demo is the embedded world and needs no files.",
    ),
]
Interactions = Annotated[
    str | None, typer.Option(help="Purchases, reviews or ratings: a file, folder or glob.")
]
Items = Annotated[str | None, typer.Option(help="Items with titles: a file, folder or glob.")]
ModelDir = Annotated[
    str,
    typer.Option(
        "--model",
        help="Folder made by `msrrec train`, a base model, or `embedded`; for evaluate "
        "alone also the name of a baseline, such as `popularity`.",
    ),
]
AdapterDirs = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="[DOMAIN=]DIR",
        help="Folder made by `msrrec train` on the same base: answers requests of this domain, by "
        "default that of its training; repeat it for several.",
    ),
]
Variants = Annotated[
    list[str] | None,
    typer.Option("--variant", help=f"{', '.join(MODES)}; repeat it for several."),
]


def check_baseline_name(model: str) -> None:
    """Refuse a name that is neither a folder nor a hub's and almost that of a baseline.

    Raises:
        ConfigError: If the name is so.
    """
    is_known = model in (*BASELINES, EMBEDDED) or "/" in model or Path(model).exists()
    near = "" if is_known else did_you_mean(model, BASELINES)
    if near:
        raise ConfigError(f"--model {model}: no such folder and no such baseline{near}")


def parse_variants(names: Sequence[str]) -> tuple[Any, ...]:
    """The variants that the names stand for, in the order given; a name may hold commas."""
    variants = tuple(part.strip() for name in names for part in name.split(","))
    for name in variants:
        if name not in MODES:
            near = did_you_mean(name, MODES)
            known = ", ".join(MODES)
            raise ConfigError(f"variant {name!r}: is unknown; expected one of {known}{near}")
    return variants


def parse_mode(name: str) -> RequestMode:
    """The mode of a recommendation that a name stands for.

    Raises:
        ConfigError: If it is none.
    """
    if name == "fast":
        return "fast"
    chosen: Mode = parse_variants([name])[0]
    return chosen


def expand(path: str) -> str:
    """A path with ``~`` expanded, which a shell leaves to us in ``--out=~/runs``."""
    return path if storage.is_uri(path) else os.path.expanduser(path)
