"""Which weights a name stands for: embedded, packaged, of a file, a folder, a hub, or trained."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict, cast

from pydantic import ValidationError

from msrrec import storage
from msrrec.config import EMBEDDED, Arm, ModelConfig, PromptConfig
from msrrec.conversion import SUFFIX, convert_gguf
from msrrec.errors import ModelError
from msrrec.hub import find_token
from msrrec.model_cache import fetch, list_model
from msrrec.packaged import PACKAGED
from msrrec.reasoning.template import TEMPLATE_DATE

EMBEDDED_DIR = Path(__file__).parent / "embedded" / "backbone" / "weights"
MODEL_CONFIG = "config.json"
"""The file that marks a folder as a trained model; training writes it last."""

_KIND = "msrrec"


@dataclass(frozen=True)
class SupervisedTokens:
    """Tokens that a model was trained to write, each as often as it was.

    Attributes:
        reasoning: Those between the markers, or of the facts in their place.
        recommendation: Those from the end marker on.
    """

    reasoning: int
    recommendation: int


class TypicalCustomer(TypedDict):
    """Titles of what a customer might have bought, oldest first, and of what could be next."""

    history: list[str]
    candidates: list[str]


class ModelSettings(TypedDict):
    """The contents of a trained model's ``config.json``: what it was trained from, and how.

    Attributes:
        base_model: Folder or hub name.
        dataset_fingerprint: Fingerprint of the training dataset.
        supervised_tokens: The fields of ``SupervisedTokens``.
        template_date: The day that its chat template takes for today.
        model: The section of the config; ``prompt`` and ``train`` likewise.
        examples: Customers that nobody is, for those who try the model out; older models have none.
    """

    base_model: str
    revision: str | None
    domain: str
    dataset_fingerprint: str
    supervised_tokens: dict[str, int]
    template_date: str
    seed: int
    model: dict[str, object]
    prompt: dict[str, object]
    train: dict[str, object]
    examples: list[TypicalCustomer]


@dataclass(frozen=True)
class ModelSource:
    """Where a model's weights are, and how it is prompted.

    Attributes:
        name: Name of the model in results.
        path: Folder, URI or hub name of the weights (merged ones where they exist).
        adapter: Folder or URI of a PEFT adapter to put on top, or None.
        form: How it is prompted: the settings of a trained model's run, else the present ones.
        domain: The shop that it was trained on, or None.
        template_date: The day that its chat template takes for today.
        is_ours: Whether training here wrote the weights, and so has seen them whole.
        hub_token: The token with which a worker may have to download them; None for local ones.
        examples: Customers for those who try the model out.
    """

    name: str
    path: str
    adapter: str | None
    form: PromptConfig = field(default_factory=PromptConfig)
    domain: str | None = None
    revision: str | None = None
    template_date: str = TEMPLATE_DATE
    is_ours: bool = False
    hub_token: str | None = field(default=None, repr=False, compare=False)
    examples: tuple[TypicalCustomer, ...] = field(default=(), repr=False, compare=False)


def fetch_source(source: ModelSource, *, weights: bool = True) -> ModelSource:
    """The same model with folders on this machine in place of URIs; what loads it calls this.

    Args:
        source: The model.
        weights: Whether the weights are needed, or settings and tokenizer alone.
    """
    adapter = source.adapter and fetch(source.adapter)
    return replace(source, path=fetch(source.path, weights=weights), adapter=adapter)


def locate_base(model: ModelConfig, form: PromptConfig | None = None) -> ModelSource:
    """The weights that the ``model`` section of the settings names.

    Args:
        model: The section.
        form: The section ``prompt``; None for its defaults.

    Raises:
        ModelError: If it names a folder without a model, a package that is not installed, or a GGUF
            file that can't be converted.
    """
    name = model.name_or_path
    folder = local_folder(name)
    if storage.is_uri(name):
        list_model(name)
    if folder is not None and not (folder / "config.json").is_file():
        what = "holds no config.json" if folder.exists() else "no such folder"
        raise ModelError(
            f"{folder}: {what}; expected a Hugging Face model folder, a hub name, a {SUFFIX} file, "
            f"or one of {', '.join((EMBEDDED, *PACKAGED))}"
        )
    path, token = (name, find_token()) if folder is None else (str(folder), None)
    form, revision = form or PromptConfig(), model.revision
    return ModelSource(name, path, None, form, revision=revision, hub_token=token)


def local_folder(name: str) -> Path | None:
    """The folder that a name stands for on this machine; None for a URI, or if it may be a hub's.

    A GGUF file stands for the folder that it is converted into, here and now if it has not been.

    Args:
        name: ``embedded``, a packaged model, a GGUF file, a folder or a hub name.

    Raises:
        ModelError: If a package is not installed, or a GGUF file can't be converted.
    """
    if name == EMBEDDED:
        return EMBEDDED_DIR
    is_packaged = name in PACKAGED
    if storage.is_uri(name):
        return None
    path = PACKAGED[name].find(name) if is_packaged else Path(name).expanduser()
    if path.suffix == SUFFIX:
        return convert_gguf(path)
    is_local = is_packaged or name.startswith((".", "/", "~")) or path.is_dir()
    return path if is_local else None


def locate_model(
    model_dir: str,
    model: ModelConfig | None = None,
    form: PromptConfig | None = None,
    *,
    merged: bool = True,
) -> ModelSource:
    """The weights of a trained model's folder, or else of a base model.

    Args:
        model_dir: Folder, local or a URI, or hub name.
        model: The section ``model`` of the settings, for a base model.
        form: The section ``prompt``, for a base model; a trained one has its own.
        merged: Whether to take merged weights where there are any, or base and adapter apart.

    Raises:
        ModelError: If the folder holds neither.
    """
    folder = model_dir if storage.is_uri(model_dir) else str(Path(model_dir))
    settings = read_settings(folder)
    if settings is None:
        named = (model or ModelConfig()).model_copy(update={"name_or_path": model_dir})
        return locate_base(named, form)
    name = storage.base_name(folder)
    whole, adapter = (storage.join(folder, part) for part in ("merged", "adapter"))
    own, domain = read_form(settings, folder), settings["domain"]
    day, examples = settings.get("template_date", TEMPLATE_DATE), settings.get("examples", ())
    if merged and storage.is_file(storage.join(whole, "config.json")):
        return ModelSource(
            name,
            whole,
            None,
            own,
            domain,
            template_date=day,
            is_ours=True,
            examples=tuple(examples),
        )
    if storage.is_file(storage.join(adapter, "adapter_config.json")):
        base_path = settings["base_model"]
        base = locate_base(ModelConfig(name_or_path=base_path, revision=settings["revision"]))
        place = (name, base.path, adapter)
        return ModelSource(
            *(*place, own, domain, base.revision, day),
            hub_token=base.hub_token,
            examples=tuple(examples),
        )
    lacks = "neither merged/ nor adapter/" if merged else "no adapter/"
    raise ModelError(f"{folder}: holds {lacks}; expected a finished training run")


def read_arm(settings: Mapping[str, Any]) -> Arm:
    """The arm that a trained model belongs to.

    Older settings say only whether it was trained on reasoning.
    """
    train = settings.get("train", {})
    arm: Arm = train.get("arm", "chain" if train.get("reasoning", True) else "none")
    return arm


def read_form(settings: Mapping[str, Any], folder: str) -> PromptConfig:
    """The prompt's form that a trained model's settings record.

    A model without the section ``prompt`` has the form of its ``answer_format`` alone.

    Raises:
        ModelError: If the recorded form is none.
    """
    older = {"answer_format": settings["answer_format"]} if "answer_format" in settings else {}
    recorded = settings.get("prompt", older)
    try:
        return PromptConfig.model_validate(recorded)
    except ValidationError as error:
        first = error.errors()[0]
        where = storage.join(folder, MODEL_CONFIG)
        raise ModelError(
            f"{where}: prompt.{'.'.join(map(str, first['loc']))}: {first['msg']} "
            f"(found {first['input']!r}); expected the file that `msrrec train` wrote"
        ) from error


def write_settings(folder: str, settings: ModelSettings) -> None:
    """Write ``config.json``, which marks a folder as a trained model.

    Args:
        folder: The model's folder.
        settings: What it was trained from, and how.
    """
    storage.write_json(storage.join(folder, MODEL_CONFIG), {"kind": _KIND, **settings})


def read_settings(folder: str) -> ModelSettings | None:
    """The settings of a trained model; None if the folder is not a trained model."""
    path = storage.join(folder, MODEL_CONFIG)
    if not storage.is_file(path):
        return None
    try:
        settings = json.loads(storage.read_bytes(path))
    except ValueError as error:
        raise ModelError(f"{path}: not a JSON file ({error})") from error
    is_ours = isinstance(settings, dict) and settings.get("kind") == _KIND
    return cast(ModelSettings, settings) if is_ours else None
