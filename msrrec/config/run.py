"""All sections of settings together, and how a run's settings are resolved.

Later sources win: the defaults, then the YAML file, then ``section.key=value`` overrides.
"""

import contextlib
import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from msrrec.config.base import Config
from msrrec.config.baselines import BaselinesConfig, LlaraConfig, TallrecConfig
from msrrec.config.data import DataConfig
from msrrec.config.evaluate import EvaluateConfig
from msrrec.config.inference import InferenceConfig
from msrrec.config.judge import JudgeConfig
from msrrec.config.model import ModelConfig
from msrrec.config.prompt import PromptConfig
from msrrec.config.ray import RayConfig
from msrrec.config.recommend import RecommendConfig
from msrrec.config.retrieval import RetrievalConfig
from msrrec.config.serve import ServeConfig
from msrrec.config.study import StudyConfig
from msrrec.config.sweep import SweepConfig
from msrrec.config.synthesis import SynthesisConfig
from msrrec.config.teacher import TeacherConfig
from msrrec.config.tracking import TrackingConfig
from msrrec.config.train import TrainConfig
from msrrec.errors import ConfigError, first_line

PRESETS = Path(__file__).parents[2] / "jobs" / "configs"
"""Folder of the presets, YAML files that ship beside the package."""


MOVED = {
    "model.answer_format": "prompt.answer_format",
    "tallrec.candidates_first": "prompt.order",
    "llara.candidates_first": "prompt.order",
    "train.reasoning": "train.arm=chain for true, train.arm=none for false",
}
"""Settings of earlier versions, and what stands for each of them."""


class RunConfig(Config):
    """All settings, by section."""

    data: DataConfig = DataConfig()
    teacher: TeacherConfig = TeacherConfig()
    synthesis: SynthesisConfig = SynthesisConfig()
    model: ModelConfig = ModelConfig()
    prompt: PromptConfig = PromptConfig()
    train: TrainConfig = TrainConfig()
    sweep: SweepConfig = SweepConfig()
    study: StudyConfig = StudyConfig()
    inference: InferenceConfig = InferenceConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    baselines: BaselinesConfig = BaselinesConfig()
    recommend: RecommendConfig = RecommendConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    tallrec: TallrecConfig = TallrecConfig()
    llara: LlaraConfig = LlaraConfig()
    judge: JudgeConfig = JudgeConfig()
    tracking: TrackingConfig = TrackingConfig()
    serve: ServeConfig = ServeConfig()
    ray: RayConfig = RayConfig()


def load_config(
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    base: Mapping[str, Config] | None = None,
) -> RunConfig:
    """The defaults, changed by a YAML file and then by ``section.key=value`` overrides.

    Args:
        config: A YAML file, or the name of a preset such as ``demo``.
        overrides: Settings such as ``data.k_core=5``; nested settings have more dots, such as
            ``train.lora.rank=16``.
        base: Sections that take the place of the defaults, by name; without a file.

    Raises:
        ConfigError: If the file does not exist or is not a YAML mapping, or a setting is not
            allowed.
    """
    path = find_config(config) if config is not None else None
    settings: dict[str, Any] = _read_yaml(path) if path is not None else {}
    for name, section in (base or {}).items():
        settings[name] = section.model_dump(mode="json")
    for override in overrides:
        _apply(settings, override)
    try:
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        where = f"{path}: " if path is not None else ""
        raise ConfigError(where + _explain(error)) from error


def find_config(config: str | Path) -> Path:
    """The YAML file for a path or a preset's name.

    Raises:
        ConfigError: If it is neither.
    """
    path = Path(config).expanduser()
    if path.is_file():
        return path
    preset = PRESETS / f"{config}.yaml"
    if preset.is_file():
        return preset
    presets = sorted(file.stem for file in PRESETS.glob("*.yaml"))
    raise ConfigError(
        f"--config {config}: no such file and no such preset; expected a YAML file or one of "
        f"{', '.join(presets)}{did_you_mean(str(config), presets)}"
    )


def changed_settings(config: RunConfig, base: RunConfig, sections: Iterable[str]) -> list[str]:
    """The settings that differ from those of another config, as ``section.key=value``."""
    return [
        f"{name}={json.dumps(value, ensure_ascii=False)}"
        for section in sections
        for name, value in _differing(section, getattr(config, section), getattr(base, section))
    ]


def _differing(name: str, config: Config, base: Config) -> Iterator[tuple[str, Any]]:
    values = config.model_dump(mode="json")
    for key in values:
        here, there = getattr(config, key), getattr(base, key)
        if isinstance(here, Config):
            yield from _differing(f"{name}.{key}", here, there)
        elif here != there:
            yield f"{name}.{key}", values[key]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A suffix for error messages that suggests the nearest known word; empty if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _explain(error: ValidationError) -> str:
    """A sentence about the first invalid setting and what was expected."""
    first = error.errors()[0]
    places = [str(part) for part in first["loc"]]
    key = ".".join(places) or "config"
    if first["type"] != "extra_forbidden":
        message = first["msg"].removeprefix("Value error, ")
        return (
            f"{key}: {message} (found {first['input']!r}); "
            "see `msrrec <command> --help` for the settings"
        )
    config: Config = RunConfig()
    for part in places[:-1]:
        found = getattr(config, part, None)
        config = found if isinstance(found, Config) else config
    if key in MOVED:
        return f"{key}: has moved; expected {MOVED[key]}"
    known = list(type(config).model_fields)
    what = "setting" if len(places) > 1 else "section"
    near = did_you_mean(places[-1], known) or f"; expected one of {', '.join(known)}"
    return f"{key}: there is no such {what}{near}"


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a readable YAML file ({first_line(error)})") from error
    if settings is not None and not isinstance(settings, dict):
        found = type(settings).__name__
        raise ConfigError(f"{path}: found a {found}; expected sections of settings")
    return {name: section for name, section in (settings or {}).items() if section is not None}


def _apply(settings: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or len(parts) < 2 or not all(parts):
        raise ConfigError(f"{override!r}: expected section.key=value, such as data.k_core=5")
    value = text if _is_plain_text(parts, text) else _parse_value(override, text)
    section = settings
    for n, part in enumerate(parts[:-1], 1):
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise ConfigError(f"{override!r}: {'.'.join(parts[:n])!r} is not a section")
    section[parts[-1]] = value


def _is_plain_text(parts: Sequence[str], text: str) -> bool:
    """Whether a value is taken as it is: a setting of text, neither null nor in quotes.

    YAML would read a column called ``No`` as false and a separator ``#`` as nothing.
    """
    config: Config = RunConfig()
    for part in parts[:-1]:
        found = getattr(config, part, None)
        if not isinstance(found, Config):
            return False
        config = found
    field = type(config).model_fields.get(parts[-1])
    is_text = field is not None and field.annotation in (str, str | None)
    return is_text and text != "null" and text[:1] not in ("'", '"')


def _parse_value(override: str, text: str) -> Any:
    """A value as JSON, which the command lines that are printed hold, or else as YAML."""
    with contextlib.suppress(ValueError):
        return json.loads(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{override!r}: the value is not YAML ({first_line(error)})") from error
